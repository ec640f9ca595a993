# SPDX-License-Identifier: MIT
"""Commands of a workspace: they run once, whoever leaves; their output is kept and read by cursor; several callers attach."""
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

import wire
from conftest import BUILD_ASAN, Raw
from fakevm import lines
from streams import Live


def ok(d, method, params, timeout=60):
    reply = d.call(method, params, timeout=timeout)
    assert "result" in reply, (method, params, reply)
    return reply["result"]


def refused(d, method, params):
    reply = d.call(method, params)
    assert "error" in reply, (method, params, reply)
    data = reply["error"]["data"]
    assert data["fix"] or data["cause"], reply
    return data["code"]


def workspace(d, **more):
    return ok(d, "workspace.create", d.spec(**more))["workspace_id"]


def run(d, ws, command, **more):
    return ok(d, "workspace.exec", {"workspace_id": ws, "command": command, **more})


def background(d, ws, command, **more):
    r = run(d, ws, command, background=True, **more)
    assert r["state"] in ("running", "exited") and r["exec_id"].startswith("ex-"), r
    return r["exec_id"]


def read(d, ex, **more):
    return ok(d, "exec.read", {"exec_id": ex, **more})


def wait(d, ex, **more):
    return ok(d, "exec.wait", {"exec_id": ex, **more})


def ended(d, ex, seconds=60):
    r = wait(d, ex, wait_ms=seconds * 1000)
    assert r["state"] == "exited", r
    return r


class Attached(Live):
    """A caller attached to a command of a workspace: it has no output yet, or continues at an offset."""

    def __init__(self, d, ex, **params):
        self.d, self.got, self.acks, self.exec_id = d, b"", True, ex
        self.call("exec.attach", {"exec_id": ex, **params})

    def frame(self):
        """The next frame that is no acknowledgement of input."""
        while (found := super().frame())[0] == wire.ACK:
            pass
        return found

    def reply(self):
        while "id" not in (reply := self.raw.line()):
            pass
        return reply

    def all(self):
        """The output of stdout to its end; acknowledged as it comes."""
        while True:
            kind, stream, offset, data = self.frame()
            if kind == wire.DATA and stream == wire.STDOUT:
                assert offset == len(self.got), (offset, len(self.got))
                self.got += data
                self.acknowledge()
            elif kind == wire.END and stream == wire.STDOUT:
                return self.got


@pytest.fixture
def ws(fake):
    return workspace(fake)


def test_result(fake, ws):
    r = run(fake, ws, "echo out; err bad; exit 7", cwd="/tmp", user="nobody")
    assert (r["workspace_id"], r["sequence"], r["state"], r["exit_code"], r["stdout"], r["stderr"]) == (ws, 1, "exited", 7, "out\n", "bad\n")
    assert (r["cwd"], r["user"], r["command"], r["stdout_bytes"], r["stderr_bytes"]) == ("/tmp", "nobody", "echo out; err bad; exit 7", 4, 4)
    assert not r["timed_out"] and r["ended_by"] is None and r["limit"] is None and r["started_at"] and r["ended_at"], r
    assert r["environment"] == "debian:12" and r["execution_mode"] == "guest_serial" and r["start_mode"] == "cold", r
    again = wait(fake, r["exec_id"])
    assert again == r, (again, r)


def test_history(fake, ws):
    for i in range(3):
        run(fake, ws, "echo %d; exit %d" % (i, i))
    found = ok(fake, "exec.list", {"workspace_id": ws})
    assert found["count"] == 3 and [(x["sequence"], x["exit_code"], x["state"]) for x in found["execs"]] == [(1, 0, "exited"), (2, 1, "exited"), (3, 2, "exited")]
    assert "stdout" not in found["execs"][0]
    status = ok(fake, "workspace.status", {"workspace_id": ws})
    assert status["command_count"] == 3 and status["running"] == [] and status["last_command"]["exit_code"] == 2, status


