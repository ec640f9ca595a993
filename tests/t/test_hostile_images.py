# SPDX-License-Identifier: MIT
"""More hostile archives for the confined image writer (the first fifty are in test_image.py): bombs of size, number, depth and
work; abuse of GNU and pax headers, of sparse maps, links, names, attributes and compression. Each is refused with a sentence
that names the entry, or is harmless, within asserted bounds of memory, processor time and disk."""
import gzip
import json
import lzma
import os
import subprocess
import sys
import tarfile

import pytest

from test_image import END, GOOD, IMPORT, IMPORT_ASAN, add, archive, check_hostile, header, make_image, one, pad, pax, through

SECONDS = 300  # before a hanging process counts as one
CPU_SECONDS = 60
RSS_KIB = 1 << 20
MIB = 1 << 20
IMAGE_BYTES = 512 * MIB


# A small process between, since a child's largest size starts with that of the process that forked it.
HELPER = """
import json, os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
os.close(0)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as f:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss], f)
"""


class Used:
    def __init__(self, out, err, figures):
        self.stdout, self.stderr = out, err
        self.returncode, self.cpu, self.rss = figures


def measure(chunks, out, program=IMPORT):
    """Feeds the archive through a pipe; returns the last line, and what the process and its children used."""
    os.makedirs(out, exist_ok=True)
    used = str(out) + ".used"
    with open(str(out) + ".stderr", "w+b") as err, open(str(out) + ".stdout", "w+b") as said:
        p = subprocess.Popen([sys.executable, "-S", "-c", HELPER, used, program, "tar", "--input", "-", "--output", str(out)],
                             stdin=subprocess.PIPE, stdout=said, stderr=err)
        try:
            for chunk in chunks:
                p.stdin.write(chunk)
            p.stdin.close()
        except BrokenPipeError:
            pass  # the process has read enough and closed its input
        assert p.wait(timeout=SECONDS) == 0
        err.seek(0)
        said.seek(0)
        result = Used(said.read(), err.read(), json.load(open(used)))
    return result, json.loads(result.stdout.splitlines()[-1])


def b256(n, size):
    """A number as GNU tar writes those that do not fit octal digits."""
    return (n % (1 << (8 * size))).to_bytes(size, "big") if n < 0 else bytes([0x80]) + n.to_bytes(size - 1, "big")


def patched(h, at, data):
    h = bytearray(h)
    h[at:at + len(data)] = data
    h[148:156] = b" " * 8
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def gnu(name, size=0, kind=b"0"):
    return patched(header(name, size, kind), 257, b"ustar  \0")


def long_name(value, kind=b"L", after=b""):
    return gnu(b"././@LongLink", len(value), kind) + pad(value) + after


def relinked(records, kind):
    """A link whose target the pax header replaces."""
    body = pax(records, kind=kind)
    return body[:-512] + patched(body[-512:], 157, b"target") + END


def global_pax(records, after):
    body = pax(records)
    return patched(body[:512], 156, b"g") + body[512:-512] + after


def raw_pax(body, after=header(b"x")):
    return header(b"PaxHeaders/x", len(body), b"x") + pad(body) + after + END


def sparse_10(real, table, size=512, name=b"big"):
    data = pad(table)
    return pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"%d" % real),
                (b"GNU.sparse.name", name)], size=max(size, len(data)), data=data) + END


def sparse_old(real, entries):
    h = gnu(b"old", 512, b"S")
    for i, (offset, length) in enumerate(entries):
        h = patched(h, 386 + 24 * i, b256(offset, 12) + b256(length, 12))
    return patched(h, 483, b256(real, 12)) + bytes(512) + END


def chain(n):
    def fill(t):
        for i in range(n):
            add(t, "l%d" % i, type=tarfile.SYMTYPE, linkname="l%d" % (i + 1))
        add(t, "l%d" % n, type=tarfile.DIRTYPE, mode=0o755)
        add(t, "l0/x", b"x")
    return archive(fill)


