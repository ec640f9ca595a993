# SPDX-License-Identifier: MIT
"""What the compiled programs call: nothing that waits, overflows or starts a shell. The sanitized build's objects, in which the
optimiser has inlined or renamed no call."""
import glob
import os
import subprocess

from conftest import BUILD_ASAN

FORBIDDEN = {"system", "popen", "strcpy", "stpcpy", "strcat", "sprintf", "vsprintf", "gets", "tmpnam", "mktemp", "usleep", "sleep"}


def called(objects):
    """{symbol that is defined elsewhere: the objects that use it}."""
    said = subprocess.run(["nm", "--undefined-only", "--print-file-name", "--format=posix", *objects], check=True, capture_output=True, text=True).stdout
    found = {}
    for line in said.splitlines():
        path, symbol = line.split(": ", 1)
        found.setdefault(symbol.split()[0].split("@")[0], set()).add(os.path.relpath(path, BUILD_ASAN))
    return found


def test_nothing_forbidden_is_called():
    objects = [o for place in ("proto", "guest", "client", "daemon") for o in glob.glob("%s/%s/**/*.o" % (BUILD_ASAN, place), recursive=True)]
    assert len(objects) > 150
    calls = called(objects)
    assert "snprintf" in calls and "execve" in calls  # it finds some at all
    assert {name: calls[name] for name in FORBIDDEN & set(calls)} == {}


def test_handlers_look_up_nothing_themselves():
    """They use call_machine(), call_workspace() and call_run(): the dispatcher looks up a machine, a workspace or a command by its id, with the caller's
    authority."""
    calls = called(glob.glob(BUILD_ASAN + "/daemon/rpc/**/*.o", recursive=True))
    for name in ("vm_find", "workspace_find", "runs_find"):
        assert [os.path.basename(o) for o in calls[name]] == ["object.c.o"], calls[name]


def test_forbidden_calls_are_detected(tmp_path):
    """By the compiler options of the sanitized build alone."""
    (tmp_path / "bad.c").write_text("#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
                                    "int bad(char *p, const char *q)\n{\n\tsleep(1);\n\tstrcpy(p, q);\n\treturn system(p);\n}\n")
    subprocess.run(["cc", "-g", "-fsanitize=address,undefined", "-c", "-o", str(tmp_path / "bad.o"), str(tmp_path / "bad.c")], check=True)
    assert FORBIDDEN & set(called([str(tmp_path / "bad.o")])) == {"sleep", "strcpy", "system"}
