# SPDX-License-Identifier: MIT
"""Runs a program of the tests in QEMU's place, at QEMU's own path and confined as QEMU is (tests/fake/probe.c), and compares
what it reports that it could do, and what is visible from outside, with the documents."""
import ctypes
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tarfile
import threading
import time

from conftest import BUILD, TOP, stage

PROGRAM = BUILD + "/tests/fake/pyro-probe-vmm"
QEMU = "/usr/bin/qemu-system-x86_64"
USER = 61007
DISK_MIB = 64

# System calls, and the result that each must have.
CALLS = {
    "socket unix": "got", "socketpair unix": "got", "thread": "got", "kill itself": "got",
    "socket inet": "EAFNOSUPPORT", "socket inet6": "EAFNOSUPPORT", "socket netlink": "EAFNOSUPPORT", "socket vsock": "EAFNOSUPPORT",
    "socket alg": "EAFNOSUPPORT", "socketpair tipc": "EAFNOSUPPORT", "connect": "EPERM",
    "userfaultfd": "EPERM", "bpf": "EPERM", "perf_event_open": "EPERM", "io_uring_setup": "ENOSYS", "memfd_secret": "EPERM",
    "keyctl": "EPERM", "add_key": "EPERM", "request_key": "EPERM",
    "unshare": "EPERM", "setns": "EPERM", "mount": "EPERM", "name_to_handle_at": "EPERM", "clone user namespace": "EPERM",
    "clone3": "ENOSYS", "fork": "EPERM", "ptrace": "EPERM", "process_vm_readv": "EPERM", "personality": "EPERM",
    "kill all": "EPERM", "prlimit of another": "EPERM", "signals to another": "EPERM", "ioctl of a device": "got", "mode of the disk": "EPERM",
    "attributes of the disk": "EPERM", "watch of a file": "EPERM", "lease": "EPERM", "lock of a file": "EPERM",
}
DENIED = {"ENOENT", "EACCES", "EROFS", "EISDIR", "ENOTDIR"}
F_SETPIPE_SZ, PIPE_BYTES = 1031, 4096
MODES = ("under systemd", "root without systemd", "a user's own daemon")


