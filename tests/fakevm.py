# SPDX-License-Identifier: MIT
"""A daemon whose machines have the fake VMM (tests/fake/fake.h) in place of QEMU, with an environment and a kernel that are only
files of the right form: a machine starts in tens of milliseconds, and the words of its command decide what its guest does;
before there is a command, its memory size does (MANNERS)."""
import hashlib
import json
import os
import shutil
import socket
import struct
import time

from conftest import BUILD, Daemon

ENV = "debian:12"
LINE = 16
MANNERS = {name: 200 + i for i, name in enumerate(("good", "deaf", "mute", "refuses", "noise", "qmp-silent", "qmp-noise", "console", "old", "full", "qmp-late"))}


def lines(n):
    """The output of `print N`."""
    return b"".join(b"%015d\n" % i for i in range(-(-n // LINE)))[:n]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def fake_environment(cache, name=ENV):
    image = name.encode().ljust(4096, b"\0")
    digest = sha256(image)
    place = "%s/sha256-%s" % (cache, digest)
    os.makedirs(place)
    with open(place + "/image.ext4", "wb") as f:
        f.write(image)
    with open(place + "/meta.json", "w") as f:
        json.dump({"digest": "sha256:" + digest, "size_bytes": 4096, "source": "tests", "version": "1.1.0", "pulled_at": "2026-01-01T00:00:00Z"}, f)
    with open("%s/%s.json" % (cache, name), "w") as f:
        json.dump({"digest": "sha256:" + digest}, f)


def initrd_name(agent):
    """The name that daemon/image/kernel.c gives the initramfs of an agent."""
    st, mask = os.stat(agent), (1 << 64) - 1
    values = (1, st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns // 10**9, st.st_mtime_ns % 10**9,
              (st.st_ctime_ns // 10**9) ^ (st.st_ctime_ns % 10**9) << 32 & mask)
    h = 0xcbf29ce484222325
    for byte in struct.pack("<7Q", *(v & mask for v in values)):
        h = (h ^ byte) * 0x100000001b3 & mask
    return "initrd-%016x" % h


def fake_kernel(state, agent):
    """Writes each file with its digest where daemon/image/integrity.c reads it; the one that must be the newest is written last."""
    files = {"vmlinux": b"a kernel", "modules.ext4": b"its modules", "boot/order": b"one.ko\n", "boot/one.ko": b"a module"}
    name, initrd = sha256(files["vmlinux"])[:16], initrd_name(agent)
    place = "%s/kernels/%s" % (state, name)
    os.makedirs(place + "/boot")
    for file, data in {**files, initrd: b"an initramfs"}.items():
        with open(place + "/" + file, "wb") as f:
            f.write(data)
    with open(place + "/meta.json", "w") as f:
        json.dump({"format": 2, "hash": name, "modules": True, "files": {n: "sha256:" + sha256(d) for n, d in files.items()}}, f)
    with open(place + "/initrd.json", "w") as f:
        json.dump({"name": initrd, "digest": "sha256:" + sha256(b"an initramfs")}, f)
    with open(state + "/kernels/current.json", "w") as f:
        json.dump({"hash": name, "version": "0", "key": ""}, f)


class FakeDaemon(Daemon):
    def __init__(self, root, build=BUILD, env=None, conf=(), **kw):
        os.chmod(root, 0o755)
        super().__init__(root, build=build, env=env, **kw)
        os.makedirs(root + "/cache")
        fake_environment(root + "/cache")
        fake_kernel(self.state, self.env["PYRO_AGENT"])
        self.env["PYRO_ENVIRONMENT_CACHE_DIR"] = root + "/cache"
        os.makedirs(root + "/vmm", 0o755)
        # The same program for each build of the daemon: it runs confined, as another user.
        self.vmm = root + "/vmm/pyro-fake-vmm"
        shutil.copy(BUILD + "/tests/fake/pyro-fake-vmm", self.vmm)
        os.chmod(self.vmm, 0o755)
        self.conf = root + "/pyrod.conf"
        with open(self.conf, "w") as f:
            f.write("[pyrod]\nqemu = %s\naccelerator = emulation\nmax_machines = 1000\nmax_vcpus = 1000\nmax_memory_mib = 1000000\ntotal_memory_mib = 1000000\n"
                    "memory_reserve_mib = 0\ndisk_reserve_mib = 0\n%s\n" % (self.vmm, "\n".join(conf)))
        self.observer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.observer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.observer.bind(root + "/vmm/observer.sock")
        os.chmod(root + "/vmm/observer.sock", 0o777)

    def start(self, *args, **kw):
        return super().start("--config", self.conf, *args, **kw)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def run_flags(self, manner="good"):
        return ("-m", "%dM" % MANNERS[manner], "--disk-mib", "64")

    def spec(self, manner="good", **more):
        return dict({"environment": ENV, "mem_mib": MANNERS[manner], "disk_mib": 64}, **more)

    def reported(self, want, seconds=30):
        """The next line of the fake VMMs that starts with want."""
        end = time.monotonic() + seconds
        while True:
            self.observer.settimeout(max(0.001, end - time.monotonic()))
            text = self.observer.recv(512).decode(errors="replace")
            if text.startswith(want):
                return text

    def told_so_far(self):
        """Everything that the fake VMMs have said and nobody has read."""
        found = []
        try:
            while True:
                found.append(self.observer.recv(512, socket.MSG_DONTWAIT).decode(errors="replace"))
        except BlockingIOError:
            return found

    def vmm_pids(self):
        """Every fake VMM of this daemon and of those before it, whatever process is their parent."""
        if not self.vmm.startswith(self.root + "/"):  # at QEMU's own path (confined.py), which other daemons use too
            return super().vmm_pids()
        found = []
        for name in os.listdir("/proc"):
            try:
                words = open("/proc/%s/cmdline" % name, "rb").read().split(b"\0") if name.isdigit() else [b""]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words[0] == self.vmm.encode() and (b"-uuid" in words or b"--fake-id" in words):
                found.append(int(name))
        return found

    def processes(self):
        children = super().processes()
        known = {pid for pid, _ in children}
        return children + [(pid, "fake VMM, not a child") for pid in self.vmm_pids() if pid not in known]

    def close(self):
        super().close()
        self.observer.close()
