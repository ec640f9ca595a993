# SPDX-License-Identifier: MIT
"""What installs and removes pyro, tested alone: quickstart with stand-ins for the programs that it starts, and the package's
scripts in a mount namespace with files of their own in /etc and /run. (With the real programs: tests/vm/test_quickstart.py,
tests/systemd.)"""
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, BUILD_ASAN, TOP, stage

INSTALLED = """#!/bin/sh
shift 3
for p; do printf '%s=installed ' "$p"; done
"""
# A pyrod that has only what quickstart recognises it by: a program of that name that holds the record lock.
LOCKED = """
import fcntl, signal, sys
f = open(sys.argv[1], "w")
fcntl.lockf(f, fcntl.LOCK_EX)
print("held", flush=True)
signal.sigwait([signal.SIGTERM])
"""


def program(path, text):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o755)


class Tree:
    """quickstart, alone in a folder, and the programs that it finds first."""

    def __init__(self, top):
        self.top, self.home, self.bin, self.prefix = top, top + "/home", top + "/bin", top + "/prefix"
        self.state, self.log = self.home + "/.local/state/pyro", top + "/log"
        for path in (self.home, self.bin, self.prefix + "/bin", self.state, top + "/tree/build-user"):
            os.makedirs(path)
        shutil.copy(TOP + "/quickstart", top + "/tree")
        program(self.bin + "/dpkg-query", INSTALLED)

    def quickstart(self, *args):
        env = dict(HOME=self.home, PATH=self.bin + ":/usr/bin:/bin", PYRO_PREFIX=self.prefix, PYRO_RUNTIME_DIR=self.top + "/run")
        return subprocess.run([self.top + "/tree/quickstart", "--user", *args], env=env, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60)

    def install(self):
        open(self.top + "/tree/build-user/build.ninja", "w").close()
        program(self.bin + "/meson", '#!/bin/sh\necho \'{"pyro": "%s/bin/pyro"}\'\n' % self.prefix)
        program(self.prefix + "/bin/pyro", """#!/bin/sh
echo "$*" >>%s
case "$*" in
"--user --json vm list") echo '{"vms": [{"vm_id": "vm-1"}, {"vm_id": "vm-2"}]}';;
"--user --json workspace list") echo '{"workspaces": [{"workspace_id": "ws-1"}]}';;
esac
""" % self.log)

    def calls(self):
        with open(self.log) as f:
            return [line.strip() for line in f]


@pytest.fixture
def tree(tmp_path):
    return Tree(str(tmp_path))


