# SPDX-License-Identifier: MIT
"""What hosts and agents of each version of the protocol sent to each other, recorded in a real guest and kept (tests/frames),
and both ends of it again: an agent that sends what was recorded to a pyrod (Agent), and a host that sends it to an agent (host)."""
import glob
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from conftest import TOP
from streams import cut_stream

sys.path.insert(0, TOP + "/tests/t")
import wire  # noqa: E402

ENV = "debian:12"
FRAMES = TOP + "/tests/frames"
NAMES = {getattr(wire, name): name for name in (
    "NOP", "HELLO", "SETUP", "START", "KILL", "RESUME", "EXIT_ACK", "SHUTDOWN", "LOGIN", "FILE", "WELCOME", "SETUP_DONE", "STARTED", "EXIT",
    "BYE", "ENDED", "FILE_DONE", "DATA", "ACK", "END")}
SECONDS = 20


class Line:
    """A frame, or the bytes of SYNC or NONCE, which have no kind."""

    def __init__(self, way, name, data):
        self.way, self.name, self.data = way, name, data
        self.kind = self.channel = None
        if name not in ("SYNC", "NONCE"):
            length, self.kind, flags, self.channel = struct.unpack_from("<IHHI", data)
            assert (NAMES[self.kind], length, flags) == (name, len(data) - 12, 0), name

    @property
    def payload(self):
        return self.data[12:]


def machines(version):
    """For each recorded machine: its subject, and its connections as lists of lines."""
    found = []
    for text in open("%s/protocol-%d" % (FRAMES, version)):
        words = text.split()
        if text.startswith("= "):
            found.append((text[2:].strip(), []))
        elif words[0] == "--":
            found[-1][1].append([])
        elif words[0] in "<>":
            found[-1][1][-1].append(Line(words[0], words[1], bytes.fromhex(words[2])))
    return found


