# SPDX-License-Identifier: MIT
"""Completion as a user meets it: the shell itself, on a terminal, with the script that pyro prints and nothing else; its
candidates come from the table. It does not wait for a daemon that is absent or slow."""
import os
import re
import select
import shutil
import subprocess
import time

import pytest

from conftest import BUILD_ASAN, stage
from fake_daemon import VM, FakeDaemon

PYRO = stage(BUILD_ASAN) + "/bin/pyro"
OTHER = "vm-ffffffffffff"


@pytest.fixture
def fake(tmp_path):
    d = FakeDaemon(str(tmp_path) + "/pyrod.sock")
    d.results["env.list"] = {"catalog_version": "1", "environments": [{"name": "debian:12"}, {"name": "debian:12-base"}, {"name": "x;reboot"}]}
    d.results["vm.list"] = {"count": 2, "vms": [{"vm_id": VM}, {"vm_id": OTHER}]}
    d.results["workspace.list"] = {"count": 2, "workspaces": [{"workspace_id": "ws-0123456789ab", "name": "build"}, {"workspace_id": "ws-1", "name": None}]}
    yield d
    d.close()


@pytest.fixture
def env(tmp_path):
    return dict(os.environ, PYRO_SOCKET=str(tmp_path) + "/pyrod.sock", PATH=os.path.dirname(PYRO) + ":" + os.environ["PATH"], HOME=str(tmp_path),
                TERM="dumb", PS1="> ", PYRO_DAEMON="/bin/false", PYRO_COMPLETION_WAIT_MS="20000")


def offers(env, *words):
    r = subprocess.run([PYRO, "__complete", *words], env=env, capture_output=True, text=True, timeout=20)
    assert (r.returncode, r.stderr) == (0, ""), r
    return r.stdout.split()


def test_what_is_offered(env, fake):
    assert {"run", "env", "vm", "doctor", "completion", "help"} <= set(offers(env, ""))
    assert offers(env, "env", "p") == ["pull", "prune"]
    assert offers(env, "env", "pull", "deb") == offers(env, "run", "-m", "2G", "deb") == ["debian:12", "debian:12-base"]
    assert offers(env, "env", "pull", "x") == []  # no name that a shell would use itself
    for verb in ("status", "rm", "exec", "network-info"):
        assert offers(env, "vm", verb, "vm-0") == [VM], verb
    assert offers(env, "--socket", fake.path, "-q", "vm", "status", "") == [VM, OTHER]
    for noun in ("ws", "workspace"):
        assert offers(env, noun, "sta") == ["status", "start"] and offers(env, noun, "status", "") == ["build", "ws-0123456789ab", "ws-1"]
    assert offers(env, "ws", "rm", "build", "ws-1") == ["ws-1"] and offers(env, "ws", "status", "build", "") == []
    assert offers(env, "run", "--accelerator", "k") == ["kvm"]
    assert offers(env, "run", "-m", "") == offers(env, "vm", "status", VM, "") == []
    assert offers(env, "--js") == offers(env, "vm", "list", "--js") == ["--json"]
    assert offers(env, "--us") == ["--user"] and offers(env, "vm", "list", "--us") == [] and offers(env, "run", "--us") == ["--user"]
    assert offers(env, "run", "debian:12", "--", "--j") == [] and offers(env, "run", "debian:12", "ls", "--j") == []
    assert offers(env, "completion", "") == ["bash", "zsh", "fish"]


def test_without_a_daemon_it_is_silent(env):
    assert offers(env, "vm", "status", "") == []
    assert "status" in offers(env, "vm", "s")


def test_completion_does_not_wait_for_a_slow_daemon(env, fake):
    fake.raw_answers["system.ping"] = "hang"
    del env["PYRO_COMPLETION_WAIT_MS"]
    begin = time.monotonic()
    assert offers(env, "vm", "status", "") == []
    assert time.monotonic() - begin < 4  # of the 5 s that other commands give it


def typed(env, argv, script, line, until):
    """Types into an interactive shell; returns what the terminal shows when `until` is true."""
    master, slave = os.openpty()
    p = subprocess.Popen(argv, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen, sent, end = "", 0, time.monotonic() + 60
    steps = [(None, script + "; echo rea''dy\r"), ("ready\r\n", line)]
    try:
        while until not in seen:
            if sent < len(steps) and (steps[sent][0] is None or steps[sent][0] in seen):
                os.write(master, steps[sent][1].encode())
                sent += 1
                if sent == 2:
                    seen = ""
            assert select.select([master], [], [], max(0, end - time.monotonic()))[0], seen
            seen += re.sub("\x07|\x1b\\[[0-9;?]*[a-zA-Z]", "", os.read(master, 4096).decode(errors="replace"))
        return seen
    finally:
        p.kill()
        p.wait()
        os.close(master)


@pytest.mark.parametrize("line,until", [
    ("pyro vm status vm-0\t", "pyro vm status " + VM + " "),
    ("pyro env pull deb\t-b\t", "pyro env pull debian:12-base "),
    ("pyro env pull debian:12-\t", "pyro env pull debian:12-base "),
    ("pyro run --accel\tkv\t", "pyro run --accelerator kvm "),
    ("pyro compl\tba\t", "pyro completion bash "),
])
def test_bash(env, fake, line, until):
    typed(env, ["bash", "--norc", "--noprofile", "-i"], "source <(pyro completion bash)", line, until)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(env, fake, shell, tmp_path):
    if not shutil.which(shell):
        pytest.skip(shell + " is not installed")
    script = subprocess.run([PYRO, "completion", shell], check=True, capture_output=True, text=True).stdout
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, env=env)
    if shell == "zsh":
        typed(dict(env, ZDOTDIR=str(tmp_path)), ["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u; source <(pyro completion zsh)",
              "pyro vm status vm-0\t", VM)
    else:
        r = subprocess.run(["fish", "-c", "source %s/script; complete -C 'pyro vm status vm-0'" % tmp_path], env=env, capture_output=True, text=True)
        assert r.stdout.strip() == VM, r


@pytest.mark.parametrize("place", ["bash-completion/completions/pyro.bash", "zsh/site-functions/_pyro", "fish/vendor_completions.d/pyro.fish"])
def test_scripts_are_installed(place):
    shell = place.split("-")[0].split("/")[0]
    made = subprocess.run([PYRO, "completion", shell], check=True, capture_output=True, text=True).stdout
    with open(stage(BUILD_ASAN) + "/share/" + place) as f:
        assert f.read() == made
