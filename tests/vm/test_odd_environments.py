# SPDX-License-Identifier: MIT
"""The agent's SETUP on unusual environments, and on a machine's disk that an earlier run of the guest has prepared: links, files
and worse in place of folders. The machine starts, and nothing is written through a link."""
import io
import json
import os
import subprocess
import tarfile

import pytest

from conftest import CACHE
from guest import Guest, imported

HERE = os.path.dirname(os.path.abspath(__file__))
EXT4, TMPFS, OVERLAY, PROC, SYSFS = "fs=ef53", "fs=1021994", "fs=794c7630", "fs=9fa0", "fs=62656572"
DIR, STICKY = "40755", "41777"


@pytest.fixture(scope="module")
def probe(work):
    path = work + "/probe"
    subprocess.run(["gcc", "-static", "-O1", "-o", path, HERE + "/probe.c"], check=True)
    return open(path, "rb").read()


@pytest.fixture
def environment(probe, tmp_path):
    """Makes an image: {path: "text", a folder as None, a link as "-> target"}; /probe is in it."""
    def make(files):
        with tarfile.open(tmp_path / "tar", "w") as t:
            for name, what in {"probe": probe, **files}.items():
                i = tarfile.TarInfo(name)
                i.mode = 0o755
                if what is None:
                    i.type = tarfile.DIRTYPE
                elif isinstance(what, str) and what.startswith("-> "):
                    i.type, i.linkname = tarfile.SYMTYPE, what[3:]
                else:
                    what = what if isinstance(what, bytes) else what.encode()
                    i.size = len(what)
                t.addfile(i, io.BytesIO(what) if i.type == tarfile.REGTYPE else None)
        os.mkdir(tmp_path / "out")
        imported("tar", "--input", str(tmp_path / "tar"), "--output", str(tmp_path / "out"))
        return str(tmp_path / "out/image.ext4")
    return make


def debian():
    name = json.load(open(CACHE + "/environments/debian:12.json"))["digest"].replace(":", "-")
    return CACHE + "/environments/" + name + "/image.ext4"


def seen(guest, *paths):
    return dict(line.split(": " if ": " in line else "=", 1) for line in guest.run("/probe " + " ".join(paths)).splitlines())


def test_environment_with_a_single_program(environment):
    with Guest(environment({})) as g:
        assert g.up() == (0, None), g.console()
        found = seen(g, "/workspace", "/tmp", "/run", "/dev/shm", "/proc/1", "/sys/kernel", "/lib/modules", "/var/lib/docker", "/etc/mtab", "=/etc/hostname", "=/etc/passwd",
                     "/dev/fuse", "/dev/vda")
        assert found["/workspace"] == found["/tmp"] == "%s %s" % (STICKY, EXT4)
        assert found["/run"] == "%s %s" % (DIR, TMPFS) and found["/dev/shm"] == "%s %s" % (STICKY, TMPFS)
        assert found["/lib/modules"] == found["/var/lib/docker"] == "%s %s" % (DIR, EXT4)
        assert found["/etc/mtab"].startswith("120777 -> ../proc/self/mounts")
        assert found["/etc/hostname"] == "guest" and found["/etc/passwd"] == "No such file or directory"
        # No /etc/group: all belongs to root, with the mode of the rule.
        assert found["/dev/fuse"].startswith("20666") and found["/dev/vda"].startswith("60660")
        assert g.console() == "", "SETUP skipped something"


def test_links_and_files_where_folders_belong(environment):
    odd = {"etc": None, "etc/passwd": "kept", "lib": "-> usr/lib", "dev": "-> /etc", "proc": "-> nowhere", "sys": "a file", "tmp": "-> var/tmp", "run": "-> /var/run",
           "var": "-> deep/er/var", "workspace": "a file", "etc/mtab": "a file", "etc/hosts": "-> passwd", "etc/hostname": "-> hostname", "etc/resolv.conf": "-> ../run/x",
           "etc/gitconfig": "its own", "etc/sysctl.d": "a file", "etc/modules": "-> modules", "etc/machine-id": "uninitialized"}
    with Guest(environment(odd)) as g:
        assert g.up() == (0, None), g.console()
        found = seen(g, "/dev/null", "/proc/1", "/sys/kernel", "/tmp", "/var/tmp", "/run", "/var/run", "/workspace", "/usr/lib/modules", "/lib", "/etc/mtab", "=/etc/passwd", "=/etc/hosts", "=/etc/hostname",
                     "=/etc/resolv.conf", "=/etc/gitconfig", "/run/x", "/var/lib/docker", "/etc/machine-id")
        assert found["/dev/null"].startswith("20666") and found["/proc/1"].endswith(PROC) and found["/sys/kernel"].endswith(SYSFS)
        assert found["/var/tmp"] == found["/workspace"] == "%s %s" % (STICKY, EXT4)
        assert found["/tmp"] == "120777 -> var/tmp " + EXT4 and found["/run"] == "120777 -> /var/run " + TMPFS and found["/lib"].startswith("120777 -> usr/lib")
        assert found["/var/run"] == "%s %s" % (DIR, TMPFS) and found["/usr/lib/modules"] == "%s %s" % (DIR, EXT4) and found["/var/lib/docker"] == "%s %s" % (DIR, EXT4)
        assert found["/etc/mtab"].startswith("120777 -> ../proc/self/mounts")
        assert found["/etc/passwd"] == "kept" and found["/etc/hosts"] == "127.0.0.1\tlocalhost" and found["/etc/hostname"] == "guest"
        assert found["/etc/resolv.conf"] == "nameserver 127.0.0.1" and found["/run/x"] == "No such file or directory"
        assert found["/etc/gitconfig"] == "its own" and found["/etc/machine-id"].startswith("100644")


