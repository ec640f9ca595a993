# SPDX-License-Identifier: MIT
"""The stream repairs itself (tests/streams.py), with real guests and QEMU's own virtio-serial."""
import pytest

import streams
from conftest import BUILD_ASAN
from fakevm import lines
from streams import RealGuest


@pytest.fixture
def d(make_daemon):
    return make_daemon().start()


def test_hosts_in_place_of_pyrod(d):
    streams.hosts_in_place_of_pyrod(d, RealGuest)


def test_cut_repeatedly(d):
    streams.cut_repeatedly(d, RealGuest)


def test_content_that_looks_like_the_protocol(d):
    streams.content_like_the_protocol(d, RealGuest)


def test_caller_lost(d):
    command, = RealGuest.around(200000)
    command = command[:command.rindex(";")]
    streams.caller_lost(d, command, lines(200000), mem_mib=256)


@pytest.mark.soak
def test_daemon_away_nearly_as_long_as_callers_wait(d):
    streams.daemon_away(d, RealGuest, 9)


def test_daemon_away_longer_than_callers_wait(make_daemon):
    d = make_daemon(build=BUILD_ASAN, deadlines={"redial": 0.5}).start()
    command, = RealGuest.around(2000000)
    streams.daemon_away_longer(d, command[:command.index(";")], lines(2000000), 1, mem_mib=256)
