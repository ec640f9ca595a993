# SPDX-License-Identifier: MIT
"""The agent's wire protocol again, written from proto/frame.h and proto/agent.h: a second implementation with which the tests
talk to the real agent, and a small host on top of it. Deadlines everywhere; nothing sleeps."""
import os
import select
import socket
import struct
import time

HERE = os.path.dirname(os.path.abspath(__file__))
NOP, HELLO, SETUP, START, KILL, RESUME, EXIT_ACK, SHUTDOWN, LOGIN, FILE = range(10)
WELCOME, SETUP_DONE, STARTED, EXIT, BYE, ENDED = range(32, 38)  # ENDED: only of some agents of protocol 1
FILE_DONE = 38
NEWEST = 3
LEFT, OOM_KILL, PIDS_REFUSED, DISK_FULL = 1, 2, 4, 8
DATA, ACK, END = range(64, 67)
STDIN, STDOUT, STDERR, PTY = range(4)
WITH_STDIN, WITH_PTY, WITH_LOGIN = 1, 2, 4
PAYLOAD_MAX = 32 * 1024
DATA_MAX = PAYLOAD_MAX - 9
WINDOW = 256 * 1024
FLAG_MORE = 1
FILE_LIST, FILE_READ, FILE_WRITE, FILE_EDIT = range(4)
RECURSIVE, REPLACE_ALL = 1, 2
TRUNCATED, LINES_KNOWN, UNKNOWN = 1, 2, 4
TYPES = ("file", "directory", "symlink", "other")
ID = bytes(range(1, 17))
SECRET = bytes(range(100, 132))


def initial_sync():
    return bytes.fromhex("8f2ea091352a92c8827f22a6798760d84b7bbb5552ebdc35335379bc2aefd897")


def text(s):
    if s is None:
        return struct.pack("<I", 0xFFFFFFFF)
    s = s.encode() if isinstance(s, str) else s
    return struct.pack("<I", len(s)) + s


MARKS = {initial_sync(), SECRET}  # any SYNC an agent may be looking for


def frame(kind, channel=0, payload=b"", flags=0):
    """A frame; with a NOP after it when it ends like the start of SYNC, which the agent would hold back (proto/frame.h)."""
    whole = struct.pack("<IHHI", len(payload), kind, flags, channel) + payload
    if any(whole.endswith(mark[:n]) for mark in MARKS for n in range(1, 32)):
        whole += struct.pack("<IHHI", 0, NOP, 0, 0)
    return whole


def message(kind, channel, payload):
    out = b""
    while len(payload) > PAYLOAD_MAX:
        out += frame(kind, channel, payload[:PAYLOAD_MAX], FLAG_MORE)
        payload = payload[PAYLOAD_MAX:]
    return out + frame(kind, channel, payload)


def data(channel, offset, bytes_):
    return frame(DATA, channel, struct.pack("<BQ", STDIN, offset) + bytes_)


def ack(channel, stream, upto, limit):
    return frame(ACK, channel, struct.pack("<BQQ", stream, upto, limit))


def end(channel, offset):
    return frame(END, channel, struct.pack("<BQ", STDIN, offset))


