# SPDX-License-Identifier: MIT
"""The published contract (../shared/contract.md, if it is beside the clone) against what is built: methods, parameters and
defaults, fields, error codes, commands and flags, environments, keys. rpc.discover decides what a method is compared with: a
method is compared as soon as it is built. What the page has and a built method does not have yet is named below, with the words
of the page that say so; what is built beyond the page is named too."""
import json
import os
import re
import subprocess

import pytest

from conftest import BUILD_ASAN, SHARED, stage

PAGE = SHARED + "/contract.md"
PYRO, PYROD = stage(BUILD_ASAN) + "/bin/pyro", stage(BUILD_ASAN) + "/bin/pyrod"

pytestmark = pytest.mark.skipif(not os.path.exists(PAGE), reason="no contract.md beside this clone")

# Parameters of built methods that arrive later: the page's own mark.
LATER = {
    "network_policy": "(10) network_policy", "tty": "tty, cols, rows (8)", "cols": "tty, cols, rows (8)", "rows": "tty, cols, rows (8)",
    "seed": "seed flags", "pull": "(7) `--seed-path` + seed flags, `--pull", "queue_seconds": "(11) queue_seconds",
    "credentials": "credentials (12)", "read_only": "(7) workspace.*, exec.list/read/write/wait",
}
# The same for one method, of words that others have.
LATER_OF = {"workspace.update": dict.fromkeys(("ttl_seconds", "retention_days", "vcpu_count", "mem_mib", "disk_mib", "restart"), "the other `update` fields")}
BEYOND = {
    "vm.run": {"interactive"},
    "vm.exec": {"cwd", "user", "env", "stdin", "stdio", "interactive"},
    "vm.stop": {"reason"}, "workspace.stop": {"reason"}, "workspace.update": {"clear_name"},
    "workspace.exec": {"interactive"},
    "vm.list": {"all_users"},
    "exec.attach": {"exec_id", "stdout_offset", "stderr_offset", "stdio"}, "exec.wait": {"exec_id"}, "exec.write": {"exec_id"},
    "system.doctor": {"probe"},
    "cancel": {"id"}, "env.inspect": {"environment"},  # the page names these methods without their one parameter
}
CODES_LATER = {"conflict": "`--force`", "changed_work": "(11) queue_seconds, events, suspend, retention, changed_work"}
KEYS_LATER = {"default_timeout_seconds", "retention_changed_days", "network_pool"}


def page():
    with open(PAGE) as f:
        return f.read()


def section(number):
    return re.search(r"^## %d\. .*?\n(.*?)(?=^## )" % number, page(), re.S | re.M).group(1)


def first_table(text):
    """Rows of its first table, without the head."""
    rows = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            break
    return rows[2:]


def split(text, at):
    """At a separator, but not within brackets or quotes."""
    out, depth, quoted, word = [], 0, False, ""
    for c in text:
        quoted ^= c == '"'
        depth += (c in "({[") - (c in ")}]")
        if c == at and depth == 0 and not quoted:
            out.append(word.strip())
            word = ""
        else:
            word += c
    return [w for w in out + [word.strip()] if w]


def methods_of(cell):
    found = []
    for token in re.findall(r"`([a-z_./]+)`", cell.split("→")[0]):
        noun = token.rsplit(".", 1)[0] if "." in token else found[-1].rsplit(".", 1)[0] if token not in ("cancel",) else ""
        for name in token.rsplit(".", 1)[-1].split("/"):
            found.append(noun + "." + name if noun else name)
    return found


def params_of(text):
    """name -> default as the page writes it, or None."""
    found = {}
    for word in split(text, ","):
        for part in re.split(r" or (?=[a-z])", re.sub(r"\(.*?\)", "", word)):
            m = re.match(r"([a-z_]+)(?:=(\S+))?\s*$", part.strip())
            if m:
                found[m.group(1)] = m.group(2)
    return found


def of_each(params):
    """The words of `workspace_id (stop: force; list: labels, all_users; …)`: {method: its own parameters}."""
    own = re.fullmatch(r"workspace_id \(([a-z]+: .*)\)", params)
    return dict(word.split(": ", 1) for word in split(own.group(1), ";")) if own else {}


