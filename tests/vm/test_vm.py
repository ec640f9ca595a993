# SPDX-License-Identifier: MIT
"""`pyro vm ...` against real guests: a machine that is created, booted, stopped, given its command and deleted; the effect of
its owner's limits and of the host's full disk; and that no other user sees it."""
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

import pytest

from conftest import BUILD, CACHE, stage

ENV = "debian:12"
OWNER, OTHER = 61001, 61002


def as_uid(daemon, uid, *args, **kw):
    """The client as another uid; the socket admits it as a member of group pyro."""
    return daemon.pyro(*args, user=uid, group=uid, extra_groups=[], env={"HOME": "/nonexistent"}, **kw)


def create(daemon, *flags):
    r = daemon.pyro("vm", "create", "--id-only", *flags, ENV)
    assert r.status == 0 and re.fullmatch(r"vm-[0-9a-f]{12}\n", r.text), r
    return r.text.strip()


def status(daemon, vm):
    r = daemon.pyro("--json", "vm", "status", vm)
    assert r.status == 0, r
    return json.loads(r.text)


def test_a_machine_from_creation_to_its_one_command(daemon):
    vm = create(daemon, "--cpus", "2", "-m", "512", "--ttl-seconds", "3600")
    made = status(daemon, vm)
    assert made["state"] == "created" and made["vcpu_count"] == 2 and made["mem_mib"] == 512 and made["ttl_seconds"] == 3600
    assert made["execution_mode"] is None and made["network_enabled"] is False
    assert not daemon.vmm_pids()
    listed = daemon.pyro("vm", "list")
    assert any(line.split()[:2] == ["vm_id=" + vm, "state=created"] for line in listed.text.splitlines())
    shown = daemon.pyro("vm", "status", vm).text.splitlines()
    assert shown[:5] == ["VM ID: " + vm, "Environment: debian:12", "State: created", "Execution mode: -", "Resources: 2 vCPU / 512 MiB"]
    for verb, want in (("start", "started"), ("start", "started"), ("stop", "stopped"), ("stop", "stopped"), ("start", "started")):
        r = daemon.pyro("--json", "vm", verb, vm[:9])
        assert r.status == 0, r
        assert json.loads(r.text)["state"] == want
        assert bool(daemon.vmm_pids()) == (want == "started")
    info = json.loads(daemon.pyro("--json", "vm", "network-info", vm).text)
    assert info == {
        "vm_id": vm, "network_enabled": False, "network_policy": None, "tap_name": None, "guest_ip": None, "gateway_ip": None,
        "subnet_cidr": None, "mac_address": None, "dns_servers": [], "ports": [], "outbound_connectivity_expected": False,
        "reason": "its network is off"}
    r = daemon.pyro("vm", "exec", vm, "--", "sh", "-c", "nproc; exit 4")
    assert r.status == 4 and r.out == b"2\n", r
    assert re.search(r"^\[vm-exec\] vm_id=%s execution_mode=guest_serial exit_code=4 duration_ms=\d+ deleted=true$" % vm, r.errors, re.M)
    gone = daemon.pyro("vm", "status", vm)
    assert gone.status == 1 and "machine %s not found" % vm in gone.errors
    daemon.wait_clean()


