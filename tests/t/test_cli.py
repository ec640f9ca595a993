# SPDX-License-Identifier: MIT
"""The command line against a fake daemon: usage, help, exit statuses, streams, signals, and every reason for which a daemon
cannot be reached. tests/vm proves with guests once more what this proves with a fake."""
import base64
import contextlib
import hashlib
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from conftest import BUILD_ASAN, table
from fake_daemon import EXEC, STDERR, STDOUT, VM, Failure, FakeDaemon, Gone

PYRO = os.environ.get("PYRO_TEST_CLI", BUILD_ASAN + "/client/pyro")


@pytest.fixture
def place(tmp_path):
    return str(tmp_path) + "/pyrod.sock"


@pytest.fixture
def fake(place):
    d = FakeDaemon(place)
    yield d
    d.close()
    assert not d.broken, d.broken


@pytest.fixture
def env(tmp_path, place):
    return dict(os.environ, PYRO_SOCKET=place, HOME=str(tmp_path), PYRO_RUNTIME_DIR=str(tmp_path) + "/run",
                PYRO_STATE_DIR=str(tmp_path) + "/state", XDG_STATE_HOME=str(tmp_path) + "/xdg")


def start(env, *args, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([PYRO, *args], env=env, stdout=kw.pop("stdout", subprocess.PIPE),
                            stderr=kw.pop("stderr", subprocess.PIPE), **kw)


def pyro(env, *args, input=None, **kw):
    p = start(env, *args, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, **kw)
    out, err = p.communicate(input, timeout=40)
    assert b"Sanitizer" not in (err or b"") and b"runtime error" not in (err or b""), err
    return p.returncode, (out or b"").decode(), (err or b"").decode()


# --- usage and help: nothing is connected, nothing changes


@pytest.mark.parametrize("args,status,says", [
    ([], 2, "no command"),
    (["bogus"], 2, "bogus"),
    (["env"], 2, "no command"),
    (["env", "frob"], 2, "env frob"),
    (["--bogus"], 2, "--bogus"),
    (["env", "pull"], 2, "ENVIRONMENT"),
    (["env", "pull", "a", "b"], 2, "b"),
    (["--socket"], 2, "needs a value"),
    (["--user", "--system", "env", "list"], 2, "exclude"),
    (["env", "list", "--json=1"], 2, "no value"),
    (["run"], 125, "ENVIRONMENT"),
    (["run", "debian:12"], 125, "missing CMD"),
    (["run", "debian:12", "--"], 125, "missing CMD"),
    (["run", "debian:12", ""], 125, "empty"),
    (["run", "--cpus", "0", "debian:12", "true"], 125, "0 is outside the range 1 to 32"),
    (["run", "--cpus", "1000", "debian:12", "true"], 125, "1000 is outside the range 1 to 32"),
    (["run", "--cpus", "two", "debian:12", "true"], 125, "'two'"),
    (["run", "-m", "1", "debian:12", "true"], 125, "128"),
    (["run", "-m1000000000", "debian:12", "true"], 125, "16777216"),
    (["run", "-m", "2X", "debian:12", "true"], 125, "'2X'"),
    (["run", "-m", "99999999999999999999T", "debian:12", "true"], 125, "-m"),
    (["run", "--timeout", "-1", "debian:12", "true"], 125, "-1"),
    (["run", "--timeout", "2d", "debian:12", "true"], 125, "2d is outside the range 0 to 86400"),
    (["run", "--timeout", "5y", "debian:12", "true"], 125, "'5y'"),
    (["run", "--accelerator", "warp", "debian:12", "true"], 125, "auto, kvm, emulation"),
    (["run", "-e", "=x", "debian:12", "true"], 125, "no name"),
    (["run", "--network", "debian:12", "true"], 125, "not supported"),
    (["run", "--allow-host-compat", "debian:12", "true"], 125, "not supported"),
    (["run", "-t", "debian:12", "true"], 125, "not supported"),
    (["run", "-it", "debian:12", "true"], 125, "not supported"),
    (["run", "debian:12", "--", b"\xff"], 125, "UTF-8"),
    (["run", "-m", b"\xff", "debian:12", "true"], 125, "UTF-8"),
    (["run", "-e", b"A=\xff", "debian:12", "true"], 125, "UTF-8"),
    (["run", b"--fro\xffb", "debian:12", "true"], 125, "--fro\\xffb"),
    (["env", "list", b"\xff"], 2, "unexpected word"),
    ([b"fr\xffob"], 2, "fr\\xffob"),
    (["--bogus", "run", "debian:12", "true"], 125, "--bogus"),
    (["--bogus", "value", "run", "debian:12", "true"], 125, "--bogus"),
    (["--user", "--system", "run", "debian:12", "true"], 125, "exclude"),
    (["--bogus", "vm", "exec", VM, "true"], 125, "--bogus"),
    (["vm", "--bogus", "exec", VM, "true"], 125, "--bogus"),
    (["--bogus", "vm", "status", VM], 2, "--bogus"),
    (["--bogus", "env", "pull", "run"], 2, "--bogus"),
    (["bogus", "run"], 2, "bogus"),
    (["vm", "run"], 2, "vm run"),
    (["vm", "status"], 2, "VM_ID"),
    (["vm", "status", "nonsense"], 2, "nonsense"),
])
def test_usage(env, fake, args, status, says):
    got, out, err = pyro(env, *args)
    assert (got, out) == (status, ""), err
    assert err.startswith("pyro: ") and says in err
    assert not [c for c in fake.calls if c[0] != "system.ping"]
    got, out, err = pyro(env, "--json", *args)
    assert got == status and err == ""
    o = json.loads(out)
    assert set(o) == {"ok", "error"} and o["ok"] is False
    assert set(o["error"]) == {"code", "message", "cause", "fix", "retryable", "data"}


@pytest.mark.parametrize("args,status,says,fix", [
    (["vm", "list", "--user"], 2, "vm list: --user belongs before the command", "pyro --user vm list"),
    (["vm", "--user", "list"], 2, "vm: --user belongs before the command", "pyro --user vm list"),
    (["env", "pull", "--system", "debian:12"], 2, "--system belongs", "pyro --system env pull debian:12"),
    (["vm", "status", VM, "--socket", "/a b"], 2, "--socket belongs", "pyro --socket '/a b' vm status " + VM),
    (["vm", "status", VM, "--socket=/a"], 2, "--socket belongs", "pyro '--socket=/a' vm status " + VM),
    (["run", "--system", "debian:12", "true"], 125, "run: --system belongs", "pyro --system run debian:12 true"),
    (["doctor", "--socket"], 2, "--socket belongs", "pyro doctor"),
    (["evn", "list", "-q"], 2, "did you mean 'env'?", "pyro env list -q"),
    (["env", "pul", "debian:12"], 2, "did you mean 'env pull'?", "pyro env pull debian:12"),
    (["rnu", "debian:12", "echo a b"], 2, "did you mean 'run'?", "pyro run debian:12 'echo a b'"),
    (["ls"], 2, "did you mean 'vm list'?", "pyro vm list"),
    (["rm", VM], 2, "did you mean 'vm delete'?", "pyro vm delete " + VM),
    (["create", "debian:12"], 2, "did you mean 'vm create'?", "pyro vm create debian:12"),
    (["run", "--memroy", "2G", "debian:12", "true"], 125, "did you mean --memory?", "pyro run --memory 2G debian:12 true"),
    (["run", "--cpu=2", "debian:12", "true"], 125, "did you mean --cpus?", "pyro run --cpus=2 debian:12 true"),
    (["--jsn", "env", "list"], 2, "did you mean --json?", "pyro --json env list"),
    (["vm", "list", "--all"], 2, "did you mean --all-users?", "pyro vm list --all-users"),
    (["env", "prune", "--all", "--dry"], 2, "did you mean --dry-run?", "pyro env prune --all --dry-run"),
    (["env", "list", "--usr"], 2, "unknown option --usr", "pyro env list --help"),
    (["exec", VM, "true"], 2, "unknown command 'exec'", "pyro vm exec %s true" % VM),
    (["exec", "-it", "web", "sh"], 2, "did you mean 'workspace exec'?\n  cause: -t is not supported yet\n", "pyro workspace exec --help"),
    (["ps"], 2, "unknown command 'ps'", "pyro workspace list"),
    (["ssh", "x"], 2, "unknown command 'ssh'", "pyro run -i debian:12 -- sh"),
    (["cp", "a", "b"], 2, "unknown command 'cp'", "tar c /etc/hostname | pyro run -i debian:12 -- tar xv"),
    (["run", "-v", ".:/src", "debian:12", "true"], 125, "run: unknown option -v", "tar c . | pyro run -i debian:12 -- sh -c 'tar x && ls'"),
    (["run", "-p", "80:80", "debian:12", "true"], 125, "run: unknown option -p", "pyro run debian:12 true"),
    (["run", "-p80:80", "debian:12", "true"], 125, "run: unknown option -p", "pyro run debian:12 true"),
    (["run", "--mount=type=bind", "debian:12", "true"], 125, "run: unknown option --mount", "tar c . | pyro run -i debian:12 -- sh -c 'tar x && ls'"),
    (["run", "-d", "debian:12", "true"], 125, "run: unknown option -d", "pyro run debian:12 true"),
    (["run", "-qd", "debian:12", "true"], 125, "run: unknown option -d", "leave out -d"),
    (["run", "--name", "x", "debian:12", "true"], 125, "run: unknown option --name", "pyro run debian:12 true"),
    (["run", "--entrypoint=sh", "debian:12", "true"], 125, "run: unknown option --entrypoint", "pyro run debian:12 true"),
    (["run", "--workdir", "/a b", "debian:12", "true"], 125, "did you mean --cwd?", "pyro run --cwd '/a b' debian:12 true"),
    (["run", "--privileged", "debian:12", "true"], 125, "run: unknown option --privileged", "pyro run debian:12 true"),
    (["vm", "create", "--name", "x", "debian:12"], 2, "vm create: unknown option --name", "pyro vm create debian:12"),
    (["rm", "web"], 2, "did you mean 'vm delete'?", "pyro vm list"),
    (["status"], 2, "did you mean 'vm status'?\n  cause: vm status: missing VM_ID\n", "pyro vm list"),
    (["status", VM], 2, "did you mean 'vm status'?", "pyro vm status " + VM),
    (["kill", VM], 2, "did you mean 'vm stop'?", "pyro vm stop " + VM),
    (["kill", "web"], 2, "did you mean 'vm stop'?", "pyro vm list"),
    (["vm", "sttus"], 2, "did you mean 'vm status'?", "pyro vm list"),
    (["vm", "stats", VM, "x"], 2, "did you mean 'vm status'?\n  cause: vm status: unexpected word x\n", "pyro vm status --help"),
    (["stats"], 2, "unknown command 'stats'\n  cause: this version does not show what runs in a machine\n", "pyro vm list"),
    (["top"], 2, "unknown command 'top'", "pyro vm list"),
    (["logs", VM], 2, "unknown command 'logs'", "pyro run debian:12 -- uname -a | tee output"),
    (["attach", VM], 2, "unknown command 'attach'", "pyro run -i debian:12 -- sh"),
    (["rmi", "debian:12"], 2, "unknown command 'rmi'\n  cause: single environments cannot be removed", "pyro env prune --all --dry-run"),
    (["env", "rm", "debian:12"], 2, "unknown command 'env rm'", "pyro env prune --all --dry-run"),
    (["image", "ls"], 2, "unknown command 'image ls'; did you mean 'env list'?", "pyro env list"),
    (["image", "pull", "debian:12"], 2, "did you mean 'env pull'?", "pyro env pull debian:12"),
    (["container", "rm", VM], 2, "did you mean 'vm delete'?", "pyro vm delete " + VM),
    (["container", "ls", "-a"], 2, "did you mean 'vm list'?\n  cause: vm list: unknown option -a\n", "pyro vm list --help"),
    (["inspect", "debian:12"], 2, "did you mean 'env inspect'?", "pyro env inspect debian:12"),
    (["inspect", VM], 2, "did you mean 'vm status'?", "pyro vm status " + VM),
    (["vm", "kill", VM], 2, "unknown command 'vm kill'; did you mean 'vm stop'?", "pyro vm stop " + VM),
    (["vm", "-q", "kill", VM], 2, "unknown command 'vm kill'", "pyro vm --help"),
    (["vm", "logs", VM], 2, "unknown command 'vm logs'\n  cause: the output of a machine's only command", "pyro run debian:12 -- uname -a | tee output"),
    (["vm", "run", "debian:12", "true"], 2, "did you mean 'run'?", "pyro run debian:12 true"),
    (["env", "build", "."], 2, "unknown command 'env build'", "pyro env list"),
    (["destroy", VM], 2, "did you mean 'vm delete'?", "pyro vm delete " + VM),
    (["evn"], 2, "did you mean 'env'?", "pyro env --help"),
    (["evn", "ls"], 2, "did you mean 'env'?", "pyro env ls"),
    (["rnu", "debian:12"], 2, "did you mean 'run'?\n  cause: run: missing CMD, the command\n", "pyro run --help"),
    (["ws", "up"], 2, "unknown command 'workspace up'\n  cause: it comes with a later version\n", "pyro --help"),
    (["run", "-m", "debian:12", "--", "id"], 125, "-m: 'debian:12' is not a size", "pyro run -m 1024M debian:12 -- id"),
    (["run", "--cpus", "debian:12", "id"], 125, "'debian:12' is not a whole number", "pyro run --cpus 1 debian:12 id"),
    (["run", "-m", "--cpus", "2", "debian:12", "id"], 125, "'--cpus' is not a size", "pyro run -m 1024M --cpus 2 debian:12 id"),
    (["run", "--ttl-seconds", "debian:12", "id"], 125, "is not a duration", "pyro run debian:12 id"),
    (["run", "--accelerator", "debian:12", "id"], 125, "is not one of auto, kvm", "pyro run --accelerator auto debian:12 id"),
    (["run", "-w", "debian:12", "--", "id"], 125, "missing CMD, the command; -w has taken 'debian:12' as its value", "pyro run debian:12 -- id"),
    (["run", "-e", "debian:12", "id"], 125, "missing CMD, the command; -e has taken", "pyro run debian:12 id"),
    (["run", "-w", "debian:12"], 125, "missing ENVIRONMENT; -w has taken", "pyro run debian:12"),
    (["vm", "exec", "--timeout", VM, "id"], 125, "is not a duration", "pyro vm exec --timeout 30s %s id" % VM),
    (["--bogus"], 2, "unknown option --bogus", "pyro --help"),
])
def test_mistyped_commands(env, fake, args, status, says, fix):
    """The fix is the line as it should have been."""
    got, out, err = pyro(env, *args)
    assert (got, out) == (status, "") and says in err, err
    assert fix is None or fixed(err) == fix
    assert not fake.calls


def runs(env, fake, fix):
    """Runs it as a user would paste it, with pyro on PATH."""
    binary = env["HOME"] + "/bin"
    os.makedirs(binary, exist_ok=True)
    if not os.path.exists(binary + "/pyro"):
        os.symlink(PYRO, binary + "/pyro")
    p = subprocess.run(["bash", "-o", "pipefail", "-c", fix], env=dict(env, PATH=binary + ":" + env["PATH"]), capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, cwd=env["HOME"] + "/bin", timeout=60)
    assert p.returncode == 0, (fix, p)


def takes_input(run):
    """A command whose input is read to its end: a fix that pipes into it fails with SIGPIPE if it does not read."""
    while run.params.get("interactive") and run.stdio.read():
        pass
    return run.result()


def served(fake):
    fake.guest = takes_input
    fake.results.update({"env.list": {"catalog_version": "1", "environments": []}, "env.prune": {"deleted": [], "bytes_freed": 0},
                         "env.pull": {}, "env.inspect": {}, "vm.list": {"vms": []}, "workspace.list": {"workspaces": []}, "vm.delete": {"vm_id": VM}, "vm.create": machine(),
                         "system.doctor": {"runtime": {"ok": True}}, "vm.reap_expired": {"deleted_vm_ids": []},
                         **{"vm." + verb: machine() for verb in ("status", "start", "stop")}})


def test_every_word_of_docker_has_a_fix_that_runs(env, fake):
    """Tried alone, and followed by an environment, a machine and a command: the fix is never refused itself."""
    words = [row[0] for row in table("words")]
    assert len(words) > 60
    served(fake)
    fixes = set()
    for word in words:
        for more in ([], ["debian:12"], [VM], [VM, "true"], ["-it", "web", "sh"]):
            status, _, err = pyro(env, *word.split(), *more)
            if word in ("images", "pull", "info") and not status:
                continue
            assert err.count("\n  fix: ") == 1, err
            fixes.add(fixed(err))
    for fix in fixes:
        runs(env, fake, fix)


def test_every_flag_of_docker_has_a_fix_that_runs(env, fake):
    served(fake)
    flags = table("flags")
    assert len(flags) > 30
    for name, takes_value in flags:
        status, _, err = pyro(env, "run", name, *(["x"] if takes_value == "1" else []), "debian:12", "true")
        assert status == 125 and "run: unknown option %s\n  cause: " % name in err, err
        runs(env, fake, fixed(err))


def test_words_of_docker_that_work(env, fake):
    fake.guest = hello
    assert pyro(env, "run", "--rm", "--init", "debian:12", "true")[0] == 7
    fake.results["env.list"] = {"catalog_version": "1", "environments": [{"name": "debian:12", "installed": True}]}
    assert pyro(env, "images")[:2] == pyro(env, "env", "list")[:2]
    assert pyro(env, "env", "ls")[:2] == pyro(env, "env", "list")[:2]
    fake.results["env.pull"] = {}
    assert pyro(env, "pull", "debian:12")[:2] == (0, "Pulled: debian:12\n")


@pytest.mark.parametrize("words", [["run"], ["env", "pull"], ["vm"], ["doctor"], ["vm", "rm"]])
def test_help_before_and_after_the_command(env, words):
    behind = pyro(env, *words, "--help")
    assert behind[0] == 0 and pyro(env, "help", *words) == behind
    assert "Before the command:" in behind[1] and "Anywhere:" in behind[1]
    assert pyro(env, "help", "--json", *words) == behind


def test_help_of_help(env):
    assert pyro(env, "--help") == pyro(env, "help") == pyro(env, "help", "help") == pyro(env, "help", "--json") == pyro(env, "help", "-q", "help")


def test_scope(env, fake):
    """PYRO_SCOPE means --user or --system, unless a socket is named."""
    fake.results["env.list"] = {"catalog_version": "1", "environments": []}
    assert pyro(dict(env, PYRO_SCOPE="user"), "env", "list")[0] == 0
    other = dict(env, PYRO_SCOPE="user", PYRO_DAEMON="/bin/false")
    del other["PYRO_SOCKET"]
    status, _, err = pyro(other, "env", "list")
    assert status == 1 and "started /bin/false --user" in err, err
    assert pyro(other, "--socket", fake.path, "env", "list")[0] == 0
    del other["PYRO_SCOPE"]
    status, _, err = pyro(dict(other, PYRO_SCOPE="mine"), "env", "list")
    assert status == 2 and "PYRO_SCOPE is 'mine', neither user nor system" in err and fixed(err) == "unset PYRO_SCOPE"


def test_json_is_indented_on_a_terminal(env, fake):
    fake.results["vm.list"] = {"count": 0, "vms": []}
    assert pyro(env, "--json", "vm", "list")[1] == '{"count":0,"vms":[]}\n'
    master, slave = os.openpty()
    p = start(env, "--json", "vm", "list", stdout=slave)
    os.close(slave)
    assert p.wait(20) == 0
    text = os.read(master, 4096).decode()
    os.close(master)
    p.stderr.close()
    # json-c decides how an empty array is broken into lines: 0.16 gives it two, 0.18 one.
    assert json.loads(text) == {"count": 0, "vms": []} and text.startswith('{\r\n  "count"') and text.count("\n") in (4, 5), text


@pytest.mark.parametrize("args", [
    ["--help"], ["-h"], ["help"], ["env", "--help"], ["vm", "--help"], ["run", "--help"], ["doctor", "--help"],
    ["env", "list", "--help"], ["env", "pull", "--help"], ["env", "inspect", "--help"], ["env", "prune", "-h"],
    ["vm", "list", "--help"], ["vm", "status", "--help"], ["vm", "delete", "--help"], ["vm", "reap-expired", "--help"],
])
def test_help_has_an_example(env, args):
    status, out, err = pyro(env, *args)
    assert status == 0 and err == ""
    assert "Usage: pyro" in out and "Example:\n  pyro" in out or "  tar c" in out


def test_help_speaks_of_its_own_command(env):
    out = pyro(env, "vm", "exec", "--help")[1]
    assert "first word after VM_ID." in out and "After `vm exec`, --user" in out and "either" not in out and "ENVIRONMENT" not in out
    out = pyro(env, "run", "--help")[1]
    assert "first word after ENVIRONMENT." in out and "After `run`, --user" in out
    for word in ("network", "allow-host-compat", "tty"):
        assert re.search(r"--%s +.* \(not in this version\)" % word, out), out


def test_help_of_a_negated_flag(env):
    assert "--no-probe                Do not run `true` in a probe machine" in pyro(env, "doctor", "--help")[1]


def test_version(env, fake):
    assert pyro(env, "--version")[:2] == (0, "pyro 0.1.0 (daemon 9.9, api 1)\n")
    assert json.loads(pyro(env, "--json", "--version")[1]) == {"version": "0.1.0", "daemon_version": "9.9", "api_version": 1}
    fake.close()
    os.unlink(fake.path)
    assert json.loads(pyro(env, "--version", "--json")[1]) == {"version": "0.1.0", "daemon_version": None, "api_version": 1}
    assert pyro(env, "--version")[:2] == (0, "pyro 0.1.0 (daemon not running, api 1)\n")


def test_complete(env, fake):
    assert pyro(env, "__complete", "e")[1] == "env\n"
    assert pyro(env, "__complete", "env", "p")[1].split() == ["pull", "prune"]  # test_completion.py tests more of it
    assert "--mem-mib" in pyro(env, "__complete", "run", "--m")[1]
    fake.results["env.list"] = {"catalog_version": "1", "environments": [{"name": "debian:12"}]}
    assert pyro(dict(env, PYRO_COMPLETION_WAIT_MS="20000"), "__complete", "env", "pull", "deb")[1] == "debian:12\n"


# --- no daemon, or a bad one


def fixed(err):
    lines = err.splitlines()
    assert lines[0].startswith("pyro: ")
    return [line[7:] for line in lines if line.startswith("  fix: ")][0]


def test_no_socket(env, place):
    status, _, err = pyro(env, "env", "list")
    assert status == 1 and place in err and "the socket does not exist" in err
    assert fixed(err) == "pyrod --socket %s --detach" % place
    assert pyro(env, "run", "debian:12", "true")[0] == 125


def test_json_of_a_path_that_is_not_utf8(env):
    for args, path in ((["env", "list"], ["error", "message"]), (["doctor"], ["runtime", "checks", 0, "detail"])):
        out = pyro(env, "--json", "--socket", b"/tmp/\xff\xc3", *args)[1]
        o = json.loads(out)
        for key in path:
            o = o[key]
        assert "/tmp/\ufffd\ufffd" in o


def test_stale_socket(env, place):
    FakeDaemon(place, accept=False).close()
    status, _, err = pyro(env, "env", "list")
    assert status == 1 and "the daemon that listened there has ended" in err and fixed(err).startswith("pyrod --socket")


def test_not_permitted(tmp_path, place):
    if os.getuid() != 0:
        pytest.skip("needs root, to act as another user")
    d = FakeDaemon(place)
    os.chmod(place, 0o600)
    for p in (tmp_path, *tmp_path.parents):
        if p != p.parent:
            os.chmod(p, p.stat().st_mode | stat.S_IXOTH)
    binary = str(tmp_path) + "/pyro"
    subprocess.run(["cp", PYRO, binary], check=True)
    other, file = str(tmp_path) + "/docker.sock", str(tmp_path) + "/passwd"
    open(file, "w").close()
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(other)
    os.chmod(other, 0o660)
    os.chown(other, 0, 4)  # membership of its group may amount to being root
    said = []
    os.symlink(other, str(tmp_path) + "/link")
    os.mkdir(str(tmp_path) + "/open", 0o755)
    os.rename(str(tmp_path) + "/link", str(tmp_path) + "/open/pyrod.sock")
    for path in (place, other, file, str(tmp_path) + "/open/pyrod.sock"):
        p = subprocess.run([binary, "env", "list"], capture_output=True, text=True, user=65534, group=65534,
                           extra_groups=[], env=dict(os.environ, PYRO_SOCKET=path, HOME="/nonexistent"))
        assert p.returncode == 1
        said.append(p.stderr)
    d.close()
    refused = "pyro: no permission to use the socket %s\n  cause: it belongs to root (uid 0), and is not the system daemon's\n  fix: unset PYRO_SOCKET\n"
    assert said[0].startswith("pyro: no permission to use the socket %s\n  cause: it is for group pyro, which does not exist\n"
                              "  fix: sudo groupadd --system pyro && sudo chgrp pyro %s && sudo chmod g+rw %s && sudo usermod -aG pyro" % (place, place, place))
    assert said[1:] == [refused % other, "pyro: %s is not a socket\n  cause: it is a file\n  fix: unset PYRO_SOCKET\n" % file,
                        refused % (str(tmp_path) + "/open/pyrod.sock")]


LEAVE = "leave out --socket, or give it the socket of a daemon"


def bad_places(tmp_path):
    """(path, message, cause) of paths that are not a daemon's socket, each of which a fix could damage."""
    top = str(tmp_path) + "/"
    open(top + "file", "w").close()
    os.mkdir(top + "folder")
    os.mkfifo(top + "pipe")
    os.symlink(top + "file", top + "link")
    os.symlink(top + "nothing", top + "loose")
    os.symlink(top + "self", top + "self")
    for kind, name in ((socket.SOCK_DGRAM, "datagrams"), (socket.SOCK_STREAM, "other.sock"), (socket.SOCK_STREAM, "pyrod.sock")):
        with socket.socket(socket.AF_UNIX, kind) as s:
            s.bind(top + name)
    os.symlink(top + "pyrod.sock", top + "to-socket")
    no = "pyrod does not run at %s"
    return [(top + name, message, cause, fix) for name, message, cause, fix in (
        ("file", "%s is not a socket", "it is a file", LEAVE), ("folder", "%s is not a socket", "it is a directory", LEAVE),
        ("pipe", "%s is not a socket", "it is a pipe", LEAVE), ("link", "%s is not a socket", "it is a file", LEAVE),
        ("loose", "%s is not a socket", "it is a broken symbolic link", LEAVE),
        ("self", "%s is not a socket", "it is a broken symbolic link", LEAVE),
        (os.path.relpath("/dev/null", top), "%s is not a socket", "it is a device", LEAVE),
        ("datagrams", no, None, LEAVE), ("other.sock", no, "the daemon that listened there has ended", LEAVE),
        ("to-socket", no, "the daemon that listened there has ended", LEAVE),
        ("file/below", no, "the socket does not exist", LEAVE), ("none/pyrod.sock", no, "the socket does not exist", LEAVE),
        ("x" * 200, no, None, LEAVE), ("new\nline", no, "the socket does not exist", LEAVE),
        ("new", no, "the socket does not exist", "pyrod --socket %snew --detach" % top),
        ("pyrod.sock", no, "the daemon that listened there has ended", "pyrod --socket %spyrod.sock --detach" % top))]


@pytest.mark.parametrize("variable", [False, True])
def test_paths_that_are_not_a_daemons_socket(env, tmp_path, variable):
    """A path may be a typo as well as a daemon that has ended: the fix changes only what is known to belong to pyro."""
    for path, message, cause, fix in bad_places(tmp_path):
        status, _, err = pyro(dict(env, PYRO_SOCKET=path), "vm", "list") if variable else pyro(env, "--socket", path, "vm", "list")
        assert status == 1 and err.startswith("pyro: " + (message % path).replace("\n", "\n  ")) and (not cause or "\n  cause: %s\n" % cause in err), err
        assert fixed(err) == ("unset PYRO_SOCKET" if variable and fix == LEAVE else fix), err


def test_empty_socket(env, fake):
    """An empty option is a mistake; an empty variable is ignored, as by other programs."""
    status, _, err = pyro(env, "--socket", "", "vm", "list")
    assert (status, err) == (2, "pyro: --socket: '' is not allowed: it is empty\n  fix: pyro vm list\n") and not fake.calls
    assert pyro(env, "--socket=", "run", "debian:12", "true")[2].endswith("\n  fix: pyro run debian:12 true\n")
    other = dict(env, PYRO_SOCKET="", PYRO_DAEMON="/bin/false")
    assert env["PYRO_RUNTIME_DIR"] in pyro(other, "--user", "vm", "list")[2] or "started /bin/false" in pyro(other, "--user", "vm", "list")[2]


@contextlib.contextmanager
def named(name):
    """This process under another name."""
    comm = "/proc/%d/comm" % os.getpid()
    with open(comm) as f:
        old = f.read().strip()
    try:
        with open(comm, "w") as f:
            f.write(name)
        yield
    finally:
        with open(comm, "w") as f:
            f.write(old)


@pytest.mark.parametrize("how", ["silent", "not accepting", "another program"])
def test_hung_daemon(env, place, how):
    """The fix kills only a pyrod: a path may lead to any program."""
    d = FakeDaemon(place, accept=how != "not accepting", backlog=0)
    d.raw_answers["system.ping"] = "hang"
    plugs = []
    if how == "not accepting":
        for _ in range(2):
            s = socket.socket(socket.AF_UNIX)
            s.setblocking(False)
            plugs.append(s)
            if s.connect_ex(place):
                break
    begin = time.monotonic()
    with named("pyrod" if how == "silent" else "python3"):
        status, _, err = pyro(env, "env", "list")
    assert status == 1 and 4 < time.monotonic() - begin < 9
    assert "did not answer within 5 s" in err
    assert fixed(err) == ("kill -9 %d; pyrod --socket %s --detach" % (os.getpid(), place) if how == "silent" else "unset PYRO_SOCKET")
    d.close()


@pytest.mark.parametrize("answer", [
    b"hello\n", b"\n", b"[]\n", b"null\n", b'{"jsonrpc":"2.0","id":ID}\n', b'{"jsonrpc":"2.0","id":99,"result":{}}\n',
    b'{"jsonrpc":"2.0","id":ID,"result":{},"result":{}}\n', b'{"jsonrpc":"2.0","id":ID,"result":{"a":"\xff"}}\n',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"bad"}}\n', b"[" * 100000 + b"\n",
    b"x" * (4 * 1024 * 1024 + 70000) + b"\n", b'{"jsonrpc":"2.0","id":ID,"error":5}\n', "close",
], ids=lambda answer: str(answer)[:40])
def test_wrong_answers(env, fake, answer):
    fake.raw_answers["system.ping"] = answer
    status, _, err = pyro(env, "env", "list")
    assert status == 1 and err.startswith("pyro: ") and len(err) < 2000


