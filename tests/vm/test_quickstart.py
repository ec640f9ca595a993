# SPDX-License-Identifier: MIT
"""The README's first command as a plain user without root, from the sources to a command in a machine and back to nothing; and
as which user pyro-import runs when pyrod is root. The environment comes from the shared cache, as copies."""
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from conftest import BUILD, CACHE, TOP, stage

IMPORT_USER = "pyro-import"


def files(place):
    return [os.path.join(top, name) for top, _, names in os.walk(place) for name in names]


@pytest.fixture
def plain_user(root_only, daemon):
    """A user of its own for one test, whose home has the sources and a filled environment cache and kernel store."""
    if not shutil.which("useradd"):
        pytest.skip("useradd is absent: no temporary user can be made")
    top = tempfile.mkdtemp(prefix="pyro-test-")
    os.chmod(top, 0o755)
    name, home = "pyro-quick-%d" % os.getpid(), top + "/home"
    subprocess.run(["useradd", "--create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
    user = User(name, home)
    try:
        shutil.copytree(TOP, home + "/pyro", symlinks=True, ignore=shutil.ignore_patterns("build*", ".git", ".cache", "__pycache__"))
        os.makedirs(home + "/.local/state/pyro", 0o700)
        subprocess.run(["cp", "-a", CACHE + "/kernels", home + "/.local/state/pyro/kernels"], check=True)
        subprocess.run(["cp", "-a", CACHE + "/environments", home + "/cache"], check=True)
        subprocess.run(["chown", "-R", "%s:" % name, home], check=True)
        yield user
    finally:
        for pid, _ in user.processes():  # none unless the test failed
            os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["userdel", name], check=True)
        shutil.rmtree(top, ignore_errors=True)


class User:
    def __init__(self, name, home):
        self.name, self.home = name, home
        self.prefix, self.state, self.cache = home + "/prefix", home + "/.local/state/pyro", home + "/cache"
        self.env = dict(HOME=home, USER=name, PATH="/usr/local/bin:/usr/bin:/bin", PYRO_PREFIX=self.prefix, PYRO_ENVIRONMENT_CACHE_DIR=self.cache)

    def run(self, *command, timeout=600):
        begin = time.monotonic()
        p = subprocess.run(self.command(command), env=self.env, cwd=self.home + "/pyro", stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=timeout, text=True)
        return p, time.monotonic() - begin

    def popen(self, *command):
        return subprocess.Popen(self.command(command), env=self.env, cwd=self.home + "/pyro", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)

    def command(self, words):
        return ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups", *words]

    def quickstart(self, *args):
        return self.run("./quickstart", "--user", *args)

    def daemon_pid(self):
        return int(open(self.state + "/lock").read())

    def end_daemon(self):
        os.kill(self.daemon_pid(), signal.SIGTERM)
        subprocess.run(["flock", "--timeout", "20", self.state + "/lock", "true"], check=True)

    def processes(self):
        uid, found = pwd.getpwnam(self.name).pw_uid, []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.stat("/proc/" + pid).st_uid == uid and open("/proc/%s/stat" % pid).read().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append((pid, open("/proc/%s/cmdline" % pid).read().replace("\0", " ")))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found


def test_user_from_sources_to_uninstall(plain_user):
    u = plain_user
    first, _ = u.quickstart()
    assert first.returncode == 0, first.stderr[-4000:]
    assert re.fullmatch(r"git version \S+\n", first.stdout.splitlines(keepends=True)[-1]), first.stdout[-2000:]
    assert "exit_code=0" in first.stderr
    steps = len(re.findall(r"^==> ", first.stderr, re.M))
    assert steps >= 7 and len(re.findall(r"^    done in \d+\.\d{3} s$", first.stderr, re.M)) == steps, first.stderr[-4000:]
    pid = u.daemon_pid()

    # A second time: the same result, nothing built, the same daemon, and hardly slower than the run that it ends with.
    second, seconds = u.quickstart()
    assert second.returncode == 0 and second.stdout.splitlines()[-1:] == first.stdout.splitlines()[-1:], second.stderr[-4000:]
    assert "Compiling" not in second.stderr and u.daemon_pid() == pid
    one, one_seconds = u.run(u.prefix + "/bin/pyro", "run", "debian:12", "--", "git", "--version")
    assert one.returncode == 0, one.stderr
    assert seconds <= 2 * one_seconds, (seconds, one_seconds, second.stderr)

    u.end_daemon()
    started, _ = u.quickstart("--start-only")
    assert started.returncode == 0 and u.daemon_pid() != pid, started.stderr
    listed, _ = u.run(u.prefix + "/bin/pyro", "--user", "env", "list")
    assert listed.returncode == 0 and "debian:12 [installed]" in listed.stdout, listed

    pyro = [u.prefix + "/bin/pyro", "--user", "--json", "vm"]
    vm = json.loads(u.run(*pyro, "create", "debian:12")[0].stdout)["vm_id"]
    assert u.run(*pyro, "start", vm)[0].returncode == 0
    removed, _ = u.quickstart("--uninstall")
    assert removed.returncode == 0, removed.stderr
    assert files(u.prefix) == [] and not u.processes(), (files(u.prefix), u.processes())
    assert os.path.exists(u.state + "/pyro.db")

    # Nobody believes the content of the lock's file: root runs this too, and the file belongs to the daemon's user.
    canary, holder = u.popen("sleep", "600"), u.popen(
        "python3", "-c", "import fcntl, sys, time; f = open(sys.argv[1], 'r+'); fcntl.flock(f, 2); fcntl.lockf(f, 2); print('held', flush=True); "
        "time.sleep(600)", u.state + "/lock")
    assert holder.stdout.readline() == "held\n"
    with open(u.state + "/lock", "w") as f:
        f.write("%d\n" % canary.pid)
    removed, _ = u.quickstart("--uninstall")
    assert removed.returncode == 0, removed.stderr
    for p in (canary, holder):
        assert p.poll() is None
        p.kill()
        p.communicate()
    os.unlink(u.state + "/lock")
    os.mkfifo(u.state + "/lock")
    assert u.quickstart("--uninstall")[0].returncode == 0
    os.unlink(u.state + "/lock")

    # The next installation uses the kept data; a machine does not outlive its data.
    pulled = os.stat(u.cache + "/debian:12.json")
    again, _ = u.quickstart()
    assert again.returncode == 0 and os.stat(u.cache + "/debian:12.json") == pulled, again.stderr[-4000:]
    kept = json.loads(u.run(*pyro, "list")[0].stdout)["vms"]
    assert [(v["vm_id"], v["state"]) for v in kept] == [(vm, "stopped")], kept
    with u.popen(u.prefix + "/bin/pyro", "run", "debian:12", "--", "sh", "-c", "echo up; sleep 600") as busy:
        assert busy.stdout.readline() == "up\n"
        os.mkdir(u.cache + "/mine")  # a folder that the user named may have files of others
        purged, _ = u.quickstart("--uninstall", "--purge")
        assert purged.returncode == 0 and "kept: %s," % u.cache in purged.stderr, purged.stderr
        assert busy.wait(timeout=30) != 0
    assert files(u.prefix) == [] and not u.processes(), (files(u.prefix), u.processes())
    assert not os.path.exists(u.state) and os.listdir(u.cache) == ["mine"]


def test_quickstart_says_why_it_stops(plain_user):
    u = plain_user
    wrong, _ = u.quickstart("--nothing")
    assert wrong.returncode == 2 and "unknown option '--nothing'" in wrong.stderr
    early, _ = u.quickstart("--start-only")
    assert early.returncode == 1 and "failed at 'start pyrod'" in early.stderr and "  fix: " in early.stderr, early.stderr
    system, _ = u.run("./quickstart")
    assert system.returncode == 1 and "needs root" in system.stderr and "--user" in system.stderr, system.stderr


@pytest.fixture
def import_user(root_only):
    """User pyro-import, made for the test where pyro is not installed."""
    try:
        yield pwd.getpwnam(IMPORT_USER)
        return
    except KeyError:
        pass
    if not shutil.which("useradd"):
        pytest.skip("useradd is absent: user %s cannot be made" % IMPORT_USER)
    subprocess.run(["useradd", "--system", "--user-group", "--shell", "/usr/sbin/nologin", IMPORT_USER], check=True)
    yield pwd.getpwnam(IMPORT_USER)
    subprocess.run(["userdel", IMPORT_USER], check=True)


def test_import_is_never_root(import_user, daemon, make_daemon):
    """pyrod is root and no other user may read its state: pyro-import's files are made by its own user and end up root's."""
    d = make_daemon()
    for path in files(d.state + "/kernels"):
        if "/initrd-" in path:
            os.unlink(path)
    libexec = tempfile.mkdtemp(prefix="pyro-test-")
    os.chmod(libexec, 0o755)
    try:
        real, log = stage(BUILD) + "/libexec/pyro", libexec + "/log"
        os.symlink(real + "/pyro-vmm", libexec + "/pyro-vmm")
        with open(libexec + "/pyro-import", "w") as f:
            f.write('#!/bin/sh\necho "$(id -un) $1 $(ls -d %s 2>/dev/null)" >>%s\nexec %s/pyro-import "$@"\n' % (d.state + "/kernels", log, real))
        os.chmod(libexec + "/pyro-import", 0o755)
        open(log, "w").close()
        os.chmod(log, 0o666)
        d.env["PYRO_LIBEXEC_DIR"] = libexec
        os.chmod(d.root, 0o700)
        d.start()
        r = d.pyro("run", "debian:12", "--", "git", "--version", timeout=180)
        assert r.status == 0 and r.text.startswith("git version"), r
        report = json.loads(d.pyro("--json", "doctor").text)
        assert [c["ok"] for c in report["runtime"]["checks"] if c["name"] == "integrity"] == [True], report
        # It could not see the place of the state by its path either.
        assert sorted(open(log).read().split("\n")) == ["", *(IMPORT_USER + verb for verb in (" check ", " check ", " disk ", " initramfs ", " sandbox "))]
        made = [p for p in files(d.state) if "/initrd-" in p or "/blank-" in p]
        assert len(made) == 2 and all(os.lstat(p).st_uid == 0 for p in made), made
        assert not [p for p in files(d.state) if ".staging" in p]
        d.wait_clean()
    finally:
        shutil.rmtree(libexec, ignore_errors=True)


def test_units_let_import_work():
    """As user pyro-import, each of these makes systemd set NoNewPrivileges=, with which newuidmap, and so every pull, fails
    (systemd.exec(5)); pyrod, which does not download anything itself, has them nevertheless."""
    implied = {"NoNewPrivileges", "SystemCallFilter", "SystemCallArchitectures", "SystemCallLog", "RestrictAddressFamilies", "RestrictNamespaces",
               "RestrictFileSystems", "RestrictRealtime", "RestrictSUIDSGID", "PrivateDevices", "PrivateUsers", "ProtectKernelTunables", "ProtectKernelModules",
               "ProtectKernelLogs", "ProtectClock", "ProtectHostname", "MemoryDenyWriteExecute", "LockPersonality", "DynamicUser"}

    def settings(unit):
        return set(re.findall(r"^(\w+)=", open(TOP + "/systemd/" + unit).read(), re.M))
    fetches = settings("pyro-import@.service.in")
    assert "User" in fetches and not implied & fetches
    assert {"NoNewPrivileges", "SystemCallFilter", "RestrictNamespaces"} <= settings("pyrod.service.in")
    # It has no "-" prefix: an absent group keeps the unit from starting. Only the group that the package makes may be named.
    assert re.findall(r"^SupplementaryGroups=(.*)$", open(TOP + "/systemd/pyro-vm@.service.in").read(), re.M) == ["kvm"]
    assert re.search(r"^g kvm ", open(TOP + "/systemd/pyro.sysusers.conf").read(), re.M)
    assert "SupplementaryGroups" not in settings("pyrod.service.in") | fetches
