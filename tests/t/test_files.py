# SPDX-License-Identifier: MIT
"""file.list, read, write and edit of a workspace, with the fake VMM (tests/fake/files.c keeps the files, or attacks): results, a
stopped workspace, a lost answer, pyrod or the VMM killed in the middle, an agent of an earlier version, a hostile guest, and
`pyro workspace file`. tests/t/test_agent_files.py has the real agent, tests/vm/test_files.py a guest."""
import json
import os
import subprocess
import threading
import time

import pytest

from conftest import BUILD, BUILD_ASAN, Raw
from fakevm import MANNERS
from test_calls import Caller

# Answers that cannot be true: the connection ends, four times, and then the machine.
FALSE = {
    "list": ["other_id", "content_in_list", "entries_count", "entries_owed", "size_huge", "cut", "empty", "name_dotdot", "name_dot", "name_absolute",
             "name_up", "name_double", "name_trailing", "name_deep", "unsorted", "doubled", "error_huge"],
    "list_recursive": ["name_up", "name_double", "orphan", "below_a_file", "doubled"],
    "read": ["other_id", "content_more", "size_less", "lines_less", "lines_more", "entries_in_read", "content_owed", "content_huge", "lines_huge",
             "error_with_content"],
    "write": ["other_id", "size_wrong", "content_in_list", "cut"],
    "edit": ["found_none", "found_many", "entries_in_read"],
}
PARAMS = {"list": {}, "list_recursive": {"recursive": True}, "read": {"max_bytes": 100, "max_lines": 2}, "write": {"text": ""},
          "edit": {"old_text": "a", "new_text": "b"}}


@pytest.fixture
def ws(fake):
    fake.ws = make(fake)
    return fake


def make(d, manner="good"):
    return d.call("workspace.create", d.spec(manner))["result"]["workspace_id"]


def ask(d, verb, path, ws=None, **more):
    return d.call("file." + verb.split("_")[0], dict({"workspace_id": ws or d.ws, "path": path}, **{**PARAMS[verb], **more}))


def result(d, verb, path, **more):
    r = ask(d, verb, path, **more)
    assert "result" in r, r
    return r["result"]


def refused(reply):
    assert "error" in reply, reply
    e = reply["error"]["data"]
    assert e["fix"] and "\033" not in json.dumps(e, ensure_ascii=False), e
    return e["code"], reply["error"]["message"], e["cause"], e["fix"]


def test_results(ws):
    head = {"workspace_id": ws.ws}
    assert result(ws, "write", "src/./a//b.c", text="one\ntwo\n") == {**head, "path": "/workspace/src/a/b.c", "size_bytes": 8, "bytes_written": 8}
    assert result(ws, "edit", "src/./a//b.c", old_text="one", new_text="") == {
        **head, "path": "/workspace/src/a/b.c", "size_bytes": 5, "bytes_written": 5, "replacements": 1}
    assert result(ws, "read", "src/./a//b.c", max_lines=None, max_bytes=65536) == {
        **head, "path": "/workspace/src/a/b.c", "size_bytes": 5, "max_bytes": 65536, "content": "\ntwo\n", "truncated": False, "start_line": 1,
        "end_line": 2, "total_lines": None}
    for name in ("b", "a", "a.b"):
        result(ws, "write", "/d/" + name, text="abc")
    got = result(ws, "list", "/d")
    assert got == {**head, "path": "/d", "recursive": False, "truncated": False, "entries": [
        {"path": "/d/" + name, "artifact_type": "file", "size_bytes": 3, "link_target": None} for name in ("a", "a.b", "b")]}
    text = "\0\x01\"é" * 1000
    result(ws, "write", "/nul", text=text)
    assert result(ws, "read", "/nul", max_bytes=1 << 20, max_lines=None)["content"] == text
    assert refused(ask(ws, "read", "/none")) == (
        "invalid_argument", "cannot read /none in %s" % ws.ws, "open: No such file or directory", "pyro workspace file list %s / --recursive" % ws.ws)
    assert refused(ask(ws, "edit", "/nul", old_text="absent")) == (
        "invalid_argument", "the old text does not occur in /nul", None,
        "read the file, and give the old text as it is there, white space included")


@pytest.mark.parametrize("bad", [{"path": ""}, {"path": "x" * 4097}, {"path": "a\0b"}, {"max_bytes": 0}, {"max_bytes": (1 << 20) + 1}, {"start_line": 0},
                                 {"max_lines": 0}])
def test_bad_parameters(ws, bad):
    code, message, _, _ = refused(ask(ws, "read", bad.pop("path", "/a"), **bad))
    assert code == "invalid_argument"


