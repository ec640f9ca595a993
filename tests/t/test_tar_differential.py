# SPDX-License-Identifier: MIT
"""The merged tree of an archive (daemon/import/tar-read.c, tree.c, printed by list-tar) against what GNU tar lists and Python's
tarfile reads. A few independent lines merge both listings here, as unpacking into an empty root would; names, types, owners,
permissions, sizes, times, links and contents must agree in ustar, GNU, PAX and v7 archives, with sparse files, long names, hard
links and entries in odd orders."""
import ast
import calendar
import decimal
import gzip
import hashlib
import io
import os
import random
import re
import subprocess
import tarfile
import time

import pytest

from conftest import BUILD_ASAN

LIST = BUILD_ASAN + "/tests/t/list-tar"
SECONDS = 120


class Node:
    def __init__(self, kind, facts=None, target=None):
        self.kind, self.facts, self.target, self.children = kind, facts, target, {}


class Merged:
    """The result of unpacking: later entries replace earlier ones, symbolic links are followed inside the root."""

    def __init__(self, entries):
        self.root = Node("d")
        for name, kind, facts, target in entries:
            self.put(name, kind, facts, target)

    def parent(self, path, make):
        todo, stack = [c for c in path.split("/") if c not in ("", ".")], [self.root]
        if not todo:
            return None, ""
        while len(todo) > 1:
            name = todo.pop(0)
            if name == "..":
                stack = stack[:-1] or [self.root]
                continue
            node = stack[-1].children.get(name)
            if node is None and make:
                node = stack[-1].children[name] = Node("d")
            if node.kind == "l":
                stack = [self.root] if node.target.startswith("/") else stack
                todo = [c for c in node.target.split("/") if c not in ("", ".")] + todo
            else:
                stack.append(node)
        return stack[-1], todo[0]

    def put(self, path, kind, facts, target):
        if kind == "h":
            place, name = self.parent(target, False)
            node = place.children[name]
        else:
            node = Node(kind, facts, target)
        place, name = self.parent(path, True)
        if place is None:
            self.root.facts = facts
            return
        old = place.children.get(name)
        if old is not None and old.kind == "d" == kind:
            old.facts = facts
        elif old is not node:
            place.children[name] = node

    def names(self):
        found, todo = {}, [("", self.root)]
        while todo:
            prefix, node = todo.pop()
            for name, child in node.children.items():
                found[prefix + name] = child
                if child.kind == "d":
                    todo.append((prefix + name + "/", child))
        return found


def text(raw):
    return raw.decode("utf-8", "surrogateescape")


def of_tarfile(data):
    entries = []
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as t:
        for m in t:
            kind = {tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h", tarfile.CHRTYPE: "c", tarfile.BLKTYPE: "b",
                    tarfile.FIFOTYPE: "p"}.get(m.type, "-")
            content = hashlib.sha256(t.extractfile(m).read()).hexdigest() if kind == "-" else ""
            mtime = decimal.Decimal(m.pax_headers.get("mtime", m.mtime))
            facts = dict(mode=m.mode & 0o7777, uid=m.uid, gid=m.gid, mtime=mtime, content=content,
                         size="%d,%d" % (m.devmajor, m.devminor) if kind in "cb" else str(m.size if kind == "-" else 0))
            entries.append((m.name, kind, facts, m.linkname))
    return entries


LINE = re.compile(r'(.)(\S{9}) (\d+)/(\d+) +(\S+) (\S+ \S+) +("(?:[^"\\]|\\.)*")(?: (?:->|link to) ("(?:[^"\\]|\\.)*"))?\n')


def mode_of(letters):
    mode = 0
    for i, letter in enumerate(letters):
        mode |= (letter not in "-ST") << (8 - i)
    return mode | (letters[2] in "sS") << 11 | (letters[5] in "sS") << 10 | (letters[8] in "tT") << 9


def unquoted(c_string):
    return text(ast.literal_eval("b" + c_string))


def timestamp(when):
    return calendar.timegm(time.strptime(when, "%Y-%m-%d %H:%M:%S"))


