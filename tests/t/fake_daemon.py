# SPDX-License-Identifier: MIT
"""A fake daemon: it listens where pyrod would and answers correctly, wrongly, late or not at all, so that the client's side of
every fault can be tested without pyrod. Standard library only."""
import json
import os
import selectors
import socket
import struct
import threading

NOP, DATA, ACK, END = 0, 64, 65, 66
STDIN, STDOUT, STDERR = 0, 1, 2
WINDOW = 256 * 1024
CHUNK = 32 * 1024 - 9


def frame(kind, payload, channel=0):
    return struct.pack("<IHHI", len(payload), kind, 0, channel) + payload


class Gone(Exception):
    """The client closed its end, or the call was cancelled."""


class Stdio:
    """The daemon's end of live stdio: bytes within the client's limits, every rule checked."""

    def __init__(self, fd, run):
        self.sock, self.run = socket.socket(fileno=fd), run
        self.sock.setblocking(True)
        self.buffer = b""
        self.sent = {STDOUT: 0, STDERR: 0}
        self.limit = {STDOUT: 0, STDERR: 0}
        self.upto = {STDOUT: 0, STDERR: 0}
        self.input, self.input_at, self.input_limit, self.input_ended = b"", 0, 0, False

    def _frame(self):
        """Waits for one frame or for the call's end."""
        while len(self.buffer) < 12 or len(self.buffer) < 12 + struct.unpack_from("<I", self.buffer)[0]:
            with selectors.DefaultSelector() as s:
                s.register(self.sock, selectors.EVENT_READ)
                s.register(self.run.wake, selectors.EVENT_READ)
                ready = {key.fileobj for key, _ in s.select(30)}
            if not ready or self.run.cancelled.is_set():
                raise Gone
            if self.sock in ready:
                data = self.sock.recv(65536)
                if not data:
                    raise Gone
                self.buffer += data
        n, kind, flags, channel = struct.unpack_from("<IHHI", self.buffer)
        payload, self.buffer = self.buffer[12:12 + n], self.buffer[12 + n:]
        assert flags == 0 and channel == 0 and n <= 32 * 1024
        return kind, payload

    def pump(self):
        kind, p = self._frame()
        stream = p[0]
        if kind == ACK:
            upto, limit = struct.unpack("<QQ", p[1:])
            assert stream in self.limit and self.upto[stream] <= upto <= self.sent[stream] and limit <= upto + WINDOW
            self.upto[stream], self.limit[stream] = upto, max(limit, self.limit[stream])
        elif kind == DATA:
            (offset,) = struct.unpack("<Q", p[1:9])
            assert stream == STDIN and offset == self.input_at and offset + len(p) - 9 <= self.input_limit
            self.input += p[9:]
            self.input_at += len(p) - 9
        elif kind == END:
            assert stream == STDIN and struct.unpack("<Q", p[1:])[0] == self.input_at
            self.input_ended = True

    def write(self, stream, data):
        while data:
            while self.limit[stream] <= self.sent[stream]:
                self.pump()
            n = min(len(data), self.limit[stream] - self.sent[stream], CHUNK)
            self._send(frame(DATA, struct.pack("<BQ", stream, self.sent[stream]) + data[:n]))
            self.sent[stream] += n
            data = data[n:]

    def read(self):
        """Returns a part of stdin, b"" at its end."""
        if not self.input and not self.input_ended:
            self.input_limit = self.input_at + WINDOW
            self._send(frame(ACK, struct.pack("<BQQ", STDIN, self.input_at, self.input_limit)))
        while not self.input and not self.input_ended:
            self.pump()
        data, self.input = self.input, b""
        return data

    def end(self):
        for stream in (STDOUT, STDERR):
            self._send(frame(END, struct.pack("<BQ", stream, self.sent[stream])))

    def _send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None


class Run:
    """One vm.run as a test's guest function sees it."""

    def __init__(self, conn, id, params, fds):
        self.conn, self.id, self.params = conn, id, params
        self.cancelled = threading.Event()
        self.signals = []
        self.signalled = threading.Event()
        self.wake, self._waker = socket.socketpair()
        self.stdio = Stdio(fds[params["stdio"]], self) if params.get("stdio") is not None else None

    def cancel(self):
        self.cancelled.set()
        self._waker.send(b"x")
        self.signalled.set()

    def signal(self, name):
        self.signals.append(name)
        self.signalled.set()

    def progress(self, phase, **more):
        self.conn.send({"jsonrpc": "2.0", "method": "progress", "params": dict(more, call=self.id, phase=phase)})

    def phases(self):
        self.progress("create", percent=None)
        self.progress("start", vm_id=VM)
        self.progress("execute", vm_id=VM, exec_id=EXEC)

    def result(self, **more):
        return dict({
            "environment": self.params.get("environment", "debian:12"), "command": self.params["command"], "vm_id": VM, "exec_id": EXEC,
            "state": "exited", "execution_mode": "guest_serial", "accelerator": "emulation", "start_mode": "cold",
            "exit_code": 0, "stdout": None, "stderr": None, "stdout_bytes": 0, "stderr_bytes": 0, "duration_ms": 7,
            "timed_out": False, "ended_by": None, "limit": None, "background_left": False, "truncated": False,
            "cleanup": {"deleted": True, "reason": "post_exec_cleanup", "vm_id": VM}}, **more)