def test_largest_texts_fit(ws):
    """Control characters need six times their size in JSON: what does not fit into a reply is left out, and said so."""
    text = "ab\n" * 250000
    result(ws, "write", "/large", text=text)
    assert result(ws, "read", "/large", max_bytes=1 << 20, max_lines=None)["content"] == text
    result(ws, "write", "/control", text="\x01" * 100000)
    got = result(ws, "read", "/control", max_bytes=1 << 20, max_lines=None)
    assert (got["content"], got["truncated"]) == ("\x01" * 100000, False)
    got = result(ws, "read", "/hostile/content_control", max_bytes=1 << 20, max_lines=None)
    n = len(got["content"])
    assert got["content"] == "\x01" * n and got["truncated"] and 600000 < n < 700000, n
    got = result(ws, "list", "/hostile/names_control")
    assert got["truncated"] and 5000 < len(got["entries"]) < 10000, len(got["entries"])


def test_a_stopped_workspace_is_started(ws):
    assert ws.call("workspace.stop", {"workspace_id": ws.ws})["result"]["state"] == "stopped"
    result(ws, "write", "/a", text="x")
    assert ws.call("workspace.status", {"workspace_id": ws.ws})["result"]["state"] == "started"


def test_an_agent_of_an_earlier_version(fake):
    """The fix names the commands that boot the new agent."""
    fake.ws = make(fake, "old")
    for verb in PARAMS:
        code, message, cause, fix = refused(ask(fake, verb, "/a"))
        assert (code, fix) == ("unsupported", "pyro workspace stop %s && pyro workspace start %s" % (fake.ws, fake.ws)), message


@pytest.mark.parametrize("verb", ["read", "write", "edit", "list"])
def test_a_lost_answer(ws, verb):
    """The connection ends before the answer arrives: it is asked again, and what it does is done once."""
    result(ws, "write", "/kept", text="a")
    result(ws, "write", "/lost/x", text="a") if verb == "write" else None
    if verb != "write":
        first = ws.call("file.write", {"workspace_id": ws.ws, "path": "/lost/x", "text": "a"})
        assert first["result"]["size_bytes"] == 1  # this one was lost, and asked again
    ws.told_so_far()
    result(ws, verb, "/lost/x" if verb != "list" else "/lost")
    told = [t for t in ws.told_so_far() if t.startswith("file ")]
    assert told == ["file %s /lost%s" % (verb, "/x" if verb != "list" else "")], told


def test_the_ninth_is_refused(make_fake):
    d = make_fake(build=BUILD_ASAN, deadlines={"file": 3}).start()
    d.ws = make(d)
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(ask(d, "read", "/silent/x"))) for _ in range(8)]
    for t in threads:
        t.start()
    for _ in threads:
        d.reported("file silent")
    assert refused(ask(d, "read", "/a"))[0] == "quota_exceeded"
    for t in threads:
        t.join(60)
    assert [refused(r)[0] for r in replies] == ["guest_unresponsive"] * 8
    assert refused(ask(d, "write", "/silent/x"))[0] == "outcome_unknown"
    result(d, "write", "/a", text="x")  # it is not the machine that hangs


def test_operations_that_wait_for_a_start_are_limited(fake):
    """Each holds its text: an account has 16 of them, over all connections; those of a workspace that runs are not counted."""
    slow = fake.call("workspace.create", fake.spec("deaf", wait_ms=0))["result"]["workspace_id"]
    call = ("file.write", {"workspace_id": slow, "path": "/a", "text": "x"})
    with Caller(fake.socket) as one, Caller(fake.socket) as two:
        waits = [[c.begin(*call) for _ in range(8)] for c in (one, two)]
        for c in (one, two):
            c.call("system.ping")
        code, message, cause, _ = refused(fake.call(*call))
        assert (code, message) == ("quota_exceeded", "uid %d has 16 file operations that wait, which is the limit" % os.getuid()), message
        fake.ws = make(fake)
        assert result(fake, "write", "/a", text="x")["size_bytes"] == 1
        assert fake.call("workspace.delete", {"workspace_id": slow})["result"]["deleted"]
        assert [refused(r)[0] for c, w in zip((one, two), waits) for r in c.answers(*w)] == ["cancelled"] * 16
    assert fake.call("workspace.stop", {"workspace_id": fake.ws})["result"]["state"] == "stopped"
    assert result(fake, "write", "/a", text="x")["size_bytes"] == 1


@pytest.mark.parametrize("verb", list(FALSE))
def test_false_answers(make_fake, verb):
    """Each ends with one error, within seconds; nothing of it reaches the caller; the others do not notice, and memory is bounded."""
    d = make_fake(build=BUILD).start()
    victim = make(d)
    before = d.vm_hwm_kib()
    for name in FALSE[verb]:
        d.ws = make(d)
        begin = time.monotonic()
        code, message, _, _ = refused(ask(d, verb, "/hostile/" + name))
        assert time.monotonic() - begin < 60
        assert code == ("outcome_unknown" if verb in ("write", "edit") else "guest_unresponsive"), (name, code, message)
        assert d.call("workspace.delete", {"workspace_id": d.ws})["result"]["deleted"]
    d.ws = victim
    assert result(d, "write", "/a", text="x")["size_bytes"] == 1
    assert d.vm_hwm_kib() - before < 32 * 1024


