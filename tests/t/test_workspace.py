# SPDX-License-Identifier: MIT
"""Workspaces with the fake VMM: what create, list, status and delete show and leave, names, labels and look-up, what happens to a
creation that is cancelled, fails or is asked for an early answer, and that what was acknowledged outlives the daemon."""
import json
import os
import re
import signal
import subprocess

import pytest

from conftest import BUILD_ASAN, Raw, stage, wait_for
from fakevm import ENV, MANNERS
from test_calls import Caller, Mirror, OTHER_ENV, code, stored

OTHER = 61002
ID = re.compile(r"ws-[0-9a-f]{12}")


@pytest.fixture
def d(make_fake):
    return make_fake(build=BUILD_ASAN, deadlines={"grace": 0.2}).start()


def create(d, **more):
    reply = d.call("workspace.create", d.spec(**more))
    assert "result" in reply, reply
    return reply["result"]


def status(d, ref):
    return d.call("workspace.status", {"workspace_id": ref})["result"]


def listed(d, **params):
    got = d.call("workspace.list", params)["result"]
    assert got["count"] == len(got["workspaces"])
    return [w["workspace_id"] for w in got["workspaces"]]


def delete(d, ref):
    got = d.call("workspace.delete", {"workspace_id": ref})["result"]
    assert got["deleted"] is True and got["reason"] == "explicit_delete"
    return got["workspace_id"]


def error(reply):
    return reply["error"]["data"]["code"], reply["error"]["message"], reply["error"]["data"]["cause"], reply["error"]["data"]["fix"]


def refused(d, method, **params):
    reply = d.call(method, params)
    assert "error" in reply, reply
    return error(reply)


def restart(d):
    d.kill()
    d.start()


def as_other(d, *args, **kw):
    return d.pyro(*args, user=OTHER, group=OTHER, extra_groups=[], env={"HOME": "/nonexistent"}, **kw)


# --- what it shows

def test_a_new_workspace_is_started_and_has_all_fields(d):
    ws = create(d, name="build", labels={"team": "web", "a": "ä"}, ttl_seconds=7)
    assert ID.fullmatch(ws["workspace_id"]) and ws["state"] == "started" and len(d.vmm_pids()) == 1
    assert (ws["name"], ws["labels"], ws["shared"]) == ("build", {"team": "web", "a": "ä"}, False)
    assert (ws["ttl_seconds"], ws["expires_at"], ws["deletes_at"]) == (7, None, None)
    assert (ws["command_count"], ws["last_command"], ws["running"], ws["shells"], ws["changed"]) == (0, None, [], [], None)
    assert ws["workspace_seed"] == {"mode": "empty", "seed_path": None, "destination": None, "entry_count": 0, "bytes_written": 0, "skipped": []}
    assert ws["workspace_path"] == "/workspace" and ws["owner_uid"] == os.getuid() and ws["disk_used_bytes"] >= 0
    assert "phase" not in ws and "vm_id" not in ws
    assert status(d, "build") == ws and d.call("workspace.list")["result"] == {"count": 1, "workspaces": [ws]}
    assert delete(d, "build") == ws["workspace_id"]
    d.wait_clean()
    assert d.rows("SELECT id FROM workspace") == [] and d.rows("SELECT id FROM vm") == []


def test_what_people_see(d):
    r = d.pyro("ws", "create", *d.run_flags(), "--name", "build", "--label", "team=web", "-l", "a=b c", ENV)
    ws, = listed(d)
    phases = [line for line in r.errors.splitlines() if not line.startswith("[workspace-create] note accelerator=emulation ")]
    assert r.status == 0 and phases == ["[workspace-create] phase=create environment=debian:12", "[workspace-create] phase=start workspace_id=" + ws], r
    shown = ["Workspace ID: " + ws, "Name: build", "Labels: team=web, a=b c", "Environment: debian:12", "State: started",
             "Workspace: /workspace", "Workspace seed: empty", "Changed: -", "Execution mode: guest_serial",
             "Resources: 1 vCPU / %d MiB" % MANNERS["good"], "Command count: 0", "Last command: -"]
    assert r.text.splitlines() == shown
    r = d.pyro("workspace", "status", "build")
    assert r.status == 0 and r.text.splitlines() == shown and r.err == b"", r
    line = d.pyro("ws", "ls").text
    assert line.split()[:4] == ["workspace_id=" + ws, "name=build", "state=started", "environment=debian:12"] and "owner_uid" not in line
    assert d.pyro("ws", "list", "-q").text == ws + "\n"
    assert d.pyro("ws", "list", "--label", "team=web", "-q").text == ws + "\n"
    r = d.pyro("ws", "list", "--label", "team=ops")
    assert (r.status, r.text, r.errors) == (0, "", "no workspaces; create one: pyro workspace create debian:12\n")
    r = d.pyro("ws", "rm", "build")
    assert (r.status, r.text, r.errors) == (0, "Deleted workspace: %s\n" % ws, "")
    r = d.pyro("ws", "create", "--id-only", "-q", *d.run_flags(), ENV)
    assert ID.fullmatch(r.text.strip()) and r.err == b"", r
    assert d.pyro("ws", "status", r.text.strip()).text.splitlines()[1:3] == ["Name: -", "Labels: -"]
    delete(d, r.text.strip())
    d.wait_clean()


