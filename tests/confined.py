# SPDX-License-Identifier: MIT
"""A program of ours in QEMU's place, at QEMU's own path and confined as QEMU is (tests/fake/probe.c): what it says of what it could
do, and what is seen of it from outside."""
import subprocess
import threading
import time

from conftest import BUILD

PROGRAM = BUILD + "/tests/fake/pyro-probe-vmm"
QEMU = "/usr/bin/qemu-system-x86_64"
USER = 61007
DISK_MIB = 64

# System calls, and what they shall meet.
CALLS = {
    "socket unix": "got", "socketpair unix": "got", "thread": "got", "kill itself": "got",
    "socket inet": "EAFNOSUPPORT", "socket inet6": "EAFNOSUPPORT", "socket netlink": "EAFNOSUPPORT", "socket vsock": "EAFNOSUPPORT",
    "socket alg": "EAFNOSUPPORT", "socketpair tipc": "EAFNOSUPPORT",
    "userfaultfd": "EPERM", "bpf": "EPERM", "perf_event_open": "EPERM", "io_uring_setup": "ENOSYS", "memfd_secret": "EPERM",
    "keyctl": "EPERM", "add_key": "EPERM", "request_key": "EPERM",
    "unshare": "EPERM", "setns": "EPERM", "mount": "EPERM", "name_to_handle_at": "EPERM", "clone user namespace": "EPERM",
    "clone3": "ENOSYS", "fork": "EPERM", "ptrace": "EPERM", "process_vm_readv": "EPERM", "personality": "EPERM",
    "kill all": "EPERM", "prlimit of another": "EPERM", "signals to another": "EPERM", "mode of the disk": "EPERM",
}
OPENED = {"/usr/share/qemu/qboot.rom", "/dev/null"}
HIDDEN = {"/etc/passwd", "/etc/hostname", "/usr/bin/python3", "/usr/bin/env", "/usr/lib/os-release", "/usr/share/doc"}


def run_here(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class Probe:
    """One machine's. start() starts it and returns only when its VMM has ended, find_pid() tells that VMM's pid as seen where run
    runs commands."""

    def __init__(self, disk, start, find_pid, run=run_here, seconds=60):
        self.disk, self.run, self.answer = disk, run, None
        self.starter = threading.Thread(target=lambda: setattr(self, "answer", start()))
        self.starter.start()
        end = time.monotonic() + seconds
        while not self.read():
            assert time.monotonic() < end and self.starter.is_alive(), (self.answer, self.said)
            time.sleep(0.02)
        self.pid = find_pid()

    def read(self):
        with open(self.disk, "rb") as f:
            text = f.read(32768).split(b"\0")[0].decode(errors="replace")
        self.said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return text.endswith("\nend\n")

    def status(self, field):
        text = self.run("cat", "/proc/%d/status" % self.pid)
        return next(line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith(field + ":"))

    def end(self):
        """Sooner than pyrod, which waits ten seconds for a word of QEMU's."""
        self.run("kill", "-KILL", str(self.pid))
        self.starter.join()

    def check(self):
        """What is the same in every mode."""
        assert {name: self.said[name] for name in CALLS} == CALLS
        opened = {name[len("open "):]: result for name, result in self.said.items() if name.startswith("open ")}
        assert {path: opened[path] for path in OPENED} == dict.fromkeys(OPENED, "got")
        assert {opened[path] for path in HIDDEN} <= {"ENOENT", "EACCES"}, opened
        assert int(self.said["disk"]) == DISK_MIB << 20 == int(self.said["rlimit fsize"])
        assert [self.said[name] for name in ("write the last byte", "write beyond the disk", "lengthen the disk")] == ["got", "EFBIG", "EFBIG"]
        assert self.status("Seccomp") == ["2"] and self.status("NoNewPrivs") == ["1"]


def put_in_place(daemon, user=None):
    """The VMM of a FakeDaemon becomes the probe, in place of QEMU; the daemon a plain user's own."""
    subprocess.run(["mount", "--bind", PROGRAM, QEMU], check=True)
    daemon.vmm = QEMU
    with open(daemon.conf, "a") as f:
        f.write("qemu = %s\n" % QEMU)
    if user is None:
        return
    daemon.mode = "--user"
    daemon.prefix = ["setpriv", "--reuid=%d" % user, "--regid=%d" % user, "--clear-groups", "--inh-caps=-all", "--"]
    subprocess.run(["chown", "-R", "%d:%d" % (user, user), daemon.root], check=True)


def remove():
    subprocess.run(["umount", QEMU], check=True)


def probe(daemon):
    """Of a FakeDaemon's machine."""
    vm = daemon.call("vm.create", dict(daemon.spec(), mem_mib=300))["result"]["vm_id"]
    return Probe("%s/machines/%s/disk.ext4" % (daemon.state, vm), lambda: daemon.call("vm.start", {"vm_id": vm}, timeout=60),
                 lambda: daemon.vmm_pids()[0])
