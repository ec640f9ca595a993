# SPDX-License-Identifier: MIT
"""`pyro workspace exec` and the verbs of its commands: live and detached, signals, attaching, reading, history."""
import json
import os
import pty
import re
import shlex
import signal
import subprocess

import pytest

from conftest import BUILD_ASAN, wait_for
from fakevm import lines

SUMMARY = re.compile(r"^\[(workspace-exec\S*)\] workspace_id=(ws-[0-9a-f]{12}) sequence=(\d+) cwd=(\S+) execution_mode=guest_serial exit_code=(\d+) duration_ms=\d+$",
                     re.M)
EXEC_ID = re.compile(r"\bex-[0-9a-f]{12}\b")


def summary(errors):
    found = SUMMARY.search(errors)
    assert found, errors
    return found.groups()


@pytest.fixture
def ws(fake):
    return fake.call("workspace.create", fake.spec(name="build"))["result"]["workspace_id"]


def execs(d):
    return d.call("exec.list", {"workspace_id": "build"})["result"]["execs"]


def newest(d):
    """The newest command, once it runs."""
    wait_for(lambda: execs(d) and execs(d)[-1]["state"] != "preparing", 30)
    return execs(d)[-1]["exec_id"]


def detached(d, command, *flags):
    r = d.pyro("-q", "workspace", "exec", "-d", *flags, "build", command)
    assert (r.status, r.err) == (0, b"") and EXEC_ID.fullmatch(r.text.strip()), r
    return r.text.strip()


def state(d, ex):
    return d.call("exec.read", {"exec_id": ex, "max_chars": 1})["result"]["state"]


class Running:
    """A client in a process of its own."""

    def __init__(self, d, *args, **kw):
        self.p = d.popen(*args, **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kw})
        self.got = b""

    def first(self, n):
        """Waits for its first bytes of output."""
        while len(self.got) < n:
            more = self.p.stdout.read1(n - len(self.got))
            assert more, (self.got, self.p.stderr.read())
            self.got += more
        return self.got

    def end(self, timeout=60):
        out, err = self.p.communicate(timeout=timeout)
        return self.p.returncode, self.got + out, err.decode()


def paste(d, errors):
    """Runs the line that the client printed for the user to type."""
    line = re.search(r"^  (?:fix|next): (pyro .*)$", errors, re.M).group(1)
    return d.pyro(*shlex.split(line)[1:])


# --- exec

def test_output_and_status(fake, ws):
    r = fake.pyro("workspace", "exec", "build", "--", "echo out; err bad; exit 7")
    assert (r.status, r.out) == (7, b"out\n") and r.errors.startswith("bad\n[workspace-exec] "), r
    assert summary(r.errors) == ("workspace-exec", ws, "1", "/workspace", "7")
    r = fake.pyro("-q", "ws", "exec", "-w", "/tmp", ws[:8], "print 300000")
    assert (r.status, r.out, r.err) == (0, lines(300000), b"")
    assert execs(fake)[-1]["cwd"] == "/tmp"


def test_input(fake, ws):
    data = os.urandom(700000)
    assert fake.pyro("-q", "ws", "exec", "-i", "build", "cat; exit 3", input=data).out == data
    r = fake.pyro("-q", "ws", "exec", "build", "cat; exit 3", input=data)
    assert (r.status, r.out) == (3, b""), r


