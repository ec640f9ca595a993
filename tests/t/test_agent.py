# SPDX-License-Identifier: MIT
"""The agent as an ordinary process (`pyro-agent --serve-fd`), tested with the wire protocol of wire.py. Proves streams, offsets,
resynchronisation, flow control, timeouts and the end of commands; tests/vm proves them again in a guest."""
import contextlib
import errno
import hashlib
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

import wire
from wire import STDERR, STDIN, STDOUT

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AGENT = os.environ.get("PYRO_TEST_AGENT", os.environ.get("PYRO_TEST_BUILD", TOP + "/build-release") + "/guest/pyro-agent")
ME = str(os.geteuid())


# Put before the agent: it finds no /bin/bash, so /bin/sh runs its commands.
NO_BASH = ["unshare", "--mount", "--", "sh", "-c", 'mount --bind /dev/null /bin/bash && exec "$@"', "sh"]


@contextlib.contextmanager
def serving(tmp_path, before=(), fds=()):
    """An agent, started by the command `before`, which inherits the descriptors too."""
    ours, theirs = socket.socketpair()
    p = subprocess.Popen([*before, AGENT, "--serve-fd", str(theirs.fileno()), "--workspace", str(tmp_path)],
                         pass_fds=[theirs.fileno(), *fds], stderr=subprocess.PIPE)
    theirs.close()
    h = wire.Host(ours)
    h.process, h.workspace = p, tmp_path
    w = h.greet(wire.initial_sync())
    assert w["state"] == 0 and w["held"] == {} and w["machine_id"] == bytes(16)
    assert h.set_up() == (0, None)
    yield h
    ours.close()
    try:
        _, err = p.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        p.kill()
        raise
    assert b"Sanitizer" not in err and b"runtime error" not in err, err.decode()


@pytest.fixture
def agent(tmp_path, request):
    with serving(tmp_path, getattr(request, "param", ())) as h:
        yield h


def alive(pid):
    try:
        os.kill(pid, 0)
        return open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_dead(pid, seconds=5):
    """The end of a process that is not our child is reported only by its pidfd."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select
    assert select.select([fd], [], [], seconds)[0], "still alive"
    os.close(fd)


def test_streams_apart_and_status(agent):
    x = agent.run(1, "printf out; printf err >&2; exit 7", user=ME)
    assert (x.exit["code"], x.exit["signal"], x.exit["timed_out"]) == (7, 0, 0)
    assert bytes(x.got[STDOUT]) == b"out" and bytes(x.got[STDERR]) == b"err"
    assert x.how["flags"] == 0
    x = agent.run(1, "kill -TERM $$", n=2, user=ME)
    assert x.exit["signal"] == signal.SIGTERM and x.how["flags"] == 0


@pytest.mark.parametrize("flags", [0, wire.WITH_LOGIN])
def test_environment(agent, flags):
    x = agent.run(1, 'echo "$HOME|$USER|$LANG|$A|$PATH|$0|$SHLVL"', user=ME, flags=flags, env=["A=b c", "PATH=/x:/bin:/usr/bin"])
    home, user, lang, a, path, _, _ = bytes(x.got[STDOUT]).decode().strip().split("|")
    assert a == "b c" and path == "/x:/bin:/usr/bin" and lang and home and user
    assert bytes(agent.run(1, "echo $LANG $PIP_BREAK_SYSTEM_PACKAGES", n=2, user=ME, flags=flags).got[STDOUT]) == b"C.UTF-8 1\n"


@pytest.mark.parametrize("agent", [(), NO_BASH], indirect=True, ids=["bash", "sh"])
@pytest.mark.parametrize("flags", [0, wire.WITH_LOGIN])
def test_a_command_that_starts_like_an_option(agent, flags):
    if os.geteuid() != 0:
        pytest.skip("hides /bin/bash")
    for channel, (line, name) in enumerate({"-x": "-x", "-c 'echo no'": "-c", "--login; echo after": "--login", "+e": "+e", "--": "--",
                                            "-- echo no": "--"}.items(), 1):
        x = agent.run(channel, line, user=ME, flags=flags)
        assert name.encode() + b": " in bytes(x.got[STDERR]) and b"not found" in x.got[STDERR], (line, bytes(x.got[STDERR]))
        assert bytes(x.got[STDOUT]) == (b"after\n" if "after" in line else b""), line
        assert x.exit["code"] == (0 if "after" in line else 127), line


@pytest.mark.skipif(os.geteuid() != 0, reason="captures root's environment")
def test_captured_environment_spares_the_login_shell(agent):
    kind = "shopt -q login_shell && echo login || echo plain; echo $HOME"
    ask = lambda n: bytes(agent.run(n, kind, user="root", flags=wire.WITH_LOGIN, env=["A=b"]).got[STDOUT]).decode().split()
    assert ask(1)[0] == "login"
    agent.send(wire.frame(wire.LOGIN))
    assert ask(2) == ask(3) == ["plain", pwd.getpwnam("root").pw_dir]


# Put before the agent, with a descriptor: the home of root is a FUSE file system that answers nothing while the descriptor is open.
HUNG_HOME = ["unshare", "--mount", "--", sys.executable, "-c", """
import ctypes, os, pwd, sys
libc, fd = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd
if libc.mount(b"hung", pwd.getpwnam("root").pw_dir.encode(), b"fuse", 0, options):
    raise OSError(ctypes.get_errno(), "mount")