def test_typing_errors_lead_on(d):
    for words, fix in ((("ws", "create", "--label", "team", ENV), "pyro ws create debian:12"),
                       (("ws", "create", "--name", "My App", ENV), "pyro ws create debian:12"),
                       (("ws", "status"), "pyro workspace status --help"),
                       (("ws", "status", "My App"), "pyro workspace list"),
                       (("ws", "stauts", "x"), "pyro ws status x"),
                       (("status", "ws-0"), "pyro workspace status ws-0"),
                       (("destroy", "ws-0"), "pyro workspace delete ws-0"),
                       (("vm", "status", "ws-0"), "pyro workspace status ws-0")):
        r = d.pyro(*words)
        assert r.status in (1, 2) and r.errors.splitlines()[-1] == "  fix: " + fix, (words, r)


# --- looking one up

def test_found_by_name_id_and_prefix(d):
    a, b = create(d, name="a")["workspace_id"], create(d)["workspace_id"]
    prefix = next(b[:n] for n in range(4, 16) if b[:n] != a[:n])
    assert [status(d, ref)["workspace_id"] for ref in ("a", a, b, prefix, b[:-1])] == [a, a, b, b, b]
    for ref, cause in (("ws-", "it does not exist, or it was deleted"), ("b", "it does not exist, or it was deleted"),
                       ("vm-0", "it is the id of a machine")):
        fix = "pyro vm status vm-0" if ref == "vm-0" else "pyro workspace list"
        assert refused(d, "workspace.status", workspace_id=ref) == ("workspace_not_found", "workspace %s not found" % ref, cause, fix)
    while not any(x != b and x.startswith(b[:4]) for x in listed(d)):  # ids are random: one in sixteen
        create(d)
    assert refused(d, "workspace.status", workspace_id=b[:4])[2] == "it matches several workspaces"
    for ws in listed(d):
        delete(d, ws)
    d.wait_clean()


def test_a_name_comes_before_a_prefix_and_an_id_before_a_name(d):
    a = create(d)["workspace_id"]
    b = create(d, name=a[:5])["workspace_id"]
    c = create(d, name=a)["workspace_id"]
    assert [status(d, ref)["workspace_id"] for ref in (a[:5], a, a[:6])] == [b, a, a]
    for ws in (a, b, c):
        delete(d, ws)
    d.wait_clean()


def test_machines_and_workspaces_are_apart(d):
    vm = d.call("vm.create", d.spec())["result"]["vm_id"]
    ws = create(d, name="build")["workspace_id"]
    assert [v["vm_id"] for v in d.vms()] == [vm] and listed(d) == [ws]
    for method in ("vm.status", "vm.start", "vm.stop", "vm.delete", "vm.network_info"):
        assert refused(d, method, vm_id=ws) == ("vm_not_found", "machine %s not found" % ws, "it is the id of a workspace",
                                                "pyro workspace status " + ws), method
    assert d.call("vm.reap_expired")["result"]["count"] == 0
    assert refused(d, "workspace.status", workspace_id=vm)[3] == "pyro vm status " + vm
    d.call("vm.delete", {"vm_id": vm})
    delete(d, ws)
    d.wait_clean()


def test_another_users_is_not_found(d, root_only):
    os.chmod(d.root, 0o755)
    os.chmod(d.socket, 0o666)
    r = as_other(d, "--json", "workspace", "create", *d.run_flags(), "--name", "build", "debian:12")
    assert r.status == 0, r
    theirs, mine = json.loads(r.text)["workspace_id"], create(d, name="build")["workspace_id"]
    assert json.loads(as_other(d, "--json", "ws", "list").text)["count"] == 1
    for ref in (mine, mine[:-1]):
        r = as_other(d, "ws", "status", ref)
        assert r.status == 1 and "workspace %s not found" % ref in r.errors, r
    assert json.loads(as_other(d, "--json", "ws", "status", "build").text)["workspace_id"] == theirs
    # Root sees all, and its own come first.
    assert status(d, "build")["workspace_id"] == mine and status(d, theirs)["owner_uid"] == OTHER
    assert listed(d) == [mine] and set(listed(d, all_users=True)) == {mine, theirs}
    delete(d, mine)
    assert status(d, "build")["workspace_id"] == theirs
    r = as_other(d, "ws", "list", "--all-users")
    assert r.status == 1 and "fix: sudo pyro workspace list --all-users" in r.errors, r
    delete(d, theirs)
    d.wait_clean()


# --- names and labels

def test_a_name_is_taken_from_the_first_moment_to_the_last(d):
    """By another creation that has only begun, and by one that is being deleted."""
    with Caller(d.socket) as c:
        calls = [c.begin("workspace.create", d.spec(name="build")), c.begin("workspace.create", d.spec(name="build"))]
        first, second = c.answers(*calls)
        ws = first["result"]["workspace_id"]
        taken = ("name_taken", "the name build is taken", "it is workspace " + ws, "pyro workspace create --name build-2 debian:12")
        assert error(second) == taken
        pid, = d.vmm_pids()
        os.kill(pid, signal.SIGSTOP)  # SIGKILL ends it all the same; what it delays is only the orderly end
        calls = [c.begin("workspace.delete", {"workspace_id": "build"}), c.begin("workspace.create", d.spec(name="build"))]
        gone, second = c.answers(*calls)
        assert gone["result"]["deleted"] and error(second) == taken
    again = create(d, name="build")["workspace_id"]
    create(d, name="build-2")
    fix = refused(d, "workspace.create", **d.spec(name="build"))[3]
    assert fix == "pyro workspace create --name build-3 debian:12"
    r = d.pyro(*fix.split()[1:3], *d.run_flags(), *fix.split()[3:])
    assert r.status == 0, r
    long = "a" * 63
    create(d, name=long)
    assert refused(d, "workspace.create", **d.spec(name=long))[3] == "pyro workspace create --name %s-2 debian:12" % ("a" * 61)
    assert again in listed(d)
    for ws in listed(d):
        delete(d, ws)
    d.wait_clean()


