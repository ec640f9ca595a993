# SPDX-License-Identifier: MIT
"""rpc.discover: a valid OpenRPC 1.3 document with everything of the table, and a correct one: every reply of a real daemon
matches the schema published for it, and the daemon refuses exactly the parameters that their schemas refuse."""
import json
import socket

import jsonschema
import pytest

from conftest import BUILD_ASAN, CACHE, Daemon, Raw, assert_no_faults, table

ENV = "debian:12"

# The meta-schema of OpenRPC 1.3.2 as far as the document uses it, closed: other members are not allowed.
TEXT = {"type": "string", "minLength": 1}
EXTENSION = {"^x-[a-z-]+$": {}}


def closed(needed, /, **properties):
    return {"type": "object", "properties": properties, "required": needed.split(), "patternProperties": EXTENSION,
            "additionalProperties": False}


REFERENCE = {"type": "object", "properties": {"$ref": {"type": "string", "pattern": "^#/components/errors/[a-z_]+$"}},
             "required": ["$ref"], "additionalProperties": False}
DESCRIPTOR = closed("name schema", name=TEXT, summary=TEXT, description=TEXT, required={"type": "boolean"},
                    schema={"$ref": "http://json-schema.org/draft-07/schema#"})
METHOD = closed("name params result", name=TEXT, summary=TEXT, description=TEXT,
                paramStructure={"enum": ["by-name", "by-position", "either"]},
                params={"type": "array", "items": DESCRIPTOR}, result=DESCRIPTOR, errors={"type": "array", "items": REFERENCE})
ERROR = closed("code message", code={"type": "integer"}, message=TEXT, data={})
META = closed(
    "openrpc info methods", openrpc={"type": "string", "pattern": r"^1\.3\.\d+$"},
    info=closed("title version", title=TEXT, version=TEXT, description=TEXT, license=closed("name", name=TEXT)),
    methods={"type": "array", "items": METHOD},
    components=closed("", errors={"type": "object", "additionalProperties": ERROR}))


class Checked:
    """A daemon all of whose replies are checked against what it published."""

    def __init__(self, d):
        self.d = d
        self.document = d.call("rpc.discover")["result"]
        self.methods = {m["name"]: m for m in self.document["methods"]}
        self.seen = set()

    def params_of(self, method):
        return {p["name"]: p for p in self.methods[method]["params"]}

    def check(self, method, reply):
        assert "result" in reply, (method, reply)
        jsonschema.validate(reply["result"], self.methods[method]["result"]["schema"], jsonschema.Draft7Validator,
                            format_checker=jsonschema.draft7_format_checker)
        self.seen.add(method)
        return reply["result"]

    def call(self, method, **params):
        published = self.params_of(method)
        assert set(params) <= set(published)
        assert {n for n, p in published.items() if p["required"]} <= set(params)
        for name, value in params.items():
            jsonschema.validate(value, published[name]["schema"], jsonschema.Draft7Validator)
        return self.check(method, self.d.call(method, params, timeout=120))


@pytest.fixture(scope="module")
def checked(work, installed):
    d = Daemon(work + "/discover", build=BUILD_ASAN, kernels=CACHE + "/kernels").start()
    yield Checked(d)
    try:
        d.wait_clean(30)
    finally:
        d.stop()
    assert_no_faults(d.log_text())


def test_document_is_valid(checked):
    jsonschema.Draft7Validator.check_schema(META)
    jsonschema.validate(checked.document, META, jsonschema.Draft7Validator)
    names = [m["name"] for m in checked.document["methods"]]
    assert len(set(names)) == len(names)
    for m in checked.document["methods"]:
        params = [p["name"] for p in m["params"]]
        assert len(set(params)) == len(params)
        for descriptor in [*m["params"], m["result"]]:
            jsonschema.Draft7Validator.check_schema(descriptor["schema"])
            if "default" in descriptor["schema"]:
                jsonschema.validate(descriptor["schema"]["default"], descriptor["schema"], jsonschema.Draft7Validator)
        for ref in m["errors"]:
            assert ref["$ref"].rsplit("/", 1)[1] in checked.document["components"]["errors"]


def test_document_has_the_whole_table(checked):
    assert len(table("methods")) == len(checked.methods)
    for name, what, right, life, hints, summary in table("methods"):
        m = checked.methods[name]
        said = ["API_OBJ_" + m["x-pyro-object"].upper(), "API_" + m["x-pyro-right"].upper(), "API_" + m["x-pyro-life"].upper(), m["summary"]]
        assert said == [what, right, life, summary]
        hinted = {k for k in ("read-only", "destructive", "idempotent", "not-a-tool", "progress") if m["x-pyro-" + k]}
        assert hinted == {h.strip()[4:].lower().replace("_", "-") for h in hints.split("|") if h.strip() != "0"}
    assert [[code] for code in checked.document["components"]["errors"]] == table("errors")