def test_summary_begins_a_line(fake, ws):
    """Where stdout and stderr are one file, the summary begins at column 0."""
    p = fake.popen("ws", "exec", "build", "print 5", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert p.communicate(timeout=60)[0].startswith(b"00000\n[workspace-exec] ")


def test_on_a_terminal(fake, ws):
    main, side = pty.openpty()
    p = fake.popen("ws", "exec", "build", "--", "echo out; exit 4", stdin=side, stdout=side, stderr=side)
    os.close(side)
    got = b""
    while b"duration_ms" not in got:
        got += os.read(main, 4096)
    assert p.wait(60) == 4
    os.close(main)
    assert got.startswith(b"out\r\n[workspace-exec] ")


def test_json(fake, ws):
    r = fake.pyro("--json", "ws", "exec", "build", "echo out; err bad; exit 7")
    result = json.loads(r.out)
    assert r.status == 7 and (result["stdout"], result["stderr"], result["exit_code"], result["workspace_id"]) == ("out\n", "bad\n", 7, ws)
    r = fake.pyro("--json", "ws", "exec", "-i", "build", "cat")
    assert r.status == 125 and json.loads(r.out)["error"]["code"] == "usage"
    r = fake.pyro("--json", "ws", "exec", "nothing", "true")
    assert r.status == 125 and json.loads(r.out)["error"]["code"] == "workspace_not_found"


def test_no_timeout_by_default(fake, ws):
    fake.pyro("-q", "ws", "exec", "build", "true")
    r = fake.pyro("ws", "exec", "--timeout", "1", "build", "echo before; sleep 0")
    assert r.status == 124 and r.out == b"before\n" and r.errors.startswith("command timed out after 1s\n[workspace-exec] "), r
    ex = execs(fake)[-1]["exec_id"]
    for verb in ("exec-wait", "exec-attach"):
        r = fake.pyro("ws", verb, ex)
        assert r.status == 124 and r.errors.startswith("command timed out after 1s\n"), r


def test_limit_is_named(fake, ws):
    r = fake.pyro("ws", "exec", "build", "ended 2; killed 9")
    assert r.status == 137 and r.errors.startswith("command ended: out of memory (limit 200 MiB; pyro workspace create -m "), r
    assert fake.pyro("-q", "ws", "exec", "build", "ended 2; killed 9").errors.startswith("command ended: out of memory")


def test_own_failures_are_125(fake, ws):
    r = fake.pyro("ws", "exec", "nothing", "true")
    assert r.status == 125 and "pyro: workspace nothing not found" in r.errors and paste(fake, r.errors).status == 0, r
    for words in (("build",), ("--bogus", "build", "true"), ("-t", "build", "sh"), ("--timeout", "x", "build", "true"), ()):
        assert fake.pyro("ws", "exec", *words).status == 125, words
    for verb in ("exec-wait", "exec-attach"):
        for words in (("ex-000000000000",), (), ("--bogus", "ex-0")):
            assert fake.pyro("ws", verb, *words).status == 125, (verb, words)
    for verb in ("exec-read", "exec-signal"):
        r = fake.pyro("ws", verb, "ex-000000000000")
        assert r.status == 1 and "ex-000000000000" in r.errors, r


def test_stdout_closed(fake, ws):
    """As with `| head -1`: the command is ended."""
    p = Running(fake, "ws", "exec", "build", "print 100000000")
    p.first(10)
    ex = newest(fake)
    p.p.stdout.close()
    p.p.stdout = open(os.devnull, "rb")
    assert p.end()[0] == 141
    wait_for(lambda: state(fake, ex) == "exited", 30)


# --- signals

def test_interrupt_goes_to_the_command(fake, ws):
    p = Running(fake, "ws", "exec", "build", "echo a; sleep 0")
    p.first(2)
    p.p.send_signal(signal.SIGINT)
    status, out, err = p.end()
    assert (status, out) == (130, b"a\n") and summary(err)[4] == "130" and execs(fake)[0]["state"] == "exited"


@pytest.mark.parametrize("signals,status", [([signal.SIGINT] * 2, 130), ([signal.SIGTERM], 143), ([signal.SIGHUP], 129)])
@pytest.mark.parametrize("json_flag", [(), ("--json",)])
def test_detached_by_signals(fake, ws, signals, status, json_flag):
    """A guest that does not answer: a second Ctrl-C, SIGTERM or SIGHUP leaves the command, and says how to return."""
    # The guest goes on after its stop with its timer or with the signal: where one is sent, nothing but that ends the command.
    p = Running(fake, *json_flag, "ws", "exec", "build", "echo a; sleep %d; echo b; exit 5" % (0 if len(signals) > 1 else 300))
    if json_flag:
        newest(fake)
    else:
        p.first(2)
    ex = newest(fake)
    guest = fake.vmm_pids()[0]
    os.kill(guest, signal.SIGSTOP)
    try:
        for s in signals:
            p.p.send_signal(s)
            if len(signals) > 1 and s is signals[0]:
                wait_for(lambda: not pending(p.p.pid), 30)
        got, out, err = p.end()
    finally:
        os.kill(guest, signal.SIGCONT)
    assert got == status
    if json_flag:
        error = json.loads(out)["error"]
        assert error["code"] == "cancelled" and ex in error["message"] and error["fix"] == "pyro workspace exec-attach " + ex
    else:
        assert err == "pyro: detached from command %s, which continues\n  next: pyro workspace exec-attach %s\n" % (ex, ex)
        r = paste(fake, err)
        # The first Ctrl-C has reached the command when the guest went on.
        assert (r.status, r.out) == ((130, b"a\n") if len(signals) > 1 else (5, b"a\nb\n")), r


def pending(pid):
    """True while a blocked signal of the process is not yet read."""
    fields = dict(line.split(":\t") for line in open("/proc/%d/status" % pid).read().splitlines() if ":\t" in line)
    return int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)


