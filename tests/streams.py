# SPDX-License-Identifier: MIT
"""The stream between host and guest, cut in every possible way, for the fake VMM (tests/t/test_stream.py) and real guests
(tests/vm/test_stream.py): in each case a command's caller gets every byte once."""
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

from conftest import TOP, Raw
from fakevm import lines

sys.path.insert(0, TOP + "/tests/t")
import wire  # noqa: E402

ENV = "debian:12"
SYS_PIDFD_GETFD = 438


class FakeGuest:
    flags = ("-m", "200M", "--disk-mib", "64")

    @staticmethod
    def around(n):
        """n bytes, then what comes on stdin, then n bytes again."""
        return ["print %d; cat; print %d" % (n, n)]


class RealGuest:
    flags = ("-m", "256M")

    @staticmethod
    def around(n):
        out = "seq -f %%015.0f 0 %d | head -c %d" % (n // 16 + 1, n)
        return ["%s; cat; %s" % (out, out)]


class Run:
    """A run whose output is read in the background and whose input is sent in pieces."""

    def __init__(self, d, guest, n):
        self.d, self.n = d, n
        self.p = d.popen("run", "-i", "--timeout-seconds", "300", *guest.flags, ENV, "--", *guest.around(n), stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.out, self.more = bytearray(), threading.Condition()
        self.gate = threading.Event()  # closed: the reader pauses, and so does the guest
        self.gate.set()
        self.sent = b""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for chunk in iter(lambda: self.p.stdout.read1(1 << 15), b""):
            with self.more:
                self.out += chunk
                self.more.notify_all()
            self.gate.wait()
        with self.more:
            self.p.stdout.close()
            self.more.notify_all()

    def got(self, n, seconds=60):
        with self.more:
            assert self.more.wait_for(lambda: len(self.out) >= n or self.p.stdout.closed, seconds) and len(self.out) >= n, (
                len(self.out), n, self.d.log_text()[-3000:])

    def send(self, data):
        self.sent += data
        self.p.stdin.write(data)
        self.p.stdin.flush()

    def end(self, seconds=120):
        self.p.stdin.close()
        self.reader.join(seconds)
        err = self.p.stderr.read()
        assert self.p.wait(seconds) == 0, (err, self.d.log_text()[-3000:])
        want = lines(self.n) + self.sent + lines(self.n)
        assert len(self.out) == len(want) and self.out == want, (len(self.out), len(want))

    def vm(self):
        found = os.listdir(self.d.runtime + "/vm")
        assert len(found) == 1
        return found[0]


class Live:
    """A live command whose caller speaks the protocol itself (docs/PROTOCOL.md), disappears as if killed and returns with an
    offset."""

    def __init__(self, d, params, method="vm.run"):
        self.d, self.got, self.acks = d, b"", True
        self.call(method, params)
        while not (exec_id := self.raw.line()["params"].get("exec_id")):
            pass
        self.exec_id = exec_id

    def call(self, method, params):
        """A call on a connection of its own, with a new socket for its streams."""
        self.raw, (self.stdio, theirs) = Raw(self.d.socket, 240), socket.socketpair()
        self.stdio.settimeout(240)
        for stream, have in ((wire.STDOUT, len(self.got)), (wire.STDERR, 0)) if self.acks else ():
            self.stdio.sendall(wire.ack(0, stream, have, have + wire.WINDOW))
        line = {"jsonrpc": "2.0", "id": 1, "method": method, "fds": 1, "params": {**params, "stdio": 0}}
        socket.send_fds(self.raw.sock, [json.dumps(line).encode() + b"\n"], [theirs.fileno()])
        theirs.close()

    def take(self, n):
        data = b""
        while len(data) < n:
            more = self.stdio.recv(n - len(data))
            assert more, self.raw.line()
            data += more
        return data

    def frame(self):
        """The next frame: its kind, stream, offset and bytes."""
        length, kind, _, _ = struct.unpack("<IHHI", self.take(12))
        payload = self.take(length)
        return (kind, *struct.unpack("<BQ", payload[:9]), payload[9:])

    def more(self):
        """The next bytes of stdout, which are acknowledged only by a return with a later offset."""
        kind, stream, offset, data = self.frame()
        if (kind, stream) == (wire.END, wire.STDERR):  # when it came with the last bytes of stdout
            kind, stream, offset, data = self.frame()
        assert (kind, stream, offset) == (wire.DATA, wire.STDOUT, len(self.got)), (kind, stream, offset, len(self.got))
        self.got += data

    def acknowledge(self):
        """What arrived, read in order."""
        try:
            self.stdio.sendall(wire.ack(0, wire.STDOUT, len(self.got), len(self.got) + wire.WINDOW))
        except BrokenPipeError:
            pass  # the rest was sent, and its socket is closed after it

    def rest(self, want):
        """Reads to the end of the command, whose whole output must be this."""
        while len(self.got) < len(want):
            self.more()
            self.acknowledge()
        assert self.got == want
        result = self.result()
        assert (result["exit_code"], result["stdout_bytes"]) == (0, len(want)), result
        self.leave()
        self.d.wait_clean()

    def leave(self):
        self.raw.sock.close()
        self.stdio.close()

    def attach(self):
        """False: the daemon has not noticed yet that the last caller disconnected."""
        code = self.refused()
        assert code in ("", "wrong_state"), (code, self.d.log_text()[-3000:])
        return not code

    def refused(self):
        """Returns to the command; gives the code of the refusal, or nothing."""
        self.call("exec.attach", {"exec_id": self.exec_id, "stdout_offset": len(self.got), "stderr_offset": 0})
        reply = self.raw.line()
        if "error" not in reply:
            return ""
        self.leave()
        return reply["error"]["data"]["code"]

    def signal(self, name):
        reply = self.d.call("exec.signal", {"exec_id": self.exec_id, "signal_name": name}, timeout=240)
        assert "result" in reply, reply

    def result(self):
        while "id" not in (reply := self.raw.line()):
            pass
        return reply["result"]


def sync_of(d, vm):
    """The machine's secret."""
    (sync,), = d.rows("SELECT sync FROM vm WHERE id = ?", vm)
    return sync


def cut_stream(d, vm):
    """Closes pyrod's connection to the agent while in use, as a VMM may do."""
    path, cut = "%s/vm/%s/agent.sock" % (d.runtime, vm), 0
    pidfd = os.pidfd_open(d.pid())
    for name in os.listdir("/proc/%d/fd" % d.pid()):
        try:
            if not os.readlink("/proc/%d/fd/%s" % (d.pid(), name)).startswith("socket:"):
                continue
        except FileNotFoundError:
            continue  # closed meanwhile
        fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, pidfd, int(name), 0)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        s = socket.socket(fileno=fd)
        try:
            if s.family == socket.AF_UNIX and s.getpeername() == path:
                s.shutdown(socket.SHUT_RDWR)
                cut += 1
        except OSError:
            pass  # not connected
        s.close()
    os.close(pidfd)
    return cut


def kill(d):
    d.process.kill()
    d.process.wait()
    d.process = None


def dial(d, vm):
    s = socket.socket(socket.AF_UNIX)
    s.connect("%s/vm/%s/agent.sock" % (d.runtime, vm))
    return s


def hosts_in_place_of_pyrod(d, guest):
    """While pyrod is dead, others connect, disconnect at any point and reconnect within a millisecond."""
    run = Run(d, guest, 1 << 20)
    run.got(1 << 18)
    vm = run.vm()
    kill(d)
    secret = sync_of(d, vm)
    wire.MARKS.add(secret)
    begin, gaps = time.monotonic(), []
    sock = dial(d, vm)
    for leave in ("after WELCOME", "in a frame of the guest's", "in a frame of the host's", "in SYNC", "in HELLO", "at once", "after WELCOME"):
        host = wire.Host(sock)
        held, = host.greet(secret)["held"].values()
        if leave == "in a frame of the guest's":
            host.send(wire.resume(1, held["kept"][1], held["kept"][2], held["kept"][1] + (1 << 18), held["kept"][2] + (1 << 18)))
            sock.setblocking(True)
            sock.settimeout(20)
            got = 0
            while got < 12 + 9 + 1000:  # a frame's head and its first bytes
                got += len(sock.recv(1021 - got + 0 if got < 1021 else 1))
        elif leave == "in a frame of the host's":
            host.send(wire.data(1, held["accepted"], b"half of this is sent")[:20])
        elif leave == "in SYNC":
            sock.close()
            sock = dial(d, vm)
            sock.sendall(secret[:17])
        elif leave == "in HELLO":
            sock.close()
            sock = dial(d, vm)
            sock.sendall(secret + wire.frame(wire.HELLO, 0, struct.pack("<HH", 1, 1) + os.urandom(32))[:30])
        at = time.monotonic()
        sock.close()
        sock = dial(d, vm)
        gaps.append(time.monotonic() - at)
        if leave == "at once":
            sock.close()
            sock = dial(d, vm)
    wire.Host(sock).greet(secret)
    sock.close()
    assert min(gaps) < 0.001, gaps
    print("disconnected and reconnected within %s ms; pyrod was down for %.1f s" % (["%.2f" % (1000 * g) for g in gaps], time.monotonic() - begin))
    d.start()
    run.send(lines(300000))
    run.end()
    d.wait_clean()


def cut_repeatedly(d, guest):
    """pyrod lives and its connection ends: twice during output, once during input."""
    run = Run(d, guest, 4 << 20)
    run.got(1)
    vm = run.vm()
    for i in (1, 2):
        run.got(i << 20)
        assert cut_stream(d, vm) == 1
    run.got(4 << 20)
    run.send(lines(400000))
    assert cut_stream(d, vm) == 1
    run.send(lines(400000))
    run.got((4 << 20) + 800000)
    run.end()
    d.wait_clean()


def content_like_the_protocol(d, guest):
    """Bytes that look like the protocol's marks and frames are ordinary content, in both directions."""
    run = Run(d, guest, 100)
    run.got(100)
    secret = sync_of(d, run.vm())
    initial = wire.initial_sync()
    nonce = os.urandom(32)
    marks = [initial, wire.frame(wire.HELLO, 0, struct.pack("<HH", 1, 1) + nonce), initial + wire.frame(wire.HELLO, 0, struct.pack("<HH", 1, 1) + nonce),
             wire.frame(wire.EXIT_ACK, 1), wire.frame(wire.SHUTDOWN, 0), wire.kill(1, 9, True), wire.frame(wire.EXIT, 1, bytes(43)), wire.end(1, 0),
             secret[:31], secret[1:], secret[:16] + secret[16:31] + b"\0", bytes(reversed(secret))]
    source = open(TOP + "/proto/frame.c", "rb").read()
    # The zero, which no mark has, keeps the start of the secret and the next byte from being the secret.
    data = b"".join(mark + b"\0" + source[i * 500:(i + 1) * 500] + b"\0" + (mark + b"\0") * 3 for i, mark in enumerate(marks))
    assert secret not in data
    for at in range(0, len(data), 997):  # pieces whose ends lie in marks
        run.send(data[at:at + 997])
    run.got(100 + len(data))
    run.end()
    d.wait_clean()


def caller_lost(d, command, want, **spec):
    """A caller that read nothing and one that read a part are killed; the next gets all that they did not acknowledge, and the
    command did not see the end of its input."""
    live = Live(d, {"environment": ENV, "command": command, "timeout_seconds": 0, "interactive": True, **spec})
    live.stdio.recv(1)  # its output has started to arrive
    live.leave()
    for taken in (b"", want[:len(want) // 2]):
        live.got = taken
        while not live.attach():
            time.sleep(0.01)
        kind, stream, _, _ = live.frame()
        assert (kind, stream) == (wire.ACK, wire.STDIN)
        while len(live.got) <= len(want) // 2:  # more than the next caller claims to have
            live.more()
        live.leave()
    while not live.attach():
        time.sleep(0.01)
    assert live.frame()[:2] == (wire.ACK, wire.STDIN)
    while len(live.got) < len(want):
        live.more()
    assert live.got == want
    live.stdio.sendall(wire.data(0, 0, b"input\n") + wire.end(0, 6))
    result = live.result()
    assert (result["exit_code"], result["stdout_bytes"]) == (0, len(want) + 6), result
    live.leave()
    d.wait_clean()


def daemon_away(d, guest, seconds):
    """More than a ring of output is pending while there is no caller: the program waits, then continues."""
    run = Run(d, guest, 20 << 20)
    run.got(1 << 20)
    kill(d)
    # Its caller dials for DEADLINE_REDIAL (contract.md: ten seconds): as near to it as still leaves time for a reply.
    time.sleep(seconds)
    d.start()
    run.send(b"and on\n")
    run.end()
    d.wait_clean()


def daemon_away_longer(d, command, want, seconds, **spec):
    """pyrod is unavailable for longer than libpyro dials: the program waits with more than a window of output, and a caller of
    the new daemon gets all of it."""
    live = Live(d, {"environment": ENV, "command": command, "timeout_seconds": 0, **spec})
    live.more()
    kill(d)
    live.leave()
    time.sleep(seconds)
    d.start()
    assert live.attach()
    live.rest(want)


def caller_lost_with_input(d, command, **spec):
    """A caller is killed whose input the command has not read yet; the next sends it again late, and meanwhile the command reads
    what the first one sent."""
    live = Live(d, {"environment": ENV, "command": command, "timeout_seconds": 0, "interactive": True, **spec})
    assert live.frame()[:2] == (wire.ACK, wire.STDIN)
    live.stdio.sendall(wire.data(0, 0, b"x" * 1000))
    live.leave()
    while not live.attach():
        time.sleep(0.01)
    kind, stream, upto, _ = live.frame()
    assert (kind, stream, upto) == (wire.ACK, wire.STDIN, 0)
    while len(live.got) < 1000:
        live.more()
    live.stdio.sendall(wire.data(0, 0, b"x" * 1000) + wire.data(0, 1000, b"y" * 10) + wire.end(0, 1010))
    while len(live.got) < 1010:
        kind, stream, offset, data = live.frame()
        if (kind, stream) == (wire.DATA, wire.STDOUT):
            assert offset == len(live.got)
            live.got += data
    assert live.got == b"x" * 1000 + b"y" * 10
    assert live.result()["exit_code"] == 0
    live.leave()
    d.wait_clean()


def acknowledged_late(d, command, want, **spec):
    """The caller of a new daemon acknowledges nothing at first: the guest sends what the last daemon allowed, and that is taken."""
    live = Live(d, {"environment": ENV, "command": command, "timeout_seconds": 0, **spec})
    while len(live.got) < wire.WINDOW // 2:
        live.more()
    kill(d)
    live.leave()
    d.start()
    live.acks = False
    assert live.attach()
    while len(live.got) < wire.WINDOW:
        live.more()
    live.acknowledge()
    live.rest(want)


def attach_while_dialling(d, command, want, **spec):
    """pyrod is reconnecting to the guest's stream when a caller attaches: the caller waits for it."""
    live = Live(d, {"environment": ENV, "command": command, "timeout_seconds": 0, **spec})
    live.more()
    vm, = os.listdir(d.runtime + "/vm")
    live.leave()
    while not live.attach():
        time.sleep(0.01)
    for _ in range(3):  # with more within ten seconds, pyrod gives up the stream (agent/link.h)
        live.more()
        live.acknowledge()
        live.leave()
        assert cut_stream(d, vm) == 1
        while not live.attach():
            time.sleep(0.001)
    live.rest(want)


def attached_at_a_wrong_place(d, command, want, **spec):
    """A wrong offset is refused, and a caller with the right offset gets everything."""
    live = Live(d, {"environment": ENV, "command": command, "timeout_seconds": 0, **spec})
    live.stdio.recv(1)
    live.leave()
    live.got = b"?" * (len(want) + 1)
    while "wrong_state" in (refused := live.refused()):
        time.sleep(0.01)
    assert "outcome_unknown" in refused, refused
    live.got = b""
    assert live.attach()
    live.rest(want)