@pytest.mark.parametrize("answer,says", [("close", "closed the connection without an answer"), (b"hello\n", "did not answer as pyrod does")])
def test_no_answer_is_not_a_wrong_one(env, fake, answer, says):
    """A daemon that is killed while a client connects has not answered otherwise than a pyrod does."""
    fake.raw_answers["system.ping"] = answer
    status, _, err = pyro(env, "env", "list")
    assert status == 1 and err.startswith("pyro: the listener at %s %s\n" % (fake.path, says)), err


@pytest.mark.parametrize("result", [
    b"[]", b"null", b'{"environments":5}', b'{"environments":[1,null,{"name":7}]}', b'{"catalog_version":{}}',
])
def test_wrong_results_do_not_crash(env, fake, result):
    fake.raw_answers["env.list"] = b'{"jsonrpc":"2.0","id":ID,"result":' + result + b"}\n"
    assert pyro(env, "env", "list")[0] in (0, 1)
    fake.raw_answers["vm.run"] = b'{"jsonrpc":"2.0","id":ID,"result":' + result + b"}\n"
    assert pyro(env, "--json", "run", "x", "true")[0] in (0, 125)


def test_refused_at_accept(env, place):
    """The daemon gives a reason and closes, before or after it gets a request: the client prints the reason."""
    said = {"jsonrpc": "2.0", "id": None, "error": Failure("quota_exceeded", "32 connections are open", "c", "close some").error}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(16)

    def refuse():
        while True:
            try:
                conn = listener.accept()[0]
            except OSError:
                return
            conn.sendall(json.dumps(said).encode() + b"\n")
            conn.close()
    threading.Thread(target=refuse, daemon=True).start()
    for _ in range(10):
        assert pyro(env, "env", "list") == (1, "", "pyro: 32 connections are open\n  cause: c\n  fix: close some\n")
    status, out, _ = pyro(env, "--json", "run", "debian:12", "true")
    e = json.loads(out)["error"]
    assert (status, e["code"], e["retryable"]) == (125, "quota_exceeded", True)
    listener.close()