def test_interrupted_before_it_begins(fake):
    """Its machine does not come up: the call is cancelled, and the command never runs."""
    fake.call("workspace.create", fake.spec("mute", name="slow", wait_ms=1))
    for i, words in enumerate(((), ("--json",), ("-q",))):
        p = Running(fake, *words, "ws", "exec", *(("-d",) if i == 2 else ()), "slow", "echo a; sleep 0")

        def asked():
            return fake.call("exec.list", {"workspace_id": "slow"})["result"]["execs"]
        wait_for(lambda: len(asked()) == i + 1, 30)
        assert asked()[i]["state"] == "preparing"
        p.p.send_signal(signal.SIGINT)
        status, out, err = p.end()
        assert status == 130 and "detached" not in err + out.decode() and "not confirmed" not in err, (out, err)
        assert out == b"" or json.loads(out)["error"]["code"] == "cancelled"
        assert asked()[i]["state"] == "lost"


# --- the client or the daemon is gone

def test_client_killed_then_attached(fake, ws):
    p = Running(fake, "ws", "exec", "build", "print 400000; sleep 500; errprint 4000; print 400000; exit 6")
    p.first(16)
    p.p.kill()
    p.end()
    r = fake.pyro("ws", "exec-attach", newest(fake))
    assert (r.status, r.out) == (6, lines(400000) * 2), (r.status, len(r.out), r.errors)
    assert r.err.startswith(lines(4000)) and summary(r.errors[4000:])[0] == "workspace-exec-attach"


@pytest.mark.parametrize("words", [("exec", "build"), ("exec-attach",), ("exec-attach", "--read-only"), ("exec-wait",), ("exec", "--json", "build")])
def test_daemon_restarted(make_fake, words):
    """Over two restarts: every byte once, and the command's status."""
    d = make_fake(build=BUILD_ASAN).start()
    d.call("workspace.create", d.spec(name="build"))
    command = "print 400000; sleep 700; print 400000; sleep 700; print 400000; exit 2"
    if words[0] == "exec":
        p = Running(d, "ws", *words, command)
    else:
        p = Running(d, "ws", *words, detached(d, command))
    if words[0] == "exec-wait" or "--json" in words:
        newest(d)
        wait_for(lambda: waits(p.p.pid), 30)
    else:
        p.first(16)
    for end in (d.kill, d.stop):
        end()
        d.start()
    status, out, err = p.end()
    assert status == 2, err
    if "--json" in words:
        assert json.loads(out)["stdout_bytes"] == 1200000 and json.loads(out)["stdout"].startswith(lines(100000).decode())
    else:
        assert out == (b"" if words[0] == "exec-wait" else lines(400000) * 3), len(out)


# --- attach

def test_two_attach(fake, ws):
    ex = detached(fake, "print 50000; cat; exit 1", "-i")
    watcher = Running(fake, "ws", "exec-attach", "--read-only", ex)
    watcher.first(50000)
    r = fake.pyro("ws", "exec-attach", ex, input=b"typed\n")
    assert (r.status, r.out) == (1, lines(50000) + b"typed\n"), r
    status, out, _ = watcher.end()
    assert (status, out) == (1, lines(50000) + b"typed\n")
    r = fake.pyro("ws", "exec-attach", ex)
    assert (r.status, r.out) == (1, lines(50000) + b"typed\n"), "also when it has ended"