def test_installed_file_is_the_same(checked):
    with open(BUILD_ASAN + "/stage/usr/local/share/pyro/openrpc.json") as f:
        assert json.load(f) == checked.document


def test_every_reply_keeps_to_its_schema(checked):
    c = checked
    c.call("rpc.discover")
    c.call("system.ping")
    c.call("system.doctor", probe=False)
    c.call("cancel", id="nothing")
    c.call("env.list")
    c.call("vm.list_environments")
    c.call("env.pull", environment=ENV)
    for name in (ENV, "debian:12-base"):
        c.call("env.inspect", environment=name)
    c.call("env.prune", dry_run=True, all=True)
    vm = c.call("vm.create", environment=ENV, mem_mib=256, ttl_seconds=0)["vm_id"]
    c.call("vm.status", vm_id=vm)
    c.call("vm.start", vm_id=vm)
    c.call("vm.status", vm_id=vm)
    c.call("vm.network_info", vm_id=vm)
    c.call("vm.list")
    c.call("vm.stop", vm_id=vm)
    assert c.call("vm.exec", vm_id=vm, command="printf 'a\\0\\377'; exit 3", env={"A": "b"})["binary"] is True
    vm = c.call("vm.create", environment=ENV)["vm_id"]
    c.call("vm.delete", vm_id=vm)
    c.call("vm.reap_expired")
    workspaces(c)
    assert c.call("vm.run", environment=ENV, mem_mib=256, command="sleep 9", timeout_seconds=1)["timed_out"] is True
    attached_and_signalled(c)
    assert c.seen == set(c.methods), "no reply was checked of " + str(set(c.methods) - c.seen)


def workspaces(c):
    ws = c.call("workspace.create", environment=ENV, mem_mib=256, name="build", labels={"a": "b"}, wait_ms=0)
    assert ws["state"] == "preparing" and "phase" in ws
    c.call("workspace.list", labels={"a": "b"})
    c.call("workspace.status", workspace_id="build")
    c.call("workspace.wait", workspace_id="build", wait_ms=120000)
    assert c.call("workspace.stop", workspace_id="build", force=True)["state"] == "stopped"
    assert c.call("workspace.start", workspace_id="build")["state"] == "started"
    assert c.call("file.write", workspace_id="build", path="new/file", text="one\ntwo\n")["bytes_written"] == 8
    assert c.call("file.edit", workspace_id="build", path="new/file", old_text="one", new_text="1")["replacements"] == 1
    assert c.call("file.read", workspace_id="build", path="new/file")["content"] == "1\ntwo\n"
    assert c.call("file.list", workspace_id="build", path="new")["entries"][0]["path"] == "/workspace/new/file"
    assert c.call("workspace.update", workspace_id="build", clear_name=True, clear_labels=["a"])["labels"] == {}
    c.call("workspace.share", workspace_id=ws["workspace_id"])
    commands(c, ws["workspace_id"])
    c.call("workspace.delete", workspace_id=ws["workspace_id"])


def commands(c, ws):
    """One that has ended, one that runs, one whose output is not text, and a caller attached to one."""
    ended = c.call("workspace.exec", workspace_id=ws, command="printf 'a\\377'; exit 3")
    assert ended["binary"] is True and ended["exit_code"] == 3
    c.call("exec.wait", exec_id=ended["exec_id"])
    assert c.call("exec.read", exec_id=ended["exec_id"])["binary"] is True
    assert c.call("workspace.exec", workspace_id=ws, command="sleep 9", timeout_seconds=1)["timed_out"] is True
    runs = c.call("workspace.exec", workspace_id=ws, command="cat", background=True, interactive=True)["exec_id"]
    assert c.call("exec.wait", exec_id=runs, wait_ms=10)["state"] == "running"
    c.call("exec.read", exec_id=runs, stream="stderr", since="2026-01-01T00:00:00Z")
    status = c.call("workspace.status", workspace_id=ws)
    assert [r["exec_id"] for r in status["running"]] == [runs] and status["last_command"]["exec_id"] == runs
    c.call("exec.list", workspace_id=ws)
    ours, theirs = socket.socketpair()
    with Raw(c.d.socket, 60) as raw, ours:
        line = {"jsonrpc": "2.0", "id": 2, "method": "exec.attach", "fds": 1, "params": {"exec_id": runs, "stdio": 0, "read_only": True}}
        socket.send_fds(raw.sock, [json.dumps(line).encode() + b"\n"], [theirs.fileno()])
        theirs.close()
        while raw.line()["params"]["phase"] != "execute":
            pass
        c.call("exec.write", exec_id=runs, data="x", eof=True)
        assert c.check("exec.attach", raw.line())["exit_code"] == 0