def test_lost_connection(env, fake):
    fake.raw_answers["env.list"] = "close"
    status, _, err = pyro(env, "env", "list")
    assert status == 1 and "was lost" in err
    fake.raw_answers["env.prune"] = "close"
    e = json.loads(pyro(env, "--json", "env", "prune")[1])["error"]
    assert e["code"] == "outcome_unknown"
    fake.raw_answers["vm.run"] = "close"
    status, _, err = pyro(env, "run", "debian:12", "true")
    assert status == 125 and "may or may not have been carried out" in err


def test_doctor_without_daemon(env):
    status, out, err = pyro(env, "doctor")
    assert status == 1 and "the daemon does not answer" in err
    lines = out.splitlines()
    assert lines[0].startswith("Platform: linux-") and lines[1] == "Runtime: FAIL"
    assert lines[2].startswith("KVM: exists=") and lines[3].startswith("Environment cache: ")
    assert lines[4] == "Capabilities: vm_boot=unknown guest_exec=unknown guest_network=unknown"
    assert lines[5].startswith("Networking: tun=")
    assert "  fix: pyrod --socket" in out


@pytest.fixture
def nobody(tmp_path):
    """A copy of pyro, and what runs it as a uid without an account and HOME."""
    if os.getuid() != 0:
        pytest.skip("needs root, to act as another user")
    for p in (tmp_path, *tmp_path.parents):
        if p != p.parent:
            os.chmod(p, p.stat().st_mode | stat.S_IXOTH)
    binary = str(tmp_path) + "/pyro"
    subprocess.run(["cp", PYRO, binary], check=True)

    def run(*args, **env):
        p = subprocess.run([binary, *args], capture_output=True, text=True, user=54321, group=54321, extra_groups=[],
                           env=dict(env, PATH=os.environ["PATH"]), timeout=20)
        assert "Sanitizer" not in p.stderr, p.stderr
        return p.returncode, p.stdout, p.stderr
    return run


