# SPDX-License-Identifier: MIT
"""Debian 12 roots for the tests that need a whole system with systemd: made once by mmdebstrap, kept beside the
environment cache under a name that says what is in them."""
import hashlib
import os
import shutil
import subprocess

# What the .debs depend on, and what reads them.
SYSTEM = """systemd systemd-sysv udev dbus polkitd qemu-system-x86 mmdebstrap uidmap libjson-c5 libarchive13 libkmod2 libinih1
libext2fs2 libsqlite3-0 libnettle8 e2fsprogs kmod zstd python3 iproute2 procps""".split()


def make_tree(tree, packages):
    subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=" + ",".join(packages),
                    '--aptopt=APT::Install-Recommends "false"', "bookworm", tree], check=True, timeout=1800)


def kept(cache, kind, ingredients, make):
    """CACHE/KIND-KEY for these ingredients; when it is not there, make(ASIDE) fills it aside and it is renamed, so that
    half of one is never taken for it."""
    where = "%s/%s-%s" % (cache, kind, hashlib.sha256(ingredients.encode()).hexdigest()[:16])
    if not os.path.isdir(where):
        aside = where + ".new"
        shutil.rmtree(aside, ignore_errors=True)
        os.makedirs(aside)
        make(aside)
        os.rename(aside, where)
    return where