def of_gnu_tar(data):
    p = subprocess.run(["tar", "-tv", "--numeric-owner", "--full-time", "--quoting-style=c", "-f", "-"], input=data, capture_output=True,
                       env=dict(os.environ, LC_ALL="C", TZ="UTC"), timeout=SECONDS)
    assert p.returncode == 0, p.stderr
    entries, rest = [], p.stdout.decode("ascii")
    while rest:
        m = LINE.match(rest)
        assert m, rest[:300]
        kind, mode, uid, gid, size, when, name, target = m.groups()
        rest = rest[m.end():]
        whole, _, fraction = when.partition(".")
        seconds = int(timestamp(whole))
        facts = dict(mode=mode_of(mode), uid=int(uid), gid=int(gid), mtime=seconds + decimal.Decimal("0." + (fraction or "0")),
                     size=size if kind in "-cb" else "0")
        entries.append((unquoted(name), kind, facts, unquoted(target) if target else None))
    return entries


def of_pyro(data):
    """By name: (kind, facts, target, node)."""
    p = subprocess.run([LIST], input=data, capture_output=True, timeout=SECONDS)
    assert p.returncode == 0 and p.stdout != b"refused\n", (p.stdout[:200], p.stderr)
    found = {}
    for line in p.stdout.decode().splitlines():
        name, kind, mode, uid, gid, size, node, sec, nsec, content, target = line.split("\t")
        mtime = int(sec) + decimal.Decimal(int(nsec)) / 10**9
        found[text(bytes.fromhex(name))] = (kind, dict(mode=int(mode, 8), uid=int(uid), gid=int(gid), size=size, mtime=mtime, content=content),
                                            text(bytes.fromhex(target)), int(node))
    return found


def compare(ours, theirs, whose):
    names = theirs.names()
    assert sorted(ours) == sorted(names), whose
    for name, node in names.items():
        kind, facts, target, number = ours[name]
        assert kind == node.kind, (whose, name)
        if node.facts is None:
            continue  # a directory that is only mentioned by the entries below it
        wanted = dict(node.facts)
        if kind == "l":
            assert target == node.target, (whose, name)
            wanted["mode"] = 0o777  # as Linux shows every link
        assert {k: facts[k] for k in wanted} == wanted, (whose, name)
    # Two names are one file here exactly when they are one file there.
    by_node = {}
    for name in names:
        if names[name].kind != "d":
            by_node.setdefault(id(names[name]), set()).add(ours[name][3])
    numbers = [n for group in by_node.values() for n in group]
    assert all(len(group) == 1 for group in by_node.values()) and len(set(numbers)) == len(numbers), whose


def check(data):
    ours = of_pyro(data)
    compare(ours, Merged(of_tarfile(data)), "Python's tarfile")
    compare(ours, Merged(of_gnu_tar(data)), "GNU tar")
    assert ours, "an empty archive tests nothing"


# Shapes: what goes into an archive, in each of tarfile's three formats.


class Filler:
    def __init__(self, fmt):
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=fmt, errors="surrogateescape")
        self.fmt = fmt

    def add(self, name, kind=tarfile.REGTYPE, data=b"", **fields):
        m = tarfile.TarInfo(name)
        m.type, m.size, m.mtime = kind, len(data), 1700000000
        for key, value in fields.items():
            setattr(m, key, value)
        self.tar.addfile(m, io.BytesIO(data))

    def dir(self, name, **fields):
        self.add(name, tarfile.DIRTYPE, **dict(dict(mode=0o755), **fields))

    def link(self, name, target):
        self.add(name, tarfile.SYMTYPE, linkname=target)

    def hard(self, name, target):
        self.add(name, tarfile.LNKTYPE, linkname=target)

    def bytes(self):
        self.tar.close()
        return self.out.getvalue()


def shape_plain(f):
    f.dir("etc")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 10240, 100000):
        f.add("etc/%d" % size, data=random.Random(size).randbytes(size))


def shape_long_names(f):
    f.add("a" * 99, data=b"99")
    f.add("b" * 100, data=b"100")
    f.add("d" * 120 + "/" + "e" * 100, data=b"split")
    if f.fmt != tarfile.USTAR_FORMAT:
        f.add("c" * 101, data=b"101")
        f.add("n" * 255, data=b"255")
        f.add("/".join(["p" * 200] * 18), data=b"deep")
        f.link("long-link", "t" * 1500)
        f.hard("h" * 200, "n" * 255)


def shape_links(f):
    f.link("relative", "etc/passwd")
    f.link("absolute", "/etc/passwd")
    f.link("dangling", "nowhere")
    f.link("up", "../../../etc")
    f.link("itself", "itself")
    f.link("dot", ".")


def shape_hard_links(f):
    f.add("file", data=b"one")
    f.hard("second", "file")
    f.hard("third", "second")
    f.link("symlink", "file")
    f.hard("link-of-symlink", "symlink")
    f.add("file", data=b"another")  # second and third keep the first
    f.hard("fourth", "./file")
    f.hard("fourth", "file")
    f.hard("third", "fourth")