def test_strange_answers_that_may_be_true(ws):
    code, _, cause, _ = refused(ask(ws, "read", "/hostile/what_bytes"))
    assert (code, cause) == ("wrong_state", "\\x1b[2J\\xff\\x0a\\xe2\\x80\\xae: Input/output error")
    assert refused(ask(ws, "list", "/hostile/error_strange"))[2] == "Unknown error 4095"
    got = result(ws, "list", "/hostile/name_bytes")
    assert [(e["path"], e["artifact_type"], e["link_target"], e.get("binary")) for e in got["entries"]] == [
        ("/hostile/name_bytes/\x01\x1b[2J", "file", None, None), ("/hostile/name_bytes/a\n\"b\\", "symlink", "target", None),
        ("/hostile/name_bytes/\ufffd\ufffd", "other", None, True)]
    got = result(ws, "read", "/hostile/content_bytes")
    assert (got["content"], got["binary"], got["truncated"], got["size_bytes"], got["total_lines"]) == (
        "\0\x1b[2J\ufffd\ufffd\ufffd\ufffd\n", True, True, 2**53 - 1, 2**53 - 1)
    for name in ("twice", "flood"):  # the first counts
        assert result(ws, "list", "/hostile/" + name)["entries"] == []
    assert result(ws, "write", "/a", text="x")["size_bytes"] == 1


def test_an_answer_to_nobody(make_fake):
    """On another channel: it is ignored, and the deadline ends the operation."""
    d = make_fake(build=BUILD_ASAN, deadlines={"file": 2}).start()
    d.ws = make(d)
    assert refused(ask(d, "read", "/hostile/other_channel"))[0] == "guest_unresponsive"
    assert result(d, "write", "/a", text="x")["size_bytes"] == 1


@pytest.mark.parametrize("verb", ["list", "read", "write", "edit"])
def test_the_machine_ends_in_the_middle(ws, verb):
    code, _, cause, _ = refused(ask(ws, verb, "/die/x"))
    assert code == ("outcome_unknown" if verb in ("write", "edit") else "guest_died"), (code, cause)
    status = ws.call("workspace.wait", {"workspace_id": ws.ws, "states": ["failed"]})["result"]
    assert "killed by signal 4" in status["last_error"], status
    for _ in range(2):  # the next call does not start it: how it failed would be lost
        assert refused(ask(ws, verb, "/a")) == ("wrong_state", "workspace %s has failed" % ws.ws, status["last_error"], "pyro workspace start " + ws.ws)
    assert ws.call("workspace.status", {"workspace_id": ws.ws})["result"]["last_error"] == status["last_error"]
    assert ws.call("workspace.start", {"workspace_id": ws.ws})["result"]["state"] == "started"
    result(ws, "write", "/a", text="x")


@pytest.mark.parametrize("verb", ["list", "read", "write", "edit"])
def test_it_is_deleted_in_the_middle(ws, verb):
    replies = []
    t = threading.Thread(target=lambda: replies.append(ask(ws, verb, "/silent/x")))
    t.start()
    ws.reported("file silent")
    assert ws.call("workspace.delete", {"workspace_id": ws.ws})["result"]["deleted"]
    t.join(30)
    assert refused(replies[0])[0] == ("outcome_unknown" if verb in ("write", "edit") else "cancelled"), replies
    ws.wait_clean()


@pytest.mark.parametrize("verb", ["list", "read", "write", "edit"])
def test_pyrod_is_killed_in_the_middle(ws, verb):
    """The next one takes the workspace over, with nothing of the operation; what was acknowledged is there."""
    result(ws, "write", "/kept", text="kept")
    with Raw(ws.socket, 30) as raw:
        raw.sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "file." + verb,
                                     "params": {"workspace_id": ws.ws, "path": "/silent/x", **PARAMS[verb]}}).encode() + b"\n")
        ws.reported("file silent")
        ws.kill()
    ws.start()
    assert result(ws, "read", "/kept")["content"] == "kept"
    assert result(ws, verb, "/kept" if verb != "list" else "/", **({"old_text": "kept"} if verb == "edit" else {}))