def test_labels_find_workspaces(d):
    a = create(d, labels={"team": "web", "tier": "1"})["workspace_id"]
    b = create(d, labels={"team": "web"})["workspace_id"]
    assert set(listed(d, labels={"team": "web"})) == {a, b} and listed(d, labels={"team": "web", "tier": "1"}) == [a]
    assert listed(d, labels={"team": ""}) == listed(d, labels={"tier": "2"}) == listed(d, labels={"none": ""}) == []
    for ws in (a, b):
        delete(d, ws)
    d.wait_clean()


@pytest.mark.parametrize("labels", [{"": "x"}, {"a b": ""}, {"-a": ""}, {"a=b": ""}, {"ä": ""}, {"a" * 64: ""}, {"a": "x" * 8192},
                                    {str(i): "" for i in range(65)}], ids=lambda labels: repr(labels)[:12])
def test_labels_are_bounded(d, labels):
    got = refused(d, "workspace.create", **d.spec(labels=labels))
    assert got[0] == "invalid_argument" and got[3], got
    assert listed(d) == []


def test_largest_labels(d):
    labels = {"%02d" % i: "" for i in range(63)} | {"k" * 63: "x" * (8192 - 63 - 63 * 2)}
    ws = create(d, labels=labels)["workspace_id"]
    restart(d)
    assert status(d, ws)["labels"] == labels
    delete(d, ws)
    d.wait_clean()


# --- its life

def test_it_outlives_the_daemon(d):
    a, b = create(d, name="a", labels={"k": "v"})["workspace_id"], create(d)["workspace_id"]
    pids = set(d.vmm_pids())
    restart(d)
    wait_for(lambda: status(d, "a")["state"] == status(d, b)["state"] == "started")
    assert set(d.vmm_pids()) == pids and status(d, "a")["labels"] == {"k": "v"} and set(listed(d)) == {a, b}
    assert d.stop() == 0
    d.start()
    wait_for(lambda: status(d, a)["state"] == "started")
    assert refused(d, "workspace.create", **d.spec(name="a"))[0] == "name_taken"
    delete(d, "a")
    delete(d, b)
    d.wait_clean()


def test_nothing_ends_it_for_its_age(make_fake):
    d = make_fake(build=BUILD_ASAN, deadlines={"expired": 0.1}).start()
    ws = create(d, ttl_seconds=1)["workspace_id"]
    vm = d.call("vm.create", d.spec(ttl_seconds=1))["result"]["vm_id"]
    wait_for(lambda: d.vms() == [])  # the machine of the same age is deleted
    assert vm and listed(d) == [ws] and d.call("vm.reap_expired")["result"]["count"] == 0
    restart(d)
    assert listed(d) == [ws]
    delete(d, ws)
    d.wait_clean()


@pytest.mark.parametrize("manner,reason", [("refuses", "start_failed"), ("qmp-noise", "start_failed")])
def test_a_creation_that_fails_leaves_nothing(make_fake, manner, reason):
    d = make_fake(build=BUILD_ASAN).start()
    reply = d.call("workspace.create", d.spec(manner, name="build"), timeout=60)
    assert "error" in reply and reply["error"]["data"]["fix"], reply
    assert code(reply) == reason
    d.wait_clean()
    assert d.rows("SELECT id FROM workspace") == []
    delete(d, create(d, name="build")["workspace_id"])
    d.wait_clean()


def test_limits_count_workspaces(make_fake):
    d = make_fake(build=BUILD_ASAN, conf=["max_disk_mib = 130"]).start()
    create(d, name="a")
    vm = d.call("vm.create", d.spec())["result"]["vm_id"]
    for method in ("workspace.create", "vm.create"):
        got = refused(d, method, **d.spec())
        assert got[0] == "quota_exceeded" and got[2].startswith("with this machine you would use 192 of 130"), got
    d.call("vm.delete", {"vm_id": vm})
    assert refused(d, "vm.create", **d.spec(disk_mib=128))[3].startswith("ask for at most 66")
    delete(d, "a")
    d.wait_clean()


def test_the_fix_of_a_limit_names_workspaces(make_fake):
    d = make_fake(build=BUILD_ASAN)
    with open(d.conf) as f:
        text = f.read().replace("max_machines = 1000", "max_machines = 1")
    with open(d.conf, "w") as f:
        f.write(text)
    d.start()
    create(d)
    assert refused(d, "workspace.create", **d.spec())[3] == "pyro workspace delete WORKSPACE, for a machine that pyro workspace list shows"
    delete(d, listed(d)[0])
    d.call("vm.create", d.spec())
    assert refused(d, "workspace.create", **d.spec())[3] == "pyro vm delete VM_ID, for a machine that pyro vm list shows"
    d.call("vm.delete", {"vm_id": d.vms()[0]["vm_id"]})
    d.wait_clean()


# --- callers that do not wait

@pytest.fixture
def mirror(make_fake):
    d = make_fake(build=BUILD_ASAN, deadlines={"grace": 0.2})
    m = Mirror(d)
    m.d = d.start()
    return m


def pulled(d, **more):
    return d.spec(environment=OTHER_ENV, **more)


