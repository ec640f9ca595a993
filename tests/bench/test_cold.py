# SPDX-License-Identifier: MIT
"""Speed, as ratios against the floor (what bare QEMU and this kernel do) measured in the same run, interleaved: each
round measures both, one after the other, and what counts is the median of the rounds' ratios, since a busy host slows
a whole round. The figures go to stdout and to build-test-results/bench.json."""
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import pytest

from conftest import CACHE, N, SHARED, stage
from figures import keep

ROUNDS = 5 * N
FLOOR = SHARED + "/bench/floor.py"


@pytest.fixture(scope="module")
def floor(daemon):
    """Measures the floor's `ready` + `hot_command` once, in milliseconds: those parts of floor.py's measure, with its
    own machine, so that a round is short."""
    if not os.path.exists(FLOOR):
        pytest.skip("the floor program is not beside the project: ../shared/bench/floor.py")
    kernel = CACHE + "/floor"
    if not os.path.exists(kernel + "/initrd"):
        subprocess.run([sys.executable, FLOOR, "kernel", kernel], check=True, timeout=300)
    spec = importlib.util.spec_from_file_location("floor", FLOOR)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    name = json.loads(daemon.pyro("--json", "env", "inspect", "debian:12").text)
    image = CACHE + "/environments/" + name["digest"].replace(":", "-") + "/image.ext4"
    work = tempfile.mkdtemp(prefix="pyro-floor-")
    own = work + "/own"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", own, "4G"], check=True, stdout=subprocess.DEVNULL)

    def measure():
        vm = program.Vm(kernel, work, image, work + "/ram", "on", own=own)
        try:
            vm.a = vm.dial("/ag")
            assert vm.a.recv(1) == b"r"
            ready = vm.ms()
            vm.ask(b"s")
            assert vm.ask(b"c") >= 0
            hot = [vm.ask(b"c") for _ in range(3)]
            assert min(hot) >= 0
            return ready + statistics.median(hot)
        finally:
            vm.end()

    yield measure
    shutil.rmtree(work)


def run_true(daemon):
    r = daemon.pyro("run", "debian:12", "--", "true")
    assert r.status == 0, r
    return r.seconds * 1e3


def test_cold_run_against_the_floor(daemon, floor):
    # The page cache is filled for both, and our blank disk made.
    run_true(daemon)
    floor()
    floors, colds = [], []
    for i in range(ROUNDS):
        if i % 2:
            colds.append(run_true(daemon))
        floors.append(floor())
        if not i % 2:
            colds.append(run_true(daemon))
    ratio = statistics.median(c / f for c, f in zip(colds, floors))
    keep(
        cold_ms=round(statistics.median(colds)),
        floor_ready_plus_hot_ms=round(statistics.median(floors)),
        cold_ratio=round(ratio, 3),
        cold_ratio_of_best=round(min(colds) / min(floors), 3),
        cold_rounds=ROUNDS,
        host_load=os.getloadavg()[0],
    )
    assert ratio <= 1.3


def exec_ms(daemon):
    """What the loader and the libraries take on this host, now."""
    begin = time.monotonic()
    subprocess.run([stage(daemon.build) + "/bin/pyrod", "--version"], env=daemon.env, check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - begin) * 1e3


def test_daemon_start_and_size(make_daemon):
    starts, execs = [], []
    for _ in range(5 * N):
        d = make_daemon()
        execs.append(exec_ms(d))
        begin = time.monotonic()
        d.start()
        assert "result" in d.call("system.ping")
        starts.append((time.monotonic() - begin) * 1e3)
        rss = d.rss_kib()
        d.stop()
    start, bare = statistics.median(starts), statistics.median(execs)
    keep(start_to_first_answer_ms=round(start, 1), exec_only_ms=round(bare, 1), rss_idle_kib=rss)
    # The aims are 30 ms and 10 MB. A time cannot be asserted on a busy host, only what our own part is to the loader's;
    # the start makes the store too, whose commits wait for the host's disk.
    assert start <= 20 * bare
    assert rss <= 10 * 1024