def test_history_over_restarts(fake, ws):
    ex = run(fake, ws, "print 100000; exit 3")["exec_id"]
    for end in (fake.stop, fake.kill):
        end()
        fake.start()
        r = wait(fake, ex)
        assert (r["state"], r["exit_code"], r["stdout"].encode()) == ("exited", 3, lines(100000)), r["state"]
    assert run(fake, ws, "true")["sequence"] == 2


def test_wait_ms_gives_a_handle(fake, ws):
    r = run(fake, ws, "echo one; sleep 1500; echo two; exit 4", wait_ms=100)
    assert (r["state"], r["exit_code"], r["stdout"]) == ("running", None, None), r
    assert [x["exec_id"] for x in ok(fake, "workspace.status", {"workspace_id": ws})["running"]] == [r["exec_id"]]
    r = ended(fake, r["exec_id"])
    assert (r["exit_code"], r["stdout"]) == (4, "one\ntwo\n"), r


def test_wait_ends_by_its_own_time(fake, ws):
    ex = background(fake, ws, "sleep 0")
    assert wait(fake, ex, wait_ms=50)["state"] == "running"
    assert wait(fake, ex, wait_ms=0)["state"] == "running"


def test_callers_are_bounded(fake, ws):
    ex = background(fake, ws, "sleep 0")
    raws = [Raw(fake.socket, 60) for _ in range(5)]
    for i, raw in enumerate(raws):
        for n in range(60):
            raw.send(json.dumps({"jsonrpc": "2.0", "id": n, "method": "exec.wait", "params": {"exec_id": ex}}).encode() + b"\n")
        if i < 4:
            raw.id = 1000
            assert "result" in raw.call("system.ping")  # what came before has been handled
    codes = [raws[4].line()["error"]["data"]["code"] for _ in range(300 - 256)]
    assert set(codes) == {"quota_exceeded"}
    for raw in raws:
        raw.sock.close()
    ok(fake, "exec.signal", {"exec_id": ex, "signal_name": "KILL"})
    assert ended(fake, ex)["exit_code"] == 137


def test_many_at_once(fake, ws):
    ids = [background(fake, ws, "cat; print 5000; exit %d" % i, interactive=True) for i in range(12)]
    assert len(ok(fake, "workspace.status", {"workspace_id": ws})["running"]) == 12
    for i, ex in enumerate(ids):
        ok(fake, "exec.write", {"exec_id": ex, "eof": True})
        r = ended(fake, ex)
        assert (r["exit_code"], r["stdout"].encode()) == (i, lines(5000))


def test_too_many_at_once(fake, ws):
    for _ in range(64):
        background(fake, ws, "sleep 0")
    assert refused(fake, "workspace.exec", {"workspace_id": ws, "command": "true"}) == "quota_exceeded"
    assert ok(fake, "workspace.status", {"workspace_id": ws})["command_count"] == 64


def test_the_oldest_commands_are_forgotten(make_fake):
    d = make_fake().start()
    ws = workspace(d)
    first = run(d, ws, "echo 1")["exec_id"]
    with Raw(d.socket, 120) as raw:
        for i in range(2, 504):
            reply = raw.call("workspace.exec", {"workspace_id": ws, "command": "echo %d" % i})
            assert reply["result"]["sequence"] == i, reply
    found = ok(d, "exec.list", {"workspace_id": ws})["execs"]
    assert [x["sequence"] for x in found] == list(range(4, 504))
    assert refused(d, "exec.read", {"exec_id": first}) == "exec_not_found"
    d.kill()
    d.start()
    assert [x["sequence"] for x in ok(d, "exec.list", {"workspace_id": ws})["execs"]] == list(range(4, 504))
    kept = {x["exec_id"] for x in found}
    end = time.monotonic() + 20
    while {name.split(".")[0] for name in os.listdir("%s/transcripts/%s" % (d.state, ws))} != kept:
        assert time.monotonic() < end


