# SPDX-License-Identifier: MIT
"""The n-th system call of a class fails once (tests/fake/fault.c), for n = 1, 2, ... until an operation passes without a fault:
it succeeds nevertheless or reports what is wrong, nothing is left over, no descriptor is lost, and the next try works. SQLite's
own calls are among them. The release build: the sanitizer must be preloaded itself."""
import errno
import json
import mmap
import os
import struct
import time

import pytest

from conftest import BUILD, N
from fakevm import ENV
from test_crash_points import fake_mmdebstrap

DISK, FD, FORK, SYNC = 1, 2, 4, 8
LIMIT = 600
STRIDE = 3  # tests/soak faults fails each of them


class Fault:
    """The structure that the daemon and its children have mapped."""

    def __init__(self, path):
        with open(path, "wb") as f:
            f.truncate(mmap.PAGESIZE)
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), mmap.PAGESIZE)

    def arm(self, classes, error, n):
        self.map[:24] = struct.pack("<6I", 0, classes, error, n, 0, 0)
        self.map[:4] = struct.pack("<I", 1)

    def disarm(self):
        """Whether it fired."""
        self.map[:4] = struct.pack("<I", 0)
        return struct.unpack_from("<6I", self.map)[5] != 0


def call(d, *args):
    """None, or the error's code: always one or the other."""
    p = d.pyro("--json", "-q", *args, timeout=60)
    reply = json.loads(p.out)
    if "error" not in reply:
        return None, reply
    error = reply["error"]
    assert error["code"] and error["message"] and (error["cause"] or error["fix"]), reply
    return error["code"], reply


def machine(d):
    """create, start, stop, delete; whatever was created is removed again."""
    code, reply = call(d, "vm", "create", "-m", "200M", "--disk-mib", "64", "--ttl-seconds", "0", ENV)
    if code:
        return code
    vm = reply["vm_id"]
    for verb in ("start", "stop", "delete"):
        code = call(d, "vm", verb, vm)[0]
        if code:
            return code
    return None


def workspace(d):
    """The same, with a change of its row; by its name, which is free again afterwards."""
    code, reply = call(d, "ws", "create", "-m", "200M", "--disk-mib", "64", "--name", "build", ENV)
    if code:
        return code
    for words in (("update", "--label", "a=b"), ("stop",), ("start",), ("delete",)):
        code = call(d, "ws", *words, "build")[0]
        if code:
            return code
    return None


def run(d):
    p = d.pyro("-q", "run", "-m", "200M", "--disk-mib", "64", ENV, "--", "print 100", timeout=60)
    if p.status == 0:
        assert len(p.out) == 100
        return None
    assert p.status == 125 and p.err
    return "failed"


def pull(d):
    return call(d, "env", "pull", "--force", "debian:12-base")[0]


def start(d):
    """The daemon alone has the shim, not its clients."""
    shim = {"LD_PRELOAD": BUILD + "/tests/fake/pyro-fault.so", "PYRO_FAULT_FILE": d.root + "/fault"}
    d.env.update(shim)
    d.start()
    for name in shim:
        del d.env[name]


def descriptors(d):
    """Without those of the processes that receive and close callers' sockets: a pair's end and a pidfd each, kept for 30 s."""
    tasks = "/proc/%d/task" % d.pid()
    children = [pid for task in os.listdir(tasks) for pid in open("%s/%s/children" % (tasks, task)).read().split()]
    names = [open("/proc/%s/comm" % pid).read().strip() for pid in children if os.path.exists("/proc/%s/comm" % pid)]
    return len(os.listdir("/proc/%d/fd" % d.pid())) - 2 * names.count("pyrod-receiver")


def clean_up(d, story):
    """Whatever exists can be deleted, and then nothing is left; True when the store needs a restart."""
    for v in d.vms():
        code, reply = call(d, "vm", "delete", v["vm_id"])
        if code and "restart pyrod" in json.dumps(reply):
            return True
        assert code in (None, "vm_not_found"), reply
    for ws in d.workspaces():
        code, reply = call(d, "ws", "delete", ws["workspace_id"])
        if code and "restart pyrod" in json.dumps(reply):
            return True
        assert code in (None, "workspace_not_found"), reply
    d.wait_clean()
    left = [name for place in (d.root + "/cache", d.state + "/disks", d.state + "/kernels") if os.path.isdir(place)
            for name in os.listdir(place) if name.startswith(".staging")]
    end = time.monotonic() + 10
    while left and time.monotonic() < end:
        left = [name for name in left if any(os.path.exists(place + "/" + name) for place in (d.root + "/cache", d.state + "/disks", d.state + "/kernels"))]
        time.sleep(0.02)
    assert not left, left
    return False


def wants_restart(d):
    code, reply = call(d, "vm", "create", "-m", "200M", "--disk-mib", "64", "--ttl-seconds", "0", ENV)
    if code is None:
        assert call(d, "vm", "delete", reply["vm_id"])[0] is None
    return code is not None and "restart pyrod" in json.dumps(reply)


@pytest.mark.parametrize("story", [machine, workspace, run, pull], ids=lambda f: f.__name__)
@pytest.mark.parametrize("classes,error", [(DISK, errno.ENOSPC), (DISK | SYNC, errno.EIO), (FD, errno.EMFILE), (FORK, errno.ENOMEM)],
                         ids=["ENOSPC", "EIO", "EMFILE", "ENOMEM"])
def test_each_call_fails_once(make_fake, story, classes, error):
    d = make_fake()
    fault = Fault(d.root + "/fault")
    if story is pull:
        fake_mmdebstrap(d)
    start(d)
    assert story(d) is None and story(d) is None  # one-time allocations exist from here on
    d.wait_clean()
    fds, failed, n, restarts = descriptors(d), 0, 1 if N > 1 else 1 + time.time_ns() % STRIDE, 0
    while n < LIMIT:
        fault.arm(classes, error, n)
        code = story(d)
        fired = fault.disarm()
        assert d.process.poll() is None, (n, d.log_text()[-3000:])
        assert d.call("system.ping")["result"]["pid"] == d.pid()
        failed += code is not None
        if clean_up(d, story) or (fired and code and wants_restart(d)):
            # A failed commit may or may not be on the disk: the daemon accepts no more until it has checked.
            assert d.stop() == 0
            start(d)
            restarts += 1
            assert not clean_up(d, story)
        assert story(d) is None, (n, d.log_text()[-3000:])
        assert clean_up(d, story) is False
        if restarts == 0:
            end = time.monotonic() + 5
            while descriptors(d) > fds:
                assert time.monotonic() < end, (n, fds, descriptors(d))
                time.sleep(0.02)
        if not fired:
            print("%s: less than %d calls, %d failed the operation, %d restarts" % (story.__name__, n, failed, restarts))
            assert n > 1
            return
        n += 1 if N > 1 else STRIDE
    raise AssertionError("no end after %d calls" % LIMIT)
