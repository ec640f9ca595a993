# SPDX-License-Identifier: MIT
"""`tests/soak image`: the largest allowed archives, through the confined writer and checked by e2fsck."""
import os

from test_hostile_images import MIB, SECONDS, header, many, measure
from test_image import END, fsck

RSS_KIB = 1536 << 10


def check(name, chunks, out, entries):
    p, last = measure(chunks, out)
    assert p.returncode == 0, last
    print("\n%s: %.1f s of CPU, %d MiB resident, image of %d MiB" % (name, p.cpu, p.rss >> 10, last["result"]["size_bytes"] >> 20))
    assert last["result"]["entries"] == entries
    assert p.cpu < SECONDS and p.rss < RSS_KIB
    fsck(str(out) + "/image.ext4")
    os.unlink(str(out) + "/image.ext4")


def test_two_million_files(tmp_path):
    check("1,999,998 files in one folder", many(1999998), tmp_path / "out", 2000000)


def test_folders(tmp_path):
    def chunks():
        for i in range(1000):
            yield b"".join(header(b"%d/%d/" % (i, k), 0, b"5", b"0000755") for k in range(250))
        yield END
    check("251,000 folders", chunks(), tmp_path / "out", 251001)


def test_four_gib(tmp_path):
    data = os.urandom(4 * MIB)

    def chunks():
        for i in range(1024):
            yield header(b"f%d" % i, len(data)) + data
        yield END
    check("4 GiB in 1024 files", chunks(), tmp_path / "out", 1025)