def maze(t):
    """Each name costs 160 KB of links to follow: quadratic work for a linear archive."""
    for i in range(39):
        add(t, "m%d" % i, type=tarfile.SYMTYPE, linkname="./" * 2000 + "m%d" % (i + 1))
    add(t, "m39", type=tarfile.DIRTYPE, mode=0o755)
    for i in range(20000):
        add(t, "m0/%d" % i)


def alternate(t):
    """One name, ten thousand times, in turn as each type of entry."""
    kinds = [dict(type=tarfile.DIRTYPE, mode=0o755), dict(type=tarfile.FIFOTYPE), dict(type=tarfile.SYMTYPE, linkname="/etc"), {}]
    for i in range(10000):
        add(t, "same", b"" if kinds[i % 4] else b"x", **kinds[i % 4])


def links(n):
    def fill(t):
        add(t, "f", b"x")
        for i in range(n):
            add(t, "h/%d" % i, type=tarfile.LNKTYPE, linkname="f")
    return archive(fill, tarfile.USTAR_FORMAT)


def directories(t):
    for i in range(60000):
        add(t, "d/" + "/".join("%d" % (i >> s & 15) for s in (0, 4, 8, 12)), type=tarfile.DIRTYPE, mode=0o755)


def deeper(t):
    for i in range(1, 10000, 100):
        add(t, "/".join("d" * 1 for _ in range(i)), type=tarfile.DIRTYPE, mode=0o755)


def deeper_by_links(t):
    add(t, "/".join("d" * 200), type=tarfile.DIRTYPE, mode=0o755)
    add(t, "l", type=tarfile.SYMTYPE, linkname="/".join("d" * 200))
    add(t, "l/" + "/".join("e" * 100), type=tarfile.DIRTYPE, mode=0o755)


def swapped(t):
    """A link, a folder in its place, and a file below: the file is never written where the link led."""
    add(t, "d", type=tarfile.SYMTYPE, linkname="/etc")
    add(t, "d", b"in between")
    add(t, "d", type=tarfile.DIRTYPE, mode=0o755)
    add(t, "d/pyro-escaped", b"x")