def test_long_command_lines_are_bounded(fake, ws):
    for i in range(12):
        run(fake, ws, "exit %d; %s" % (i, "x" * 120000))
    found = ok(fake, "exec.list", {"workspace_id": ws})["execs"]
    assert [x["sequence"] for x in found] == list(range(5, 13)) and all(len(x["command"]) == 1024 for x in found), [x["sequence"] for x in found]
    assert len(wait(fake, found[-1]["exec_id"])["command"]) > 120000


def test_input_that_is_not_read(make_fake):
    fake = make_fake(build=BUILD_ASAN, deadlines={"input": 0.3}).start()
    ws = workspace(fake)
    ex = background(fake, ws, "sleep 0", interactive=True)
    sizes = []
    while not sizes or sizes[-1] == 200000:
        reply = fake.call("exec.write", {"exec_id": ex, "data": "y" * 200000}, timeout=60)
        if "error" in reply:
            assert reply["error"]["data"]["code"] == "no_space", reply
            break
        sizes.append(reply["result"]["input_length"])
    assert sum(sizes) <= 512 * 1024 and refused(fake, "exec.write", {"exec_id": ex, "data": "z" * 262145}) == "invalid_argument"
    ok(fake, "exec.signal", {"exec_id": ex, "signal_name": "KILL"})


def test_read_by_cursor(fake, ws):
    ex = run(fake, ws, "print 200000")["exec_id"]
    got, cursor = "", 0
    while True:
        r = read(fake, ex, cursor=cursor, max_chars=7777)
        assert r["cursor"] == cursor and r["next_cursor"] == cursor + len(r["output"]) and r["state"] == "exited"
        got, cursor = got + r["output"], r["next_cursor"]
        if not r["truncated"]:
            break
    assert got.encode() == lines(200000) and r["exit_code"] == 0
    assert read(fake, ex, cursor=-16)["output"].encode() == lines(200000)[-16:]
    assert read(fake, ex, cursor=10**9)["cursor"] == 200000
    assert base64.b64decode(read(fake, ex, max_chars=1000, encoding="base64")["output"]) == lines(1000)


def test_read_one_stream(fake, ws):
    ex = run(fake, ws, "echo a; err b; echo c; err d")["exec_id"]
    both = read(fake, ex)
    assert sorted(both["output"].split()) == ["a", "b", "c", "d"] and both["next_cursor"] == 8
    assert read(fake, ex, stream="stdout")["output"] == "a\nc\n"
    out = read(fake, ex, stream="stderr", max_chars=2)
    assert out["output"] == "b\n"
    assert read(fake, ex, stream="stderr", cursor=out["next_cursor"])["output"] == "d\n"


def test_read_waits_for_output_and_for_the_end(fake, ws):
    ex = background(fake, ws, "echo one; sleep 400; echo two; sleep 400; exit 5")
    got, cursor, states = "", 0, []
    while not states or states[-1] == "running":
        r = read(fake, ex, cursor=cursor, wait_ms=20000)
        got, cursor = got + r["output"], r["next_cursor"]
        states.append(r["state"])
    assert (got, r["exit_code"]) == ("one\ntwo\n", 5) and len(states) <= 4, states
    begin = time.monotonic()
    assert read(fake, background(fake, ws, "sleep 0"), wait_ms=200)["output"] == "" and time.monotonic() - begin < 10


def test_no_character_is_split(fake, ws):
    ex = run(fake, ws, "echo äöü€😀x")["exec_id"]
    got, cursor = "", 0
    while cursor < len("äöü€😀x\n".encode()):
        r = read(fake, ex, cursor=cursor, max_chars=1)
        assert len(r["output"]) == 1 and "binary" not in r, r
        got, cursor = got + r["output"], r["next_cursor"]
    assert got == "äöü€😀x\n"


