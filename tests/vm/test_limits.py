# SPDX-License-Identifier: MIT
"""The limit that ended a command is named: by a line for people and by `ended_by` and `limit` of the result. In real guests;
tests/t/test_hostile_agent.py has what a lying guest can do with it."""
import json
import re
import subprocess

import pytest

from conftest import CACHE, Daemon, Result, assert_no_faults

ENV = "debian:12"
# The kernel fills it, which is quicker under emulation than a page fault for each page.
HOG = "from mmap import *\nb = []\nwhile True: b.append(mmap(-1, 16 << 20, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE))"


def run(daemon, command, *flags, **kw):
    return daemon.pyro("run", *flags, ENV, "--", command, **kw)


def result(daemon, command, *flags, **kw):
    r = daemon.pyro("--json", "-q", "run", *flags, ENV, "--", command, **kw)
    return json.loads(r.text), r


def limit_lines(r):
    return [line for line in r.errors.splitlines() if line.startswith(("command ", "a process of the command "))]


def test_out_of_memory(daemon):
    r = run(daemon, "exec python3 -c '%s'" % HOG, "-m", "256M", "--timeout", "100s")
    assert r.status == 137 and limit_lines(r) == ["command ended: out of memory (limit 256 MiB; -m 512M)"], r
    got, r = result(daemon, "python3 -c '%s'; exit $?" % HOG, "-m", "256M", "--timeout", "100s")
    assert (got["exit_code"], got["ended_by"]) == (137, "memory"), got
    assert got["limit"] == {"name": "mem_mib", "value": 256, "flag": "-m 512M"}, got
    daemon.wait_clean()


def test_out_of_memory_of_a_child(daemon):
    """This did not end the command if the command continues: it is named only if the command fails in the end, as make does."""
    hog = "python3 -c '%s'" % HOG
    got, r = result(daemon, hog + "; echo $?", "-m", "256M", "--timeout", "100s")
    assert (got["exit_code"], got["stdout"], got["ended_by"], got["limit"]) == (0, "137\n", None, None), got
    assert limit_lines(r) == []
    make = "cat > hog.py <<'E'\n%s\nE\nprintf 'all:\\n\\tpython3 hog.py\\n' > Makefile; make -s" % HOG
    r = run(daemon, make, "-m", "256M", "--timeout", "100s")
    assert r.status == 2 and limit_lines(r) == ["a process of the command was killed: out of memory (limit 256 MiB; -m 512M)"], r


def test_killed_by_something_else(daemon):
    got, r = result(daemon, "kill -KILL $$")
    assert (got["exit_code"], got["ended_by"], got["limit"]) == (137, "signal", None) and limit_lines(r) == [], got
    # A limit that root in the guest set is not one of ours.
    own = ("C=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $C/x; echo $$ > $C/x/cgroup.procs;"
           "echo +memory > $C/cgroup.subtree_control; echo 20M > $C/x/memory.max; cat $C/x/memory.max; exec python3 -c '%s'" % HOG)
    got, r = result(daemon, own, "--timeout", "100s")
    assert got["stdout"] == "20971520\n", got
    assert (got["exit_code"], got["ended_by"], got["limit"]) == (137, "signal", None) and limit_lines(r) == [], got


def test_fork_bombs(daemon):
    """The guest stays reachable: its agent ends the command at its timeout, or the command ends because of the limit."""
    r = run(daemon, "f() { f | f; }; f", "-m", "256M", "--timeout", "10s")
    assert r.status == 124 and limit_lines(r) == ["command timed out after 10s"], r
    assert int(re.search(r"duration_ms=(\d+)", r.errors).group(1)) < 40000
    many = "import os, sys, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(1000)\n    n += 1\nexcept OSError as e:\n  print(n + 1); sys.exit(e.errno)"
    got, r = result(daemon, "exec python3 -c '%s'" % many, "-m", "256M", "--timeout", "100s")
    assert (got["exit_code"], got["ended_by"], got["background_left"]) == (11, "pids", True), got
    assert got["limit"] == {"name": "pids", "value": int(got["stdout"]), "flag": "-m 512M"}, got
    assert limit_lines(r) == ["command ended: too many processes (limit %s; -m 512M)" % got["stdout"].strip()], r
    daemon.wait_clean()


def test_full_disk(daemon):
    fill = "dd if=/dev/zero of=/workspace/x bs=1M status=none"
    r = run(daemon, fill, "--disk-mib", "128", "--timeout", "100s")
    assert r.status == 1 and limit_lines(r) == ["command ended: its disk is full (limit 128 MiB; --disk-mib 256)"], r
    fill = "fallocate -l 1G /workspace/x"
    got, _ = result(daemon, fill + "; exit 4", "--disk-mib", "128", "--timeout", "100s")
    assert (got["exit_code"], got["ended_by"], got["limit"]) == (4, "disk", {"name": "disk_mib", "value": 128, "flag": "--disk-mib 256"}), got
    got, r = result(daemon, fill + "; rm /workspace/x; exit 4", "--disk-mib", "128", "--timeout", "100s")
    assert (got["exit_code"], got["ended_by"], got["limit"]) == (4, None, None) and limit_lines(r) == [], got
    got, r = result(daemon, fill + "; true", "--disk-mib", "128", "--timeout", "100s")
    assert (got["exit_code"], got["ended_by"], got["limit"]) == (0, None, None) and limit_lines(r) == [], got


def test_no_inodes_left(daemon):
    many = "import os\nfor i in range(10 ** 7): os.close(os.open(\"/workspace/%d\" % i, os.O_CREAT))"
    got, _ = result(daemon, "python3 -c '%s'" % many, "--disk-mib", "64", "--timeout", "100s")
    assert (got["exit_code"], got["ended_by"]) == (1, "disk"), got


@pytest.fixture(scope="module", autouse=True)
def left_to_the_default(work, daemon):
    """A command with the default timeout of thirty seconds, in a daemon of its own while the other tests of this file run."""
    d = Daemon(work + "/default", kernels=CACHE + "/kernels").start()
    yield d.popen("--json", "run", ENV, "--", "sleep 100", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        d.wait_clean()
    finally:
        d.close()
    assert_no_faults(d.log_text())


def test_timeouts(daemon, left_to_the_default):
    out, err = left_to_the_default.communicate(timeout=150)
    got, r = json.loads(out), Result(left_to_the_default.returncode, out, err, 0)
    assert (r.status, got["ended_by"], got["limit"]) == (124, "timeout", {"name": "timeout_seconds", "value": 30, "flag": "--timeout 5m"}), got
    assert limit_lines(r) == ["command timed out after 30s (the default; --timeout 5m)"], r
    r = run(daemon, "sleep 100", "--timeout", "1s")
    assert r.status == 124 and limit_lines(r) == ["command timed out after 1s"], r


def test_in_an_existing_machine(daemon):
    """Only another machine gives it more."""
    vm = daemon.pyro("vm", "create", "--id-only", "-m", "256M", ENV).text.strip()
    r = daemon.pyro("vm", "exec", "--timeout", "100s", vm, "--", "exec python3 -c '%s'" % HOG)
    assert r.status == 137 and limit_lines(r) == ["command ended: out of memory (limit 256 MiB; pyro vm create -m 512M)"], r
    daemon.wait_clean()


def test_what_was_left_running(daemon):
    got, _ = result(daemon, "sleep 300 & true")
    assert (got["exit_code"], got["background_left"], got["ended_by"]) == (0, True, None), got
    got, _ = result(daemon, "sleep 300 & kill $!; wait; true")
    assert (got["exit_code"], got["background_left"]) == (0, False), got
