# SPDX-License-Identifier: MIT
"""Speed, as ratios against the floor (what bare QEMU and this kernel do) measured in the same run, interleaved:
each round measures both, one after the other, and the median of the rounds' ratios counts, since a busy host slows
a whole round. The figures go to stdout and to build-test-results/bench.json."""
import os
import statistics

from conftest import N, keep

ROUNDS = 5 * N


def run_true(daemon):
    r = daemon.pyro("run", "debian:12", "--", "true")
    assert r.status == 0, r
    return r.seconds * 1e3


def test_cold_run_against_the_floor(daemon, floor):
    # Fills the page cache for both, and makes our blank disk.
    run_true(daemon)
    floor.cold()
    floors, colds = [], []
    for i in range(ROUNDS):
        if i % 2:
            colds.append(run_true(daemon))
        floors.append(sum(floor.cold()))
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