def attached_and_signalled(c):
    """A live vm.run whose caller disconnects, exec.attach in its place, and a signal."""
    params = {"environment": ENV, "command": "sleep 1000", "mem_mib": 256, "timeout_seconds": 0, "stdio": 0}
    ours, theirs = socket.socketpair()
    raw = Raw(c.d.socket, 60)
    socket.send_fds(raw.sock, [json.dumps({"jsonrpc": "2.0", "id": 1, "method": "vm.run", "fds": 1, "params": params}).encode() + b"\n"],
                    [theirs.fileno()])
    theirs.close()
    while True:
        p = raw.line()["params"]
        if p["phase"] == "execute" and p["exec_id"]:
            break
    raw.sock.close()
    ours.close()
    ours, theirs = socket.socketpair()
    with Raw(c.d.socket, 60) as raw, ours:
        line = {"jsonrpc": "2.0", "id": 2, "method": "exec.attach", "fds": 1, "params": {"exec_id": p["exec_id"], "stdio": 0}}
        socket.send_fds(raw.sock, [json.dumps(line).encode() + b"\n"], [theirs.fileno()])
        theirs.close()
        while raw.line()["params"]["phase"] != "execute":
            pass
        c.call("exec.signal", exec_id=p["exec_id"], signal_name="KILL")
        assert c.check("exec.attach", raw.line())["exit_code"] == 128 + 9


# Everything below acts on nothing: the cache is empty, the names do not exist.
NOBODYS = {"environment": "nope:1", "vm_id": "vm-ffffffffffff", "workspace_id": "ws-ffffffffffff", "exec_id": "ex-ffffffffffff", "command": "true", "id": 4711,
           "path": "/a", "text": "x", "old_text": "x", "new_text": "y"}
VALUES = [None, True, False, 0, -1, 1, 255, 2**53 - 1, 1.5, "", "x", "x" * 300, "a\nb", "vm-0", "vm-0123456789abc", "ex-ab", "EX-00",
          "INT", "kvm", [], ["a"], {}, {"A": "b"}, {"A": 1}]
# What a schema cannot express, or what depends on this host: vcpu_count's and mem_mib's upper ends, descriptors that were not sent.
UNSAID = {("interactive", True), ("vcpu_count", 1), ("vcpu_count", 255)}


@pytest.fixture(scope="module")
def empty(work):
    d = Daemon(work + "/discover-empty", build=BUILD_ASAN, env={"PYRO_ENVIRONMENT_CACHE_DIR": work + "/discover-empty/cache"}).start()
    yield Checked(d)
    d.stop()
    assert_no_faults(d.log_text())


def test_daemon_refuses_what_the_schemas_refuse_and_nothing_else(empty):
    tried = 0
    with Raw(empty.d.socket, 30) as raw:
        for method, m in empty.methods.items():
            required = {p["name"]: NOBODYS[p["name"]] for p in m["params"] if p["required"] and p["name"] in NOBODYS}
            for p in m["params"]:
                if "x-pyro-descriptor" in p or any(q["required"] and "x-pyro-descriptor" in q for q in m["params"]):
                    continue  # tests/t/test_bad_input.py sends descriptors
                for value in VALUES:
                    if any(name == p["name"] and value is v for name, v in UNSAID):
                        continue
                    good = jsonschema.Draft7Validator(p["schema"]).is_valid(value)
                    reply = raw.call(method, dict(required, **{p["name"]: value}))
                    refused = "error" in reply and reply["error"]["data"]["code"] == "invalid_argument"
                    assert refused is not good, (method, p["name"], value, reply)
                    tried += 1
            reply = raw.call(method, dict(required, frobnicate=1))
            assert reply["error"]["data"]["code"] == "invalid_argument" and "frobnicate" in reply["error"]["message"]
    assert tried > 500


def test_every_parameter_that_is_required_is(empty):
    for method, m in empty.methods.items():
        for p in m["params"]:
            if p["required"]:
                others = {q["name"]: NOBODYS[q["name"]] for q in m["params"] if q["required"] and q is not p and q["name"] in NOBODYS}
                error = empty.d.call(method, others)["error"]
                assert error["data"]["code"] == "invalid_argument" and p["name"] in error["message"], (method, p["name"], error)
