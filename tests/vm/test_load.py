# SPDX-License-Identifier: MIT
"""Clients of two uids mix all calls while machines run, one guest writes and syncs without end and a fragmented disk is deleted:
the answers of the well-behaved uid stay quick, whatever the other does at its quota, and nothing fails except because of a
quota. Then the daemon hangs, its watchdog (this test acts as systemd) ends and restarts it, and the machines live. A small n
here; tests/soak load runs 64 clients and 10 machines for five minutes."""
import concurrent.futures
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import BUILD, N, keep
from streams import Live

ENV = "debian:12"
FULL = N > 1
SECONDS, CLIENTS, RUNNING, FRAGMENTED_MIB = (300, 64, 10, 4096) if FULL else (12, 16, 3, 512)
GREEDY, MODEST = 61001, 61002
LIMIT = 8  # machines of a uid; the greedy one has all of them
WATCHDOG_USEC = 3000000
LOAD, ECHO = BUILD + "/tests/bench/rpc-load", BUILD + "/tests/bench/rpc-echo"
REPLY_BYTES = "400"
PROBE_USEC, GREEDY_USEC, MODEST_USEC, ECHO_USEC = "5000", "10000", "20000", "13000"

CONFIG = """max_machines = %d
max_vcpus = 1000
max_memory_mib = 100000
total_memory_mib = 100000
max_disk_mib = 1000000
disk_reserve_mib = 1024
""" % LIMIT

# Writes and syncs for ever; signals do not end it.
WRITER = "trap '' USR1; while :; do dd if=/dev/zero of=/workspace/f bs=1M count=32 conv=fsync 2>/dev/null; sync; echo .; done"


# The processor's shares, as the units have them: pyrod counts twice as much as all machines together (CPUWeight 100, pyro.slice
# 50), of which a dozen run here: 24 times as much as each, which is fifteen steps of niceness.
AUTOGROUP_NICE = "-15"


class Systemd:
    """Does what systemd does for pyrod: holds its socket over restarts, weights it against its machines, waits for READY and
    ends it when its watchdog expires."""

    def __init__(self, d, *args):
        self.d, self.args, self.pid = d, args, None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(d.socket)
        self.listener.listen(128)
        os.chmod(d.socket, 0o666)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(d.root + "/notify")
        self.changed, self.last, self.ready = threading.Condition(), 0, 0
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        """Reads pyrod's notifications at once: its sd_notify would wait for us."""
        while True:
            said = self.notify.recv(4096)
            with self.changed:
                self.last = time.monotonic()
                self.ready += b"READY=1" in said
                self.changed.notify_all()
            if said == b"end":
                return

    def start(self):
        with self.changed:
            before = self.ready
            self.pid = self.d.exec_with(self.listener, *self.args, NOTIFY_SOCKET=self.d.root + "/notify",
                                        WATCHDOG_USEC=str(WATCHDOG_USEC))
            assert self.changed.wait_for(lambda: self.ready > before, 30), self.d.log_text()
        with contextlib.suppress(FileNotFoundError):  # a kernel without
            with open("/proc/%d/autogroup" % self.pid, "w") as f:
                f.write(AUTOGROUP_NICE)

    def watchdog(self):
        """Waits for a silence as long as the watchdog's, then acts as systemd does: SIGABRT, SIGCONT, and a new pyrod."""
        with self.changed:
            while (left := self.last + WATCHDOG_USEC / 1e6 - time.monotonic()) > 0:
                self.changed.wait(left)
        os.kill(self.pid, signal.SIGABRT)
        os.kill(self.pid, signal.SIGCONT)
        status = os.waitpid(self.pid, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT, status
        self.start()

    def stop(self):
        os.kill(self.pid, signal.SIGCONT)
        os.kill(self.pid, signal.SIGTERM)
        pidfd = os.pidfd_open(self.pid)
        ended = select.select([pidfd], [], [], 20)[0]
        os.close(pidfd)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        assert os.waitpid(self.pid, 0)[1] == 0, self.d.log_text()
        self.listener.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as us:
            us.sendto(b"end", self.d.root + "/notify")


class Caller(threading.Thread):
    """Disconnects from its live command again and again and returns, and signals it meanwhile."""

    COMMAND = "trap '' USR1; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"

    def __init__(self, d):
        super().__init__(daemon=True)
        self.live = Live(d, {"environment": ENV, "command": self.COMMAND, "timeout_seconds": 0, **NEW})
        self.attached, self.failure, self.over = 0, None, threading.Event()

    def run(self):
        try:
            self.live.more()
            while not self.over.is_set():
                self.live.leave()
                while not self.live.attach():
                    self.over.wait(0.01)
                self.live.signal("USR1")
                self.live.more()
                self.attached += 1
        except Exception as e:
            self.failure = e

    def end(self):
        self.over.set()
        self.join(300)
        assert not self.failure and not self.is_alive() and self.attached > 0, self.failure
        got = self.live.got
        lines = got[:got.rfind(b"\n") + 1]
        assert lines == b"".join(b"%d\n" % (i + 1) for i in range(lines.count(b"\n")))
        self.live.signal("KILL")
        assert self.live.result()["exit_code"] == 128 + signal.SIGKILL
        self.live.leave()


class Load:
    """A running rpc-load of some uid. first: it runs with real-time priority, so that its times show the server alone; its
    children do not."""

    def __init__(self, uid, server, calls, *flags, seconds=SECONDS, first=False):
        words = [LOAD, "-t", str(seconds), *flags, *server]
        for method, params in calls:
            words += [method, params if isinstance(params, str) else json.dumps(params)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=uid, group=uid, extra_groups=[],
                                        start_new_session=True)
        if first:
            os.sched_setscheduler(self.process.pid, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))

    def result(self):
        out, err = self.process.communicate(timeout=SECONDS + 120)
        assert self.process.returncode == 0, err.decode()
        return json.loads(out)