def setup(hostname="guest", machine_id=ID, sync=SECRET):
    MARKS.add(sync)
    return frame(SETUP, 0, os.urandom(64) + struct.pack("<Q", time.time_ns() // 1000) + machine_id + sync + text(hostname))


def exec_id(n):
    return b"ex-%012x" % n


def start(channel, command, n=None, flags=0, cwd="/", user="root", env=(), timeout=0, limit=WINDOW):
    p = exec_id(channel if n is None else n) + struct.pack("<I", flags) + text(command) + text(cwd) + text(user)
    p += struct.pack("<I", len(env)) + b"".join(text(e) for e in env)
    p += struct.pack("<Q4Q", int(timeout * 1e6), 0, limit, limit, 0)
    return message(START, channel, p)


def kill(channel, signo, everything=False):
    return frame(KILL, channel, struct.pack("<BB", signo, everything))


def resume(channel, out, err, limit_out, limit_err):
    return frame(RESUME, channel, struct.pack("<8Q", 0, out, err, 0, 0, limit_out, limit_err, 0))


def file(channel, op, path, id_=None, flags=0, max_bytes=None, start_line=0, max_lines=0, text_=b"", old=b""):
    """FILE. id_: 16 bytes; else random."""
    p = (id_ or os.urandom(16)) + struct.pack("<BI", op, flags) + text(path)
    p += struct.pack("<IQQ", (65536 if op == FILE_READ else 0) if max_bytes is None else max_bytes, start_line, max_lines)
    return message(FILE, channel, p + text(text_) + text(old))


def parse_file_done(p):
    r = Reader(p)
    d = {"id": r.take("16s"), "error": r.take("I"), "what": r.text()}
    d.update(zip(("flags", "size", "total_lines", "found"), r.take("IQQI")))
    d["content"] = r.bytes()
    d["entries"] = []
    for _ in range(r.take("I")):
        kind, size = r.take("BQ")
        d["entries"].append((r.bytes(), TYPES[kind], size, r.bytes()))
    r.done()
    return d


class Reader:
    def __init__(self, p):
        self.p = p

    def take(self, fmt):
        v = struct.unpack_from("<" + fmt, self.p)
        self.p = self.p[struct.calcsize("<" + fmt):]
        return v if len(v) > 1 else v[0]

    def bytes(self):
        n = self.take("I")
        if n == 0xFFFFFFFF:
            return None
        s, self.p = self.p[:n], self.p[n:]
        assert len(s) == n
        return s

    def text(self):
        s = self.bytes()
        return None if s is None else s.decode()

    def done(self):
        assert not self.p, self.p


def parse_welcome(p):
    r = Reader(p)
    w = dict(zip(("version", "state", "machine_id", "boot_nonce"), r.take("HB16s16s")))
    w["held"] = {}
    for _ in range(r.take("I")):
        name, channel, exited, accepted = r.take("15sIBQ")
        w["held"][channel] = {"id": name, "exited": exited, "accepted": accepted, "produced": r.take("4Q"), "kept": r.take("4Q"),
                              "stdin_ended": r.take("B") if w["version"] >= 3 else 0}
    r.done()
    return w


class Exec:
    def __init__(self):
        self.got = {STDOUT: bytearray(), STDERR: bytearray()}
        self.ended = {}
        self.started = self.exit = self.how = None
        self.acked, self.limit = 0, 0


class Host:
    """The host's end of one stream. auto: acknowledge everything at once."""

    def __init__(self, sock, auto=True):
        self.sock, self.auto = sock, auto
        sock.setblocking(False)
        self.buf, self.execs, self.welcome, self.setup_done, self.bye = bytearray(), {}, None, None, None
        self.eof = False
        self.out = bytearray()
        self.parts = bytearray()  # of a long message
        self.files = {}  # answers by channel

    def send(self, b):
        self.out += b
        self.flush()

    def flush(self):
        while self.out:
            try:
                n = self.sock.send(bytes(self.out[:1 << 20]))
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self.eof = True
                return
            del self.out[:n]

    def pump(self, until, seconds=20):
        end_at = time.monotonic() + seconds
        while not until():
            left = end_at - time.monotonic()
            assert left > 0, "deadline: %r" % {c: (x.started, x.exit, len(x.got[1]), len(x.got[2])) for c, x in self.execs.items()}
            assert not self.eof, "the agent closed the connection"
            r, w, _ = select.select([self.sock], [self.sock] if self.out else [], [], left)
            if w:
                self.flush()
            if r:
                self.read()

    def pump_closed(self, seconds=20):
        """Waits until the agent closes the connection, as it does after an invalid frame."""
        end_at = time.monotonic() + seconds
        while not self.eof:
            left = end_at - time.monotonic()
            assert left > 0, "deadline"
            r, w, _ = select.select([self.sock], [self.sock] if self.out else [], [], left)
            if w:
                self.flush()
            if r:
                self.read()

    def read_more(self, seconds=20):
        """Waits for the agent's next bytes."""
        assert select.select([self.sock], [], [], seconds)[0], "deadline"
        self.read()

    def read(self):
        try:
            b = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            b = b""
        if not b:
            self.eof = True
        self.buf += b
        self.parse()

    def parse(self):
        while self.welcome is not None and len(self.buf) >= 12:
            n, kind, flags, channel = struct.unpack_from("<IHHI", self.buf)
            assert n <= PAYLOAD_MAX and flags in (0, FLAG_MORE)
            if len(self.buf) < 12 + n:
                return
            payload = bytes(self.buf[12:12 + n])
            del self.buf[:12 + n]
            self.parts += payload
            if flags == 0:
                payload, self.parts = bytes(self.parts), bytearray()
                self.take(kind, channel, payload)

    def greet(self, sync, seconds=20, nonce=None, newest=NEWEST, more=b""):
        """Sends SYNC and HELLO (with what a newer host adds), and discards everything until the nonce."""
        nonce = nonce or os.urandom(32)
        self.welcome, self.parts = None, bytearray()
        self.send(sync + frame(HELLO, 0, struct.pack("<HH", 1, newest) + nonce + more))
        box = []

        def arrived():
            at = self.buf.find(nonce)
            if at >= 0 and len(self.buf) >= at + 44:
                n, kind = struct.unpack_from("<IH", self.buf, at + 32)
                assert kind == WELCOME
                if len(self.buf) >= at + 44 + n:
                    box.append(parse_welcome(bytes(self.buf[at + 44:at + 44 + n])))
                    del self.buf[:at + 44 + n]
                    return True
            return False
        self.pump(arrived, seconds)
        self.welcome = box[0]
        self.version = self.welcome["version"]
        assert self.version == min(newest, NEWEST)
        self.parse()
        return self.welcome

    def set_up(self, **kw):
        self.setup_done = None
        self.send(setup(**kw))
        self.pump(lambda: self.setup_done)
        return self.setup_done

    def take(self, kind, channel, p):
        r = Reader(p)
        if kind == FILE_DONE:
            self.files.setdefault(channel, []).append(parse_file_done(p))
            return
        x = self.execs.setdefault(channel, Exec()) if channel else None
        if kind == SETUP_DONE:
            self.setup_done = (r.take("I"), r.text())
            r.done()
        elif kind == BYE:
            self.bye = (r.take("B"), r.text())
        elif kind == STARTED:
            x.started = (r.take("I"), r.text())
            r.done()
        elif kind == DATA:
            stream, offset = r.take("BQ")
            got = x.got[stream]
            assert offset <= len(got), "a gap"
            assert stream not in x.ended
            got += r.p[len(got) - offset:]
            if self.auto:
                self.send(ack(channel, stream, len(got), len(got) + WINDOW))
        elif kind == END:
            stream, offset = r.take("BQ")
            assert offset == len(x.got[stream])
            x.ended[stream] = offset
        elif kind == ACK:
            stream, x.acked, x.limit = r.take("BQQ")
            assert stream == STDIN
        elif kind == EXIT:
            x.exit = dict(zip(("code", "signal", "timed_out", "usec"), r.take("BBBQ")))
            x.exit["produced"] = r.take("4Q")
            if self.version >= 2:
                x.how = dict(zip(("flags", "pids_max"), r.take("II")))
            r.done()
            assert set(x.ended) == {STDOUT, STDERR}
            assert x.exit["produced"][STDOUT] == len(x.got[STDOUT]) and x.exit["produced"][STDERR] == len(x.got[STDERR])
        else:
            raise AssertionError("the agent sent frames of type %d" % kind)

    def feed(self, channel, content, seconds=60):
        """Sends all of content as stdin, under the agent's flow control, then END."""
        x = self.execs.setdefault(channel, Exec())
        at, ended = 0, False

        def step():
            nonlocal at, ended
            while at < min(x.limit, len(content)) and len(self.out) < 1 << 20:
                n = min(DATA_MAX, x.limit - at, len(content) - at)
                self.send(data(channel, at, content[at:at + n]))
                at += n
            if at == len(content) and not ended:
                self.send(end(channel, at))
                ended = True
            return x.exit is not None
        self.pump(step, seconds)

    def run(self, channel, command, seconds=20, forget=True, **kw):
        """Runs one command to its end: (STARTED, EXIT, stdout, stderr)."""
        self.execs.pop(channel, None)
        self.send(start(channel, command, **kw))
        x = self.execs.setdefault(channel, Exec())
        self.pump(lambda: x.exit or (x.started and x.started[0]), seconds)
        if x.exit and forget:
            self.send(frame(EXIT_ACK, channel))
        return x

    def file(self, channel, op, path, seconds=20, **kw):
        """Does one operation on files: FILE_DONE."""
        self.files.pop(channel, None)
        self.send(file(channel, op, path, **kw))
        self.pump(lambda: channel in self.files, seconds)
        (done,) = self.files.pop(channel)
        return done
