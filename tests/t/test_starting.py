# SPDX-License-Identifier: MIT
"""How a person starts a daemon by hand: the examples as they are printed, and a second daemon beside the first. The sanitized
daemon."""
import grp
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pytest

from conftest import BUILD_ASAN, TOP, assert_no_faults, stage


def examples():
    """What --help and the man page print for starting one's own daemon."""
    text = subprocess.run([stage(BUILD_ASAN) + "/bin/pyrod", "--help"], capture_output=True, text=True, timeout=30, check=True).stdout
    printed = re.findall(r"^Example: (pyrod .*)$", text, re.M)
    printed += re.findall(r"^\.Dl (pyrod --user .*)$", open(TOP + "/docs/man/pyrod.8").read(), re.M)
    assert len(printed) == 2, printed
    return printed


class Shell:
    """A user's shell, in which pyro and pyrod are on PATH."""

    def __init__(self, root):
        self.root = root
        libexec = stage(BUILD_ASAN) + "/libexec/pyro"
        self.env = {"PATH": stage(BUILD_ASAN) + "/bin:" + os.environ["PATH"], "HOME": root, "PYRO_STATE_DIR": root + "/state", "PYRO_RUNTIME_DIR": root + "/run",
                    "PYRO_ENVIRONMENT_CACHE_DIR": root + "/cache", "PYRO_LIBEXEC_DIR": libexec, "PYRO_AGENT": libexec + "/pyro-agent"}

    def __call__(self, line):
        r = subprocess.run(["sh", "-c", line.replace("/tmp/pyro/", self.root + "/new/")], env=self.env, stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=60)
        return r.returncode, r.stdout, r.stderr

    def pid(self):
        text = open(self.root + "/state/lock").read().split()
        return int(text[0]) if text else 0

    def end(self):
        if os.path.exists(self.root + "/state/lock") and self.pid():
            pidfd = os.pidfd_open(self.pid())
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            os.close(pidfd)
            self.ended()

    def ended(self):
        end = time.monotonic() + 30
        while self.pid():
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture
def sh(tmp_path):
    shell = Shell(str(tmp_path))
    yield shell
    shell.end()
    assert_no_faults(open(str(tmp_path) + "/state/pyrod.log").read())


@pytest.mark.parametrize("place", [0, 1])
def test_example_works_as_printed(sh, place):
    line = examples()[place]
    assert sh(line) == (0, "", "")
    folder = os.stat(sh.root + "/new")
    assert stat.S_IMODE(folder.st_mode) == 0o700
    assert sh("pyro --socket /tmp/pyro/pyrod.sock -q vm list") == (0, "", "")
    with open(sh.root + "/state/pyrod.log") as f:
        said = f.read().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ pyrod: pyrod \S+ serves its user at .*", said[-1]), said


def test_a_moved_log_is_replaced_by_a_new_one(sh):
    """As logrotate does it: move, SIGHUP; no later line is in the old file, and the old file is not held open."""
    assert sh(examples()[1])[0] == 0
    log, old = sh.root + "/state/pyrod.log", sh.root + "/state/rotated"
    os.rename(log, old)
    before = open(old).read()
    os.kill(sh.pid(), signal.SIGHUP)
    end = time.monotonic() + 30
    while not os.path.exists(log) or "configuration reloaded" not in open(log).read():
        assert time.monotonic() < end, os.listdir(sh.root + "/state")
        time.sleep(0.05)
    assert open(old).read() == before and stat.S_IMODE(os.stat(log).st_mode) == 0o600
    held = [os.path.realpath("/proc/%d/fd/%s" % (sh.pid(), fd)) for fd in os.listdir("/proc/%d/fd" % sh.pid())]
    assert old not in held and held.count(log) == 2
    assert sh("pyro --socket /tmp/pyro/pyrod.sock -q vm list") == (0, "", "")
    os.unlink(log)
    os.mkdir(log)  # a new log cannot be created: the daemon continues with the old one
    os.kill(sh.pid(), signal.SIGHUP)
    assert sh("pyro --socket /tmp/pyro/pyrod.sock -q vm list") == (0, "", "")
    os.rmdir(log)
    os.kill(sh.pid(), signal.SIGHUP)