def test_an_early_answer_says_what_goes_on(mirror):
    """With the id, by which it is found, also before its machine exists."""
    d = mirror.d
    ws = d.call("workspace.create", pulled(d, name="build", wait_ms=0, labels={"a": "b"}))["result"]
    assert (ws["state"], ws["name"], ws["labels"], ws["environment"]) == ("preparing", "build", {"a": "b"}, OTHER_ENV)
    mirror.stands_still()
    now = status(d, "build")
    assert (now["workspace_id"], now["state"], now["mem_mib"]) == (ws["workspace_id"], "preparing", MANNERS["good"]) and now["phase"] and "percent" in now
    assert (now["accelerator"], now["disk_used_bytes"], now["last_error"]) == (None, None, None)
    assert refused(d, "workspace.create", **pulled(d, name="build"))[0] == "name_taken"
    mirror.go()
    wait_for(lambda: status(d, "build")["state"] == "started")
    assert "phase" not in status(d, "build")
    delete(d, "build")
    d.wait_clean()


def test_wait_ms_that_is_long_enough(d):
    ws = create(d, wait_ms=60000)
    assert ws["state"] == "started"
    delete(d, ws["workspace_id"])
    d.wait_clean()


@pytest.mark.parametrize("how", ["fails", "comes", "deleted"])
def test_a_creation_goes_on_without_its_caller(mirror, how):
    d = mirror.d
    with Caller(d.socket) as c:
        c.begin("workspace.create", pulled(d, name="build"))
        c.call("system.ping")
    mirror.stands_still()
    if how == "deleted":
        ws = status(d, "build")["workspace_id"]
        assert delete(d, "build") == ws and listed(d) == []
    mirror.go("on" if how == "comes" else "fail")
    if how == "comes":
        wait_for(lambda: status(d, "build")["state"] == "started")
        delete(d, "build")
    wait_for(lambda: listed(d) == [])
    d.wait_clean()
    assert d.rows("SELECT id FROM workspace") == []


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 40])
def test_cancelled_at_any_moment(d, turns):
    with Caller(d.socket) as c:
        call = c.begin("workspace.create", d.spec(name="build"))
        pings = [c.begin("system.ping") for _ in range(turns)]
        reply, told, *_ = c.answers(call, c.cancel(call), *pings)
        assert "result" in told
        if "error" in reply:
            assert code(reply) == "cancelled", reply
            assert listed(d) == []
        else:
            delete(d, "build")
        delete(d, c.call("workspace.create", d.spec(name="build"))["result"]["workspace_id"])
    d.wait_clean()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 40])
def test_deleted_at_any_moment_of_its_creation(d, turns):
    with Caller(d.socket) as c:
        call = c.begin("workspace.create", d.spec(name="build"))
        pings = [c.begin("system.ping") for _ in range(turns)]
        reply, gone, *_ = c.answers(call, c.begin("workspace.delete", {"workspace_id": "build"}), *pings)
        assert gone["result"]["deleted"] and listed(d) == []
        assert "result" in reply or code(reply) == "cancelled", reply
    d.wait_clean()
    assert d.rows("SELECT id FROM workspace") == []


def test_a_later_question_learns_why_a_creation_failed(mirror):
    """By id or name, for its owner, until there is another of the name."""
    d = mirror.d
    ws = d.call("workspace.create", pulled(d, name="build", wait_ms=0))["result"]["workspace_id"]
    mirror.stands_still()
    mirror.go("fail")
    wait_for(lambda: listed(d) == [])
    for ref in (ws, "build"):
        got = refused(d, "workspace.status", workspace_id=ref)
        assert got[:2] == ("workspace_not_found", "workspace %s not found" % ref) and got[2].startswith("its creation failed: ") and "mirror" in got[2], got
        assert got[3] != "pyro workspace list"
    delete(d, create(d, name="build")["workspace_id"])
    assert refused(d, "workspace.status", workspace_id="build")[2] == "it does not exist, or it was deleted"
    for i in range(64):
        assert "error" in d.call("workspace.create", d.spec(name="n%d" % i, disk_mib=16777216))
    assert refused(d, "workspace.status", workspace_id="n63")[2].startswith("its creation failed: ")
    assert refused(d, "workspace.status", workspace_id=ws)[2] == "it does not exist, or it was deleted"  # the last 64 are kept
    d.wait_clean()


def test_a_creation_that_cannot_be_undone_leaves_a_workspace_to_delete(make_fake, root_only):
    """Its folder cannot be removed: a file system is mounted in it."""
    d = make_fake(build=BUILD_ASAN).start()
    ws = d.call("workspace.create", d.spec("deaf", name="build", wait_ms=0))["result"]["workspace_id"]
    wait_for(d.vmm_pids)
    held = "%s/machines/%s/held" % (d.state, ws)
    os.mkdir(held)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", held], check=True)
    try:
        got = refused(d, "workspace.delete", workspace_id="build")
        assert got[0] == "internal" and "cannot be removed" in got[1], got
        assert (listed(d), status(d, "build")["state"], d.vmm_pids()) == ([ws], "unknown", []) and "phase" not in status(d, "build")
        assert refused(d, "workspace.create", **d.spec(name="build"))[0] == "name_taken"
    finally:
        subprocess.run(["umount", held], check=True)
    assert delete(d, "build") == ws
    delete(d, create(d, name="build")["workspace_id"])
    d.wait_clean()


def test_workspaces_that_wait_for_a_pull_are_limited(mirror):
    d = mirror.d
    with Raw(d.socket, 60) as raw:
        for i in range(64):
            assert raw.call("workspace.create", pulled(d, wait_ms=0))["result"]["state"] == "preparing"
        reply = raw.call("workspace.create", pulled(d, wait_ms=0))
        assert code(reply) == "quota_exceeded" and "64 workspaces that wait" in reply["error"]["message"], reply
        delete(d, listed(d)[0])
        assert "result" in raw.call("workspace.create", pulled(d, wait_ms=0))
    mirror.stands_still()
    mirror.go("fail")
    wait_for(lambda: listed(d) == [])
    d.wait_clean()