def test_second_typist_is_refused(fake, ws):
    ex = detached(fake, "echo a; cat", "-i")
    p = Running(fake, "ws", "exec-attach", ex, stdin=subprocess.PIPE)
    p.first(2)
    r = fake.pyro("ws", "exec-attach", ex)
    assert r.status == 125 and "another caller sends input" in r.errors and "--read-only" in r.errors, r
    p.p.stdin.close()
    p.p.stdin = None
    assert p.end()[0] == 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_an_attached_command(fake, ws, sig):
    ex = detached(fake, "echo a; cat; exit 3", "-i")
    p = Running(fake, "ws", "exec-attach", ex, stdin=subprocess.PIPE)
    p.first(2)
    p.p.stdin.write(b"one\n")
    p.p.stdin.flush()
    p.first(6)
    p.p.send_signal(sig)
    got, out, err = p.end()
    assert (got, out) == (0, b"a\none\n") and "next: pyro workspace exec-attach " + ex in err and state(fake, ex) == "running"
    # The daemon notices with an event that the caller has left.
    wait_for(lambda: fake.pyro("-q", "ws", "exec-write", ex, "--input", "two\n").status == 0, 30)
    r = fake.pyro("-q", "ws", "exec-attach", ex, input=b"three\n")
    assert (r.status, r.out) == (3, b"a\none\ntwo\nthree\n"), r


def test_detached_with_json(fake, ws):
    """Its status is 0: an error object would contradict it."""
    ex = detached(fake, "sleep 0")
    p = Running(fake, "--json", "ws", "exec-attach", ex)
    wait_for(lambda: waits(p.p.pid), 30)
    p.p.send_signal(signal.SIGINT)
    assert p.end() == (0, b"", "pyro: detached from command %s, which continues\n  next: pyro workspace exec-attach %s\n" % (ex, ex))
    assert state(fake, ex) == "running"


def test_reader_of_an_attached_command_leaves(fake, ws):
    """Only exec's own reader ends the command."""
    ex = detached(fake, "print 3000000; sleep 0")
    p = Running(fake, "ws", "exec-attach", ex)
    p.first(16)
    p.p.stdout.close()
    p.p.stdout = open(os.devnull, "rb")
    assert p.end()[0] == 141 and state(fake, ex) == "running"


def test_attached_after_the_oldest_output_is_dropped(make_fake):
    d = make_fake(conf=["output_limit_mib = 2"]).start()
    d.call("workspace.create", d.spec(name="build"))
    ex = detached(d, "print 6000000; exit 4")
    d.call("exec.wait", {"exec_id": ex})
    r = d.pyro("-q", "ws", "exec-attach", ex)
    assert r.status == 4 and len(r.out) > 1000000 and lines(6000000).endswith(r.out), (r.status, len(r.out), r.errors)
    r = d.pyro("ws", "exec-read", ex)
    assert r.status == 0 and lines(6000000).endswith(r.out), r.status
    assert r.errors == "[note] %d bytes of the output are no longer kept\n" % (6000000 - len(r.out))


# --- wait, write, signal

def test_wait(fake, ws):
    ex = detached(fake, "echo out; sleep 200; exit 9")
    r = fake.pyro("ws", "exec-wait", ex)
    assert (r.status, r.out) == (9, b"") and summary(r.errors) == ("workspace-exec-wait", ws, "1", "/workspace", "9")
    r = fake.pyro("--json", "ws", "exec-wait", ex[:8])
    assert r.status == 9 and json.loads(r.out)["stdout"] == "out\n" and json.loads(r.out)["exec_id"] == ex
    assert fake.pyro("-q", "ws", "exec-wait", ex).err == b""


def test_interrupted_wait_is_no_success(fake, ws):
    ex = detached(fake, "sleep 0")
    p = Running(fake, "ws", "exec-wait", ex)
    wait_for(lambda: waits(p.p.pid), 30)
    p.p.send_signal(signal.SIGINT)
    status, out, err = p.end()
    assert (status, out) == (130, b"") and ex in err and state(fake, ex) == "running"