VM, EXEC = "vm-0123456789ab", "ex-0123456789ab"


class Failure(Exception):
    def __init__(self, code, message, cause=None, fix=None):
        self.error = {"code": -32000, "message": message,
                      "data": {"code": code, "cause": cause, "fix": fix, "retryable": False}}


class Connection:
    def __init__(self, daemon, sock):
        self.daemon, self.sock = daemon, sock
        self.lock = threading.Lock()
        self.runs = {}

    def send(self, message):
        self.raw(json.dumps(message).encode() + b"\n")

    def raw(self, data):
        with self.lock:
            try:
                self.sock.sendall(data)
            except OSError:
                pass

    def serve(self):
        buffer, fds = b"", []
        while True:
            try:
                data, more, _, _ = socket.recv_fds(self.sock, 65536, 16)
            except OSError:
                break
            if not data:
                break
            fds += more
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                request = json.loads(line)
                n = request.get("fds", 0)
                mine, fds = fds[:n], fds[n:]
                if not self.answer(request, mine):
                    self.sock.close()
                    return
        for run in list(self.runs.values()):
            run.gone = True
            run.cancel()

    def answer(self, request, fds):
        method, params = request["method"], request.get("params", {})
        with self.daemon.called:
            self.daemon.calls.append((method, params))
            self.daemon.called.notify_all()
        raw = self.daemon.raw_answers.get(method)
        if raw is not None:
            if raw == "hang":
                return True
            if raw == "close":
                return False
            self.raw(raw.replace(b"ID", str(request["id"]).encode()))
            return True
        if method in ("vm.run", "vm.exec"):
            run = self.runs[request["id"]] = Run(self, request["id"], params, fds)
            threading.Thread(target=self._run, args=(request["id"], run), daemon=True).start()
            return True
        try:
            result = self.daemon.handle(self, method, params)
        except Failure as f:
            self.send({"jsonrpc": "2.0", "id": request["id"], "error": f.error})
            return True
        self.send({"jsonrpc": "2.0", "id": request["id"], "result": result})
        return True

    def _run(self, id, run):
        try:
            result = self.daemon.guest(run)
            if run.stdio:
                run.stdio.end()
            answer = {"result": result}
        except Gone:
            answer = {"error": Failure("cancelled", "the run was cancelled").error}
            if run.cancelled.is_set() and self.daemon.ignore_cancel:
                return
        except Failure as f:
            answer = {"error": f.error}
        except AssertionError as e:
            self.daemon.broken.append(e)
            answer = {"error": Failure("internal", "the client broke a rule").error}
        if run.stdio:
            run.stdio.sock.close()
        self.daemon.ended.append((run, answer))
        self.send(dict({"jsonrpc": "2.0", "id": id}, **answer))


class FakeDaemon:
    """Listens at path from construction to close(). raw_answers maps a method to bytes ("ID" becomes the call's id),
    "hang" or "close"; results maps a method to its result, Failure, or function of the parameters; guest is called with a Run for each vm.run and returns its result."""

    def __init__(self, path, guest=None, backlog=16, accept=True, results=None):
        self.path, self.guest = path, guest
        self.raw_answers, self.results = {}, dict(results or {})
        self.calls, self.ended, self.broken = [], [], []
        self.called = threading.Condition()
        self.ignore_cancel = False
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(backlog)
        self.acceptor = threading.Thread(target=self._accept, daemon=True) if accept else None
        if accept:
            self.acceptor.start()

    def wait_called(self, method, seconds=20):
        with self.called:
            assert self.called.wait_for(lambda: any(m == method for m, _ in self.calls), seconds), "%s was never called" % method

    def _accept(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=Connection(self, conn).serve, daemon=True).start()

    def handle(self, conn, method, params):
        if method == "system.ping":
            return {"version": "9.9", "api_version": 1, "mode": "user", "socket": self.path, "uid": os.getuid(),
                    "pid": os.getpid(), "uptime_seconds": 1}
        if method == "cancel":
            run = conn.runs.get(params["id"])
            if run:
                run.cancel()
            return {"cancelled": bool(run)}
        if method == "exec.signal":
            for run in conn.runs.values():
                run.signal(params["signal_name"])
            return {"exec_id": params["exec_id"], "signal": params["signal_name"]}
        if method in self.results:
            value = self.results[method]
            if isinstance(value, Failure):
                raise value
            return value(params) if callable(value) else value
        raise Failure("unsupported", "no such method: " + method)

    def close(self):
        """Ends the thread first: its next accept() would use whatever file has the descriptor's number by then."""
        if self.acceptor and self.sock.fileno() >= 0:
            self.sock.shutdown(socket.SHUT_RDWR)
            self.acceptor.join(20)
        self.sock.close()
