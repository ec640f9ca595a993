# SPDX-License-Identifier: MIT
"""pyrod killed, restarted and replaced while machines run: their work continues, their callers continue from an offset, and what
no caller wants any more is deleted. Real guests; tests/soak adopt has the large n."""
import hashlib
import os
import random
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from conftest import BUILD_ASAN, N, stage

ENV = "debian:12"


@pytest.fixture
def d(make_daemon):
    return make_daemon().start()


@pytest.fixture
def impatient(make_daemon):
    """A daemon that gives a caller two seconds to return."""
    return make_daemon(build=BUILD_ASAN, deadlines={"grace": 2}).start()


def start_run(d, *words, flags=(), stdin=subprocess.DEVNULL):
    return d.popen("run", "--timeout-seconds", "300", *flags, ENV, "--", *words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill(d):
    d.process.kill()
    d.process.wait()
    d.process = None


def wait_gone(pid, seconds=30):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], seconds)[0], "pid %d has not ended" % pid
    finally:
        os.close(fd)


def test_output_over_many_kills_is_complete(d):
    """Numbers, 100 MB of them with soak's n, while pyrod is killed again and again."""
    size, kills = (10 << 20, 4) if N == 1 else (100 << 20, 20)
    p = start_run(d, "sh", "-c", "seq 1 100000000 | head -c %d; echo err >&2; exit 5" % size)
    digest, count, stop = hashlib.sha256(), [0], threading.Event()

    def reader():
        for chunk in iter(lambda: p.stdout.read1(1 << 16), b""):
            digest.update(chunk)
            count[0] += len(chunk)
        stop.set()

    t = threading.Thread(target=reader)
    t.start()
    rng = random.Random(7)
    done = 0
    while not stop.is_set() and done < kills:
        want = min(size - 1, int(size * (done + rng.random()) / kills) + 1)
        while count[0] < want and not stop.is_set():
            stop.wait(0.01)
        if stop.is_set():
            break
        kill(d)
        d.start()
        done += 1
    t.join(timeout=240)
    err = p.stderr.read()
    assert p.wait(timeout=60) == 5, (err, d.log_text())
    whole = subprocess.run("seq 1 100000000 | head -c %d | sha256sum" % size, shell=True, capture_output=True, text=True).stdout.split()[0]
    assert count[0] == size and digest.hexdigest() == whole
    assert b"err\n" in err
    assert done == kills
    d.wait_clean()


def test_stdin_over_kills_is_complete(d):
    data = os.urandom(1 << 20) * (4 if N == 1 else 20)
    p = start_run(d, "sh", "-c", "sha256sum; echo done", flags=("-i",), stdin=subprocess.PIPE)
    sent, more = [0], threading.Condition()

    def writer():
        for i in range(0, len(data), 1 << 16):
            p.stdin.write(data[i:i + (1 << 16)])
            with more:
                sent[0] = i
                more.notify()
        p.stdin.close()

    t = threading.Thread(target=writer, daemon=True)
    t.start()
    for part in (0.2, 0.6):
        with more:
            assert more.wait_for(lambda: sent[0] >= len(data) * part, 120), (sent[0], d.log_text())
        kill(d)
        d.start()
    t.join(timeout=120)
    out, err = p.stdout.read(), p.stderr.read()
    assert p.wait(timeout=60) == 0, err
    assert out == hashlib.sha256(data).hexdigest().encode() + b"  -\ndone\n"
    d.wait_clean()


@pytest.mark.parametrize("how", ["SIGTERM", "another binary", "away"])
def test_restart_under_a_printing_command(d, how, tmp_path):
    p = start_run(d, "sh", "-c", "for i in $(seq 1 40); do echo line $i; sleep 0.1; done")
    assert p.stdout.readline() == b"line 1\n"
    assert d.stop() == 0 if how != "away" else (kill(d) or True)
    assert len(d.vmm_pids()) == 1  # it lives without its daemon
    if how == "away":
        time.sleep(6)  # the program is not disturbed by it: nothing else is awaited here
    if how == "another binary":
        copy = str(tmp_path / "build")
        shutil.copytree(d.build + "/stage", copy + "/stage", symlinks=True)
        d.build = copy
        d.env["PYRO_LIBEXEC_DIR"] = stage(copy) + "/libexec/pyro"
    d.start()
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0, err
    assert out == b"".join(b"line %d\n" % i for i in range(2, 41))
    d.wait_clean()