os.set_inheritable(fd, False)
os.execv(sys.argv[2], sys.argv[2:])
"""]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_home_that_hangs_delays_only_its_user(tmp_path):
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    fuse = os.open("/dev/fuse", os.O_RDWR)
    try:
        with serving(tmp_path, [*HUNG_HOME, str(fuse)], [fuse]) as agent:
            agent.send(wire.frame(wire.LOGIN) + wire.start(1, "echo root; pwd", user="root"))
            assert bytes(agent.run(2, "echo other", user="nobody").got[STDOUT]) == b"other\n"
            x = agent.execs.setdefault(1, wire.Exec())
            assert x.started is None and x.exit is None
            fuse = os.close(fuse)  # from now on each request fails
            agent.pump(lambda: x.exit)
            assert (x.exit["code"], bytes(x.got[STDOUT])) == (0, b"root\n/\n")
    finally:
        if fuse is not None:
            os.close(fuse)


# Put before the agent: users with a home in the workspace, which is a mount as in a guest, on its root, and on a file system of its own.
HOMES = ["unshare", "--mount", "--", "sh", "-ec", """
mount --bind "$1" "$1"
mkdir "$1/own" "$1/other"
mount -t tmpfs tmpfs "$1/other"
mount -t tmpfs tmpfs /etc/profile.d
for name in own other; do echo "$name:x:0:0::$1/$name:/bin/sh"; done > "$1/passwd"
mount --bind "$1/passwd" /etc/passwd
shift
exec "$@"
""", "sh"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_login_files_are_looked_at_on_own_file_systems_only(tmp_path):
    """A changed file of a home on the own disk takes effect; on another file system, which may hang, it is not looked at."""
    with serving(tmp_path, [*HOMES, str(tmp_path)]) as agent:
        for first, (user, found) in enumerate((("own", b"1 2"), ("other", b"none none"))):
            said = []
            for n, line in enumerate(("echo 'export MINE=1' > ~/.profile", "echo ${MINE-none}", "echo 'export MINE=2; :' > ~/.profile",
                                      "echo ${MINE-none}"), 1 + first * 10):
                x = agent.run(n, line, user=user)
                assert x.exit["code"] == 0, (user, line, bytes(x.got[STDERR]))
                said += x.got[STDOUT].split()
            assert b" ".join(said) == found, (user, said)


def test_stdin_null_and_descriptors(agent):
    x = agent.run(1, "cat; ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj", user=ME)
    assert bytes(x.got[STDOUT]).split()[0] == b"4"


def test_fifty_megabytes_through(agent):
    content = os.urandom(1 << 20) * 50
    agent.send(wire.start(1, "sha256sum", user=ME, flags=wire.WITH_STDIN))
    agent.feed(1, content)
    assert bytes(agent.execs[1].got[STDOUT]).split()[0].decode() == hashlib.sha256(content).hexdigest()
    agent.execs.pop(1)
    agent.send(wire.frame(wire.EXIT_ACK, 1) + wire.start(2, "cat", user=ME, flags=wire.WITH_STDIN))
    agent.feed(2, content)
    assert hashlib.sha256(agent.execs[2].got[STDOUT]).digest() == hashlib.sha256(content).digest()


def test_stdin_closed_by_the_program(agent):
    agent.send(wire.start(1, "exec <&-; echo shut; read x <&1 2>/dev/null; sleep 0.2", user=ME, flags=wire.WITH_STDIN))
    agent.feed(1, bytes(4 << 20))
    assert bytes(agent.execs[1].got[STDOUT]) == b"shut\n"


def test_stdin_repeated_and_gap(agent):
    agent.send(wire.start(1, "cat", user=ME, flags=wire.WITH_STDIN))
    agent.send(wire.data(1, 0, b"abc") + wire.data(1, 0, b"abcd") + wire.data(1, 1, b"b") + wire.end(1, 4) + wire.end(1, 4))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: x.exit)
    assert bytes(x.got[STDOUT]) == b"abcd"
    agent.send(wire.start(2, "cat", user=ME, flags=wire.WITH_STDIN) + wire.data(2, 1, b"gap"))
    with pytest.raises(AssertionError, match="closed the connection"):
        agent.pump(lambda: False)


def test_input_after_its_end(agent):
    """A new daemon may not know that the one before it has ended the input. What it sends then is dropped, and nothing else suffers."""
    agent.send(wire.start(1, "cat; echo ended; sleep 300", user=ME, flags=wire.WITH_STDIN) + wire.data(1, 0, b"abc"))
    x = agent.execs.setdefault(1, wire.Exec())
    assert agent.greet(wire.SECRET)["held"][1]["stdin_ended"] == 0
    agent.send(wire.resume(1, 0, 0, 1 << 30, 1 << 30) + wire.data(1, 0, b"abc") + wire.end(1, 3))
    agent.pump(lambda: bytes(x.got[STDOUT]) == b"abcended\n")
    held = agent.greet(wire.SECRET)["held"][1]
    assert (held["accepted"], held["stdin_ended"]) == (3, 1)
    agent.send(wire.resume(1, 9, 0, 1 << 30, 1 << 30) + wire.data(1, 3, b"more") + wire.end(1, 7))
    assert bytes(agent.run(2, "echo other", user=ME).got[STDOUT]) == b"other\n"
    assert x.acked == 3 and x.exit is None
    held = agent.greet(wire.SECRET, newest=2)["held"][1]
    assert (held["accepted"], held["stdin_ended"]) == (3, 0)  # protocol 2 does not have it
    agent.send(wire.resume(1, 9, 0, 1 << 30, 1 << 30) + wire.kill(1, 9, True))
    agent.pump(lambda: x.exit)


@pytest.mark.parametrize("kw,what", [
    ({"cwd": "/nowhere"}, "chdir /nowhere"),
    ({"cwd": "no/where"}, "no/where"),
    ({"user": "nobody-here"}, "nobody-here"),
    ({"user": "%s:nogroup-here" % ME}, "nogroup-here"),
    ({"flags": wire.WITH_PTY}, "terminal"),
])
def test_refused_with_the_reason(agent, kw, what):
    x = agent.run(1, "true", **{"user": ME, **kw})
    assert x.started[0] != 0 and what in x.started[1] and x.exit is None
    assert agent.run(1, "echo after", n=9, user=ME).exit["code"] == 0


def test_relative_cwd(agent):
    os.mkdir(agent.workspace / "sub")
    x = agent.run(1, "pwd", cwd="sub", user=ME)
    assert bytes(x.got[STDOUT]).decode().strip() == str(agent.workspace / "sub")


def test_timeout_kills_everything(agent):
    agent.send(wire.start(1, "sleep 300 & echo $!; sleep 300", user=ME, timeout=0.5))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: x.exit, 10)
    assert x.how["flags"] == 0, "a killed process counts as left running"
    assert x.exit["timed_out"] == 1 and x.exit["signal"] == 9 and 400e3 < x.exit["usec"] < 5e6
    wait_dead(int(x.got[STDOUT]))


def test_background_child_does_not_hold_the_end(agent):
    t = time.monotonic()
    x = agent.run(1, "sleep 300 & echo $!", user=ME)
    assert x.exit["code"] == 0 and x.how["flags"] == wire.LEFT and time.monotonic() - t < 5
    pid = int(x.got[STDOUT])
    assert alive(pid)
    # After EXIT_ACK the host cannot reach its cgroup any more; it belongs to the machine alone.
    os.kill(pid, signal.SIGKILL)


def test_printing_server_survives(agent):
    marker = agent.workspace / "alive"
    os.mkfifo(marker)
    # Prints without end; when a kibibyte could not be delivered, it reports through the FIFO that it lives.
    cmd = "(i=0; while [ $i -lt 30000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; echo yes > %s) & echo pid $!" % marker
    x = agent.run(1, cmd, user=ME)
    assert x.exit["code"] == 0 and x.exit["usec"] < 10e6
    fd = os.open(marker, os.O_RDWR)
    import select
    assert select.select([fd], [], [], 20)[0], "died of SIGPIPE or was never drained"
    assert os.read(fd, 10) == b"yes\n"
    os.close(fd)


def test_output_before_exit_is_never_lost(agent):
    agent.auto = False
    agent.send(wire.start(1, "head -c 500000 /dev/zero; echo end >&2", user=ME, limit=1000))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: len(x.got[STDOUT]) == 1000)
    total = 1000
    while not x.exit:
        agent.send(wire.ack(1, STDOUT, total, total + 70000))
        before = total
        agent.pump(lambda: len(x.got[STDOUT]) == min(500000, before + 70000) or x.exit)
        assert len(x.got[STDOUT]) <= before + 70000
        total = len(x.got[STDOUT])
        if total == 500000:
            agent.pump(lambda: x.exit)
    assert total == 500000 and bytes(x.got[STDERR]) == b"end\n" and x.exit["code"] == 0


def test_slow_reader_stops_only_its_own_stream(agent):
    agent.auto = False
    agent.send(wire.start(1, "yes", user=ME))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: len(x.got[STDOUT]) == wire.WINDOW)
    assert agent.run(2, "echo other", user=ME).exit["code"] == 0
    assert len(x.got[STDOUT]) == wire.WINDOW
    agent.auto = True  # what is in the pipe is still delivered
    agent.send(wire.kill(1, 9, True) + wire.ack(1, STDOUT, wire.WINDOW, 1 << 40))
    agent.pump(lambda: x.exit)
    assert x.exit["signal"] == 9


def test_kill_foreground_and_all(agent):
    agent.send(wire.start(1, "trap 'echo int; exit 3' INT; echo ready; sleep 300 & wait", user=ME))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: bytes(x.got[STDOUT]) == b"ready\n")
    agent.send(wire.kill(1, signal.SIGINT))
    agent.pump(lambda: x.exit)
    assert x.exit["code"] == 3 and bytes(x.got[STDOUT]).endswith(b"int\n")
    agent.send(wire.kill(77, 9))
    assert agent.run(2, "true", user=ME).exit["code"] == 0


def test_reconnect_in_the_middle_of_frames(agent):
    agent.send(wire.start(1, "cat; echo done >&2; exit 5", user=ME, flags=wire.WITH_STDIN))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: x.limit)
    agent.send(wire.data(1, 0, b"A" * 1000))
    agent.pump(lambda: len(x.got[STDOUT]) == 1000)
    for cut in (1, 11, 13, 500):
        agent.send(wire.data(1, len(x.got[STDOUT]), b"B" * 1000)[:cut])
        w = agent.greet(wire.SECRET)
        assert w["state"] == 1 and w["machine_id"] == wire.ID
        held = w["held"][1]
        assert held["id"] == wire.exec_id(1) and not held["exited"] and held["accepted"] == 1000
        agent.send(wire.resume(1, len(x.got[STDOUT]), 0, 1 << 30, 1 << 30))
    agent.send(wire.data(1, 0, b"A" * 1000) + wire.data(1, 1000, b"C") + wire.end(1, 1001))
    agent.pump(lambda: x.exit)
    assert bytes(x.got[STDOUT]) == b"A" * 1000 + b"C" and x.exit["code"] == 5
    # EXIT is sent again until EXIT_ACK, after the output that is requested again.
    for _ in range(3):
        x.exit, x.ended = None, {}
        assert agent.greet(wire.SECRET)["held"][1]["exited"] == 1
        agent.send(wire.resume(1, 1001, 5, 1 << 30, 1 << 30))
        agent.pump(lambda: x.exit)
    agent.send(wire.frame(wire.EXIT_ACK, 1))
    assert agent.greet(wire.SECRET)["held"] == {}


def test_no_output_before_resume_and_none_lost(agent):
    agent.auto = False
    agent.send(wire.start(1, "head -c 100000 /dev/zero", user=ME))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: x.exit)
    agent.execs.clear()
    w = agent.greet(wire.SECRET)
    assert w["held"][1]["kept"][STDOUT] == 0 and w["held"][1]["produced"][STDOUT] == 100000
    assert agent.run(2, "true", user=ME).exit and 1 not in agent.execs
    agent.send(wire.resume(1, 0, 0, wire.WINDOW, wire.WINDOW))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: x.exit)
    assert len(x.got[STDOUT]) == 100000


def test_start_is_idempotent(agent):
    mark = agent.workspace / "count"
    first = wire.start(1, "echo x >> %s; sleep 0.3" % mark, user=ME)
    agent.send(first + first)
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: x.exit)
    agent.send(first)
    assert agent.run(2, "true", user=ME).exit
    assert mark.read_text() == "x\n"


def test_old_sync_is_refused_after_setup(agent):
    agent.send(wire.initial_sync() + wire.frame(wire.HELLO, 0, struct.pack("<HH", 1, 1) + bytes(32)))
    with pytest.raises(AssertionError, match="closed the connection"):
        agent.pump(lambda: False, 5)  # thirty-two bytes that are not a frame: this connection ends


def test_setup_of_another_machine_is_refused(agent):
    # With a secret of its own: a repeated one would be found as SYNC in the middle of the message.
    other = bytes(range(50, 82))
    assert agent.set_up(machine_id=bytes(16), sync=other)[0] == errno.EEXIST
    assert agent.set_up(sync=other)[0] == 0
    assert agent.greet(other)["state"] == 1


def test_too_many_commands(agent):
    for c in range(1, 66):
        agent.send(wire.start(c, "sleep 300", user=ME))
    last = agent.execs.setdefault(65, wire.Exec())
    agent.pump(lambda: last.started)
    assert last.started[0] == errno.EAGAIN
    agent.pump(lambda: sum(1 for x in agent.execs.values() if x.started and x.started[0] == 0) == 64, 30)


def test_hello_that_ends_like_the_start_of_sync(agent):
    """The agent holds those bytes back until the NOP after them shows that they are not SYNC."""
    for n in (1, 7, 31):
        assert agent.greet(wire.SECRET, nonce=os.urandom(32 - n) + wire.SECRET[:n])["version"] == wire.NEWEST


def test_long_command_in_parts(agent):
    word = "x" * 120000
    x = agent.run(1, "printf %s | wc -c" % word, user=ME, env=["BIG=" + "y" * 100000])
    assert bytes(x.got[STDOUT]).strip() == b"120000"


def test_orderly_bye(agent):
    agent.send(wire.start(1, "sleep 300", user=ME))
    x = agent.execs.setdefault(1, wire.Exec())
    agent.pump(lambda: x.started)
    agent.send(wire.frame(wire.SHUTDOWN))
    agent.pump(lambda: agent.bye)
    assert agent.bye[0] == 0
    assert agent.process.wait(20) == 0


def test_garbage_never_hurts():
    for seed in range(30):
        rng = __import__("random").Random(seed)
        ours, theirs = socket.socketpair()
        p = subprocess.Popen([AGENT, "--serve-fd", str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
        theirs.close()
        h = wire.Host(ours)
        h.greet(wire.initial_sync())
        if seed % 2:
            assert h.set_up()[0] == 0
        good = wire.start(1, "true", user=ME) + wire.resume(1, 0, 0, 9, 9) + wire.kill(1, 9) + wire.data(1, 0, b"x") + wire.end(1, 1)
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        h.send(bytes(bad))
        ours.shutdown(socket.SHUT_WR)
        _, err = p.communicate(timeout=20)
        ours.close()
        assert p.returncode in (0, 1) and b"Sanitizer" not in err and b"runtime error" not in err, err.decode()
