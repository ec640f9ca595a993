# SPDX-License-Identifier: MIT
"""Operations on files by the agent, with the wire protocol of wire.py. Used by test_agent_files.py, where the agent is an ordinary
process, and by tests/vm/test_files.py, where it is PID 1 of a guest. Each check gets a Box: a host and an empty folder of the
guest, in which it makes everything by commands."""
import errno
import os

import wire
from wire import FILE_EDIT, FILE_LIST, FILE_READ, FILE_WRITE, LINES_KNOWN, RECURSIVE, REPLACE_ALL, TRUNCATED

MIB = 1 << 20


class Box:
    def __init__(self, host, folder, user="root", seconds=20):
        self.host, self.folder, self.user, self.seconds = host, folder, user, seconds
        self.channel = 1000

    def sh(self, command):
        """A command in the folder: its output."""
        self.channel += 1
        x = self.host.run(self.channel, command, n=self.channel, seconds=self.seconds, cwd=self.folder, user=self.user)
        assert x.started == (0, None) and x.exit["code"] == 0 and x.exit["signal"] == 0, (x.started, x.exit, bytes(x.got[wire.STDERR]))
        return bytes(x.got[wire.STDOUT])

    def path(self, name):
        name = name.encode() if isinstance(name, str) else name
        return name if name.startswith(b"/") else self.folder.encode() + b"/" + name

    def do(self, op, name, **kw):
        self.channel += 1
        return self.host.file(self.channel, op, self.path(name), seconds=self.seconds, **kw)

    def done(self, op, name, **kw):
        d = self.do(op, name, **kw)
        assert d["error"] == 0, d
        return d

    def fails(self, op, name, error, what=None, **kw):
        d = self.do(op, name, **kw)
        assert (d["error"], d["content"], d["entries"]) == (error, b"", []), d
        if what:
            assert d["what"] == what, d
        return d


def read_parts(box):
    box.sh("printf 'one\\ntwo\\nthree\\nf\\303\\266ur' > lines; : > empty")
    d = box.done(FILE_READ, "lines")
    assert (d["content"], d["size"], d["total_lines"], d["flags"]) == ("one\ntwo\nthree\nföur".encode(), 19, 4, LINES_KNOWN), d
    for start, count, text in ((1, 1, b"one\n"), (2, 2, b"two\nthree\n"), (3, 0, "three\nföur".encode()), (4, 9, "föur".encode()), (5, 1, b""),
                               (1 << 62, 1 << 62, b"")):
        d = box.done(FILE_READ, "lines", start_line=start, max_lines=count)
        assert (d["content"], d["total_lines"], d["flags"]) == (text, 4, LINES_KNOWN), (start, count, d)
    d = box.done(FILE_READ, "lines", max_bytes=6)
    assert (d["content"], d["size"], d["flags"]) == (b"one\ntw", 19, LINES_KNOWN | TRUNCATED), d
    # No character is split.
    assert box.done(FILE_READ, "lines", max_bytes=16)["content"] == b"one\ntwo\nthree\nf"
    assert box.done(FILE_READ, "lines", max_bytes=17)["content"] == "one\ntwo\nthree\nfö".encode()
    assert box.done(FILE_READ, "lines", max_bytes=19)["flags"] == LINES_KNOWN
    d = box.done(FILE_READ, "empty")
    assert (d["content"], d["size"], d["total_lines"], d["flags"]) == (b"", 0, 0, LINES_KNOWN), d


def read_bytes(box):
    box.sh("head -c 1048576 /dev/urandom > random; printf '\\000\\377\\n\\000' > nul; sha256sum random > sum")
    d = box.done(FILE_READ, "random", max_bytes=MIB)
    import hashlib
    assert hashlib.sha256(d["content"]).hexdigest().encode() == box.sh("cut -d' ' -f1 sum").strip() and not d["flags"] & TRUNCATED
    assert box.done(FILE_READ, "nul")["content"] == b"\0\xff\n\0"


