# SPDX-License-Identifier: MIT
"""Operations on files by the agent as an ordinary process: the checks of agent_files.py, and what a host may do: repeat, disconnect,
send too much. tests/vm/test_files.py has the checks in a guest."""
import errno
import fcntl
import glob
import os
import struct

import pytest

import agent_files
import wire
from agent_files import Box
from conftest import wait_for
from test_agent import ME, agent  # noqa: F401 (a fixture)
from wire import FILE_EDIT, FILE_LIST, FILE_READ, FILE_WRITE


@pytest.fixture
def box(agent, tmp_path):  # noqa: F811
    folder = tmp_path / "box"
    folder.mkdir()
    return Box(agent, str(folder), user=ME)


@pytest.mark.parametrize("check", agent_files.CHECKS, ids=lambda c: c.__name__)
def test_check(box, check):
    check(box)


def test_relative_to_the_workspace(box, agent):  # noqa: F811
    agent_files.relative(box, agent.workspace)


def locked(host):
    """Takes the locks of all files in the agent's place: its writes and edits wait."""
    (fd,) = [p for p in glob.glob("/proc/%d/fd/*" % host.process.pid) if "pyro-files" in os.readlink(p)]
    f = open(fd, "r+b")
    fcntl.lockf(f, fcntl.LOCK_EX)
    return f


def test_a_repeated_id_is_not_done_again(box, agent):  # noqa: F811
    """After each reconnection the host asks again: the write was done once, and both edits say what they found then."""
    ids = {c: os.urandom(16) for c in range(1, 9)}
    asks = [wire.file(1, FILE_WRITE, box.path("f"), ids[1], text_=b"one two")]
    asks += [wire.file(c, FILE_EDIT, box.path("f"), ids[c], old=b"o" if c % 2 else b"one", text_=b"x") for c in range(2, 5)]
    asks += [wire.file(5, FILE_READ, box.path("f"), ids[5]), wire.file(6, FILE_LIST, box.path("."), ids[6])]
    first = {}
    for round_ in range(3):
        for c, ask in enumerate(asks, 1):
            agent.files.pop(c, None)
            agent.send(ask)
            agent.pump(lambda: c in agent.files)
            (done,) = agent.files[c]
            assert done["id"] == ids[c]
            if c < 5 or round_ == 0:
                assert done == first.setdefault(c, done), (round_, c)
        box.sh("printf outside > f")  # must survive the repetition
        agent.greet(wire.SECRET)
    assert [first[c]["error"] for c in range(1, 5)] == [0, 0, 0, errno.ENODATA]
    assert box.sh("cat f") == b"outside"
    # The other answers are forgotten; an id that was another operation's is an error of the host.
    agent.send(wire.file(1, FILE_READ, box.path("f"), ids[1]))
    agent.pump_closed()


def test_an_answer_waits_for_the_question_of_this_connection(box, agent):  # noqa: F811
    id_ = os.urandom(16)
    with locked(agent):
        agent.send(wire.file(1, FILE_WRITE, box.path("f"), id_, text_=b"x"))
        agent.greet(wire.SECRET)
    box.sh("while ! [ -e f ]; do sleep 0.01; done")
    assert agent.files == {}
    assert agent.file(7, FILE_WRITE, box.path("f"), id_=id_, text_=b"x")["error"] == 0


def test_an_operation_that_hangs_has_a_deadline(box, agent):  # noqa: F811
    """Nothing of it is done; others go on meanwhile."""
    with locked(agent):
        agent.send(wire.file(1, FILE_WRITE, box.path("f"), text_=b"x"))
        box.sh("printf y > other")
        assert box.done(FILE_READ, "other")["content"] == b"y"
        agent.pump(lambda: 1 in agent.files, 20)
        (d,) = agent.files.pop(1)
        assert (d["error"], d["flags"]) == (errno.ETIMEDOUT, 0), d
    box.fails(FILE_READ, "f", errno.ENOENT)
    box.done(FILE_WRITE, "f", text_=b"x")