def mix(vm, idle):
    """What clients ask about machines that stay. The rest of the table needs more: what deletes and what prunes (below), and
    commands of their own (Caller)."""
    return [("vm.status", {"vm_id": vm}), ("system.ping", {}), ("vm.list", {}), ("vm.network_info", {"vm_id": vm}),
            ("env.list", {}), ("vm.status", {"vm_id": vm}), ("vm.list_environments", {}), ("env.inspect", {"environment": ENV}),
            ("vm.start", {"vm_id": vm}), ("vm.stop", {"vm_id": idle}), ("cancel", {"id": "none"}), ("env.pull", {"environment": ENV}),
            ("vm.reap_expired", {}), ("system.doctor", {"probe": False})]


NEW = {"environment": ENV, "mem_mib": 192, "disk_mib": 64, "ttl_seconds": 0}
# Machines that are created, examined and deleted; and one that is booted for its command.
COME_AND_GO = [("vm.create", NEW), ("vm.status", '{"vm_id":"@"}'), ("vm.delete", '{"vm_id":"@"}')]
ONE_COMMAND = [("vm.create", NEW), ("vm.exec", '{"vm_id":"@","command":"true","timeout_seconds":0}')]
# Refused each time, since the uid has all that it may.
REFUSED = [("vm.create", NEW), ("vm.run", {"environment": ENV, "command": "true", "mem_mib": 192})]


def as_uid(d, uid, *args, **kw):
    return d.pyro(*args, user=uid, group=uid, extra_groups=[], env={"HOME": "/nonexistent"}, **kw)


def create(d, uid, disk_mib=256):
    r = as_uid(d, uid, "vm", "create", "--id-only", "-m", "192", "--disk-mib", str(disk_mib), "--ttl-seconds", "0", ENV)
    assert r.status == 0, r
    return r.text.strip()


def boot(d, vm):
    assert d.call("vm.start", {"vm_id": vm}, timeout=240)["result"]["state"] == "started"


def alive(pid):
    try:
        return b"qemu" in open("/proc/%d/cmdline" % pid, "rb").read()
    except FileNotFoundError:
        return False


def fragmented(d):
    """A machine whose disk consists of pieces with a hole between each two."""
    vm = create(d, 0, disk_mib=2 * FRAGMENTED_MIB)
    piece = 64 << 10
    with open(d.state + "/machines/" + vm + "/disk.ext4", "r+b") as f:
        for at in range(0, 2 * FRAGMENTED_MIB << 20, 2 * piece):
            os.posix_fallocate(f.fileno(), at, piece)
        assert os.fstat(f.fileno()).st_blocks * 512 >= FRAGMENTED_MIB << 20
    return vm