def test_stop_ends_the_running_command(daemon):
    vm = create(daemon)
    command = daemon.popen("vm", "exec", "--timeout-seconds", "0", vm, "--", "sh", "-c", "echo runs; exec sleep 1000",
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout.readline() == b"runs\n"
    # It was the machine's only command, so the machine is deleted at its end: it is never seen stopped.
    r = daemon.pyro("--json", "vm", "stop", vm)
    assert r.status == 0, r
    stopped = json.loads(r.text)
    assert (stopped["state"], stopped["stop_reason"]) == ("stopped", "user"), r
    assert stopped["cleanup"] == {"deleted": True, "reason": "post_exec_cleanup", "vm_id": vm}, r
    assert command.wait(timeout=60) == 128 + 15, command.stderr.read()
    daemon.wait_clean()


def test_disk_survives_stop_and_start(daemon, tmp_path):
    vm = create(daemon)
    assert daemon.pyro("vm", "start", vm).status == 0
    disk = daemon.state + "/machines/" + vm + "/disk.ext4"
    assert daemon.pyro("vm", "stop", vm).status == 0
    # The guest unmounted it: its journal is empty and it is clean.
    out = subprocess.run(["dumpe2fs", "-h", disk], capture_output=True, text=True)
    assert "needs_recovery" not in out.stdout and re.search(r"Filesystem state:\s+clean", out.stdout), out.stdout
    # What is on it then is there at the next start.
    mark = tmp_path / "mark"
    mark.write_text("from outside\n")
    subprocess.run(["debugfs", "-w", "-R", "write %s /workspace/mark" % mark, disk], check=True, capture_output=True)
    r = daemon.pyro("vm", "exec", vm, "--", "cat", "/workspace/mark")
    assert r.status == 0 and r.out == b"from outside\n", r
    daemon.wait_clean()


def test_machine_made_before_an_upgrade_starts(make_daemon):
    """The agent is another file: the machine's kernel is packed with it before the boot, without a pull."""
    d = make_daemon()
    agent, d.env["PYRO_AGENT"] = d.env["PYRO_AGENT"], d.root + "/pyro-agent"
    shutil.copy(agent, d.env["PYRO_AGENT"])
    vm = create(d.start(), "--ttl-seconds", "0")
    d.stop()
    shutil.copy(agent, d.root + "/new")
    os.replace(d.root + "/new", d.env["PYRO_AGENT"])
    r = d.start().pyro("vm", "start", vm)
    assert r.status == 0 and status(d, vm)["state"] == "started", r
    assert d.pyro("vm", "exec", vm, "--", "true").status == 0
    d.wait_clean()


def test_guest_that_ends_itself_has_failed_and_boots_again(daemon):
    vm = create(daemon)
    assert daemon.pyro("vm", "start", vm).status == 0
    (pid, _), = [p for p in daemon.processes() if "qemu" in p[1]]
    os.kill(pid, 9)
    end = time.monotonic() + 20
    while status(daemon, vm)["state"] != "failed":
        assert time.monotonic() < end, status(daemon, vm)
    assert status(daemon, vm)["last_error"]
    assert daemon.pyro("vm", "start", vm).status == 0
    assert status(daemon, vm)["last_error"] is None
    assert daemon.pyro("vm", "delete", vm).status == 0
    daemon.wait_clean()


def test_expired_machine_is_deleted_but_not_during_a_command(make_daemon):
    d = make_daemon().start()
    vm = create(d, "--ttl-seconds", "4")
    busy = create(d, "--ttl-seconds", "1")
    p = d.popen("vm", "exec", busy, "--", "sh", "-c", "sleep 6; echo survived", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while any(v["vm_id"] == vm for v in d.vms()):
        assert time.monotonic() < end
    out, err = p.communicate(timeout=60)
    assert out == b"survived\n", err
    d.wait_clean()


def test_limits_refuse_before_anything_is_made(make_daemon, tmp_path):
    conf = tmp_path / "pyrod.conf"
    conf.write_text("max_machines = 2\nmax_memory_mib = 1500\nmax_disk_mib = 30000\n")
    d = make_daemon().start("--config", str(conf))
    first = create(d, "-m", "1024")
    for flags, words in (
            (("-m", "512"), "memory"),
            (("-m", "128", "--disk-mib", "25000"), "disk")):
        r = d.pyro("--json", "vm", "create", *flags, ENV)
        assert r.status == 1, r
        error = json.loads(r.text)["error"]
        assert error["code"] == "quota_exceeded" and words in error["message"] and error["fix"], error
        assert [v["vm_id"] for v in d.vms()] == [first]
    create(d, "-m", "128")
    r = d.pyro("--json", "run", "-m", "128", ENV, "--", "true")
    assert r.status == 125 and json.loads(r.text)["error"]["code"] == "quota_exceeded", r
    for v in d.vms():
        assert d.pyro("vm", "delete", v["vm_id"]).status == 0
    d.wait_clean()


def methods_on_machines():
    """Every method whose object is a machine, from the one table."""
    document = json.load(open(stage(BUILD) + "/share/pyro/openrpc.json"))
    found = [m["name"] for m in document["methods"] if m["x-pyro-object"] == "vm"]
    assert {"vm.status", "vm.delete", "vm.start", "vm.stop", "vm.exec", "vm.network_info"} <= set(found)
    return found


def test_another_uid_finds_nothing(make_daemon, root_only):
    d = make_daemon().start()
    os.chmod(d.socket, 0o666)
    made = as_uid(d, OWNER, "vm", "create", "--id-only", ENV)
    assert made.status == 0, made
    vm = made.text.strip()
    assert as_uid(d, OTHER, "--json", "vm", "list").text.strip() == '{"count":0,"vms":[]}'
    for method in methods_on_machines():
        verb = method.split(".")[1].replace("_", "-")
        extra = ["--", "true"] if verb == "exec" else []
        for target in (vm, vm[:6], "vm-ffffffffffff"):
            r = as_uid(d, OTHER, "--json", "vm", verb, target, *extra)
            error = json.loads(r.text)["error"]
            assert error["code"] == "vm_not_found" and error["message"] == "machine %s not found" % target, (method, r)
    owned = json.loads(as_uid(d, OWNER, "--json", "vm", "list").text)
    assert [v["vm_id"] for v in owned["vms"]] == [vm]
    assert [(v["vm_id"], v["owner_uid"]) for v in d.vms()] == [(vm, OWNER)]  # root sees owners
    assert as_uid(d, OWNER, "vm", "delete", vm).status == 0
    d.wait_clean()


@contextlib.contextmanager
def small_state(work, make_daemon, mib, config):
    """A started daemon whose state is on a file system of its own, of that size, and its path."""
    place = tempfile.mkdtemp(dir=work)
    os.chmod(place, 0o755)
    image, mount, conf = place + "/image", place + "/mount", place + "/conf"
    os.makedirs(mount)
    with open(image, "wb") as f:
        f.truncate(mib << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True).returncode != 0:
        pytest.skip("no loop mounts here")
    try:
        d = make_daemon()
        subprocess.run(["cp", "-a", CACHE + "/kernels", mount + "/kernels"], check=True)
        d.state = d.env["PYRO_STATE_DIR"] = mount
        with open(conf, "w") as f:
            f.write(config)
        yield d.start("--config", conf), mount, conf
        d.wait_clean()
        d.stop()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
        shutil.rmtree(place)


def free_bytes(mount):
    room = os.statvfs(mount)
    return room.f_bavail * room.f_frsize


def fill_up_to(mount, left):
    """A file that leaves so many bytes free."""
    with open(mount + "/ballast", "wb") as f:
        os.posix_fallocate(f.fileno(), 0, free_bytes(mount) - left)
    return mount + "/ballast"


def write_in_guest(d, mib):
    return d.popen("run", "--timeout-seconds", "600", ENV, "--", "sh", "-c",
                   "dd if=/dev/urandom of=/workspace/big bs=1M count=%d conv=fsync 2>/dev/null && stat -c %%s /workspace/big" % mib,
                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_paused(d, p, mount, state="started"):
    """Waits until a machine is paused; returns the least space that was free meanwhile."""
    least, end = free_bytes(mount), time.monotonic() + 90
    while True:
        # A daemon that has just started knows the last_error of the one before it, and not yet what its VMMs do.
        paused = [v for v in d.vms() if v["pause_reason"]]
        least = min(least, free_bytes(mount))
        if paused:
            assert [(v["state"], v["pause_reason"], v["last_error"]) for v in paused] == [(state, "disk_full", "paused: disk_full")]
            return least
        assert p.poll() is None, p.stderr.read()
        assert time.monotonic() < end, d.vms()
        time.sleep(0.02)


def test_full_host_disk_pauses_and_resumes(make_daemon, root_only, work):
    """Without a reserve: the guest fills the file system, is paused, and is resumed when there is space."""
    with small_state(work, make_daemon, 420, "disk_reserve_mib = 0\n") as (d, mount, _):
        ballast = fill_up_to(mount, 150 << 20)
        p = write_in_guest(d, 200)
        wait_paused(d, p, mount)
        os.unlink(ballast)
        out, err = p.communicate(timeout=600)
        assert p.returncode == 0 and out == b"%d\n" % (200 << 20), err
        notes = re.findall(rb"(?m)^pyro: (.*)$", err)
        assert notes[:2] == [b"paused: the host's disk is full; free space on %s and it continues" % mount.encode(),
                            b"resumed: there is space on %s again" % mount.encode()], err


def test_reserve_is_kept_while_machines_run(make_daemon, root_only, work):
    """A guest that writes without end gets no further than the reserve; one that writes nothing is not paused; the next daemon
    knows of the pause; and the guest is resumed without a command."""
    reserve = 200 << 20
    with small_state(work, make_daemon, 900, "disk_reserve_mib = 200\n") as (d, mount, conf):
        other = d.popen("run", "-i", "--timeout-seconds", "300", ENV, "--", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL)
        other.stdin.write(b"before\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"before\n"
        ballast = fill_up_to(mount, reserve + (150 << 20))
        p = write_in_guest(d, 300)
        least = wait_paused(d, p, mount)
        stands_at = free_bytes(mount)
        assert reserve * 3 // 4 < stands_at < reserve, (least >> 20, stands_at >> 20)
        other.stdin.write(b"meanwhile\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"meanwhile\n"
        d.stop()
        d.start("--config", conf)
        wait_paused(d, p, mount, "unknown")  # no process in it can answer
        assert free_bytes(mount) > reserve * 3 // 4  # the guest would have written as much again
        os.unlink(ballast)
        out, err = p.communicate(timeout=600)
        assert p.returncode == 0 and out == b"%d\n" % (300 << 20), err
        other.stdin.close()
        assert other.wait(timeout=60) == 0


def test_the_largest_disk_is_used_and_takes_little(installed, make_daemon, tmp_path):
    conf = tmp_path / "pyrod.conf"
    conf.write_text("max_disk_mib = 16777216\n")
    d = make_daemon().start("--config", str(conf))
    largest = (16 << 20) - 1  # of a file on ext4
    vm = d.call("vm.create", {"environment": ENV, "disk_mib": largest}, timeout=120)["result"]["vm_id"]
    blocks = sum(os.stat(place).st_blocks * 512 for place in (d.state + "/machines/%s/disk.ext4" % vm, d.state + "/disks/blank-%d.ext4" % largest))
    assert blocks < 120 << 20
    r = d.pyro("vm", "exec", vm, "--", "df --output=size -BG /workspace | tail -n 1; head -c 50M /dev/urandom >/workspace/x && sync && stat -c %s /workspace/x",
               timeout=300)
    size, written = r.text.split()
    assert int(size.rstrip("G")) > 16000 and int(written) == 50 << 20, r
    d.wait_clean()
