# SPDX-License-Identifier: MIT
"""Who may do what: every method of the table against the owner of a machine and a command, another member of group pyro, a
member of pyro-admin too, root, and a user in no group. A method without a row here fails, and so does a row without a method. An
object of another user is "not found", in the same words as an id that never existed.

The daemon is the sanitized one with the fake VMM, with its own /etc/group (so the host's accounts do not matter) and its own
cache (so that pruning is real). The kernel reports who a client is: each connection is made by a process of that uid and passed
to the test."""
import array
import json
import os
import re
import select
import socket
import subprocess
import time

import pytest

from conftest import BUILD_ASAN, Daemon, Raw, assert_no_faults, stage
from fakevm import FakeDaemon

ENV = "debian:12"
GROUP, ADMINS = 61100, 61101
OWNER, OTHER, ADMIN, ROOT, NOBODY = "owner", "other", "admin", "root", "nobody"
PEOPLE = {OWNER: (61001, [GROUP]), OTHER: (61002, [GROUP]), ADMIN: (61003, [GROUP, ADMINS]), ROOT: (0, [0]), NOBODY: (65534, [])}
NEVER = {"vm": "vm-ffffffffffff", "workspace": "ws-ffffffffffff", "exec": "ex-ffffffffffff"}


def methods():
    """{method: (object, right)} of the one table."""
    document = json.load(open(stage(BUILD_ASAN) + "/share/pyro/openrpc.json"))
    return {m["name"]: (m["x-pyro-object"], m["x-pyro-right"]) for m in document["methods"]}


METHODS = methods()


