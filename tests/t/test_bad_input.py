# SPDX-License-Identifier: MIT
"""Bad input to the socket and the CLI: a clear error or a bounded wait; pyrod stays and serves others. The sanitized daemon."""
import array
import contextlib
import json
import os
import select
import socket
import time

import pytest

from conftest import BUILD_ASAN, Raw, assert_no_faults


@pytest.fixture(scope="module")
def served(request):
    import tempfile
    from conftest import Daemon
    root = tempfile.mkdtemp(prefix="pyro-test-")
    os.chmod(root, 0o755)
    d = Daemon(root, build=BUILD_ASAN)
    d.start()
    yield d
    assert d.call("system.ping")["result"]["api_version"] == 1
    d.stop()
    assert_no_faults(d.log_text())


def error(reply):
    return reply["error"]["data"]["code"]


RUN = {"environment": "debian:12", "command": "true"}


@pytest.mark.parametrize("change,names", [
    ({"environment": "nope:1"}, "debian:12-base"),
    ({"vcpu_count": 0}, "vcpu_count"),
    ({"vcpu_count": 1000}, "vcpu_count"),
    ({"mem_mib": 1}, "mem_mib"),
    ({"mem_mib": 10**9}, "mem_mib"),
    ({"command": ""}, "command"),
    ({"command": "a\0b"}, "command"),
    ({"command": 5}, "command"),
    ({"command": ["true"]}, "command"),
    ({"vcpu_count": "2"}, "vcpu_count"),
    ({"vcpu_count": 1.5}, "vcpu_count"),
    ({"timeout_seconds": -1}, "timeout_seconds"),
    ({"timeout_seconds": 86401}, "timeout_seconds"),
    ({"frobnicate": 1}, "frobnicate"),
    ({"stdio": 0}, "stdio"),
    ({"stdio": 3}, "stdio"),
    ({"env": {"A": 1}}, "env"),
    ({"env": {"A=B": ""}}, "A=B"),
    ({"stdin": True}, "stdin"),
    ({"accelerator": "warp"}, "accelerator"),
    ({"environment": None}, "environment"),
])
def test_parameters(served, change, names):
    reply = served.call("vm.run", dict(RUN, **change))
    assert error(reply) in ("invalid_argument", "environment_unknown"), reply
    text = json.dumps(reply["error"])
    assert names in text, reply
    assert served.vms() == []


@pytest.mark.parametrize("change", [{"network": True}, {"allow_host_compat": True}, {"wait_ms": 1}])
def test_later_features_are_refused(served, change):
    assert error(served.call("vm.run", dict(RUN, **change))) == "unsupported"


def test_missing_parameter(served):
    reply = served.call("vm.run", {"environment": "debian:12"})
    assert error(reply) == "invalid_argument" and "command" in reply["error"]["message"]


def test_unknown_method(served):
    reply = served.call("vm.explode")
    assert "vm.explode" in reply["error"]["message"]


@pytest.mark.parametrize("method,params", [
    ("vm.run", {"environment": "a%s", "command": "true"}),
    ("vm.run", {"environment": "host.example/a%s", "command": "true"}),
    ("vm.run", dict(RUN, **{"a%s": 1})),
    ("vm.run", dict(RUN, env={"a%s=": "x"})),
    ("vm.run", dict(RUN, accelerator="a%s")),
    ("vm.run", dict(RUN, cwd={"a%s": "x"})),
    ("a%s", {}),
])
@pytest.mark.parametrize("shift", [0, 1])
def test_quoted_values_are_cut_between_characters(served, method, params, shift):
    long = "x" * shift + "é" * 120
    r = served.call(method.replace("%s", long), json.loads(json.dumps(params).replace("%s", json.dumps(long)[1:-1])))
    message = r["error"]["message"]
    assert "éé" in message and "\ufffd" not in message and len(message) < 400, r


@pytest.mark.parametrize("line", [
    b"{", b"[]", b"null", b"1", b'{"jsonrpc":"2.0","id":1}', b'{"jsonrpc":"2.0","id":1,"method":5}',
    b'{"jsonrpc":"1.0","id":1,"method":"system.ping"}', b'[{"jsonrpc":"2.0","id":1,"method":"system.ping"}]',
    b'{"jsonrpc":"2.0","id":1,"method":"system.ping","params":[]}',
    b'{"jsonrpc":"2.0","id":1,"id":2,"method":"system.ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"system.ping","params":{"a":NaN}}',
    b'{"jsonrpc":"2.0","id":1,"method":"system.ping\xff"}',
    b'{"jsonrpc":"2.0","id":1,"method":"system.ping\x00"}',
    b"{'jsonrpc':'2.0'}", b'{"a":' * 1000 + b"1" + b"}" * 1000,
    b'{"jsonrpc":"2.0","id":1,"method":"system.ping","fds":-1}', b'{"jsonrpc":"2.0","id":1,"method":"system.ping","fds":"x"}',
    b'{"jsonrpc":"2.0","id":{},"method":"system.ping"}',
])
def test_malformed_lines(served, line):
    with Raw(served.socket, 10) as raw:
        raw.send(line + b"\n")
        assert "error" in raw.line()
    assert "result" in served.call("system.ping")


