#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The floor under pyro's speed: what bare QEMU and the kernel do on this host, now, with a guest (floor-init.c) that does only
what is measured. Needs QEMU and a release build of this tree; the kernel is the one that pyro uses, of Debian 12 or 13.

    tests/bench/floor.py kernel DIR            makes DIR/vmlinux and DIR/initrd, unless they exist and are up to date
    tests/bench/floor.py measure DIR IMAGE [N] one JSON object: medians over N machines, in milliseconds

`ready` is from exec of QEMU to the guest's first byte, `hot_command` one `bash -c true` in a root of overlayfs over IMAGE (an
environment's image.ext4), after the first. The benches measure the same, interleaved with pyro (Floor)."""
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("PYRO_TEST_BUILD", TOP + "/build-release")
CACHE = os.environ.get("PYRO_TEST_CACHE", TOP + "/.cache")
INIT = BUILD + "/tests/bench/floor-init"
IMPORT = BUILD + "/stage/usr/local/libexec/pyro/pyro-import"
# A device of the agent, which seeds the guest's random numbers; the floor does not need it.
NOT_NEEDED = {"virtio-rng.ko", "rng-core.ko"}
ARGUMENTS = ("console=ttyS0 quiet loglevel=1 reboot=t panic=-1 tsc=reliable no_timer_check init_on_alloc=0 audit=0 apparmor=0 "
             "cryptomgr.notests rcupdate.rcu_expedited=1 tsc_early_khz=%d")
FIRMWARE = "qboot.rom"  # the machine's default is a link to it on Debian 12 only, and Debian 13's loads no kernel
BOARD = "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,memory-backend=ram"
MEMORY_MIB, OWN_DISK = 1024, "4G"
DEADLINE = 120  # seconds for any step of the floor's machine


# The kernel and its initramfs

def imported_kernel(work):
    """The folder of a kernel that pyro-import has unpacked, with its modules: the tests' own, or one that is downloaded now."""
    try:
        with open(CACHE + "/kernels/current.json") as f:
            kept = CACHE + "/kernels/" + json.load(f)["hash"]
        if os.path.exists(kept + "/vmlinux"):
            return kept
    except FileNotFoundError:
        pass
    os.mkdir(work + "/kernel")
    done = subprocess.run([IMPORT, "kernel", "--output", work + "/kernel"], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("pyro-import kernel: " + done.stdout)
    (found,) = [os.path.dirname(path) for path in glob.glob(work + "/kernel/**/vmlinux", recursive=True)]
    return found


def initramfs(kernel, target):
    with tempfile.TemporaryDirectory(prefix="pyro-floor-") as tree:
        os.mkdir(tree + "/modules")
        shutil.copy(INIT, tree + "/init")
        with open(kernel + "/boot/order") as f:
            order = [name for name in f.read().split() if name not in NOT_NEEDED]
        for name in order:
            shutil.copy(kernel + "/boot/" + name, tree + "/modules/")
        with open(tree + "/modules/order", "w") as f:
            f.writelines(name + "\n" for name in order)
        names = subprocess.run(["find", "."], cwd=tree, check=True, capture_output=True).stdout
        packed = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=names, check=True, capture_output=True).stdout
        with open(target, "wb") as f:
            subprocess.run(["gzip", "-1"], input=packed, stdout=f, check=True)


def kernel(folder):
    """Makes the initramfs again if the guest's program has changed."""
    with open(INIT, "rb") as f:
        made_of = hashlib.sha256(f.read()).hexdigest()
    mark = folder + "/made-of"
    if os.path.exists(mark) and open(mark).read() == made_of:
        return folder
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pyro-floor-") as work:
        found = imported_kernel(work)
        for name, make in (("vmlinux", lambda to: shutil.copy(found + "/vmlinux", to)), ("initrd", lambda to: initramfs(found, to))):
            make(folder + "/." + name)
            os.replace("%s/.%s" % (folder, name), "%s/%s" % (folder, name))
    with open(mark, "w") as f:
        f.write(made_of)
    return folder


# Machines

