# SPDX-License-Identifier: MIT
"""What installs and removes pyro, by itself: quickstart with stand-ins for what it starts. (With all that is real: tests/vm/test_quickstart.py, tests/systemd.)"""
import os
import shutil
import subprocess
import sys

import pytest

from conftest import TOP

INSTALLED = """#!/bin/sh
shift 3
for p; do printf '%s=installed ' "$p"; done
"""
# A pyrod that does nothing but what quickstart knows it by: it holds the lock on a file that names it.
LOCKED = """
import fcntl, os, signal, sys
f = open(sys.argv[1], "w")
fcntl.flock(f, fcntl.LOCK_EX)
f.write("%d\\n" % os.getpid())
f.flush()
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
        program(self.prefix + "/bin/pyro", '#!/bin/sh\necho "$*" >>%s\n[ "$*" != "--user --json vm list" ] || echo \'%s\'\n' %
                (self.log, '{"vms": [{"vm_id": "vm-1"}, {"vm_id": "vm-2"}]}'))

    def calls(self):
        with open(self.log) as f:
            return [line.strip() for line in f]


@pytest.fixture
def tree(tmp_path):
    return Tree(str(tmp_path))


@pytest.fixture
def running(tree):
    tree.install()
    with subprocess.Popen([sys.executable, "-c", LOCKED, tree.state + "/lock"], stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout.readline() == "held\n"
            yield tree
        finally:
            daemon.terminate()


def test_quickstart_says_why_a_step_failed(tree):
    program(tree.bin + "/meson", "#!/bin/sh\necho no compiler >&2\nexit 3\n")
    stopped = tree.quickstart()
    assert stopped.returncode == 1 and "no compiler\n" in stopped.stderr, stopped
    assert stopped.stderr.count("quickstart: failed at 'build': a command ended with status 3") == 1 and "  fix: " in stopped.stderr, stopped


def test_purging_without_a_cache(running):
    removed = running.quickstart("--uninstall", "--purge")
    assert removed.returncode == 0, removed
    assert running.calls()[1:] == ["--user --quiet vm delete vm-1", "--user --quiet vm delete vm-2"]
    assert not os.path.exists(running.state)


def test_uninstalling_with_no_daemon(tree):
    tree.install()
    removed = tree.quickstart("--uninstall")
    assert removed.returncode == 0 and "failed at" not in removed.stderr, removed
