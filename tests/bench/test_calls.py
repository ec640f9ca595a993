# SPDX-License-Identifier: MIT
"""`vm.status` against the floor of a bare json-c echo over a socketpair: a program that reads lines, parses them, answers with
as many bytes and does nothing else (echo.c). One client (rpc-load.c) drives both, in turns of the same run. With a fixed number
of calls in progress, calls per second are that number over the time of one call; the median call counts, since on a busy host
the mean shows which process the scheduler favours (the echo, which has just started). The figures go to stdout and to
build-test-results/bench.json."""
import json
import os
import statistics
import subprocess

import pytest

from conftest import N, keep

ROUNDS = 5 * N
SECONDS = "0.5"
ENV = "debian:12"
# Client and server share one processor: on two, the test would measure how soon an idle one wakes, or what else it runs.
CPU = str(max(os.sched_getaffinity(0)))

# The least share of the echo's calls per second for each way of calling. The aim is 0.5 for all; calls that come in one read
# save both sides their system calls, which leaves json-c against json-c, where a reply of fifteen members costs more than
# the echo's one string of the same length.
WAYS = {
    "one_connection": ((), 0.5),
    "pipelined": (("-d", "16"), 0.35),
    "eight_connections": (("-c", "8"), 0.5),
}


@pytest.fixture(scope="module")
def machine(daemon):
    pid = daemon.pid()
    before = os.sched_getaffinity(pid)
    subprocess.run(["taskset", "-a", "-c", "-p", CPU, str(pid)], check=True, capture_output=True)
    made = daemon.call("vm.create", {"environment": ENV, "mem_mib": 128, "disk_mib": 64})["result"]["vm_id"]
    yield made
    subprocess.run(["taskset", "-a", "-c", "-p", ",".join(map(str, before)), str(pid)], check=True, capture_output=True)
    assert "result" in daemon.call("vm.delete", {"vm_id": made})


def load(daemon, server, vm, *flags):
    program = daemon.build + "/tests/bench/rpc-load"
    out = subprocess.run(["taskset", "-c", CPU, program, "-t", SECONDS, *flags, *server, "vm.status", json.dumps({"vm_id": vm})],
                         check=True, capture_output=True, text=True, timeout=60).stdout
    got = json.loads(out)
    assert not got["errors"] and got["calls"] == got["methods"]["vm.status"]["calls"] > 0, got
    return got


def cpu_seconds(pid):
    fields = open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("way", WAYS)
def test_status_against_a_bare_echo(daemon, machine, way):
    flags, least = WAYS[way]
    ours = ("-s", daemon.socket)
    size = load(daemon, ours, machine)["reply_bytes"]
    echo = ("-e", daemon.build + "/tests/bench/rpc-echo", "-n", str(size))
    calls, floors, cpu = [], [], 0
    for _ in range(ROUNDS):
        floors.append(load(daemon, echo, machine, *flags))
        before = cpu_seconds(daemon.pid())
        calls.append(load(daemon, ours, machine, *flags))
        cpu += cpu_seconds(daemon.pid()) - before
    middle = lambda rounds, figure: round(statistics.median(r["methods"]["vm.status"][figure] for r in rounds), 1)
    ratio = statistics.median(f["methods"]["vm.status"]["p50_us"] / c["methods"]["vm.status"]["p50_us"] for c, f in zip(calls, floors))
    keep(**{"status_" + way: {
        "per_second": round(statistics.median(c["per_second"] for c in calls)),
        "echo_per_second": round(statistics.median(f["per_second"] for f in floors)),
        "ratio": round(ratio, 3),
        "ratio_of_means": round(statistics.median(c["per_second"] / f["per_second"] for c, f in zip(calls, floors)), 3),
        "p50_us": middle(calls, "p50_us"), "echo_p50_us": middle(floors, "p50_us"),
        "p99_us": middle(calls, "p99_us"), "echo_p99_us": middle(floors, "p99_us"),
        "cpu_us_per_call": round(cpu * 1e6 / sum(c["calls"] for c in calls), 1),
        "rounds": ROUNDS, "host_load": os.getloadavg()[0],
    }})
    assert ratio >= least