def read_large(box):
    """A sparse TiB and 64 MiB of lines: answered at once, without the number of lines."""
    box.sh("truncate -s 1T sparse 2>/dev/null || truncate -s 200G sparse; yes 0123456 | head -c 67108864 > many")
    d = box.done(FILE_READ, "sparse", max_bytes=MIB)
    assert (d["content"], d["flags"]) == (bytes(MIB), TRUNCATED) and d["size"] >= 200 << 30, d["size"]
    d = box.done(FILE_READ, "many", start_line=1000001, max_lines=2)
    assert (d["content"], d["flags"], d["size"]) == (b"0123456\n0123456\n", 0, 64 * MIB), d
    box.fails(FILE_READ, "many", errno.EFBIG, start_line=3000000)
    box.sh("rm sparse many")


def read_what_is_no_file(box):
    box.sh("mkfifo fifo; mkdir dir; ln -s fifo to-fifo; ln -s loop loop; ln -s nowhere dangling; ln -s loop/x through; "
           "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")' 2>/dev/null || :")
    box.fails(FILE_READ, "fifo", errno.EOPNOTSUPP, "it is a FIFO")
    box.fails(FILE_READ, "to-fifo", errno.EOPNOTSUPP, "it is a FIFO")
    if box.sh("ls socket 2>/dev/null || :"):
        box.fails(FILE_READ, "socket", errno.EOPNOTSUPP, "it is a socket")
    box.fails(FILE_READ, "dir", errno.EISDIR)
    for name in ("/dev/zero", "/dev/null", "/dev/ptmx", "/dev/tty", "/dev/watchdog", "/dev/vda"):
        if box.sh("ls %s 2>/dev/null || :" % name):
            box.fails(FILE_READ, name, errno.EOPNOTSUPP, "it is a device")
    box.fails(FILE_READ, "loop", errno.ELOOP)
    box.fails(FILE_READ, "through", errno.ELOOP)
    box.fails(FILE_READ, "dangling", errno.ENOENT)
    box.fails(FILE_READ, "lines/x", errno.ENOENT)
    box.fails(FILE_READ, "a" * 256, errno.ENAMETOOLONG)
    assert int(box.done(FILE_READ, "/proc/uptime")["content"].split(b".")[0]) >= 0
    d = box.done(FILE_READ, "/proc/self/status")
    assert b"Name:\tpyro-file\n" in d["content"] and d["size"] == len(d["content"])
    d = box.done(FILE_READ, "/proc/mounts", max_lines=1)
    assert d["content"].count(b"\n") == 1 and d["total_lines"] > 1


def list_names(box):
    box.sh("mkdir -p d/sub/deep d.x; printf abc > d/file; ln -s ../d/file d/link; ln -s nowhere d/dangling; mkfifo d/fifo; "
           "printf x > d/sub/deep/x; printf '' > \"$(printf 'd/\\377\\001na\\nme')\"; ln -s d folder")
    flat = [(b"dangling", "symlink", 7, b"nowhere"), (b"fifo", "other", 0, None), (b"file", "file", 3, None), (b"link", "symlink", 9, b"../d/file")]
    d = box.done(FILE_LIST, "d")
    assert [e for e in d["entries"] if e[0] != b"sub"] == flat + [(b"\xff\x01na\nme", "file", 0, None)], d
    assert d["entries"][4][:2] == (b"sub", "directory") and d["flags"] == 0
    assert box.done(FILE_LIST, "folder")["entries"] == d["entries"]
    d = box.done(FILE_LIST, "d", flags=RECURSIVE)
    assert [e[0] for e in d["entries"]] == [b"dangling", b"fifo", b"file", b"link", b"sub", b"sub/deep", b"sub/deep/x", b"\xff\x01na\nme"], d
    d = box.done(FILE_LIST, ".", flags=RECURSIVE)
    names = [e[0] for e in d["entries"]]
    assert names.index(b"d/sub/deep/x") < names.index(b"d.x") and b"folder/file" not in names
    box.fails(FILE_LIST, "d/file", errno.ENOTDIR)
    box.fails(FILE_LIST, "d/nothing", errno.ENOENT)
    assert any(e[0] == b"1" and e[1] == "directory" for e in box.done(FILE_LIST, "/proc")["entries"])


