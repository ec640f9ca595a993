# SPDX-License-Identifier: MIT
"""A user of pyro who wants to harm the others: the others' calls work as before, and pyrod ends when it is asked to. Each test
fails on a daemon without the protection that it tests."""
import array
import collections
import contextlib
import fcntl
import json
import multiprocessing
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
import traceback

import pytest

from conftest import BUILD, BUILD_ASAN, N, Raw, keep, wait_for
from fakevm import ENV
from fuse_server import stuck_file, taken
from test_crash_points import fake_mmdebstrap

ATTACKER = 61001
CONNECTIONS = 32  # LIMIT_CONNECTIONS_UID
LINGER_SECONDS = 1000
SECONDS = 5 * N


class Attacker:
    """A caller's ways to pass descriptors that nobody can close: TCP sockets that linger, whose last copy is the one that was
    passed, and a file of which every copy blocks in close()."""

    def __init__(self, daemon, source, seed):
        self.path, self.spec, self.source, self.random = daemon.socket, daemon.spec(command="sleep 0"), source, random.Random(seed)
        self.others, self.sent = [], multiprocessing.Value("Q", 0, lock=False)
        self.ways = [self.refused, self.taken, self.unread, self.hang_up, self.over_stdio, self.out_of_band, self.hidden]

    @staticmethod
    def linger(fd, on):
        fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, LINGER_SECONDS))

    def lingering(self):
        """Its other end stays open and unread."""
        server = socket.create_server(("127.0.0.1", 0))
        fd = socket.create_connection(server.getsockname())
        self.others = self.others[-200:] + [server.accept()[0]]
        server.close()
        fd.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                fd.send(b"\0" * 65536)
        return fd

    def send(self, sock, data, flags=0, stuck=True):
        """One message with a bad descriptor."""
        if stuck and self.random.random() < 0.2:
            sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.stuck]))], flags)
            return
        fd = self.lingering()
        self.linger(fd, 1)
        try:
            sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd.fileno()]))], flags)
        except OSError:
            self.linger(fd, 0)
            raise
        finally:
            fd.close()

    @staticmethod
    def line(method, params, fds):
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params, "fds": fds}).encode() + b"\n"

    def refused(self, sock):
        self.send(sock, self.line("vm.list", {}, 1))

    def taken(self, sock):
        self.send(sock, self.line("vm.run", dict(self.spec, stdio=0), 1))

    def unread(self, sock):
        """Queued behind an answer that is not read, and behind a line that ends the connection."""
        sock.send(b"no json\n" * 10)
        self.send(sock, b"{")
        self.send(sock, b"{")

    def hang_up(self, sock):
        self.send(sock, b"{")

    def over_stdio(self, sock):
        here, there = socket.socketpair()
        with here, there:
            sock.sendmsg([self.line("vm.run", dict(self.spec, stdio=0), 1)],
                         [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [there.fileno()]))])
            self.send(here, b"x" * 12)
            self.send(here, b"x" * 12)

    def out_of_band(self, sock):
        self.send(sock, b"!", socket.MSG_OOB)
        sock.send(b"{")

    def hidden(self, sock):
        """Sent out of band over a passed end of which the caller has a copy: its content is not visible from outside."""
        here, there = socket.socketpair()
        with here, there:
            self.send(here, b"!", socket.MSG_OOB, stuck=False)
            there.recv(1, socket.MSG_OOB | socket.MSG_DONTWAIT)
            sock.sendmsg([self.line("vm.run", dict(self.spec, stdio=0), 1)],
                         [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [there.fileno()]))])

    def run(self):
        """Runs until it is killed: all connections of its uid, each used in turn and often closed and made again."""
        self.stuck, socks = taken(self.source), []
        # Its own close() may be the last one of a socket that lingers: a signal ends that.
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        while True:
            with contextlib.suppress(OSError):
                if len(socks) < CONNECTIONS:
                    s = socket.socket(socket.AF_UNIX)
                    s.connect(self.path)
                    socks.append(s)
                s = self.random.choice(socks)
                s.setblocking(False)
                try:
                    self.random.choice(self.ways)(s)
                    self.sent.value += 1
                except OSError:
                    socks.remove(s)
                    s.close()
                    continue
                if self.random.random() < 0.3:
                    socks.remove(s)
                    s.close()


@contextlib.contextmanager
def at_work(what, before_wait):
    """In a process of the attacker's uid."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            here.close()
            os.setgroups([])
            os.setresgid(ATTACKER, ATTACKER, ATTACKER)
            os.setresuid(ATTACKER, ATTACKER, ATTACKER)
            what()
        except BaseException:  # with a file that blocks in close(), its end cannot be seen
            traceback.print_exc()
        finally:
            os._exit(1)
    there.close()
    try:
        yield pid
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the attacker ended"
    finally:
        os.kill(pid, signal.SIGKILL)
        before_wait()
        os.waitpid(pid, 0)
        here.close()


def pings(path, seconds):
    """How long others' calls take, in ms."""
    took, end = [], time.monotonic() + seconds
    with Raw(path, 60) as raw:
        while time.monotonic() < end:
            begin = time.monotonic()
            assert raw.call("system.ping")["result"]["pid"]
            took.append(1000 * (time.monotonic() - begin))
            select.select([], [], [], 0.002)
    return sorted(took)


