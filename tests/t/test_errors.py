# SPDX-License-Identifier: MIT
"""Every error code that this version can give, provoked as a user does it: the code, the wrong value in the message, and the fix
as it is printed, typed into a shell, after which the same command works. A fix that is a step of a person's (free space, for
example) is done here as a person would do it. tests/vm/test_guest_errors.py has what needs a real guest."""
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

from conftest import BUILD_ASAN, Raw, stage
from fakevm import ENV, MANNERS
from test_crash_points import fake_mmdebstrap

# Nothing gives these yet.
NOT_MADE = {"workspace_expired", "shell_not_found", "host_compat_refused", "network_unavailable",
            "path_outside_project", "daemon_too_old", "conflict", "changed_work"}
MEASURED = {"no_space", "no_memory", "quota_exceeded", "invalid_argument"}  # the free amount changes all the time
ROWS = {}
DEADLINES = {"daemon_lost": {"redial": 1, "grace": 3}, "machine_that_does_not_answer": {"adopt_call": 0.5}}  # which rows use them
TRUE = ("debian:12", "--", "true")
NOBODY = 65534


def provokes(code):
    def add(function):
        ROWS.setdefault(code, []).append(function)
        return function
    return add


class Failure:
    def __init__(self, result):
        found = re.search(r"^pyro: (.*)\n(?:  cause: (.*)\n)?(?:  fix: (.*)\n)?\Z", result.errors, re.M)
        assert found, result
        self.message, self.cause, self.fix = found.groups()


def clean(text):
    return text is None or not re.search(r"[\x00-\x1f\x7f]", text)


def fails(d, code, *words, says, json_too=True, **kw):
    """The three lines of the failure, which are the same as the JSON object."""
    r = d.pyro(*words, **kw)
    assert r.status in (125, 2, 1) and not r.out, r
    f = Failure(r)
    assert says in f.message and f.fix and clean(f.message) and clean(f.cause), r
    if json_too:
        e = json.loads(d.pyro("--json", *words, **kw).out)["error"]
        message = e["message"].replace("\ufffd", "\\xff")  # JSON has no other bytes; a terminal gets them escaped
        assert (e["code"], re.sub(r"\d+ MiB", "", message)) == (code, re.sub(r"\d+ MiB", "", f.message)), (e, r)
        assert set(e) == {"code", "message", "cause", "fix", "retryable", "data"}
        assert code in MEASURED or e["fix"].replace("sudo ", "").replace("--json ", "") == f.fix, (e, r)
    return f


def works(d, *words, **kw):
    r = d.pyro(*words, **kw)
    assert r.status == 0, r
    return r