def shape_odd_order(f):
    f.add("a/b/c/file", data=b"before its folders")
    f.dir("a/b", mode=0o700, uid=7)
    f.dir("a", mode=0o711)
    f.dir("a/b", mode=0o750, uid=8)
    f.dir(".", mode=0o755)


def shape_replaced(f):
    f.add("x", data=b"first")
    f.add("x", data=b"the second is longer")
    f.add("y", data=b"file")
    f.link("y", "x")
    f.link("z", "x")
    f.add("z", data=b"file")
    f.link("w", "x")
    f.dir("w")
    f.add("w/in", data=b"in")
    f.add("v", tarfile.FIFOTYPE)
    f.add("v", data=b"file")
    f.dir("u")
    f.link("u", "x")  # an empty folder is replaced


def shape_special(f):
    f.add("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    f.add("sda", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o660)
    f.add("far", tarfile.CHRTYPE, devmajor=255, devminor=4095)
    f.add("fifo", tarfile.FIFOTYPE, mode=0o600)


def shape_merged_usr(f):
    f.dir("usr/lib")
    f.link("lib", "usr/lib")
    f.add("lib/x.so", data=b"library")
    f.link("usr/lib64", "/usr/lib")
    f.add("usr/lib64/y.so", data=b"library")
    f.link("usr/up", "../../..")
    f.add("usr/up/top", data=b"the root again")
    f.hard("lib/z.so", "usr/lib64/x.so")


def shape_names(f):
    for name in ("with space", "tab\there", "new\nline", "back\\slash", "quote\"'", "-rf", "*", "ünï", "\u4e2d\u6587", " ", ".hidden", "...",
                 "a:b", "->", "x link to y"):
        f.add(name, data=name.encode())
    f.add("./dot/./slash//file", data=b"x")
    f.dir("trailing/")
    f.add("bad\udcff\udcfe", data=b"no UTF-8")


def shape_modes(f):
    for i, mode in enumerate((0, 0o1, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777, 0o1666)):
        f.add("m%d" % i, mode=mode, uid=i, gid=1000 + i)
    f.dir("sticky", mode=0o1777)


def shape_numbers(f):
    f.add("epoch", mtime=0)
    f.add("now", mtime=2**31 + 5)
    f.add("ids", uid=2**21 - 1, gid=2**21 - 2)
    if f.fmt != tarfile.USTAR_FORMAT:
        f.add("big-ids", uid=4294967294, gid=3000000000)
        f.add("late", mtime=2**33 + 1)
    if f.fmt == tarfile.PAX_FORMAT:
        f.add("fraction", mtime=1234567890.5)
        f.add("exact", pax_headers={"mtime": "1234567890.123456789"}, mtime=1234567890)


SHAPES = {k[6:]: v for k, v in sorted(globals().items()) if k.startswith("shape_")}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape, fmt):
    f = Filler(FORMATS[fmt])
    SHAPES[shape](f)
    check(f.bytes())


# What GNU tar itself writes.


def build_tree(d):
    os.makedirs(d + "/usr/lib", 0o755)
    os.symlink("usr/lib", d + "/lib")
    for name, size in (("one", 1), ("block", 512), ("page", 4096), ("usr/lib/big", 70000)):
        open("%s/%s" % (d, name), "wb").write(random.Random(size).randbytes(size))
    os.link(d + "/one", d + "/usr/one")
    os.mkfifo(d + "/fifo")
    os.chmod(d + "/page", 0o4755)
    for at, _, files in os.walk(d):
        for name in files + ["."]:
            os.utime(os.path.join(at, name), ns=(0, 1600000000123456789), follow_symlinks=False)


def build_sparse(d):
    """Holes before, between and after the data, more pieces than a header holds, and one that does not end at a block's edge."""
    for name, size, pieces in (("before", 1 << 20, [1 << 19]), ("after", 3 << 20, [0]), ("all-hole", 1 << 20, []), ("middle", 5 << 20, [0, 1 << 20, 4 << 20]),
                               ("many", 8 << 20, [i * 65536 * 2 for i in range(64)]), ("ragged", 1000001, [4096 * 100])):
        with open(d + "/" + name, "wb") as f:
            f.truncate(size)
            for at in pieces:
                f.seek(at)
                f.write(random.Random(at).randbytes(4096))
        os.utime(d + "/" + name, (0, 1600000000))
    open(d + "/plain", "wb").write(b"not sparse")


