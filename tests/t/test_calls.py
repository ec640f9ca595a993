# SPDX-License-Identifier: MIT
"""What happens to a call and its command when its caller cancels, disconnects or breaks the protocol at any moment, and when the
pull that it waits for fails; and what the next daemon does with the rows that it finds. The sanitized daemon with the fake VMM."""
import contextlib
import json
import os
import select
import signal
import socket
import sqlite3
import struct
import subprocess

import pytest

from conftest import BUILD_ASAN, Raw
from fakevm import ENV, lines
from streams import Live, cut_stream, wire
from test_crash_points import fake_mmdebstrap
from test_errors import reload

OTHER_ENV = "debian:12-base"  # in the catalog, and not installed
WAITING = 64                  # LIMIT_RUNS_WAITING
LONG = {"command": "sleep 0", "timeout_seconds": 0}


@pytest.fixture
def d(make_fake):
    return make_fake(build=BUILD_ASAN, deadlines={"grace": 0.2}).start()


class Caller(Raw):
    """A connection that can have several calls in progress."""

    def begin(self, method, params=None):
        self.id += 1
        self.send(json.dumps({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params or {}}).encode() + b"\n")
        return self.id

    def until(self, found):
        """Reads lines until one matches."""
        while not found(line := self.line()):
            pass
        return line

    def answer(self, id):
        return self.until(lambda line: line.get("id") == id)

    def phase(self, name):
        """Waits for progress of that phase; returns its parameters."""
        def found(line):
            assert "id" not in line, line
            return line["params"]["phase"] == name
        return self.until(found)["params"]

    def cancel(self, id):
        return self.begin("cancel", {"id": id})

    def answers(self, *ids):
        """The one answer to each call."""
        seen = {}
        while set(ids) - set(seen):
            line = self.line()
            assert line.get("id") not in seen, line
            if "id" in line:
                seen[line["id"]] = line
        return [seen[id] for id in ids]


def code(reply):
    return reply["error"]["data"]["code"]


def create(d, manner="good"):
    return d.call("vm.create", d.spec(manner))["result"]["vm_id"]


def booted(d):
    vm = create(d)
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    return vm


@contextlib.contextmanager
def stored(d):
    """The store of a daemon that is not running."""
    with contextlib.closing(sqlite3.connect(d.state + "/pyro.db")) as db:
        yield db
        db.commit()


# --- cancelled or disconnected at any moment

CALLS = {
    "run": lambda d: ("vm.run", d.spec(**LONG)),
    "create": lambda d: ("vm.create", d.spec()),
    "exec in a new machine": lambda d: ("vm.exec", {"vm_id": create(d), **LONG}),
    "exec in a running machine": lambda d: ("vm.exec", {"vm_id": booted(d), **LONG}),
    "doctor": lambda d: ("system.doctor", {}),
}
PINGS = (0, 1, 2, 3, 5, 8, 40)  # turns of the daemon's loop, at least
PHASES = {"run": ("create", "start", "execute"), "exec in a new machine": ("start", "execute"), "exec in a running machine": ("execute",)}


@pytest.mark.parametrize("what", CALLS)
def test_cancelled_at_any_moment(d, what):
    """One answer, and nothing is left; what was created just before the cancellation exists."""
    for moment in (*PINGS, *PHASES.get(what, ())):
        method, params = CALLS[what](d)
        with Caller(d.socket) as c:
            call = c.begin(method, params)
            if isinstance(moment, str):
                c.phase(moment)
            turns = [c.begin("system.ping") for _ in range(moment)] if isinstance(moment, int) else []
            reply, told, *_ = c.answers(call, c.cancel(call), *turns)
            assert "result" in told
            if "error" in reply:
                assert code(reply) == "cancelled", (moment, reply)
            else:
                assert what in ("create", "doctor"), (moment, reply)
                assert what == "doctor" or d.call("vm.delete", {"vm_id": reply["result"]["vm_id"]})["result"]["deleted"]
    d.wait_clean(30)
    assert d.rows("SELECT id FROM exec") == []