def test_second_daemon_says_how_to_stop_the_first(sh):
    assert sh(examples()[1])[0] == 0
    code, _, err = sh("pyrod --user --socket /tmp/pyro/second.sock --detach")
    assert (code, err) == (1, "pyrod: another pyrod (pid %d) uses %s/state (fix: use the running pyrod, or stop that pyrod first: kill %d)\n"
                           % (sh.pid(), sh.root, sh.pid()))
    first = sh.pid()
    assert sh(re.search(r"kill \d+", err).group())[0] == 0
    assert sh("pyrod --user --socket /tmp/pyro/second.sock --detach") == (0, "", "")  # it waits for the other daemon's end
    assert sh.pid() not in (0, first)
    assert sh("pyro --socket /tmp/pyro/second.sock -q vm list") == (0, "", "")


# Holds the lock as a daemon does that has begun its orderly end, for longer than pyrod waits for one that has not.
STOPPING = """
import fcntl, os, sys, threading
f = open(sys.argv[1], "w")
fcntl.lockf(f, fcntl.LOCK_EX)
f.write("%d\\nstopping\\n" % os.getpid())
f.flush()
print("ready", flush=True)
sys.stdin.read()
threading.Event().wait(1.5)
f.truncate(0)
"""


def test_a_daemon_that_stops_slowly_is_waited_for(sh):
    os.mkdir(sh.root + "/state", 0o700)
    with subprocess.Popen([sys.executable, "-c", STOPPING, sh.root + "/state/lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.close()
        assert sh(examples()[1]) == (0, "", "") and other.wait(10) == 0
    assert sh.pid() not in (0, other.pid)


def test_socket_of_another_daemon(sh, tmp_path):
    assert sh(examples()[1])[0] == 0
    others = " ".join("PYRO_%s=%s/other-%s" % (name, tmp_path, name) for name in ("STATE_DIR", "RUNTIME_DIR", "ENVIRONMENT_CACHE_DIR"))
    code, _, err = sh(others + " " + examples()[1])
    assert code == 1 and err == ("pyrod: another pyrod listens at %s/new/pyrod.sock (fix: use the running pyrod, or stop it first: kill %d)\n"
                                 % (sh.root, sh.pid()))


def test_directory_that_cannot_be_created(sh, tmp_path):
    assert sh(examples()[1])[0] == 0
    sh.end()
    line = "pyrod --user --socket %s/a/b/pyrod.sock --detach" % tmp_path
    code, _, err = sh(line)
    fix = re.fullmatch(r"pyrod: cannot create the directory %s/a/b: No such file or directory \(fix: (mkdir -p .*), or give --socket another path\)\n" % tmp_path, err)
    assert code == 1 and fix, err
    assert sh(fix.group(1))[0] == 0 and sh(line) == (0, "", "")


@pytest.mark.parametrize("group,mode,fix", [
    ("ssl-cert", 0o660, "sudo usermod -aG ssl-cert nobody"),  # whatever the device's group is
    ("root", 0o660, "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && sudo usermod -aG kvm nobody"),
    ("ssl-cert", 0o600, "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && sudo usermod -aG kvm nobody"),
])
def test_fix_for_a_device_without_permission(make_daemon, root_only, tmp_path, group, mode, fix):
    """It names the group that /dev/kvm has here, and what else is needed for a process to be in it."""
    if not os.path.exists("/dev/kvm"):
        pytest.skip("nothing to cover")
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        gid = 61234
        with open("/etc/group", "a") as f:
            f.write("%s:x:%d:\n" % (group, gid))
    device = str(tmp_path) + "/kvm"
    open(device, "w").close()
    os.chown(device, 0, gid)
    os.chmod(device, mode)
    d = make_daemon(build=BUILD_ASAN)
    d.prefix = ["unshare", "--mount", "sh", "-ec", 'mount --bind "$1" /dev/kvm; shift; exec "$@"', "sh", device,
                "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]
    subprocess.run(["chown", "-R", "65534:65534", d.root], check=True)
    d.start()
    found, = [c for c in d.call("system.doctor", {"probe": False})["result"]["runtime"]["checks"] if c["name"] == "kvm"]
    assert found["fix"] == fix + "  # then log in again and restart pyrod: kill %d" % d.pid(), found
