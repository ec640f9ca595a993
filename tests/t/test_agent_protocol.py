# SPDX-License-Identifier: MIT
"""The agent protocol between peers of different versions: what was recorded of each older version (tests/frames) is sent to this
build's agent and pyrod, then what a newer one may send; both keep working."""
import os
import re
import signal
import socket
import struct
import subprocess

import pytest

import recorded
import wire
from conftest import BUILD
from fakevm import MANNERS, lines
from recorded import Agent, Line, grown, machines
from streams import kill

AGENT = os.environ.get("PYRO_TEST_AGENT", BUILD + "/guest/pyro-agent")
TALKS = [(version, words, connections) for version in range(1, wire.NEWEST) for words, connections in machines(version)]
NAMES = ["%d-%s" % (version, "-".join(words.split()[:5])) for version, words, _ in TALKS]


@pytest.fixture
def agent(root_only, tmp_path):
    ours, theirs = socket.socketpair()
    p = subprocess.Popen([AGENT, "--serve-fd", str(theirs.fileno()), "--workspace", str(tmp_path)], pass_fds=[theirs.fileno()],
                         stderr=subprocess.PIPE)
    theirs.close()
    yield ours
    ours.close()
    assert p.wait(20) == 0, p.stderr.read()


def test_each_older_version_is_recorded():
    said = subprocess.run([AGENT, "--version"], capture_output=True, text=True, check=True).stdout
    assert int(re.search(r"\(protocol (\d+)\)", said).group(1)) == wire.NEWEST
    kept = {int(name.split("-")[1]) for name in os.listdir(recorded.FRAMES) if name.startswith("protocol-")}
    assert kept == set(range(1, wire.NEWEST))


@pytest.mark.parametrize("version,words,connections", TALKS, ids=NAMES)
def test_agent_answers_an_old_host(agent, version, words, connections):
    """Each byte that a host of that version sends gets the answer that it got then, and nothing that it does not know."""
    was, now = recorded.host(agent, connections)
    assert now == was


def happens(d, words):
    dict(recorded.talk(d, ("--disk-mib", "64"), MANNERS["deaf"], lambda d: (kill(d), d.start())))[words]()


@pytest.mark.parametrize("version,words,connections", TALKS, ids=NAMES)
def test_pyrod_serves_an_old_agent(fake, version, words, connections):
    """pyrod sends to an agent of that version what the pyrod of that time sent, and nothing else; its callers see the same."""
    with Agent(fake, connections, more=(wire.LOGIN,) if version >= 2 else ()) as player:
        happens(fake, words)
    assert player.hellos == [(1, wire.NEWEST)] * len(connections)
    fake.wait_clean()


def test_agent_serves_a_newer_host(agent):
    """The host offers unknown versions and sends unknown things; both agree on our newest version, and everything works."""
    h = wire.Host(agent)
    for newest in (wire.NEWEST + 1, 65535):
        w = h.greet(wire.initial_sync() if newest < 65535 else wire.SECRET, newest=newest, more=b"what a newer host offers")
        assert w["version"] == wire.NEWEST
        if newest < 65535:
            h.send(grown(wire.setup()))
            h.pump(lambda: h.setup_done)
            h.send(grown(wire.frame(wire.LOGIN)) + grown(wire.start(1, "cat; exit 3", flags=wire.WITH_STDIN)) + wire.data(1, 0, b"input"))
            x = h.execs.setdefault(1, wire.Exec())
            h.pump(lambda: bytes(x.got[wire.STDOUT]) == b"input")
    assert list(w["held"]) == [1]
    h.send(grown(wire.resume(1, 5, 0, 1 << 20, 1 << 20)) + wire.end(1, 5))
    h.pump(lambda: x.exit)
    assert (x.exit["code"], x.how["flags"]) == (3, 0)
    h.send(grown(wire.frame(wire.EXIT_ACK, 1)) + grown(wire.start(2, "sleep 1000")))
    y = h.execs.setdefault(2, wire.Exec())
    h.pump(lambda: y.started)
    h.send(grown(wire.kill(2, signal.SIGTERM)))
    h.pump(lambda: y.exit)
    assert y.exit["signal"] == signal.SIGTERM
    h.send(grown(wire.frame(wire.SHUTDOWN)))
    h.pump(lambda: h.bye)


HELD = struct.calcsize("<15sIBQ4Q4Q")  # of one held command in WELCOME, before protocol 3


def newer(lines):
    """A recorded agent of protocol 1 that behaves like one of a newer protocol: it agrees on ours, and sends more."""
    for line in lines:
        if line.way == "<" and line.kind == wire.ENDED:
            continue
        if line.way == "<" and line.kind is not None:
            data = line.data
            if line.kind == wire.WELCOME:
                held = [data[51 + at:51 + at + HELD] + b"\0" for at in range(0, len(data) - 51, HELD)]
                data = wire.frame(wire.WELCOME, 0, struct.pack("<H", wire.NEWEST) + data[14:51] + b"".join(held))
            if line.kind == wire.EXIT:
                data = wire.frame(wire.EXIT, line.channel, data[12:] + struct.pack("<II", 0, 300))
            line = Line("<", line.name, data)
            line.data = grown(data)
        yield line


@pytest.mark.parametrize("version,words,connections", [t for t in TALKS if t[0] == 1], ids=[n for n in NAMES if n[0] == "1"])
def test_pyrod_serves_a_newer_agent(fake, version, words, connections):
    """The agent is newer than its daemon: a downgrade under running machines."""
    with Agent(fake, connections, said=newer, more=(wire.LOGIN,)):
        happens(fake, words)
    fake.wait_clean()


@pytest.mark.parametrize("manner,limit", [("old", None), ("good", {"name": "mem_mib", "value": 200, "flag": "-m 400M"})])
def test_reported_cause_of_an_end(fake, manner, limit):
    """Since protocol 2 the agent reports which limit ended a command; for an older agent nothing is invented."""
    r = fake.call("vm.run", fake.spec(manner, command="echo here; ended 3 300; exit 137"))["result"]
    assert (r["stdout"], r["exit_code"], r["limit"]) == ("here\n", 137, limit), r
    assert (r["ended_by"], r["background_left"]) == (("memory", True) if limit else (None, None)), r
    r = fake.call("vm.run", fake.spec(manner, command="killed 9"))["result"]  # the signal itself is told by each
    assert (r["exit_code"], r["ended_by"], r["background_left"]) == (137, "signal", False if limit else None), r
    fake.wait_clean()


def test_old_agent_is_adopted_with_its_command(fake):
    """The daemon is replaced, its stream is cut, and an agent of protocol 1 continues with its command's input and output."""
    flags, data = fake.run_flags("old"), lines(300000)
    p = fake.popen("-q", "run", "-i", *flags, "debian:12", "--", "print 300000; cut out 1000; cat; err done; exit 4", stdin=subprocess.PIPE,
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert p.stdout.read(16) == data[:16]
    kill(fake)
    fake.start()
    out, err = p.communicate(data, timeout=60)
    assert (p.returncode, out, err) == (4, data[16:] + data, b"done\n"), (err, fake.log_text())
    fake.wait_clean()