@pytest.mark.parametrize("what", [what for what in CALLS if what != "create"])  # that one continues: test_fake_vmm.py
def test_disconnected_at_any_moment(d, what):
    for moment in (*PINGS[1:], *PHASES.get(what, ())):  # once a ping is answered, the call has started
        method, params = CALLS[what](d)
        with Caller(d.socket) as c:
            c.begin(method, params)
            if isinstance(moment, str):
                c.phase(moment)
            else:
                c.answers(*[c.begin("system.ping") for _ in range(moment)])
    d.wait_clean(30)
    assert d.rows("SELECT id FROM exec") == []


def test_deleted_while_its_command_runs(d):
    """Another call of its owner does it: the command's caller gets the reason."""
    with Caller(d.socket) as c:
        call = c.begin("vm.run", d.spec(**LONG))
        vm = c.phase("execute")["vm_id"]
        assert d.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
        assert code(c.answer(call)) == "cancelled"
    d.wait_clean()


def test_reply_is_about_the_requested_machine(d):
    """A prefix of its id is enough when the call starts; another machine that matches it when the call ends is not affected."""
    vm = booted(d)
    prefix, others = vm[:len("vm-0")], [""]
    pid, = d.vmm_pids()
    os.kill(pid, signal.SIGSTOP)
    with Caller(d.socket) as c:
        call, ping = c.begin("vm.stop", {"vm_id": prefix}), c.begin("system.ping")
        assert c.line()["id"] == ping  # the other waits
        while not others[-1].startswith(prefix):  # ids are random: one in sixteen
            others.append(create(d))
        os.kill(pid, signal.SIGCONT)
        assert c.answer(call)["result"]["vm_id"] == vm
    for id in (vm, *others[1:]):
        d.call("vm.delete", {"vm_id": id})
    d.wait_clean()


# --- waiting for a pull

class Mirror:
    """A pull of OTHER_ENV starts and then pauses until it may continue or must fail."""

    def __init__(self, d):
        fake_mmdebstrap(d)
        self.gate, self.began = d.root + "/gate", d.root + "/began"
        for fifo in (self.gate, self.began):
            os.mkfifo(fifo)
            os.chmod(fifo, 0o666)
        with open(d.root + "/bin/mmdebstrap", "w") as f:
            f.write("#!/bin/sh\n: >%s\nread line <%s\n[ \"$line\" = on ] || { echo 'E: the mirror is away' >&2; exit 1; }\n"
                    "exec tar -C %s/tree -c .\n" % (self.began, self.gate, d.root))

    def stands_still(self):
        open(self.began).close()

    def go(self, how="on"):
        with open(self.gate, "w") as f:
            f.write(how + "\n")


@pytest.fixture
def mirror(make_fake):
    d = make_fake(build=BUILD_ASAN, deadlines={"grace": 0.2})
    m = Mirror(d)
    m.d = d.start()
    return m


def pulled_by(d):
    return {"run": ("vm.run", d.spec(environment=OTHER_ENV, command="echo here")), "create": ("vm.create", d.spec(environment=OTHER_ENV)),
            "pull": ("env.pull", {"environment": OTHER_ENV})}


@pytest.mark.parametrize("how", ["fails", "comes"])
def test_callers_that_wait_for_a_pull(mirror, how):
    """However often callers cancel or disconnect, nothing of them is left; the others get the result of the pull."""
    d, waits = mirror.d, pulled_by(mirror.d)
    with Caller(d.socket, 120) as c:
        calls = {name: c.begin(*call) for name, call in waits.items()}
        mirror.stands_still()
        for method, params in 30 * [waits["pull"]] + 3 * [waits["run"]]:
            with Caller(d.socket) as other:
                other.begin(method, params)
                other.call("system.ping")
        for method, params in waits.values():
            call = c.begin(method, params)
            assert code(c.answers(call, c.cancel(call))[0]) == "cancelled"
        assert d.vms() == []
        mirror.go("on" if how == "comes" else "fail")
        replies = dict(zip(calls, c.answers(*calls.values())))
    if how == "fails":
        assert {code(reply) for reply in replies.values()} == {"pull_failed"}, replies
    else:
        assert replies["run"]["result"]["stdout"] == "here\n" and replies["pull"]["result"]["installed"], replies
        assert d.call("vm.delete", {"vm_id": replies["create"]["result"]["vm_id"]})["result"]["deleted"]
    d.wait_clean(30)


