# SPDX-License-Identifier: MIT
"""Calls that need a guest while its machine is being adopted: they wait for its agent's answer, and an agent that answered
too late is asked again. list, status and delete never wait. The fake VMM; a stopped process stands for a guest that does
not answer."""
import json
import os
import signal
import threading
import time

import pytest

from conftest import BUILD_ASAN, Raw


def running(d):
    """A machine that stays, running."""
    vm = d.call("vm.create", d.spec())["result"]["vm_id"]
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    return vm


@pytest.fixture
def vm(fake):
    return running(fake)


@pytest.fixture
def impatient(make_fake):
    """A daemon that gives an adopted agent two seconds, and a call half a second of them."""
    return make_fake(build=BUILD_ASAN, deadlines={"adopt": 2, "adopt_call": 0.5}).start()


def restart_with_a_silent_guest(fake):
    """Replaces the daemon while the guest is silent; returns a function that lets the guest answer."""
    pid, = fake.vmm_pids()
    fake.kill()
    os.kill(pid, signal.SIGSTOP)
    fake.start()
    return lambda: os.kill(pid, signal.SIGCONT)


def state(fake, vm):
    return fake.call("vm.status", {"vm_id": vm})["result"]["state"]


def ask(raw, vm, *verbs):
    """Makes calls in this order on one connection; each verb is its call's id."""
    for verb in verbs:
        raw.send(json.dumps({"jsonrpc": "2.0", "id": verb, "method": "vm." + verb, "params": {"vm_id": vm}}).encode() + b"\n")


def in_background(fake, method, **params):
    replies = []
    thread = threading.Thread(target=lambda: replies.append(fake.call(method, params, timeout=60)))
    thread.start()

    def reply():
        thread.join(60)
        return replies[0]
    return reply


def test_start_and_command_wait(fake, vm):
    let_it_answer = restart_with_a_silent_guest(fake)
    begun = in_background(fake, "vm.start", vm_id=vm)
    ran = in_background(fake, "vm.exec", vm_id=vm, command="echo here; exit 3")
    begin = time.monotonic()
    assert state(fake, vm) == "unknown" and [v["vm_id"] for v in fake.vms()] == [vm]
    assert time.monotonic() - begin < 2  # these do not wait
    let_it_answer()
    assert begun()["result"]["state"] == "started"
    assert (ran()["result"]["exit_code"], ran()["result"]["stdout"]) == (3, "here\n")
    fake.wait_clean()


def test_stop_waits_and_is_orderly(fake, vm):
    let_it_answer = restart_with_a_silent_guest(fake)
    stopped = in_background(fake, "vm.stop", vm_id=vm)
    assert state(fake, vm) == "unknown"
    let_it_answer()
    assert stopped()["result"]["state"] == "stopped"
    assert fake.reported("end")  # the guest shut down by itself: it was asked to
    assert fake.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"


def test_delete_does_not_wait(fake, vm):
    restart_with_a_silent_guest(fake)
    with Raw(fake.socket, 60) as raw:
        ask(raw, vm, "start", "delete")
        replies = {r["id"]: r for r in (raw.line(), raw.line())}
    assert replies["delete"]["result"]["deleted"] and replies["start"]["error"]["data"]["code"] == "cancelled", replies
    fake.wait_clean()


def test_an_agent_that_answers_too_late_is_asked_again(impatient):
    fake, vm = impatient, running(impatient)
    let_it_answer = restart_with_a_silent_guest(fake)
    begin = time.monotonic()
    reply = fake.call("vm.exec", {"vm_id": vm, "command": "echo here"}, timeout=60)
    assert reply["error"]["data"]["code"] == "guest_unresponsive" and reply["error"]["data"]["retryable"], reply
    assert time.monotonic() - begin > 0.4
    assert state(fake, vm) == "unknown" and not fake.call("vm.status", {"vm_id": vm})["result"]["last_error"]
    while not fake.call("vm.status", {"vm_id": vm})["result"]["last_error"]:  # the daemon asks for longer than a call waits
        assert time.monotonic() - begin < 40
        time.sleep(0.1)
    assert state(fake, vm) == "unknown" and len(fake.vmm_pids()) == 1  # nobody killed it
    let_it_answer()
    assert fake.call("vm.exec", {"vm_id": vm, "command": "echo here"}, timeout=60)["result"]["stdout"] == "here\n"
    fake.wait_clean()


def test_stop_of_a_machine_whose_agent_never_answers(impatient):
    fake, vm = impatient, running(impatient)
    restart_with_a_silent_guest(fake)
    assert fake.call("vm.stop", {"vm_id": vm}, timeout=60)["result"]["state"] == "stopped"
    assert not fake.vmm_pids()
    assert fake.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"


def test_a_stop_and_then_a_start_in_a_row(fake, vm):
    """In that order on one connection: the machine is booted again once it is stopped."""
    pid, = fake.vmm_pids()
    let_it_answer = restart_with_a_silent_guest(fake)
    with Raw(fake.socket, 60) as raw:
        ask(raw, vm, "stop", "start", "status")
        assert raw.line()["id"] == "status"  # both other calls wait
        let_it_answer()
        replies = [raw.line(), raw.line()]
    assert [r["id"] for r in replies] == ["stop", "start"] and all("result" in r for r in replies), replies
    assert state(fake, vm) == "started" and fake.vmm_pids() != [pid]


@pytest.mark.parametrize("driver", ["qemu", "fake"])
def test_died_between_launch_and_boot(make_fake, driver):
    """A VMM without a guest is left, for its control socket did not answer in time: the next daemon boots it."""
    d = make_fake(build=BUILD_ASAN, env={"PYRO_TEST_DRIVER": driver}).start()
    vm = d.call("vm.create", d.spec("qmp-late"))["result"]["vm_id"]
    with Raw(d.socket, 60) as raw:
        ask(raw, vm, "start")
        while not d.vmm_pids():
            time.sleep(0.01)
        d.kill()
    pid, = d.vmm_pids()
    d.start()
    reply = d.call("vm.start", {"vm_id": vm}, timeout=60)
    assert reply.get("result", {}).get("state") == "started", reply  # it waits for the adoption
    assert d.vmm_pids() == [pid]
    reports = [d.reported("")]
    while reports[-1] != "setup":
        reports.append(d.reported(""))
    assert reports.count("boot") == 1, reports
    assert d.call("vm.exec", {"vm_id": vm, "command": "echo here; exit 3"}, timeout=60)["result"]["exit_code"] == 3
    d.wait_clean()