def test_command_that_ended_meanwhile_is_reported(d):
    p = start_run(d, "sh", "-c", "echo begun; sleep 1; echo over; exit 9")
    assert p.stdout.readline() == b"begun\n"
    kill(d)
    time.sleep(3)  # it ends while no daemon runs
    d.start()
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out) == (9, b"over\n"), err
    d.wait_clean()


def test_timeout_while_away(d):
    p = d.popen("run", "--timeout-seconds", "2", ENV, "--", "sh", "-c", "echo begun; sleep 1000", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"begun\n"
    kill(d)
    time.sleep(4)
    d.start()
    out, err = p.communicate(timeout=60)
    assert p.returncode == 124 and b"command timed out after 2s" in err, err
    d.wait_clean()


def test_one_shot_without_a_caller_is_deleted_after_its_grace(impatient):
    d = impatient
    p = start_run(d, "sh", "-c", "echo begun; sleep 1000")
    assert p.stdout.readline() == b"begun\n"
    vmm, = d.vmm_pids()
    kill(d)
    p.kill()
    p.wait()
    d.start()
    assert d.vmm_pids() == [vmm]  # its caller could still return
    begin = time.monotonic()
    wait_gone(vmm)
    assert time.monotonic() - begin > 1
    d.wait_clean()


def test_reply_whose_output_died_with_the_daemon_is_unknown(impatient):
    d = impatient
    p = d.popen("--json", "run", "--timeout-seconds", "300", ENV, "--", "sleep", "100", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in p.stderr:
        if b"phase=execute" in line:
            break
    kill(d)
    out, _ = p.communicate(timeout=30)
    assert p.returncode == 125 and b'"outcome_unknown"' in out
    d.start()
    d.wait_clean(30)


def test_machine_that_stays_is_adopted(d):
    vm = d.pyro("vm", "create", "--id-only", ENV).text.strip()
    assert d.pyro("vm", "start", vm).status == 0
    vmm, = d.vmm_pids()
    for how in (kill, lambda d: d.stop()):
        how(d)
        assert d.vmm_pids() == [vmm]
        d.start()
        end = time.monotonic() + 15
        while d.vms()[0]["state"] != "started":
            assert time.monotonic() < end, (d.vms(), d.log_text())
            time.sleep(0.02)
    assert d.vmm_pids() == [vmm]
    r = d.pyro("vm", "exec", vm, "--", "cut", "-d.", "-f1", "/proc/uptime")
    assert r.status == 0 and int(r.text) >= 1, r
    d.wait_clean()


def test_vmm_that_died_meanwhile(d):
    vm = d.pyro("vm", "create", "--id-only", ENV).text.strip()
    assert d.pyro("vm", "start", vm).status == 0
    run = start_run(d, "sh", "-c", "echo begun; sleep 1000")
    assert run.stdout.readline() == b"begun\n"
    pids = d.vmm_pids()
    assert len(pids) == 2
    kill(d)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
    d.start()
    out, err = run.communicate(timeout=60)
    assert run.returncode == 125 and b"may have run" in err, err
    end = time.monotonic() + 15
    while [v["state"] for v in d.vms()] != ["failed"]:
        assert time.monotonic() < end, d.log_text()
        time.sleep(0.02)
    # Either it had ended when the new daemon checked, or it was still ending.
    assert re.search("while pyrod was not running|the VMM ended", d.vms()[0]["last_error"])
    assert d.pyro("vm", "start", vm).status == 0
    assert d.pyro("vm", "delete", vm).status == 0
    d.wait_clean()


def test_no_process_is_killed_in_doubt(d):
    """The row names a process that is not the recorded one: the machine is unknown, the process lives."""
    vm = d.pyro("vm", "create", "--id-only", ENV).text.strip()
    assert d.pyro("vm", "start", vm).status == 0
    vmm, = d.vmm_pids()
    kill(d)
    os.kill(vmm, signal.SIGKILL)
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        started = open("/proc/%d/stat" % bystander.pid).read().rsplit(")", 1)[1].split()[19]
        db = sqlite3.connect(d.state + "/pyro.db")
        db.execute("UPDATE vm SET vmm_pid = ?, vmm_start_time = ?", (bystander.pid, int(started)))
        db.commit()
        db.close()
        d.start()
        assert [v["state"] for v in d.vms()] == ["unknown"]
        r = d.pyro("vm", "delete", vm)
        assert r.status == 1 and d.vms()[0]["state"] == "unknown"
        assert bystander.poll() is None
        # Without the process there is no doubt.
        bystander.kill()
        bystander.wait()
        assert d.pyro("vm", "delete", vm).status == 0
    finally:
        bystander.kill()
        bystander.wait()
    d.wait_clean()