@pytest.mark.parametrize("kill", [True, False], ids=["kill", "stop"])
def test_a_daemon_that_ends_in_mid_creation(mirror, kill):
    """What waited for a pull is gone; it had no machine."""
    d = mirror.d
    create(d, name="a")
    with Caller(d.socket) as c:
        c.begin("workspace.create", pulled(d, name="build"))
        c.call("workspace.create", pulled(d, wait_ms=0))
        assert len(listed(d)) == 3
        mirror.stands_still()
        if kill:
            d.kill()
        else:
            assert d.stop() == 0
    d.start()
    assert [w["name"] for w in d.call("workspace.list")["result"]["workspaces"]] == ["a"]
    delete(d, "a")
    delete(d, create(d, name="build")["workspace_id"])
    d.wait_clean()


# --- started and stopped

def test_stopped_and_started(d):
    ws = create(d, name="build")["workspace_id"]
    disk = os.stat("%s/machines/%s/disk.ext4" % (d.state, ws)).st_ino
    stopped = d.call("workspace.stop", {"workspace_id": "build"})["result"]
    assert (stopped["state"], stopped["stop_reason"]) == ("stopped", "user") and d.vmm_pids() == []
    assert d.call("workspace.stop", {"workspace_id": "build"})["result"] == stopped
    restart(d)
    assert (status(d, ws)["state"], status(d, ws)["stop_reason"]) == ("stopped", "user")
    r = d.pyro("ws", "start", "build")
    assert r.status == 0 and "State: started\n" in r.text, r
    assert d.call("workspace.start", {"workspace_id": ws})["result"]["stop_reason"] is None
    assert os.stat("%s/machines/%s/disk.ext4" % (d.state, ws)).st_ino == disk
    assert "Stop reason: host_shutdown\n" in d.pyro("ws", "stop", "--reason", "host_shutdown", "build").text
    delete(d, "build")
    d.wait_clean()


def test_a_stop_while_it_boots_does_not_advise_to_delete_it(d):
    ws = create(d, name="build")["workspace_id"]
    d.call("workspace.stop", {"workspace_id": ws})
    with Caller(d.socket) as c:
        started, stopped = c.answers(c.begin("workspace.start", {"workspace_id": ws}), c.begin("workspace.stop", {"workspace_id": ws}))
    assert started["result"]["state"] == "started"
    assert error(stopped)[0] == "wrong_state" and "cannot be stopped while it is being started" in error(stopped)[1], stopped
    assert error(stopped)[3] == "the same call again, when it has started"
    assert d.call("workspace.stop", {"workspace_id": ws})["result"]["state"] == "stopped"
    delete(d, ws)
    d.wait_clean()


def test_calls_while_it_is_being_created(mirror):
    """A start waits for the creation; a stop has nothing to stop; each gets its reason when the pull fails."""
    d = mirror.d
    ws = d.call("workspace.create", pulled(d, name="build", wait_ms=0))["result"]["workspace_id"]
    mirror.stands_still()
    assert refused(d, "workspace.stop", workspace_id="build") == (
        "wrong_state", "workspace %s cannot be stopped" % ws, "it is still being created", "pyro workspace delete " + ws)
    assert d.call("workspace.update", {"workspace_id": "build", "name": "other", "labels": {"a": "b"}})["result"]["name"] == "other"
    with Caller(d.socket) as c:
        calls = [c.begin("workspace.start", {"workspace_id": "other"}), c.begin("workspace.wait", {"workspace_id": ws})]
        c.call("system.ping")
        mirror.go("fail")
        assert [code(reply) for reply in c.answers(*calls)] == ["pull_failed"] * 2
    d.wait_clean()
    ws = d.call("workspace.create", d.spec(name="build", wait_ms=0))["result"]["workspace_id"]
    assert d.call("workspace.start", {"workspace_id": ws})["result"]["state"] == "started"
    delete(d, ws)
    d.wait_clean()
    assert d.rows("SELECT id FROM workspace") == []


def test_forced_stop_does_not_wait_for_the_guest(d):
    """Also when another call has begun an orderly one, which then ends too."""
    for also in (False, True):
        create(d, name="build")
        pid, = d.vmm_pids()
        os.kill(pid, signal.SIGSTOP)  # the guest does not answer
        with Caller(d.socket, 25) as c:
            calls = [c.begin("workspace.stop", {"workspace_id": "build"})] if also else []
            calls.append(c.begin("workspace.stop", {"workspace_id": "build", "force": True}))
            assert {reply["result"]["state"] for reply in c.answers(*calls)} == {"stopped"}
        delete(d, "build")
    d.wait_clean()


