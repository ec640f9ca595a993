# SPDX-License-Identifier: MIT
"""`tests/soak envs`: debian:12-build pulled and used as a developer would, and two pulls of the same packages. Not part of
tests/run: each pull takes minutes."""
from test_environments import BASE, environments, installed_in, pull

TOOLS = "git openssh-client python3 python3-venv python3-pip curl wget jq rsync ripgrep".split()
BUILD = "build-essential pkg-config cmake python3-dev gdb".split()
PROGRAM = r"""
set -e
printf '#include <stdio.h>\nint main(void)\n{\n\tputs("compiled in a machine");\n\treturn 7;\n}\n' >m.c
gcc -g -Wall -Werror -o m m.c
s=0; ./m || s=$?; echo "status $s"
printf 'cmake_minimum_required(VERSION 3.20)\nproject(m C)\nadd_executable(n m.c)\n' >CMakeLists.txt
cmake -S . -B b >/dev/null && cmake --build b >/dev/null && test -x b/n && echo built by cmake
gdb -batch -ex 'break main' -ex run -ex 'info line' ./m 2>&1 | grep -c 'Breakpoint 1, main'
cmake --version | head -n1; gdb --version | head -n1; python3-config --includes; pkg-config --version
"""


def test_build_compiles_debugs_and_runs(daemon):
    found = pull(daemon, "debian:12-build")
    assert found["packages"] == BASE + TOOLS + BUILD
    assert set(installed_in(daemon, "debian:12-build", BASE + TOOLS + BUILD).values()) == {"installed"}
    r = daemon.pyro("run", "--timeout-seconds", "300", "debian:12-build", "--", PROGRAM, timeout=600)
    assert r.status == 0, r
    lines = r.text.splitlines()
    assert lines[:4] == ["compiled in a machine", "status 7", "built by cmake", "1"], r
    assert lines[4].startswith("cmake version 3.25") and lines[5].startswith("GNU gdb") and "python3.11" in lines[6], r
    daemon.wait_clean()


def test_two_pulls_give_the_same_digest(daemon):
    """Of the same packages, from the mirror; the second pull is forced."""
    found = pull(daemon, "debian:12-base")
    r = daemon.pyro("env", "pull", "--force", "debian:12-base", timeout=1500)
    assert r.status == 0, r
    again = environments(daemon)["debian:12-base"]
    assert again["pulled_at"] > found["pulled_at"] and again["digest"] == found["digest"]
