# SPDX-License-Identifier: MIT
"""The stream repairs itself (tests/streams.py), with the fake VMM and both builds of the daemon."""
import random
import re
import subprocess
import time

import pytest

import streams
from conftest import BUILD_ASAN
from fakevm import lines
from streams import ENV, FakeGuest


def test_cut_anywhere(fake):
    """Each direction, at offsets in heads, in payloads and between frames."""
    seed = time.time_ns() % 1000000
    rng = random.Random(seed)
    data = lines(1 << 20)
    for _ in range(6):
        # Three at most: pyrod gives up a stream that breaks more often in ten seconds (agent/link.h).
        words = "cut in %d; cut out %d; print 300000; cut out %d; cat" % tuple(rng.randrange(1, 300000) for _ in range(3))
        r = fake.pyro("-q", "run", "-i", *fake.run_flags(), "debian:12", "--", words, input=data)
        assert (r.status, r.out == lines(300000) + data) == (0, True), (seed, words, r.errors, len(r.out))
    fake.wait_clean()


@pytest.mark.parametrize("offset", range(1, 61, 3))
def test_cut_in_a_frame_head(make_fake, offset):
    """Around the first frames after START: STARTED, ACK and DATA, byte by byte."""
    d = make_fake().start()
    for way in ("in", "out"):
        r = d.pyro("-q", "run", "-i", *d.run_flags(), "debian:12", "--", "cut %s %d; echo one; cat; echo two" % (way, offset), input=b"input\n")
        assert (r.status, r.out) == (0, b"one\ninput\ntwo\n"), (way, r)


def test_hosts_in_place_of_pyrod(fake):
    streams.hosts_in_place_of_pyrod(fake, FakeGuest)


def test_cut_repeatedly(fake):
    streams.cut_repeatedly(fake, FakeGuest)


def test_content_that_looks_like_the_protocol(fake):
    streams.content_like_the_protocol(fake, FakeGuest)


@pytest.mark.parametrize("size", [16, 200000])
def test_caller_lost(fake, size):
    streams.caller_lost(fake, "print %d; cat" % size, lines(size), mem_mib=200, disk_mib=64)


def test_daemon_away_nearly_as_long_as_callers_wait(make_fake):
    streams.daemon_away(make_fake(build=BUILD_ASAN, deadlines={"redial": 5}).start(), FakeGuest, 2)


def test_daemon_away_longer_than_callers_wait(make_fake):
    streams.daemon_away_longer(make_fake(build=BUILD_ASAN, deadlines={"redial": 0.3}).start(), "print 2000000", lines(2000000), 0.5, mem_mib=200,
                            disk_mib=64)


def test_caller_lost_with_input(fake):
    streams.caller_lost_with_input(fake, "sleep 700; cat", mem_mib=200, disk_mib=64)


def test_acknowledged_late(fake):
    streams.acknowledged_late(fake, "print 1000000", lines(1000000), mem_mib=200, disk_mib=64)


def test_attach_while_dialling(make_fake):
    streams.attach_while_dialling(make_fake().start(), "print 4000000", lines(4000000), mem_mib=200, disk_mib=64)


def test_attached_with_a_wrong_offset(fake):
    streams.attached_at_a_wrong_place(fake, "print 1000000", lines(1000000), mem_mib=200, disk_mib=64)


def test_paused_across_a_restart(make_fake):
    """The host's disk is full for longer than an adoption may take: the machine and its command wait, then continue."""
    d = make_fake(build=BUILD_ASAN, deadlines={"adopt": 1}).start()
    p = d.popen("run", *FakeGuest.flags, ENV, "--", "echo before; sleep 500; stand 4000; echo after", stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 20
    while not [v for v in d.vms() if v["last_error"] == "paused: disk_full"]:
        assert time.monotonic() < end and p.poll() is None, d.log_text()
        time.sleep(0.05)
    assert [v["pause_reason"] for v in d.vms()] == ["disk_full"]
    d.kill()
    d.start()
    out, err = p.communicate(timeout=90)
    assert (p.returncode, out) == (0, b"before\nafter\n"), (err, d.log_text())
    notes = re.findall(rb"(?m)^pyro: (paused: the host's disk is full|resumed: there is space)", err)
    assert len(notes) <= 2 * 5 and notes[0].startswith(b"paused") and notes[-1].startswith(b"resumed"), err
    assert all(a != b for a, b in zip(notes, notes[1:])), err
    d.wait_clean()


@pytest.mark.parametrize("how", ["run", "exec"])
def test_caller_is_notified_of_a_pause(fake, how):
    """The caller learns why nothing happens, what frees space, and that the command continues."""
    words = "echo before; stand 1500; echo after"
    if how == "run":
        r = fake.pyro("run", *FakeGuest.flags, ENV, "--", words)
    else:
        r = fake.pyro("vm", "exec", fake.call("vm.create", fake.spec())["result"]["vm_id"], "--", words)
    assert (r.status, r.out) == (0, b"before\nafter\n"), r.errors
    assert [line for line in r.errors.splitlines() if line.startswith("pyro: ")] == [
        "pyro: paused: the host's disk is full; free space on %s and it continues" % fake.state,
        "pyro: resumed: there is space on %s again" % fake.state], r.errors
    fake.wait_clean()


def test_input_as_text(fake):
    """Without a socket: the command reads exactly the text of the request, also beyond a window; NUL is a character."""
    for text in ("", "a\0b\n", "x" * 15 + "\n", lines(900000).decode()):
        for method, spec in (("vm.run", {"environment": ENV, "mem_mib": 200, "disk_mib": 64}), ("vm.exec", None)):
            params = spec or {"vm_id": fake.call("vm.create", fake.spec())["result"]["vm_id"]}
            got = fake.call(method, dict(params, command="cat", stdin=text), timeout=60)["result"]
            assert (got["exit_code"], got["stdout"]) == (0, text)
    assert fake.call("vm.run", fake.spec(command="cat"))["result"]["stdout"] == ""
    error = fake.call("vm.run", fake.spec(command="cat", interactive=True))["error"]
    assert error["data"]["code"] == "invalid_argument" and "interactive=true needs stdio" in error["message"]
    fake.wait_clean()
