# SPDX-License-Identifier: MIT
"""tests/hermetic: on a host with an installed pyro, made of decoys that record who touches them, the tests pass and touch none
of them. The same with a real one: tests/soak hosts."""
import hashlib
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

from conftest import BUILD_ASAN, TOP, wait_for

HERMETIC = TOP + "/tests/hermetic"
# The place of the tree itself: the decoys' /run hides the place that tests/hermetic may have made for its builds.
ASAN = BUILD_ASAN.replace("/run/hermetic/tree", TOP, 1)
PYRO = os.environ.get("PYRO_TEST_CLI", ASAN + "/client/pyro")
POISON = "this is = no key that pyrod knows\n"
# Tests that use the standard places, start daemons without a configuration of their own, or make users.
TOUCHING = ["tests/t/test_cli.py::test_no_home", "tests/t/test_cli.py::test_doctor_without_home", "tests/t/test_cli.py::test_autostart",
            "tests/t/test_places.py::test_a_refusal_names_both_fixes", "tests/t/test_socket.py",
            "tests/t/test_fake_vmm.py"]
SHADOW = ("/etc", "/var/lib", "/usr/local", "/run")  # mount(8) writes in the former /run


class Host:
    """The result of `sudo ./quickstart` and `./quickstart --user`, below a folder that a namespace lays over the real places."""

    def __init__(self, top):
        self.top, self.home = top, top + "/home"
        self.touched, self.selector, self.stop = [], selectors.DefaultSelector(), socket.socketpair()
        subprocess.run(["cp", "-a", "/etc", top + "/etc"], check=True)
        for path in ("/etc/pyro/pyrod.conf", "/home/.config/pyro/pyrod.conf", "/home/xdg/pyro/pyrod.conf"):
            self.write(path, POISON)
        for path in ("/var/lib/pyro/pyro.db", "/var/lib/pyro/lock", "/home/.local/state/pyro/pyro.db", "/home/.cache/pyro/environments/debian:12.json",
                     "/usr/local/lib/x86_64-linux-gnu/libpyro.so.0.1.0", "/usr/local/libexec/pyro/pyro-agent", "/usr/local/libexec/pyro/pyro-vmm"):
            self.write(path, "the host's own\n")
        for name in ("bin/pyro", "bin/pyrod", "libexec/pyro/pyro-import"):
            self.write("/usr/local/" + name, '#!/bin/sh\necho "$0 $*" >>%s/ran\n' % top, 0o755)
        self.write("/ran", "")
        for name in ("passwd", "group"):
            with open("%s/etc/%s" % (top, name), "a") as f:
                f.write("pyro:x:990:%s\n" % ("990::/var/lib/pyro:/usr/sbin/nologin" if name == "passwd" else ""))
        os.makedirs(top + "/run/systemd/system")
        for path in ("/run/pyro", "/run/user/0/pyro", "/run/user/65534/pyro", "/home/.local/state/pyro/run"):
            self.listen(path + "/pyrod.sock")
        self.listen("/run/dbus/system_bus_socket")
        self.listen("/run/systemd/private")
        self.selector.register(self.stop[0], selectors.EVENT_READ)
        threading.Thread(target=self.watch, daemon=True).start()
        self.env = dict(os.environ, HOME=self.home, XDG_CONFIG_HOME=self.home + "/xdg", PYRO_SOCKET="/run/pyro/pyrod.sock",
                        PYRO_STATE_DIR="/var/lib/pyro", PYRO_RUNTIME_DIR="/run/pyro", PYRO_SCOPE="system", PYRO_DAEMON="/usr/local/bin/pyrod",
                        PYRO_ENVIRONMENT_CACHE_DIR=self.home + "/.cache/pyro/environments", PYRO_LIBEXEC_DIR="/usr/local/libexec/pyro")

    def write(self, path, text, mode=0o644):
        os.makedirs(os.path.dirname(self.top + path), exist_ok=True)
        with open(self.top + path, "w") as f:
            f.write(text)
        os.chmod(self.top + path, mode)

    def listen(self, path):
        os.makedirs(os.path.dirname(self.top + path), exist_ok=True)
        s = socket.socket(socket.AF_UNIX)
        s.bind(self.top + path)
        s.listen(64)
        os.chmod(self.top + path, 0o666)
        self.selector.register(s, selectors.EVENT_READ, path)

    def watch(self):
        while True:
            for key, _ in self.selector.select():
                if key.data is None:
                    return
                key.fileobj.accept()[0].close()
                self.touched.append(key.data)

    def command(self, *words):
        """Runs it as on that host."""
        lay = "; ".join('mount --rbind "$1%s" %s' % (path, path) for path in SHADOW)
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", lay + '; shift; exec "$@"', "sh", self.top, *words]

    def run(self, *words, **kw):
        kw.setdefault("env", self.env)
        return subprocess.run(self.command(*words), cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, **kw)

    def state(self):
        """Every file's bytes, owner and times, and what was executed."""
        found = {}
        for top, dirs, names in os.walk(self.top):
            for path in [top + "/" + name for name in dirs + names]:
                st = os.lstat(path)
                digest = ""
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as f:
                        digest = hashlib.sha256(f.read()).hexdigest()
                found[path] = (digest, st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns)
        return found

    def close(self):
        self.stop[1].close()
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()


@pytest.fixture
def host(root_only):
    top = tempfile.mkdtemp(prefix="pyro-test-")  # a socket's path is short
    os.chmod(top, 0o755)
    h = Host(top)
    yield h
    h.close()
    shutil.rmtree(top)