def test_a_workspace_whose_vmm_dies_has_failed_and_starts_again(d):
    ws = create(d, name="build")["workspace_id"]
    pid, = d.vmm_pids()
    with Caller(d.socket) as c:
        waits = [c.begin("workspace.wait", {"workspace_id": ws, "states": states}) for states in (["stopped"], ["failed", "stopped"])]
        c.call("system.ping")
        os.kill(pid, signal.SIGKILL)
        first, second = c.answers(*waits)
    assert error(first)[0] == "wrong_state" and "killed by signal 9" in error(first)[2] and error(first)[3] == "pyro workspace start " + ws
    assert second["result"]["state"] == "failed"
    wait_for(lambda: not d.vmm_pids())
    assert refused(d, "workspace.wait", workspace_id=ws)[0] == "wrong_state"
    with Caller(d.socket) as c:  # a start is under way: it is waited for
        calls = c.begin("workspace.start", {"workspace_id": ws}), c.begin("workspace.wait", {"workspace_id": ws})
        assert [reply["result"]["state"] for reply in c.answers(*calls)] == ["started", "started"]
    pid, = d.vmm_pids()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not d.vmm_pids() and status(d, ws)["state"] == "failed")
    assert d.pyro(*error(first)[3].split()[1:]).status == 0 and status(d, ws)["state"] == "started"
    delete(d, ws)
    d.wait_clean()


def test_host_shutdown_stops_workspaces_too(d):
    """The script of pyro-machines.service, as installed, for this daemon."""
    names = {create(d, name=name)["name"] for name in ("a", "b", "c")}
    d.call("workspace.stop", {"workspace_id": "c"})
    vm = d.call("vm.create", d.spec())["result"]["vm_id"]
    d.call("vm.start", {"vm_id": vm})
    with open(stage(BUILD_ASAN) + "/libexec/pyro/pyro-end-machines") as f:
        script = f.read().replace("/usr/local/bin/pyro --system", stage(BUILD_ASAN) + "/bin/pyro").replace("/run/pyro/vm", d.runtime + "/vm")
    r = subprocess.run(["sh", "-c", script], env=d.client_env(), capture_output=True, text=True, timeout=100)
    assert (r.returncode, r.stdout, r.stderr) == (0, "", ""), r
    assert d.vmm_pids() == [] and d.vms()[0]["stop_reason"] == "host_shutdown"
    assert {w["name"]: w["stop_reason"] for w in d.workspaces()} == {"a": "host_shutdown", "b": "host_shutdown", "c": "user"}
    r = d.pyro("ws", "delete", "--all")
    assert r.status == 0 and len(r.text.splitlines()) == len(names), r
    d.call("vm.delete", {"vm_id": vm})
    d.wait_clean()


# --- waited for

def test_waits_end_when_the_state_is_there(d):
    create(d, name="build")
    ask = lambda c, **params: c.begin("workspace.wait", dict(params, workspace_id="build"))
    with Caller(d.socket) as c:
        assert c.answer(ask(c))["result"]["state"] == "started"
        calls = ask(c, states=["stopped", "failed"]), c.begin("workspace.stop", {"workspace_id": "build"})
        assert [reply["result"]["state"] for reply in c.answers(*calls)] == ["stopped", "stopped"]
    with Caller(d.socket) as c:
        assert c.answer(ask(c, states=["stopped"]))["result"]["state"] == "stopped"
        started, stopped = ask(c), ask(c, states=["stopped"], wait_ms=0)
        start = c.begin("workspace.start", {"workspace_id": "build"})
        replies = c.answers(started, stopped, start)
        assert [r["result"]["state"] for r in replies] == ["started", "stopped", "started"]
        late, never = ask(c, states=["stopped"], wait_ms=1), ask(c, states=["stopped"])
        assert c.answer(late)["result"]["state"] == "started"
        reply, told = c.answers(never, c.cancel(never))
        assert code(reply) == "cancelled" and told["result"]["cancelled"]
        ask(c, states=["stopped"])  # its connection ends
    assert refused(d, "workspace.wait", workspace_id="build", states=[])[0] == "invalid_argument"
    with Caller(d.socket) as c:
        calls = [ask(c, states=["stopped"]), c.begin("workspace.delete", {"workspace_id": "build"})]
        gone, done = c.answers(*calls)
        assert error(gone)[:1] == ("cancelled",) and "was deleted" in error(gone)[1] and done["result"]["deleted"]
    d.wait_clean()


def test_what_is_started_can_be_stopped_at_once(d):
    """Neither wait nor status says `started` before the start is committed and a stop is accepted. Commits of another caller make
    that take longer."""
    with Caller(d.socket) as c, Caller(d.socket) as status_caller, Caller(d.socket) as busy:
        other = create(d)["workspace_id"]
        for i in range(15):
            for n in range(40):
                busy.begin("workspace.update", {"workspace_id": other, "labels": {"n": "%d %d" % (i, n)}})
            c.call("workspace.create", d.spec(name="build", wait_ms=0))
            if i % 2:
                while status_caller.call("workspace.status", {"workspace_id": "build"})["result"]["state"] != "started":
                    pass
            else:
                assert c.answer(c.begin("workspace.wait", {"workspace_id": "build"}))["result"]["state"] == "started"
            reply = c.answer(c.begin("workspace.stop", {"workspace_id": "build", "force": True}))
            assert reply.get("result", {}).get("state") == "stopped", (i, reply)
            assert "result" in c.answer(c.begin("workspace.delete", {"workspace_id": "build"}))
            for n in range(40):
                assert "result" in busy.line()
    delete(d, other)
    d.wait_clean()


def test_waiting_on_the_command_line(d):
    create(d, name="build")
    assert d.pyro("ws", "wait", "build").status == 0
    r = d.pyro("ws", "wait", "--state", "stopped", "--state", "failed", "--wait-ms", "1", "build")
    assert r.status == 1 and "State: started\n" in r.text, r
    r = d.pyro("ws", "wait", "--state", "paused", "build")
    assert r.status == 2 and "one of started, stopped, failed" in r.errors, r
    p = d.popen("ws", "wait", "--state", "stopped", "build", stdout=subprocess.PIPE)
    assert d.pyro("ws", "stop", "build").status == 0
    assert "State: stopped\n" in p.communicate(timeout=60)[0].decode() and p.returncode == 0
    delete(d, "build")
    d.wait_clean()