def through_hardlink(t):
    add(t, "out", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    add(t, "name", type=tarfile.LNKTYPE, linkname="out")
    add(t, "name", b"over a name of the link")


def status_file(text=b"", **fields):
    return archive(lambda t: [add(t, "var/lib/dpkg", type=tarfile.DIRTYPE, mode=0o755), add(t, "var/lib/dpkg/status", text, **fields)])


def attributes(records, name=b"marked", end=END):
    return pax([(b"SCHILY.xattr.user." + k, v) for k, v in records], name=name) + end


PACKAGE = b"Package: %s\nStatus: install ok installed\nVersion: %s\n\n"
TERA = 1 << 40
HOSTILE = {
    # size
    "sparse-8EiB": (sparse_10((1 << 63) - 1, b"1\n%d\n0\n" % ((1 << 63) - 1)), "32 GiB"),
    "sparse-above-8EiB": (sparse_10(1 << 64, b"1\n0\n0\n"), ""),
    "sparse-old-8EiB": (sparse_old((1 << 63) - 1, [(0, 512)]), "32 GiB"),
    "sparse-many-TB": (b"".join(sparse_10(5 * TERA, b"1\n%d\n0\n" % (5 * TERA), name=b"f%d" % i)[:-1024] for i in range(50)) + END, "32 GiB"),
    "sparse-sums-up": (b"".join(sparse_10(20 << 30, b"1\n%d\n0\n" % (20 << 30), name=b"f%d" % i)[:-1024] for i in range(2)) + END, "f1"),
    "sparse-31GiB-of-holes": (sparse_10(31 << 30, b"1\n%d\n0\n" % (31 << 30)), None),
    "size-8GiB-without-data": (header(b"big", 0o77777777777) + END, "big"),
    "size-base256-negative": (patched(header(b"neg"), 124, b256(-512, 12)) + END, ""),
    "size-base256-huge": (patched(header(b"huge"), 124, b256(1 << 62, 12)) + END, ""),
    "gzip-bomb": (gzip.compress(one("zeros", bytes(200 * MIB)), 9), "zeros"),
    "xz-bomb": (lzma.compress(one("zeros", bytes(200 * MIB)), preset=1), "zeros"),
    "gzip-bomb-of-entries": (gzip.compress(header(b"e") * 200000 + END, 9), "200 times"),
    "gzip-in-gzip": (gzip.compress(gzip.compress(gzip.compress(GOOD))), ""),
    "padding-without-end": (one("f", b"x") + bytes(17 * MIB), "16 MiB"),
    "padding-in-gzip": (gzip.compress(one("f", b"x") + bytes(40 * MIB)), None),
    # number, depth, work
    "directory-bomb": (archive(directories), None),
    "deep-by-entries": (archive(deeper), "too long"),
    "deep-by-pax-path": (pax([(b"path", b"d/" * 10000 + b"x")]) + END, "too long"),
    "deep-by-links": (archive(deeper_by_links), "too long"),
    "links-40": (chain(40), None),
    "links-41": (chain(41), "symbolic links"),
    "links-maze": (archive(maze), "too long to follow"),
    "one-name-10000-times": (archive(alternate), None),
    "hard-links-65000": (links(64999), None),
    "hard-links-too-many": (links(65001), "65,000"),
    # links
    "link-to-link-out": (archive(lambda t: [add(t, "a", type=tarfile.SYMTYPE, linkname="/"), add(t, "b", type=tarfile.SYMTYPE, linkname="a/etc"),
                                            add(t, "b/pyro-escaped", b"x")]), None),
    "link-to-proc": (through("/proc/self/root/tmp"), None),
    "link-swapped-for-folder": (archive(swapped), None),
    "hard-link-to-link": (archive(through_hardlink), None),
    "hard-link-through-link": (archive(lambda t: [add(t, "up", type=tarfile.SYMTYPE, linkname="../../.."), add(t, "f", b"x"),
                                                  add(t, "g", type=tarfile.LNKTYPE, linkname="up/f")]), None),
    "hard-link-through-link-out": (archive(lambda t: [add(t, "out", type=tarfile.SYMTYPE, linkname="/etc"),
                                                      add(t, "g", type=tarfile.LNKTYPE, linkname="out/passwd")]), "does not contain"),
    "hard-link-to-device": (archive(lambda t: [add(t, "sda", type=tarfile.BLKTYPE, devmajor=8), add(t, "g", type=tarfile.LNKTYPE, linkname="sda")]), None),
    "hard-link-empty": (header(b"g", 0, b"1") + END, "g"),
    "hard-link-over-directory": (archive(lambda t: [add(t, "f", b"x"), add(t, "d/x", b"x"), add(t, "d", type=tarfile.LNKTYPE, linkname="f")]), "not empty"),
    "hard-link-with-data": (header(b"f", 1) + pad(b"x") + patched(header(b"g", 512, b"1"), 157, b"f") + bytes(512) + END, ""),
    "link-target-nul": (relinked([(b"linkpath", b"a\0/../../etc")], b"2"), None),
    "link-target-newline": (one("l", type=tarfile.SYMTYPE, linkname="a\nb"), None),
    # names
    "name-only-slashes": (one("////", b"x"), "absolute"),
    "name-dot": (one(".", b"x"), "root"),
    "name-newline": (one("a\nb\t\r", b"x"), None),
    "name-bidi-and-overlong": (header("\u202e".encode() + b"\xc0\xaf\xff") + END, None),
    "name-dots": (archive(lambda t: [add(t, n, b"x") for n in ("...", "..a", "a..", "d/. ./x", "\\..\\x")]), None),
    "name-dotdot-slashes": (one("d//..//../x", b"x"), ".."),
    "name-slash-at-end-of-file": (header(b"f/", 1) + pad(b"x") + END, ""),
    "name-whiteouts": (archive(lambda t: [add(t, n, b"x") for n in (".wh.x", ".wh...", "d/.wh..wh..opq", ".wh.")]), None),
    "name-gnu-1MiB": (long_name(b"n" * MIB, after=gnu(b"x")) + END, ""),
    "name-gnu-dotdot": (long_name(b"../" * 60 + b"x\0", after=gnu(b"x")) + END, ".."),
    "name-gnu-nul": (long_name(b"a\0/../b\0", after=gnu(b"x")) + END, None),
    "name-gnu-twice": (long_name(b"one\0", after=long_name(b"/two\0", after=gnu(b"x"))) + END, ""),
    "name-gnu-alone": (long_name(b"n" * 300 + b"\0") + END, ""),
    "name-gnu-size-lies": (gnu(b"././@LongLink", 1 << 30, b"L") + pad(b"x") + gnu(b"x") + END, ""),
    "link-gnu-8MiB": (long_name(b"t" * (8 * MIB), b"K", gnu(b"l", 0, b"2")) + END, ""),
    "link-gnu-on-file": (long_name(b"/etc/passwd\0", b"K", gnu(b"f", 1) + pad(b"x")) + END, None),
    # pax
    "pax-global-dotdot": (global_pax([(b"path", b"../pyro-escaped")], header(b"x")) + END, ""),
    "pax-global-huge": (global_pax([(b"comment", b"c" * (4 * MIB))], header(b"x")) + END, ""),
    "pax-path-absolute": (pax([(b"path", b"/etc/pyro-escaped")]) + END, "absolute"),
    "pax-path-twice": (pax([(b"path", b"fine"), (b"path", b"../pyro-escaped")]) + END, ".."),
    "pax-path-empty": (pax([(b"path", b"")]) + END, ""),
    "pax-linkpath-out": (relinked([(b"linkpath", b"../../etc/passwd")], b"1"), "outside"),
    "pax-sparse-name-dotdot": (sparse_10(512, b"0\n", name=b"../../pyro-escaped"), ".."),
    "pax-length-zero": (raw_pax(b"0 path=x\n"), ""),
    "pax-length-huge": (raw_pax(b"99999999999999999999 path=x\n"), ""),
    "pax-length-negative": (raw_pax(b"-9 path=x\n"), ""),
    "pax-no-equals": (raw_pax(b"9 path..\n"), ""),
    "pax-no-newline": (raw_pax(b"9 path=xy"), ""),
    "pax-binary": (raw_pax(bytes(range(256)) * 20), ""),
    "pax-twice": (pax([(b"path", b"a")])[:-512] + pax([(b"path", b"b")]) + END, ""),
    "pax-describes-nothing": (pax([(b"path", b"a")])[:-512] + END, ""),
    "pax-size-then-smuggled": (pax([(b"size", b"0")], size=512, data=header(b"../pyro-escaped")) + END, ""),
    "pax-charset": (pax([(b"hdrcharset", b"BINARY"), (b"path", b"\xff/..\xfe")]) + END, None),
    "pax-times": (pax([(b"mtime", b"-1e99"), (b"atime", b"nan"), (b"ctime", b"." * 100)]) + END, ""),
    "pax-owner-negative": (pax([(b"uid", b"-1"), (b"gid", b"-2")]) + END, ""),
    "pax-flags": (pax([(b"SCHILY.fflags", b"immutable,append,nodump"), (b"SCHILY.dev", b"9" * 40)]) + END, ""),
    "pax-acl-flood": (pax([(b"SCHILY.acl.access", b",".join(b"user::rwx:%d" % i for i in range(3000)))]) + END, ""),
    "pax-acl-nonsense": (pax([(b"SCHILY.acl.default", b"user:\xff:zzz,,,:::,mask")]) + END, ""),
    "pax-holes": (pax([(b"SUN.holesdata", b" 0 99999999999999999999 -5 7")], size=512, data=bytes(512)) + END, ""),
    # sparse maps
    "sparse-overlap": (pax([(b"GNU.sparse.size", b"8192"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"0,4096,2048,4096")],
                           size=8192, data=bytes(8192)) + END, ""),
    "sparse-beyond-size": (sparse_10(1024, b"1\n4096\n512\n", 1024), ""),
    "sparse-count-lies": (sparse_10(1024, b"4000000000\n0\n512\n"), ""),
    "sparse-map-cut": (sparse_10(1024, b"100000\n" + b"1\n" * 200), ""),
    "sparse-map-words": (sparse_10(1024, b"one\ntwo\nthree\n"), ""),
    "sparse-negative": (sparse_10(1024, b"1\n-512\n512\n"), ""),
    "sparse-old-negative": (sparse_old(4096, [(-4096, 512)]), ""),
    "sparse-fragments": (pax([(b"GNU.sparse.size", b"%d" % (20000 * 8192)), (b"GNU.sparse.numblocks", b"20000"),
                              (b"GNU.sparse.map", b",".join(b"%d,1" % (i * 8192) for i in range(20000)))], name=b"holes", size=20000,
                             data=pad(b"x" * 20000)) + END, None),
    # headers
    "mode-all-bits": (header(b"m", 0, mode=b"7777777") + END, None),
    "mode-not-octal": (header(b"m", 0, mode=b"rwxr-xr") + END, ""),
    "owner-base256-negative": (patched(header(b"o"), 108, b256(-1, 8)) + END, ""),
    "kinds-of-gnu": (b"".join(gnu(b"k" + k, 0, k) for k in (b"D", b"M", b"N", b"V", b"A", b"X", b"7", b"\0")) + END, ""),
    "magic-of-v7": (patched(header(b"v7"), 257, bytes(8)) + END, None),
    "device-many": (archive(lambda t: [add(t, "dev/%d" % i, type=tarfile.BLKTYPE, devmajor=8, devminor=i) for i in range(2000)]), None),
    "multi-volume": (patched(gnu(b"part", 512, b"M"), 369, b"00000001000") + bytes(512) + END, ""),
    # attributes
    "xattr-empty-values": (attributes([(b"%d" % i, b"") for i in range(5000)]), "64 KiB"),
    "xattr-larger-than-a-block": (attributes([(b"big", b"v" * 20000)]), "marked"),
    "xattr-name-256": (attributes([(b"n" * 256, b"v")]), "marked"),
    "xattr-name-empty": (attributes([(b"", b"v")]), ""),
    "xattr-percent-names": (attributes([(b"%00%2f..%zz", b"v")]), ""),
    "xattr-many-entries": (b"".join(attributes([(b"a", b"v" * 3000)], b"m%d" % i, b"") for i in range(2000)) + END, None),
    "xattr-capability-odd": (pax([(b"SCHILY.xattr.security.capability", b"\0" * 3)], name=b"cap") + END, ""),
    # parsed in a later stage
    "status-is-a-link": (status_file(type=tarfile.SYMTYPE, linkname="/etc/passwd"), None),
    "status-is-a-folder": (status_file(type=tarfile.DIRTYPE, mode=0o755), None),
    "status-33MiB": (status_file(b"Package: x\n" * (3 * MIB)), None),
    "status-100000-packages": (status_file(b"".join(PACKAGE % (b"p%d" % i, b"1") for i in range(100000))), None),
    "status-escapes": (status_file(PACKAGE % (b"\x1b[2J", b"\0\xff") + b"Package: " + b"n" * 100000), None),
    # compression
    "gzip-truncated": (gzip.compress(GOOD * 4)[:-30], ""),
    "gzip-bad-sum": (gzip.compress(GOOD)[:-8] + bytes(8), ""),
    "gzip-of-noise": (gzip.compress(os.urandom(5000)), ""),
    "xz-cut": (lzma.compress(GOOD)[:100], ""),
    "xz-dictionary-4GiB": (b"\xfd7zXZ\0\0\4" + bytes(600), ""),
    "zstd-window-huge": (b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(600), ""),
    "bzip2": (b"BZh9" + os.urandom(600), ""),
    "zip": (b"PK\3\4" + bytes(600), ""),
    "cpio": (b"070701" + b"0" * 104 + bytes(600), ""),
    "lzip": (b"LZIP\1\x1d" + bytes(600), ""),
    "elf": (b"\x7fELF" + bytes(600), ""),
}
WORK = {"links-maze"}  # only processor time: half a minute of it with sanitizers
figures = []


def many(n):
    """n empty files of one folder, as chunks."""
    h, chunk = bytearray(header(b"d/0000000")), []
    base = sum(h) - sum(h[148:156]) + 8 * 32 - 7 * 48
    for i in range(n):
        h[2:9] = b"%07d" % i
        h[148:156] = b"%06o\0 " % (base + sum(h[2:9]))
        chunk.append(bytes(h))
        if len(chunk) == 20000 or i == n - 1:
            yield b"".join(chunk)
            chunk = []
    yield END


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    if figures:
        print("\n%d archives: at most %.1f s of CPU (%s), %d MiB resident (%s)" % (
            len(figures), *max((c, n) for n, c, _ in figures), *(lambda r, n: (r >> 10, n))(*max((r, n) for n, _, r in figures))))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(tmp_path, name):
    tar, expected = HOSTILE[name]
    for program in (IMPORT, IMPORT_ASAN):
        if program == IMPORT_ASAN and (name in WORK or not os.path.exists(program)):
            continue  # tests/run always has it
        sanitized = program == IMPORT_ASAN
        out = tmp_path / ("asan" if sanitized else "out")
        p, last = measure([tar], out, program)
        assert b"Sanitizer" not in p.stderr and b"runtime error" not in p.stderr, p.stderr.decode()
        check_hostile(p, last, out, expected, IMAGE_BYTES)
        if p.returncode:  # it names what it refuses, unless nothing of it can be read
            assert last["error"]["message"] and last["error"]["cause"], last
        if not sanitized:
            figures.append((name, p.cpu, p.rss))
            assert p.cpu < CPU_SECONDS and p.rss < RSS_KIB, (p.cpu, p.rss)
    for place in ("/pyro-escaped", "/etc/pyro-escaped", "/tmp/pyro-escaped", str(tmp_path) + "/pyro-escaped"):
        assert not os.path.exists(place)


def test_byte_by_byte(tmp_path):
    """Reads of one byte each, which triggered libarchive's errors of 2026."""
    image, expected = make_image(GOOD, tmp_path / "whole")
    data = archive(lambda t: [add(t, "d/f%d" % i, b"0123456789" * 200) for i in range(4)], tarfile.PAX_FORMAT)
    p, last = measure(((GOOD + END)[i:i + 1] for i in range(len(GOOD))), tmp_path / "bytes")
    assert p.returncode == 0 and last["result"]["digest"] == expected["digest"], last
    p, last = measure((data[i:i + 1] for i in range(len(data))), tmp_path / "pax")
    assert p.returncode == 0 and last["result"]["entries"] == 6, last


def test_two_million_and_one(tmp_path):
    """One entry too many, in one folder; two million of them are tests/soak image."""
    p, last = measure(many(2000000), tmp_path / "out")
    assert p.returncode == 1 and "too many entries" in last["error"]["cause"] and 'd\\/1999998' in json.dumps(last["error"]).replace("/", "\\/")
    print("\ntwo million and one entries refused: %.1f s of CPU, %d MiB resident" % (p.cpu, p.rss >> 10))
    assert p.cpu < CPU_SECONDS and p.rss < RSS_KIB
    assert os.listdir(tmp_path / "out") == []


def test_there_are_at_least_sixty():
    from test_image import HOSTILE as FIRST
    assert len(HOSTILE) + len(FIRST) >= 150
