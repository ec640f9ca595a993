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


# What may wait for a file system. As they are called with _FILE_OFFSET_BITS=64 on a 64-bit host.
FILES = {"open64", "openat64", "creat64", "fopen64", "opendir", "fdopendir", "readdir64", "pread64", "pwrite64", "preadv64", "pwritev64", "fsync",
         "fdatasync", "sync_file_range", "syncfs", "ftruncate64", "truncate64", "fallocate64", "posix_fallocate64", "mkdir", "mkdirat", "unlink",
         "unlinkat", "rename", "renameat", "remove", "rmdir", "link", "linkat", "symlink", "symlinkat", "stat64", "lstat64", "fstatat64",
         "statx", "statvfs64", "copy_file_range", "sendfile64"}


def test_files_of_transcripts_are_used_on_the_writer_thread():
    """In daemon/agent only segment.c uses files, and only the operations of transcript-op.c call those functions of it."""
    place = BUILD_ASAN + "/daemon/agent/libhostagent.a.p/"
    calls = called(glob.glob(place + "*.o"))
    users = {os.path.basename(o) for name in FILES & set(calls) for o in calls[name]}
    assert users == {"segment.c.o"}
    text = subprocess.run(["nm", "--defined-only", "--extern-only", "--format=posix", place + "segment.c.o"], check=True, capture_output=True, text=True).stdout
    defined = {line.split()[0] for line in text.splitlines()}
    # They use memory alone.
    defined -= {"record_put", "record_get", "segment_put_head", "segments_done", "segments_reserve", "segments_drop_first", "segments_copy"}
    assert {"segment_append", "segment_read", "segments_list", "segments_sync"} <= defined
    everywhere = called(glob.glob(BUILD_ASAN + "/daemon/**/*.o", recursive=True))
    assert {os.path.basename(o) for name in defined for o in everywhere.get(name, ())} == {"transcript-op.c.o"}


def test_forbidden_calls_are_detected(tmp_path):
    """By the compiler options of the sanitized build alone."""
    (tmp_path / "bad.c").write_text("#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
                                    "int bad(char *p, const char *q)\n{\n\tsleep(1);\n\tstrcpy(p, q);\n\treturn system(p);\n}\n")
    subprocess.run(["cc", "-g", "-fsanitize=address,undefined", "-c", "-o", str(tmp_path / "bad.o"), str(tmp_path / "bad.c")], check=True)
    assert FORBIDDEN & set(called([str(tmp_path / "bad.o")])) == {"sleep", "strcpy", "system"}
