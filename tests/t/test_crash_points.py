# SPDX-License-Identifier: MIT
"""The daemon dies at each numbered place (daemon/crash.h) that create, start, exec, stop, delete and pull pass, one
after the other, until there is no further place. After each death the next daemon finds what was acknowledged and
leaves nothing over, and the caller got an answer. The sanitized build: a release has no such places."""
import json
import os
import subprocess
import time

import pytest

from conftest import BUILD_ASAN, N
from fakevm import ENV, lines
from kills import ANY, Workload

LIMIT = 400  # places; more means that the end was not recognised
STRIDE = 5   # tests/soak crashes tries each of them
TOLD = {"outcome_unknown", "daemon_unreachable"}


class Died(Exception):
    pass


class Story:
    """Makes calls in order, each with the effect that it must have once it is acknowledged."""

    def __init__(self, d):
        self.d, self.vm, self.doing = d, None, None
        self.states = {}  # id -> its possible states
        self.named = {}   # id of a workspace -> its possible names and labels
        self.gone = set()
        self.commands = {}  # of a workspace: id -> exit code

    def call(self, verb, *args, allowed=None):
        self.doing = verb
        p = self.d.pyro("--json", "-q", *args, timeout=100)
        reply = json.loads(p.out) if p.out else None
        if reply is None or "error" in reply:
            assert reply and reply["error"]["code"] in TOLD | set(allowed or ()), (verb, p)
            assert self.d.process.poll() is not None or wait_death(self.d), (verb, p, self.d.log_text())
            raise Died(verb)
        return reply


def wait_death(d):
    """It was killed: it may end a moment after its caller has seen the connection end."""
    try:
        d.process.wait(10)
    except subprocess.TimeoutExpired:
        return False
    return True


def life_of_a_machine(s):
    s.vm = s.call("create", "vm", "create", "-m", "200M", "--disk-mib", "64", "--ttl-seconds", "0", ENV)["vm_id"]
    s.states[s.vm] = {"created"}
    for verb, state in (("start", "started"), ("stop", "stopped"), ("start", "started")):
        s.states[s.vm] |= {state, "failed"}
        assert s.call(verb, "vm", verb, s.vm)["state"] == state
        s.states[s.vm] = {state}
    s.states[s.vm] |= {"stopped", "failed"}
    reply = s.call("exec", "vm", "exec", s.vm, "--", "print 100")
    assert reply["exit_code"] == 0
    del s.states[s.vm]
    s.gone.add(s.vm)


def deleted_while_running(s):
    s.vm = s.call("create", "vm", "create", "-m", "200M", "--disk-mib", "64", "--ttl-seconds", "0", ENV)["vm_id"]
    s.states[s.vm] = {"created"}
    s.states[s.vm] |= {"started", "failed"}
    s.call("start", "vm", "start", s.vm)
    s.states[s.vm] = {"started"}
    s.call("delete", "vm", "delete", s.vm)
    del s.states[s.vm]
    s.gone.add(s.vm)


def life_of_a_workspace(s):
    """Its name and labels outlive everything that was acknowledged; another may have the name after its deletion alone."""
    ws = s.vm = s.call("create", "ws", "create", "-m", "200M", "--disk-mib", "64", "--name", "build", "--label", "v=1", ENV)["workspace_id"]
    s.states[ws], s.named[ws] = {"started", "failed"}, [("build", "1")]
    s.named[ws].append(("other", "2"))
    assert s.call("update", "ws", "update", ws, "--name", "other", "--label", "v=2")["name"] == "other"
    s.named[ws] = [("other", "2")]
    s.states[ws] |= {"stopped"}
    assert s.call("stop", "ws", "stop", ws)["state"] == "stopped"
    s.states[ws] = {"stopped", "started", "failed"}
    assert s.call("start", "ws", "start", "other")["state"] == "started"
    s.states[ws] = {"started", "failed"}
    s.call("delete", "ws", "delete", "other")
    del s.states[ws], s.named[ws]
    s.gone.add(ws)
    s.vm = None
    s.call("create again", "ws", "create", "-m", "200M", "--disk-mib", "64", "--name", "other", ENV)
    s.call("delete all", "ws", "delete", "--all")


