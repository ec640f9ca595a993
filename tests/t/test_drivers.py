# SPDX-License-Identifier: MIT
"""Which driver runs a machine's VMM: chosen when the machine boots, kept in its row, and used from then on whatever driver
the next daemon would choose for a new machine. A test build has two drivers (daemon/vmm/vmm.c); a release has one, and
leaves the VMM of another driver alone."""
import contextlib
import sqlite3

import pytest

from conftest import BUILD, BUILD_ASAN, is_test_build, stage


@pytest.fixture
def d(make_fake):
    assert is_test_build(BUILD_ASAN)
    return make_fake(build=BUILD_ASAN)


def restart(d, driver=None, build=BUILD_ASAN):
    if d.process:
        d.kill()
    d.build = build
    d.env["PYRO_LIBEXEC_DIR"] = stage(build) + "/libexec/pyro"
    d.env["LD_LIBRARY_PATH"] = stage(build) + "/lib/x86_64-linux-gnu:" + stage(build) + "/lib"
    d.env.pop("PYRO_TEST_DRIVER", None)
    if driver:
        d.env["PYRO_TEST_DRIVER"] = driver
    d.start()


def running(d):
    vm = d.call("vm.create", d.spec())["result"]["vm_id"]
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    return vm


def drivers(d):
    return dict(d.rows("SELECT id, driver FROM vm"))


def status(d, vm):
    return d.call("vm.status", {"vm_id": vm})["result"]


def words(pid):
    return open("/proc/%d/cmdline" % pid, "rb").read().split(b"\0")


def test_adopted_by_the_driver_in_its_row(d):
    restart(d, driver="fake")
    first = running(d)
    pid, = d.vmm_pids()
    assert drivers(d) == {first: "fake"} and b"--fake-id" in words(pid) and b"-uuid" not in words(pid)
    assert status(d, first)["execution_mode"] == "guest_vsock"

    restart(d)
    second = running(d)
    assert drivers(d) == {first: "fake", second: "qemu"}
    assert d.call("vm.start", {"vm_id": first})["result"]["state"] == "started"  # it waits for the adoption
    assert status(d, first)["execution_mode"] == "guest_vsock" and status(d, second)["execution_mode"] == "guest_serial"
    assert pid in d.vmm_pids() and len(d.vmm_pids()) == 2

    restart(d, driver="fake")
    for vm in first, second:
        ran = d.call("vm.exec", {"vm_id": vm, "command": "echo of the guest; exit 3"})["result"]
        assert (ran["stdout"], ran["exit_code"]) == ("of the guest\n", 3), ran
    assert drivers(d) == {} and d.vmm_pids() == []


def test_chosen_at_each_boot(d):
    restart(d, driver="fake")
    vm = running(d)
    assert d.call("vm.stop", {"vm_id": vm})["result"]["state"] == "stopped"
    restart(d)
    assert drivers(d) == {vm: "fake"}
    assert d.call("vm.start", {"vm_id": vm})["result"]["execution_mode"] == "guest_serial"
    assert drivers(d) == {vm: "qemu"}


def test_daemon_that_died_before_the_pid_was_saved(d):
    """The VMM can be recognised only by the uuid in its driver's option."""
    restart(d, driver="fake")
    vm = running(d)
    pid, = d.vmm_pids()
    d.kill()
    with contextlib.closing(sqlite3.connect(d.state + "/pyro.db")) as db:
        db.execute("UPDATE vm SET state = 'starting', vmm_pid = 0, vmm_start_time = 0")
        db.commit()
    restart(d)
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    assert d.vmm_pids() == [pid] and status(d, vm)["execution_mode"] == "guest_vsock"


def test_vmm_of_an_unknown_driver_is_left_alone(d):
    restart(d, driver="fake")
    vm = running(d)
    pid, = d.vmm_pids()

    restart(d, build=BUILD)
    assert not is_test_build(BUILD)
    assert status(d, vm)["state"] == "unknown" and d.vmm_pids() == [pid]
    refused = d.call("vm.exec", {"vm_id": vm, "command": "true"})["error"]
    assert refused["data"]["code"] == "wrong_state", refused
    assert d.vmm_pids() == [pid]

    restart(d)
    assert d.call("vm.exec", {"vm_id": vm, "command": "exit 5"})["result"]["exit_code"] == 5
    assert d.vmm_pids() == []