def talk(d, flags, mem_mib, replace):
    """What is recorded: one machine after the other, by the words that describe what happens to it. A pyrod of any version sends
    the same to its guest. replace(d): another daemon replaces the running one."""
    def run(*words, where="/", stdin=subprocess.DEVNULL):
        return d.popen("run", "-w", where, "-m", "%dM" % mem_mib, *flags, *words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ended(p, status, out, text=None):
        said = p.communicate(text, timeout=SECONDS)
        assert (p.returncode, said[0]) == (status, out), (p.returncode, said, d.log_text())

    def orderly():
        vm = d.call("vm.create", {"environment": ENV, "mem_mib": mem_mib})["result"]["vm_id"]
        for verb in ("start", "stop", "delete"):
            reply = d.call("vm." + verb, {"vm_id": vm}, timeout=SECONDS)
            assert "result" in reply, reply

    def replaced():
        p = run("-i", ENV, "--", "sh", "-c", "echo begun; cat; echo err >&2; exit 7", stdin=subprocess.PIPE)
        assert p.stdout.readline() == b"begun\n"
        replace(d)
        ended(p, 7, b"input\n", b"input\n")

    def refused():
        ended(run(ENV, "--", "true", where="/nowhere"), 125, b"")

    def interrupted():
        p = run(ENV, "--", "sh", "-c", "trap 'echo ended; exit 3' INT; echo begun; while :; do sleep 0.1; done")
        assert p.stdout.readline() == b"begun\n"
        p.send_signal(signal.SIGINT)
        ended(p, 3, b"ended\n")

    def late():
        ended(run("--timeout-seconds", "1", ENV, "--", "sleep", "1000"), 124, b"")

    return (("a machine is started, and stopped in order", orderly),
            ("a command with input; pyrod is killed meanwhile, and the next one takes the machine over", replaced),
            ("a command that cannot be started", refused),
            ("a command whose caller types Ctrl-C", interrupted),
            ("a command that reaches its timeout", late))


class Agent:
    """Takes the place of a machine's agent and plays one machine's lines: waits for each frame of the host, which must be the
    recorded one, and then sends what the recorded agent sent. Values that a host chooses (ids, secret, nonce) are replaced by
    this host's. It acknowledges at times of its own. said(lines): what to send in place of what was recorded; more: frames of
    the host that were not recorded."""

    def __init__(self, d, connections, said=lambda lines: lines, more=()):
        self.d, self.connections, self.said, self.more = d, connections, said, more
        self.made = {}  # values of the recorded host: those of this one
        self.hellos, self.failure = [], None
        self.thread = threading.Thread(target=self.guard, daemon=True)
        self.thread.start()

    def guard(self):
        try:
            self.play()
        except BaseException as e:
            self.failure = e

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Its own failure explains the failures of the host's callers."""
        self.thread.join(SECONDS)
        if self.failure:
            raise self.failure
        assert not self.thread.is_alive(), "the host sent less than was recorded"

    def listen(self):
        """Listens at the VMM's own socket, whose connections are cut until the host connects here."""
        end = time.monotonic() + SECONDS
        while not (found := glob.glob(self.d.runtime + "/vm/*/agent.sock")):
            assert time.monotonic() < end
            time.sleep(0.01)
        self.vm = found[0].split("/")[-2]
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(found[0] + ".played")
        self.listening.listen()
        os.rename(found[0] + ".played", found[0])
        self.listening.settimeout(0.05)
        while time.monotonic() < end:
            try:
                return self.listening.accept()[0]
            except TimeoutError:
                cut_stream(self.d, self.vm)
        raise AssertionError("pyrod does not connect")

    def play(self):
        for i, lines in enumerate(self.connections):
            if i == 0:
                self.sock = self.listen()
            else:
                self.listening.settimeout(SECONDS)
                self.sock = self.listening.accept()[0]
            self.sock.settimeout(SECONDS)
            self.buf = b""
            for line in self.said(lines):
                if line.way == ">":
                    self.expect(line)
                else:
                    self.say(line)
        self.after()

    def after(self):
        """What follows depends on the machine's last line: BYE is sent and its VMM ends, or the host closes the connection."""
        if self.connections[-1][-1].kind == wire.BYE:
            for pid in self.d.vmm_pids():
                os.kill(pid, signal.SIGKILL)
        try:
            while self.sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        self.listening.close()

    def take(self, n):
        while len(self.buf) < n:
            more = self.sock.recv(1 << 16)
            assert more, "the host closed the connection"
            self.buf += more
        taken, self.buf = self.buf[:n], self.buf[n:]
        return taken

    def frame(self):
        head = self.take(12)
        return Line(">", NAMES[struct.unpack_from("<IH", head)[1]], head + self.take(struct.unpack_from("<I", head)[0]))

    def ours(self, data):
        for old, new in self.made.items():
            assert len(old) == len(new)
            data = data.replace(old, new)
        return data

    def expect(self, line):
        if line.name == "SYNC":
            assert self.take(32) == self.made.get(line.data, wire.initial_sync())
            return
        # Some agents of protocol 1 accept LOGIN, but not all: it is part of protocol 2.
        if line.kind in (wire.ACK, wire.LOGIN):
            return
        while (got := self.frame()).kind in (wire.ACK, wire.NOP, *self.more):
            pass
        assert (got.name, got.channel) == (line.name, line.channel)
        if line.kind == wire.HELLO:
            self.hellos.append(struct.unpack_from("<HH", got.payload))
            self.nonce = got.payload[4:]
            assert len(got.payload) == len(line.payload)
        elif line.kind == wire.SETUP:  # 64 bytes of entropy, the time, machine's id, secret, name
            for a, b in ((72, 88), (88, 120), (124, None)):
                self.made[line.payload[a:b]] = got.payload[a:b]
            assert self.ours(line.payload[72:]) == got.payload[72:] and self.vm.encode() == got.payload[124:]
        else:
            if line.kind == wire.START:
                self.made[line.payload[:15]] = got.payload[:15]
            # The limits of RESUME were those of the caller once; they are at least what the previous daemon allowed now.
            same = 32 if line.kind == wire.RESUME else len(got.payload)
            assert self.ours(line.payload)[:same] == got.payload[:same] and len(line.payload) == len(got.payload), (
                line.name, self.ours(line.payload), got.payload)
            for at in range(same, len(got.payload), 8):
                recorded, sent, upto = (struct.unpack_from("<Q", p, o)[0] for p, o in ((line.payload, at), (got.payload, at), (got.payload, at - 32)))
                assert recorded <= sent <= upto + wire.WINDOW, (recorded, sent, upto)

    def say(self, line):
        if line.kind == wire.STARTED:
            self.started = time.monotonic()
        if line.kind == wire.EXIT and line.payload[2]:  # pyrod does not believe it before the time limit has passed
            time.sleep(max(0, self.started + struct.unpack_from("<Q", line.payload, 3)[0] / 1e6 - time.monotonic()))
        self.sock.sendall(self.nonce if line.name == "NONCE" else self.ours(line.data))


def outline(frames):
    """The meaning of an agent's frames: of a stream all its bytes and where it ends, of the others each with those values that
    are not random (unlike a boot's id or a duration)."""
    found, streams, acks = [], {}, {}
    for f in frames:
        if f.kind == wire.DATA:
            stream, offset = struct.unpack_from("<BQ", f.payload)
            was = streams.setdefault((f.channel, stream), b"")
            streams[f.channel, stream] = was[:offset] + f.payload[9:]
        elif f.kind == wire.ACK:
            acks[f.channel] = f.payload
        elif f.kind == wire.WELCOME:
            found.append((f.name, f.payload[:19], f.payload[35:]))
        elif f.kind == wire.EXIT:
            found.append((f.name, f.channel, f.payload[:3], f.payload[11:47]))  # without the duration and the host's limit of tasks
        elif f.kind != wire.NOP:
            found.append((f.name, f.channel, f.payload))
    return sorted(found), streams, acks


def host(sock, connections):
    """Plays a recorded host to an agent, byte for byte, and waits where the recorded host waited. Returns the outline of what
    was recorded of the agent, and of what this one sends."""
    sock.settimeout(SECONDS)
    buf, recorded, got = b"", [], []

    def take():
        nonlocal buf
        while len(buf) < 12 or len(buf) < 12 + struct.unpack_from("<I", buf)[0]:
            more = sock.recv(1 << 16)
            assert more, "the agent closed the connection"
            buf += more
        n = 12 + struct.unpack_from("<I", buf)[0]
        got.append(Line("<", NAMES[struct.unpack_from("<IH", buf)[1]], buf[:n]))
        buf = buf[n:]

    def has(line):
        """The agent has sent as much as this one."""
        if line.kind == wire.DATA:
            stream, offset = struct.unpack_from("<BQ", line.payload)
            return outline(got)[1].get((line.channel, stream), b"")[offset:] >= line.payload[9:]
        if line.kind == wire.ACK:
            return outline(got)[2].get(line.channel, b"")[1:] >= line.payload[1:]
        return len([f for f in got if f.kind == line.kind and f.channel == line.channel]) >= len(
            [f for f in recorded if f.kind == line.kind and f.channel == line.channel])

    for lines in connections:
        for line in lines:
            if line.way == ">":
                sock.sendall(line.data)
            elif line.name == "NONCE":
                while line.data not in buf:
                    buf += sock.recv(1 << 16)
                buf = buf[buf.index(line.data) + 32:]
            elif line.kind != wire.ENDED:
                recorded.append(line)
                while not has(line):
                    take()
    return outline(recorded), outline([f for f in got if f.kind != wire.ENDED])


def grown(frames):
    """Frames as a peer of a newer protocol may send them: each message, except the three that never grow, has fields after the
    last known one, and between them are frames of unknown types."""
    out = b""
    while frames:
        length, kind, flags, channel = struct.unpack_from("<IHHI", frames)
        payload, frames = frames[12:12 + length], frames[12 + length:]
        if kind not in (wire.DATA, wire.ACK, wire.END) and not flags:
            payload += b"what a newer peer says more"
        out += struct.pack("<IHHI", len(payload), kind, flags, channel) + payload
        if not flags:
            out += b"".join(wire.frame(new, which, b"unheard of") for new in (10, 39, 67, 65535) for which in (0, channel))
    return out