@pytest.mark.parametrize("words,code,fix", [
    (("read",), "daemon_unreachable", "pyro doctor"),
    (("write", "--text", "x"), "outcome_unknown", "pyro workspace list"),
])
def test_a_client_whose_pyrod_is_killed(ws, words, code, fix):
    p = ws.popen("--json", "ws", "file", words[0], ws.ws, "/silent/x", *words[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ws.reported("file silent")
    ws.kill()
    out, _ = p.communicate(timeout=60)
    e = json.loads(out)["error"]
    assert (p.returncode, e["code"]) == (1, code) and e["fix"].endswith(fix.split(" ", 1)[1]), e


@pytest.mark.parametrize("verb", ["read", "write"])
def test_pyrod_stops_in_the_middle(make_fake, verb):
    """In order, with an operation that waits: nothing of it is left (the sanitizers look), and the workspace is taken over."""
    d = make_fake(build=BUILD_ASAN).start()
    d.ws = make(d)
    raw = Raw(d.socket, 30)
    raw.sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "file." + verb,
                                 "params": {"workspace_id": d.ws, "path": "/silent/x", **PARAMS[verb]}}).encode() + b"\n")
    d.reported("file silent")
    d.stop()
    raw.sock.close()
    d.start()
    assert result(d, "write", "/a", text="x")["size_bytes"] == 1


def test_cli(ws, tmp_path):
    d, w = ws, ws.ws
    (tmp_path / "notes").write_text("one\ntwo")
    r = d.pyro("workspace", "file", "write", w, "notes", "--text-file", str(tmp_path / "notes"))
    assert (r.status, r.out, r.err.decode()) == (0, b"", "[workspace-file-write] workspace_id=%s path=/workspace/notes size_bytes=7 bytes_written=7\n" % w)
    r = d.pyro("ws", "file", "read", w, "notes")
    assert (r.out, r.err.decode()) == (b"one\ntwo", "\n[workspace-file-read] workspace_id=%s path=/workspace/notes size_bytes=7 lines=1-2 truncated=false\n" % w)
    r = d.pyro("ws", "file", "read", "--content-only", w, "notes")
    assert (r.out, r.err) == (b"one\ntwo", b"")
    assert d.pyro("-q", "ws", "file", "read", w, "notes").err == b""
    r = d.pyro("ws", "file", "edit", w, "notes", "--old", "two", "--new", "", "--all")
    assert r.err.decode() == "[workspace-file-edit] workspace_id=%s path=/workspace/notes size_bytes=4 bytes_written=4 replacements=1\n" % w
    assert d.pyro("ws", "file", "write", "--text", "", w, "notes").status == 0
    assert d.pyro("ws", "file", "write", "--text-file", "-", w, "stdin", input=b"from stdin").status == 0
    assert d.pyro("ws", "file", "read", "--content-only", w, "stdin").out == b"from stdin"
    r = d.pyro("ws", "file", "ls", w, "/workspace")
    assert r.out.decode().split("\n")[:2] == [
        "path=/workspace/notes artifact_type=file size_bytes=3 link_target=-", "path=/workspace/stdin artifact_type=file size_bytes=3 link_target=-"], r
    assert json.loads(d.pyro("--json", "ws", "file", "list", w, "/workspace").out)["entries"][0]["path"] == "/workspace/notes"
    r = d.pyro("ws", "file", "list", w, "/hostile/name_bytes")
    assert b"\033" not in r.out and b"\\x1b[2J" in r.out, r
    r = d.pyro("ws", "file", "list", w, "/empty")
    assert (r.status, r.out, r.err) == (0, b"", b"/empty is empty\n")
    assert d.pyro("ws", "file", "list", w, "/\x1b[2Jempty").err == b"/\\x1b[2Jempty is empty\n"


@pytest.mark.parametrize("words,text", [
    (("file", "write", "W", "x"), "workspace file write: missing --text"),
    (("file", "edit", "W", "x", "--old", "a"), "workspace file edit: missing --new"),
    (("file", "read", "W"), "workspace file read: missing PATH"),
    (("file", "write", "W", "x", "--text-file", "/none"), "--text-file: cannot read '/none'"),
    (("file", "write", "W", "x", "--text-file", "/bin/true"), "--text-file: "),
    (("file", "write", "W", "x", "--text-file", "/dev/zero"), "pyro workspace exec -i WORKSPACE -- 'cat > PATH' < FILE"),
    (("file", "reed", "W", "x"), "unknown command 'workspace file reed'; did you mean 'workspace file read'?"),
    (("file",), "workspace file: no command given"),
])
def test_cli_usage(ws, words, text):
    r = ws.pyro("workspace", *[ws.ws if w == "W" else w for w in words])
    assert r.status == 2 and text in r.err.decode(), r


def test_cli_help(ws):
    r = ws.pyro("workspace", "file", "--help")
    assert r.status == 0 and all(word in r.out.decode() for word in ("Usage: pyro workspace file VERB", "list", "read", "write", "edit"))
    assert "file read" in ws.pyro("workspace", "--help").out.decode()
    assert "--text-file FILE" in ws.pyro("workspace", "file", "write", "--help").out.decode()
