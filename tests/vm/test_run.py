# SPDX-License-Identifier: MIT
"""`pyro run` against real guests: what a user sees of one command in a machine of its own. tests/kvm runs those marked kvm once
more, in a machine that has KVM and systemd."""
import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time

import pytest

from conftest import N, TOP, stage

ENV = "debian:12"


def run(daemon, *words, flags=(), **kw):
    return daemon.pyro("run", *flags, ENV, "--", *words, **kw)


@pytest.mark.kvm
def test_git_version_transcript(daemon):
    r = run(daemon, "git", "--version")
    assert r.status == 0, r
    assert re.fullmatch(r"git version \d+\.\d+\.\d+\n", r.text)
    # If the agent was built after the kernel was pulled, the first run makes its initramfs.
    lines = [line for line in r.errors.splitlines() if not line.startswith("[pull] phase=")]
    assert re.fullmatch(r"\[run\] phase=create environment=debian:12", lines[0]), r
    shape = [line for line in lines if not line.startswith("[run] note")]
    assert re.fullmatch(r"\[run\] phase=start vm_id=vm-[0-9a-f]{12}", shape[1])
    assert re.fullmatch(r"\[run\] phase=execute vm_id=vm-[0-9a-f]{12}", shape[2])
    assert re.fullmatch(r"\[run\] environment=debian:12 execution_mode=guest_serial exit_code=0 duration_ms=\d+", shape[-1])
    daemon.wait_clean()


def test_it_is_a_machine_of_its_own(daemon):
    r = run(daemon, "sh", "-c", "uname -r; cat /proc/1/comm; id -u; findmnt -no FSTYPE /; findmnt -no SOURCE /workspace; cat /proc/cmdline")
    assert r.status == 0, r
    release, init, uid, root, workspace, cmdline = r.text.splitlines()
    assert release != os.uname().release and "cloud-amd64" in release
    assert init == "pyro-agent"
    assert uid == "0"
    assert root == "overlay"
    assert re.fullmatch(r"/dev/vd[a-z]\[/workspace\]", workspace)
    assert "tsc_early_khz=" in cmdline


@pytest.mark.kvm
def test_streams_stay_apart_and_exact(daemon):
    r = run(daemon, "sh", "-c", "printf out; printf err >&2; exit 7")
    assert r.status == 7, r
    assert r.out == b"out"
    assert b"\nerr\n[run] environment=" in r.err or b"\nerr[run]" not in r.err
    assert "exit_code=7" in r.errors


def test_stdin_50_mb_is_what_the_guest_reads(daemon, work):
    data = os.urandom(1 << 20) * 50
    r = run(daemon, "sha256sum", flags=("-i",), input=data, timeout=120)
    assert r.status == 0, r
    assert r.text.split()[0] == hashlib.sha256(data).hexdigest()