def waits(pid):
    """True when a client has made its call: it has blocked signals, and polls."""
    blocked = int(re.search(r"^SigBlk:\t(\w+)", open("/proc/%d/status" % pid).read(), re.M).group(1), 16)
    return blocked & 1 << signal.SIGINT - 1 and "poll" in open("/proc/%d/wchan" % pid).read()


def test_write(fake, ws):
    ex = detached(fake, "cat; exit 3", "-i")
    r = fake.pyro("ws", "exec-write", ex, "--input", "a b\nü")
    assert (r.status, r.out, r.errors) == (0, b"", "[workspace-exec-write] exec_id=%s input_length=6\n" % ex), r
    r = fake.pyro("-q", "ws", "exec-write", "--eof", ex)
    assert (r.status, r.out, r.err) == (0, b"", b"")
    r = fake.pyro("ws", "exec-attach", ex)
    assert (r.status, r.text) == (3, "a b\nü"), r
    r = fake.pyro("ws", "exec-write", ex, "--input", "x")
    assert r.status == 1 and "pyro: " in r.errors, r
    ex = detached(fake, "cat; exit 3", "-i")
    r = fake.pyro("ws", "exec-write", ex)
    assert r.status == 2 and "missing --input TEXT or --eof" in r.errors and paste(fake, r.errors).status == 0
    assert fake.pyro("ws", "exec-wait", ex).status == 3


def test_signal(fake, ws):
    ex = detached(fake, "sleep 0")
    r = fake.pyro("ws", "exec-signal", ex, "--signal", "TERM")
    assert (r.status, r.out, r.errors) == (0, b"", "[workspace-exec-signal] exec_id=%s signal=TERM\n" % ex), r
    assert fake.pyro("ws", "exec-wait", ex).status == 143
    ex = detached(fake, "sleep 0")
    fake.pyro("ws", "exec-signal", ex)
    assert fake.pyro("ws", "exec-wait", ex).status == 130
    assert fake.pyro("ws", "exec-signal", ex).status == 1
    r = fake.pyro("ws", "exec-signal", ex, "--signal", "SIGFOO")
    assert r.status == 2 and "INT" in r.errors


# --- detached, read

def test_detached_then_followed(fake, ws):
    ex = detached(fake, "print 300000; sleep 400; echo late; exit 8")
    r = fake.pyro("ws", "exec-read", "-f", ex)
    assert (r.status, r.out, r.err) == (0, lines(300000) + b"late\n", b""), (r.status, len(r.out), r.errors)
    r = fake.pyro("--json", "ws", "exec", "-d", "build", "sleep 0")
    assert r.status == 0 and json.loads(r.out)["state"] == "running"


def test_bytes_are_not_changed(fake, ws):
    data = os.urandom(500001)
    fake.pyro("-q", "ws", "exec", "-i", "build", "cat", input=data)
    ex = newest(fake)
    for words in (("exec-read", ex), ("exec-read", "-f", "--stream", "stdout", ex), ("-q", "logs", "build", ex), ("exec-attach", ex)):
        assert fake.pyro("ws", *words).out == data, words
    assert fake.pyro("ws", "exec-read", "--cursor", "-1000", ex).out == data[-1000:]
    assert fake.pyro("ws", "exec-read", "--cursor", "499999", ex).out == data[499999:]
    assert fake.pyro("ws", "exec-read", "--cursor", "9999999", ex).out == b""


def test_streams(fake, ws):
    fake.pyro("ws", "exec", "build", "echo a; err b; echo c; err d")
    ex = newest(fake)
    assert fake.pyro("ws", "exec-read", "--stream", "stdout", ex).out == b"a\nc\n"
    assert fake.pyro("ws", "exec-read", "--stream", "stderr", ex).out == b"b\nd\n"
    assert sorted(fake.pyro("ws", "exec-read", ex).out.split()) == [b"a", b"b", b"c", b"d"]
    result = json.loads(fake.pyro("--json", "ws", "exec-read", "--stream", "stderr", ex).out)
    assert (result["output"], result["state"], result["exit_code"]) == ("b\nd\n", "exited", 0)


