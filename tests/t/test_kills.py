# SPDX-License-Identifier: MIT
"""kill -9 at random moments, with the fake VMM. tests/soak kills does thousands; PYRO_TEST_SEED repeats one."""
import os
import time

import pytest

from conftest import BUILD, BUILD_ASAN
from kills import Workload

SEED = int(os.environ.get("PYRO_TEST_SEED", "0")) or time.time_ns() % 1000000


@pytest.mark.parametrize("build,kills,deadlines", [(BUILD, 15, None), (BUILD_ASAN, 40, {"grace": 1})], ids=["release", "asan"])
def test_kills(make_fake, build, kills, deadlines):
    """Each wait for rest takes as long as a one-shot waits for its caller."""
    d = make_fake(build=build, deadlines=deadlines).start()
    w = Workload(d, SEED)
    print("seed", SEED)
    print(w.go(kills))
    # The acceptance limit of one second is for the release build; the other is slow by design.
    if build == BUILD:
        assert w.answered_soon(), (w.answers, w.execs)


@pytest.mark.skipif("PYRO_TEST_KILLS" not in os.environ, reason="tests/soak kills sets PYRO_TEST_KILLS")
def test_thousands_of_kills(make_fake):
    """As many as PYRO_TEST_KILLS says, five hundred at a time with a seed and a daemon of their own; the seeds follow one
    another, so that PYRO_TEST_SEED repeats a failed part. At most two hours."""
    kills, seed, deadline = int(os.environ["PYRO_TEST_KILLS"]), SEED, time.monotonic() + 7200
    done = 0
    while done < kills and time.monotonic() < deadline:
        d = make_fake().start()
        w = Workload(d, seed)
        print("%d kills so far, now %s" % (done, "seed %d" % seed), flush=True)
        print(w.go(min(500, kills - done), every=100), flush=True)
        assert w.answered_soon(), (w.answers, w.execs)
        done += sum(w.kills.values())
        seed += 1
        d.close()
    print("%d kills of %d" % (done, kills))
    assert done >= kills
