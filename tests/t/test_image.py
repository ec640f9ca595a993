# SPDX-License-Identifier: MIT
"""The image writer as a black box (`pyro-import tar`): against GNU tar as the reference, entry by entry through a real
mount; against e2fsck; against hostile archives, each of which must be refused or harmless within bounds."""
import hashlib
import io
import json
import os
import re
import resource
import shutil
import socket
import stat
import struct
import subprocess
import tarfile
import tempfile
import time

import pytest

from conftest import CACHE, NOT_DEBIAN

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMPORT = os.environ.get("PYRO_TEST_BUILD", TOP + "/build-release") + "/daemon/import/pyro-import"
IMPORT_ASAN = os.environ.get("PYRO_TEST_BUILD_ASAN", "/nonexistent") + "/daemon/import/pyro-import"
SECONDS = 60
ADDRESS_SPACE = 2 << 30
DISK = 64 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and mounts need root")


def run_import(tar, out, program=IMPORT, bound=False):
    os.makedirs(out, exist_ok=True)
    limit = (lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))) if bound else None
    p = subprocess.run([program, "tar", "--input", "-" if isinstance(tar, bytes) else str(tar), "--output", str(out)],
                       input=tar if isinstance(tar, bytes) else None, capture_output=True, timeout=SECONDS, preexec_fn=limit)
    lines = [json.loads(line) for line in p.stdout.splitlines()]
    return p, lines[-1] if lines else {}


def make_image(tar, out):
    p, last = run_import(tar, out)
    assert p.returncode == 0, (last, p.stderr)
    assert os.listdir(out) == ["image.ext4"]
    return str(out) + "/image.ext4", last["result"]