def contract_methods():
    """name -> (parameters it has, parameters it may have). A row of several methods lists the parameters of each in turn, or
    first those of all, or each method's own behind its name; a row may begin with those of another method."""
    found = {}
    for cell, params in first_table(section(3)):
        names = methods_of(cell)
        groups = [params] if len(names) == 1 else split(params, "/") if " / " in params else split(params, ";")
        if "not all are tools" in params:
            groups = ["-"]
        in_turn = len(groups) == len(names) or names[0] == "env.pull"
        own = of_each(params)
        for i, name in enumerate(names if own else ()):
            verb = name.rsplit(".", 1)[1]
            has = {} if verb == "list" else {"workspace_id": None}
            has.update(params_of(own.get(verb, "")))
            found[name] = has, set(has)
        for i, name in enumerate(() if own else names):
            mine = groups[i] if in_turn and i < len(groups) else groups[0] if not in_turn else "-"
            has = {} if mine.startswith("-") else params_of(mine)
            other = re.match(r"as ([a-z.]+) \+ ", mine)
            if other:
                has = {**found[other.group(1)][0], **params_of(mine[other.end():])}
            found[name] = has, set(has) if in_turn else {p for g in groups if not g.startswith("-") for p in params_of(g)}
    return found


@pytest.fixture(scope="module")
def daemon(work):
    from fakevm import FakeDaemon
    os.makedirs(work + "/contract")
    d = FakeDaemon(work + "/contract", build=BUILD_ASAN).start()
    yield d
    d.close()


@pytest.fixture(scope="module")
def built(daemon):
    return {m["name"]: m for m in daemon.call("rpc.discover")["result"]["methods"]}


def test_the_page_is_read():
    found = contract_methods()
    assert len(found) > 50 and {"vm.run", "workspace.sync_pull", "env.inspect", "cancel", "events.subscribe"} <= set(found)
    assert found["vm.run"][0]["mem_mib"] == "1024" and "stdio" in found["vm.run"][0]
    assert found["exec.signal"][0] == {"exec_id": None, "signal_name": '"INT"'} and found["env.prune"][0] == {"all": None, "dry_run": None}
    assert found["workspace.list"][0] == {"labels": None, "all_users": None, "owner": None} and set(found["workspace.create"][0]) > {"name", "environment", "seed"}
    assert "guest_path" in found["workspace.sync_pull"][0] and "recursive" in found["file.list"][1] and found["vm.list"][0] == {}
    for mark in [*LATER.values(), *CODES_LATER.values(), *(mark for marks in LATER_OF.values() for mark in marks.values())]:
        assert mark in page(), mark


def test_methods_and_parameters(built):
    found = contract_methods()
    assert set(built) <= set(found), "not on the page"
    for name in built:
        has, may_have = found[name]
        params = {p["name"]: p for p in built[name]["params"]}
        assert set(has) - set(params) <= {*LATER, *LATER_OF.get(name, ())}, (name, set(has) - set(params))
        beyond = set(params) - may_have - BEYOND.get(name, set())
        assert not beyond, (name, beyond)
        for param, default in has.items():
            if default is not None and param in params:
                want = json.loads(default) if re.match(r'["\d{\[]|true|false|null', default) else default
                assert params[param]["schema"].get("default") == want, (name, param)


def fields_of(text):
    """Fields of one list without braces: name -> words of an enum, or None; fields marked as later are left out."""
    found = {}
    for word in split(text, ","):
        m = re.match(r"([a-z_]+)(?:\[\])?(?:\{.*\}|\[.*\])?(?:\|null)?\s*(?:\(([^)]*)\))?(?::\".*\")?$", word)
        assert m or word == "…" or ":" in word, word
        if m and not re.fullmatch(r"\d+", m.group(2) or ""):
            found[m.group(1)] = m.group(2).split("|") if m.group(2) and "|" in m.group(2) else None
        elif not m and ":" in word:
            found[word.split(":")[0]] = None
    return found


def bullet(begin):
    return re.search(r"^- %s(.*?)$" % re.escape(begin), section(4), re.M).group(1)


def schema(built, method):
    return built[method]["result"]["schema"]