def list_much(box):
    """10,000 entries and 1 MiB are the most, and a tree of 300 levels is cut."""
    box.sh("mkdir many long; cd many; seq -f %06g 1 10500 | xargs touch; cd ../long; "
           "seq -f %0200g 1 6000 | xargs touch; cd ..; p=deep; for i in $(seq 300); do p=$p/d; done; mkdir -p $p")
    d = box.done(FILE_LIST, "many")
    assert d["flags"] == TRUNCATED and [e[0] for e in d["entries"]] == [b"%06d" % i for i in range(1, 10001)]
    d = box.done(FILE_LIST, "long")
    assert d["flags"] == TRUNCATED and 4000 < len(d["entries"]) < 5500
    d = box.done(FILE_LIST, "deep", flags=RECURSIVE)
    assert d["flags"] == TRUNCATED and 100 < len(d["entries"]) < 300
    box.sh("rm -r many long deep")


def write_files(box):
    d = box.done(FILE_WRITE, "new", text_=b"first\n")
    assert d["size"] == 6 and box.sh("cat new; stat -c '%a %u' new").split() == [b"first", b"644", box.sh("id -u").strip()]
    box.done(FILE_WRITE, "a/b/c/new", text_=b"")
    assert box.sh("stat -c '%s %a' a/b/c/new; stat -c %a a a/b a/b/c").split() == [b"0", b"644", b"755", b"755", b"755"]
    data = os.urandom(MIB)
    box.done(FILE_WRITE, "bytes", text_=data)
    assert box.done(FILE_READ, "bytes", max_bytes=MIB)["content"] == data
    box.sh("printf old > mode; chmod 4751 mode; ln mode other; ln -s mode link; ln -s link link2; ln -s gone/far dangling")
    box.done(FILE_WRITE, "link2", text_=b"changed")
    assert box.sh("cat mode other; stat -c ' %a' mode; readlink link link2").split() == [b"changedold", b"4751", b"mode", b"link"]
    box.done(FILE_WRITE, "dangling", text_=b"there")
    assert box.sh("cat gone/far; ls -A | grep pyro- || :").split() == [b"there"]
    if box.sh("id -u").strip() == b"0":
        box.sh("printf x > owned; chown 33:44 owned; chmod 600 owned")
        box.done(FILE_WRITE, "owned", text_=b"y")
        assert box.sh("stat -c '%u %g %a' owned").split() == [b"33", b"44", b"600"]


def write_refused(box):
    box.sh("mkdir dir; mkfifo fifo; ln -s fifo to-fifo; ln -s loop loop; printf file > file; ln -s dir to-dir")
    for name, error, what in (("dir", errno.EISDIR, None), ("to-dir", errno.EISDIR, None), ("dir/", errno.EISDIR, None), ("dir/..", errno.EISDIR, None),
                              ("fifo", errno.EOPNOTSUPP, "it is a FIFO"), ("to-fifo", errno.EOPNOTSUPP, "it is a FIFO"), ("loop", errno.ELOOP, None),
                              ("file/x", errno.ENOTDIR, None), ("/dev/null", errno.EOPNOTSUPP, "it is a device"), ("x" * 256, errno.ENAMETOOLONG, None)):
        box.fails(FILE_WRITE, name, error, what, text_=b"no")
    assert box.do(FILE_WRITE, "/proc/nothing/x", text_=b"no")["error"] in (errno.ENOENT, errno.EACCES, errno.EPERM)
    assert box.sh("cat file; find . -name '.pyro*'") == b"file"


