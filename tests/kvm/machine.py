# SPDX-License-Identifier: MIT
"""An emulated Debian 12 machine with systemd, cgroup v2 and a CPU with SVM, so that /dev/kvm works inside it whatever
the host has. Its root is made once by mmdebstrap and kept beside the environment cache; each run has a copy. A run
gets a directory, whose executable `inside` systemd starts as root, and gives back what that leaves in out/."""
import hashlib
import os
import shutil
import subprocess
import tarfile

PACKAGES = """linux-image-cloud-amd64 initramfs-tools systemd systemd-sysv udev dbus polkitd qemu-system-x86 mmdebstrap
uidmap libjson-c5 libarchive13 libkmod2 libinih1 libext2fs2 libsqlite3-0 libnettle8 e2fsprogs kmod zstd python3
python3-pytest iproute2 procps""".split()

UNIT = """[Unit]
Description=What the tests brought
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /var/lib/payload && tar -xf /dev/vdb -C /var/lib/payload && cd /var/lib/payload && exec ./inside'
ExecStopPost=/bin/sh -c 'tar -C /var/lib/payload -cf /dev/vdc out; systemctl poweroff --no-block'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
"""

ROOT_MIB, RESULT_MIB, MEMORY_MIB = 8192, 64, 6144


def make_root(where):
    """where/{root.ext4,vmlinuz,initrd}: made aside and renamed, so that half of one is never taken for it."""
    aside = where + ".new"
    shutil.rmtree(aside, ignore_errors=True)
    os.makedirs(aside)
    tree = aside + "/tree"
    subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=" + ",".join(PACKAGES),
                    '--aptopt=APT::Install-Recommends "false"', "bookworm", tree], check=True, timeout=1800)
    with open(tree + "/etc/systemd/system/pyro-test.service", "w") as unit:
        unit.write(UNIT)
    wants = tree + "/etc/systemd/system/multi-user.target.wants"
    os.makedirs(wants, exist_ok=True)
    os.symlink("../pyro-test.service", wants + "/pyro-test.service")
    os.symlink("/lib/systemd/system/multi-user.target", tree + "/etc/systemd/system/default.target")
    for name in os.listdir(tree + "/boot"):
        for prefix, kept in (("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd")):
            if name.startswith(prefix):
                shutil.copy(tree + "/boot/" + name, aside + "/" + kept)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, "-L", "root", aside + "/root.ext4", "%dM" % ROOT_MIB], check=True)
    shutil.rmtree(tree)
    os.rename(aside, where)


def root(cache):
    """The root for these packages and this unit; made when it is not there."""
    key = hashlib.sha256((" ".join(PACKAGES) + UNIT).encode()).hexdigest()[:16]
    where = cache + "/kvm-" + key
    if not os.path.isdir(where):
        make_root(where)
    return where


def boot(cache, payload, work, timeout):
    """Boots it with the directory payload; returns the directory of what it left and its log."""
    base = root(cache)
    disk, bring, result, log, console = (work + "/" + n for n in ("root.ext4", "payload.tar", "result.tar", "test.log", "console.log"))
    subprocess.run(["cp", "--sparse=always", base + "/root.ext4", disk], check=True)
    subprocess.run(["tar", "-S", "-cf", bring, "-C", payload, "."], check=True)
    with open(result, "wb") as f:
        f.truncate(RESULT_MIB << 20)
    subprocess.run(
        ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm", "-smp", "2", "-m", str(MEMORY_MIB),
         "-nodefaults", "-display", "none", "-no-reboot", "-kernel", base + "/vmlinuz", "-initrd", base + "/initrd",
         "-append", "root=/dev/vda rw console=ttyS0 quiet", "-serial", "file:" + console, "-serial", "file:" + log,
         "-device", "virtio-rng-pci",
         "-drive", "if=virtio,format=raw,cache=unsafe,file=" + disk,
         "-drive", "if=virtio,format=raw,readonly=on,file=" + bring,
         "-drive", "if=virtio,format=raw,cache=unsafe,file=" + result],
        check=True, timeout=timeout, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(log, errors="replace") as f:
        text = f.read()
    with tarfile.open(result) as tar:
        tar.extractall(work)
    return work + "/out", text
