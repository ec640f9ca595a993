# SPDX-License-Identifier: MIT
"""Errors that need a real guest: the messages of its kernel and its agent, and fixes that only a guest can prove."""
import json
import os
import re
import subprocess

from conftest import stage

RUN = ("-q", "run", "-m", "256M")


def failure(d, *words, **kw):
    r = d.pyro(*words, **kw)
    found = re.search(r"^pyro: (.*)\n(?:  cause: (.*)\n)?  fix: (.*)\n\Z", r.errors, re.M)
    assert r.status == 125 and found, r
    return found.groups()


def typed(d, line):
    env = d.client_env(PATH=stage(d.build) + "/bin:" + os.environ["PATH"])
    return subprocess.run(["sh", "-c", line], env=env, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120).stdout


def test_kernel_panic(daemon):
    message, cause, fix = failure(daemon, *RUN, "debian:12", "--", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger")
    vm = re.search("vm-[0-9a-f]{12}", message).group()
    assert "Kernel panic - not syncing: sysrq triggered crash" in cause and len(cause) < 300, cause
    assert not re.search(r"[\x00-\x1f]|\\x|\[ +\d", cause), cause
    daemon.wait_clean()
    assert vm.encode() + b": console: " in typed(daemon, fix)


def test_user_and_directory_that_are_not_there(daemon):
    _, cause, fix = failure(daemon, *RUN, "-u", "nobody2", "debian:12", "--", "true")
    assert "nobody2" in cause and fix == "-u root, or a user of the guest's /etc/passwd"
    _, cause, fix = failure(daemon, *RUN, "-w", "/nowhere", "debian:12", "--", "true")
    assert "/nowhere" in cause and fix == "-w /workspace, or another directory that exists"
    assert daemon.pyro(*RUN, "-u", "root", "-w", "/workspace", "debian:12", "--", "true").status == 0


def test_bytes_that_are_not_utf8_arrive(daemon):
    _, _, fix = failure(daemon, *RUN, "debian:12", "--", "printf", "%s", b"caf\xe9 '\x01")
    assert typed(daemon, fix) == b"caf\xe9 '\x01"
    _, _, fix = failure(daemon, *RUN, "-e", b"A=b\xff'$", "debian:12", "--", "true")
    begin = re.fullmatch("leave out -e A, and begin the command with: (.*)", fix).group(1)
    assert daemon.pyro(*RUN, "debian:12", "--", begin + ' printf %s "$A"').out == b"b\xff'$"


def test_json_says_the_same(daemon):
    r = daemon.pyro("--json", *RUN[1:], "-u", "nobody2", "debian:12", "--", "true")
    e = json.loads(r.out)["error"]
    assert (e["code"], e["fix"], e["retryable"]) == ("invalid_argument", "-u root, or a user of the guest's /etc/passwd", False)
