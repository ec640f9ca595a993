# SPDX-License-Identifier: MIT
"""Debian roots for tests that need a whole system with systemd: made once by mmdebstrap and kept beside the environment cache,
under a name that identifies their contents."""
import hashlib
import os
import shutil
import subprocess

SUITES = "bookworm", "trixie"  # of the supported hosts


def host_suite():
    """The suite of this host, whose packages it builds; on another distribution Debian 12's."""
    with open("/etc/os-release") as f:
        names = dict(line.rstrip().split("=", 1) for line in f if "=" in line)
    name = names.get("VERSION_CODENAME", "")
    return name if name in SUITES else SUITES[0]


SUITE = host_suite()

# What the .debs depend on, and what reads them. Debian 13 has some libraries under names with the size of their time_t.
SYSTEM = """systemd systemd-sysv udev dbus polkitd qemu-system-x86 mmdebstrap uidmap libjson-c5 libarchive13 libkmod2 libinih1
libext2fs2 libsqlite3-0 libnettle8 e2fsprogs kmod zstd python3 iproute2 procps""".split()
if SUITE != "bookworm":
    SYSTEM = [name + "t64" if name in ("libarchive13", "libext2fs2", "libnettle8") else name for name in SYSTEM]

# The parts of the installer's "standard system" that a clone, a login and a service need; nothing that only pyro needs.
FRESH = """systemd systemd-sysv libpam-systemd udev dbus sudo ca-certificates git iproute2 procps less locales""".split()


def make_tree(tree, packages, suite=SUITE):
    subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=" + ",".join(packages),
                    '--aptopt=APT::Install-Recommends "false"', suite, tree], check=True, timeout=1800)
    etc = tree + "/etc/systemd/system"
    os.symlink("/lib/systemd/system/multi-user.target", etc + "/default.target")
    # Services that wait for a network of their own, or that run at times of their own.
    for unit in ("systemd-networkd-wait-online.service", "systemd-resolved.service", "apt-daily.timer", "apt-daily-upgrade.timer",
                 "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"):
        os.symlink("/dev/null", etc + "/" + unit)


def kept(cache, kind, ingredients, make):
    """Returns CACHE/KIND-KEY for these ingredients; if it does not exist, make(ASIDE) fills a directory beside it, which is
    then renamed, so that an incomplete one is never used."""
    where = "%s/%s-%s" % (cache, kind, hashlib.sha256(ingredients.encode()).hexdigest()[:16])
    if not os.path.isdir(where):
        aside = where + ".new"
        shutil.rmtree(aside, ignore_errors=True)
        os.makedirs(aside)
        make(aside)
        os.rename(aside, where)
    return where
