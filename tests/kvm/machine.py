# SPDX-License-Identifier: MIT
"""An emulated machine with this host's Debian, systemd, cgroup v2 and a CPU with SVM, so that /dev/kvm works inside it whatever
the host has. mmdebstrap makes its root once; it is kept beside the environment cache, and each run has a copy. A run gets a
directory, whose executable `inside` systemd starts as root, and returns what that leaves in out/."""
import os
import shutil
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import debian  # noqa: E402

PACKAGES = debian.SYSTEM + ["linux-image-cloud-amd64", "initramfs-tools", "python3-pytest"]

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
    """where/{root.ext4,vmlinuz,initrd}"""
    tree = where + "/tree"
    debian.make_tree(tree, PACKAGES)
    with open(tree + "/etc/systemd/system/pyro-test.service", "w") as unit:
        unit.write(UNIT)
    wants = tree + "/etc/systemd/system/multi-user.target.wants"
    os.makedirs(wants, exist_ok=True)
    os.symlink("../pyro-test.service", wants + "/pyro-test.service")
    for name in os.listdir(tree + "/boot"):
        for prefix, kept in (("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd")):
            if name.startswith(prefix):
                shutil.copy(tree + "/boot/" + name, where + "/" + kept)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, "-L", "root", where + "/root.ext4", "%dM" % ROOT_MIB], check=True)
    shutil.rmtree(tree)


def root(cache):
    return debian.kept(cache, "kvm", " ".join(PACKAGES) + UNIT, make_root)


def text(path):
    with open(path, errors="replace") as f:
        return f.read()


def boot(cache, payload, work, timeout):
    """Boots it with the directory payload; returns the directory of what it left and its log. If a machine does not end within
    timeout (seconds), or leaves nothing, the failure shows its last lines and its kernel's."""
    base = root(cache)
    disk, bring, result, log, console = (work + "/" + n for n in ("root.ext4", "payload.tar", "result.tar", "test.log", "console.log"))
    subprocess.run(["cp", "--sparse=always", base + "/root.ext4", disk], check=True)
    subprocess.run(["tar", "-S", "-cf", bring, "-C", payload, "."], check=True)
    with open(result, "wb") as f:
        f.truncate(RESULT_MIB << 20)
    qemu = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm", "-smp", "2", "-m", str(MEMORY_MIB),
            "-nodefaults", "-display", "none", "-no-reboot", "-kernel", base + "/vmlinuz", "-initrd", base + "/initrd",
            "-append", "root=/dev/vda rw console=ttyS0 quiet", "-serial", "file:" + console, "-serial", "file:" + log,
            "-device", "virtio-rng-pci",
            "-drive", "if=virtio,format=raw,cache=unsafe,file=" + disk,
            "-drive", "if=virtio,format=raw,readonly=on,file=" + bring,
            "-drive", "if=virtio,format=raw,cache=unsafe,file=" + result]
    try:
        subprocess.run(qemu, check=True, timeout=timeout, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with tarfile.open(result) as tar:
            tar.extractall(work)
    except (subprocess.SubprocessError, tarfile.TarError) as e:
        raise AssertionError("%s\n-- its tests\n%s\n-- its kernel\n%s" % (e, text(log)[-8000:], text(console)[-8000:])) from e
    return work + "/out", text(log)
