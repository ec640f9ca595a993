# SPDX-License-Identifier: MIT
"""The fake VMM itself: to the daemon and its callers, a well-behaved guest of tests/fake is like a real guest."""
import json
import os
import signal
import subprocess

import pytest

from conftest import Raw, wait_for
from fakevm import lines


def test_commands(fake):
    for words, status, out, err in (
        (["true"], 0, b"", b""),
        (["exit 7"], 7, b"", b""),
        (["echo some words; err other; exit 3"], 3, b"some words\n", b"other\n"),
        (["print 1000000; errprint 100"], 0, lines(1000000), lines(100)),
        (["sleep 50; echo late"], 0, b"late\n", b""),
    ):
        r = fake.pyro("-q", "run", *fake.run_flags(), "debian:12", "--", *words)
        assert (r.status, r.out, r.err) == (status, out, err), r
    fake.wait_clean()


def test_stdin(fake):
    data = lines(3 << 20)
    r = fake.pyro("-q", "run", "-i", *fake.run_flags(), "debian:12", "--", "cat; err done", input=data)
    assert (r.status, r.out == data, r.err) == (0, True, b"done\n"), r.errors


def test_timeout_and_signal(fake):
    r = fake.pyro("run", *fake.run_flags(), "--timeout-seconds", "1", "debian:12", "--", "sleep 0")
    assert r.status == 124, r
    p = fake.popen("run", *fake.run_flags(), "debian:12", "--", "echo on; sleep 0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"on\n"
    p.terminate()
    p.communicate(timeout=30)
    assert p.returncode in (130, 143)
    fake.wait_clean()


def test_machine_that_stays(fake):
    vm = fake.call("vm.create", fake.spec())["result"]["vm_id"]
    assert fake.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    assert fake.call("vm.stop", {"vm_id": vm})["result"]["state"] == "stopped"
    fake.reported("end")
    assert fake.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    r = fake.call("vm.exec", {"vm_id": vm, "command": "echo here"})["result"]
    assert (r["exit_code"], r["stdout"]) == (0, "here\n")
    fake.wait_clean()


@pytest.mark.parametrize("how", ["run", "exec"])
def test_stop_of_a_machine_that_is_deleted_with_its_command(fake, how):
    """It no longer runs, as requested; the client also reports that it was deleted."""
    if how == "run":
        words = ("run", *fake.run_flags(), "debian:12")
    else:
        words = ("vm", "exec", fake.call("vm.create", fake.spec())["result"]["vm_id"])
    p = fake.popen(*words, "--", "echo on; sleep 0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"on\n"
    vm = fake.vms()[0]["vm_id"]
    r = fake.pyro("vm", "stop", vm)
    assert (r.status, r.text, r.errors) == (0, "Deleted VM: %s\n" % vm, "[note] the machine and its disk were deleted when its only command ended\n")
    p.communicate(timeout=30)
    assert p.returncode in (125, 143) and fake.vms() == []
    fake.wait_clean()


def hang_up_after(daemon, method, params, times):
    """Makes as many calls on one connection, waits until all have been read, and disconnects."""
    with Raw(daemon.socket) as c:
        c.send(b"".join(json.dumps({"jsonrpc": "2.0", "id": "%d" % i, "method": method, "params": params}).encode() + b"\n" for i in range(times)))
        assert c.call("system.ping")["result"]


def test_callers_that_call_and_disconnect_are_bounded(fake):
    vm = fake.call("vm.create", fake.spec())["result"]["vm_id"]
    assert fake.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    stopped = fake.vmm_pids()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    for _ in range(5):
        hang_up_after(fake, "vm.stop", {"vm_id": vm}, 60)
    r = fake.call("vm.stop", {"vm_id": vm})
    assert r["error"]["data"]["code"] == "quota_exceeded", r
    assert [v["vm_id"] for v in fake.call("vm.list")["result"]["vms"]] == [vm]
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: "result" in fake.call("vm.stop", {"vm_id": vm}))
    assert fake.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    fake.wait_clean()


def test_machine_whose_creator_has_disconnected(fake):
    hang_up_after(fake, "vm.create", fake.spec(), 2)
    wait_for(lambda: [v["state"] for v in fake.vms()] == ["created"] * 2)
    for v in fake.vms():
        assert fake.call("vm.delete", {"vm_id": v["vm_id"]})["result"]["deleted"]
    fake.wait_clean()


@pytest.mark.parametrize("words", ["die", "reboot"])
def test_guest_that_ends(fake, words):
    r = fake.pyro("--json", "run", *fake.run_flags(), "debian:12", "--", words)
    assert r.status == 125 and json.loads(r.out)["error"]["code"] == "guest_died", r
    fake.wait_clean()


@pytest.mark.parametrize("stopped", [False, True], ids=["created", "stopped"])
def test_start_that_is_refused(fake, stopped):
    """The host has no memory left for it: its owner gets an error, its state is unchanged, and it can be started later."""
    vm = fake.call("vm.create", fake.spec())["result"]["vm_id"]
    if stopped:
        fake.call("vm.start", {"vm_id": vm})
        fake.call("vm.stop", {"vm_id": vm})
    state = "stopped" if stopped else "created"
    for reserve, code in ((1 << 30, "no_memory"), (0, None)):
        assert fake.stop() == 0
        with open(fake.conf, "a") as f:
            f.write("memory_reserve_mib = %d\n" % reserve)
        fake.start()
        reply = fake.call("vm.start", {"vm_id": vm})
        assert (reply["error"]["data"]["code"] == code) if code else reply["result"]["state"] == "started", reply
        assert fake.call("vm.status", {"vm_id": vm})["result"]["state"] == (state if code else "started")
    assert fake.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    fake.wait_clean()


def test_cut_streams_are_repaired(fake):
    """Both directions, in the middle of frames, at offsets where no frame ends."""
    data = lines(1 << 20)
    r = fake.pyro("-q", "run", "-i", *fake.run_flags(), "debian:12", "--", "cut in 100003; cut out 200005; cat; hangup; print 50000; err over",
                  input=data)
    assert (r.status, r.out == data + lines(50000), r.err) == (0, True, b"over\n"), r.errors