def typed(d, fix, **kw):
    """What a user types, with pyro and pyrod on PATH; `sudo` and `apt-get` are the test's own."""
    assert not re.search(r"[<>]|\bNAME\b|\bFILE\b|\bPATH\b|\bID\b", fix), fix  # no placeholder to fill in
    place = d.root + "/typed"
    os.makedirs(place, exist_ok=True)
    for name, text in (("sudo", 'exec "$@"'), ("apt-get", kw.pop("apt", "exit 1"))):
        with open(place + "/" + name, "w") as f:
            f.write("#!/bin/sh\n" + text + "\n")
        os.chmod(place + "/" + name, 0o755)
    env = d.client_env(PATH="%s:%s/bin:%s" % (place, stage(d.build), os.environ["PATH"]))
    r = subprocess.run(["sh", "-c", fix], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert r.returncode == kw.pop("status", 0), (fix, r)
    return r.stdout


def reload(d, *lines):
    """Adds lines to pyrod.conf; the last value of a key counts."""
    with open(d.conf, "a") as f:
        f.write("".join(line + "\n" for line in lines))
    d.process.send_signal(signal.SIGHUP)
    with Raw(d.socket) as c:  # the signal is dispatched before later requests
        c.call("system.ping")
        c.call("system.ping")


@pytest.fixture
def d(make_fake):
    return make_fake(build=BUILD_ASAN)


# --- the client's own

@provokes("usage")
def unknown_option(d):
    d.start()
    f = fails(d, "usage", "run", "--bogus", *TRUE, says="--bogus")
    assert "--timeout" in typed(d, f.fix)  # it shows the existing options


CORRECTED = [
    (("-m", "x"), "'x'"), (("-m", "12"), "12"), (("-m2.5G",), "'2.5G'"), (("--cpus", "0"), "0"), (("--cpus", "99"), "99"),
    (("--cpus", "99999999999999999999"), "99999999999999999999"), (("--timeout", "5x"), "'5x'"), (("--timeout", "-1"), "'-1'"),
    (("--timeout", "2d"), "2d"), (("-e", "=x"), "'=x'"), (("-u", ""), "-u"), (("-w", ""), "-w"), (("-w", b"/\xff"), "-w"),
    (("--accelerator", "tcg"), "'tcg'"), (("--disk-mib", "1"), "1"), (("-e", b"\xff=1"), "-e"),
]


@provokes("invalid_argument")
def wrong_values_of_options(d):
    """The fix is the whole line as it was meant; the wrong line changed nothing."""
    d.start()
    for words, says in CORRECTED:
        f = fails(d, "invalid_argument", "-q", "run", *words, *TRUE, says=says)
        assert f.fix.startswith("pyro -q run "), f.fix
        assert not d.vms()
        typed(d, f.fix)
    d.wait_clean()


@provokes("invalid_argument")
def empty_words(d):
    d.start()
    for words in (("", "true"), ("debian:12", "")):
        typed(d, fails(d, "invalid_argument", "-q", "run", *words, says="empty").fix)


@provokes("invalid_argument")
def words_that_are_not_utf8(d):
    d.start()
    f = fails(d, "invalid_argument", "run", *TRUE, b"caf\xe9", json_too=False, says="word 2 of the command is not UTF-8: 'caf\\xe9'")
    assert f.fix == r"printf 'true \047caf\351\047' | pyro run -i debian:12 -- sh"
    typed(d, f.fix)


@provokes("invalid_argument")
def variable_that_is_not_utf8(d):
    d.start()
    f = fails(d, "invalid_argument", "run", "-e", b"A=b\xff", *TRUE, says="the value of A")
    begin = re.fullmatch(r"leave out -e A, and begin the command with: (.*)", f.fix).group(1)
    works(d, "run", "debian:12", "--", begin + " true")
    f = fails(d, "invalid_argument", "run", "-e", "B", *TRUE, says="the value of B", env={"B": "\udcff"})
    assert "export B=" in f.fix


@provokes("invalid_argument")
def command_too_long(d):
    d.start()
    words = ["w%06d" % i for i in range(20000)]
    f = fails(d, "invalid_argument", "run", *TRUE, *words, says="the command is 160004 bytes long")
    assert "put it into a file" in f.fix
    assert works(d, "run", "-i", "debian:12", "--", "cat", input=" ".join(words).encode()).out == " ".join(words).encode()


@provokes("invalid_argument")
def more_than_the_host_has(d):
    d.start()
    for flag, value in (("--cpus", "32"), ("-m", "16384G")):
        if flag == "--cpus" and os.cpu_count() >= 32:
            continue
        f = fails(d, "invalid_argument", "run", flag, value, *TRUE, says="this host's")
        n = re.fullmatch(r"ask for at most \d+: %s (\d+), \w+=\d+" % flag, f.fix).group(1)
        assert not d.vms()
        works(d, "run", flag, n, *TRUE)


@provokes("unsupported")
def features_of_later_versions(d):
    d.start()
    for flag in ("-t", "--network", "--allow-host-compat"):
        f = fails(d, "unsupported", "run", flag, *TRUE, says=flag)
        assert f.fix.startswith("leave out " + flag)
        works(d, "run", *TRUE)


@provokes("daemon_unreachable")
def no_daemon(d):
    d.start()
    assert d.stop() == 0
    f = fails(d, "daemon_unreachable", "vm", "list", says=d.socket)
    typed(d, f.fix)
    try:
        works(d, "vm", "list")
    finally:
        os.kill(d.call("system.ping")["result"]["pid"], signal.SIGKILL)


@provokes("outcome_unknown")
def daemon_lost(d):
    d.start()
    p = d.popen("--json", "run", "--timeout", "0", "debian:12", "--", "echo on; sleep 0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while b"phase=execute" not in p.stderr.readline():
        pass
    d.kill()
    out, _ = p.communicate(timeout=30)
    e = json.loads(out)["error"]
    assert e["code"] == "outcome_unknown" and d.socket in e["message"] and p.returncode == 125, e
    d.start()  # as systemd does
    assert "vm-" in typed(d, e["fix"])
    works(d, "run", *TRUE)
    d.wait_clean(30)


# --- what the daemon refuses

@provokes("environment_unknown")
def environment_of_another_name(d):
    d.start()
    for name, cause in (("debain:12", "did you mean debian:12?"), ("debian:13", "did you mean debian:12?"), ("python:3.12", "it is not in the catalog")):
        f = fails(d, "environment_unknown", "run", name, "--", "true", says=name)
        assert f.cause == cause
        known = re.fullmatch(r"use one of: (.*)", f.fix).group(1).split(", ")
        assert {"debian:12", "debian:12-base", "debian:12-build"} == set(known)
        works(d, "run", "debian:12", "--", "true")


@provokes("unsupported")
def registry(d):
    d.start()
    f = fails(d, "unsupported", "run", "docker.io/library/python:3.12", "--", "true", says="docker.io/library/python:3.12")
    assert "debian:12" in f.fix


@provokes("pull_failed")
def mirror_unreachable(d):
    fake_mmdebstrap(d)
    with open(d.root + "/bin/mmdebstrap", "r+") as f:
        text = f.read()
        f.seek(0)
        f.write(text.replace("\n", "\n[ ! -e %s/away ] || { echo 'E: cannot reach\033[1m the mirror' >&2; exit 1; }\n" % d.root, 1))
    open(d.root + "/away", "w").close()
    d.start()
    f = fails(d, "pull_failed", "env", "pull", "-q", "debian:12-base", says="mmdebstrap")
    assert "the mirror" in f.cause and "network" in f.fix
    os.unlink(d.root + "/away")  # the network works again
    works(d, "env", "pull", "debian:12-base", timeout=300)


@provokes("workspace_not_found")
def no_such_workspace(d):
    d.start()
    f = fails(d, "workspace_not_found", "ws", "status", "build", says="workspace build not found")
    assert typed(d, f.fix) == "" and works(d, "vm", "create", *d.run_flags(), ENV)
    vm = d.vms()[0]["vm_id"]
    f = fails(d, "workspace_not_found", "ws", "status", vm, says=vm)
    assert vm in typed(d, f.fix)
    works(d, "ws", "create", *d.run_flags(), "--name", "build", ENV)
    works(d, "ws", "status", "build")
    ws = d.workspaces()[0]["workspace_id"]
    f = fails(d, "vm_not_found", "vm", "status", ws, says=ws)
    assert ws in typed(d, f.fix)


@provokes("name_taken")
def name_of_another_workspace(d):
    d.start()
    works(d, "ws", "create", *d.run_flags(), "--name", "build", ENV)
    f = fails(d, "name_taken", "ws", "create", *d.run_flags(), "--name", "build", ENV, says="build")
    assert f.cause == "it is workspace " + d.workspaces()[0]["workspace_id"]
    assert "Name: build-2\n" in typed(d, f.fix)


@provokes("vm_not_found")
def no_such_machine(d):
    d.start()
    f = fails(d, "vm_not_found", "vm", "status", "vm-0123456789ab", says="vm-0123456789ab")
    vm = works(d, "vm", "create", "--id-only", "debian:12").text.strip()
    assert vm in typed(d, f.fix)
    works(d, "vm", "status", vm)
    fails(d, "invalid_argument", "vm", "status", "box", says='"box"')


@provokes("exec_not_found")
def no_such_command(d):
    d.start()
    e = d.call("exec.signal", {"exec_id": "ex-0123456789ab"})["error"]
    assert e["data"]["code"] == "exec_not_found" and "ex-0123456789ab" in e["message"]
    typed(d, e["data"]["fix"])


@provokes("wrong_state")
def machine_that_has_a_command(d):
    d.start()
    vm = works(d, "vm", "create", "--id-only", "debian:12").text.strip()
    works(d, "vm", "start", vm)
    p = d.popen("vm", "exec", vm, "--", "echo on; sleep 0", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert p.stdout.readline() == b"on\n"
    f = fails(d, "wrong_state", "vm", "exec", vm, "--", "true", says=vm)
    other = re.search("vm-[0-9a-f]{12}", typed(d, f.fix)).group()
    works(d, "vm", "exec", other, "--", "true")
    p.terminate()
    p.communicate(timeout=30)
    d.wait_clean()


@provokes("quota_exceeded")
def too_many_machines(d):
    d.start()
    reload(d, "max_machines = 1")
    vm = works(d, "vm", "create", "--id-only", "debian:12").text.strip()
    f = fails(d, "quota_exceeded", "run", *TRUE, says="machines")
    assert "max_machines" in f.cause
    # A stopped one counts too: only its deletion helps.
    command, shows = re.fullmatch("(pyro vm delete) VM_ID, for a machine that (pyro vm list) shows", f.fix).groups()
    found, = re.findall("vm-[0-9a-f]{12}", typed(d, shows))
    typed(d, command + " " + found)
    assert found == vm
    works(d, "run", *TRUE)


@provokes("quota_exceeded")
def more_than_a_user_may_have(d):
    d.start()
    reload(d, "max_vcpus = 1", "max_memory_mib = 300", "max_disk_mib = 500")
    for words, says, least in ((("-m", "301", "--disk-mib", "64"), "memory", 128), (("-m", "300", "--disk-mib", "501"), "disk", 64)):
        f = fails(d, "quota_exceeded", "run", *words, *TRUE, says=says)
        flag, n = re.fullmatch(r"ask for at most \d+: (\S+) (\d+), \w+=\d+", f.fix).groups()
        assert int(n) >= least
        works(d, "run", *words, flag, n, *TRUE)


@provokes("no_space")
def disk_full(d):
    d.start()
    room = os.statvfs(d.state)
    total, free = (room.f_blocks * room.f_frsize >> 20, room.f_bavail * room.f_frsize >> 20)
    reload(d, "disk_reserve_mib = %d" % (free + (total - free) // 2))
    f = fails(d, "no_space", "run", *d.run_flags(), *TRUE, says="MiB of space are free in " + d.state)
    assert re.fullmatch(r"free at least \d+ MiB there", f.fix) and "disk_reserve_mib in pyrod.conf keeps" in f.cause, f.fix
    reload(d, "disk_reserve_mib = 1000000000")  # more than the file system has: freeing space would not help
    f = fails(d, "no_space", "run", *d.run_flags(), *TRUE, says="MiB of space are free in " + d.state)
    most, = re.fullmatch(r"set disk_reserve_mib in pyrod.conf to at most (\d+) and reload pyrod", f.fix).groups()
    reload(d, "disk_reserve_mib = " + most)
    works(d, "run", *d.run_flags(), *TRUE)


@provokes("no_memory")
def host_full(d):
    d.start()
    reload(d, "memory_reserve_mib = 1000000000")
    f = fails(d, "no_memory", "run", "-m", "204", *TRUE, says="but the machine needs 204")
    assert "memory_reserve_mib in pyrod.conf keeps 1000000000 MiB" in f.cause
    most, = re.fullmatch(r"set memory_reserve_mib in pyrod.conf to at most (\d+) and reload pyrod", f.fix).groups()
    reload(d, "memory_reserve_mib = " + most)
    works(d, "run", "-m", "208", *TRUE)


@provokes("vm_unavailable")
def no_qemu(make_fake):
    d = make_fake(build=BUILD_ASAN, conf=["qemu ="])
    os.makedirs(d.root + "/path")
    d.env["PATH"] = d.root + "/path"
    d.start()
    d.env["PATH"] = os.environ["PATH"]
    f = fails(d, "vm_unavailable", "run", *TRUE, says="qemu-system-x86_64")
    typed(d, f.fix, apt='[ "$*" = "install -y qemu-system-x86" ] && cp %s %s/path/qemu-system-x86_64' % (d.vmm, d.root))
    reload(d, "qemu = %s/nothing" % d.root)
    f = fails(d, "vm_unavailable", "run", *TRUE, says=d.root + "/nothing")
    assert f.fix == "correct qemu= in pyrod.conf, or leave it out"
    reload(d, "qemu = " + d.vmm)
    works(d, "run", *TRUE)


@provokes("start_failed")
def kernel_that_does_not_exist(d):
    d.start()
    reload(d, "kernel = %s/no-kernel" % d.root)
    f = fails(d, "start_failed", "run", *TRUE, says=d.root + "/no-kernel")
    assert f.fix == "Correct kernel= in pyrod.conf, or leave it out."
    reload(d, "kernel =")
    works(d, "run", *TRUE)


@provokes("guest_unresponsive")
def machine_that_does_not_answer(d):
    d.start()
    vm = works(d, "vm", "create", "--id-only", *d.run_flags(), "debian:12").text.strip()
    works(d, "vm", "start", vm)
    pid, = d.vmm_pids()
    os.kill(pid, signal.SIGSTOP)
    d.kill()
    d.start()
    f = fails(d, "guest_unresponsive", "vm", "exec", vm, "--", "true", says=vm, json_too=False)
    assert vm in typed(d, f.fix)
    os.kill(pid, signal.SIGCONT)
    works(d, "vm", "exec", vm, "--", "true")
    d.wait_clean(30)


@provokes("guest_died")
def panic_is_one_clean_line(d):
    d.start()
    f = fails(d, "guest_died", "run", "-q", "debian:12", "--", "panic", says="ended while its command ran", json_too=False)
    vm = re.search("vm-[0-9a-f]{12}", f.message).group()
    assert f.cause == ("the guest shut down or reset by itself; its console shows: pyro-agent: the port: No such device; "
                       "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100")
    d.wait_clean()
    # The fix shows the console's end, which is in the log line by line: each line names its machine, for the guest wrote it.
    shown = typed(d, f.fix).splitlines()
    assert shown[-1].endswith("%s: %s" % (vm, f.cause)) and shown[-2].endswith("pyrod: %s: console: [    2.413001] ---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100 ]---" % vm)
    logged = [line for line in d.log_text().splitlines() if "do_group_exit" in line]
    assert len(logged) == 38 and all(": %s: console: [" % vm in line for line in logged), logged
    assert not re.search(r"[\x00-\x1f]|\\x", "".join(shown)), shown
    # Its owner cannot fill the log with it: 50 lines in ten seconds, and the number of suppressed lines is reported later.
    begin = time.monotonic()
    for _ in range(3):
        fails(d, "guest_died", "run", "-q", "debian:12", "--", "panic", says="ended while its command ran", json_too=False)
    lines = d.log_text().count(": console: ")
    assert lines <= 50 * (1 + (time.monotonic() - begin + 10) // 10) and lines < 160, lines
    works(d, "run", *TRUE)


@provokes("guest_died")
def vmm_that_is_killed(d):
    """Killed on the host, as by its OOM killer: only pyrod reports it."""
    d.start()
    with d.popen("-q", "run", *d.run_flags(), "debian:12", "--", "echo up; sleep 60000", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE) as p:
        assert p.stdout.readline() == b"up\n"
        (pid,) = d.vmm_pids()
        os.kill(pid, signal.SIGKILL)
        err = p.communicate(timeout=30)[1].decode()
    assert p.returncode == 125
    cause = "the VMM was killed by signal 9 (Killed), perhaps by the host's OOM killer or an administrator"
    assert re.search(r"^pyro: machine vm-\S+ ended while its command ran\n  cause: %s\n  fix: " % re.escape(cause), err), err
    d.wait_clean()
    assert cause in typed(d, re.search("  fix: (.*)", err).group(1))


@provokes("guest_died")
def guest_that_restarts_itself(d):
    d.start()
    f = fails(d, "guest_died", "run", "-q", "debian:12", "--", "reboot", says="ended", json_too=False)
    assert "restarted" in f.cause and f.fix == "remove reboot, halt and poweroff from the command"
    works(d, "run", *TRUE)
    d.wait_clean()


@provokes("cancelled")
def cancelled_by_its_caller(d):
    """There is nothing to do: the cause says what became of the work."""
    d.start()
    p = d.popen("--json", "run", "debian:12", "--", "sleep 0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while b"phase=execute" not in p.stderr.readline():
        pass
    p.terminate()
    out, _ = p.communicate(timeout=30)
    e = json.loads(out)["error"]
    assert (e["code"], e["fix"], e["retryable"]) == ("cancelled", None, False) and "its machine is deleted" in e["cause"], e
    d.wait_clean()


@provokes("permission_denied")
def not_an_administrator(d):
    d.start()
    os.chmod(d.socket, 0o666)
    r = subprocess.run(["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups", *d.command("env", "prune", "--all")],
                       env=d.client_env(), capture_output=True, text=True)
    assert r.returncode == 1 and "not permitted for uid %d" % NOBODY in r.stderr and "fix: sudo pyro env prune --all\n" in r.stderr, r
    works(d, "env", "prune", "--all", "--dry-run")


@provokes("internal")
def damaged_store(d):
    d.start()
    assert d.stop() == 0
    with open(d.state + "/pyro.db", "wb") as f:
        f.write(b"no store" * 1000)
    d.start()
    f = fails(d, "internal", "vm", "list", says=d.state + "/pyro.db is damaged")
    report = d.call("system.doctor")["result"]  # and in the shape of the table: assert_no_faults
    assert [c["ok"] for c in report["runtime"]["checks"] if c["name"] == "store"] == [False], report
    typed(d, f.fix)
    d.process.wait(30)
    try:
        works(d, "vm", "list")
    finally:
        os.kill(d.call("system.ping")["result"]["pid"], signal.SIGKILL)
        d.process = None


@provokes("seed_refused")
def archive_that_leaves_its_folder(d):
    def pack(*names):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as t:
            for name in names:
                t.addfile(tarfile.TarInfo(name))
        return data.getvalue()

    def unpack(tar):
        os.makedirs(d.root + "/out", exist_ok=True)
        r = subprocess.run([stage(BUILD_ASAN) + "/libexec/pyro/pyro-import", "tar", "--input", "-", "--output", d.root + "/out"], input=tar,
                           env=d.env, capture_output=True, timeout=60)
        return json.loads(r.stdout.splitlines()[-1])

    e = unpack(pack("good", "../evil\x1b[1m"))["error"]
    assert e["code"] == "seed_refused" and "../evil" in e["message"] and e["fix"] == "leave this entry out of the archive", e
    assert "error" not in unpack(pack("good"))


# --- all of them

@pytest.mark.parametrize("row", [f for rows in ROWS.values() for f in rows], ids=lambda f: f.__name__)
def test_error(row, make_fake):
    row(make_fake if row is no_qemu else make_fake(build=BUILD_ASAN, deadlines=DEADLINES.get(row.__name__)))


def test_every_code_has_a_row():
    table = json.load(open(stage(BUILD_ASAN) + "/share/pyro/openrpc.json"))["components"]["errors"]
    assert set(ROWS) <= set(table)
    assert set(table) - set(ROWS) <= NOT_MADE


def test_codes_without_a_row_are_never_given(tmp_path):
    """The compiler confirms that neither daemon nor client names one."""
    poison = tmp_path / "poison.h"
    poison.write_text('#include "proto/error.h"\n#pragma GCC poison %s\n' % " ".join("ERROR_" + code.upper() for code in NOT_MADE))
    units = [u for u in json.load(open(BUILD_ASAN + "/compile_commands.json")) if u["file"].startswith(("../daemon/", "../client/"))]
    assert len(units) > 100
    flags = sorted({word for u in units for word in shlex.split(u["command"]) if re.match("-[ID]", word)})
    p = subprocess.run(["cc", "-E", "-std=gnu17", "-include", str(poison), *flags, *sorted({u["file"] for u in units})], cwd=BUILD_ASAN,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 0, "made now: it needs a row\n" + p.stderr[-4000:]
