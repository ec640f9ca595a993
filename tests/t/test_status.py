# SPDX-License-Identifier: MIT
"""What vm.status, vm.list and similar methods report about machines, with the fake VMM: order, reasons, owners."""
import os
import signal
import time

import pytest

OTHER = 61002


def create(fake):
    return fake.call("vm.create", fake.spec())["result"]["vm_id"]


def listed(fake, **params):
    got = fake.call("vm.list", params)["result"]
    assert got["count"] == len(got["vms"])
    return [v["vm_id"] for v in got["vms"]]


def status(fake, vm):
    return fake.call("vm.status", {"vm_id": vm})["result"]


def test_the_last_used_is_listed_first(fake):
    a, b, c = create(fake), create(fake), create(fake)
    assert listed(fake) == [c, b, a]
    fake.call("vm.start", {"vm_id": a})
    assert listed(fake) == [a, c, b]
    fake.call("vm.start", {"vm_id": b})
    assert status(fake, c)["state"] == "created"  # a status call does not count as use
    fake.call("vm.network_info", {"vm_id": c})
    assert listed(fake) == [b, a, c]
    fake.call("vm.stop", {"vm_id": a})
    assert listed(fake) == [a, b, c]
    fake.kill()
    fake.start()
    assert listed(fake) == [a, b, c]
    for vm in (a, b, c):
        assert fake.call("vm.delete", {"vm_id": vm})["result"] == {"vm_id": vm, "deleted": True, "reason": "explicit_delete"}
    fake.wait_clean()


@pytest.mark.parametrize("reason", ["user", "host_shutdown"])
def test_a_stopped_machine_shows_the_reason(fake, reason):
    vm = create(fake)
    assert status(fake, vm)["stop_reason"] is None
    fake.call("vm.start", {"vm_id": vm})
    params = {"vm_id": vm} if reason == "user" else {"vm_id": vm, "reason": reason}
    assert fake.call("vm.stop", params)["result"]["stop_reason"] == reason
    fake.kill()
    fake.start()
    assert status(fake, vm)["stop_reason"] == reason
    assert fake.call("vm.start", {"vm_id": vm})["result"]["stop_reason"] is None
    assert fake.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    fake.wait_clean()


def test_an_idle_machine_that_ends_ran_no_command(fake):
    vm = create(fake)
    fake.call("vm.start", {"vm_id": vm})
    pid, = fake.vmm_pids()
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while ": " not in (status(fake, vm)["last_error"] or ""):  # the cause comes with the resting state
        assert time.monotonic() < end, status(fake, vm)
    assert status(fake, vm)["last_error"].startswith("machine %s ended: the VMM was killed by signal 9" % vm)
    assert fake.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    fake.wait_clean()


def test_a_new_machine_has_all_fields_and_no_network(fake):
    vm = create(fake)
    got = status(fake, vm)
    for absent in ("network_policy", "guest_ip", "tap_name", "pause_reason", "stop_reason", "execution_mode", "last_error"):
        assert got[absent] is None, absent
    assert (got["network_enabled"], got["allow_host_compat"]) == (False, False)
    assert fake.call("vm.network_info", {"vm_id": vm})["result"] == {
        "vm_id": vm, "network_enabled": False, "network_policy": None, "tap_name": None, "guest_ip": None, "gateway_ip": None,
        "subnet_cidr": None, "mac_address": None, "dns_servers": [], "ports": [], "outbound_connectivity_expected": False,
        "reason": "its network is off"}
    assert fake.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    fake.wait_clean()


def test_expired_machines_are_listed(make_fake):
    fake = make_fake().start()
    vm = fake.call("vm.create", fake.spec(ttl_seconds=0))["result"]["vm_id"]
    assert fake.call("vm.reap_expired")["result"] == {"count": 0, "deleted_vm_ids": []}
    assert fake.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    fake.wait_clean()


def test_roots_list_is_its_own_unless_it_asks_for_all(fake, root_only):
    """No other user may."""
    import os
    os.chmod(fake.root, 0o755)
    os.chmod(fake.socket, 0o666)
    r = fake.pyro("--json", "vm", "create", *fake.run_flags(), "debian:12", user=OTHER, group=OTHER, extra_groups=[], env={"HOME": "/nonexistent"})
    assert r.status == 0, r
    theirs, = [v["vm_id"] for v in fake.vms()]
    mine = create(fake)
    assert listed(fake) == [mine] and listed(fake, all_users=True) == [mine, theirs]
    r = fake.pyro("vm", "list", "--all-users", user=OTHER, group=OTHER, extra_groups=[], env={"HOME": "/nonexistent"})
    assert r.status == 1 and "not permitted for uid %d" % OTHER in r.errors and "fix: sudo pyro vm list --all-users" in r.errors
    for vm in (mine, theirs):
        assert fake.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    fake.wait_clean()