def test_the_oldest_output_goes(make_fake):
    d = make_fake(conf=["output_limit_mib = 2"]).start()
    ws = workspace(d)
    ex = run(d, ws, "print 6000000")["exec_id"]
    r = read(d, ex)
    assert r["earliest"] == r["cursor"] == r["gap_bytes"] > 3000000, r
    assert read(d, ex, cursor=-1000)["output"].encode() == lines(6000000)[-1000:]
    r = wait(d, ex)
    assert r["truncated"] and r["stdout_bytes"] == 6000000 and r["stdout"].encode().endswith(lines(6000000)[-1000:])
    size = sum(os.path.getsize(os.path.join(p, f)) for p, _, names in os.walk(d.state + "/transcripts") for f in names if "ex-" in f)
    assert 0 < size < 4 << 20, size


def test_client_killed_in_mid_command(fake, ws):
    live = Live(fake, {"workspace_id": ws, "command": "print 100000; sleep 500; print 100000; exit 6"}, "workspace.exec")
    ex = live.exec_id
    live.more()
    live.raw.sock.close()
    live.stdio.close()
    r = ended(fake, ex)
    assert (r["exit_code"], r["stdout"].encode()) == (6, lines(100000) * 2)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_daemon_gone_in_mid_command(make_fake, end, build=BUILD_ASAN):
    d = make_fake(build=build).start()
    ws = workspace(d)
    ex = background(d, ws, "print 300000; sleep 600; print 300000; exit 9")
    quiet = background(d, ws, "sleep 1200; echo late")
    for _ in range(2):
        getattr(d, end)()
        d.start()
    r = ended(d, ex)
    assert (r["exit_code"], r["stdout_bytes"], r["sequence"]) == (9, 600000, 1), r
    assert base64.b64decode(read(d, ex, encoding="base64", max_chars=262144)["output"]) == (lines(300000) * 2)[:262144]
    assert ended(d, quiet)["stdout"] == "late\n"
    assert run(d, ws, "true")["sequence"] == 3
    ok(d, "workspace.delete", {"workspace_id": ws})
    d.wait_clean(30)


def test_live_output_over_restarts(make_fake):
    d = make_fake(build=BUILD_ASAN).start()
    ws = workspace(d)
    live = Live(d, {"workspace_id": ws, "command": "print 400000; sleep 300; print 400000; sleep 300; print 400000; exit 2"}, "workspace.exec")
    ex = live.exec_id
    for stop in (d.kill, d.stop):
        for _ in range(4):
            live.more()
        stop()
        d.start()
        live.call("exec.attach", {"exec_id": ex, "stdout_offset": len(live.got), "stderr_offset": 0})
    want = lines(400000) * 3
    while len(live.got) < len(want):
        live.more()
        live.acknowledge()
    assert live.got == want and ended(d, ex)["exit_code"] == 2


def test_two_are_attached(fake, ws):
    ex = background(fake, ws, "print 50000; cat; exit 1", interactive=True)
    first, second = Attached(fake, ex), Attached(fake, ex, read_only=True)
    for caller in (first, second):
        assert caller.raw.line()["params"]["phase"] == "execute"
    assert refused_attach(fake, ex) == "wrong_state"
    assert refused(fake, "exec.write", {"exec_id": ex, "data": "x"}) == "wrong_state"
    first.stdio.sendall(wire.data(0, 0, b"typed\n") + wire.end(0, 6))
    assert first.all() == second.all() == lines(50000) + b"typed\n"
    for caller in (first, second):
        caller.acknowledge()
        assert caller.reply()["result"]["exit_code"] == 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_ended_input_over_a_restart(make_fake, end):
    """The next daemon knows from the guest that the input has ended: more of it is refused, as before, and no command is lost."""
    d = make_fake(build=BUILD_ASAN).start()
    ws = workspace(d)
    other = background(d, ws, "sleep 0")
    ex = background(d, ws, "cat; echo ended; sleep 0", interactive=True)
    ok(d, "exec.write", {"exec_id": ex, "data": "typed\n", "eof": True})
    while read(d, ex, wait_ms=20000)["output"] != "typed\nended\n":
        pass
    for _ in range(2):
        assert refused(d, "exec.write", {"exec_id": ex, "data": "more"}) == "wrong_state"
        getattr(d, end)()
        d.start()
        read(d, ex, wait_ms=100, cursor=-1)
        reply = d.call("exec.write", {"exec_id": ex, "data": "more", "eof": True})
        assert reply["error"]["data"]["code"] == "wrong_state" and "its input has ended" in json.dumps(reply), reply
    caller = Attached(d, ex)
    caller.stdio.sendall(wire.data(0, 0, b"more") + wire.end(0, 4))
    assert run(d, ws, "echo works")["stdout"] == "works\n"
    for x in (ex, other):
        assert wait(d, x, wait_ms=0)["state"] == "running"
        ok(d, "exec.signal", {"exec_id": x, "signal_name": "KILL"})