@pytest.fixture
def running(tree):
    tree.install()
    shutil.copy(os.path.realpath(sys.executable), tree.top + "/pyrod")
    with subprocess.Popen([tree.top + "/pyrod", "-c", LOCKED, tree.state + "/lock"], env=dict(os.environ, PYTHONHOME=sys.base_prefix),
                          stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout.readline() == "held\n"
            yield tree
        finally:
            daemon.terminate()


def test_a_release_has_no_test_code():
    """Crash points and settable deadlines (daemon/crash.h, proto/deadline.h) are in a debug build alone."""
    for build, there in ((BUILD, False), (BUILD_ASAN, True)):
        for name, words in (("bin/pyrod", (b"PYRO_CRASH_AT", b"PYRO_DEADLINES")), ("bin/pyro", (b"PYRO_DEADLINES",))):
            program = open(stage(build) + "/" + name, "rb").read()
            assert [word in program for word in words] == [there] * len(words), (build, name)


def test_quickstart_says_why_a_step_failed(tree):
    program(tree.bin + "/meson", "#!/bin/sh\necho no compiler >&2\nexit 3\n")
    stopped = tree.quickstart()
    assert stopped.returncode == 1 and "no compiler\n" in stopped.stderr, stopped
    assert stopped.stderr.count("quickstart: failed at 'build': a command ended with status 3") == 1 and "  fix: " in stopped.stderr, stopped


def test_quickstart_on_another_distribution(tree):
    for name in ("bash", "dirname", "id", "stat"):
        os.symlink(shutil.which(name), tree.bin + "/" + name)
    os.unlink(tree.bin + "/dpkg-query")
    stopped = subprocess.run([shutil.which("bash"), tree.top + "/tree/quickstart", "--user"], env=dict(HOME=tree.home, PATH=tree.bin),
                             capture_output=True, text=True, timeout=60)
    assert stopped.returncode == 1 and "not a Debian system" in stopped.stderr, stopped
    assert "libsystemd-dev" in stopped.stderr and "qemu-system-x86" in stopped.stderr and "README" not in stopped.stderr, stopped


def test_quickstart_says_why_machines_stay(running):
    program(running.prefix + "/bin/pyro", "#!/bin/sh\necho away >&2\nexit 125\n")
    stopped = running.quickstart("--uninstall")
    assert stopped.returncode == 1 and stopped.stderr.count("failed at") == 1 and "status 125" in stopped.stderr, stopped
    assert os.path.exists(running.prefix + "/bin/pyro")


def test_uninstalling_keeps_disks(running):
    removed = running.quickstart("--uninstall")
    assert removed.returncode == 0 and "kept: " + running.state in removed.stderr, removed
    assert running.calls() == ["--user --json vm list", "--user --quiet vm stop vm-1", "--user --quiet vm stop vm-2",
                               "--user --json workspace list", "--user --quiet workspace stop ws-1"]
    assert os.path.exists(running.state) and not os.path.exists(running.prefix + "/bin/pyro")


# Knows vm-1 and vm-2, and cannot stop them.
STUBBORN = """#!/bin/sh
case "$*" in
*"vm list") echo '{"vms": [{"vm_id": "vm-1"}, {"vm_id": "vm-2"}]}';;
*"vm status"*) echo '{"error":{"code":"%s"}}'; exit 1;;
*) echo "pyro: says no" >&2; exit 1;;
esac
"""


def test_uninstalling_while_a_command_runs_in_its_own_machine(running):
    """When stopped it is deleted with the command: deleted is as good as stopped."""
    program(running.prefix + "/bin/pyro", STUBBORN % "vm_not_found")
    removed = running.quickstart("--uninstall")
    assert removed.returncode == 0 and "says no" not in removed.stderr, removed


def test_a_machine_that_cannot_be_stopped_keeps_its_daemon(running):
    program(running.prefix + "/bin/pyro", STUBBORN % "internal")
    stopped = running.quickstart("--uninstall")
    assert stopped.returncode == 1 and "machine vm-1 could not be stopped: pyro: says no" in stopped.stderr, stopped
    assert stopped.stderr.count("failed at") == 1 and os.path.exists(running.prefix + "/bin/pyro")


def test_purging_without_a_cache(running):
    removed = running.quickstart("--uninstall", "--purge")
    assert removed.returncode == 0, removed
    assert running.calls()[1:] == ["--user --quiet vm delete vm-1", "--user --quiet vm delete vm-2", "--user --json workspace list",
                                   "--user --quiet workspace delete ws-1"]
    assert not os.path.exists(running.state)


def test_uninstalling_with_no_daemon(tree):
    tree.install()
    removed = tree.quickstart("--uninstall")
    assert removed.returncode == 0 and "failed at" not in removed.stderr, removed


def in_namespace(place, mounts, command):
    """Runs it where each file or folder of mounts covers the host's."""
    words = "".join("mount --bind %s %s && " % pair for pair in mounts) + 'exec "$@"'
    env = dict(PATH=place + "/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return subprocess.run(["unshare", "--mount", "sh", "-c", words, "sh", *command], env=env, capture_output=True, text=True, timeout=60)


def function_of_quickstart(name):
    with open(TOP + "/quickstart") as f:
        return re.search(r"^%s\(\) \{\n.*?^\}\n" % name, f.read(), re.S | re.M).group(0)


ADD_SUBIDS = {"postinst": ["sh", TOP + "/debian/pyro.postinst", "configure"],
              "quickstart": ["bash", "-Eeuo", "pipefail", "-c", function_of_quickstart("add_subids") + "add_subids pyro; add_subids pyro-import"]}


@pytest.mark.parametrize("who", ADD_SUBIDS)
@pytest.mark.parametrize("subuid, subgid, start", [
    ("", "", 100000),
    ("a:100000:65536\n", "b:165536:65536\n", 231072),
    ("containers:2147483647:2147483648\n", "containers:2147483647:2147483648\n", 100000),
    ("c:165535:2147483648\n", "", 2147649183),
    ("late:4000000000:65536\nearly:100000:65536\n", "late:4000000000:65536\n", 165536),
    ("all:100000:4294802001\n", "", None),
], ids=["empty", "both", "podman", "above-2^31", "between", "full"])
def test_subordinate_ids_nobody_has(root_only, tmp_path, who, subuid, subgid, start):
    place = str(tmp_path)
    os.mkdir(place + "/bin")
    program(place + "/bin/usermod", '#!/bin/sh\necho "$*" >>%s/log\n' % place)
    open(place + "/log", "w").close()
    for name, text in (("subuid", subuid), ("subgid", subgid)):
        with open(place + "/" + name, "w") as f:
            f.write(text)
    done = in_namespace(place, [(place + "/subuid", "/etc/subuid"), (place + "/subgid", "/etc/subgid")], ADD_SUBIDS[who])
    assert done.returncode == 0, done
    with open(place + "/log") as f:
        given = f.read().splitlines()
    if start is None:
        assert given == [] and done.stderr.count("pyro doctor") == 2, (given, done)
    else:
        ids = "%d-%d" % (start, start + 65535)
        assert given == ["--add-subuids %s --add-subgids %s %s" % (ids, ids, name) for name in ("pyro", "pyro-import")], given


@pytest.mark.parametrize("socket", ["active", "stopped"])
@pytest.mark.parametrize("action", ["remove", "upgrade"])
def test_removing_ends_machines_and_keeps_disks(root_only, tmp_path, action, socket):
    place = str(tmp_path)
    for name in ("bin", "libexec/pyro", "run/systemd/system"):
        os.makedirs(place + "/" + name)
    program(place + "/bin/systemctl", '#!/bin/sh\necho "systemctl $*" >>%s/log\ncase "$*" in *is-active*) %s;; esac\n' %
            (place, "true" if socket == "active" else "exit 3"))
    program(place + "/libexec/pyro/pyro-end-machines", '#!/bin/sh\necho "end-machines $*" >>%s/log\n' % place)
    open(place + "/log", "w").close()
    done = in_namespace(place, [(place + "/run", "/run"), (place + "/libexec", "/usr/libexec")], ["sh", TOP + "/debian/pyro.prerm", action])
    assert done.returncode == 0, done
    with open(place + "/log") as f:
        called = [line.strip() for line in f if "is-active" not in line]
    ended = ["end-machines"] if socket == "active" else []
    assert called == (ended + ["systemctl stop pyro-machines.service pyro.slice"] if action == "remove" else []), called