def test_much_output_in_bounded_memory(daemon):
    total = 300000000 if N > 1 else 100000000
    p = daemon.popen("run", "--timeout-seconds", "300", ENV, "--", "sh", "-c", "yes | head -c %d" % total,
                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    count = 0
    expected = (b"y\n" * (1 << 19))
    for chunk in iter(lambda: p.stdout.read(1 << 20), b""):
        assert chunk == expected[:len(chunk)] or chunk == (b"\ny" * (1 << 19))[:len(chunk)]
        count += len(chunk)
    err = p.stderr.read()
    assert p.wait(timeout=60) == 0, err
    assert count == total
    hwm = daemon.vm_hwm_kib()
    print("VmHWM %d KiB" % hwm)
    assert hwm < 30 * 1024


@pytest.mark.kvm
def test_closed_stdout_cancels(daemon):
    p = daemon.popen("run", ENV, "--", "yes", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"y\n"
    p.stdout.close()
    gone = time.monotonic()
    status = p.wait(timeout=30)
    took = time.monotonic() - gone
    assert status == 141, p.stderr.read()
    assert took < 2, took
    daemon.wait_clean(2)


@pytest.mark.kvm
def test_summary_starts_its_line(daemon):
    r = run(daemon, "sh", "-c", "printf x >&2")
    assert r.status == 0
    assert re.search(rb"^x\n\[run\] environment=", r.err, re.M), r
    # and on one terminal for both
    out = subprocess.run(daemon.command("run", ENV, "--", "printf", "y"), env=daemon.client_env(), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert re.search(rb"^(.*\n)*y\n\[run\] environment=", out.stdout), out.stdout


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors(daemon, closed):
    pyro = " ".join(daemon.command("run", ENV, "--", "echo", "hi"))
    r = subprocess.run(["sh", "-c", "exec %s %s" % (pyro, closed)], env=daemon.client_env(), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    # Lost output is reported, as by echo itself.
    assert (r.returncode, r.stdout) == ((125, b"") if "1>&-" in closed else (0, b"hi\n")), r
    assert (b"cannot write the command's stdout" in r.stderr) == (closed == "1>&-"), r


@pytest.mark.kvm
def test_timeout_is_a_result(daemon):
    r = run(daemon, "sh", "-c", "sleep 1000 & sleep 1000", flags=("--timeout-seconds", "2"))
    assert r.status == 124, r
    assert "command timed out after 2s" in r.errors
    duration = int(re.search(r"duration_ms=(\d+)", r.errors).group(1))
    assert 2000 <= duration < 4000
    daemon.wait_clean()


@pytest.mark.kvm
def test_timeout_leaves_nothing_in_the_guest(daemon):
    # The machine is deleted too; the agent's own tests check what the cgroup kill leaves. Here: --json says so. Three seconds,
    # since on a loaded host a shell may need one until its first output.
    r = daemon.pyro("--json", "run", "--timeout-seconds", "3", ENV, "--", "sh", "-c", "echo before; sleep 100")
    assert r.status == 124, r
    result = json.loads(r.text)
    assert result["timed_out"] is True and result["exit_code"] == 124 and result["stdout"] == "before\n"
    assert result["cleanup"] == {"deleted": True, "reason": "post_exec_cleanup", "vm_id": result["vm_id"]}


def test_timeout_of_a_command_that_left_its_cgroup(daemon):
    r = run(daemon, "echo $$ > /sys/fs/cgroup/cgroup.procs; cat /proc/self/cgroup; sleep 60; echo late", flags=("--timeout-seconds", "2"))
    assert r.status == 124 and r.out == b"0::/\n", r
    daemon.wait_clean()


@pytest.mark.kvm
def test_background_child_does_not_hold_the_command(daemon):
    r = run(daemon, "sh", "-c", "sleep 300 & echo hi")
    assert r.status == 0 and r.out == b"hi\n", r
    assert int(re.search(r"duration_ms=(\d+)", r.errors).group(1)) < 3000


@pytest.mark.kvm
def test_background_server_that_prints_still_answers(daemon):
    script = ("(while :; do echo noise; sleep 0.05; done) & "
              "python3 -u -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 & sleep 1.5; "
              "curl -sf --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:8000/ >/dev/null && echo served")
    r = run(daemon, "bash", "-c", script, flags=("--timeout-seconds", "60"))
    assert r.status == 0 and b"served" in r.out, r


def test_environment_user_and_cwd(daemon):
    r = run(daemon, "sh", "-c", "echo $GREETING; pwd; id -un; echo $HOME $LANG", flags=("-e", "GREETING=a b", "-w", "/tmp", "-u", "nobody"))
    assert r.status == 0, r
    assert r.text.splitlines() == ["a b", "/tmp", "nobody", "/nonexistent C.UTF-8"]
    r = run(daemon, "pwd")
    assert r.text == "/workspace\n"
    r = run(daemon, "true", flags=("-w", "/nowhere"))
    assert r.status == 125 and "/nowhere" in r.errors, r
    r = run(daemon, "true", flags=("-w", "/" + "é" * 700))
    assert r.status == 125 and "éé" in r.errors and "could not start the command" in r.errors, r
    r = run(daemon, "true", flags=("-u", "nosuchuser"))
    assert r.status == 125 and "nosuchuser" in r.errors, r


def test_words_keep_their_boundaries(daemon):
    r = run(daemon, "printf", "<%s>", "a b", "c'd", "$HOME", "")
    assert r.out == b"<a b><c'd><$HOME><>", r
    r = daemon.pyro("run", ENV, "--", "echo $((6*7)) | tr 4 5")
    assert r.out == b"52\n", r


def test_signals_are_distinguished(daemon):
    r = run(daemon, "sh", "-c", "kill -TERM $$")
    assert r.status == 143, r
    r = run(daemon, "nosuchcommand")
    assert r.status == 127, r


def test_resources_are_applied(daemon):
    r = run(daemon, "sh", "-c", "nproc; free -m | awk '/Mem/ {print $2}'; df -m --output=size /workspace | tail -1",
            flags=("--vcpu-count", "2", "--mem-mib", "512", "--disk-mib", "2048"))
    assert r.status == 0, r
    cpus, mem, disk = map(int, r.text.split())
    assert cpus == 2 and 380 < mem <= 512 and 1800 < disk <= 2048


def test_random_numbers_and_time(daemon):
    one, two = (run(daemon, "sh", "-c", "head -c 16 /dev/urandom | od -An -tx1; date +%s; hostname; cat /etc/machine-id") for _ in range(2))
    assert one.status == two.status == 0
    a, b = one.text.splitlines(), two.text.splitlines()
    assert a[0] != b[0] and a[2] != b[2] and a[3] != b[3]
    assert abs(int(a[1]) - time.time()) < 30


def test_no_network_fails_at_once(daemon):
    r = run(daemon, "sh", "-c", "ip -br link; getent hosts example.invalid; curl -sS -m 10 http://192.0.2.1/ ; echo $?")
    assert "lo " in r.text and "eth" not in r.text
    assert int(re.search(r"duration_ms=(\d+)", r.errors).group(1)) < 8000


def test_json_result_has_every_field(daemon):
    r = daemon.pyro("--json", "run", ENV, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert r.status == 3, r
    result = json.loads(r.text)
    for field in ("environment vm_id exec_id state execution_mode accelerator start_mode exit_code stdout stderr stdout_bytes stderr_bytes "
                  "duration_ms timed_out truncated cleanup command").split():
        assert field in result, field
    assert (result["stdout"], result["stderr"], result["exit_code"], result["state"]) == ("out\n", "err\n", 3, "exited")
    big = daemon.pyro("--json", "run", ENV, "--", "sh", "-c", "yes | head -c 3000000; printf '\\377'")
    result = json.loads(big.text)
    assert result["truncated"] is True and result["stdout_bytes"] == 3000001
    assert 900000 < len(result["stdout"].encode()) < 1100000


@pytest.mark.parametrize("when,sig", [("before", signal.SIGINT), ("during", signal.SIGINT), ("during", signal.SIGTERM), ("during", signal.SIGHUP), ("before", signal.SIGKILL), ("during", signal.SIGKILL)])
def test_interrupts(daemon, when, sig):
    p = daemon.popen("run", "--timeout-seconds", "100", ENV, "--", "sh", "-c", "echo started; exec sleep 90", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if when == "before":
        assert b"phase=create" in p.stderr.readline()
    else:
        assert p.stdout.readline() == b"started\n"
    p.send_signal(sig)
    status = p.wait(timeout=20)
    errors = p.stderr.read()
    if sig == signal.SIGINT:
        assert status == 130, errors
    elif sig != signal.SIGKILL:
        assert status == 128 + sig, errors
    daemon.wait_clean(14 if sig == signal.SIGKILL else 5)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_interrupts_after_the_command(daemon, sig):
    """Its last output has arrived and its machine is being deleted: whichever comes first, nothing is left."""
    p = daemon.popen("run", ENV, "--", "echo", "over", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"over\n"
    p.send_signal(sig)
    status = p.wait(timeout=20)
    assert status in (0, 130 if sig == signal.SIGINT else 128 + sig, -signal.SIGKILL if sig == signal.SIGKILL else 0), p.stderr.read()
    daemon.wait_clean(14 if sig == signal.SIGKILL else 5)


def test_ctrl_c_on_a_terminal(daemon):
    """The key, not the signal: the terminal turns it into SIGINT for the foreground group, and keeps its settings."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    p = daemon.popen("run", "-i", "--timeout-seconds", "100", ENV, "--", "sh", "-c", "echo started; exec sleep 90", stdin=slave, stdout=slave, stderr=slave,
                     preexec_fn=lambda: (os.setsid(), __import__("fcntl").ioctl(slave, termios.TIOCSCTTY, 0)))
    seen = b""
    end = time.monotonic() + 60
    while b"started" not in seen:
        assert select.select([master], [], [], end - time.monotonic())[0], seen
        seen += os.read(master, 4096)
    os.write(master, b"\x03")
    assert p.wait(timeout=20) == 130
    assert termios.tcgetattr(slave) == before
    while select.select([master], [], [], 0)[0]:
        seen += os.read(master, 4096)
    assert re.search(rb"\n\[run\] environment=\S+ execution_mode=\S+ exit_code=130 ", seen), seen
    os.close(master)
    os.close(slave)
    daemon.wait_clean(5)


def test_second_interrupt_ends_what_ignores_the_first(daemon):
    p = daemon.popen("run", "--timeout-seconds", "100", ENV, "--", "sh", "-c", "trap 'echo caught' INT; echo started; while :; do sleep 1; done",
                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"started\n"
    p.send_signal(signal.SIGINT)
    assert p.stdout.readline() == b"caught\n"
    p.send_signal(signal.SIGINT)
    assert p.wait(timeout=20) == 130, p.stderr.read()
    daemon.wait_clean(5)


def test_several_at_once(daemon):
    results = [None] * 4

    def one(i):
        results[i] = run(daemon, "sh", "-c", "echo %d" % i, flags=("--mem-mib", "256", "--timeout-seconds", "120"), timeout=180)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, r in enumerate(results):
        assert r.status == 0 and r.out == b"%d\n" % i, r
    daemon.wait_clean()


def test_a_guest_that_reboots_is_reported(daemon):
    r = run(daemon, "sh", "-c", "echo b > /proc/sysrq-trigger; sleep 20")
    assert r.status == 125, r
    assert "guest" in r.errors
    daemon.wait_clean()


def test_the_readmes_five_minutes(daemon, tmp_path):
    """Each line of that section does what it says, as typed."""
    with open(TOP + "/README.md") as f:
        section = re.search(r"^## Five minutes\n\n```sh\n(.*?)^```", f.read(), re.S | re.M).group(1)
    (tmp_path / "big.iso").write_bytes(b"not that big")
    env = daemon.client_env(PATH=stage(daemon.build) + "/bin:" + os.environ["PATH"])
    out = {}
    for line in section.splitlines():
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == (1 if line.split("#")[0].rstrip().endswith("false") else 0), (line, done)
        out[line.split("#")[0].split()[-1]] = done.stdout
    assert out["nproc"] == "2\n" and "CI=1\n" in out["env"] and out["big.iso"].startswith(hashlib.sha256(b"not that big").hexdigest()), out
    daemon.wait_clean()