NO_HOME = "HOME is not the absolute path of a folder of yours, and your account has none"


def test_no_home(nobody):
    for env in {}, {"HOME": "here"}:
        status, out, err = nobody("--user", "env", "list", **env)
        assert (status, out) == (1, "") and "cause: " + NO_HOME in err and fixed(err).startswith("set HOME ")


def test_doctor_without_home(nobody):
    """doctor continues with its other checks."""
    status, out, err = nobody("--user", "doctor")
    lines = out.splitlines()
    assert status == 1 and "the daemon does not answer" in err and "Environment cache: -" in lines, (out, err)
    at = lines.index("space: %s: no directory for environments" % NO_HOME)
    assert lines[at + 1].startswith("  fix: set HOME ")
    assert json.loads(nobody("--user", "--json", "doctor")[1])["environment_cache"] is None


def test_doctor_with_a_relative_cache(env):
    status, out, _ = pyro(dict(env, PYRO_ENVIRONMENT_CACHE_DIR="here"), "doctor")
    lines = out.splitlines()
    at = lines.index("space: PYRO_ENVIRONMENT_CACHE_DIR is not an absolute path")
    assert status == 1 and "Environment cache: -" in lines and lines[at + 1].startswith("  fix: set it ")


def test_autostart(tmp_path):
    """A user's client starts the user's daemon, once, and waits for READY=1; a daemon that ends reports why."""
    if os.getuid() == 0:
        user = dict(user=65534, group=65534, extra_groups=[])
        os.chown(tmp_path, 65534, 65534)
        for p in tmp_path.parents:
            if p != p.parent:
                os.chmod(p, p.stat().st_mode | stat.S_IXOTH)
    else:
        user = {}
    binary, daemon = str(tmp_path) + "/pyro", str(tmp_path) + "/pyrod"
    subprocess.run(["cp", PYRO, binary], check=True)
    here = os.path.dirname(os.path.abspath(__file__))
    subprocess.run(["cp", here + "/fake_daemon.py", str(tmp_path)], check=True)
    with open(daemon, "w") as f:
        f.write("""#!/usr/bin/python3
import os, socket, sys, threading
sys.path.insert(0, %r)
from fake_daemon import FakeDaemon
assert sys.argv[1:] == ["--user"]
open(%r, "a").write("%%d\\n" %% os.getpid())
os.makedirs(os.environ["PYRO_RUNTIME_DIR"], exist_ok=True)
d = FakeDaemon(os.environ["PYRO_RUNTIME_DIR"] + "/pyrod.sock", results={"env.list": {"catalog_version": "1", "environments": []}})
n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
n.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
n.send(b"READY=1")
threading.Event().wait(30)
""" % (str(tmp_path), str(tmp_path) + "/started"))
    os.chmod(daemon, 0o755)
    e = dict(os.environ, HOME=str(tmp_path), PYRO_DAEMON=daemon, PYRO_RUNTIME_DIR=str(tmp_path) + "/run",
             PYRO_STATE_DIR=str(tmp_path) + "/state")
    e.pop("PYRO_SOCKET", None)
    many = [subprocess.Popen([binary, "--user", "env", "list"], env=e, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, **user) for _ in range(4)]
    for p in many:
        out, err = p.communicate(timeout=30)
        assert (p.returncode, out) == (0, "Catalog version: 1\n"), err
    pids = open(str(tmp_path) + "/started").read().split()
    assert len(pids) == 1
    pidfd = os.pidfd_open(int(pids[0]))
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)
    with open(daemon, "w") as f:
        f.write("#!/bin/sh\necho something is wrong here >&2\nexit 1\n")
    p = subprocess.run([binary, "--user", "env", "list"], env=e, capture_output=True, text=True, timeout=30, **user)
    assert p.returncode == 1 and "ended before it was ready" in p.stderr and "\n  cause: something is wrong here\n" in p.stderr

    def failure(script, **more):
        """The cause and fix that the client prints when a daemon does this and ends."""
        with open(daemon, "w") as f:
            f.write("#!/bin/sh\n%s\nexit 1\n" % script)
        p = subprocess.run([binary, "--user", "env", "list"], env=dict(e, **more), capture_output=True, text=True, timeout=30, **user)
        found = re.search(r"^  cause: (.*)\n  fix: (.*)\n\Z", p.stderr, re.M)
        assert p.returncode == 1 and "ended before it was ready" in p.stderr and found, p
        return found.groups()

    # Its own last line, made readable, with its fix if it has one; not a line of a previous daemon; also when no log can be written.
    itself, error = daemon + " --user", "echo pyrod: first >&2; echo 'pyrod: this is wrong (fix: do it (now))' >&2"
    for more in ({}, {"PYRO_STATE_DIR": "/nonexistent/state"}):
        assert failure(error, **more) == ("this is wrong", "do it (now)")
        assert failure("true", **more) == ("it printed nothing", itself)
        assert failure("echo pyrod: no room >&2", **more) == ("no room", itself)
        assert failure("yes | head -c 100000 >&2; " + error, **more) == (("y", itself) if more else ("this is wrong", "do it (now)"))
        assert failure("head -c 5000 /dev/zero >&2; echo x >&2", **more) == ("it printed nothing" if more else "x", itself)