def run_here(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class Changes:
    """Waits for writes to a file by any process (inotify(7))."""

    MODIFY = 2

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0 or libc.inotify_add_watch(self.fd, os.fsencode(path), self.MODIFY) < 0:
            raise OSError(ctypes.get_errno(), "inotify", path)

    def wait(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            os.read(self.fd, 65536)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)


class Probe:
    """The probe in one machine. start() starts the machine and returns only when its VMM has ended; find_pid() returns that
    VMM's pid as seen where run runs commands."""

    def __init__(self, disk, start, find_pid, run=run_here, seconds=60):
        self.disk, self.run, self.answer = disk, run, None
        with Changes(disk) as changes:
            self.starter = threading.Thread(target=lambda: setattr(self, "answer", start()))
            self.starter.start()
            end = time.monotonic() + seconds
            while not self.read():
                assert time.monotonic() < end and self.starter.is_alive(), (self.answer, self.said)
                changes.wait(1)  # and once a second it checks that the starter still lives
        self.pid = find_pid()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Gives up sooner than pyrod, which waits ten seconds for QEMU's first message."""
        self.run("kill", "-KILL", str(self.pid))
        self.starter.join()

    def read(self):
        with open(self.disk, "rb") as f:
            text = f.read(32768).split(b"\0")[0].decode(errors="replace")
        self.said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return text.endswith("\nend\n")

    def status(self, field, pid=None):
        text = self.run("cat", "/proc/%d/status" % (pid or self.pid))
        return next(line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith(field + ":"))

    def check(self):
        """Checks what is the same in every mode."""
        assert {name: self.said[name] for name in CALLS} == CALLS
        assert int(self.said["disk"]) == DISK_MIB << 20 == int(self.said["rlimit fsize"])
        assert [self.said[name] for name in ("write the last byte", "write beyond the disk", "lengthen the disk")] == ["got", "EFBIG", "EFBIG"]
        assert [self.said[name] for name in ("space beyond the disk", "zeroes beyond the disk", "space within the disk", "space by ioctl", "discard")] \
            == ["EOPNOTSUPP", "EOPNOTSUPP", "EOPNOTSUPP", "EPERM", "got"]
        files = {int(name.split()[-1]) for name in self.said if name.startswith("emptied ")}
        assert len(files) == 4  # kernel, initramfs, environment, modules
        for fd in files:
            assert [self.said["%s %d" % (what, fd)] for what in ("again", "again for writing", "emptied", "again and emptied")] == \
                ["got", "EACCES", "EPERM", "EPERM"]
        assert self.status("Seccomp") == ["2"] and self.status("NoNewPrivs") == ["1"]

    def paths(self, verb):
        tried = {name[len(verb) + 1:]: result for name, result in self.said.items() if name.startswith(verb + " /")}
        assert set(tried.values()) <= DENIED | {"got"}, tried
        return ", ".join("`%s`" % path for path, result in tried.items() if result == "got") or "none"

    def namespaces(self, other):
        def of(pid, kind):
            return self.run("readlink", "/proc/%d/ns/%s" % (pid, kind))
        return " ".join(kind for kind in ("user", "pid", "mnt", "net", "ipc", "uts") if of(self.pid, kind) != of(other, kind))

    def facts(self, daemon_pid, host_pid=None):
        """Returns the rows of docs/SECURITY.md's table. host_pid: whose namespaces are the host's, if the daemon's are not."""
        status = self.run("cat", "/proc/%d/status" % daemon_pid)
        daemons = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
        # The namespaces of process 1 are those of a container, if the tests run in one.
        uids, filters = set(self.status("Uid")), int(self.status("Seccomp_filters")[0]) - int(self.status("Seccomp_filters", 1)[0])
        no_rights = {self.status(name)[0] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
        limits = {name: int(self.said["rlimit " + name]) for name in ("core", "nofile", "fsize", "nproc")}
        assert self.paths("make in") == "none"
        return {
            "user": "the daemon's" if uids == {daemons} else "one of its own" if len(uids) == 1 and "0" not in uids else "root",
            "namespaces of its own": self.namespaces(host_pid or daemon_pid),
            "capabilities": "none" if no_rights else "some",
            "no_new_privs": "yes" if self.status("NoNewPrivs") == ["1"] else "no",
            "filters of system calls": {0: "none", 1: "the launcher's"}.get(filters, "the unit's, the launcher's"),
            "Landlock": "yes" if self.said["read /"] == "EACCES" else "no",
            "limits": "core %d, nofile %d, fsize %s%s" % (
                limits["core"], limits["nofile"], "its disk" if limits["fsize"] == int(self.said["disk"]) else limits["fsize"],
                ", nproc 256" if limits["nproc"] == 256 else ""),
            "keys": "none" if self.said["keyctl"] == "EPERM" else "some",
            "reads": self.paths("read"),
            "writes": self.paths("write"),
        }


def table(column, who="a VMM"):
    """What docs/SECURITY.md says about that mode, or that part of it: {row: cell}."""
    with open(TOP + "/docs/SECURITY.md") as f:
        lines = f.read().split("\n## Confinement\n")[1].split("\n## ")[0].splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("| %s |" % who))
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in itertools.takewhile(lambda line: line.startswith("|"), lines[begin:])]
    return {row[0]: row[rows[0].index(column)] for row in rows[2:]}


# Runs in the launcher's place: prints what it is and ends.
LAUNCHER = """#!/usr/bin/python3
import ctypes, json, os
libc = ctypes.CDLL(None)
said = {"ns": {kind: os.readlink("/proc/self/ns/" + kind) for kind in ("user", "pid", "mnt", "net", "ipc", "uts")},
        "status": dict(line.rstrip().split(":", 1) for line in open("/proc/self/status")),
        "keyring": libc.syscall(250, 0, -3, 0)}  # keyctl: the number of its session keyring
with open(os.path.dirname(os.path.abspath(__file__)) + "/said.json", "w") as f:
    json.dump(said, f)
"""


def launcher(daemon):
    """The facts of a FakeDaemon's launcher, in the words of its table; the daemon must not have started."""
    place = daemon.root + "/libexec"
    shutil.copytree(daemon.env["PYRO_LIBEXEC_DIR"], place)
    with open(place + "/pyro-vmm", "w") as f:
        f.write(LAUNCHER)
    os.chmod(place, 0o777)
    daemon.env["PYRO_LIBEXEC_DIR"] = place
    daemon.start()
    vm = daemon.call("vm.create", daemon.spec())["result"]["vm_id"]
    assert daemon.call("vm.start", {"vm_id": vm})["error"]["data"]["code"] == "start_failed"
    with open(place + "/said.json") as f:
        said = json.load(f)
    status = {name: value.split() for name, value in said["status"].items()}
    own = status_of(daemon.pid())
    here = ctypes.CDLL(None).syscall(250, 0, -3, 0)  # the daemon's copy is ours
    return {
        "user": "root" if set(status["Uid"]) == {"0"} else "the daemon's" if status["Uid"] == own["Uid"] else "another",
        "namespaces of its own": " ".join(kind for kind, link in said["ns"].items() if link != os.readlink("/proc/%d/ns/%s" % (daemon.pid(), kind))),
        "capabilities": "none" if status["CapEff"] == ["0" * 16] else "all" if status["CapEff"] == own["CapEff"] else "some",
        "no_new_privs, filters": "no" if (status["NoNewPrivs"], status["Seccomp"]) == (["0"], ["0"]) else "some",
        "keys": "a session keyring of its own" if said["keyring"] not in (-1, here) else "the daemon's",
    }