def test_tests_see_nothing_of_an_installed_pyro(host):
    before = host.state()
    done = host.run("/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *TOUCHING)
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]
    assert host.touched == [] and host.state() == before
    # The decoys do detect access: programs that are not hermetic reach them, one after the other.
    assert host.run(PYRO, "env", "list").returncode == 1
    assert host.touched == ["/run/pyro/pyrod.sock"]
    assert host.run("/usr/local/bin/pyro", "doctor").returncode == 0 and host.state() != before


PROBE = """
for path in /run/pyro /run/systemd /run/dbus /run/user/0 /etc/pyro /var/lib/pyro "$HOME/.local" "$HOME/.config"; do
	[ ! -e "$path" ] || echo "seen: $path"
done
[ "$HOME" = ~root ] || echo "home of root: $(echo ~root), HOME=$HOME"
! getent passwd pyro >/dev/null || echo "seen: user pyro"
! getent group pyro >/dev/null || echo "seen: group pyro"
! command -v pyro pyrod || echo "seen: programs"
[ ! -s /usr/local/lib/x86_64-linux-gnu/libpyro.so.0.1.0 ] || echo "seen: the library"
env | grep -E '^(PYRO_|XDG_|NOTIFY|LISTEN)' | grep -v ^PYRO_TEST_
mkdir -p /var/lib/pyro /run/pyro /etc/pyro "$HOME/.local/state/pyro" && touch /var/lib/pyro/x /run/pyro/x /etc/pyro/x "$HOME/.local/state/pyro/x"
useradd --system pyro && [ "$(id -u pyro)" != 990 ] || echo "its uid is given again"
getent hosts localhost >/dev/null || echo "no names"
"""


def test_a_command_sees_nothing_and_leaves_nothing(host):
    before = host.state()
    done = host.run(HERMETIC, "sh", "-c", PROBE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    assert host.touched == [] and host.state() == before


def test_a_clone_that_others_may_not_enter(host):
    """Other users nevertheless run its builds."""
    os.chmod(host.home, 0o700)
    os.mkdir(host.home + "/pyro")
    script = """mount --bind "$1" "$2"; exec "$2/tests/hermetic" sh -ec 'cd /; setpriv --reuid=65534 --regid=65534 --clear-groups \\
        "$PYRO_TEST_BUILD_ASAN/client/pyro" --help; readlink -e "$PYRO_TEST_BUILD"'"""
    env = {name: value for name, value in host.env.items() if not name.startswith("PYRO_TEST_BUILD")}
    done = host.run("sh", "-ec", script, "sh", TOP, host.home + "/pyro", env=env)
    assert done.returncode == 0 and "Usage: pyro" in done.stdout, done
    assert done.stdout.splitlines()[-1] == "/run/hermetic/tree/build-release", done


def test_a_plain_user_has_an_environment(host):
    """Without namespaces: programs that know no other socket path get one that does not exist."""
    hermetic, pyro = (shutil.copy(path, host.top) for path in (HERMETIC, PYRO))  # this user may not be allowed to enter the tree
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    listed = host.run(*become, hermetic, pyro, "env", "list")
    assert listed.returncode == 1 and "/no-daemon.sock" in listed.stderr and host.touched == [], listed
    shown = dict(line.split("=", 1) for line in host.run(*become, hermetic, "env").stdout.splitlines())
    assert not os.path.exists(shown["HOME"]) and shown["PYRO_RUNTIME_DIR"].startswith(shown["HOME"])
    assert not {"PYRO_STATE_DIR", "PYRO_SCOPE", "PYRO_DAEMON", "XDG_CONFIG_HOME"} & set(shown)


def test_meson_test_is_hermetic(host):
    done = host.run("meson", "test", "-C", ASAN, "--no-rebuild", "--logbase", "hermetic", "libpyro", env=dict(host.env, ASAN_OPTIONS=""))
    assert done.returncode == 0, done.stdout
    with open(ASAN + "/meson-logs/hermetic.txt") as f:
        assert re.search(r" \S+/tests/hermetic \S+/tests/unit/test-libpyro$", f.read(), re.M)
    assert host.touched == []


def running(mark):
    """Processes, in any namespace, whose command has this word."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                if mark.encode() in f.read().split(b"\0"):
                    found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_no_process_outlives_the_wrapper(host):
    mark = "6%d" % os.getpid()
    done = host.run(HERMETIC, "sh", "-c", "setsid sleep %s & read -r _ </proc/$!/stat; exit 7" % mark)
    assert done.returncode == 7 and running(mark) == [], done


def test_signals_are_passed_to_the_command(host):
    """TERM is passed on, and its end is reported; if the wrapper is killed, all its processes end."""
    wait = "trap 'echo terminated; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(host.command(HERMETIC, "sh", "-c", wait), env=host.env, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "ready\n"
        p.terminate()
        assert p.stdout.readline() == "terminated\n" and p.wait(20) == 5
    mark = "7%d" % os.getpid()
    with subprocess.Popen(host.command(HERMETIC, "sh", "-c", "sleep %s & echo ready; wait" % mark), env=host.env, stdout=subprocess.PIPE, text=True) as p:
        try:
            assert p.stdout.readline() == "ready\n"
            wait_for(lambda: running(mark))
        finally:
            p.kill()
    wait_for(lambda: not running(mark))
    assert host.run(HERMETIC, "sh", "-c", "kill -KILL $$").returncode == 128 + signal.SIGKILL
    assert host.run(HERMETIC, "/nonexistent/program").returncode == 127