# --- plain verbs


def test_env(env, fake):
    fake.results["env.list"] = {"catalog_version": "1", "environments": [
        {"name": "debian:12", "installed": True, "description": "Debian\x1b[31m"},
        {"name": "debian:12-base", "installed": False, "description": "Minimal"}]}
    assert pyro(env, "env", "list")[1] == ("Catalog version: 1\ndebian:12 [installed] Debian\\x1b[31m\n"
                                           "debian:12-base [not installed] Minimal\n")
    fake.results["env.pull"] = {"name": "debian:12"}
    status, out, err = pyro(env, "env", "pull", "debian:12")
    assert (status, out, err) == (0, "Pulled: debian:12\n", "[pull] phase=install environment=debian:12\n"
                                  "[pull] phase=ready environment=debian:12\n")
    assert pyro(env, "-q", "env", "pull", "debian:12")[2] == ""
    assert pyro(env, "-q", "env", "list")[1] == "debian:12\ndebian:12-base\n"
    fake.results["env.prune"] = {"deleted": ["a"], "count": 1, "bytes_freed": 5}
    kept = "kept: debian:12, because machines use it or a pull is in progress\n"
    assert pyro(env, "env", "prune", "--all", "--dry-run") == (0, "Would delete: a\nWould free: 5 bytes\n", kept)
    assert fake.calls[-2:] == [("env.prune", {"all": True, "dry_run": True}), ("env.list", {})]
    fake.results["env.prune"]["deleted"] = ["debian:12 (sha256-1)"]
    assert pyro(env, "env", "prune", "--all", "--dry-run")[2] == "" and pyro(env, "env", "prune")[2] == ""
    fake.results["env.prune"]["deleted"] = []
    assert pyro(env, "-q", "env", "prune", "--all")[2] == ""
    fake.results["env.inspect"] = {"name": "debian:12", "digest": None}
    assert pyro(env, "env", "inspect", "debian:12")[1] == "Name: debian:12\nDigest: -\n"


@pytest.mark.parametrize("given,aimed", [
    ("pyro vm stop a && pyro vm start 'b && pyro c' && id", "pyro%s vm stop a && pyro%s vm start 'b && pyro c' && id"),
    ("pyro vm list", "pyro%s vm list"), ("pyro --user ..., which", "pyro --user ..., which"), ("look: pyro vm list", "look: pyro vm list")])
def test_fix_is_for_the_daemon_that_was_asked(env, fake, given, aimed):
    """The client does not look for a machine at another daemon when the named daemon does not know it."""
    fake.results["vm.status"] = Failure("vm_not_found", "m", "c", given)
    fake.results["system.doctor"] = {"runtime": {"ok": False, "checks": [{"name": "x", "ok": False, "detail": "d", "fix": given}]}}
    for words in (["vm", "status", VM], ["doctor"]):
        assert aimed.replace("%s", "") in pyro(env, *words)[1 if words == ["doctor"] else 2]
        assert aimed.replace("%s", " --socket " + fake.path) in pyro(env, "-q", "--socket", fake.path, *words)[1 if words == ["doctor"] else 2]


def test_logs_follow_while_the_oldest_are_forgotten(env, fake):
    """Each list has two commands: the daemon keeps no more."""
    execs = [{"exec_id": "ex-00000000000%d" % i, "sequence": i, "state": "exited", "exit_code": 0, "command": "c%d" % i} for i in range(6)]
    lists = iter([execs[1:3], execs[2:4], execs[4:6], execs[4:6]])
    fake.results["exec.list"] = lambda _: {"workspace_id": "ws-0123456789ab", "count": 2, "execs": next(lists)}
    fake.results["exec.read"] = lambda p: {"exec_id": p["exec_id"], "state": "exited", "output": base64.b64encode(p["exec_id"][-1:].encode()).decode(),
                                           "cursor": 0, "next_cursor": 1, "truncated": False}
    assert pyro(env, "-q", "ws", "logs", "-f", "build") == (0, "12345", "")
    lists = iter([execs[1:3], execs[1:3]])
    assert pyro(env, "-q", "ws", "logs", "-f", "--tail", "1", "build") == (0, "2", "")


def test_ids_of_the_daemon_are_ids(env, fake):
    """Values of other types in their place are neither printed nor sent back; nor is an invalid status."""
    for bad in ("\x1b]0;pwn\x07", "vm-\x1b[1m", "ex-0123456789ab", "vm-0123456789ab; rm"):
        def guest(run):
            run.progress("start", vm_id=bad)
            run.progress("execute", vm_id=bad, exec_id=bad)
            return run.result(exit_code=(1 << 32) + 7)
        fake.guest = guest
        status, _, err = pyro(env, "run", "debian:12", "x")
        assert status == 125 and err.startswith("[run] phase=start vm_id=\n[run] phase=execute vm_id=\n"), err


@pytest.mark.parametrize("kind", ["str", [1], {}, True, 1.5, None])
def test_results_of_other_types_do_not_crash(env, fake, kind):
    fake.results["vm.status"] = machine(vcpu_count=kind, mem_mib=kind)
    assert pyro(env, "vm", "status", VM)[1].endswith("Resources: 0 vCPU / 0 MiB\n")
    fake.guest = lambda run: run.result(exit_code=kind, timed_out=kind, limit={"name": "mem_mib", "value": kind, "flag": kind})
    assert pyro(env, "run", "debian:12", "x")[0] == 125
    fake.results["env.prune"] = {"deleted": kind, "bytes_freed": kind, "permitted": kind}
    fake.results["env.list"] = {"environments": [{"name": kind, "installed": kind}]}
    assert pyro(env, "env", "prune", "--all")[0] == 0 and pyro(env, "env", "list")[0] == 0


def test_json_is_escaped_for_a_terminal(env, fake):
    text = "a\u009b31m\u202eb\x7f\u00e9\n"
    fake.results["vm.list"] = {"count": 1, "vms": [{"vm_id": text}]}
    status, out, _ = on_terminal(env, "--json", "vm", "list")
    assert status == 0 and "a\\u009b31m\\u202eb\\u007f\u00e9\\n" in out and json.loads(out)["vms"][0]["vm_id"] == text
    assert json.loads(pyro(env, "--json", "vm", "list")[1])["vms"][0]["vm_id"] == text


def test_error_is_escaped(env, fake):
    fake.results["env.list"] = Failure("no_space", "disk\x1b]0;x\x07 full\nreally", "c\u202ex", "rm\r\x00".replace("\0", ""))
    status, out, err = pyro(env, "env", "list")
    assert (status, out) == (1, "")
    assert err == "pyro: disk\\x1b]0;x\\x07 full\n  really\n  cause: c\\u{202e}x\n  fix: rm\\x0d\n"


def test_fix_has_sudo_unless_the_reader_is_root(env, fake):
    fake.results["env.list"] = Failure("internal", "m", "c", "sudo sh -c 'echo sudo x' && sudo b;sudo c || echo sudo d")
    fix = fixed(pyro(env, "env", "list")[2])
    root = "sh -c 'echo sudo x' && b;c || echo sudo d"
    assert fix == (root if os.getuid() == 0 else fake.results["env.list"].error["data"]["fix"])


# --- run


def hello(run):
    run.phases()
    run.stdio.write(STDOUT, b"out")
    run.stdio.write(STDERR, b"err")
    return run.result(exit_code=7)


def test_run(env, fake):
    fake.guest = hello
    status, out, err = pyro(env, "run", "--cpus=2", "-m", "2G", "--timeout", "5m", "-eA=1=2", "-e", "HOME", "-w", "/x",
                            "-u", "me", "debian:12", "sh", "-c", "a  'b'")
    assert (status, out) == (7, "out")
    assert err == ("[run] phase=create environment=debian:12\n[run] phase=start vm_id=%s\n"
                   "[run] phase=execute vm_id=%s\nerr\n"
                   "[run] environment=debian:12 execution_mode=guest_serial exit_code=7 duration_ms=7\n" % (VM, VM))
    params = [p for m, p in fake.calls if m == "vm.run"][0]
    assert params == {"environment": "debian:12", "command": "sh -c 'a  '\\''b'\\'''", "vcpu_count": 2, "mem_mib": 2048,
                      "timeout_seconds": 300, "env": {"A": "1=2", "HOME": env["HOME"]}, "cwd": "/x", "user": "me",
                      "stdio": 0}
    assert pyro(env, "-q", "run", "debian:12", "true") == (7, "out", "err")
    assert pyro(env, "run", "-q", "debian:12", "--", "true") == (7, "out", "err")