def pack(d, *options):
    p = subprocess.run(["tar", "-C", str(d), "--sort=name", *options, "-cf", "-", "."], capture_output=True, timeout=SECONDS)
    assert p.returncode == 0, p.stderr
    return p.stdout


@pytest.mark.parametrize("fmt", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_written_by_gnu_tar(tmp_path, fmt):
    build_tree(str(tmp_path))
    # v7 has no FIFOs.
    check(pack(tmp_path, "--format=" + fmt, *(["--exclude=./fifo"] if fmt == "v7" else [])))


@pytest.mark.parametrize("options", [["--format=oldgnu"], ["--format=gnu"], ["--format=posix", "--sparse-version=0.0"],
                                     ["--format=posix", "--sparse-version=0.1"], ["--format=posix", "--sparse-version=1.0"]], ids=lambda o: "-".join(o)[9:])
def test_sparse(tmp_path, options):
    build_sparse(str(tmp_path))
    data = pack(tmp_path, "--sparse", *options)
    assert len(data) < 2 << 20, "GNU tar saw no holes here"
    check(data)


@pytest.mark.parametrize("seed", range(12))
def test_random(seed):
    """A few names, all types, in any order: replaced, linked and written through links."""
    rnd = random.Random(seed)
    f = Filler(list(FORMATS.values())[seed % 3])
    files, dirs = [], ["."]
    for i in range(60):
        parent, name = rnd.choice(dirs), rnd.choice("abcdefgh") + str(rnd.randrange(6))
        path = parent + "/" + name
        if path in dirs or path.lstrip("./") in dirs:
            continue  # a folder that is not empty may not be replaced
        what = rnd.choice(["file", "file", "dir", "symlink", "hard"])
        if what == "dir" and path not in files:
            f.dir(path, mode=rnd.choice([0o700, 0o755, 0o1777]))
            dirs.append(path)
        elif what == "symlink":
            f.link(path, rnd.choice(["x", "/etc", "../" + name]))
            files.append(path)
        elif what == "hard" and files:
            f.hard(path, rnd.choice(files))
            files.append(path)
        else:
            f.add(path, data=rnd.randbytes(rnd.randrange(3000)))
            files.append(path)
    check(f.bytes())


# What is refused, with the sentence that says why: here outside the import's sandbox, where test_hostile_images.py has more.


def refused(data):
    p = subprocess.run([LIST], input=data, capture_output=True, timeout=SECONDS)
    assert p.returncode == 0, p.stderr
    assert p.stdout == b"refused\n"
    return p.stderr.decode()


def test_more_than_two_hundred_times_its_size():
    f = Filler(tarfile.USTAR_FORMAT)
    f.add("zeros", data=bytes(80 << 20))
    assert "unpacks to more than 200 times" in refused(gzip.compress(f.bytes(), 9))


def test_extended_attributes_beyond_64_kib():
    f = Filler(tarfile.PAX_FORMAT)
    f.add("many", pax_headers={"SCHILY.xattr.user.k%d" % i: "v" * 9000 for i in range(8)})
    assert "larger than 64 KiB" in refused(f.bytes())


def test_more_hard_links_than_ext4_has():
    f = Filler(tarfile.USTAR_FORMAT)
    f.add("file", data=b"x")
    for i in range(65000):
        f.hard("l%d" % i, "file")
    assert 'the archive\'s entry "l64999" is refused' in refused(f.bytes())


@pytest.mark.parametrize("name,kind,target,why", [
    ("a/../b", tarfile.REGTYPE, "", 'contains ".."'), ("/etc/passwd", tarfile.REGTYPE, "", "is absolute"),
    ("h", tarfile.LNKTYPE, "../outside", "outside the archive"), ("h", tarfile.LNKTYPE, "nowhere", "does not contain"),
    ("h", tarfile.LNKTYPE, "up/..", "outside the archive"), ("n" * 256, tarfile.REGTYPE, "", "too long"), ("file/x", tarfile.REGTYPE, "", "not a directory"),
    ("up/../x", tarfile.REGTYPE, "", 'contains ".."')])
def test_outside_is_refused(name, kind, target, why):
    f = Filler(tarfile.PAX_FORMAT)
    f.add("file")
    f.link("up", "..")
    f.add(name, kind, linkname=target)
    said = refused(f.bytes())
    assert why in said and "is refused" in said