def namespaces(pid, other):
    return " ".join(kind for kind in ("user", "pid", "mnt", "net", "ipc", "uts")
                    if os.readlink("/proc/%d/ns/%s" % (pid, kind)) != os.readlink("/proc/%d/ns/%s" % (other, kind)))


def status_of(pid):
    with open("/proc/%d/status" % pid) as f:
        return {name: value.split() for name, value in (line.split(":", 1) for line in f)}


def limits_of(pid):
    with open("/proc/%d/limits" % pid) as f:
        return {line[:26].strip(): line[26:].split()[1] for line in f}


def writer(place, become=()):
    """The facts of an import's confined half, in the words of its table, while it waits for a tar."""
    for name in ("spool", "image"):
        with open(place + "/" + name, "w"):
            os.chmod(place + "/" + name, 0o666)
    outer = subprocess.Popen([*become, "sh", "-c", 'exec "$@" 3<>%s/spool 4<>%s/image' % (place, place), "sh",
                              stage(BUILD) + "/libexec/pyro/pyro-import", "write", str(1 << 20)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        # It reads nothing of the tar before its sandbox is complete: then a full pipe has space again.
        fcntl.fcntl(outer.stdin, F_SETPIPE_SZ, PIPE_BYTES)
        begin = tarfile.TarInfo("file")
        begin.size = PIPE_BYTES
        os.write(outer.stdin.fileno(), begin.tobuf().ljust(PIPE_BYTES, b"\0"))
        assert select.select([], [outer.stdin], [], 60)[1]
        with open("/proc/%d/task/%d/children" % (outer.pid, outer.pid)) as f:
            pid, = map(int, f.read().split())
        assert status_of(pid)["Seccomp"] == ["2"]
        status, own, limits = status_of(pid), status_of(outer.pid), limits_of(pid)
        assert limits["Max file size"] == str(1 << 20)
        return {
            "user": "root" if "0" in status["Uid"] else "the same" if status["Uid"] == own["Uid"] else "one of its own",
            "namespaces of its own": namespaces(pid, os.getpid()),
            "capabilities": "none" if {status[name][0] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16} else "some",
            "no_new_privs": "yes" if status["NoNewPrivs"] == ["1"] else "no",
            "limits": "core %s, memory %d GiB, fsize of its image, cpu %s s, nofile %s, nproc %s" % (
                limits["Max core file size"], int(limits["Max address space"]) >> 30, limits["Max cpu time"], limits["Max open files"],
                limits["Max processes"]),
            "reads": "none" if os.listdir("/proc/%d/root/" % pid) == [] else "some",
        }
    finally:
        outer.stdin.close()
        outer.wait()


def put_in_place(daemon, user=None):
    """Puts the probe in place of QEMU for a FakeDaemon's VMMs only; the daemon runs as a plain user."""
    daemon.vmm = QEMU
    with open(daemon.conf, "a") as f:
        f.write("qemu = %s\n" % QEMU)
    if user is not None:
        become(daemon, user)
    daemon.prefix = ["unshare", "--mount", "sh", "-ec", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh", PROGRAM, QEMU, *daemon.prefix]


def plain(user):
    """The words in front of a command that run it as that user."""
    return ["setpriv", "--reuid=%d" % user, "--regid=%d" % user, "--clear-groups", "--inh-caps=-all", "--"]


def become(daemon, user):
    """Makes a FakeDaemon that has not started run as that plain user."""
    daemon.mode = "--user"
    daemon.prefix = plain(user)
    subprocess.run(["chown", "-R", "%d:%d" % (user, user), daemon.root], check=True)


def probe(daemon):
    """The probe in a FakeDaemon's machine."""
    vm = daemon.call("vm.create", dict(daemon.spec(), mem_mib=300))["result"]["vm_id"]
    return Probe("%s/machines/%s/disk.ext4" % (daemon.state, vm), lambda: daemon.call("vm.start", {"vm_id": vm}, timeout=60),
                 lambda: daemon.vmm_pids()[0])