def contract_fields():
    """(method, its fields as the page has them)"""
    vm, ws, env = bullet("vm: "), bullet("workspace: "), bullet("env: ")
    first = lambda text: re.search(r"`(.*?)`", text).group(1)
    of_workspace = "workspace_id, " + first(vm).replace("vm_id, ", "") + ", " + re.search(r"and `(.*?)`", ws).group(1)
    after = lambda text, word: re.search(re.escape(word) + r"[^`]*`(.*?)`", text).group(1)
    return {
        "vm.status": first(vm), "vm.create": first(vm), "vm.start": first(vm), "vm.stop": first(vm),
        "vm.network_info": after(vm, "network_info"), "vm.delete": after(vm, "delete"), "vm.reap_expired": after(vm, "reap_expired"),
        **dict.fromkeys(["workspace." + verb for verb in ("create", "status", "start", "stop", "wait", "update", "share")], of_workspace),
         "workspace.list": "count, workspaces[]",
        "workspace.delete": after(ws, "delete "),
        "env.inspect": first(env), "env.pull": first(env), "env.list": after(env, "list"), "vm.list_environments": after(env, "list"),
        "env.prune": after(env, "prune"), "vm.list": "count, vms[]",
        "vm.run": first(bullet("run / vm.exec: ")), "vm.exec": first(bullet("run / vm.exec: ")), "exec.attach": first(bullet("run / vm.exec: ")),
        "system.doctor": first(bullet("doctor: ")), "system.ping": "version, api_version, mode, socket, uid",
    }


# Of an environment: which part is damaged; of a prune: whether a real one would be refused; of a stop: that the machine was deleted too.
# Of a workspace: whether MCP clients may use it, and how far its creation is; of their list: that the rest did not fit.
ADDED = {"damage", "permitted", "cleanup", "shared", "phase", "percent", "truncated"}


@pytest.mark.parametrize("method", ["vm.status", "vm.create", "vm.start", "vm.stop", "vm.list", "vm.network_info", "vm.delete", "vm.reap_expired",
                                    "workspace.create", "workspace.status", "workspace.start", "workspace.stop", "workspace.wait",
                                    "workspace.update", "workspace.share", "workspace.list", "workspace.delete",
                                    "env.inspect", "env.pull", "env.list", "vm.list_environments", "env.prune", "vm.run", "vm.exec",
                                    "exec.attach", "system.doctor", "system.ping"])
def test_fields(built, method):
    want, got = fields_of(contract_fields()[method]), schema(built, method)["properties"]
    assert set(want) <= set(got), (method, set(want) - set(got))
    if method.startswith(("vm.", "workspace.", "env.")) and method not in ("vm.run", "vm.exec"):
        assert set(got) - ADDED == set(want), (method, set(got) - set(want))
    for name, words in want.items():
        if words and name in got and "enum" in got[name] and method not in ("vm.run", "vm.exec", "exec.attach"):
            assert set(words) - {"null"} == set(got[name]["enum"]) - {None}, (method, name)


def test_replies_are_real(daemon, built):
    """Not only described so."""
    vm = daemon.call("vm.create", daemon.spec())["result"]
    assert set(vm) == set(fields_of(contract_fields()["vm.status"]))
    assert set(daemon.call("vm.network_info", {"vm_id": vm["vm_id"]})["result"]) == set(fields_of(contract_fields()["vm.network_info"]))
    assert daemon.call("vm.list")["result"] == {"count": 1, "vms": [vm]}
    assert daemon.call("vm.delete", {"vm_id": vm["vm_id"]})["result"] == {"vm_id": vm["vm_id"], "deleted": True, "reason": "explicit_delete"}
    assert daemon.call("vm.reap_expired")["result"] == {"count": 0, "deleted_vm_ids": []}
    refused = daemon.pyro("--json", "vm", "status", "vm-0")
    o = json.loads(refused.text)
    assert refused.status == 1 and list(o) == ["ok", "error"] and o["ok"] is False
    form = re.search(r'`\{"ok": false, "error": \{(.*?)\}\}`', section(1)).group(1)
    assert set(o["error"]) == set(split(form, ","))


def test_error_codes(daemon):
    known = set(daemon.call("rpc.discover")["result"]["components"]["errors"])
    codes = re.search(r"^\*\*Error codes\*\*.*?: (.*?)\.$", section(4), re.M).group(1).split()
    assert len(codes) > 25 and known <= set(codes)
    assert set(codes) - known <= set(CODES_LATER), set(codes) - known