def edit_files(box):
    box.sh("printf 'a b a b\\n' > f; chmod 640 f; ln -s f link; : > empty; mkfifo fifo; mkdir dir")
    assert box.fails(FILE_EDIT, "f", errno.ENODATA, old=b"c", text_=b"d")["found"] == 0
    assert box.fails(FILE_EDIT, "f", errno.ENOTUNIQ, old=b"a", text_=b"d")["found"] == 2
    d = box.done(FILE_EDIT, "link", old=b"a b\n", text_=b"x\0y\n")
    assert (d["found"], d["size"]) == (1, 8) and box.done(FILE_READ, "f")["content"] == b"a b x\0y\n"
    d = box.done(FILE_EDIT, "f", old=b" ", text_=b"", flags=REPLACE_ALL)
    assert (d["found"], d["size"]) == (2, 6) and box.sh("stat -c %a f; readlink link").split() == [b"640", b"f"]
    assert box.done(FILE_EDIT, "f", old=b"abx\0y\n", text_=b"aaaa")["size"] == 4
    assert box.fails(FILE_EDIT, "f", errno.ENOTUNIQ, old=b"aa", text_=b"")["found"] == 2  # they do not overlap
    assert box.fails(FILE_EDIT, "empty", errno.ENODATA, old=b"x")["found"] == 0
    box.fails(FILE_EDIT, "missing", errno.ENOENT, old=b"x")
    box.fails(FILE_EDIT, "missing/x", errno.ENOENT, old=b"x")
    box.fails(FILE_EDIT, "fifo", errno.EOPNOTSUPP, "it is a FIFO", old=b"x")
    box.fails(FILE_EDIT, "dir", errno.EISDIR, old=b"x")
    box.sh("head -c 20000000 /dev/zero | tr '\\0' a > large; head -c 1000000 large > medium; mkdir -p missing; rmdir missing")
    box.fails(FILE_EDIT, "large", errno.EFBIG, old=b"x")
    box.fails(FILE_EDIT, "medium", errno.EFBIG, old=b"a", text_=b"b" * 1000, flags=REPLACE_ALL)
    assert box.sh("stat -c %s medium") == b"1000000\n"


def concurrent(box):
    """Edits of one file follow each other: none is lost; a reader sees a whole file each time."""
    names = [b"<%d>" % i for i in range(40)]
    box.done(FILE_WRITE, "f", text_=b"".join(names))
    h, want, sent = box.host, set(), 0
    base = box.channel + 1
    box.channel += 200

    def answered():
        return [c for c in want if c in h.files]
    for i, name in enumerate(names):
        while len(want) - len(answered()) >= 8:
            h.read_more(box.seconds)
        op = wire.file(base + i, FILE_EDIT, box.path("f"), old=name, text_=b"[%d]" % i)
        h.send(op)
        want.add(base + i)
    h.pump(lambda: len(answered()) == len(names), 4 * box.seconds)
    for c in want:
        (d,) = h.files.pop(c)
        assert (d["error"], d["found"]) == (0, 1), d
    assert box.done(FILE_READ, "f")["content"] == b"".join(b"[%d]" % i for i in range(40))


def relative(box, workspace):
    """A relative path is one below /workspace."""
    box.host.file(1, FILE_WRITE, "rel/x", text_=b"here", seconds=box.seconds)
    assert box.sh("cat %s/rel/x" % workspace) == b"here"
    assert box.host.file(1, FILE_READ, "rel/../rel/x", seconds=box.seconds)["content"] == b"here"
    assert [e[0] for e in box.host.file(1, FILE_LIST, "rel", seconds=box.seconds)["entries"]] == [b"x"]


CHECKS = [read_parts, read_bytes, read_large, read_what_is_no_file, list_names, list_much, write_files, write_refused, edit_files, concurrent]
