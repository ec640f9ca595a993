# SPDX-License-Identifier: MIT
"""`true` in a running machine, as the caller of vm.exec sees it (from the request to the end of the command's output, which
arrives with its exit), against the same shell in the floor's bare machine, one after the other in each round. vm.exec deletes
its machine, so each round has its own, booted before."""
import json
import os
import re
import select
import socket
import statistics
import struct
import subprocess
import time

from conftest import N, Raw, keep

ROUNDS = 5 * N
FRAME_END = 66


def cpu_ms(pid):
    """The processor time that the process has used, by clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2) * 1e3


def vmm_of(daemon, vm):
    (pid,) = [p for p, name in daemon.processes() if "qemu" in name and vm in open("/proc/%d/cmdline" % p).read()]
    return pid


def until_end(sock, pid):
    """Reads frames until both streams have ended; returns the last seen processor time of pid, which ends then."""
    got, ends, cpu = b"", 0, 0
    deadline = time.monotonic() + 60
    while ends < 2:
        assert time.monotonic() < deadline, "the command does not end"
        cpu = cpu_ms(pid)
        if not select.select([sock], [], [], 0.001)[0]:
            continue
        more = sock.recv(65536)
        assert more, "its stdio broke"
        got += more
        while len(got) >= 12 and len(got) >= 12 + struct.unpack_from("<I", got)[0]:
            size, kind = struct.unpack_from("<IH", got)
            ends += kind == FRAME_END
            got = got[12 + size:]
    return cpu


def exec_true(daemon, vm):
    """Milliseconds, and the milliseconds of processor time that its VMM used."""
    ours, theirs = socket.socketpair()
    pid = vmm_of(daemon, vm)
    with Raw(daemon.socket, 60) as raw, ours:
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "vm.exec", "fds": 1,
                           "params": {"vm_id": vm, "command": "true", "stdio": 0}}).encode() + b"\n"
        cpu, begin = cpu_ms(pid), time.monotonic()
        socket.send_fds(raw.sock, [line], [theirs.fileno()])
        theirs.close()
        cpu = until_end(ours, pid) - cpu
        took = (time.monotonic() - begin) * 1e3
        ours.close()
        reply = raw.line()
        while reply.get("method") == "progress":
            reply = raw.line()
    assert reply["result"]["exit_code"] == 0, reply
    return took, cpu


def started(daemon):
    made = daemon.call("vm.create", {"environment": "debian:12", "mem_mib": 256, "disk_mib": 1024}, timeout=60)["result"]["vm_id"]
    assert daemon.call("vm.start", {"vm_id": made}, timeout=120)["result"]["state"] == "started"
    return made


def wait_idle(pid):
    """Waits until a machine that has just started uses less than a tenth of a processor: it still prepares itself."""
    end = time.monotonic() + 60
    before = cpu_ms(pid)
    while True:
        select.select([], [], [], 0.2)
        now = cpu_ms(pid)
        if now - before < 20:
            return
        assert time.monotonic() < end, "the guest does not come to rest"
        before = now


def floor_command(machine):
    cpu = cpu_ms(machine.pid)
    took = machine.command()
    return took, cpu_ms(machine.pid) - cpu


def qemu_version():
    out = subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True).stdout
    return int(re.match(r"QEMU emulator version (\d+)\.", out).group(1))


def floor_first(floor):
    """The first command of a machine of the floor, as vm.exec's is its machine's."""
    machine = floor.boot()
    try:
        return floor_command(machine)
    finally:
        machine.close()


def test_true_in_a_running_machine(daemon, floor):
    machine = floor.boot()
    execs, hot, first = [], [], []
    try:
        for _ in range(5):
            machine.command()
        for _ in range(ROUNDS):
            vm = started(daemon)
            wait_idle(vmm_of(daemon, vm))
            around = [floor_command(machine) for _ in range(2)]
            execs.append(exec_true(daemon, vm))
            around += [floor_command(machine) for _ in range(2)]
            first.append(floor_first(floor))
            hot.append([statistics.median(a[i] for a in around) for i in (0, 1)])
    finally:
        machine.close()
    ratio, cpu_ratio = (statistics.median(e[i] / h[i] for e, h in zip(execs, hot)) for i in (0, 1))
    first_ratio = statistics.median(e[1] / f[1] for e, f in zip(execs, first))
    best, cpu_best = (min(e[i] for e in execs) / min(h[i] for h in hot) for i in (0, 1))
    spread = max(h[0] for h in hot) / min(h[0] for h in hot)
    keep(
        exec_true_ms=round(statistics.median(e[0] for e in execs), 1),
        exec_true_best_ms=round(min(e[0] for e in execs), 1),
        floor_hot_ms=round(statistics.median(h[0] for h in hot), 1),
        floor_hot_best_ms=round(min(h[0] for h in hot), 1),
        floor_hot_spread=round(spread, 2),
        exec_ratio=round(ratio, 3),
        exec_ratio_of_best=round(best, 3),
        exec_cpu_ms=round(statistics.median(e[1] for e in execs), 1),
        exec_cpu_ratio=round(cpu_ratio, 3),
        exec_cpu_ratio_of_best=round(cpu_best, 3),
        floor_first_cpu_ms=round(statistics.median(f[1] for f in first), 1),
        exec_cpu_ratio_of_first=round(first_ratio, 3),
        exec_rounds=ROUNDS,
        exec_host_load=os.getloadavg()[0],
    )
    # The aim is 1.3 of the floor's hot command. vm.exec's is the machine's first, whose code QEMU must still translate: with QEMU 7.2
    # about 1.3 in processor time, from the fourth on 1.0. Later versions run a hot command in a third of the time and translate no
    # faster: there only the floor's own first command is a bound. A round is one command of about 60 ms: where the floor's own, which
    # do the same each time, differ by half, wall time shows the host's other work, and only the processor time is compared.
    assert first_ratio <= 1
    if qemu_version() >= 8:
        return
    # A command that became slower raises its median and its best; a busy host only one of them.
    assert min(cpu_ratio, cpu_best) <= 1.5
    if spread < 1.5:
        assert best <= 1.6
