# SPDX-License-Identifier: MIT
"""The agent protocol between peers of different versions: what was recorded of each version since 1 (tests/frames) is said to the
agent and to pyrod of this build, and both find their way."""
import os
import socket
import subprocess

import pytest

import recorded
from conftest import BUILD
from fakevm import MANNERS
from recorded import Agent, machines
from streams import kill

AGENT = os.environ.get("PYRO_TEST_AGENT", BUILD + "/guest/pyro-agent")
VERSIONS = [1]
TALKS = [(version, words, connections) for version in VERSIONS for words, connections in machines(version)]
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


@pytest.mark.parametrize("version,words,connections", TALKS, ids=NAMES)
def test_agent_answers_an_old_host(agent, version, words, connections):
    """Each byte that a host of that version said has the answer that it had."""
    was, now = recorded.host(agent, connections)
    assert now == was


def happens(d, words):
    dict(recorded.talk(d, ("--disk-mib", "64"), MANNERS["deaf"], lambda d: (kill(d), d.start())))[words]()


@pytest.mark.parametrize("version,words,connections", TALKS, ids=NAMES)
def test_pyrod_serves_an_old_agent(fake, version, words, connections):
    """pyrod says to an agent of that version what the pyrod of then said, and its callers see the same."""
    with Agent(fake, connections) as player:
        happens(fake, words)
    assert {low for low, _ in player.hellos} == {1} and len(player.hellos) == len(connections)
    fake.wait_clean()
