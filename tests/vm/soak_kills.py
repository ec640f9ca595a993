# SPDX-License-Identifier: MIT
"""kill -9 at 200 random moments under a mixed workload in real guests: tests/soak kills-vm. PYRO_TEST_SEED repeats one."""
import os
import time

from kills import Real, Workload

SEED = int(os.environ.get("PYRO_TEST_SEED", "0")) or time.time_ns() % 1000000


def test_kills_with_guests(make_daemon):
    d = make_daemon().start()
    w = Workload(d, SEED, guest=Real, workers=2, standing=2)
    print("seed", SEED, flush=True)
    print(w.go(int(os.environ.get("PYRO_TEST_KILLS", "200")), every=25))
