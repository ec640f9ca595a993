# SPDX-License-Identifier: MIT
"""Debian roots for the tests that need a whole system with systemd: made once by mmdebstrap, kept beside the
environment cache under a name that says what is in them."""
import hashlib
import os
import shutil
import subprocess

# What the .debs depend on, and what reads them.
SYSTEM = """systemd systemd-sysv udev dbus polkitd qemu-system-x86 mmdebstrap uidmap libjson-c5 libarchive13 libkmod2 libinih1
libext2fs2 libsqlite3-0 libnettle8 e2fsprogs kmod zstd python3 iproute2 procps""".split()

# What the installer leaves of its "standard system" that a clone, a login and a service need; nothing of what pyro needs.
FRESH = """systemd systemd-sysv libpam-systemd udev dbus sudo ca-certificates git iproute2 procps less locales""".split()


def make_tree(tree, packages, suite="bookworm"):
    subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=" + ",".join(packages),
                    '--aptopt=APT::Install-Recommends "false"', suite, tree], check=True, timeout=1800)
    etc = tree + "/etc/systemd/system"
    os.symlink("/lib/systemd/system/multi-user.target", etc + "/default.target")
    # What waits for a network of its own, or works at a time of its own.
    for unit in ("systemd-networkd-wait-online.service", "systemd-resolved.service", "apt-daily.timer", "apt-daily-upgrade.timer",
                 "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"):
        os.symlink("/dev/null", etc + "/" + unit)


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