def test_two_mebibyte_line(served):
    with Raw(served.socket, 10) as raw:
        try:
            raw.send(b'{"jsonrpc":"2.0","id":1,"method":"vm.run","params":{"command":"' + b"a" * (2 << 20) + b'"}}\n')
        except (BrokenPipeError, ConnectionResetError):
            pass
        reply = raw.line()
        assert reply["id"] is None and "longer than 1 MiB" in reply["error"]["message"]
    assert "result" in served.call("system.ping")


def test_a_client_that_reads_nothing_is_disconnected(make_fake):
    """It is closed a deadline after it read the last byte of what waits for it; other clients notice nothing."""
    served = make_fake(build=BUILD_ASAN, deadlines={"stall": 2}).start()
    ask = b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}\n'
    with Raw(served.socket, 10) as raw:
        raw.sock.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for sent in range(1, 100000):
                raw.send(ask)
        begin, poll = time.monotonic(), select.poll()
        poll.register(raw.sock, 0)  # pyrod closes the connection without a request
        while not (events := poll.poll(1000)) and time.monotonic() < begin + 60:
            assert "result" in served.call("system.ping", timeout=5)
        assert events and time.monotonic() - begin > 1.9, (events, sent, time.monotonic() - begin)


def test_unexpected_descriptors(served):
    r, w = os.pipe()
    with Raw(served.socket, 10) as raw:
        raw.sock.sendmsg([b'{"jsonrpc":"2.0","id":1,"method":"system.ping","fds":1}\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [w]))])
        assert "error" in raw.line()
    os.close(w)
    assert os.read(r, 1) == b"", "the daemon kept the descriptor"
    os.close(r)
    with Raw(served.socket, 10) as raw:  # announced, but not sent
        raw.send(b'{"jsonrpc":"2.0","id":1,"method":"system.ping","fds":1}\n')
        assert "error" in raw.line()


@pytest.mark.parametrize("kind", ["pipe", socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_what_is_not_a_stream_socket(served, kind):
    r, w = os.pipe() if kind == "pipe" else (s.detach() for s in socket.socketpair(socket.AF_UNIX, kind))
    params = json.dumps(dict(RUN, stdio=0)).encode()
    with Raw(served.socket, 10) as raw:
        raw.sock.sendmsg([b'{"jsonrpc":"2.0","id":1,"method":"vm.run","fds":1,"params":' + params + b"}\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [w]))])
        assert error(raw.line()) == "invalid_argument"
    os.close(w)
    if kind == socket.SOCK_DGRAM:
        with socket.socket(fileno=os.dup(r)) as s, pytest.raises(ConnectionRefusedError):  # its other end is closed
            s.send(b"x")
    else:
        assert os.read(r, 1) == b"", "the daemon kept the descriptor"
    os.close(r)
    assert served.vms() == []


def test_a_client_that_never_reads(served):
    before = served.rss_kib()
    raw = Raw(served.socket, 5)
    raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "env.list", "params": {}}).encode() + b"\n"
    sent = 0
    try:
        for _ in range(200000):
            raw.send(line)
            sent += 1
    except (socket.timeout, BrokenPipeError, ConnectionResetError):
        pass
    assert "result" in served.call("system.ping", timeout=5)
    assert served.rss_kib() - before < 200 * 1024  # the sanitizer's own bookkeeping included
    raw.sock.close()
    assert sent < 200000


def test_half_closed_client_still_gets_its_answer(served):
    with Raw(served.socket, 10) as raw:
        raw.send(b'{"jsonrpc":"2.0","id":7,"method":"system.ping"}\n')
        raw.sock.shutdown(socket.SHUT_WR)
        assert raw.line()["id"] == 7


def test_too_many_connections_of_one_uid(served):
    held = []
    try:
        for _ in range(64):
            held.append(Raw(served.socket, 5))
        refused = 0
        for raw in held:
            try:
                if "error" in raw.call("system.ping"):
                    refused += 1
            except (EOFError, OSError):
                refused += 1
        assert 0 < refused <= 40
    finally:
        for raw in held:
            raw.sock.close()
    assert "result" in served.call("system.ping")


def test_cancel_of_nothing(served):
    assert "error" in served.call("cancel", {"id": 99}) or served.call("cancel", {"id": 99})["result"] is not None


@pytest.mark.parametrize("argv,names", [
    (["run", "nope:1", "--", "true"], "debian:12"),
    (["run", "--vcpu-count", "0", "debian:12", "--", "true"], "vcpu"),
    (["run", "--vcpu-count", "x", "debian:12", "--", "true"], "x"),
    (["run", "--mem-mib", "1", "debian:12", "--", "true"], "mem"),
    (["run", "-m", "1T1", "debian:12", "--", "true"], "1T1"),
    (["run", "debian:12"], "CMD"),
    (["run", "debian:12", "--", ""], "empty"),
    (["run", "--frob", "debian:12", "--", "true"], "--frob"),
    (["run", "-t", "debian:12", "--", "true"], ""),
    (["run", "--network", "debian:12", "--", "true"], "network"),
    (["run", "python:3.12", "--", "true"], "use one of: debian:12, debian:12-base, debian:12-build"),
])
def test_cli_usage(served, argv, names):
    r = served.pyro(*argv)
    assert r.status == 125, r
    assert names.lower() in r.errors.lower(), r
    assert r.out == b""
    assert served.vms() == []


def test_cli_json_errors(served):
    r = served.pyro("--json", "run", "nope:1", "--", "true")
    assert r.status == 125
    assert json.loads(r.text)["error"]["code"] == "environment_unknown"
    r = served.pyro("frobnicate")
    assert r.status == 2