def test_cancelled_while_a_pull_is_paused(mirror):
    d = mirror.d
    with Caller(d.socket) as c:
        for name, (method, params) in pulled_by(d).items():
            call = c.begin(method, params)
            if name == "run":
                mirror.stands_still()
            reply, _ = c.answers(call, c.cancel(call))
            assert code(reply) == "cancelled", (name, reply)
    assert d.vms() == []
    mirror.go("fail")
    d.wait_clean(30)


def test_runs_that_wait_are_limited(mirror):
    """They count against no quota of machines, but have a limit of their own, in which each one that ends frees a place. The
    daemon stops while they wait."""
    d, (method, params) = mirror.d, pulled_by(mirror.d)["run"]
    with Caller(d.socket) as c, Caller(d.socket) as more, Caller(d.socket) as other:
        calls = [c.begin(method, params) for _ in range(WAITING // 2)]
        for _ in range(WAITING - len(calls)):
            more.begin(method, params)
        for caller in (c, more):  # each ping is answered after the calls before it have started
            caller.answer(caller.begin("system.ping"))
        mirror.stands_still()
        assert code(other.call(method, params)) == "quota_exceeded"
        # A limit on the caller says nothing about the host.
        report = other.call("system.doctor")["result"]
        assert (report["capabilities"]["vm_boot"], report["runtime"]["verdict"]) == ("unknown", "fail"), report
        assert code(c.answers(calls[0], c.cancel(calls[0]))[0]) == "cancelled"
        other.begin(method, params)
        creation = other.begin(*pulled_by(d)["create"])
        other.call("system.ping")
        assert d.stop() == 0
    assert creation


# --- the stream of a live command

def live(d, command, **more):
    return Live(d, d.spec(command=command, timeout_seconds=0, **more))


def test_signals_by_name(d):
    for name in ("INT", "TERM", "HUP", "KILL", "QUIT", "USR1", "USR2"):
        run = live(d, "sleep 0")
        run.signal(name)
        assert run.result()["exit_code"] == 128 + getattr(signal, "SIG" + name), name
        run.leave()


def test_signalled_while_the_stream_is_broken(d):
    """The signal is sent once the guest answers again, and SIGKILL is not replaced by a weaker one."""
    run = live(d, "sleep 0")
    vm, = os.listdir(d.runtime + "/vm")
    pid, = d.vmm_pids()
    os.kill(pid, signal.SIGSTOP)
    assert cut_stream(d, vm) == 1
    run.signal("KILL")
    run.signal("INT")
    os.kill(pid, signal.SIGCONT)
    result = run.result()
    assert (result["exit_code"], result["ended_by"]) == (137, "signal"), result
    run.leave()
    d.wait_clean()


def test_stream_that_is_lost_for_good(d):
    """Nothing listens at the agent's place: after three tries the caller gets an error."""
    with Caller(d.socket, 60) as c:
        call = c.begin("vm.run", d.spec(**LONG))
        vm = c.phase("execute")["vm_id"]
        os.unlink("%s/vm/%s/agent.sock" % (d.runtime, vm))
        assert cut_stream(d, vm) == 1
        assert code(c.answer(call)) == "guest_unresponsive"
    d.wait_clean()


def test_captured_output_over_a_broken_stream(d):
    """Without a socket of the caller: all output is counted, and what is kept is truncated."""
    n = 5000000
    result = d.call("vm.run", d.spec(command="cut out 100003; cut out 900001; print %d; cut in 1; echo" % n, timeout_seconds=0), timeout=60)["result"]
    assert (result["exit_code"], result["stdout_bytes"], result["truncated"]) == (0, n + 1, True), result
    assert len(result["stdout"]) < 2 << 20 and result["stdout"].startswith(lines(1000).decode()), len(result["stdout"])
    d.wait_clean()


def test_slow_reader_is_sent_one_window(d):
    """For a caller that acknowledges nothing; when it does, the rest arrives."""
    want = lines(10 * wire.WINDOW)
    run = live(d, "print %d" % len(want))
    while len(run.got) < wire.WINDOW:
        run.more()
    for _ in range(20):
        assert "result" in d.call("system.ping")
    assert len(run.got) == wire.WINDOW and not select.select([run.stdio], [], [], 0)[0]
    run.acknowledge()
    run.rest(want)


@pytest.mark.parametrize("way", ["closes", "ends its input"])
def test_caller_that_closes_its_end(d, way):
    """The command runs to its end, and all of its output is counted; a caller that ends only its input gets all of it too."""
    want = lines(10 * wire.WINDOW)
    run = live(d, "print %d; exit 4" % len(want), interactive=True)
    if way == "closes":
        run.stdio.close()
    else:
        run.stdio.shutdown(socket.SHUT_WR)
        ends, got = 0, 0
        while ends < 2:
            kind, _, _, data = run.frame()
            ends += kind == wire.END
            got += len(data) if kind == wire.DATA else 0
        assert got == len(want)
    result = run.result()
    assert (result["exit_code"], result["stdout_bytes"]) == (4, len(want)), result
    run.leave()
    d.wait_clean()


LIES = {
    "input with a gap": wire.data(0, 5, b"x"),
    "more than the window": wire.ack(0, wire.STDOUT, 0, wire.WINDOW + 1),
    "what was not sent": wire.ack(0, wire.STDOUT, 1, 2),
    "a frame of the agent's": wire.frame(wire.HELLO),
    "output of its own": wire.frame(wire.DATA, 0, struct.pack("<BQ", wire.STDOUT, 0) + b"x"),
    "an end too far": wire.end(0, 9),
}


def test_caller_that_breaks_the_protocol(d):
    for lie, frames in LIES.items():
        run = live(d, "sleep 0", interactive=True)
        run.stdio.sendall(frames)
        while "id" not in (reply := run.raw.line()):
            pass
        assert code(reply) == "invalid_argument", (lie, reply)
        run.leave()
    d.wait_clean()


def test_paused_while_it_boots(d):
    """The host's disk is full before there is a command: the caller is notified of that too."""
    with Caller(d.socket) as c:
        call = c.begin("vm.run", d.spec("full", command="exit 3"))
        phases = []
        while "id" not in (line := c.line()):
            phases.append(line["params"]["phase"])
        assert line["id"] == call and line["result"]["exit_code"] == 3, line
    assert phases == ["create", "start", "paused", "resumed", "execute"]


# --- the rows of a command and a machine

def test_default_time_to_live(d):
    """default_ttl_seconds of pyrod.conf, but at least a command's timeout and a minute; 0: no limit."""
    for default, run in ((600, 600), (10, 90), (0, 0)):
        reload(d, "default_ttl_seconds = %d" % default)
        with Caller(d.socket) as c:
            for params, want in (({}, run), ({"timeout_seconds": 900}, default and 960), ({"ttl_seconds": 77}, 77)):
                call = c.begin("vm.run", d.spec(command="sleep 0", **params))
                vm = c.phase("execute")["vm_id"]
                assert d.call("vm.status", {"vm_id": vm})["result"]["ttl_seconds"] == want
                c.answers(call, c.cancel(call))
        vm = create(d)
        assert d.call("vm.status", {"vm_id": vm})["result"]["ttl_seconds"] == default
        assert d.call("vm.delete", {"vm_id": vm})["result"]["deleted"]


def test_expired_while_no_daemon_ran(make_fake):
    """Such a machine stays for an hour from the daemon's start, here two seconds, and is then deleted."""
    d = make_fake(build=BUILD_ASAN, deadlines={"expired": 2}).start()
    vm = create(d)
    assert d.stop() == 0
    with stored(d) as db:
        db.execute("UPDATE vm SET expires_usec = 1")
    d.start()
    assert d.call("vm.reap_expired")["result"] == {"count": 0, "deleted_vm_ids": []}
    assert d.call("vm.status", {"vm_id": vm})["result"]["state"] == "created"
    d.wait_clean(30)


def test_refused_command_leaves_no_row(d):
    """The boot that it needs fails: its owner keeps the machine, with the reason."""
    for manner, refusal in (("refuses", "start_failed"), ("good", "vm_unavailable")):
        vm = create(d, manner)
        if refusal == "vm_unavailable":
            reload(d, "qemu = %s/nothing" % d.root)
        assert code(d.call("vm.exec", {"vm_id": vm, "command": "true"})) == refusal
        assert d.rows("SELECT id FROM exec") == []
        status = d.call("vm.status", {"vm_id": vm})["result"]
        assert status["state"] == "failed" and status["last_error"], status
        assert d.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    d.wait_clean()


def test_only_an_idle_machine_prepares_for_a_command(d):
    """A machine that boots for a command must start that command; one that waits for its first command prepares the login
    environment."""
    ran = d.call("vm.exec", {"vm_id": create(d), "command": "echo here"})["result"]
    assert (ran["stdout"], ran["cleanup"]["deleted"], ran["accelerator"], ran["start_mode"]) == ("here\n", True, "emulation", "cold")
    vm, said = booted(d), []
    while said[-1:] != ["login"]:
        said.append(d.reported(""))
    assert [word for word in said if word.split()[0] in ("setup", "start", "login")] == ["setup", "start echo here", "setup", "login"], said
    assert d.call("vm.delete", {"vm_id": vm})["result"]["deleted"]
    d.wait_clean()


@pytest.mark.parametrize("state", ["stopped", "started"])
def test_command_that_never_started(d, state):
    """Its daemon died before it was sent: the next one deletes the command's record and keeps the machine."""
    vm = booted(d)
    if state == "stopped":
        assert d.call("vm.stop", {"vm_id": vm})["result"]["state"] == "stopped"
    d.kill()
    with stored(d) as db:
        db.execute("INSERT INTO exec (id, vm_id, owner_uid, channel, command, with_stdin, live, timeout_usec) VALUES ('ex-0123456789ab', ?, 0, 1, 'true', 0, 0, 0)", (vm,))
    d.start()
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    ran = d.call("vm.exec", {"vm_id": vm, "command": "echo here"})["result"]
    assert (ran["stdout"], ran["cleanup"]["deleted"]) == ("here\n", True), ran
    assert d.rows("SELECT id FROM exec") == []
    d.wait_clean()


def start_time(pid):
    """proc(5): field 22."""
    return int(open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[19])


@pytest.mark.parametrize("row", ["an earlier boot's", "an earlier process's"])
def test_process_that_has_only_the_pid(d, row):
    """The row of an ended VMM names another user's process, which stays untouched. What the machine left is removed, and so is a
    directory that belongs to no machine."""
    with Caller(d.socket) as c:
        c.begin("vm.run", d.spec(**LONG))
        c.phase("execute")
        pid, = d.vmm_pids()
        d.kill()
    os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["sleep", "1000"]) as other:
        started = start_time(other.pid)
        with stored(d) as db:
            db.execute("UPDATE vm SET vmm_pid = ?, vmm_start_time = ?", (other.pid, started if row == "an earlier boot's" else started - 1))
            if row == "an earlier boot's":
                db.execute("UPDATE vm SET boot_id = 'another'")
        os.mkdir(d.state + "/machines/vm-ffffffffffff")
        d.start()
        d.wait_clean(30)
        assert other.poll() is None
        other.kill()
