# SPDX-License-Identifier: MIT
"""`tests/soak hosts [SUITE...]`: the README's two commands in a row on a fresh Debian (hosts.py), with a machine running in
between; as root with the system's daemon, and as a plain user with a daemon of their own beside a system daemon that refuses
them. The tests pass, the machine still runs, and nothing else has changed. Takes the time of tests/run, twice, and of the
downloads."""
import json
import os
import re
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import hosts  # noqa: E402
from conftest import CACHE, TOP  # noqa: E402

SUITES = os.environ.get("PYRO_TEST_SUITES", "bookworm").split()
KINDS = os.environ.get("PYRO_TEST_KINDS", "").split()  # of tests/run; all
QUICKSTART_WITHIN, RUN_WITHIN = 3600, 3 * 3600


@pytest.fixture(params=SUITES)
def fresh(request, root_only, tmp_path):
    h = hosts.Fresh(CACHE, str(tmp_path), request.param)
    try:
        yield h.boot()
    finally:
        h.end()


class Installed:
    """A pyro that quickstart installed, for root or for a plain user."""

    def __init__(self, host, user, prefix, state, scope):
        self.host, self.user, self.program, self.state, self.scope = host, user, prefix + "/bin/pyro", state, scope

    def pyro(self, *args, **kw):
        home = "/root" if self.user == "root" else "/home/" + self.user
        return self.host.run("env", "HOME=" + home, self.program, *args, user=self.user, timeout=600, **kw)

    def machine(self):
        """A machine that stays."""
        made = json.loads(self.pyro(self.scope, "--json", "vm", "create", "--ttl-seconds", "0", "debian:12").stdout)["vm_id"]
        self.pyro(self.scope, "vm", "start", made)
        return made

    def pids(self, vm):
        """The pids of the daemon and of the machine's VMM."""
        daemon = self.host.run("cat", self.state + "/lock").stdout.strip()
        vmm = self.host.run("pgrep", "-f", "--", "^[^ ]*qemu-system-[^ ]* .*%s" % vm).stdout.split()
        assert len(vmm) == 1, vmm
        return daemon, vmm[0]

    def snapshot(self, vm):
        """One line for each file that is not the machine's: the sum of its bytes (of a sparse file without its holes), mode,
        owner, path."""
        script = """cd "$1" && find . ! -path "*$2*" -type f | sort | while read -r f; do
            echo "$(tar --sparse --mtime=@0 --numeric-owner -cf - "$f" | sha256sum) $f"
        done; find . ! -path "*$2*" -printf "%m %U %G %y %s %p\\n" | sort -k 6"""
        return self.host.run("sh", "-c", script, "sh", self.state, vm).stdout

    def is_untouched(self, vm, before, pids):
        assert self.pids(vm) == pids, "the daemon or the machine was replaced"
        assert json.loads(self.pyro(self.scope, "--json", "vm", "status", vm).stdout)["state"] == "started"
        after = self.snapshot(vm)
        changed = sorted(set(before.splitlines()) ^ set(after.splitlines()))
        assert changed == [], "\n".join(changed)
        assert self.pyro(self.scope, "vm", "exec", vm, "--", "echo", "alive").stdout == "alive\n"


def run_in_clone(host, where, command, name, user="root", timeout=RUN_WITHIN):
    """Its output goes to build-test-results/NAME.log; returns that. It runs in a scope of its own, like a login: a process that
    only enters the namespaces stays in the cgroup of the host outside, whose path does not exist inside."""
    path = "%s/build-test-results/%s.log" % (TOP, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    home = "/root" if user == "root" else "/home/" + user
    with open(path, "w") as log:
        scope = ["systemd-run", "--scope", "--quiet", "--property=Delegate=yes"]
        become = ["runuser", "-u", user, "--"] if user != "root" else []
        done = host.run(*scope, *become, "env", "HOME=" + home, "sh", "-c", 'cd "$1" && shift && exec "$@" 2>&1', "sh", where, *command, check=False,
                        timeout=timeout, stdout=log, stdin=subprocess.DEVNULL)
    with open(path, errors="replace") as log:
        text = log.read()
    assert done.returncode == 0, "%s: %d: see %s\n%s" % (command, done.returncode, path, text[-3000:])
    return text


def has_passed(text):
    last = re.findall(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", text, re.M)[-1:]
    assert last and int(last[0][0]) > 0 and last[0][1] == "0", text[-3000:]
    print("\n%s passed, %s failed, %s skipped" % last[0])


def test_as_root(fresh, request):
    name = "hosts-%s-root" % request.node.callspec.params["fresh"]
    where = fresh.clone("/root/pyro")
    assert "git version" in run_in_clone(fresh, where, ["./quickstart"], name + "-quickstart", timeout=QUICKSTART_WITHIN)
    pyro = Installed(fresh, "root", "/usr/local", "/var/lib/pyro", "--system")
    vm = pyro.machine()
    before, pids = pyro.snapshot(vm), pyro.pids(vm)
    accounts = fresh.run("cat", "/etc/passwd", "/etc/group", "/etc/subuid").stdout
    has_passed(run_in_clone(fresh, where, ["tests/run", *KINDS], name))
    pyro.is_untouched(vm, before, pids)
    # Packages that the tests need in addition, and nothing else.
    assert set(accounts.splitlines()) <= set(fresh.run("cat", "/etc/passwd", "/etc/group", "/etc/subuid").stdout.splitlines())


def test_as_a_user_whom_the_system_refuses(fresh, request):
    name = "hosts-%s-user" % request.node.callspec.params["fresh"]
    run_in_clone(fresh, fresh.clone("/root/pyro"), ["./quickstart"], name + "-system", timeout=QUICKSTART_WITHIN)
    system = Installed(fresh, "root", "/usr/local", "/var/lib/pyro", "--system")
    theirs = system.machine()
    fresh.run("useradd", "--create-home", "--shell", "/bin/bash", "alice")
    where = fresh.clone("/home/alice/pyro", "alice")
    refused = Installed(fresh, "alice", "/usr/local", "/home/alice/.local/state/pyro", "--user").pyro("vm", "list", check=False)
    assert refused.returncode == 1 and "usermod -aG pyro alice  # or: pyro --user" in refused.stderr, refused
    assert "git version" in run_in_clone(fresh, where, ["./quickstart", "--user"], name + "-quickstart", "alice", QUICKSTART_WITHIN)
    pyro = Installed(fresh, "alice", "/home/alice/.local", "/home/alice/.local/state/pyro", "--user")
    vm = pyro.machine()
    assert vm in pyro.pyro("vm", "list").stdout, "without --user: after the refusal the user's own daemon is used"
    before = [(p, m, p.snapshot(m), p.pids(m)) for p, m in ((system, theirs), (pyro, vm))]
    has_passed(run_in_clone(fresh, where, ["tests/run", *KINDS], name))
    for installed, machine, snapshot, pids in before:
        installed.is_untouched(machine, snapshot, pids)