def commands_of_a_workspace(s):
    """An acknowledged end is there with all of its output; what was acknowledged as begun goes on without a daemon and ends."""
    ws = s.vm = s.call("create", "ws", "create", "-m", "200M", "--disk-mib", "64", ENV)["workspace_id"]
    s.states[ws], s.named[ws] = {"started", "failed"}, [(None, None)]
    reply = s.call("command", "ws", "exec", ws, "--", "print 70000; exit 3")
    assert (reply["exit_code"], reply["stdout"].encode()) == (3, lines(70000))
    s.commands[reply["exec_id"]] = 3
    reply = s.call("command", "ws", "exec", "-d", ws, "--", "sleep 50; print 70000; exit 4")
    s.commands[reply["exec_id"]] = 4
    assert s.call("command", "ws", "exec-wait", reply["exec_id"])["exit_code"] == 4
    s.states[ws] |= {"stopped"}
    s.call("stop", "ws", "stop", ws)
    s.states[ws] = {"stopped", "started", "failed"}
    reply = s.call("command", "ws", "exec", ws, "--", "exit 5")
    s.commands[reply["exec_id"]] = 5
    s.call("delete", "ws", "delete", ws)
    del s.states[ws], s.named[ws]
    s.commands = {}
    s.gone.add(ws)


def check_commands(d, s):
    for ex, code in s.commands.items():
        if s.doing == "delete":
            break
        reply = d.call("exec.wait", {"exec_id": ex, "wait_ms": 20000})
        got = reply.get("result", reply)
        assert (got.get("state"), got.get("exit_code")) == ("exited", code), (s.doing, code, got, d.log_text()[-3000:])
        assert got["stdout"].encode() == (b"" if code == 5 else lines(70000))
    for ws in d.workspaces():
        reply = d.call("exec.list", {"workspace_id": ws["workspace_id"]})
        # The daemon goes on with a deletion, or takes back a creation that nobody was told of.
        if "error" in reply and (s.doing.startswith("delete") or ws["workspace_id"] not in s.states):
            assert reply["error"]["data"]["code"] == "workspace_not_found", reply
            continue
        execs = reply["result"]["execs"]
        assert [x["sequence"] for x in execs] == list(range(1, len(execs) + 1)) and len(execs) <= 3, execs


def one_shot(s):
    s.doing = "run"
    p = s.d.pyro("run", "-m", "200M", "--disk-mib", "64", ENV, "--", "print 1000; exit 3", timeout=100)
    if p.status == 125:
        assert p.err
        assert wait_death(s.d), (p, s.d.log_text())
        raise Died("run")
    # Its output may have been complete before the daemon died: then this is all of it.
    assert (p.status, len(p.out)) == (3, 1000), p


def pull(s):
    s.doing = "pull"
    s.call("pull", "env", "pull", "--force", "debian:12-base", allowed=("pull_failed",))


def settle(d, s):
    """What the next daemon shows once it has finished what the previous one left."""
    w = Workload(d, 0)
    w.machines = dict(s.states)
    w.kills["vmm"] = 0
    in_doubt = s.vm if s.doing in ("delete", "exec") else None
    if in_doubt:
        w.doubtful.add(in_doubt)
        w.machines[in_doubt] = set(ANY)
    end = time.monotonic() + 30
    while True:
        found = w.left_over() + misnamed(d, s, in_doubt)
        if not found:
            return
        assert time.monotonic() < end, (s.doing, found, d.log_text()[-3000:])
        time.sleep(0.05)


def misnamed(d, s, in_doubt):
    seen = {ws["workspace_id"]: (ws["name"], ws["labels"].get("v")) for ws in d.workspaces()}
    return ["%s is %s" % (ws, seen.get(ws)) for ws, names in s.named.items() if seen.get(ws) not in names + [None] * (ws == in_doubt)]


