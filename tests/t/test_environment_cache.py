# SPDX-License-Identifier: MIT
"""The environment cache as its owner sees it, without a guest: what prune would and does remove, and what doctor says of
the sandbox that archives are parsed in."""
import os
import shutil

import pytest


@pytest.fixture
def small(make_daemon):
    """A daemon with an empty cache of its own."""
    d = make_daemon()
    d.env["PYRO_ENVIRONMENT_CACHE_DIR"] = d.root + "/cache"
    return d.start()


def check_of(daemon, name):
    """The line of doctor of this name; what is not known yet has none, and is waited for."""
    report = daemon.call("system.doctor", {}, timeout=120)["result"]
    found, = [c for c in report["runtime"]["checks"] if c["name"] == name]
    return found


def test_dry_run_says_would(small):
    left = small.root + "/cache/.staging-left"
    os.makedirs(left)
    with open(left + "/image.ext4", "wb") as f:
        f.write(b"x" * 8192)
    r = small.pyro("env", "prune", "--dry-run")
    assert (r.status, r.text) == (0, "Would delete: .staging-left\nWould free: 8192 bytes\n"), r
    assert os.path.isdir(left)
    r = small.pyro("env", "prune")
    assert (r.status, r.text) == (0, "Deleted: .staging-left\nFreed: 8192 bytes\n"), r
    assert not os.path.exists(left)


def test_doctor_tells_of_the_sandbox(small):
    check = check_of(small, "import_sandbox")
    assert check["ok"], check
    assert "archives are parsed without" in check["detail"]


def test_doctor_tells_of_an_import_that_cannot_start(make_daemon):
    d = make_daemon()
    libexec = d.root + "/libexec"
    os.mkdir(libexec)
    for name in os.listdir(d.env["PYRO_LIBEXEC_DIR"]):
        if name != "pyro-import":
            os.symlink(d.env["PYRO_LIBEXEC_DIR"] + "/" + name, libexec + "/" + name)
    d.env["PYRO_LIBEXEC_DIR"] = libexec
    d.env["PYRO_ENVIRONMENT_CACHE_DIR"] = d.root + "/cache"
    d.start()
    check = check_of(d, "import_sandbox")
    assert not check["ok"] and "pyro-import" in check["detail"] and "Install pyro again" in check["fix"], check
    assert d.call("system.ping")["result"]["pid"] == d.process.pid


def test_cache_removed_under_the_daemon(small):
    shutil.rmtree(small.root + "/cache")
    assert small.call("env.list")["result"]["environments"]
    r = small.pyro("env", "prune")
    assert (r.status, r.text) == (0, "Freed: 0 bytes\n"), r


def test_a_cache_has_one_daemon(small, make_daemon):
    """Another daemon's start would remove our pull's staging folder, and its prune what our machines stand on."""
    second = make_daemon()
    second.env["PYRO_ENVIRONMENT_CACHE_DIR"] = small.root + "/cache"
    left = small.root + "/cache/.staging-ours"
    os.mkdir(left)
    with pytest.raises(RuntimeError, match="another pyrod .pid %d. owns %s/cache .fix: .*PYRO_ENVIRONMENT_CACHE_DIR" % (small.process.pid, small.root)):
        second.start()
    assert os.path.isdir(left)
    assert "result" in small.call("system.ping")
