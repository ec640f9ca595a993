# SPDX-License-Identifier: MIT
"""The agent in a machine of the test, without a daemon: any image, and the same disk of the machine started again. Tested with
the wire protocol of tests/t/wire.py."""
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

from conftest import BUILD, CACHE, TOP, stage

sys.path.insert(0, TOP + "/tests/t")
import wire  # noqa: E402

IMPORT = stage(BUILD) + "/libexec/pyro/pyro-import"
AGENT = stage(BUILD) + "/libexec/pyro/pyro-agent"
SIZE_MIB = 1024


def imported(*args):
    subprocess.run([IMPORT, *args], check=True, stdout=subprocess.DEVNULL)


class Guest:
    """A machine's disks and, while it runs, its agent: up(), then run(), then down()."""

    def __init__(self, image, kernel=None):
        self.work = tempfile.mkdtemp(prefix="pyro-guest-")
        self.image = image
        (self.kernel,) = [kernel] if kernel else [os.path.dirname(p) for p in glob.glob(CACHE + "/kernels/*/vmlinux")][:1]
        self.own = self.work + "/own"
        imported("disk", "--size-mib", str(SIZE_MIB), "--output", self.own)
        imported("initramfs", "--kernel", self.kernel, "--agent", AGENT, "--output", self.work + "/initrd")
        self.vmm = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.vmm and self.vmm.poll() is None:
            self.vmm.kill()
            self.vmm.wait()
        shutil.rmtree(self.work, ignore_errors=True)

    def command(self, agent_fd):
        mhz = float(re.search(r"cpu MHz\s*:\s*([\d.]+)", open("/proc/cpuinfo").read()).group(1))
        disks = [(self.image, "pyro-env", "on"), (self.own, "pyro-own", "off"), (self.kernel + "/modules.ext4", "pyro-modules", "on")]
        words = ["qemu-system-x86_64", "-M", "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on", "-accel", "tcg,tb-size=64,thread=multi", "-cpu", "max",
                 "-bios", "qboot.rom", "-m", "512M", "-smp", "1,maxcpus=2", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                 "-kernel", self.kernel + "/vmlinux", "-initrd", self.work + "/initrd",
                 "-append", "console=ttyS0 quiet loglevel=1 reboot=t panic=-1 init_on_alloc=0 audit=0 apparmor=0 cryptomgr.notests no_timer_check "
                            "possible_cpus=1 tsc=reliable tsc_early_khz=%d" % (mhz * 1000),
                 "-serial", "file:" + self.work + "/console", "-chardev", "socket,id=agent,fd=%d" % agent_fd,
                 "-device", "virtio-serial-device,max_ports=2,bus=virtio-mmio-bus.23", "-device", "virtserialport,nr=1,chardev=agent,name=org.pyro.agent"]
        for i, (path, serial, read_only) in enumerate(disks):
            words += ["-blockdev", "driver=raw,node-name=disk%d,read-only=%s,file.driver=file,file.filename=%s,file.locking=off" % (i, read_only, path),
                      "-device", "virtio-blk-device,drive=disk%d,serial=%s,bus=virtio-mmio-bus.%d" % (i, serial, 21 - i)]
        return words

    def up(self):
        """Boots it; returns the answer to SETUP."""
        ours, theirs = socket.socketpair()
        self.vmm = subprocess.Popen(self.command(theirs.fileno()), pass_fds=[theirs.fileno()])
        theirs.close()
        self.host = wire.Host(ours)
        self.channel = 0
        try:
            self.host.greet(wire.initial_sync(), seconds=120)
        except AssertionError as e:
            status = self.vmm.wait(timeout=10) if self.host.eof else None
            raise AssertionError("%s; exit status of QEMU: %s; its console: %s" % (e, status, self.console())) from e
        return self.host.set_up()

    def run(self, command, seconds=120, **kw):
        """The command's output; its exit status must be 0."""
        self.channel += 1
        kw.setdefault("cwd", "/")
        x = self.host.run(self.channel, command, seconds=seconds, **kw)
        assert x.started == (0, None), (x.started, self.console())
        assert (x.exit["code"], x.exit["signal"]) == (0, 0), (x.exit, bytes(x.got[wire.STDOUT]), bytes(x.got[wire.STDERR]))
        return bytes(x.got[wire.STDOUT]).decode()

    def down(self):
        self.host.send(wire.frame(wire.SHUTDOWN))
        self.host.pump(lambda: self.host.bye or self.host.eof, 60)
        self.vmm.wait(timeout=60)

    def console(self):
        return open(self.work + "/console", errors="replace").read()