def test_environments(daemon):
    """Names, descriptions and packages, to the word."""
    rows = first_table(section(6))
    listed = daemon.call("env.list")["result"]
    assert [e["name"] for e in listed["environments"]] == [row[0].strip("`") for row in rows]
    assert listed["environments"][0]["name"] == "debian:12"
    packages = {}
    for name, _, words in sorted(rows, key=lambda row: ("base" not in row[0], "build" in row[0])):
        first, more = words.split(" + ")
        before = {"minbase": [], "base": packages.get("debian:12-base"), "debian:12": packages.get("debian:12")}[first]
        packages[name.strip("`")] = before + more.split()
    for e, row in zip(listed["environments"], rows):
        assert e["description"] == row[1]
        if not e["installed"]:  # of an installed one they are those of its image
            assert sorted(e["packages"]) == sorted(packages[e["name"]]), e["name"]
    version = subprocess.run([PYROD, "--version"], check=True, capture_output=True, text=True).stdout
    assert listed["catalog_version"] in version


def help_of(*words):
    r = subprocess.run([PYRO, *words, "--help"], check=True, capture_output=True, text=True).stdout
    return r, set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+|-[a-zA-Z])(?![\w-])", "\n".join(
        re.split(r"\s{2,}", line[2:])[0] for line in r.splitlines() if line.startswith("  -"))))


def flags_in(text):
    """Both flags of `-u/--user root`."""
    found = set()
    for token in re.findall(r"`(-[^`]*)`", text):
        found.update(re.findall(r"(?<![\w-])(--[a-z][a-z-]+|-[a-zA-Z])(?![\w-])", token.replace("/-", " -")))
    return found


def test_flags():
    text = section(1)
    line = lambda begin: re.search(r"^.*?\*%s\*: (.*?)(?: \*Seed flags|$)" % begin, text, re.M).group(1)
    machine, command = flags_in(line("Machine flags")) - {"--network-policy"}, flags_in(line("Command flags"))
    assert {"--vcpu-count", "--cpus", "-m", "--memory", "--accelerator"} <= machine and {"-i", "-t", "-u", "--user", "--timeout"} <= command
    glob = {"--socket", "--user", "--system", "--json", "-q", "--quiet", "--version", "-h", "--help"}
    for flag in glob:
        assert "`%s" % flag in text or "/%s`" % flag in text or "/`%s`" % flag in text, flag
    assert machine | command | {"--timeout-seconds"} | glob <= help_of("run")[1]
    assert machine | {"--id-only"} | glob <= help_of("vm", "create")[1]
    assert command - {"-t"} | {"--timeout-seconds"} | glob <= help_of("vm", "exec")[1]
    assert {"--force"} <= help_of("env", "pull")[1] and {"--all", "--dry-run"} <= help_of("env", "prune")[1]
    assert {"--all-users"} <= help_of("vm", "list")[1]


def test_commands(built):
    """Every command of a built method exists, at every level with a worked example."""
    top, _ = help_of()
    for words in re.findall(r"^\| `([a-z -]+(?:/[a-z -]+)*)`((?: / `[a-z]+`)*)", section(1), re.M):
        noun, *rest = words[0].split(" ", 1)
        verbs = (rest[0].split("/") if rest else [noun]) + re.findall(r"`([a-z]+)`", words[1])
        for verb in verbs:
            name = (noun + " " + verb) if rest else verb
            method = {"run": "vm.run", "doctor": "system.doctor"}.get(name, name.replace(" ", ".").replace("-", "_"))
            if method in built:
                assert re.search(r"^  %s\s" % name, top, re.M), name
                assert "\nExample:\n  " in help_of(*name.split())[0], name


def test_keys(tmp_path):
    line = section(8).split(".", 0)[0]
    keys = [m.group(1) for m in re.finditer(r"(?:^|[,;:] )([a-z]+(?:_[a-z]+)+|accelerator|kernel|mirror|registries|pool|qemu|firecracker|jailer)(?==|,| \(|;|\.|$)",
                                            line, re.M)]
    assert {"accelerator", "max_machines", "total_disk_mib", "jailer", "memory_reserve_mib", "default_mem_mib"} <= set(keys) and len(keys) >= 25
    for key in keys:
        (tmp_path / "c").write_text("%s = \n" % key)
        r = subprocess.run([PYROD, "--check-config", "--config", str(tmp_path / "c")], capture_output=True, text=True)
        assert "unknown key" not in r.stderr + r.stdout or key in KEYS_LATER, (key, r)