def test_a_wait_over_an_adoption(d):
    """The next daemon does not know the state at once."""
    create(d, name="build")
    pid, = d.vmm_pids()
    d.kill()
    os.kill(pid, signal.SIGSTOP)
    d.start()
    with Caller(d.socket) as c:
        wait = c.begin("workspace.wait", {"workspace_id": "build"})
        assert c.answer(c.begin("workspace.status", {"workspace_id": "build"}))["result"]["state"] == "unknown"
        os.kill(pid, signal.SIGCONT)
        assert c.answer(wait)["result"]["state"] == "started"
    delete(d, "build")
    d.wait_clean()


# --- changed

def test_name_and_labels_change(d):
    ws = create(d, name="a", labels={"k": "1", "team": "web"})["workspace_id"]
    other = create(d, name="b")["workspace_id"]
    change = lambda **params: d.call("workspace.update", dict(params, workspace_id=ws))
    assert change()["result"]["name"] == "a"
    got = change(name="c", labels={"k": "2", "new": ""}, clear_labels=["team", "none"])["result"]
    assert (got["name"], got["labels"]) == ("c", {"k": "2", "new": ""})
    assert change(name="c")["result"]["name"] == "c"  # its own
    assert error(change(name="b")) == ("name_taken", "the name b is taken", "it is workspace " + other, "pyro workspace update --name b-2 " + ws)
    assert refused(d, "workspace.status", workspace_id="a")[0] == "workspace_not_found"
    assert code(change(name="x", clear_name=True)) == "invalid_argument"
    assert code(change(labels={str(i): "" for i in range(63)})) == "invalid_argument" and status(d, "c") == got
    restart(d)
    assert (status(d, "c")["workspace_id"], status(d, "c")["labels"]) == (ws, {"k": "2", "new": ""})
    assert change(clear_name=True, clear_labels=["k", "new"])["result"]["name"] is None
    restart(d)
    assert (status(d, ws)["name"], status(d, ws)["labels"]) == (None, {})
    delete(d, create(d, name="c")["workspace_id"])
    for each in (ws, other):
        delete(d, each)
    d.wait_clean()


def test_changes_on_the_command_line(d):
    a, b = create(d)["workspace_id"], create(d)["workspace_id"]
    r = d.pyro("ws", "update", "--label", "team=web", "--label", "x=1", a, b)
    assert (r.status, r.text) == (0, "") and r.errors == "".join("[workspace-update] workspace_id=%s name=- applies=now\n" % w for w in (a, b)), r
    assert set(listed(d, labels={"team": "web", "x": "1"})) == {a, b}
    r = d.pyro("ws", "update", "--clear-label", "x", "--clear-label", "team", "--name", "build", a)
    assert r.status == 0 and status(d, "build")["labels"] == {}, r
    r = d.pyro("ws", "update", "--name", "build", b)
    assert r.status == 1 and "fix: pyro workspace update --name build-2 " + b in r.errors, r
    assert d.pyro("ws", "update", "--clear-name", "build").status == 0 and status(d, a)["name"] is None
    r = d.pyro("ws", "share", a)
    assert (r.status, r.text) == (0, "Shared workspace: %s\n" % a), r
    restart(d)
    assert [status(d, w)["shared"] for w in (a, b)] == [True, False]
    assert d.call("workspace.share", {"workspace_id": a})["result"]["shared"] is True
    r = d.pyro("ws", "rm", a, "nothing", b)
    assert r.status == 1 and r.text == "Deleted workspace: %s\nDeleted workspace: %s\n" % (a, b) and "workspace nothing not found" in r.errors, r
    d.wait_clean()


def test_deleting_several_or_all(d, root_only):
    ids = [create(d)["workspace_id"] for _ in range(3)]
    r = d.pyro("ws", "delete", "--all", ids[0])
    assert r.status == 2 and "--all takes no WORKSPACE" in r.errors, r
    assert d.pyro("ws", "delete").status == 2 and len(listed(d)) == 3
    r = d.pyro("ws", "delete", ids[0], "No Name")
    assert r.status == 2 and r.out == b"" and len(listed(d)) == 3, r  # a usage error changes nothing
    r = d.pyro("--json", "ws", "rm", "--all", "--force")
    assert r.status == 0 and {json.loads(line)["workspace_id"] for line in r.text.splitlines()} == set(ids), r
    r = d.pyro("ws", "rm", "--all")
    assert (r.status, r.text, r.errors) == (0, "", "no workspaces\n")
    d.wait_clean()


def test_list_of_one_owner(d, root_only):
    os.chmod(d.root, 0o755)
    os.chmod(d.socket, 0o666)
    theirs = json.loads(as_other(d, "--json", "ws", "create", *d.run_flags(), ENV).text)["workspace_id"]
    mine = create(d)["workspace_id"]
    assert d.pyro("ws", "list", "-q", "--owner", str(OTHER)).text == theirs + "\n"
    assert d.pyro("ws", "list", "-q", "--owner", "root").text == mine + "\n"
    r = d.pyro("ws", "list", "--owner", "nobody-of-this-name")
    assert r.status == 2 and "is not a user of this host" in r.errors, r
    assert as_other(d, "ws", "list", "-q", "--owner", str(OTHER)).text == theirs + "\n"
    assert as_other(d, "ws", "list", "--owner", "0").status == 1
    assert refused(d, "workspace.list", owner=0, all_users=True)[0] == "invalid_argument"
    for ws in (mine, theirs):
        delete(d, ws)
    d.wait_clean()