def dies(d, story, s):
    """False when the story reached its end without a death, and the daemon was stopped."""
    try:
        d.start()
    except RuntimeError:
        pass  # the start of the daemon has places too
    died = d.process.poll() is not None
    if not died:
        try:
            story(s)
        except Died:
            died = True
    died = died or d.process.poll() is not None
    if not died:
        assert d.stop() == 0
        return False
    wait_death(d)
    d.process = None
    return True


def one_death(make_fake, story, n):
    """False when the story came to its end untouched."""
    d = make_fake(build=BUILD_ASAN, env={"PYRO_CRASH_AT": str(n)}, deadlines={"grace": 0.5, "redial": 0.3})
    if story is pull:
        fake_mmdebstrap(d)
    s = Story(d)
    if not dies(d, story, s):
        return False
    Workload(d, 0).check_store() if os.path.exists(d.state + "/pyro.db") else None
    del d.env["PYRO_CRASH_AT"]
    begin = time.monotonic()
    d.start()
    assert d.call("system.ping")["result"]["pid"] == d.process.pid
    check_commands(d, s)
    settle(d, s)
    again(d, s, story)
    assert d.stop() == 0
    return True


def again(d, s, story):
    """What was interrupted can be done now, and can be deleted completely."""
    for v in d.vms():
        r = d.pyro("vm", "delete", v["vm_id"])
        assert r.status == 0 or b" not found" in r.err, r  # an exec without a caller deletes its own
    for ws in d.workspaces():
        r = d.pyro("ws", "delete", ws["workspace_id"])
        assert r.status == 0 or b" not found" in r.err, r  # the daemon goes on with a deletion itself
    d.wait_clean(30)
    if story in (pull, life_of_a_workspace, commands_of_a_workspace):
        story(Story(d))
    else:
        one_shot(Story(d))
        d.wait_clean(30)
    left = [name for name in os.listdir(d.root + "/cache") if name.startswith(".staging")]
    assert not left


def fake_mmdebstrap(d):
    """A program in its place that packs a folder: a pull takes a second and has all of its steps."""
    os.makedirs(d.root + "/bin")
    os.makedirs(d.root + "/tree/bin")
    with open(d.root + "/tree/bin/sh", "w") as f:
        f.write("#!\n")
    with open(d.root + "/bin/mmdebstrap", "w") as f:
        f.write("#!/bin/sh\nexec tar -C %s/tree -c .\n" % d.root)
    os.chmod(d.root + "/bin/mmdebstrap", 0o755)
    d.env["PATH"] = d.root + "/bin:" + d.env["PATH"]


@pytest.mark.parametrize("story", [life_of_a_machine, deleted_while_running, life_of_a_workspace, commands_of_a_workspace, one_shot, pull], ids=lambda f: f.__name__)
def test_every_crash_point(make_fake, story):
    n = 1 if N > 1 else 1 + time.time_ns() % STRIDE
    while n < LIMIT:
        if not one_death(make_fake, story, n):
            print("%s: less than %d places" % (story.__name__, n))
            assert n > 5
            return
        n += 1 if N > 1 else STRIDE
    raise AssertionError("no end after %d places" % LIMIT)


def test_between_launch_and_boot(make_fake):
    """The VMM is left without a guest: the next daemon boots it. Which place that is, is found by halving."""
    low, high = 0, 100
    while True:
        n = (low + high) // 2
        assert low < n < high, "there is no such place"
        d = make_fake(build=BUILD_ASAN, env={"PYRO_CRASH_AT": str(n)})
        s = Story(d)
        died = dies(d, life_of_a_machine, s)
        if not died or "boot" in d.told_so_far():
            high = n
        elif not d.vmm_pids():
            low = n
        else:
            break
    print("place", n)
    pid, = d.vmm_pids()
    del d.env["PYRO_CRASH_AT"]
    d.start()
    assert d.call("vm.start", {"vm_id": s.vm})["result"]["state"] == "started"  # it waits for the adoption
    assert d.vmm_pids() == [pid] and "boot" in d.told_so_far()
    assert d.call("vm.exec", {"vm_id": s.vm, "command": "exit 3"})["result"]["exit_code"] == 3
    d.wait_clean()