def refused_attach(d, ex):
    other = Attached(d, ex)
    return other.reply()["error"]["data"]["code"]


def test_one_leaves_and_another_types(fake, ws):
    ex = background(fake, ws, "cat; exit 3", interactive=True)
    first = Attached(fake, ex)
    first.stdio.sendall(wire.data(0, 0, b"one\n"))
    first.more()
    first.raw.sock.close()
    first.stdio.close()
    end = time.monotonic() + 20
    while refuses_input(fake, ex):
        assert time.monotonic() < end
    ok(fake, "exec.write", {"exec_id": ex, "data": "three\n", "eof": True})
    r = ended(fake, ex)
    assert (r["exit_code"], r["stdout"]) == (3, "one\ntwo\nthree\n"), r
    assert refused(fake, "exec.write", {"exec_id": ex, "data": "x"}) == "wrong_state"


def refuses_input(d, ex):
    """The caller who left is noticed with the next event; the write itself is what is tried."""
    reply = d.call("exec.write", {"exec_id": ex, "data": "two\n"})
    return "error" in reply and reply["error"]["data"]["code"] == "wrong_state"


def both_streams(live):
    """Everything of both streams, acknowledged as it comes."""
    got, ended = {wire.STDOUT: b"", wire.STDERR: b""}, set()
    while len(ended) < 2:
        kind, stream, offset, data = live.frame()
        if kind == wire.END:
            ended.add(stream)
        elif kind == wire.DATA:
            assert offset == len(got[stream])
            got[stream] += data
            with contextlib.suppress(BrokenPipeError):  # the rest was sent, and its socket is closed after it
                live.stdio.sendall(wire.ack(0, stream, len(got[stream]), len(got[stream]) + wire.WINDOW))
    return got


def test_slow_caller_holds_both_streams_back_and_lets_both_go(fake, ws):
    live = Live(fake, {"workspace_id": ws, "command": "print 1500000; errprint 1000000; exit 1"}, "workspace.exec")
    end = time.monotonic() + 20
    while read(fake, live.exec_id, cursor=-1)["cursor"] < 1300000:  # then it is held back
        assert time.monotonic() < end
    got = both_streams(live)
    assert got == {wire.STDOUT: lines(1500000), wire.STDERR: lines(1000000)}
    assert live.result()["exit_code"] == 1


def test_text_of_a_daemon_that_is_gone(make_fake):
    d = make_fake(build=BUILD_ASAN).start()
    ws = workspace(d)
    long = background(d, ws, "sleep 600; cat; exit 1", stdin="x" * 600000)
    short = background(d, ws, "sleep 600; cat; exit 2", stdin="y" * 1000)
    d.kill()
    d.start()
    assert refused(d, "exec.wait", {"exec_id": long}) == "outcome_unknown"
    r = ended(d, short)
    assert (r["exit_code"], r["stdout"]) == (2, "y" * 1000)


