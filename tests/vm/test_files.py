# SPDX-License-Identifier: MIT
"""Operations on files by the agent of a real guest, without a daemon: the checks of tests/t/agent_files.py on the machine's own disk
and on its root, an overlay; then what only a guest has: a FUSE file system that hangs, a machine that is killed after a write."""
import errno
import os

import pytest

from guest import Guest, wire
from test_odd_environments import debian

import agent_files
from agent_files import Box
from wire import FILE_EDIT, FILE_LIST, FILE_READ, FILE_WRITE

FUSE = r"""
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
os.makedirs("/mnt/hang", exist_ok=True)
data = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd
assert libc.mount(b"hang", b"/mnt/hang", b"fuse", 0, data) == 0, os.strerror(ctypes.get_errno())
while True:  # answers INIT and nothing else
    head = os.read(fd, 1 << 17)
    length, op, unique = struct.unpack_from("<IIQ", head)
    if op == 26:
        body = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 8, 8, 4096, 1, 1, 0, 0)
        os.write(fd, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
        print("ready", flush=True)
"""


@pytest.fixture(scope="module")
def guest(installed):
    with Guest(debian()) as g:
        assert g.up() == (0, None), g.console()
        yield g
        g.down()


@pytest.fixture(params=["/workspace", "/root"])
def box(guest, request):
    folder = request.param + "/box"
    guest.run("rm -rf %s; mkdir %s" % (folder, folder))
    b = Box(guest.host, folder, seconds=120)
    b.channel = guest.channel + 5000
    guest.channel += 10000
    return b


@pytest.mark.parametrize("check", agent_files.CHECKS, ids=lambda c: c.__name__)
def test_check(box, check):
    check(box)


def test_a_file_system_that_hangs(guest):
    """Operations on it are ended after 10 s, eight at once; others go on, and so do later ones."""
    guest.run("cat > /root/fuse.py <<'END'\n%sEND\nmodprobe fuse 2>/dev/null || :" % FUSE)
    h = guest.host
    guest.channel += 1
    server = guest.channel
    h.send(wire.start(server, "exec python3 /root/fuse.py", n=server))
    x = h.execs.setdefault(server, wire.Exec())
    h.pump(lambda: b"ready" in x.got[wire.STDOUT] or x.exit, 120)
    assert not x.exit, bytes(x.got[wire.STDERR])
    for c in range(1, 5):
        h.send(wire.file(c, FILE_READ, "/mnt/hang/x") + wire.file(4 + c, (FILE_LIST, FILE_WRITE)[c % 2], "/mnt/hang/y"))
    guest.run("echo here > /workspace/here")
    assert h.file(50, FILE_READ, "here", seconds=60)["error"] == errno.EAGAIN  # eight run
    h.pump(lambda: all(c in h.files for c in range(1, 9)), 60)
    for c in range(1, 9):
        (d,) = h.files.pop(c)
        assert (d["error"], d["flags"]) == (errno.ETIMEDOUT, 0), d
    assert h.file(50, FILE_READ, "here", seconds=60)["content"] == b"here\n"
    h.send(wire.kill(server, 9, everything=True))
    h.pump(lambda: x.exit, 60)
    assert guest.run("umount /mnt/hang; for i in $(seq 100); do pgrep pyro-file >/dev/null || break; sleep 0.1; done; pgrep -c pyro-file || :") == "0\n"


def test_a_killed_machine_has_what_was_acknowledged(installed):
    """The VMM is killed right after the answer: the file is there, whole, in a folder that is there; and nothing else is."""
    with Guest(debian()) as g:
        assert g.up() == (0, None), g.console()
        data = os.urandom(300000)
        for n in range(3):
            assert g.host.file(1, FILE_WRITE, "new/%d/f" % n, text_=data, seconds=60)["error"] == 0
        g.vmm.kill()
        g.vmm.wait()
        assert g.up() == (0, None), g.console()
        for n in range(3):
            assert g.host.file(1, FILE_READ, "new/%d/f" % n, max_bytes=1 << 20, seconds=60)["content"] == data
        assert g.run("find /workspace -type f | sort").split() == ["/workspace/new/%d/f" % n for n in range(3)]
        g.down()


def test_a_full_disk(guest):
    """A write and an edit fail with the reason, the file keeps its contents, and nothing is left beside it."""
    guest.run("rm -rf /workspace/full; mkdir /workspace/full; cd /workspace/full; printf old > f; cat /dev/zero > fill 2>/dev/null; sync; true", seconds=300)
    for op, more in ((FILE_WRITE, {"text_": b"x" * (1 << 20)}), (FILE_EDIT, {"old": b"old", "text_": b"y" * ((1 << 20) - 3)})):
        d = guest.host.file(1, op, "full/f", seconds=120, **more)
        assert (d["error"], d["what"], d["flags"]) == (errno.ENOSPC, "write", 0), d
    assert guest.run("cd /workspace/full; cat f; ls -A").split() == ["oldf", "fill"]  # "old", without a newline, and two names
    guest.run("rm /workspace/full/fill")
    assert guest.host.file(1, FILE_WRITE, "full/f", seconds=120, text_=b"new")["error"] == 0
    assert guest.run("cat /workspace/full/f; rm -r /workspace/full") == "new"