def fsck(image):
    p = subprocess.run(["/sbin/e2fsck", "-fn", image], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr


def user_xattrs(path):
    try:
        os.setxattr(path, "user.probe", b"1")
        os.removexattr(path, "user.probe")
        return True
    except OSError:
        return False


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def build_reference(d):
    """Everything that a tar can hold, with the difficult cases of each."""
    os.makedirs(d + "/usr/lib/deep/er")
    os.symlink("usr/lib", d + "/lib")
    os.symlink("/usr/lib", d + "/absolute")
    os.symlink("t" * 59, d + "/fast")
    os.symlink("t" * 60, d + "/slow")
    os.symlink("t" * 2000, d + "/long")
    for size in (0, 1, 4095, 4096, 4097, 300000):
        with open(d + "/size-%d" % size, "wb") as f:
            f.write(os.urandom(size))
    os.link(d + "/size-4097", d + "/usr/lib/hard")
    os.link(d + "/size-4097", d + "/usr/hard")
    with open(d + "/sparse", "wb") as f:
        for at in (0, 5000, 1 << 20, 50 << 20):
            f.seek(at)
            f.write(b"data at %d" % at)
        f.truncate(80 << 20)
    with open(d + "/fragments", "wb") as f:
        for i in range(600):
            f.seek(i * 16384)
            f.write(b"%d" % i)
    with open(d.encode() + b"/latin-\xe9\xff", "wb") as f:
        f.write(b"not UTF-8")
    for name in ("\u00fcml\u00e4ut", "with space", "new\nline", "esc\x1b[2J", "n" * 255):
        open(d + "/" + name, "w").close()
    os.mkfifo(d + "/fifo", 0o640)
    os.mknod(d + "/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(d + "/large", 0o600 | stat.S_IFBLK, os.makedev(300, 70000))
    for mode in (0o4755, 0o2711, 0o1777, 0o000):
        open(d + "/mode-%o" % mode, "w").close()
        os.chown(d + "/mode-%o" % mode, 100000, 4000000000)
        os.chmod(d + "/mode-%o" % mode, mode)
    os.lchown(d + "/fast", 70000, 80000)
    os.setxattr(d + "/size-1", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    os.setxattr(d + "/size-4095", "system.posix_acl_access", acl(
        (1, 6, 0xffffffff), (2, 7, 1234), (4, 4, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff)))
    os.setxattr(d + "/usr", "system.posix_acl_default", acl((1, 7, 0xffffffff), (4, 5, 0xffffffff), (32, 5, 0xffffffff)))
    if user_xattrs(d):
        os.setxattr(d + "/size-4096", "user.small", b"v")
        os.setxattr(d + "/size-4096", "user.large", b"V" * 3000)
        os.setxattr(d + "/usr/lib", "user.dir", b"\0binary\xff")
    for i, ns in enumerate((0, 1, -10**9, -1500000000, 2**31 * 10**9, 4102444800123456789, -2**31 * 10**9)):
        p = d + "/time-%d" % i
        open(p, "w").close()
        os.utime(p, ns=(0, ns))
    os.utime(d + "/usr/lib/deep/er", ns=(0, 1234567890987654321))


def describe(root):
    """{path: everything comparable} of a tree, links not followed."""
    result, inodes = {}, {}
    for base, dirs, files in os.walk(os.fsencode(root)):
        for name in [b"."] * (base == os.fsencode(root)) + dirs + files:
            path = os.path.join(base, name)
            s = os.lstat(path)
            e = {"mode": s.st_mode, "uid": s.st_uid, "gid": s.st_gid, "mtime": s.st_mtime_ns, "rdev": s.st_rdev}
            if not stat.S_ISDIR(s.st_mode):
                e["size"] = s.st_size
                e["links"] = s.st_nlink
                inodes.setdefault(s.st_ino, set()).add(os.path.relpath(path, os.fsencode(root)))
            else:
                e["links"] = s.st_nlink if s.st_nlink != 1 else "any"  # btrfs counts no folders
            e["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False)
                           for n in os.listxattr(path, follow_symlinks=False)}
            if stat.S_ISLNK(s.st_mode):
                e["target"] = os.readlink(path)
            if stat.S_ISREG(s.st_mode):
                with open(path, "rb") as f:
                    e["sha256"] = hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") \
                        else hashlib.sha256(f.read()).hexdigest()
            result[os.path.relpath(path, os.fsencode(root))] = e
    return result, {frozenset(names) for names in inodes.values() if len(names) > 1}


class Mounted:
    def __init__(self, image, at):
        self.image, self.at = image, str(at)

    def __enter__(self):
        os.makedirs(self.at, exist_ok=True)
        p = subprocess.run(["mount", "-t", "ext4", "-o", "loop,ro,noload", self.image, self.at], capture_output=True, text=True)
        if p.returncode:
            pytest.skip("no loop mount here: " + p.stderr.strip())
        return self.at

    def __exit__(self, *_):
        subprocess.run(["umount", self.at], check=True)


@needs_root
def test_agrees_with_gnu_tar(tmp_path):
    source, unpacked, tar = str(tmp_path / "source"), str(tmp_path / "unpacked"), str(tmp_path / "a.tar")
    os.mkdir(source)
    os.mkdir(unpacked)
    build_reference(source)
    flags = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"]
    subprocess.run(["tar", *flags, "--format=posix", "-S", "-cf", tar, "-C", source, "."], check=True)
    subprocess.run(["tar", *flags, "--same-owner", "-xpf", tar, "-C", unpacked], check=True)
    image, result = make_image(tar, tmp_path / "out")
    fsck(image)
    with Mounted(image, tmp_path / "mnt") as mnt:
        ours, our_links = describe(mnt)
        theirs, their_links = describe(unpacked)
    assert set(ours) == set(theirs)
    assert result["entries"] == len(theirs)
    assert {p: (ours[p], theirs[p]) for p in theirs if ours[p] != theirs[p]} == {}
    assert our_links == their_links
    assert os.stat(image).st_size < 8 << 20  # the holes stayed holes


@needs_root
def test_agrees_with_gnu_tar_on_replacements(tmp_path):
    """Names that come twice, with other types, and through links: the result is the same as tar's."""
    def entries(t):
        add(t, "usr/lib", type=tarfile.DIRTYPE, mode=0o755)
        add(t, "lib", type=tarfile.SYMTYPE, linkname="usr/lib")
        add(t, "lib/x.so", b"through a link")
        add(t, "f", b"first")
        add(t, "g", type=tarfile.LNKTYPE, linkname="f")
        add(t, "f", b"second")
        add(t, "d", type=tarfile.DIRTYPE, mode=0o700)
        add(t, "d/in", b"x")
        add(t, "d", type=tarfile.DIRTYPE, mode=0o711)
        add(t, "e", type=tarfile.DIRTYPE, mode=0o700)
        add(t, "e", b"a file over an empty directory")
        add(t, "s", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(t, "s", b"a file over a link")
        add(t, "k", b"file")
        add(t, "k", type=tarfile.DIRTYPE, mode=0o755)
    tar, unpacked = tmp_path / "a.tar", str(tmp_path / "unpacked")
    tar.write_bytes(archive(entries))
    os.mkdir(unpacked)
    # -P: without it tar makes absolute links last, over what came later
    subprocess.run(["tar", "-xpPf", str(tar), "-C", unpacked], check=True)
    image, _ = make_image(tar, tmp_path / "out")
    fsck(image)
    with Mounted(image, tmp_path / "mnt") as mnt:
        ours, theirs = describe(mnt), describe(unpacked)
    for p in (b".", b"usr", b"usr/lib"):  # tar's own times for entries without a description, or in which it wrote later
        del ours[0][p]["mtime"], theirs[0][p]["mtime"]
    assert ours == theirs


def test_same_tar_same_digest(tmp_path):
    tar = archive(lambda t: [add(t, "d/f%d" % i, os.urandom(3000)) for i in range(50)])
    _, a = make_image(tar, tmp_path / "a")
    image, b = make_image(tar, tmp_path / "b")
    assert a == b
    with open(image, "rb") as f:
        assert a["digest"] == "sha256:" + hashlib.sha256(f.read()).hexdigest()


def test_sixty_thousand_names(tmp_path):
    tar = tmp_path / "many.tar"
    with tarfile.open(tar, "w") as t:
        for i in range(60000):
            add(t, "dir/a-name-of-some-length-%06d" % (i * 7919 % 60000), b"x")
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    image, result = make_image(tar, tmp_path / "out")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print("60,000 files: %.1f s, %.1f s of CPU" % (time.monotonic() - began, seconds))
    fsck(image)
    assert result["entries"] == 60002
    assert seconds < 10  # of CPU: wall time includes the disk's other work


# Just above 1 TiB the layout changes; the last is the largest file of ext4: Debian 12's libext2fs (1.47.0) uses 28 MiB for it,
# Debian 13's (1.47.2) 48 MiB. Two of them are within DISK_MARGIN_MIB of machine/quota.c.
@pytest.mark.parametrize("mib,real_mib", [(64, 4), (1024, 4), (10240, 4), (1 << 20, 12), ((1 << 20) + 1, 4), ((16 << 20) - 1, 60)])
def test_blank_disk(tmp_path, mib, real_mib):
    """Formerly the largest had 232 MiB of real blocks, which counted against no user."""
    disk = str(tmp_path / "disk")
    subprocess.run([IMPORT, "disk", "--size-mib", str(mib), "--output", disk], check=True, capture_output=True)
    assert os.stat(disk).st_size == mib << 20
    assert os.stat(disk).st_blocks * 512 < real_mib << 20
    assert os.listdir(tmp_path) == ["disk"]
    fsck(disk)
    modes = {d: "Mode:  0755" for d in ("upper", "work", "data/docker", "data/containerd", "data/containers")}
    modes.update((d, "Mode:  01777") for d in ("workspace", "tmp", "tmp/.X11-unix", "tmp/.ICE-unix", "tmp/.XIM-unix", "tmp/.font-unix"))
    # One debugfs for all: each reads the metadata of 16 TiB.
    said = subprocess.run(["/sbin/debugfs", "-f", "-", disk], input="cat /meta/layout\n" + "".join("stat /%s\n" % d for d in modes),
                          capture_output=True, text=True).stdout
    layout, *stats = said.split("debugfs: stat /")
    assert layout == "debugfs: cat /meta/layout\n1" and len(stats) == len(modes), said
    for stat, (d, mode) in zip(stats, modes.items()):
        assert stat.startswith(d + "\n") and mode in stat and "User:     0" in stat, stat


# Hostile archives. Each: name -> (bytes, expected): a part of the refusal, or None where it is merely harmless.

def add(t, name, data=b"", **fields):
    i = tarfile.TarInfo(name)
    i.size, i.mtime = len(data), 1600000000
    for k, v in fields.items():
        setattr(i, k, v)
    t.addfile(i, io.BytesIO(data) if i.type == tarfile.REGTYPE else None)


def archive(fill, fmt=tarfile.PAX_FORMAT):
    b = io.BytesIO()
    with tarfile.open(fileobj=b, mode="w", format=fmt) as t:
        fill(t)
    return b.getvalue()


def one(name, data=b"", **fields):
    return archive(lambda t: add(t, name, data, **fields))


def header(name, size=0, kind=b"0", mode=b"0000644", extra=b""):
    h = bytearray(512)
    h[0:len(name)] = name
    h[100:107], h[108:115], h[116:123] = mode, b"0000000", b"0000000"
    h[124:136], h[136:147] = (b"%011o\0" % size), b"13700000000"
    h[156:157], h[257:265] = kind, b"ustar\x0000"
    h[345:345 + len(extra)] = extra
    h[148:156] = b" " * 8
    h[148:155] = b"%06o\0" % sum(h)
    return bytes(h)


def pax(records, name=b"x", size=0, data=b"", kind=b"0"):
    body = b""
    for k, v in records:
        n = len(k) + len(v) + 3
        n += len(str(n + len(str(n))))
        body += b"%d %s=%s\n" % (n, k, v)
    return header(b"PaxHeaders/x", len(body), b"x") + pad(body) + header(name, size, kind) + pad(data)


def pad(data):
    return data + bytes(-len(data) % 512)


END = bytes(1024)


def through(target):
    def fill(t):
        add(t, "out", type=tarfile.SYMTYPE, linkname=target)
        add(t, "out/pyro-escaped", b"x")
    return archive(fill)


def linked(target):
    def fill(t):
        add(t, "f", b"x")
        add(t, "g", type=tarfile.LNKTYPE, linkname=target)
    return archive(fill)


def loop(t):
    add(t, "a", type=tarfile.SYMTYPE, linkname="b")
    add(t, "b", type=tarfile.SYMTYPE, linkname="a")
    add(t, "a/x", b"x")


def bomb(t):
    for i in range(45):
        add(t, "l%d" % i, type=tarfile.SYMTYPE, linkname="/".join(["l%d" % (i + 1)] * 20))
    add(t, "l0/x", b"x")


def over(t):
    add(t, "d/x", b"x")
    add(t, "d", b"a file over what is not empty")


def xattrs(t):
    i = tarfile.TarInfo("f")
    i.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.security.selinux": "x",
                     "SCHILY.xattr.user.kept": "yes"}
    t.addfile(i)


GOOD = archive(lambda t: [add(t, "d/f%d" % i, b"0123456789" * 200) for i in range(4)], tarfile.USTAR_FORMAT)
HOSTILE = {
    "absolute": (one("/etc/pyro-escaped", b"x"), "absolute"),
    "dotdot": (one("../pyro-escaped", b"x"), ".."),
    "dotdot-inside": (one("a/../../pyro-escaped", b"x"), ".."),
    "dotdot-last": (one("a/..", type=tarfile.DIRTYPE), ".."),
    "empty-name": (header(b"") + END, ""),
    "root-is-link": (one("./", type=tarfile.SYMTYPE, linkname="/etc"), "root"),
    "through-link-root": (through("/"), None),
    "through-link-up": (through("../.."), None),
    "through-link-far": (through("../../../../../../tmp"), None),
    "link-loop": (archive(loop), "symbolic links"),
    "link-bomb": (archive(bomb), "refused"),
    "hardlink-absolute": (linked("/etc/passwd"), "outside"),
    "hardlink-dotdot": (linked("../../etc/passwd"), "outside"),
    "hardlink-missing": (linked("nothing"), "does not contain"),
    "hardlink-self": (linked("g"), "does not contain"),
    "hardlink-directory": (linked("."), "directory"),
    "file-over-directory": (archive(over), "not empty"),
    "below-a-file": (archive(lambda t: [add(t, "f", b"x"), add(t, "f/g", b"x")]), "not a directory"),
    "sparse-1TiB": (pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"%d" % (1 << 40)),
                         (b"GNU.sparse.name", b"big")], size=512, data=pad(b"1\n%d\n0\n" % (1 << 40))) + END, "32 GiB"),
    "sparse-backwards": (pax([(b"GNU.sparse.size", b"8192"), (b"GNU.sparse.numblocks", b"2"),
                              (b"GNU.sparse.map", b"4096,512,0,512")], size=1024, data=bytes(1024)) + END, ""),
    "size-mismatch": (pax([(b"size", b"1024")], size=0, data=header(b"smuggled", 0) + bytes(512)) + END, None),
    "size-2^62": (pax([(b"size", b"%d" % (1 << 62))]) + END, ""),
    "size-negative": (pax([(b"size", b"-5")]) + END, ""),
    "pax-8MiB": (pax([(b"comment", b"c" * (8 << 20))]) + END, ""),
    "pax-length-lies": (header(b"PaxHeaders/x", 20, b"x") + pad(b"999999 path=evil\n\0\0\0") + header(b"x") + END, ""),
    "pax-nul-in-path": (pax([(b"path", b"a\0b")]) + END, None),
    "long-name": (one("n" * 256, b"x"), "too long"),
    "long-path": (one("p/" * 2050 + "x", b"x"), "too long"),
    "too-deep": (one("d/" * 300 + "x", b"x"), "too long"),
    "long-target": (one("l", type=tarfile.SYMTYPE, linkname="t" * 5000), "4095"),
    "empty-target": (header(b"l", 0, b"2") + END, "4095"),
    "escape-in-name": (one("\x1b[2J\x07", b"x"), None),
    "escape-in-refusal": (one("/\x1b[2J\u202e", b"x"), "absolute"),
    "owner-2^40": (pax([(b"uid", b"%d" % (1 << 40))]) + END, "owner"),
    "mtime-huge": (pax([(b"mtime", b"9" * 30)]) + END, None),
    "device-huge": (pax([(b"SCHILY.devmajor", b"99999"), (b"SCHILY.devminor", b"1")], kind=b"3") + END, "device"),
    "device": (one("dev", type=tarfile.CHRTYPE, devmajor=1, devminor=1), None),
    "fifo": (one("fifo", type=tarfile.FIFOTYPE), None),
    "setuid": (one("su", b"x", mode=0o6777), None),
    "xattr-foreign": (archive(xattrs), None),
    "xattr-huge": (pax([(b"SCHILY.xattr.user.x", b"v" * 70000)]) + END, "64 KiB"),
    "unknown-type": (header(b"x", 0, b"Z") + END, None),
    "duplicate-types": (archive(lambda t: [add(t, "x", b"1"), add(t, "x", type=tarfile.FIFOTYPE),
                                           add(t, "x", type=tarfile.SYMTYPE, linkname="y"), add(t, "x", b"2")]), None),
    "bad-checksum": (GOOD[:148] + b"0000000\0" + GOOD[156:], ""),
    "bad-checksum-later": (GOOD[:3072 + 148] + b"0000000\0" + GOOD[3072 + 156:], ""),
    "entries-after-end": (header(b"a") + END + header(b"../b") + END, None),
    "no-end": (header(b"a"), "cut short"),
    "nothing": (b"", ""),
    "not-a-tar": (b"#!/bin/sh\nexit 0\n" * 100, ""),
    "only-zeros": (bytes(10240), None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(tmp_path, name):
    tar, expected = HOSTILE[name]
    for program, bound in ((IMPORT, True), (IMPORT_ASAN, False)):
        if program == IMPORT_ASAN and not os.path.exists(program):
            continue  # tests/run always has it
        out = tmp_path / ("asan" if program == IMPORT_ASAN else "out")
        p, last = run_import(tar, out, program, bound)
        assert b"Sanitizer" not in p.stderr, p.stderr.decode()
        check_hostile(p, last, out, expected)
    for place in ("/pyro-escaped", "/etc/pyro-escaped", "/tmp/pyro-escaped", str(tmp_path) + "/pyro-escaped"):
        assert not os.path.exists(place)


def check_hostile(p, last, out, expected, disk=DISK):
    assert b"\x1b" not in p.stdout
    if expected is None:
        assert p.returncode == 0, (last, p.stderr)
    if p.returncode == 0:
        assert expected in (None, "")
        image = str(out) + "/image.ext4"
        fsck(image)
        assert os.stat(image).st_blocks * 512 < disk
        return
    assert p.returncode == 1, (p.returncode, p.stderr)
    assert last["error"]["code"] in ("pull_failed", "seed_refused")
    assert expected in json.dumps(last["error"])
    assert os.listdir(out) == []


def test_truncated_everywhere(tmp_path):
    """Cut at each block boundary and beside it: never an image of half an archive."""
    whole = len(GOOD.rstrip(b"\0")) + 511 & ~511
    for at in sorted({b + d for b in range(0, whole + 1, 512) for d in (-1, 0, 1)} - {-1}):
        p, last = run_import(GOOD[:at], tmp_path / "out", bound=True)
        assert p.returncode == 1, at
        assert last["error"]["code"] == "pull_failed"
        assert os.listdir(tmp_path / "out") == []


def test_compressed(tmp_path):
    import gzip
    import lzma
    digests = set()
    for i, data in enumerate((GOOD, gzip.compress(GOOD), lzma.compress(GOOD))):
        digests.add(make_image(data, tmp_path / str(i))[1]["digest"])
    assert len(digests) == 1


def test_signal_leaves_nothing(tmp_path):
    ours, theirs = socket.socketpair()
    p = subprocess.Popen([IMPORT, "tar", "--input", "-", "--output", str(tmp_path)], stdin=theirs, stdout=subprocess.PIPE)
    theirs.close()
    ours.sendall(GOOD[:3000])
    assert json.loads(p.stdout.readline())["phase"] == "read"
    p.terminate()
    assert p.wait(timeout=SECONDS) == 128 + 15
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed")
def test_mirror_unreachable(root_only, tmp_path):
    p = subprocess.run([*NOT_DEBIAN, IMPORT, "environment", "--suite", "bookworm", "--packages", "", "--mirror", "http://127.0.0.1:9/debian",
                        "--output", str(tmp_path)], capture_output=True, timeout=120)
    error = json.loads(p.stdout.splitlines()[-1])["error"]
    assert p.returncode == 1 and error["code"] == "pull_failed"
    assert "127.0.0.1" in error["cause"] and "mirror=" in error["fix"]
    assert os.listdir(tmp_path) == []


# Prints the sources that it got, and fails.
MMDEBSTRAP = """#!/bin/sh
for word; do case $word in "deb "*) said="$said<$word>";; esac; done
echo "E: $said" >&2
exit 1
"""


def sources_given(place, host, *args):
    """The sources that mmdebstrap gets on a host whose apt has only these, and the import's lines of progress."""
    os.makedirs(place + "/sources.list.d")
    with open(place + "/sources.list.d/debian.list", "w") as f:
        f.write(host)
    with open(place + "/mmdebstrap", "w") as f:
        f.write(MMDEBSTRAP)
    os.chmod(place + "/mmdebstrap", 0o755)
    words = """mount --bind %s/mmdebstrap "$(command -v mmdebstrap)" && mount --bind %s/sources.list.d /etc/apt/sources.list.d
[ ! -e /etc/apt/sources.list ] || mount --bind /dev/null /etc/apt/sources.list
exec "$@\"""" % (place, place)
    os.makedirs(place + "/out")
    env = dict(os.environ, http_proxy="http://127.0.0.1:9", no_proxy="")
    p = subprocess.run(["unshare", "--mount", "sh", "-ec", words, "sh", IMPORT, "environment", "--suite", "bookworm", "--packages", "",
                        "--output", place + "/out", *args], capture_output=True, timeout=120, env=env)
    *progress, last = [json.loads(line) for line in p.stdout.splitlines()]
    return re.findall("<(.*?)>", last["error"]["cause"]), progress


# Installs one package today, by the clock in NOW, and runs the hook.
INSTALLS = r"""#!/bin/sh
set -e
d=$(mktemp -d)
mkdir -p $d/etc/default $d/root $d/usr/share/doc/base $d/bin
echo c >$d/usr/share/doc/base/changelog.Debian.gz && touch -d @1700000000 $d/usr/share/doc/base/changelog.Debian.gz
echo p >$d/bin/program && touch -d @1600000000 $d/bin/program
echo p >$d/etc/profile; : >$d/root/.profile
printf 'root:*:%s:0:99999:7:::\nold::19000:0:99999:7:::\n' $((NOW / 86400)) >$d/etc/shadow
for word; do case $word in --customize-hook=*) sh -c "${word#*=}" hook $d;; esac; done
find $d -newermt @1700000000 -exec touch -h -d @$NOW {} +
echo "from outside: ${SOURCE_DATE_EPOCH-nothing}" >&2
exec tar -C $d --sort=name --numeric-owner -c .
"""


def test_the_same_packages_give_the_same_image(root_only, tmp_path):
    """Installed on different days and with different clocks."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/mmdebstrap"
    digests = set()
    for now in (1750000000, 1750000001, 1790000000):
        program.write_text(INSTALLS.replace("$NOW", str(now)).replace("NOW ", "%d " % now))
        program.chmod(0o755)
        out = tmp_path / str(now)
        out.mkdir()
        p = subprocess.run([IMPORT, "environment", "--suite", "bookworm", "--packages", "", "--output", str(out)], capture_output=True, timeout=120,
                           env=dict(os.environ, PATH="%s/bin:%s" % (tmp_path, os.environ["PATH"])))
        last = json.loads(p.stdout.splitlines()[-1])
        assert p.returncode == 0, (last, p.stderr)
        digests.add(last["result"]["digest"])

        def said(command):
            return subprocess.run(["/sbin/debugfs", "-R", command, str(out) + "/image.ext4"], capture_output=True, text=True).stdout
        assert said("cat /etc/shadow").split() == ["root:*:%d:0:99999:7:::" % (1700000000 // 86400), "old::%d:0:99999:7:::" % (1700000000 // 86400)]
        for name, date in (("/bin/program", 1600000000), ("/etc/shadow", 1700000000), ("/etc", 1700000000)):
            assert "mtime: 0x%08x" % date in said("stat " + name), (name, said("stat " + name))
    assert len(digests) == 1, digests


def release_file(mirror, suite):
    os.makedirs("%s/dists/%s" % (mirror, suite))
    open("%s/dists/%s/InRelease" % (mirror, suite), "w").close()


@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed")
def test_the_hosts_mirror_comes_before_the_configured_one(root_only, tmp_path):
    given, _ = sources_given(str(tmp_path), "deb http://own.example/debian bookworm main\n", "--mirror", "http://127.0.0.1:9/debian")
    assert given == ["deb http://own.example/debian bookworm main", "deb http://own.example/debian bookworm-updates main"]


@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed")
def test_a_configured_mirror_brings_security_fixes(root_only, tmp_path):
    mirror = "file://%s/debian" % tmp_path
    release_file(str(tmp_path) + "/debian", "bookworm-updates")
    release_file(str(tmp_path) + "/debian-security", "bookworm-security")
    given, progress = sources_given(str(tmp_path), "", "--mirror", mirror + "/")
    assert given == ["deb %s bookworm main" % mirror, "deb %s bookworm-updates main" % mirror, "deb %s-security bookworm-security main" % mirror]
    assert not [p for p in progress if "no security" in p.get("detail", "")], progress


@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed")
def test_a_mirror_with_only_one_suite(root_only, tmp_path):
    """Offline: it works, and the missing suite is reported."""
    mirror = "file://%s/debian" % tmp_path
    given, progress = sources_given(str(tmp_path), "", "--mirror", mirror)
    assert given == ["deb %s bookworm main" % mirror]
    assert [p for p in progress if "no security fixes" in p.get("detail", "")], progress


def test_the_group_can_remove_what_a_kernel_import_leaves(root_only, installed, work):
    """Under systemd pyro-import is a user of its own and pyrod, in its group, copies what it left and removes it."""
    theirs, ours, group = 61191, 61190, 61191
    place = tempfile.mkdtemp(dir=work)
    os.chmod(place, 0o755)
    kernel, = [e.path for e in os.scandir(CACHE + "/kernels") if os.path.exists(e.path + "/meta.json")][:1]
    shutil.copy(kernel + "/vmlinux", place)
    os.mkdir(place + "/staging")
    os.chown(place + "/staging", ours, group)
    os.chmod(place + "/staging", 0o770)
    command = [IMPORT, "kernel", "--from", place + "/vmlinux", "--output", place + "/staging"]
    done = subprocess.run(["setpriv", "--reuid=%d" % theirs, "--regid=%d" % group, "--clear-groups", "sh", "-c", 'umask 0007 && exec "$@"', "sh", *command],
                          capture_output=True, timeout=120, env=dict(os.environ, TMPDIR="/tmp"))
    assert done.returncode == 0, done
    assert sorted(os.listdir(place + "/staging")) == ["boot", "meta.json", "vmlinux"], done
    for folder, _, _ in os.walk(place + "/staging"):
        assert os.stat(folder).st_mode & 0o070 == 0o070, folder
    removed = subprocess.run(["setpriv", "--reuid=%d" % ours, "--regid=%d" % ours, "--groups=%d" % group, "find", place + "/staging", "-mindepth", "1",
                              "-delete"], capture_output=True, timeout=60)
    assert removed.returncode == 0 and os.listdir(place + "/staging") == [], removed