def test_commands_that_flood_do_not_delay_it(box, agent):  # noqa: F811
    """The answer comes before all that they have to send: eight windows, which are much more than the port's buffer."""
    floods = range(1, 9)

    def total():
        return sum(len(agent.execs[c].got[wire.STDOUT]) for c in floods if c in agent.execs)
    agent.auto = False
    for c in floods:
        agent.send(wire.start(c, "exec yes", user=ME))
    children = "/proc/%d/task/%d/children" % (agent.process.pid, agent.process.pid)

    def named(name):
        return [pid for pid in open(children).read().split() if open("/proc/%s/comm" % pid).read() == name + "\n"]

    def written(pid):
        return int(open("/proc/%s/io" % pid).read().split("wchar: ")[1].split()[0])

    def are_full():
        return len(named("yes")) == 8 and all(written(pid) >= wire.WINDOW for pid in named("yes"))

    def is_answered():  # nobody reads meanwhile, so the agent has the answer when it has reaped the process
        return os.path.exists(box.path("f")) and not named("pyro-file")

    def holds(condition):
        try:
            return condition()
        except (FileNotFoundError, ProcessLookupError):  # a process ends now
            return False
    wait_for(lambda: holds(are_full))
    agent.send(wire.file(9, FILE_WRITE, box.path("f"), text_=b"x"))
    wait_for(lambda: holds(is_answered))
    agent.pump(lambda: 9 in agent.files)
    assert agent.files.pop(9)[0]["error"] == 0
    assert total() < 8 * wire.WINDOW, total()
    agent.auto, before = True, total()
    for c in floods:
        n = len(agent.execs[c].got[wire.STDOUT]) if c in agent.execs else 0
        agent.send(wire.ack(c, wire.STDOUT, n, n + wire.WINDOW))
    agent.pump(lambda: total() > before + 8 * wire.WINDOW)
    for c in floods:
        agent.send(wire.kill(c, 9))
    agent.pump(lambda: all(agent.execs[c].exit for c in floods))


def test_eight_at_once(box, agent):  # noqa: F811
    with locked(agent):
        for c in range(1, 11):
            agent.send(wire.file(c, FILE_WRITE, box.path("f%d" % c), text_=b"x"))
        agent.pump(lambda: len(agent.files) == 2)
        assert {c: d[0]["error"] for c, d in agent.files.items()} == {9: errno.EAGAIN, 10: errno.EAGAIN}
    agent.pump(lambda: len(agent.files) == 10)
    assert all(agent.files[c][0]["error"] == 0 for c in range(1, 9))
    assert box.sh("ls") == b"".join(b"f%d\n" % c for c in range(1, 9))


def test_a_host_that_reconnects_for_ever(box, agent):  # noqa: F811
    """Operations of hosts that left go on; there are at most 32 processes of them."""
    with locked(agent):
        for round_ in range(5):
            agent.files.clear()
            for c in range(8 * round_ + 1, 8 * round_ + 9):
                agent.send(wire.file(c, FILE_WRITE, box.path("f%d" % c), text_=b"x"))
            if round_ < 4:
                agent.greet(wire.SECRET)
        agent.pump(lambda: len(agent.files) == 8)
        assert {d[0]["error"] for d in agent.files.values()} == {errno.EAGAIN}
    box.sh("while [ $(ls | wc -l) -lt 32 ]; do sleep 0.01; done")


@pytest.mark.parametrize("kind", ["op", "flags", "path", "no-path", "max", "max-of-list", "lines-of-list", "old-of-write", "no-old", "both", "channel", "cut"])
def test_what_a_host_may_not_send(box, agent, kind):  # noqa: F811
    f, p = wire.file, box.path("f")
    bad = {
        "op": lambda: f(1, 4, p, max_bytes=0),
        "flags": lambda: f(1, FILE_READ, p, flags=1),
        "path": lambda: f(1, FILE_READ, b"x" * 4097),
        "no-path": lambda: f(1, FILE_READ, b""),
        "max": lambda: f(1, FILE_READ, p, max_bytes=(1 << 20) + 1),
        "max-of-list": lambda: f(1, FILE_LIST, p, max_bytes=1),
        "lines-of-list": lambda: f(1, FILE_LIST, p, max_lines=1),
        "old-of-write": lambda: f(1, FILE_WRITE, p, old=b"x"),
        "no-old": lambda: f(1, FILE_EDIT, p),
        "both": lambda: f(1, FILE_EDIT, p, old=b"x" * 600000, text_=b"y" * 600000),
        "channel": lambda: f(0, FILE_READ, p),
        "cut": lambda: wire.frame(wire.FILE, 1, bytes(16) + struct.pack("<BI", FILE_READ, 0) + struct.pack("<I", 5) + b"x"),
    }[kind]()
    agent.send(bad)
    agent.pump_closed()


def test_before_setup(tmp_path):
    import socket
    import subprocess
    from test_agent import AGENT
    ours, theirs = socket.socketpair()
    p = subprocess.Popen([AGENT, "--serve-fd", str(theirs.fileno()), "--workspace", str(tmp_path)], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    theirs.close()
    h = wire.Host(ours)
    h.greet(wire.initial_sync())
    h.send(wire.file(1, FILE_WRITE, str(tmp_path / "x"), text_=b"x"))
    assert p.wait(20) == 1 and not (tmp_path / "x").exists()
    assert b"bad frame" in p.stderr.read()