@pytest.mark.parametrize("n", [0, 1, 2, 5000, 20000, 10**6])
def test_tail(fake, ws, n):
    whole = lines(300000) + b"end\n"
    fake.pyro("-q", "ws", "exec", "build", "print 300000; echo end")
    ex = newest(fake)
    want = b"".join(whole.splitlines(keepends=True)[-n:]) if n else b""
    for words in (("exec-read", "--tail", str(n), ex), ("exec-read", "-f", "--tail", str(n), ex), ("logs", "--tail", str(n), "build", ex)):
        r = fake.pyro("ws", *words)
        assert (r.status, r.out) == (0, want), (words, len(r.out), r.errors)


def test_tail_follows(fake, ws):
    fake.pyro("-q", "ws", "exec", "build", "true")
    assert fake.pyro("ws", "exec-read", "--tail", "3", newest(fake)).out == b""
    ex = detached(fake, "echo one; echo two; sleep 400; echo three; print 20")
    p = Running(fake, "ws", "exec-read", "--tail", "1", "-f", ex)
    status, out, err = p.end()
    assert (status, err) == (0, "") and (b"one\ntwo\nthree\n" + lines(20)).endswith(out) and out.endswith(b"three\n" + lines(20))


def test_excluded_options(fake, ws):
    fake.pyro("-q", "ws", "exec", "build", "echo x")
    ex = newest(fake)
    for words, said in ((("--json", "ws", "exec-read", "-f", ex), "--json and --follow"), (("--json", "ws", "exec-read", "--tail", "1", ex), "--json and --tail"),
                        (("ws", "exec-read", "--tail", "1", "--cursor", "5", ex), "--tail and --cursor"), (("--json", "ws", "logs", "-f", "build"), "--json and --follow")):
        r = fake.pyro(*words)
        message = json.loads(r.out)["error"] if "--json" in words else {"message": r.errors, "fix": re.search("fix: (.*)", r.errors).group(1)}
        assert r.status == 2 and said + " exclude each other" in message["message"], r
        assert fake.pyro(*shlex.split(message["fix"])[1:]).status == 0, message


def test_reader_leaves_while_following(fake, ws):
    ex = detached(fake, "print 3000000; sleep 0")
    p = Running(fake, "ws", "exec-read", "-f", ex)
    p.first(16)
    p.p.stdout.close()
    p.p.stdout = open(os.devnull, "rb")
    assert p.end()[0] == 141 and state(fake, ex) == "running"


def test_ctrl_c_ends_a_follower(fake, ws):
    ex = detached(fake, "echo a; sleep 0")
    p = Running(fake, "ws", "exec-read", "-f", ex)
    p.first(2)
    p.p.send_signal(signal.SIGINT)
    assert p.end()[0] == -signal.SIGINT and state(fake, ex) == "running"


# --- history

def test_list(fake, ws):
    r = fake.pyro("ws", "exec-list", "build")
    assert (r.status, r.out) == (0, b"") and "no commands; run one: pyro workspace exec" in r.errors
    fake.pyro("ws", "exec", "build", "--", "echo a; exit 3")
    ex = detached(fake, "sleep 0")
    first, second = fake.pyro("ws", "exec-list", "build").text.splitlines()
    assert re.fullmatch(r"exec_id=ex-\w{12} sequence=1 state=exited exit_code=3 started_at=\S+Z duration_ms=\d+ command=echo a; exit 3", first), first
    assert re.fullmatch(r"exec_id=%s sequence=2 state=running exit_code=- started_at=\S+Z duration_ms=\d+ command=sleep 0" % ex, second), second
    assert fake.pyro("-q", "ws", "exec-list", ws).text.split()[1] == ex
    assert json.loads(fake.pyro("--json", "ws", "exec-list", "build").out)["count"] == 2