def test_what_root_changes_of_others_is_logged(d, root_only):
    os.chmod(d.root, 0o755)
    os.chmod(d.socket, 0o666)
    theirs = json.loads(as_other(d, "--json", "ws", "create", *d.run_flags(), "--name", "theirs", ENV).text)["workspace_id"]
    mine = create(d)["workspace_id"]
    status(d, theirs)
    d.call("workspace.wait", {"workspace_id": "theirs"})
    d.call("workspace.update", {"workspace_id": mine, "name": "mine"})
    assert as_other(d, "ws", "update", "--label", "a=b", "theirs").status == 0
    assert "root:" not in d.log_text()
    for method in ("workspace.stop", "workspace.delete"):
        d.call(method, {"workspace_id": "theirs"})
        assert "root: %s of %s" % (method, theirs) in d.log_text()
    vm = json.loads(as_other(d, "--json", "vm", "create", *d.run_flags(), ENV).text)["vm_id"]
    d.call("vm.status", {"vm_id": vm})
    d.call("vm.delete", {"vm_id": vm})
    assert re.findall(r"root: (\S+) of " + vm, d.log_text()) == ["vm.delete"]
    delete(d, mine)
    d.wait_clean()


def test_a_list_fits_its_reply(mirror):
    """Labels of control characters are six bytes each in JSON. 49 workspaces wait for their environment, 41 run."""
    d = mirror.d
    labels = {"a": "\x01" * 8000}
    for _ in range(49):
        assert "result" in d.call("workspace.create", pulled(d, wait_ms=0, labels=labels))
    ws = create(d, name="build", labels=labels)["workspace_id"]
    ex = d.call("workspace.exec", {"workspace_id": ws, "command": "sleep 0", "background": True})["result"]["exec_id"]
    few = d.call("workspace.list", {"labels": {"b": ""}})["result"]
    assert few == {"count": 0, "workspaces": []}
    many = d.call("workspace.list")["result"]
    row, = [w for w in many["workspaces"] if w["workspace_id"] == ws]
    assert (many["count"], "truncated" in many, row["running"], row["last_command"], row["command_count"]) == (50, False, [], None, 1)
    whole = status(d, ws)
    assert [r["exec_id"] for r in whole["running"]] == [ex] and whole["last_command"]["exec_id"] == ex and whole["labels"] == labels
    assert dict(row, running=whole["running"], last_command=whole["last_command"], disk_used_bytes=0) == dict(whole, disk_used_bytes=0)
    for _ in range(40):
        create(d, labels=labels)
    many = d.call("workspace.list")["result"]
    assert many["truncated"] is True and many["count"] == len(many["workspaces"]) and 80 <= many["count"] < 90
    r = d.pyro("ws", "list")
    assert r.status == 0 and len(r.text.splitlines()) == many["count"] and "[note] the list is not whole" in r.errors, r
    r = d.pyro("ws", "list", "-q")
    assert r.status == 0 and len(r.text.splitlines()) == many["count"] and r.errors == "", r
    r = d.pyro("ws", "delete", "--all")
    assert r.status == 0 and len(r.text.splitlines()) == 90 and listed(d) == [], r
    mirror.stands_still()
    mirror.go("fail")  # the pull goes on by itself
    d.wait_clean()


def test_a_change_that_cannot_be_committed_is_taken_back(make_fake):
    """The store's file system is full for it."""
    d = make_fake(build=BUILD_ASAN)
    os.makedirs(d.state, exist_ok=True)
    d.start()
    ws = create(d, name="a", labels={"k": "v"})["workspace_id"]
    d.kill()
    with stored(d) as db:
        db.execute("CREATE TRIGGER no BEFORE UPDATE ON workspace BEGIN SELECT RAISE(ABORT, 'no'); END")
    d.start()
    got = d.call("workspace.update", {"workspace_id": ws, "name": "b", "labels": {"k": "w"}})
    assert "error" in got and got["error"]["data"]["fix"], got
    assert (status(d, "a")["labels"], status(d, "a")["workspace_id"]) == ({"k": "v"}, ws)
    assert d.call("workspace.create", d.spec(name="b"))["result"]["name"] == "b"  # it is free again
    for name in ("a", "b"):
        delete(d, name)
    d.wait_clean()


# --- the rows

def test_rows_that_have_lost_each_other(d):
    """A workspace without a machine goes; the machine of a workspace without its own row is kept, without a name."""
    a, b = create(d, name="a", labels={"k": "v"})["workspace_id"], create(d, name="b")["workspace_id"]
    d.kill()
    with stored(d) as db:
        db.execute("DELETE FROM workspace WHERE id = ?", [a])
        db.execute("INSERT INTO workspace VALUES ('ws-ffffffffffff', ?, 'ghost', '{}', 0, 0)", [os.getuid()])
        db.execute("UPDATE workspace SET labels = '[1' WHERE id = ?", [b])
    d.start()
    assert set(listed(d)) == {a, b} and status(d, a)["name"] is None and status(d, a)["labels"] == {}
    assert (status(d, "b")["workspace_id"], status(d, "b")["labels"]) == (b, {})
    assert "1 workspaces had no record" in d.log_text() and "the labels of workspace %s cannot be read" % b in d.log_text()
    delete(d, create(d, name="ghost")["workspace_id"])
    for ws in (a, b):
        delete(d, ws)
    d.wait_clean()