def tsc_khz():
    with open("/proc/cpuinfo") as f:
        return int(float(re.search(r"cpu MHz\s*:\s*([\d.]+)", f.read()).group(1)) * 1000)


class Machine:
    """A booting machine: ready is the time to the guest's first byte; close() ends it."""

    def __init__(self, folder, work, image, own):
        self.work = work
        self.port, theirs = socket.socketpair()
        self.port.settimeout(DEADLINE)
        disks = []
        for serial, path, flag in (("pyro-env", image, "on"), ("pyro-own", own, "off")):
            disks += ["-blockdev", "driver=raw,node-name=%s,read-only=%s,file.driver=file,file.locking=off,file.filename=%s" % (serial, flag, path),
                      "-device", "virtio-blk-device,drive=%s,serial=%s" % (serial, serial)]
        words = ["qemu-system-x86_64", "-M", BOARD, "-bios", FIRMWARE, "-accel", "tcg,tb-size=64", "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MIB),
                 "-object", "memory-backend-file,id=ram,share=on,size=%dM,mem-path=%s/ram" % (MEMORY_MIB, work),
                 "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", folder + "/vmlinux", "-initrd", folder + "/initrd",
                 "-append", ARGUMENTS % tsc_khz(), "-serial", "file:" + work + "/console",
                 "-chardev", "socket,id=port,fd=%d" % theirs.fileno(),
                 "-device", "virtio-serial-device", "-device", "virtserialport,chardev=port,name=org.pyro.agent", *disks]
        begin = time.monotonic()
        self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        theirs.close()
        try:
            self.answer(b"r")
            self.ready = (time.monotonic() - begin) * 1e3
            self.port.sendall(b"s")
            self.answer(b"k")
        except BaseException:
            self.close()
            with open(work + "/console", errors="replace") as f:
                sys.stderr.write(f.read()[-2000:])
            raise

    def answer(self, want):
        got = self.port.recv(1)
        if got != want:
            raise RuntimeError("the floor's guest sent %r, not %r" % (got, want))

    def command(self):
        """Milliseconds of `bash -c true` in it, by the guest's clock."""
        self.port.sendall(b"c")
        line = b""
        while not line.endswith(b"\n"):
            more = self.port.recv(64)
            if not more:
                raise RuntimeError("the floor's guest has ended")
            line += more
        took = float(line)
        if took < 0:
            raise RuntimeError("bash failed in the floor's guest")
        return took

    def close(self):
        self.process.kill()
        self.process.wait()
        self.port.close()
        for name in ("ram", "own"):
            os.unlink("%s/%s" % (self.work, name))


class Floor:
    """Makes machines of the floor from one kernel and one image: boot()."""

    def __init__(self, folder, image):
        self.folder, self.image = kernel(folder), image
        self.work = tempfile.mkdtemp(prefix="pyro-floor-")
        self.own = self.work + "/own"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", self.own, OWN_DISK], check=True, stdout=subprocess.DEVNULL)

    def boot(self):
        """Each machine has its memory's file, console and disk to itself: several may run."""
        work = tempfile.mkdtemp(dir=self.work)
        subprocess.run(["cp", "--sparse=always", self.own, work + "/own"], check=True)
        return Machine(self.folder, work, self.image, work + "/own")

    def cold(self):
        """Milliseconds until a guest is ready, and of one hot command in it."""
        machine = self.boot()
        try:
            machine.command()
            return machine.ready, statistics.median(machine.command() for _ in range(3))
        finally:
            machine.close()

    def close(self):
        shutil.rmtree(self.work)


def measure(folder, image, n):
    floor = Floor(folder, image)
    try:
        readies, hots = zip(*(floor.cold() for _ in range(n)))
    finally:
        floor.close()
    print(json.dumps({"ready": round(statistics.median(readies), 3), "hot_command": round(statistics.median(hots), 3), "n": n}))


if __name__ == "__main__":
    verb, *rest = sys.argv[1:] or [""]
    if verb == "kernel" and len(rest) == 1:
        kernel(rest[0])
    elif verb == "measure" and len(rest) in (2, 3):
        measure(rest[0], rest[1], int(rest[2]) if rest[2:] else 5)
    else:
        sys.exit(__doc__)
