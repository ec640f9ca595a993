# SPDX-License-Identifier: MIT
"""kill -9 at 200 random moments under a mixed workload in real guests: tests/soak kills-vm. PYRO_TEST_SEED repeats one."""
import os
import time

from kills import Real, Workload

SEED = int(os.environ.get("PYRO_TEST_SEED", "0")) or time.time_ns() % 1000000


def test_kills_with_guests(make_daemon, tmp_path):
    d = make_daemon()
    # Each kill leaves machines in their ten seconds of grace: after a few in a row their owner is at the limit on vCPUs.
    conf = tmp_path / "pyrod.conf"
    conf.write_text("max_machines = 1000\nmax_vcpus = 1000\n")
    start = d.start
    d.start = lambda *args, **kw: start("--config", str(conf), *args, **kw)
    d.start()
    w = Workload(d, SEED, guest=Real, workers=2, standing=2)
    print("seed", SEED, flush=True)
    print(w.go(int(os.environ.get("PYRO_TEST_KILLS", "200")), every=25))