def test_input_behind_what_is_not_read_yet(fake, ws):
    ex = background(fake, ws, "sleep 500; cat; exit 3", interactive=True)
    other = threading.Thread(target=lambda: fake.call("exec.write", {"exec_id": ex, "data": "a" * 200000}, timeout=60))
    other.start()
    end = time.monotonic() + 20
    while "error" in fake.call("exec.write", {"exec_id": ex, "data": ""}):
        assert time.monotonic() < end
    second = Attached(fake, ex)
    kind, stream, upto, _ = Live.frame(second)
    assert (kind, stream) == (wire.ACK, 0), (kind, stream)
    sent = 0
    while sent < 200000:
        second.stdio.sendall(wire.data(0, upto + sent, b"b" * 20000))
        sent += 20000
    second.stdio.sendall(wire.end(0, upto + sent))
    got = both_streams(second)[wire.STDOUT]
    other.join()
    assert got == b"a" * upto + b"b" * 200000, (upto, len(got))
    assert second.reply()["result"]["exit_code"] == 3


def test_commands_of_a_creation_that_fails(make_fake):
    """It is over its owner's limit: its commands get an error, whenever they came."""
    d = make_fake(build=BUILD_ASAN, conf=["max_disk_mib = 100"]).start()
    workspace(d)
    for _ in range(30):
        with Raw(d.socket, 60) as one, Raw(d.socket, 60) as two:
            one.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "workspace.create", "params": d.spec(name="second")}).encode() + b"\n")
            codes = set()
            for i in range(5):
                reply = two.call("workspace.exec", {"workspace_id": "second", "command": "true"})
                codes.add(reply["error"]["data"]["code"])
            reply = one.line()
            while "id" not in reply:
                reply = one.line()
            assert reply["error"]["data"]["code"] in ("quota_exceeded", "no_space"), reply
            assert codes <= {"workspace_not_found", "wrong_state", "quota_exceeded", "no_space", "cancelled", "start_failed"}, codes


def test_attached_to_a_command_that_is_lost_meanwhile(make_fake):
    d = make_fake(build=BUILD_ASAN, deadlines={"adopt": 0.5}).start()
    ws = workspace(d)
    ex = background(d, ws, "echo first; sleep 0")
    end = time.monotonic() + 20
    while read(d, ex)["next_cursor"] < 6:
        assert time.monotonic() < end
    d.kill()
    for pid in d.vmm_pids():
        os.kill(pid, signal.SIGSTOP)
    d.start()
    caller = Attached(d, ex)
    reply = caller.reply()
    assert reply["error"]["data"]["code"] in ("guest_unresponsive", "guest_died"), reply
    for pid in d.vmm_pids():
        os.kill(pid, signal.SIGCONT)


def test_signal(fake, ws):
    ex = background(fake, ws, "sleep 0")
    assert ok(fake, "exec.signal", {"exec_id": ex, "signal_name": "TERM"}) == {"exec_id": ex, "signal": "TERM"}
    assert ended(fake, ex)["exit_code"] == 128 + signal.SIGTERM
    assert refused(fake, "exec.signal", {"exec_id": ex}) == "wrong_state"


def test_text_as_input(fake, ws):
    text = "line\n" * 100000
    r = run(fake, ws, "cat", stdin=text)
    assert r["stdout_bytes"] == len(text) and r["exit_code"] == 0


def test_timeout_is_a_result(fake, ws):
    r = run(fake, ws, "echo before; sleep 0", timeout_seconds=1)
    assert (r["exit_code"], r["timed_out"], r["ended_by"], r["stdout"]) == (124, True, "timeout", "before\n"), r
    assert read(fake, r["exec_id"])["timed_out"]


def test_cancelled(fake, ws):
    with Raw(fake.socket, 60) as raw:
        raw.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "workspace.exec", "params": {"workspace_id": ws, "command": "echo x; sleep 0"}}).encode() + b"\n")
        ex = raw.line()["params"]["exec_id"]
        raw.send(b'{"jsonrpc":"2.0","id":2,"method":"cancel","params":{"id":1}}\n')
        replies = [raw.line(), raw.line()]
    assert {r["id"]: r.get("error", {}).get("data", {}).get("code") for r in replies} == {1: "cancelled", 2: None}
    assert ended(fake, ex)["exit_code"] == 128 + signal.SIGKILL