def test_logs(fake, ws):
    r = fake.pyro("ws", "logs", "build")
    assert (r.status, r.out) == (0, b"") and "no commands" in r.errors
    for i in range(3):
        fake.pyro("ws", "exec", "build", "--", "echo o%d; err e%d; exit %d" % (i, i, i))
    r = fake.pyro("ws", "logs", "build")
    assert r.status == 0 and sorted(r.out.split()) == [b"e0", b"e1", b"e2", b"o0", b"o1", b"o2"]
    ids = [x["exec_id"] for x in execs(fake)]
    assert r.errors.splitlines() == ["[workspace-logs] sequence=%d exec_id=%s state=exited exit_code=%d command=echo o%d; err e%d; exit %d" %
                                     (i + 1, ids[i], i, i, i, i) for i in range(3)]
    assert sorted(fake.pyro("-q", "ws", "logs", "--tail", "1", "build").out.split()) == [b"e2", b"o2"]
    r = fake.pyro("ws", "logs", "build", ids[1])
    assert sorted(r.out.split()) == [b"e1", b"o1"] and r.err == b""
    result = json.loads(fake.pyro("--json", "ws", "logs", "--tail", "2", "build").out)
    assert (result["workspace_id"], result["count"]) == (ws, 2)
    assert [(e["sequence"], e["exit_code"], e["stdout"], e["stderr"]) for e in result["entries"]] == [(2, 1, "o1\n", "e1\n"), (3, 2, "o2\n", "e2\n")]
    r = fake.pyro("ws", "logs", "build", "ex-000000000000")
    assert r.status == 1 and "command ex-000000000000 not found in workspace " + ws in r.errors and paste(fake, r.errors).status == 0, r
    assert fake.pyro("--json", "ws", "logs", "build", "ex-000000000000").status == 1


def test_logs_follow(fake, ws):
    fake.pyro("ws", "exec", "build", "--", "echo one")
    detached(fake, "echo two; sleep 500; echo three")
    p = Running(fake, "-q", "ws", "logs", "-f", "build")
    p.first(4)
    detached(fake, "echo four")
    assert p.end() == (0, b"one\ntwo\nthree\nfour\n", "")


# --- words

@pytest.mark.parametrize("args,status,says,fix", [
    (["exec", "build", "true"], 2, "did you mean 'workspace exec'?", "pyro workspace exec build true"),
    (["exec", "-it", "build", "sh"], 2, "did you mean 'workspace exec'?", None),
    (["logs", "build"], 2, "did you mean 'workspace logs'?", "pyro workspace logs build"),
    (["attach", "ex-0123"], 2, "did you mean 'workspace exec-attach'?", "pyro workspace exec-attach ex-0123"),
    (["wait", "ex-0123"], 2, "did you mean 'workspace exec-wait'?", "pyro workspace exec-wait ex-0123"),
    (["ws", "exec-atach", "ex-0123"], 2, "did you mean 'workspace exec-attach'?", "pyro ws exec-attach ex-0123"),
    (["vm", "exec", "-d", "vm-0123", "true"], 125, "pyro workspace exec -d runs one in the background", "pyro vm exec vm-0123 true"),
])
def test_mistyped_commands(fake, args, status, says, fix):
    r = fake.pyro(*args)
    assert (r.status, r.out) == (status, b"") and says in r.errors, r
    if fix:
        assert "  fix: %s\n" % fix in r.errors, r


def test_completion(fake, ws):
    def candidates(*words):
        return fake.pyro("__complete", *words, env={"PYRO_COMPLETION_WAIT_MS": "20000"}).text.split()
    ex = detached(fake, "sleep 0")
    assert candidates("ws", "exec", "") == ["build", ws] and candidates("workspace", "logs", "b") == ["build"]
    for verb in ("exec-read", "exec-attach", "exec-wait", "exec-write", "exec-signal"):
        assert candidates("ws", verb, "") == [ex], verb
    assert candidates("ws", "logs", "build", "ex-") == [ex] and candidates("ws", "exec-signal", "--signal", "T") == ["TERM"]
    assert candidates("ws", "exec-read", "--st") == ["--stream"] and "--detach" in candidates("ws", "exec", "--")
    assert candidates("ws", "exec-a") == ["exec-attach"] and candidates("ws", "exec", "build", "make", "-") == []