PLANT = r"""
cd /tmp && mkdir many && python3 -c 'for i in range(20000): open("many/%d" % i, "w").close()'
python3 -c '
import os
for i in range(1500):
    os.mkdir("d")
    os.chdir("d")
open("bottom", "w")'
ln -s /workspace link; ln -s / root; mkfifo fifo; mkdir -m 0 closed; echo x > locked; chattr +i locked; mkdir keep; echo x > keep/x; chattr +a keep/x; chattr +i keep; chattr +i /tmp
mkdir -p /workspace/kept && echo kept > /workspace/kept/file && chmod 0750 /workspace
echo '10.1.2.3 db.example' >> /etc/hosts; echo mine > /etc/gitconfig
mkdir -p /etc/sysctl.d /etc/modules-load.d /usr/local/lib/sysctl.d
printf 'vm.swappiness = 7\n-net.ipv4.conf.all.log_martians\nnet.ipv4.conf.*.log_martians = 1\nno.such.key = 1\nkernel.pid_max=99999\n' > /etc/sysctl.d/50-mine.conf
echo 'vm.swappiness = 8' > /usr/local/lib/sysctl.d/50-mine.conf; echo 'vm.dirty_ratio = 33' > /etc/sysctl.conf
printf '# comment\n; another\nnosuchmodule\nnet-pf-2-proto-132\n' > /etc/modules-load.d/mine.conf
"""
# The old /tmp is deleted in the background; the root of the machine's disk shows when that is done.
GONE = "mkdir -p /mnt/own && mount /dev/vdb /mnt/own && for i in $(seq 600); do [ -z \"$(ls -A /mnt/own/trash)\" ] && break; sleep 0.1; done; ls -A /mnt/own/trash; umount /mnt/own"
X11 = [".ICE-unix", ".X11-unix", ".XIM-unix", ".font-unix"]


def test_a_start_after_a_hostile_run(installed):
    with Guest(debian()) as g:
        assert g.up() == (0, None), g.console()
        assert g.run("ls -A /tmp").split() == X11
        g.run(PLANT, seconds=300)
        g.down()
        assert g.up() == (0, None), g.console()
        assert g.run("ls -A /tmp; stat -c %a /tmp").split() == X11 + ["1777"]
        assert g.run(GONE, seconds=300) == ""
        assert g.run("cat /workspace/kept/file; stat -c %a /workspace; tail -1 /etc/hosts; cat /etc/gitconfig").split("\n") == ["kept", "750", "10.1.2.3 db.example", "mine", ""]
        assert g.run("cd /proc/sys; cat vm/swappiness kernel/pid_max net/ipv4/conf/lo/log_martians net/ipv4/conf/all/log_martians vm/dirty_ratio; grep -c ^sctp /proc/modules").split() \
            == ["7", "99999", "1", "0", "33", "1"]
        # Now through the disk itself: in place of the folders that the agent uses.
        g.run("mkdir -p /mnt/own && mount /dev/vdb /mnt/own && cd /mnt/own && rm -rf tmp trash && ln -s upper/etc tmp && ln -s upper/etc trash && chattr +i . && cd / && umount /mnt/own; touch /etc/canary")
        g.down()
        assert g.up() == (0, None), g.console()
        assert g.run("ls -A /tmp; cat /etc/canary; ls -d /etc/passwd").split() == X11 + ["/etc/passwd"]
        assert g.run(GONE, seconds=300) == ""
        assert "cannot" not in g.console() and g.run("ls /etc | wc -l") != "0\n"
        g.down()


def test_a_start_after_tmp_has_filled_the_disk(installed):
    with Guest(debian()) as g:
        assert g.up() == (0, None), g.console()
        g.run("echo kept > /workspace/kept; head -c 2G /dev/zero > /tmp/fill; i=0; while mkdir /tmp/d$i; do i=$((i+1)); done; sync; true", seconds=300)
        assert g.run("df --output=avail /tmp | tail -1").strip() == "0"
        g.down()
        assert g.up() == (0, None), g.console()
        assert g.run("ls -A /tmp; cat /workspace/kept").split() == X11 + ["kept"], g.console()
        assert g.run(GONE, seconds=300) == ""
        assert int(g.run("df --output=avail -BM /tmp | tail -1").strip(" M\n")) > 800
        g.down()


def test_an_environment_with_its_own_modprobe(installed):
    """Its sysctl.d lets its own program handle the kernel's requests; /lib/modules is available to it."""
    with Guest(debian()) as g:
        assert g.up() == (0, None)
        g.run("printf '#!/bin/sh\\necho \"$@\" >> /run/asked\\n' > /sbin/modprobe && chmod +x /sbin/modprobe && mkdir -p /etc/sysctl.d && echo kernel.modprobe=/sbin/modprobe > /etc/sysctl.d/modprobe.conf")
        assert g.run("cat /proc/sys/kernel/modprobe") == "/proc/1/exe\n"
        g.down()
        assert g.up() == (0, None)
        assert g.run("ip link add v0 type veth 2>/dev/null || cat /run/asked") == "-q -- rtnl-link-veth\n"
        g.down()
