# SPDX-License-Identifier: MIT
"""Many boots: in a row while the host is loaded, with 1 and 2 vCPUs, little and much memory, and eight at once.
None hangs, and after each nothing is left."""
import os
import subprocess
import threading

import pytest

from conftest import N


@pytest.fixture
def load():
    """Four busy processes on the host."""
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(4)]
    yield
    for p in busy:
        p.kill()
        p.wait()


def boots():
    shapes = [(1, 256), (2, 4096), (2, 256), (1, 4096)]
    return [(i, *shapes[i % 4]) for i in range(30 if N > 1 else 2)]


@pytest.mark.parametrize("i,cpus,mem", boots())
def test_boot_under_load(daemon, load, i, cpus, mem):
    r = daemon.pyro("run", "--vcpu-count", str(cpus), "--mem-mib", str(mem), "debian:12", "--", "nproc", timeout=180)
    assert r.status == 0 and int(r.text) == cpus, r
    daemon.wait_clean()


def test_eight_at_once(daemon):
    results = [None] * 8

    def one(i):
        results[i] = daemon.pyro("run", "--mem-mib", "256", "debian:12", "--", "echo", str(i), timeout=240)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, r in enumerate(results):
        assert r.status == 0 and r.text == "%d\n" % i, r
    daemon.wait_clean()