class Host:
    """The machines of both uids, the greedy one's up to its limit, and a guest that writes and syncs."""

    def __init__(self, d):
        self.d = d
        assert d.pyro("env", "pull", ENV, timeout=900).status == 0
        self.greedy = [create(d, GREEDY) for _ in range(LIMIT)]
        self.modest = [create(d, MODEST) for _ in range(RUNNING // 3 + 1)]
        self.running = self.greedy[:RUNNING - len(self.modest)] + self.modest
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda vm: boot(d, vm), self.running))
        self.fragmented = fragmented(d)
        self.vmms = [pid for pid, name in d.processes() if "qemu" in name]
        assert len(self.vmms) == RUNNING
        self.writer = d.popen("vm", "exec", "--timeout-seconds", "0", self.greedy[0], "--", "sh", "-c", WRITER, user=GREEDY,
                              group=GREEDY, extra_groups=[], env={"HOME": "/nonexistent"}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.writes(1)

    def writes(self, times, seconds=120):
        """How many rounds the writer has made since; only this empties its pipe."""
        end = time.monotonic() + seconds
        while times > 0:
            assert select.select([self.writer.stdout], [], [], max(0, end - time.monotonic()))[0], "the writer has stopped writing"
            data = os.read(self.writer.stdout.fileno(), 4096)
            assert data, self.d.log_text()
            times -= data.count(b".")

    def probes(self, seconds):
        """The modest uid's vm.status at a fixed pace, of a client that never waits for a processor and of an ordinary one; and
        the answers of a bare echo that as many clients call as often as the daemon: on a host with too much to run, the process
        that runs more waits longer."""
        ask = [("vm.status", {"vm_id": self.modest[0]})]
        return (Load(MODEST, ("-s", self.d.socket), ask, "-i", PROBE_USEC, seconds=seconds, first=True),
                Load(MODEST, ("-s", self.d.socket), ask, "-i", PROBE_USEC, seconds=seconds),
                Load(MODEST, ("-e", ECHO, "-n", REPLY_BYTES), ask, "-c", str(CLIENTS), "-i", ECHO_USEC, seconds=seconds))

    def modest_clients(self, seconds):
        server = ("-s", self.d.socket)
        return [Load(MODEST, server, mix(self.modest[0], self.modest[0])[:9], "-c", str(CLIENTS // 2 - 4), "-i", MODEST_USEC, seconds=seconds),
                Load(MODEST, server, COME_AND_GO, "-i", "100000", seconds=seconds),
                Load(MODEST, server, ONE_COMMAND, seconds=seconds)]

    def greedy_clients(self, seconds, *pace):
        server = ("-s", self.d.socket)
        return [Load(GREEDY, server, mix(self.greedy[0], self.greedy[-1]), "-c", str(CLIENTS // 2 - 3), *pace, seconds=seconds),
                Load(GREEDY, server, REFUSED, "-c", "2", *pace, seconds=seconds)]

    def admin(self, seconds):
        return Load(0, ("-s", self.d.socket), [("env.prune", {}), ("env.list", {})], "-i", "200000", seconds=seconds)


@pytest.fixture
def system(make_daemon, root_only, tmp_path):
    d = make_daemon()
    config = tmp_path / "pyrod.conf"
    config.write_text(CONFIG)
    s = Systemd(d, "--config", str(config))
    s.start()
    d.pid = lambda: s.pid
    yield s
    s.stop()


def under_load(host, what, seconds, greedy=None, during=lambda: None):
    """The percentiles of the modest uid's vm.status (the daemon's part; as an ordinary client sees it) and of the bare echo
    while clients call; the answers to the others are checked. greedy: the pace of that uid's clients, () for as fast as they are
    answered."""
    caller = Caller(host.d)
    modest = host.modest_clients(seconds)
    others = [] if greedy is None else host.greedy_clients(seconds, *greedy)
    probes, admin = host.probes(seconds), host.admin(seconds)
    caller.start()
    during()
    results = [load.result() for load in (*modest, admin)]
    caller.end()
    for result in results:
        assert not result["errors"], result
    assert {"vm.create", "vm.status", "vm.delete"} <= set(results[1]["methods"]), results[1]
    if others:
        asks, refused = (load.result() for load in others)
        assert not asks["errors"], asks
        assert set(refused["errors"]) == {"quota_exceeded"} and refused["errors"]["quota_exceeded"]["calls"] == refused["calls"], refused
        results += [asks, refused]
    daemon, ours, echo = ({p: r["methods"]["vm.status"][p + "_us"] / 1e3 for p in ("p50", "p99")} for r in (load.result() for load in probes))
    keep(**{"load_" + what: {
        "daemon_ms": daemon, "status_ms": ours, "echo_ms": echo, "p99_ratio": round(ours["p99"] / echo["p99"], 2),
        "attached": caller.attached, "calls_per_second": round(sum(r["per_second"] for r in results)), "host_load": os.getloadavg()[0]}})
    return daemon, ours, echo


def test_load_of_two_uids_and_a_hung_daemon(system):
    d = system.d
    host = Host(d)
    under_load(host, "modest_alone", SECONDS // 4)

    def delete_fragmented():
        gone = d.call("vm.delete", {"vm_id": host.fragmented}, timeout=SECONDS + 120)
        assert gone.get("result", {}).get("deleted"), gone

    daemon, ours, echo = under_load(host, "both", SECONDS, ("-i", GREEDY_USEC), delete_fragmented)
    # At least half of the calls wait for no other.
    assert ours["p50"] <= 5 * echo["p50"]
    # On a host with too much to run (other tests, emulated guests), the hundredth call shows how long the scheduler lets a
    # client wait, as the echo's does: the daemon's part stays below 5 ms there too, if no other test runs beside it.
    bound = min(5, 10 * echo["p99"]) if echo["p99"] <= 1 else max(5, 3 * echo["p99"])
    assert ours["p99"] <= bound
    assert daemon["p99"] < (5 if FULL else bound)
    # As fast as it is answered, the greedy uid takes the daemon's whole processor, and others are still served.
    under_load(host, "flooded", SECONDS // 4, ())
    host.writes(1)
    assert all(map(alive, host.vmms))

    os.kill(system.pid, signal.SIGSTOP)
    system.watchdog()
    assert all(map(alive, host.vmms))
    end = time.monotonic() + 30
    while True:
        states = {v["vm_id"]: v["state"] for v in d.vms()}
        if all(states[vm] == "started" for vm in host.running):
            break
        assert time.monotonic() < end, states
        time.sleep(0.05)
    host.writes(2)
    host.writer.send_signal(signal.SIGINT)
    host.writer.wait(timeout=60)
    for vm in d.vms():
        d.call("vm.delete", {"vm_id": vm["vm_id"]}, timeout=60)
    d.wait_clean(60)