@pytest.mark.parametrize("words,command", [
    (["a b; c"], "a b; c"), (["a", ""], "a ''"), (["-x"], None), (["--", "-x"], "-x"), (["--", "a", "--", "-q"], "a -- -q"),
    (["a", "-q", "--json"], "a -q --json"), (["A=1", "b"], "'A=1' b"), (["if", "x"], "'if' x"), (["é", "~"], "'é' '~'"),
])
def test_words(env, fake, words, command):
    fake.guest = lambda run: run.result()
    status, _, err = pyro(env, "run", "debian:12", *words)
    runs = [p["command"] for m, p in fake.calls if m == "vm.run"]
    assert runs == ([command] if command else []) and status == (0 if command else 125), err


@pytest.mark.parametrize("deleted", [True, False])
def test_summary_of_exec(env, fake, deleted):
    """The client reports that its machine was deleted, since it may have existed for long."""
    fake.guest = lambda run: run.result(cleanup={"deleted": deleted, "reason": "post_exec_cleanup", "vm_id": VM})
    err = pyro(env, "vm", "exec", VM, "true")[2]
    assert err == "[vm-exec] vm_id=%s execution_mode=guest_serial exit_code=0 duration_ms=7 deleted=%s\n" % (VM, str(deleted).lower())


def test_run_json(env, fake):
    fake.guest = lambda run: run.result(stdout="hi\n", exit_code=3)
    status, out, err = pyro(env, "-q", "--json", "run", "debian:12", "true")
    assert status == 3 and json.loads(out)["stdout"] == "hi\n" and err == ""
    assert "stdio" not in fake.calls[-1][1]


def test_json_excludes_live_stdin(env, fake):
    status, out, _ = pyro(env, "run", "-i", "--json", "debian:12", "true")
    assert status == 125 and json.loads(out)["error"]["code"] == "usage" and not fake.calls


def test_run_timeout(env, fake):
    fake.guest = lambda run: run.result(exit_code=124, timed_out=True)
    status, _, err = pyro(env, "run", "--timeout", "2", "debian:12", "sleep 9")
    assert status == 124 and "\ncommand timed out after 2s\n" in "\n" + err


LIMITS = [
    ("timeout", 124, {"name": "timeout_seconds", "value": 30, "flag": "--timeout 5m"}, "command timed out after 30s (the default; --timeout 5m)"),
    ("memory", 137, {"name": "mem_mib", "value": 1024, "flag": "-m 2G"}, "command ended: out of memory (limit 1024 MiB; -m 2G)"),
    ("memory", 137, {"name": "mem_mib", "value": 8192, "flag": None}, "command ended: out of memory (limit 8192 MiB; this host has no more)"),
    (None, 2, {"name": "mem_mib", "value": 256, "flag": "-m 512M"}, "a process of the command was killed: out of memory (limit 256 MiB; -m 512M)"),
    ("pids", 254, {"name": "pids", "value": 2569, "flag": "-m 2G"}, "command ended: too many processes (limit 2569; -m 2G)"),
    ("disk", 1, {"name": "disk_mib", "value": 10240, "flag": "--disk-mib 20480"}, "command ended: its disk is full (limit 10240 MiB; --disk-mib 20480)"),
    ("signal", 143, None, None),
    (None, 3, None, None),
]


@pytest.mark.parametrize("ended_by,code,limit,line", LIMITS)
@pytest.mark.parametrize("verb", [["run", "debian:12"], ["vm", "exec", "vm-0123456789ab"]])
def test_limit_is_named(env, fake, verb, ended_by, code, limit, line):
    """On a line of its own, also after output without a newline and with -q; the flag named for a machine is that of the command
    that makes it."""
    def guest(run):
        run.phases()
        run.stdio.write(2, b"no newline")
        return run.result(exit_code=code, timed_out=code == 124, ended_by=ended_by, limit=limit)
    fake.guest = guest
    if line and verb[0] == "vm" and "timed out" not in line and limit["flag"]:
        line = line.replace("; ", "; pyro vm create ")
    for quiet in ([], ["-q"]):
        status, _, err = pyro(env, *quiet, *verb, "sleep 9")
        shown = [x for x in err.split("\n") if x.startswith(("command ", "a process "))]
        assert status == code and shown == ([line] if line else []), err


def test_run_failure(env, fake):
    def guest(run):
        run.progress("create")
        raise Failure("start_failed", "it does not start", "console", "pyro doctor")
    fake.guest = guest
    status, out, err = pyro(env, "run", "debian:12", "true")
    assert (status, out) == (125, "") and err.endswith("pyro: it does not start\n  cause: console\n  fix: pyro doctor\n")


def test_large_output(env, fake):
    block = bytes(range(256)) * 4096

    def guest(run):
        run.phases()
        for _ in range(64):
            run.stdio.write(STDOUT, block)
        return run.result()
    fake.guest = guest
    p = start(env, "-q", "run", "debian:12", "x")
    digest, n = hashlib.sha256(), 0
    while data := p.stdout.read(1 << 16):
        digest.update(data)
        n += len(data)
    assert p.wait(30) == 0 and n == 64 << 20 and digest.digest() == hashlib.sha256(block * 64).digest()
    p.stderr.close()


def test_stdin(env, fake):
    seen = {}

    def guest(run):
        run.phases()
        digest, n = hashlib.sha256(), 0
        while data := run.stdio.read():
            digest.update(data)
            n += len(data)
        seen["n"], seen["digest"] = n, digest.digest()
        return run.result()
    fake.guest = guest
    data = os.urandom(1 << 20) * 20
    assert pyro(env, "-q", "run", "-i", "debian:12", "x", input=data)[0] == 0
    assert seen == {"n": len(data), "digest": hashlib.sha256(data).digest()}


def test_stdin_is_not_read_without_i(env, fake):
    fake.guest = hello
    r, w = os.pipe()
    os.write(w, b"keep me")
    assert pyro_with(env, r) == 7
    assert os.read(r, 100) == b"keep me"
    os.close(r)
    os.close(w)


def pyro_with(env, stdin):
    p = start(env, "run", "debian:12", "x", stdin=stdin)
    p.communicate(timeout=20)
    return p.returncode


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(env, fake, closed):
    """No file of the client is used in its place; output that cannot be written is an error, as on a full disk."""
    fake.guest = hello
    p = subprocess.run(["sh", "-c", '"$0" run -i debian:12 x ' + closed, PYRO], env=env, capture_output=True,
                       stdin=subprocess.DEVNULL, timeout=20)
    lost = ">&-" in closed.split()
    assert (p.returncode, p.stdout) == ((125, b"") if lost else (7, b"out")), p
    assert (b"Bad file descriptor" in p.stderr) == (closed == ">&-"), p
    fake.guest = lambda run: run.result()
    p = subprocess.run(["sh", "-c", '"$0" -q run debian:12 true ' + closed, PYRO], env=env, capture_output=True, timeout=20)
    assert p.returncode == 0, p  # there was nothing to write


def test_stdout_gone(env, fake):
    def guest(run):
        run.phases()
        while True:
            run.stdio.write(STDOUT, b"y\n" * 1000)
    fake.guest = guest
    p = start(env, "run", "debian:12", "yes")
    p.stdout.read(10)
    p.stdout.close()
    begin = time.monotonic()
    assert p.wait(20) == 141 and time.monotonic() - begin < 2
    assert ("cancel" in [m for m, _ in fake.calls])
    p.stderr.close()


def test_stdout_full(env, fake):
    fake.guest = hello
    with open("/dev/full", "wb") as full:
        p = start(env, "run", "debian:12", "x", stdout=full)
        _, err = p.communicate(timeout=20)
    assert p.returncode == 125 and b"No space left" in err, err
    with open("/dev/full", "wb") as full:
        fake.results["env.list"] = {"catalog_version": "1", "environments": []}
        assert start(env, "env", "list", stdout=full, stderr=subprocess.DEVNULL).wait(20) == 1


def large(fake):
    """Answers that are larger than a pipe's capacity."""
    fake.guest = lambda run: run.result(stdout="x" * 500000, exit_code=3)
    fake.results["env.list"] = {"catalog_version": "1", "environments": [
        {"name": "n%d" % i, "installed": True, "description": "d" * 50} for i in range(5000)]}


@pytest.mark.parametrize("args", [("--json", "run", "debian:12", "x"), ("env", "list"), ("--json", "env", "list"),
                                  ("run", "--help"), ("--version",)])
def test_stdout_gone_for_large_answers(env, fake, args):
    large(fake)
    r, w = os.pipe()
    os.close(r)
    p = start(env, "-q", *args, stdout=w)
    os.close(w)
    assert (p.communicate(timeout=20)[1], p.returncode) == (b"", 141)


@pytest.mark.parametrize("args,status", [(("--json", "run", "debian:12", "x"), 125), (("--json", "env", "list"), 1)])
def test_stdout_full_for_large_answers(env, fake, args, status):
    large(fake)
    with open("/dev/full", "wb") as full:
        p = start(env, "-q", *args, stdout=full)
        _, err = p.communicate(timeout=20)
    assert p.returncode == status and b"No space left" in err, err


def test_slow_reader_of_a_non_blocking_stdout(env, fake):
    large(fake)
    r, w = os.pipe()
    os.set_blocking(w, False)
    p = start(env, "-q", "--json", "run", "debian:12", "x", stdout=w)
    end = time.monotonic() + 20
    while select.select([], [w], [], 0)[1]:  # until the pipe is full
        assert time.monotonic() < end
    os.close(w)
    with open(r, "rb") as f:
        assert json.load(f)["stdout"] == "x" * 500000
    assert p.wait(20) == 3
    p.stderr.close()