@pytest.mark.parametrize("build", [BUILD, BUILD_ASAN], ids=["release", "asan"])
def test_descriptors_that_cannot_be_closed(root_only, make_fake, tmp_path, build):
    daemon = make_fake(build=build).start()
    os.chmod(daemon.socket, 0o666)
    tmp_path.chmod(0o755)
    quiet = pings(daemon.socket, 1)
    with stuck_file(str(tmp_path / "fuse")) as (source, end_server):
        attacker = Attacker(daemon, source, 7)
        with at_work(attacker.run, end_server):
            busy = pings(daemon.socket, SECONDS)
            begin = time.monotonic()
            daemon.stop()
            stop_seconds = time.monotonic() - begin
            daemon.start()
            os.chmod(daemon.socket, 0o666)
            again = pings(daemon.socket, 1)
    p99 = [round(times[len(times) * 99 // 100], 3) for times in (quiet, busy, again)]
    keep(**{"attack_descriptors_%s" % ("asan" if build == BUILD_ASAN else "release"):
            dict(p99_ms_quiet=p99[0], p99_ms_busy=p99[1], worst_ms=round(busy[-1], 1), calls=len(busy), stop_seconds=round(stop_seconds, 2))})
    # Without the protection, one of these descriptors blocked the loop for LINGER_SECONDS.
    assert busy[-1] < 1000 and again[-1] < 1000 and attacker.sent.value > 10
    assert stop_seconds < 2 or build == BUILD_ASAN
    daemon.wait_clean(30)


def test_a_caller_that_stops_reading(fake):
    """shutdown(SHUT_RD) of the stdio socket: the output is discarded, the command runs to its end, and the answer arrives.
    shutdown of the connection: it is closed, and what it requested has been done."""
    with Raw(fake.socket, 60) as raw:
        here, there = socket.socketpair()
        with here, there:
            raw.id = 1
            raw.sock.sendmsg([Attacker.line("vm.run", fake.spec(command="print 3000000; exit 4", stdio=0), 1)],
                             [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [there.fileno()]))])
            there.close()
            here.shutdown(socket.SHUT_RD)
            reply = raw.line()
            while "id" not in reply:
                reply = raw.line()
            assert reply["result"]["exit_code"] == 4 and reply["result"]["stdout_bytes"] == 3000000, reply
    with Raw(fake.socket, 60) as raw:
        raw.sock.shutdown(socket.SHUT_RD)
        raw.send(Attacker.line("vm.create", fake.spec(), 0))
        with pytest.raises(EOFError):
            raw.line()
        end = time.monotonic() + 20
        while not fake.vms():
            assert time.monotonic() < end
            time.sleep(0.05)
        poll = select.poll()
        poll.register(raw.sock, select.POLLHUP)
        assert poll.poll(20000), "the connection stays"
    assert fake.call("vm.delete", {"vm_id": fake.vms()[0]["vm_id"]})["result"]["deleted"]
    fake.wait_clean()


def test_descriptors_that_are_unread_at_the_end(root_only, make_fake):
    """pyrod has stopped reading, since its answers are not read, and is asked to end: another process closes what is queued then
    too. There was no suspicious descriptor before, so that process does not exist yet."""
    daemon = make_fake().start()
    os.chmod(daemon.socket, 0o666)
    ready, tell = os.pipe()

    def attack():
        a, socks = Attacker(daemon, None, 11), []
        for _ in range(4):
            s = socket.socket(socket.AF_UNIX)
            s.connect(daemon.socket)
            s.setblocking(False)
            socks.append(s)
            while struct.unpack("i", fcntl.ioctl(s, termios.TIOCOUTQ, b"\0" * 4))[0] < 20000:  # what pyrod has not read
                with contextlib.suppress(BlockingIOError):
                    s.send(a.line("rpc.discover", {}, 0) * 20)
                select.select([], [], [], 0.01)
            a.send(s, b"{", stuck=False)
        os.write(tell, b"x")
        signal.pause()

    with at_work(attack, lambda: None):
        assert select.select([ready], [], [], 60)[0]
        begin = time.monotonic()
        daemon.stop()
        assert time.monotonic() - begin < 2
    os.close(ready)
    os.close(tell)
    assert "no process closes" not in daemon.log_text()


THREADS = 12
COMMANDS = ["print 100000; exit 1", "cat", "sleep 50; exit 0", "panic", "reboot", "exit 137"]
METHODS = ["system.ping", "vm.list", "vm.run", "vm.run", "vm.run", "vm.create", "vm.exec", "vm.start", "vm.stop", "vm.delete", "vm.status", "exec.attach",
           "workspace.create", "workspace.start", "workspace.stop", "workspace.wait", "workspace.update", "workspace.delete", "workspace.list",
           "exec.signal", "cancel", "env.list", "rpc.discover", "no.such"]
NAMES = ["a", "b", "c", "ws-0"]


class Fuzzer:
    """One thread of random operations with descriptors of seven kinds."""

    def __init__(self, daemon, attacks, stuck, seed, sent):
        self.daemon, self.attacks, self.stuck, self.seed, self.random, self.vms = daemon, attacks, stuck, seed, random.Random(seed), []
        self.workspaces = []
        self.linger, self.sent = Attacker(daemon, None, seed), sent

    def descriptor(self):
        """One of the seven kinds; we must close it, except the one that blocks in every close()."""
        kind = self.random.randrange(7)
        if kind == 0:
            here, there = socket.socketpair()
            here.send(self.random.randbytes(self.random.randrange(1, 40)))
            if self.random.random() < 0.3:
                here.shutdown(self.random.choice((socket.SHUT_RD, socket.SHUT_WR)))
            if self.random.random() < 0.3:  # with a descriptor in its own queue
                with contextlib.suppress(OSError):
                    socket.send_fds(here, [b"x"], [here.fileno()], socket.MSG_OOB if self.random.random() < 0.3 else 0)
            here.close()
            return there.detach()
        if kind == 1:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            here.close()
            return there.detach()
        if kind == 2:
            ends = os.pipe()
            keep = self.random.randrange(2)
            os.close(ends[1 - keep])
            return ends[keep]
        if kind == 3:
            return os.memfd_create("x") if self.random.random() < 0.5 else os.open("/etc/passwd", os.O_RDONLY)
        if kind == 4:
            return os.eventfd(1)
        if kind == 5:
            fd = self.linger.lingering()
            Attacker.linger(fd, 1)
            return fd.detach()
        return self.stuck

    def params(self, method, n_fds):
        r = self.random
        command = "attack %s 20 %d" % (r.choice(self.attacks), r.randrange(1 << 30)) if r.random() < 0.3 else r.choice(COMMANDS)
        p = {}
        if method in ("vm.run", "vm.create"):
            p = self.daemon.spec(timeout_seconds=5) if method == "vm.run" else self.daemon.spec(ttl_seconds=60)
        elif method == "workspace.create":
            p = self.daemon.spec(name=r.choice(NAMES), wait_ms=r.choice([None, 0, 5]), labels={"n": str(r.randrange(9))})
        elif method.startswith("workspace.") and method != "workspace.list":
            p = {"workspace_id": r.choice(NAMES + self.workspaces)}
            if method == "workspace.wait":
                p["states"] = [r.choice(("started", "stopped", "failed"))]
            elif method == "workspace.update":
                p["name"], p["clear_labels"] = r.choice([None, *NAMES]), ["n"]
        elif method.startswith("vm.") and method != "vm.list":
            p = {"vm_id": r.choice(self.vms) if self.vms else "vm-0123456789ab"}
        elif method.startswith("exec."):
            p = {"exec_id": "x-%016x" % r.getrandbits(64), "signal": "TERM"}
        elif method == "cancel":
            p = {"id": r.randrange(4)}
        if method in ("vm.run", "vm.exec"):
            p["command"] = command
            if n_fds or r.random() < 0.2:
                p["stdio"] = r.randrange(-1, 4)
        return p

    def send(self, sock):
        r = self.random
        n = r.choice((0, 0, 1, 1, 1, 2, 4, 5))
        method = r.choice(METHODS)
        line = {"jsonrpc": "2.0", "id": r.randrange(4), "method": method, "params": self.params(method, n)}
        if n or r.random() < 0.1:
            line["fds"] = n if r.random() < 0.8 else r.choice((-1, 0, 1, 3, 1 << 40))
        data = json.dumps(line).encode() + (b"\n" if r.random() < 0.95 else b"")
        cut = r.randrange(len(data)) if r.random() < 0.2 else 0
        fds = [self.descriptor() for _ in range(n)]
        lingering = [fd for fd in fds if os.fstat(fd).st_mode & 0o170000 == 0o140000]
        try:
            if cut:
                sock.send(data[:cut])
            socket.send_fds(sock, [data[cut:]], fds, socket.MSG_OOB if r.random() < 0.03 else 0)
        except OSError:
            for fd in lingering:  # not passed on: our close is the last
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as s:
                    if s.family == socket.AF_INET:
                        Attacker.linger(s, 0)
            raise
        finally:
            for fd in set(fds) - {self.stuck}:
                os.close(fd)
            self.sent[self.seed] += 1

    def read(self, sock):
        sock.settimeout(self.random.choice((0.01, 0.1, 1)))
        with contextlib.suppress(TimeoutError):
            got = sock.recv(1 << 20)
            self.vms = (self.vms + re.findall(r"vm-[0-9a-f]{12}", got.decode(errors="replace")))[-20:]
            self.workspaces = (self.workspaces + re.findall(r"ws-[0-9a-f]{12}", got.decode(errors="replace")))[-9:]
            if not got:
                raise ConnectionError
        sock.settimeout(1)

    def run(self):
        r = self.random
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(1)
                sock.connect(self.daemon.socket)
                for _ in range(r.randrange(1, 12)):
                    self.send(sock)
                    if r.random() < 0.6:
                        self.read(sock)
                    if r.random() < 0.05:
                        sock.shutdown(r.choice((socket.SHUT_RD, socket.SHUT_WR)))


def open_files(pid):
    """How many of each kind; the connection of the last call may still be among them."""
    found = collections.Counter()
    for fd in os.listdir("/proc/%d/fd" % pid):
        with contextlib.suppress(FileNotFoundError):
            found[re.sub(r"\d+", "#", os.readlink("/proc/%d/fd/%s" % (pid, fd)))] += 1
    return found


@pytest.mark.parametrize("build", [pytest.param(BUILD, marks=pytest.mark.soak), BUILD_ASAN], ids=["release", "asan"])
def test_random_operations_with_descriptors(root_only, make_fake, tmp_path, build):
    """tests/soak attack: five minutes of it. Meanwhile hostile guests answer."""
    daemon = make_fake(build=build).start()
    os.chmod(daemon.socket, 0o666)
    tmp_path.chmod(0o755)
    daemon.call("system.doctor", {"probe": False}, timeout=60)
    daemon.wait_clean()
    before = open_files(daemon.pid())
    attacks = subprocess.check_output([daemon.vmm, "--attacks"], text=True).split()
    assert len(attacks) > 30

    with stuck_file(str(tmp_path / "fuse")) as (source, end_server):
        sent = multiprocessing.Array("Q", THREADS, lock=False)

        def attack():
            stuck = taken(source)
            threads = [threading.Thread(target=Fuzzer(daemon, attacks, stuck, seed, sent).run) for seed in range(THREADS)]
            signal.signal(signal.SIGUSR1, lambda *_: None)
            for thread in threads:
                thread.start()
            while all(thread.is_alive() for thread in threads):
                time.sleep(0.01)
                for thread in threads:  # its own close() may be the last one of a socket that lingers
                    signal.pthread_kill(thread.ident, signal.SIGUSR1)

        with at_work(attack, end_server):
            busy = pings(daemon.socket, SECONDS)
    keep(**{"attack_random_%s" % ("asan" if build == BUILD_ASAN else "release"):
            dict(p99_ms=round(busy[len(busy) * 99 // 100], 2), worst_ms=round(busy[-1], 1), calls=len(busy), operations=sum(sent))})
    assert busy[-1] < 2000 and min(sent) > 0, list(sent)
    end = time.monotonic() + 90
    while True:
        vms, left, leaked = daemon.vms(), daemon.residue(), open_files(daemon.pid()) - before
        if not vms and not left and not leaked:
            break
        for vm in vms:
            daemon.call("vm.delete", {"vm_id": vm["vm_id"]}, timeout=60)
        for ws in daemon.workspaces():
            daemon.call("workspace.delete", {"workspace_id": ws["workspace_id"]}, timeout=60)
        assert time.monotonic() < end, (left, leaked, daemon.log_text()[-2000:])
        time.sleep(0.2)
    assert daemon.stop() == 0


def flood(path, method, params):
    """All connections of a uid, each with many calls in progress, until it is killed."""
    socks, sent, data = [], collections.Counter(), json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"
    data, poll = data * max(1, 2000 // len(data)), select.poll()
    for _ in range(CONNECTIONS):
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        s.setblocking(False)
        poll.register(s, select.POLLIN | select.POLLOUT)
        socks.append(s)
    by_fd = {s.fileno(): s for s in socks}
    while True:
        for fd, events in poll.poll():
            with contextlib.suppress(BlockingIOError):
                by_fd[fd].recv(1 << 20) if events & select.POLLIN else sent.update({fd: by_fd[fd].send(data[sent[fd] % len(data):])})


def test_a_slow_method_delays_others_no_more_than_a_fast_one(root_only, make_fake):
    """The daemon's work for one connection at a time is bounded, and the largest answer is made once: 1.6 ms for each line, on
    32 connections, was 212 ms of every other caller's time. After a line that takes longer than a turn, as one of 1 MiB
    does, the other connections of its user wait too."""
    daemon = make_fake().start()
    os.chmod(daemon.socket, 0o666)
    p99, large = {}, {"a": [{"%090d" % 0: 1}] * 4500}
    for name, method, params in (("ping", "system.ping", {}), ("discover", "rpc.discover", {}), ("large", "vm.run", large)):
        with at_work(lambda: flood(daemon.socket, method, params), lambda: None):
            times = pings(daemon.socket, SECONDS)
        p99[name] = times[len(times) * 99 // 100]
    keep(flood_p99_ms={name: round(ms, 2) for name, ms in p99.items()})
    assert max(p99["discover"], p99["large"]) < 8 * p99["ping"] + 10, p99


SUBUIDS = 700000  # of ATTACKER, 65,536 of them


@contextlib.contextmanager
def connected_as(uid, path):
    """A connection made by a process of that uid."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            socket.send_fds(there, [b"!"], [s.fileno()])
        finally:
            os._exit(0)
    there.close()
    _, fds, _, _ = socket.recv_fds(here, 1, 1)
    os.waitpid(pid, 0)
    here.close()
    raw = Raw.__new__(Raw)
    raw.sock, raw.buffer, raw.id = socket.socket(fileno=fds[0]), b"", 0
    raw.sock.settimeout(30)
    with raw:
        yield raw


def test_subordinate_uids_are_one_account(root_only, make_fake, tmp_path):
    """Without the protection, one user had 65,536 times each limit, and all connections."""
    daemon = make_fake(conf=["max_machines = 3"])
    subuid = tmp_path / "subuid"
    subuid.write_text("%d:%d:65536\n" % (ATTACKER, SUBUIDS))
    daemon.prefix = ["unshare", "--mount", "--", "sh", "-c", 'mount --bind "$0" /etc/subuid && exec "$@"', str(subuid)]
    daemon.start()
    os.chmod(daemon.socket, 0o666)
    made = []
    for uid in (SUBUIDS, ATTACKER, SUBUIDS + 1, SUBUIDS + 65535):
        with connected_as(uid, daemon.socket) as raw:
            reply = raw.call("vm.create", daemon.spec())
            made.append(reply["result"]["vm_id"] if "result" in reply else reply["error"]["data"]["code"])
    # What counts against the caller and is not shown to them is named, with a fix that others can carry out too.
    refused = reply["error"]["data"]
    assert refused["cause"] == ("with this machine you would use 4 of 3 (max_machines in pyrod.conf); "
                                "your uid is a subordinate uid, so its owner's machines count too"), refused
    assert refused["fix"] == ("sudo pyro vm delete VM_ID, for a machine of these uids that sudo pyro vm list --all-users shows, "
                              "or set max_machines in pyrod.conf to at least 4 and reload pyrod"), refused
    with connected_as(ATTACKER, daemon.socket) as raw:
        refused = raw.call("vm.create", daemon.spec())["error"]["data"]
    assert refused["cause"].endswith("; machines of your subordinate uids count too"), refused
    assert refused["fix"] == "pyro vm delete VM_ID, for a machine that pyro vm list shows", refused
    assert made[3] == "quota_exceeded" and all(vm.startswith("vm-") for vm in made[:3]), made
    with connected_as(SUBUIDS, daemon.socket) as raw:  # for authority each is a uid of its own
        assert [vm["vm_id"] for vm in raw.call("vm.list")["result"]["vms"]] == [made[0]]
        assert raw.call("vm.status", {"vm_id": made[1]})["error"]["data"]["code"] == "vm_not_found"
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected_as(SUBUIDS + i, daemon.socket)) for i in range(CONNECTIONS + 1)]
        assert all(raw.call("system.ping")["result"] for raw in held[:-1])
        assert held[-1].line()["error"]["data"]["code"] == "quota_exceeded"
        begin = time.monotonic()
        for i in range(200):  # each has a uid of its own, and all share one limit of log lines
            with connected_as(SUBUIDS + 100 + i, daemon.socket) as raw:
                assert raw.line()["error"]["data"]["code"] == "quota_exceeded"
        windows = 2 + (time.monotonic() - begin) // 10
    log = daemon.log_text()
    assert 50 <= log.count(" refused: uid %d has" % ATTACKER) <= 50 * windows  # 50 in ten seconds
    assert "client uid=%d " % (SUBUIDS + 100) in log
    for vm in made[:3]:
        daemon.call("vm.delete", {"vm_id": vm})


# Uids as tests/fake/subid.c knows them: the first of each kind.
UNNAMED, GATED, HANGING, CRASHING, HUGE, OF_MEMBER, BOASTED, NOT_FOUND, PROBING = (
    800000, 890000, 900000, 910000, 920000, 930000, 1200000, 1300000, 1400000)
SERVICE = """mount --bind "$0/lib" /usr/local/lib && ldconfig -C "$0/ld.so.cache" && chmod 644 "$0/ld.so.cache" || exit
for f in passwd group nsswitch.conf ld.so.cache; do mount --bind "$0/$f" "/etc/$f" || exit; done
exec "$@"
"""


def with_subid_service(daemon, place, source="pyrotest"):
    """Has the daemon see a host whose name service assigns subordinate uids: ATTACKER's from SUBUIDS on, and those above."""
    (place / "lib").mkdir()
    (place / "lib/libsubid_pyrotest.so").write_bytes(open(BUILD + "/tests/fake/libsubid_pyrotest.so", "rb").read())
    users = {"attacker": ATTACKER, "member": ATTACKER + 2, "boaster": ATTACKER + 3}
    added = {"passwd": "".join("%s:x:%d:%d::/:/bin/false\n" % (name, uid, uid) for name, uid in users.items()),
             "group": "pyro:x:61000:nobody-here,member\n", "nsswitch.conf": "subid: %s\n" % source}
    for name, lines in added.items():
        with open("/etc/" + name) as f:
            kept = [line for line in f if not line.startswith(("pyro:", "subid:"))]
        (place / name).write_text("".join(kept) + lines)
        (place / name).chmod(0o644)
    (place / "lib").chmod(0o755)
    daemon.prefix = ["unshare", "--mount", "--", "sh", "-c", SERVICE, str(place)]
    daemon.start()
    os.chmod(daemon.socket, 0o666)
    return daemon


def code(reply):
    return reply["error"]["data"]["code"] if "error" in reply else "ok"


def greeting(raw):
    """What pyrod says to a new connection: "ok", or why it is refused."""
    with contextlib.suppress(BrokenPipeError):
        raw.send(b'{"jsonrpc":"2.0","id":1,"method":"system.ping","params":{}}\n')
    reply = raw.line()
    return reply["error"]["message"] if "error" in reply else "ok"


def ask_about(daemon, uid):
    with connected_as(uid, daemon.socket) as raw:
        assert greeting(raw) == "ok"


def accepted_as(daemon, uid):
    """True if a connection of that uid is accepted now."""
    with connected_as(uid, daemon.socket) as raw:
        return greeting(raw) == "ok"


def owned_by(uid, owner):
    return "uid %d counts as uid %d, which owns it by subid source" % (uid, owner)


def test_subordinate_uids_of_a_name_service(root_only, make_fake, tmp_path):
    """Which are in no file of the host: one user had 65,536 times each limit with them."""
    daemon = with_subid_service(make_fake(conf=["max_machines = 3"]), tmp_path)
    made = []
    ask_about(daemon, SUBUIDS + 7)
    wait_for(lambda: owned_by(SUBUIDS + 7, ATTACKER) in daemon.log_text())
    for uid in (SUBUIDS, ATTACKER, SUBUIDS + 1, SUBUIDS + 65535):
        with connected_as(uid, daemon.socket) as raw:
            reply = raw.call("vm.create", daemon.spec())
            made.append(reply["result"]["vm_id"] if "result" in reply else code(reply))
    assert made[3] == "quota_exceeded" and all(vm.startswith("vm-") for vm in made[:3]), made
    assert reply["error"]["data"]["cause"].endswith("; your uid is a subordinate uid, so its owner's machines count too"), reply
    with connected_as(SUBUIDS, daemon.socket) as raw:  # for authority each is a uid of its own
        assert [vm["vm_id"] for vm in raw.call("vm.list")["result"]["vms"]] == [made[0]]
        assert code(raw.call("vm.status", {"vm_id": made[1]})) == "vm_not_found"
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected_as(SUBUIDS + 100 + i, daemon.socket)) for i in range(CONNECTIONS + 1)]
        assert {greeting(raw) for raw in held[:-1]} == {"ok"}
        assert greeting(held[-1]) == "uid %d has 32 connections, which is the limit" % ATTACKER
    assert daemon.log_text().count(" counts as uid %d" % ATTACKER) == 1  # one question for the whole range
    for uid, owner in ((UNNAMED, ATTACKER + 1), (UNNAMED + 1, ATTACKER + 1), (OF_MEMBER + 9, ATTACKER + 2), (BOASTED, ATTACKER + 3)):
        ask_about(daemon, uid)
        wait_for(lambda: owned_by(uid, owner) in daemon.log_text())
    for vm in made[:3]:
        daemon.call("vm.delete", {"vm_id": vm})


def test_connections_move_to_the_account_of_the_answer(root_only, make_fake, tmp_path):
    """Uids without an answer have one user's limits together, and their own or their owner's with it. The first question is held
    up at a gate, so that the others wait."""
    gate = "/run/pyro-test-subid"
    os.mkfifo(gate)
    os.chmod(gate, 0o666)
    try:
        daemon = with_subid_service(make_fake(build=BUILD_ASAN, deadlines={"owner": 600}, conf=["max_machines = 1"]), tmp_path)
        ask_about(daemon, GATED)
        with contextlib.ExitStack() as stack:
            with connected_as(5000, daemon.socket) as raw:
                vm = raw.call("vm.create", daemon.spec())["result"]["vm_id"]
            with connected_as(5001, daemon.socket) as raw:
                refused = raw.call("vm.create", daemon.spec())
                assert code(refused) == "quota_exceeded", refused
                assert refused["error"]["data"]["cause"].endswith("; machines of other uids whose owner is unknown count too"), refused
            held = [stack.enter_context(connected_as(SUBUIDS + i % 10, daemon.socket)) for i in range(CONNECTIONS)]
            assert {greeting(raw) for raw in held} == {"ok"}
            with connected_as(5001, daemon.socket) as raw:
                assert greeting(raw) == "uids of unknown owner have 32 connections, which is the limit"
            assert accepted_as(daemon, ATTACKER)  # in /etc/passwd
            with open(gate, "w"):
                wait_for(lambda: owned_by(SUBUIDS, ATTACKER) in daemon.log_text())
            wait_for(lambda: accepted_as(daemon, 5001))
            with connected_as(ATTACKER, daemon.socket) as raw:
                assert greeting(raw) == "uid %d has 32 connections, which is the limit" % ATTACKER
            with connected_as(5001, daemon.socket) as raw:  # users of a name service have limits of their own
                assert daemon.call("vm.delete", {"vm_id": raw.call("vm.create", daemon.spec())["result"]["vm_id"]})["result"]
            with connected_as(5000, daemon.socket) as raw:
                assert code(raw.call("vm.create", daemon.spec())) == "quota_exceeded"
        daemon.call("vm.delete", {"vm_id": vm})
    finally:
        os.unlink(gate)


def children_called(daemon, name):
    return [pid for pid, text in daemon.processes() if name in text]


def test_a_name_service_that_hangs(root_only, make_fake, tmp_path):
    daemon = with_subid_service(make_fake(build=BUILD_ASAN, deadlines={"owner": 600}), tmp_path)
    before = pings(daemon.socket, 1)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected_as(HANGING + i, daemon.socket)) for i in range(CONNECTIONS)]
        assert {greeting(raw) for raw in held} == {"ok"}
        during = pings(daemon.socket, 1)
        assert during[len(during) * 99 // 100] < 8 * before[len(before) * 99 // 100] + 10, (before[-9:], during[-9:])
        assert len(children_called(daemon, "pyro-subid")) == 1
        for uid in (HANGING, 5000, SUBUIDS):
            with connected_as(uid, daemon.socket) as raw:
                assert greeting(raw) == "uids of unknown owner have 32 connections, which is the limit"
        child = os.pidfd_open(children_called(daemon, "pyro-subid")[0])
        assert daemon.stop(wait=20) == 0
        assert select.select([child], [], [], 20)[0]  # it ends too
        os.close(child)


def test_a_name_service_that_answers_late(root_only, make_fake, tmp_path):
    daemon = with_subid_service(make_fake(build=BUILD_ASAN, deadlines={"owner": 2}), tmp_path)
    ask_about(daemon, HANGING)
    ask_about(daemon, SUBUIDS)
    wait_for(lambda: owned_by(SUBUIDS, ATTACKER) in daemon.log_text())
    assert ("cannot find the owner of uid %d by the subid source \"pyrotest\" of nsswitch.conf: it did not answer in time; uids of "
            "unknown owner have one user's limits together until it answers" % HANGING) in daemon.log_text()


@pytest.mark.parametrize("uid, why", [(CRASHING, "it was ended by signal 11"), (HUGE, "libsubid lists 2147483647 owners")],
                         ids=["crash", "count"])
def test_a_name_service_that_fails(root_only, make_fake, tmp_path, uid, why):
    daemon = with_subid_service(make_fake(conf=["max_machines = 1"]), tmp_path)
    ask_about(daemon, uid)
    wait_for(lambda: "cannot find the owner of uid %d by the subid source \"pyrotest\" of nsswitch.conf: %s; " % (uid, why)
             in daemon.log_text())
    with connected_as(uid, daemon.socket) as raw:
        vm = raw.call("vm.create", daemon.spec())["result"]["vm_id"]
    ask_about(daemon, NOT_FOUND)
    wait_for(lambda: "uid %d counts with all uids of unknown owner" % NOT_FOUND in daemon.log_text())
    with connected_as(NOT_FOUND, daemon.socket) as raw:
        assert code(raw.call("vm.create", daemon.spec())) == "quota_exceeded"
    with connected_as(ATTACKER, daemon.socket) as raw:
        assert daemon.call("vm.delete", {"vm_id": raw.call("vm.create", daemon.spec())["result"]["vm_id"]})["result"]
    daemon.call("vm.delete", {"vm_id": vm})


def test_a_name_service_that_is_not_installed(root_only, make_fake, tmp_path):
    """Fails closed, and is logged once."""
    daemon = with_subid_service(make_fake(conf=["max_machines = 1"]), tmp_path, source="files [NOTFOUND=continue] nothere")
    ask_about(daemon, 5000)
    wait_for(lambda: "cannot load libsubid_nothere.so" in daemon.log_text())
    with connected_as(5000, daemon.socket) as raw:
        vm = raw.call("vm.create", daemon.spec())["result"]["vm_id"]
    with connected_as(5001, daemon.socket) as raw:
        assert code(raw.call("vm.create", daemon.spec())) == "quota_exceeded"
    with connected_as(ATTACKER, daemon.socket) as raw:
        assert daemon.call("vm.delete", {"vm_id": raw.call("vm.create", daemon.spec())["result"]["vm_id"]})["result"]
    assert daemon.log_text().count("cannot load libsubid_nothere.so") == 1
    daemon.call("vm.delete", {"vm_id": vm})


def test_what_the_subid_process_may_do(root_only, make_fake, tmp_path):
    """Its module in pyro-subid tries: the bits of what it could do are in the owner that it names."""
    daemon = with_subid_service(make_fake(), tmp_path)
    ask_about(daemon, PROBING)
    wait_for(lambda: "uid %d counts as uid " % PROBING in daemon.log_text())
    assert owned_by(PROBING, 62000) in daemon.log_text()


def test_connections_are_reserved_for_root(root_only, make_fake):
    daemon = make_fake().start()
    os.chmod(daemon.socket, 0o666)
    with contextlib.ExitStack() as stack:
        refused = 0
        for i in range(256):
            raw = stack.enter_context(connected_as(800000 + i // 30, daemon.socket))
            if i >= 238:
                # One that is refused gets the reason before it asks, and is closed.
                with contextlib.suppress(BrokenPipeError):
                    raw.send(b'{"jsonrpc":"2.0","id":1,"method":"system.ping","params":{}}\n')
                refused += "error" in raw.line()
        assert refused == 16
        assert daemon.call("system.ping")["result"]["uid"] == 0


@contextlib.contextmanager
def forced_by_root(daemon):
    """A pull that root forces: it stays in mmdebstrap until it is asked to end, and then fails."""
    fake_mmdebstrap(daemon)
    gate, began = daemon.root + "/gate", daemon.root + "/began"
    for fifo in (gate, began):
        os.mkfifo(fifo)
        os.chmod(fifo, 0o666)
    with open(daemon.root + "/bin/mmdebstrap", "w") as f:
        f.write("#!/bin/sh\n: >%s\nread line <%s\necho 'E: the mirror is away' >&2\nexit 1\n" % (began, gate))
    daemon.start()
    os.chmod(daemon.socket, 0o666)
    with Raw(daemon.socket, 60) as root:
        def begin():
            root.send(b'{"jsonrpc":"2.0","id":1,"method":"env.pull","params":{"environment":"%s","force":true}}\n' % ENV.encode())
            open(began).close()  # until mmdebstrap has it too

        def end():
            open(gate, "w").close()
            while True:
                line = root.line()
                if line.get("id") == 1:
                    return line
        yield begin, end


def test_a_forced_pull_delays_nobody(root_only, make_fake):
    """Everybody waited for the pull, and failed when it failed."""
    daemon = make_fake()
    with forced_by_root(daemon) as (begin_pull, end_pull), connected_as(ATTACKER, daemon.socket) as raw:
        def run():
            begin = time.monotonic()
            assert raw.call("vm.run", daemon.spec(command="print 100"))["result"]["exit_code"] == 0
            return round(time.monotonic() - begin, 2)

        quiet = run()
        begin_pull()
        busy = run()
        assert raw.call("env.pull", {"environment": ENV})["result"]["installed"]
        vm = raw.call("vm.create", daemon.spec())["result"]["vm_id"]
        assert raw.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
        assert end_pull()["error"]["data"]["code"] == "pull_failed"
        keep(forced_pull_run_seconds=dict(quiet=quiet, during=busy, after_it_failed=run()))
    daemon.wait_clean(30)


@pytest.mark.parametrize("method", ["vm.start", "vm.stop", "vm.delete"])
def test_waiting_calls_are_freed_at_the_end(root_only, make_fake, method):
    """Calls that are in progress when the daemon stops, for machines whose guests never answer; the leak checker reports what is
    not freed."""
    daemon = make_fake(build=BUILD_ASAN).start()
    with Raw(daemon.socket, 60) as raw:
        vm = raw.call("vm.create", daemon.spec("deaf"))["result"]["vm_id"]
        calls = ["vm.start"] if method == "vm.start" else ["vm.start", method]
        for i, name in enumerate(calls):
            raw.send(json.dumps({"jsonrpc": "2.0", "id": "w%d" % i, "method": name, "params": {"vm_id": vm}}).encode() + b"\n")
            assert raw.call("system.ping")["result"]
        assert daemon.stop() == 0