def as_person(who, make):
    """The sockets that make() creates in a process of who's uid: the kernel records it as their peer's."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            uid, groups = PEOPLE[who]
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            made = make()
            there.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno() for s in made]))])
            status = 0
        except OSError as e:
            status = e.errno
        finally:
            os._exit(status)
    there.close()
    _, ended = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(ended)
    if code != 0:
        here.close()
        raise OSError(code, os.strerror(code))
    _, fds, _, _ = socket.recv_fds(here, 1, 2)
    here.close()
    return [socket.socket(fileno=fd) for fd in fds]


class Client(Raw):
    """A connection of another user: a process of that uid connects and passes it on."""

    def __init__(self, path, who, timeout=60):
        self.buffer, self.id = b"", 0

        def connect():
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            return [s]
        self.sock, = as_person(who, connect)
        self.sock.settimeout(timeout)

    def start(self, method, params, fds=()):
        """Sends a call and does not wait for its answer."""
        self.id += 1
        line = {"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}
        if fds:
            line["fds"] = len(fds)
        self.sock.sendmsg([json.dumps(line).encode() + b"\n"],
                          [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        return self.id

    def until(self, found):
        """Reads lines until one of them matches."""
        while True:
            line = self.line()
            hit = found(line)
            if hit:
                return hit

    def answer(self, id):
        return self.until(lambda line: line if line.get("id") == id else None)


def call(d, who, method, params=None):
    with Client(d.socket, who) as c:
        return c.call(method, params)


def result(d, who, method, params=None):
    reply = call(d, who, method, params)
    assert "result" in reply, (who, method, params, reply)
    return reply["result"]


def refusal(d, who, method, params=None):
    reply = call(d, who, method, params)
    assert "error" in reply, (who, method, params, reply)
    return reply["error"]


def with_groups(d):
    """The daemon d with the groups of this file."""
    with open(d.root + "/group", "w") as f:
        f.writelines(line for line in open("/etc/group") if line.split(":")[0] not in ("pyro", "pyro-admin"))
        f.write("pyro:x:%d:\npyro-admin:x:%d:\n" % (GROUP, ADMINS))
    d.prefix = ["unshare", "--mount", "--", "sh", "-c", 'mount --bind "$0" /etc/group && exec "$@"', d.root + "/group"]
    return d


@pytest.fixture(scope="module")
def served(root_only, work):
    os.mkdir(work + "/authority")
    d = with_groups(FakeDaemon(work + "/authority", build=BUILD_ASAN))
    yield d.start()
    try:
        d.wait_clean(30)
    finally:
        d.close()
    assert_no_faults(d.log_text())


def create(d, who):
    vm = result(d, who, "vm.create", d.spec(ttl_seconds=0))
    assert vm["owner_uid"] == PEOPLE[who][0]
    return vm["vm_id"]


def delete(d, who, vm):
    assert result(d, who, "vm.delete", {"vm_id": vm})["deleted"] is True


class Run:
    """A command of who that runs until it is cancelled, with its connection and its ids."""

    def __init__(self, d, who, live=False):
        self.client = Client(d.socket, who)
        self.socket = None
        fds, params = (), d.spec(command="sleep 0", timeout_seconds=0)
        if live:
            self.socket, theirs = as_person(who, socket.socketpair)
            fds, params["stdio"] = (theirs.fileno(),), 0
        self.id = self.client.start("vm.run", params, fds)
        if live:
            theirs.close()

        def executes(line):
            assert "error" not in line, line
            p = line.get("params", {})
            return p if p.get("phase") == "execute" and p["exec_id"] else None

        p = self.client.until(executes)
        self.vm, self.exec = p["vm_id"], p["exec_id"]

    def cancel(self):
        assert self.client.call("cancel", {"id": self.id})["result"] == {"cancelled": True}

    def leave(self):
        self.client.sock.close()
        if self.socket:
            self.socket.close()


def attach(d, who, exec_id):
    """exec.attach; (client, the call's id, our end)."""
    c = Client(d.socket, who)
    ours, theirs = as_person(who, socket.socketpair)
    call_id = c.start("exec.attach", {"exec_id": exec_id, "stdio": 0}, (theirs.fileno(),))
    theirs.close()
    return c, call_id, ours


# Each function here is called as each user for whom it is allowed, and must succeed.

def anyone(params=None, check=None):
    def act(d, who):
        got = result(d, who, act.method, params)
        if check:
            check(got, who)
    act.people = (OWNER, OTHER, ADMIN, ROOT)
    return act


def run_for_anyone(d, who):
    got = result(d, who, "vm.run", d.spec(command="echo there; exit 3"))
    assert (got["exit_code"], got["stdout"]) == (3, "there\n")


def create_for_anyone(d, who):
    delete(d, who, create(d, who))


def create_workspace(d, who):
    return result(d, who, "workspace.create", d.spec())["workspace_id"]


def delete_workspace(d, who, ws):
    assert result(d, who, "workspace.delete", {"workspace_id": ws})["deleted"] is True


def workspace_for_anyone(d, who):
    ws = result(d, who, "workspace.create", d.spec(name="mine"))  # each user has a name of their own
    assert ws["owner_uid"] == PEOPLE[who][0]
    delete_workspace(d, who, ws["workspace_id"])


def list_own_workspaces(got, who):
    assert got["count"] == len(got["workspaces"])
    assert {w["owner_uid"] for w in got["workspaces"]} <= {PEOPLE[who][0]}


def list_own(got, who):
    uid = PEOPLE[who][0]
    assert got["count"] == len(got["vms"])
    assert {v["owner_uid"] for v in got["vms"]} <= {uid}


def prune(d, who):
    """Anybody may remove leftovers; only an administrator may remove what others installed."""
    listed = result(d, who, "env.prune", {"all": True, "dry_run": True})
    assert listed["bytes_freed"] >= 0 and listed["permitted"] == (who in (ADMIN, ROOT))
    result(d, who, "env.prune", {})
    if who in (ADMIN, ROOT):
        return  # test_only_an_administrator_removes_what_others_use
    error = refusal(d, who, "env.prune", {"all": True})
    assert error["data"]["code"] == "permission_denied" and error["data"]["fix"] == "sudo pyro env prune --all"


def pull(d, who):
    """Only an administrator may rebuild what is installed and intact."""
    assert result(d, who, "env.pull", {"environment": ENV})["installed"]
    if who in (ADMIN, ROOT):
        return  # test_who_may_force_a_pull
    before = result(d, who, "env.inspect", {"environment": ENV})
    assert refusal(d, who, "env.pull", {"environment": ENV, "force": True})["data"]["code"] == "permission_denied"
    assert result(d, who, "env.inspect", {"environment": ENV}) == before


ANYONE = {
    "system.ping": anyone(check=lambda got, who: got["uid"] == PEOPLE[who][0] or pytest.fail("%s is uid %d" % (who, got["uid"]))),
    "system.doctor": anyone({"probe": False}),
    "rpc.discover": anyone(),
    "cancel": anyone({"id": 4711}, lambda got, _: got == {"cancelled": False} or pytest.fail(str(got))),
    "env.list": anyone(),
    "vm.list_environments": anyone(),
    "env.pull": pull,
    "env.inspect": anyone({"environment": ENV}),
    "env.prune": prune,
    "vm.run": run_for_anyone,
    "vm.create": create_for_anyone,
    "vm.list": anyone(check=list_own),
    "workspace.create": workspace_for_anyone,
    "workspace.list": anyone(check=list_own_workspaces),
    "vm.reap_expired": anyone(check=lambda got, _: got == {"count": 0, "deleted_vm_ids": []} or pytest.fail(str(got))),
}
for name, act in ANYONE.items():
    act.method = name


# What only the owner and root may do: `who` does it to a machine or a live command of OWNER.

def to_machine(method, check):
    def act(d, who):
        vm = create(d, OWNER)
        got = result(d, who, method, {"vm_id": vm})
        assert got["vm_id"] == vm and check(got), got
        if method != "vm.delete":
            delete(d, OWNER, vm)
    return act


def to_workspace(method, check):
    def act(d, who):
        ws = create_workspace(d, OWNER)
        got = result(d, who, method, dict({"workspace_id": ws}, **REQUIRED.get(method, {})))
        assert got["workspace_id"] == ws and check(got), got
        if method != "workspace.delete":
            delete_workspace(d, OWNER, ws)
    return act


def to_file(method, check, **params):
    def act(d, who):
        ws = create_workspace(d, OWNER)
        result(d, OWNER, "file.write", {"workspace_id": ws, "path": "/a", "text": "theirs"})
        got = result(d, who, method, dict({"workspace_id": ws, "path": "/a"}, **params))
        assert got["workspace_id"] == ws and check(got), got
        delete_workspace(d, OWNER, ws)
    return act


def to_command(method, check, **params):
    """A command of a workspace, which reads its input."""
    def act(d, who):
        ws = create_workspace(d, OWNER)
        ex = result(d, OWNER, "workspace.exec", {"workspace_id": ws, "command": "echo theirs; cat", "background": True, "interactive": True})["exec_id"]
        assert check(result(d, who, method, dict({"exec_id": ex}, **params)))
        delete_workspace(d, OWNER, ws)
    return act


def exec_in(d, who):
    vm = create(d, OWNER)
    got = result(d, who, "vm.exec", {"vm_id": vm, "command": "echo there"})
    assert (got["vm_id"], got["stdout"], got["cleanup"]["deleted"]) == (vm, "there\n", True)


def signal(d, who):
    run = Run(d, OWNER)
    assert result(d, who, "exec.signal", {"exec_id": run.exec, "signal_name": "TERM"}) == {"exec_id": run.exec, "signal": "TERM"}
    assert run.client.answer(run.id)["result"]["exit_code"] == 128 + 15
    run.leave()


def attach_after_its_caller(d, who):
    run = Run(d, OWNER, live=True)
    c, call_id, ours = attach(d, who, run.exec)
    assert c.answer(call_id)["error"]["data"]["code"] == "wrong_state"  # it has a caller
    c.sock.close()
    run.leave()
    c, call_id, ours = attach(d, who, run.exec)
    assert c.until(lambda line: line.get("params", {}).get("phase") == "execute")
    assert c.call("cancel", {"id": call_id})["result"] == {"cancelled": True}
    c.sock.close()
    ours.close()


OWNED = {
    "vm.start": to_machine("vm.start", lambda got: got["state"] == "started"),
    "vm.stop": to_machine("vm.stop", lambda got: got["state"] == "created"),
    "vm.exec": exec_in,
    "vm.network_info": to_machine("vm.network_info", lambda got: got["network_enabled"] is False),
    "vm.status": to_machine("vm.status", lambda got: got["owner_uid"] == PEOPLE[OWNER][0]),
    "vm.delete": to_machine("vm.delete", lambda got: got["deleted"] is True),
    "workspace.status": to_workspace("workspace.status", lambda got: got["owner_uid"] == PEOPLE[OWNER][0]),
    "workspace.start": to_workspace("workspace.start", lambda got: got["state"] == "started"),
    "workspace.stop": to_workspace("workspace.stop", lambda got: got["state"] == "stopped"),
    "workspace.wait": to_workspace("workspace.wait", lambda got: got["state"] == "started"),
    "workspace.update": to_workspace("workspace.update", lambda got: got["name"] == "theirs"),
    "workspace.share": to_workspace("workspace.share", lambda got: got["shared"] is True),
    "workspace.delete": to_workspace("workspace.delete", lambda got: got["deleted"] is True),
    "file.list": to_file("file.list", lambda got: got["entries"] == []),
    "file.read": to_file("file.read", lambda got: got["content"] == "theirs"),
    "file.write": to_file("file.write", lambda got: got["bytes_written"] == 3, text="new"),
    "file.edit": to_file("file.edit", lambda got: got["replacements"] == 1, old_text="theirs", new_text="mine"),
    "workspace.exec": to_workspace("workspace.exec", lambda got: got["stdout"] == "there\n"),
    "exec.list": to_workspace("exec.list", lambda got: got["execs"] == []),
    "exec.read": to_command("exec.read", lambda got: got["output"] == "theirs\n", wait_ms=20000),
    "exec.wait": to_command("exec.wait", lambda got: got["state"] == "running", wait_ms=1),
    "exec.write": to_command("exec.write", lambda got: got["input_length"] == 4, data="mine"),
    "exec.signal": signal,
    "exec.attach": attach_after_its_caller,
}
REQUIRED = {"vm.exec": {"command": "true"}, "workspace.exec": {"command": "echo there"}, "workspace.update": {"name": "theirs"},
            **{"file." + verb: {"path": "/a"} for verb in ("list", "read")}, "file.write": {"path": "/a", "text": "x"},
            "file.edit": {"path": "/a", "old_text": "x", "new_text": "y"}}


def test_every_method_has_its_row():
    assert {m for m, (_, right) in METHODS.items() if right == "anyone"} == set(ANYONE)
    assert {m for m, (_, right) in METHODS.items() if right == "owner"} == set(OWNED)
    assert set(METHODS) == set(ANYONE) | set(OWNED), "a right without a row: define it here"
    assert {what for m, (what, _) in METHODS.items() if m in OWNED} == set(NEVER)


@pytest.mark.parametrize("who", [OWNER, OTHER, ADMIN, ROOT])
@pytest.mark.parametrize("method", sorted(ANYONE))
def test_anyone_in_the_group(served, method, who):
    ANYONE[method](served, who)


@pytest.mark.parametrize("who", [OWNER, ROOT])
@pytest.mark.parametrize("method", sorted(OWNED))
def test_owner_and_root(served, method, who):
    OWNED[method](served, who)
    served.wait_clean(30)


@pytest.fixture(scope="module")
def target(served):
    """A machine, a workspace and a live command of OWNER, which no other user may see or touch."""
    run = Run(served, OWNER, live=True)
    vm, ws = create(served, OWNER), create_workspace(served, OWNER)
    yield {"vm": vm, "workspace": ws, "exec": run.exec, "run": run}
    run.cancel()
    run.leave()
    delete(served, OWNER, vm)
    delete_workspace(served, OWNER, ws)
    served.wait_clean(30)


def ask(d, who, method, id):
    kind = METHODS[method][0]
    params = dict(REQUIRED.get(method, {}), **{kind + "_id": id})
    if method != "exec.attach":
        return refusal(d, who, method, params)
    c, call_id, ours = attach(d, who, id)
    with c, ours:
        return c.answer(call_id)["error"]


@pytest.mark.parametrize("who", [OTHER, ADMIN])
@pytest.mark.parametrize("method", sorted(OWNED))
def test_anothers_is_not_found(served, target, method, who):
    kind = METHODS[method][0]
    before = result(served, OWNER, "vm.list"), result(served, OWNER, "workspace.list")
    never = ask(served, who, method, NEVER[kind])
    assert never["data"]["code"] == kind + "_not_found"
    for id in (target[kind], target[kind][:-1]):
        got = ask(served, who, method, id)
        assert json.dumps(got).replace(id, NEVER[kind]) == json.dumps(never), (method, id)
    assert (result(served, OWNER, "vm.list"), result(served, OWNER, "workspace.list")) == before  # and nothing happened


@pytest.mark.parametrize("who", [OTHER, ADMIN])
def test_anothers_kept_command_is_not_found(served, who):
    ws = create_workspace(served, OWNER)
    ex = result(served, OWNER, "workspace.exec", {"workspace_id": ws, "command": "echo secret; cat", "background": True, "interactive": True})["exec_id"]
    for method in sorted(m for m in OWNED if METHODS[m][0] == "exec"):
        never = ask(served, who, method, NEVER["exec"])
        for id in (ex, ex[:-1]):
            assert json.dumps(ask(served, who, method, id)).replace(id, NEVER["exec"]) == json.dumps(never), method
    assert result(served, OWNER, "exec.wait", {"exec_id": ex, "wait_ms": 0})["state"] == "running"
    delete_workspace(served, OWNER, ws)


@pytest.mark.parametrize("who", [OTHER, ADMIN])
def test_anothers_call_cannot_be_cancelled(served, target, who):
    with Client(served.socket, who) as c:
        c.id = 100  # not the number of its own call
        assert c.call("cancel", {"id": target["run"].id})["result"] == {"cancelled": False}
    assert target["vm"] in [v["vm_id"] for v in result(served, OWNER, "vm.list")["vms"]]
    r, _, _ = select.select([target["run"].client.sock], [], [], 0)
    assert not r, "the owner's call was answered"


def test_lists_show_ones_own_and_root_sees_owners(served, target):
    mine = {target["vm"], target["run"].vm}
    assert {v["vm_id"] for v in result(served, OWNER, "vm.list")["vms"]} == mine
    assert result(served, OTHER, "vm.list") == {"count": 0, "vms": []}
    assert result(served, ADMIN, "vm.list") == {"count": 0, "vms": []}
    assert result(served, ROOT, "vm.list") == {"count": 0, "vms": []}
    for who in (OWNER, OTHER, ADMIN):
        for method in ("vm.list", "workspace.list"):
            assert refusal(served, who, method, {"all_users": True})["data"]["code"] == "permission_denied"
    assert [w["workspace_id"] for w in result(served, OWNER, "workspace.list")["workspaces"]] == [target["workspace"]]
    for who in (OTHER, ADMIN, ROOT):
        assert result(served, who, "workspace.list") == {"count": 0, "workspaces": []}
    assert [(w["workspace_id"], w["owner_uid"]) for w in result(served, ROOT, "workspace.list", {"all_users": True})["workspaces"]] == [
        (target["workspace"], PEOPLE[OWNER][0])]
    assert {(v["vm_id"], v["owner_uid"]) for v in result(served, ROOT, "vm.list", {"all_users": True})["vms"]} == {(vm, PEOPLE[OWNER][0]) for vm in mine}


def test_doctor_shows_nothing_of_others(served, target):
    """Not how many machines they have, nor when one of them last ran a command."""
    assert result(served, OWNER, "vm.run", served.spec(command="true"))["exit_code"] == 0
    seen = {}
    for who in (OWNER, OTHER, ADMIN, ROOT):
        report = result(served, who, "system.doctor")
        probe = next(c["detail"] for c in report["runtime"]["checks"] if c["name"] == "probe_machine")
        seen[who] = (report["storage"]["machines"], bool(re.search(r"\d\d:\d\d", probe)))
    assert seen == {OWNER: (3, False), OTHER: (0, False), ADMIN: (3, True), ROOT: (3, True)}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nobody_gets_no_connection(served, target, method):
    """The socket's mode stops this user, whatever the request would be."""
    st = os.stat(served.socket)
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (0, GROUP, 0o660)
    with pytest.raises(PermissionError):
        with Client(served.socket, NOBODY) as c:
            c.call(method)


def test_only_an_administrator_removes_what_others_use(served, target):
    """Not even an administrator removes what a machine uses."""
    for who in (ADMIN, ROOT):
        assert result(served, who, "env.prune", {"all": True})["deleted"] == []
        assert result(served, who, "env.inspect", {"environment": ENV})["installed"] is True


def test_who_may_force_a_pull(root_only, make_fake):
    """Root and pyro-admin; everybody if what is installed is damaged. Here there is no space for a pull, so those who may pull
    get that error."""
    d = with_groups(make_fake(build=BUILD_ASAN, conf=["disk_reserve_mib = 1000000000"])).start()
    force = {"environment": ENV, "force": True}
    cache, names = d.root + "/cache", sorted(os.listdir(d.root + "/cache"))
    error = refusal(d, OTHER, "env.pull", force)
    assert error["data"]["code"] == "permission_denied" and "uid %d" % PEOPLE[OTHER][0] in error["message"]
    assert "debian:12 is installed" in error["data"]["cause"] and error["data"]["fix"] == "sudo pyro env pull --force debian:12"
    for who in (ADMIN, ROOT):
        assert refusal(d, who, "env.pull", force)["data"]["code"] == "no_space"
    assert result(d, OTHER, "env.pull", {"environment": ENV})["installed"]
    assert sorted(os.listdir(cache)) == names
    image, = [cache + "/" + name for name in names if name.startswith("sha256-")]
    os.rename(image + "/meta.json", image + "/damaged.json")  # as a daemon does that has read and checked it
    assert result(d, OTHER, "env.inspect", {"environment": ENV})["damage"]
    assert refusal(d, OTHER, "env.pull", force)["data"]["code"] == "no_space"


def test_a_user_may_force_a_pull_of_their_own_daemon(root_only, make_fake):
    """Allowed for the user and root; there is no space for it here either."""
    d = make_fake(mode="--user", conf=["disk_reserve_mib = 1000000000"])
    uid, _ = PEOPLE[OWNER]
    him = ["setpriv", "--reuid=%d" % uid, "--regid=%d" % uid, "--clear-groups"]
    subprocess.run(["chown", "-R", "%d:%d" % (uid, uid), d.root], check=True)
    d.prefix = him
    d.start()
    for who in (him, []):
        p = subprocess.run([*who, *d.command("env", "pull", "--force", ENV)], env=d.client_env(), capture_output=True, text=True, timeout=60)
        assert p.returncode == 1 and "There is no room" in p.stderr, p


@pytest.mark.parametrize("gid,groups,allowed", [(ADMINS, "--groups=%d" % GROUP, True), (GROUP, "--clear-groups", False)], ids=["admin", "none"])
def test_the_primary_group_counts_too(served, target, gid, groups, allowed):
    """Also for a peer that has no other group."""
    program = ("import socket, sys\n"
               "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
               "s.sendall(b'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"env.prune\",\"params\":{\"all\":true}}\\n'); print(s.makefile().readline())\n")
    p = subprocess.run(["setpriv", "--reuid=61004", "--regid=%d" % gid, groups, "/usr/bin/python3", "-c", program, served.socket],
                       capture_output=True, text=True, timeout=60)
    reply = json.loads(p.stdout)
    if allowed:
        assert reply["result"]["deleted"] == [], p
    else:
        assert reply["error"]["data"]["code"] == "permission_denied", p


def test_a_socket_name_is_not_a_uid(served):
    """The peer's own address is never read: a peer that claims to be root is still the user that the kernel reports."""
    uid, groups = PEOPLE[OTHER]
    program = ("import socket, sys, os\n"
               "s = socket.socket(socket.AF_UNIX); s.bind('\\0' + ';uid=0;pid=1'); s.connect(sys.argv[1])\n"
               "s.sendall(b'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\"}\\n'); print(s.makefile().readline())\n")
    out = subprocess.run(["/usr/bin/python3", "-c", program, served.socket], user=uid, group=uid, extra_groups=groups, capture_output=True,
                         check=True, timeout=30)
    assert json.loads(out.stdout)["result"]["uid"] == uid


def test_connections_in_all_are_bounded(served, target):
    """32 for each uid, 256 in all, of which 16 are reserved for root and pyro-admin, and one of all is the target's; one that
    ends makes room for the next."""
    held, refused = [], None
    PEOPLE.update({"crowd%d" % i: (61010 + i, [GROUP]) for i in range(9)})
    try:
        for i in range(239):
            held.append(Client(served.socket, "crowd%d" % (i // 32)))
            assert held[-1].call("system.ping")["result"]["uid"] == 61010 + i // 32
        with Client(served.socket, "crowd7") as c:
            refused = c.line()["error"]
        with Client(served.socket, "crowd8") as c:
            assert c.line()["error"] == refused
        assert refused["data"]["code"] == "quota_exceeded" and "240 connections" in refused["message"], refused
        with Client(served.socket, ADMIN) as c:
            assert c.call("system.ping")["result"]["uid"] == PEOPLE[ADMIN][0]
        held.pop().sock.close()
        end = time.monotonic() + 20
        while True:  # the daemon notices the end later
            try:
                with Client(served.socket, "crowd8") as c:
                    if "result" in c.call("system.ping"):
                        break
            except (EOFError, ConnectionError):
                assert time.monotonic() < end
    finally:
        for c in held:
            c.sock.close()


def test_a_users_own_daemon_serves_only_that_user(root_only, work):
    """Even if the socket's mode would let others in."""
    d = Daemon(work + "/own", build=BUILD_ASAN, mode="--user")
    d.env["XDG_CONFIG_HOME"] = work + "/nowhere"
    d.start()
    try:
        assert os.stat(d.socket).st_mode & 0o7777 == 0o600
        os.chmod(d.socket, 0o666)
        for who in (OTHER, ADMIN):
            with Client(d.socket, who) as c:
                error = c.line()["error"]
                assert error["data"]["code"] == "permission_denied"
                assert c.sock.recv(1) == b""
    finally:
        d.stop()
    assert_no_faults(d.log_text())