def test_emulation_note(env, fake):
    def guest(run):
        run.progress("start", vm_id=VM, accelerator="emulation", accelerator_reason="no \x1b/dev/kvm")
        return run.result()
    fake.guest = guest
    first = pyro(env, "run", "debian:12", "x")[2]
    assert '[run] note accelerator=emulation reason="no \\x1b/dev/kvm" fix="' in first
    assert "note" not in pyro(env, "-q", "run", "debian:12", "x")[2]


def test_paused_machine(env, fake):
    """The caller reads why on a line of its own, and when the machine continues; with -q nothing; --json changes nothing of
    stderr."""
    def guest(run):
        run.phases()
        if run.stdio:
            run.stdio.write(STDOUT, b"half")
            while run.stdio.upto[STDOUT] < 4:
                run.stdio.pump()
        run.progress("paused", pause_reason="disk_full", detail="the disk\x1b is full")
        run.progress("resumed", detail="there is space")
        return run.result()
    fake.guest = guest
    notes = "pyro: paused: the disk\\x1b is full\npyro: resumed: there is space\n"
    r = subprocess.run([PYRO, "run", "debian:12", "x"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert r.stdout.split("phase=execute vm_id=%s\n" % VM)[1].startswith("half\n" + notes + "[run] environment="), r.stdout
    status, out, err = pyro(env, "--json", "run", "debian:12", "x")
    assert status == 0 and json.loads(out)["exit_code"] == 0 and notes in err
    assert pyro(env, "-q", "run", "debian:12", "x") == (0, "half", "")


def test_daemon_that_never_ends_the_streams(env, fake):
    """A bounded wait for the rest of the output, then the reported status."""
    def guest(run):
        run.phases()
        run.conn.send({"jsonrpc": "2.0", "id": run.id, "result": run.result(exit_code=4)})
        run.cancelled.wait(20)
        raise Gone
    fake.guest = guest
    begin = time.monotonic()
    assert pyro(env, "run", "debian:12", "x")[0] == 4 and 4 < time.monotonic() - begin < 10


def test_killed_by_second_interrupt_while_cancelling(env, fake):
    """The daemon does not answer the cancel: at a second signal the client leaves at once."""
    fake.ignore_cancel = True
    fake.guest = waiting
    p = start(env, "run", "debian:12", "x")
    until(p, b"phase=execute")
    p.send_signal(signal.SIGTERM)
    fake.wait_called("cancel")
    p.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    assert p.wait(10) == 143 and time.monotonic() - begin < 3
    assert b"not confirmed" in p.communicate()[1]


@pytest.mark.parametrize("method,call", [("progress", 0), ("progress", 1), ("x", 0)])
@pytest.mark.parametrize("answers", [True, False])
def test_flood_does_not_hold_signals(env, fake, method, call, answers):
    """A daemon that never stops sending: the first signal cancels; if that is not answered, the second one ends the client."""
    fake.ignore_cancel = not answers

    def guest(run):
        run.phases()
        line = {"jsonrpc": "2.0", "method": method, "params": {"call": run.id + call, "phase": "execute"}}
        flood = (json.dumps(line) + "\n").encode() * 5000
        while not getattr(run, "gone", False) and not (answers and run.cancelled.is_set()):
            run.conn.raw(flood)
        raise Gone
    fake.guest = guest
    p = start(env, "run", "debian:12", "x")
    until(p, b"phase=execute")
    p.send_signal(signal.SIGTERM)
    try:
        fake.wait_called("cancel", 5)
        if not answers:
            p.send_signal(signal.SIGTERM)
        assert p.wait(10) == 143
    finally:
        p.kill()
        p.communicate()


@pytest.mark.parametrize("extra,drawn", [
    ({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": ""}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ({"TERM": "dumb"}, False)])
def test_counting_line(env, fake, extra, drawn):
    def guest(run):
        run.progress("install", percent=10)
        return run.result()
    fake.guest = guest
    master, slave = os.openpty()
    env = {k: v for k, v in env.items() if k != "NO_COLOR"}
    p = start(dict(env, **extra), "run", "debian:12", "x", stderr=slave)
    os.close(slave)
    seen = b""
    while b"exit_code=0" not in seen:
        seen += os.read(master, 4096)
    assert p.wait(20) == 0
    assert (b"[pull] debian:12: install [##                  ] 10%" in seen, b"\033" in seen) == (drawn, drawn), seen
    assert (b"[pull] phase=install environment=debian:12" in seen) is not drawn
    os.close(master)
    p.communicate()


def test_pull_in_lines(env, fake):
    """In line output each step is printed, and its progress now and then; not all that a daemon sends."""
    def guest(run):
        for step, percent in (("kernel", 0), ("kernel", 4), ("kernel", 9), ("kernel", 10), ("install", None), ("install", None), ("install", 35),
                              ("install", 44), ("install", 45), ("\x1b[1mstep", 250), ("ready", 100)):
            run.progress(step, percent=percent)
        return run.result()
    fake.guest = guest
    p = start(env, "run", "debian:12", "x")
    _, err = p.communicate(timeout=30)
    said = [line for line in err.decode().splitlines() if line.startswith("[pull]")]
    begin = "[pull] phase=install environment=debian:12"
    assert said[0] == begin and said[-1] == "[pull] phase=ready environment=debian:12"
    assert [re.sub(r" seconds=\d+$", "", line) for line in said[1:-1]] == [begin + " step=" + text for text in (
        "kernel percent=0", "kernel percent=10", "install", "install percent=35", "install percent=45", "\\x1b[1mstep percent=100")]
    p = start(env, "-q", "run", "debian:12", "x")
    assert b"[pull]" not in p.communicate(timeout=30)[1]


def test_flags_of_inherited_descriptors_stay(env, fake):
    import fcntl
    fake.guest = hello
    r, w = os.pipe()
    before = fcntl.fcntl(w, fcntl.F_GETFL)
    p = start(env, "run", "debian:12", "x", stdout=w)
    assert p.wait(20) == 7 and fcntl.fcntl(w, fcntl.F_GETFL) == before
    p.stderr.close()
    os.close(r)
    os.close(w)


def test_one_file_for_both(env, fake):
    """The summary starts on a line of its own, and a newline is added only when needed."""
    def guest(run):
        run.phases()
        run.stdio.write(STDOUT, b"x")
        return run.result()
    fake.guest = guest
    p = start(env, "run", "debian:12", "x", stderr=subprocess.STDOUT)
    assert b"x\n[run] environment=" in p.communicate(timeout=20)[0]


# --- signals


def waiting(run):
    run.phases()
    while True:
        run.stdio.pump() if not run.cancelled.is_set() else run.cancelled.wait()
        if run.cancelled.is_set():
            raise Gone


def until(p, text):
    seen = b""
    while text not in seen:
        data = os.read(p.stderr.fileno(), 4096)
        assert data, seen
        seen += data
    return seen


def test_interrupt_before_execution(env, fake):
    def guest(run):
        run.progress("create")
        run.cancelled.wait(20)
        raise Gone
    fake.guest = guest
    p = start(env, "run", "debian:12", "x")
    until(p, b"phase=create")
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 130 and "cancel" in [m for m, _ in fake.calls]
    p.communicate()


def test_interrupt_reaches_the_guest(env, fake):
    def guest(run):
        run.phases()
        run.signalled.wait(20)
        return run.result(exit_code=128 + 2 if run.signals == ["INT"] else 1)
    fake.guest = guest
    p = start(env, "run", "debian:12", "x")
    until(p, b"phase=execute")
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 130 and ("exec.signal", {"exec_id": EXEC, "signal_name": "INT"}) in fake.calls
    assert "cancel" not in [m for m, _ in fake.calls]
    p.communicate()


@pytest.mark.parametrize("words,method", [
    (("vm", "stop", VM), "vm.stop"), (("vm", "delete", VM), "vm.delete"), (("env", "pull", "debian:12"), "env.pull"), (("doctor",), "system.doctor")])
def test_signal_ends_a_wait_that_leaves_nothing(env, fake, words, method):
    """What the daemon does meanwhile continues or ends with the connection: the client waits for nothing."""
    fake.raw_answers[method] = "hang"
    for json_flag in ((), ("--json",)):
        for sig in (signal.SIGINT, signal.SIGTERM):
            p = start(env, *json_flag, *words)
            fake.wait_called(method)
            fake.calls.clear()
            p.send_signal(sig)
            out, err = p.communicate(timeout=5)
            assert p.returncode == 128 + sig and [m for m, _ in fake.calls] == []
            assert err == (b"[pull] phase=install environment=debian:12\n" if method == "env.pull" else b"")
            assert json.loads(out)["error"]["code"] == "cancelled" if json_flag else out == b""


def test_signal_while_nobody_reads_the_result(env, fake):
    """The result is printed to a full pipe: Ctrl-C ends it."""
    fake.results["env.list"] = {"catalog_version": "1", "environments": [{"name": "x" * 100} for _ in range(5000)]}
    p = start(env, "env", "list")
    assert p.stdout.read(1) == b"C"
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == -signal.SIGINT
    p.communicate()


def test_daemon_lost_while_a_run_is_cancelled(env, fake):
    """It is unknown whether the machine was deleted, and the caller reads so."""
    fake.guest = waiting
    fake.raw_answers["cancel"] = "close"
    p = start(env, "run", "debian:12", "x")
    until(p, b"phase=execute")
    p.send_signal(signal.SIGTERM)
    assert p.wait(10) == 143
    assert p.communicate()[1].endswith(b"pyro: the machine's deletion was not confirmed; pyrod deletes it within 10 s\n")


def test_failure_of_the_second_call(env, fake):
    fake.results["env.prune"] = {"deleted": [], "count": 0, "bytes_freed": 5, "permitted": True}
    fake.results["env.list"] = Failure("no_space", "full", "c", "pyro doctor")
    assert pyro(env, "env", "prune", "--all") == (1, "Freed: 5 bytes\n", "pyro: full\n  cause: c\n  fix: pyro doctor\n")


@pytest.mark.parametrize("signals,status", [
    ([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGTERM], 143), ([signal.SIGHUP], 129)])
def test_signals_that_end_a_run(env, fake, signals, status):
    fake.guest = waiting
    p = start(env, "run", "debian:12", "x")
    until(p, b"phase=execute")
    for i, s in enumerate(signals):
        p.send_signal(s)
        if i + 1 < len(signals):
            fake.wait_called("exec.signal")
    assert p.wait(10) == status and "cancel" in [m for m, _ in fake.calls]
    p.communicate()


CANCELLED = json.dumps(Failure("cancelled", "the creation was cancelled").error).encode()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("args", [(), ("--json",)])
@pytest.mark.parametrize("noun", ["vm", "workspace"])
def test_signal_cancels_a_creation(env, fake, sig, args, noun):
    fake.raw_answers[noun + ".create"] = "hang"
    fake.raw_answers["cancel"] = b'{"jsonrpc":"2.0","id":2,"error":%s}\n{"jsonrpc":"2.0","id":ID,"result":{}}\n' % CANCELLED
    p = start(env, *args, noun, "create", "debian:12")
    fake.wait_called(noun + ".create")
    p.send_signal(sig)
    out, err = p.communicate(timeout=10)
    assert (p.returncode, err) == (128 + sig, b"") and ("cancel", {"id": 2}) in fake.calls
    assert json.loads(out)["error"]["code"] == "cancelled" if args else out == b""


@pytest.mark.parametrize("noun,id", [("vm", VM), ("workspace", "ws-0123456789ab")])
def test_cancelled_too_late_a_machine_is_deleted(env, fake, noun, id):
    """Its id was never printed, so nobody else could delete it."""
    member = noun + "_id"
    fake.raw_answers[noun + ".create"] = "hang"
    fake.raw_answers["cancel"] = (b'{"jsonrpc":"2.0","id":2,"result":{"%s":"%s"}}\n'
                                  b'{"jsonrpc":"2.0","id":ID,"result":{"cancelled":false}}\n' % (member.encode(), id.encode()))
    fake.results[noun + ".delete"] = {member: id, "deleted": True}
    p = start(env, noun, "create", "debian:12")
    fake.wait_called(noun + ".create")
    p.send_signal(signal.SIGINT)
    assert p.communicate(timeout=10) == (b"", b"") and p.returncode == 130
    assert fake.calls[-1] == (noun + ".delete", {member: id})


@pytest.mark.parametrize("deletion", [False, True])
def test_second_signal_does_not_wait_for_the_cancelled_creation(env, fake, deletion):
    fake.raw_answers.update({"vm.create": "hang", "cancel": "hang", "vm.delete": "hang"})
    if deletion:
        fake.raw_answers["cancel"] = b'{"jsonrpc":"2.0","id":2,"result":{"vm_id":"%s"}}\n' % VM.encode()
    p = start(env, "vm", "create", "debian:12")
    fake.wait_called("vm.create")
    p.send_signal(signal.SIGTERM)
    fake.wait_called("vm.delete" if deletion else "cancel")
    p.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, err = p.communicate(timeout=10)
    assert (p.returncode, out) == (143, b"") and b"not confirmed" in err and time.monotonic() - begin < 5


def machine(**more):
    return dict({"vm_id": VM, "environment": "debian:12", "vcpu_count": 1, "mem_mib": 1024, "state": "started", "stop_reason": None,
                 "created_at": "2026-01-01T00:00:00Z", "expires_at": None, "execution_mode": None, "owner_uid": 7}, **more)


LINES = "VM ID: " + VM + "\nEnvironment: debian:12\nState: %s\nExecution mode: %s\nResources: 1 vCPU / 1024 MiB\n"


def test_a_machine_is_printed_like_a_workspace(env, fake):
    for verb in ("status", "start", "stop"):
        fake.results["vm." + verb] = machine(execution_mode="guest_serial")
        assert pyro(env, "vm", verb, VM) == (0, LINES % ("started", "guest_serial"), "")
    fake.results["vm.status"] = machine(state="stopped", stop_reason="guest", expires_at="2026-01-02T00:00:00Z", last_error="a\x1bb")
    assert pyro(env, "vm", "status", VM)[1] == (LINES % ("stopped", "-") + "Stop reason: guest\nExpires at: 2026-01-02T00:00:00Z\n"
                                                "Last error: a\\x1bb\n")
    fake.results["vm.delete"] = {"vm_id": VM, "deleted": True, "reason": "explicit_delete"}
    assert pyro(env, "vm", "delete", VM) == pyro(env, "vm", "rm", VM) == (0, "Deleted VM: %s\n" % VM, "")
    fake.results["vm.reap_expired"] = {"count": 1, "deleted_vm_ids": [VM]}
    assert pyro(env, "vm", "reap-expired") == (0, "Deleted VM: %s\n" % VM, "")
    fake.results["vm.reap_expired"] = {"count": 0, "deleted_vm_ids": []}
    assert pyro(env, "vm", "reap-expired") == (0, "", "no machine has exceeded its time to live\n")
    fake.results["vm.network_info"] = {"vm_id": VM, "network_enabled": False, "guest_ip": None, "dns_servers": []}
    assert pyro(env, "vm", "network-info", VM)[1] == "VM ID: %s\nNetwork enabled: false\nGuest IP: -\nDNS servers: \n" % VM


def on_terminal(env, *args):
    """What is shown on a terminal that is stdout."""
    master, slave = os.openpty()
    p = start(env, *args, stdout=slave)
    os.close(slave)
    seen = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        seen += data
    os.close(master)
    err = p.communicate(timeout=20)[1].decode()
    return p.returncode, seen.decode().replace("\r\n", "\n"), err


def test_lists(env, fake):
    """A table with a heading on a terminal, key=value lines elsewhere; an empty one says what to type."""
    fake.results["vm.list"] = {"count": 2, "vms": [machine(), machine(vm_id="vm-1", state="suspended", pause_reason="disk_full", expires_at="2026-01-02T00:00:00Z")]}
    line = "vm_id=%s state=%s environment=debian:12 vcpu_count=1 mem_mib=1024 created_at=2026-01-01T00:00:00Z expires_at=%s pause_reason=%s\n"
    assert pyro(env, "vm", "list") == (0, line % (VM, "started", "-", "-") + line % ("vm-1", "suspended", "2026-01-02T00:00:00Z", "disk_full"), "")
    assert "owner_uid=7\n" in pyro(env, "vm", "ls", "--all-users")[1]
    assert pyro(env, "-q", "vm", "list") == (0, VM + "\nvm-1\n", "")
    status, out, err = on_terminal(env, "vm", "list", "--all-users")
    assert (status, err) == (0, "")
    assert out == (
        "VM ID            STATE      ENVIRONMENT  VCPUS  MIB   CREATED               EXPIRES               PAUSED     OWNER\n"
        "vm-0123456789ab  started    debian:12    1      1024  2026-01-01T00:00:00Z  -                     -          7\n"
        "vm-1             suspended  debian:12    1      1024  2026-01-01T00:00:00Z  2026-01-02T00:00:00Z  disk_full  7\n")
    fake.results["vm.list"] = {"count": 0, "vms": []}
    hint = "no machines; make one: pyro vm create debian:12\n"
    assert pyro(env, "vm", "list") == (0, "", hint) and on_terminal(env, "vm", "list") == (0, "", hint)
    assert pyro(env, "-q", "vm", "list") == (0, "", "")


def test_create(env, fake):
    fake.results["vm.create"] = machine(state="created")
    assert pyro(env, "vm", "create", "debian:12") == (0, LINES % ("created", "-"), "")
    assert pyro(env, "vm", "create", "--id-only", "debian:12") == (0, VM + "\n", "")
    assert json.loads(pyro(env, "--json", "vm", "create", "debian:12")[1]) == fake.results["vm.create"]
    fake.results["vm.create"] = Failure("no_space", "full")
    assert pyro(env, "vm", "create", "debian:12") == (1, "", "pyro: full\n")
    fake.raw_answers["vm.create"] = "close"
    assert "may or may not have been carried out" in pyro(env, "vm", "create", "debian:12")[2]


def test_stop_that_deletes(env, fake):
    fake.results["vm.stop"] = machine(state="stopped", cleanup={"deleted": True, "reason": "post_exec_cleanup", "vm_id": VM})
    assert pyro(env, "vm", "stop", VM) == (0, "Deleted VM: %s\n" % VM, "[note] the machine and its disk were deleted when its only command ended\n")
    assert pyro(env, "-q", "vm", "stop", VM) == (0, "Deleted VM: %s\n" % VM, "")
    assert json.loads(pyro(env, "--json", "vm", "stop", VM)[1]) == fake.results["vm.stop"]


def test_ignored_signals_stay_ignored(env, fake):
    done = threading.Event()

    def guest(run):
        run.phases()
        done.wait(20)
        return run.result()
    fake.guest = guest
    p = start(env, "run", "debian:12", "x", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    until(p, b"phase=execute")
    p.send_signal(signal.SIGHUP)
    done.set()
    assert p.wait(10) == 0
    p.communicate()


def test_stopped_terminal_does_not_hold_ctrl_c(env, fake):
    """Nobody reads the terminal: Ctrl-C still ends the client within its bounds."""
    def guest(run):
        run.phases()
        while True:
            run.stdio.write(STDOUT, b"y" * 4096 + b"\n")
    fake.guest = guest
    master, slave = os.openpty()
    p = start(env, "run", "debian:12", "x", stdout=slave)
    os.close(slave)
    until(p, b"phase=execute")
    p.send_signal(signal.SIGTERM)
    assert p.wait(10) == 143
    os.close(master)
    p.communicate()