def test_lost_with_its_machine(fake, ws):
    ex = background(fake, ws, "echo first; sleep 300; die")
    assert refused(fake, "exec.wait", {"exec_id": ex}) == "guest_died"
    r = read(fake, ex)
    assert (r["state"], r["output"], r["exit_code"]) == ("lost", "first\n", None), r
    fake.kill()
    fake.start()
    assert read(fake, ex)["state"] == "lost" and refused(fake, "exec.wait", {"exec_id": ex}) == "guest_died"
    # The machine has failed, and says so until it is started again.
    reply = fake.call("workspace.exec", {"workspace_id": ws, "command": "echo again"})
    assert reply["error"]["data"]["code"] == "wrong_state" and reply["error"]["data"]["fix"] == "pyro workspace start " + ws, reply
    ok(fake, "workspace.start", {"workspace_id": ws})
    assert run(fake, ws, "echo again")["stdout"] == "again\n"


def test_stopped_workspace_is_started(fake, ws):
    ok(fake, "workspace.stop", {"workspace_id": ws})
    assert ok(fake, "workspace.status", {"workspace_id": ws})["state"] == "stopped"
    assert run(fake, ws, "echo up")["stdout"] == "up\n"
    assert ok(fake, "workspace.status", {"workspace_id": ws})["state"] == "started"


def test_stop_ends_commands_and_keeps_output(fake, ws):
    ex = background(fake, ws, "print 5000; sleep 0")
    end = time.monotonic() + 20
    while read(fake, ex)["next_cursor"] < 5000:
        assert time.monotonic() < end
    ok(fake, "workspace.stop", {"workspace_id": ws}, timeout=60)
    r = read(fake, ex)
    assert r["state"] == "lost" and r["output"].encode() == lines(5000), r["state"]


def test_delete_ends_it_all(fake, ws):
    ex = background(fake, ws, "print 5000; sleep 0")
    done = []
    waiter = threading.Thread(target=lambda: done.append(fake.call("exec.wait", {"exec_id": ex}, timeout=60)))
    waiter.start()
    ok(fake, "workspace.delete", {"workspace_id": ws})
    waiter.join(30)
    assert done[0]["error"]["data"]["code"] == "cancelled", done
    assert refused(fake, "exec.read", {"exec_id": ex}) == "exec_not_found"
    assert fake.rows("SELECT count(*) FROM exec") == [(0,)]
    end = time.monotonic() + 20
    while os.listdir(fake.state + "/transcripts"):
        assert time.monotonic() < end
    fake.wait_clean()


@pytest.mark.parametrize("params,code", [
    ({"command": ""}, "invalid_argument"),
    ({"command": "x", "background": True, "stdin": "y", "interactive": True, "timeout_seconds": -1}, "invalid_argument"),
    ({"command": "x", "interactive": True}, "invalid_argument"),
    ({"command": "x", "wait_ms": -1}, "invalid_argument"),
    ({"command": "x", "env": {"A=B": "c"}}, "invalid_argument"),
])
def test_bad_requests_change_nothing(fake, ws, params, code):
    assert refused(fake, "workspace.exec", {"workspace_id": ws, **params}) == code
    assert ok(fake, "workspace.status", {"workspace_id": ws})["command_count"] == 0


def test_one_shots_have_no_history(fake):
    p = fake.popen("run", *fake.run_flags(), "debian:12", "--", "sleep 0", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        end, ex = time.monotonic() + 30, None
        while not ex:
            rows = fake.rows("SELECT id FROM exec")
            ex = rows[0][0] if rows else None
            assert time.monotonic() < end
        for method in ("exec.read", "exec.wait"):
            code = refused(fake, method, {"exec_id": ex})
            assert code in ("unsupported", "exec_not_found"), code
    finally:
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=30)
    fake.wait_clean()
