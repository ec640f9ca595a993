# SPDX-License-Identifier: MIT
"""Kernels and images that a disk has damaged: a real guest that does not boot, or that finds the damage while it runs, leads to
the error that names it, and the fix is run as it is printed. tests/t/test_integrity.py has what needs no guest.

The files are copies of the daemon's own: those of the cache are shared by links."""
import contextlib
import hashlib
import json
import os
import subprocess
import time

import pytest

from conftest import N, stage

BASE = "debian:12-base"  # the environment with the fastest pull
PULL_SECONDS = 900


def own(path):
    subprocess.run(["cp", "-p", "--sparse=always", path, path + ".own"], check=True)
    os.rename(path + ".own", path)
    return path


@contextlib.contextmanager
def silently(path):
    """As a disk damages it: the times of the file stay."""
    st = os.stat(own(path))
    with open(path, "r+b") as f:
        yield f
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def kernel_dir(d):
    return d.state + "/kernels/" + json.load(open(d.state + "/kernels/current.json"))["hash"]


def image_of(d, name):
    return "%s/sha256-%s/image.ext4" % (d.cache, json.load(open("%s/%s.json" % (d.cache, name)))["digest"][len("sha256:"):])


def list_files(d):
    """Adds the list of files to a kernel that was pulled before pyro listed them."""
    folder = kernel_dir(d)
    meta = json.load(open(own(folder + "/meta.json")))
    names = ["vmlinux", "modules.ext4", *("boot/" + n for n in os.listdir(folder + "/boot"))]
    for n in [*names, *(n for n in os.listdir(folder) if n.startswith("initrd-"))]:  # another test's link to the same file would change its ctime
        own(folder + "/" + n)
    meta["files"] = {n: "sha256:" + hashlib.sha256(open(folder + "/" + n, "rb").read()).hexdigest() for n in names}
    with open(folder + "/meta.json", "w") as f:
        json.dump(meta, f)


@pytest.fixture
def d(root_only, daemon, make_daemon):
    """The shared daemon has filled the cache. BASE is another name of its image, so that a pull is small."""
    d = make_daemon()
    os.rename(d.cache + "/debian:12.json", "%s/%s.json" % (d.cache, BASE))
    list_files(d)
    return d.start()


def run(d, *words):
    return d.pyro("run", BASE, "--", *(words or ("echo", "works")))


def works(r):
    assert (r.status, r.out) == (0, b"works\n"), r


def parts(r):
    assert r.status == 125, r
    lines = r.errors.splitlines()
    found = [[x[len(begin):] for x in lines if x.startswith(begin)] for begin in ("pyro: ", "  cause: ", "  fix: ")]
    assert [len(f) for f in found] == [1, 1, 1], r
    return [f[0] for f in found]


def repair(d, fix, seconds=PULL_SECONDS):
    env = d.client_env(PATH=stage(d.build) + "/bin:" + os.environ["PATH"])
    r = subprocess.run(["sh", "-c", fix], env=env, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, (fix, r)


def passes(d):
    r = d.pyro("doctor")
    assert r.status == 0 and "Runtime: PASS\n" in r.text and "vm_boot=yes guest_exec=yes" in r.text, r


def fails(d, *texts):
    r = d.pyro("doctor")
    assert r.status == 1 and "Runtime: FAIL\n" in r.text and "vm_boot=yes" not in r.text, r
    for text in texts:
        assert text in r.text, r


def spoil_vmlinux(d):
    """The kernel's first instructions."""
    with silently(kernel_dir(d) + "/vmlinux") as f:
        f.seek(0x200000)
        f.write(bytes(65536))


def cut_vmlinux(d):
    with silently(kernel_dir(d) + "/vmlinux") as f:
        f.truncate(1 << 20)


def spoil_modules(d):
    """The start of the file system."""
    with silently(kernel_dir(d) + "/modules.ext4") as f:
        f.seek(1024)
        f.write(bytes(1024))


@pytest.mark.parametrize("how, name", [(spoil_vmlinux, "vmlinux"), pytest.param(cut_vmlinux, "vmlinux", marks=pytest.mark.soak), (spoil_modules, "modules.ext4")])
def test_kernel(d, how, name):
    how(d)
    cause = name + " is not what was installed"
    for _ in range(2):
        what, why, fix = parts(run(d))
        assert (what, why, fix) == ("the kernel is damaged", cause, "pyro env pull " + BASE)
    fails(d, cause, "  fix: pyro env pull debian:12\n")
    if how is spoil_vmlinux or N > 1:  # the fix is the same for all: a pull of the whole kernel
        repair(d, fix)
        works(run(d))
        passes(d)


def test_initramfs(d):
    works(run(d))
    name = json.load(open(kernel_dir(d) + "/initrd.json"))["name"]
    with silently(kernel_dir(d) + "/" + name) as f:
        f.write(bytes(4096))
    what, why, fix = parts(run(d))
    assert "initramfs" in what and why == name + " is not what was installed" and fix.startswith("run the command again")
    works(run(d))
    passes(d)


@pytest.mark.soak
def test_image_that_cannot_be_mounted(d):
    works(run(d))
    passes(d)
    with silently(image_of(d, BASE)) as f:
        f.seek(1024)
        f.write(bytes(1024))
    cause = "image.ext4 is not what was installed"
    for _ in range(2):
        what, why, fix = parts(run(d))
        assert (what, why, fix) == ("environment %s is damaged" % BASE, cause, "pyro env pull " + BASE)
    assert BASE + " [damaged] " in d.pyro("env", "list").text
    fails(d, "environment: %s: %s\n  fix: %s\n" % (BASE, cause, fix))
    repair(d, fix)
    works(run(d))
    passes(d)


def test_guest_that_reports_damage(d):
    """It boots and its command succeeds, but a folder is empty: the guest's kernel reports it on its console."""
    image = image_of(d, BASE)
    block = int(subprocess.run(["debugfs", "-R", "blocks /usr/share/doc", image], capture_output=True, check=True, text=True).stdout.split()[0])
    with silently(image) as f:
        f.seek(block * 4096 + 4)
        f.write(b"\x44\x44")
    assert run(d, "ls", "/usr/share/doc").status == 0
    end = time.monotonic() + 120
    while d.call("env.inspect", {"environment": BASE})["result"]["damage"] is None:
        assert time.monotonic() < end, d.log_text()
        time.sleep(0.1)
    what, why, fix = parts(run(d))
    assert (what, why, fix) == ("environment %s is damaged" % BASE, "image.ext4 is not what was installed", "pyro env pull " + BASE)
