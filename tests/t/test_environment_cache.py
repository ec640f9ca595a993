# SPDX-License-Identifier: MIT
"""The environment cache as its owner sees it, without a guest: what prune would remove and removes, and what doctor says about
the sandbox in which archives are parsed."""
import os
import re
import shutil
import subprocess
import time

import pytest

from conftest import BUILD_ASAN, Raw
from fakevm import ENV
from test_crash_points import fake_mmdebstrap


@pytest.fixture
def small(make_daemon):
    """A daemon with an empty cache of its own."""
    d = make_daemon()
    d.env["PYRO_ENVIRONMENT_CACHE_DIR"] = d.root + "/cache"
    return d.start()


def check_of(daemon, name):
    """doctor's line of this name; it waits for a check that has no result yet."""
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


def test_doctor_reports_the_sandbox(small):
    check = check_of(small, "import_sandbox")
    assert check["ok"], check
    assert "archives are parsed without" in check["detail"]


def test_doctor_reports_an_import_that_cannot_start(make_daemon):
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


@pytest.mark.parametrize("variable,value", [("PYRO_AGENT", "/nonexistent/pyro-agent"), ("PYRO_LIBEXEC_DIR", "/nonexistent")])
def test_doctor_finds_a_missing_program(make_daemon, variable, value):
    """What refuses every run is a failed check, without a probe machine too."""
    d = make_daemon()
    d.env["PYRO_ENVIRONMENT_CACHE_DIR"] = d.root + "/cache"
    d.env[variable] = value
    d.start()
    check = check_of(d, "programs")
    assert not check["ok"] and value in check["detail"] and "Install pyro again" in check["fix"], check
    report = d.call("system.doctor", {"probe": False})["result"]
    assert report["runtime"]["verdict"] == "fail" and report["capabilities"]["vm_boot"] == "no", report


def test_doctor_finds_the_programs_that_are_installed(small):
    check = check_of(small, "programs")
    assert check["ok"] and check["fix"] is None, check


def test_cache_removed_under_the_daemon(small):
    shutil.rmtree(small.root + "/cache")
    assert small.call("env.list")["result"]["environments"]
    r = small.pyro("env", "prune")
    assert (r.status, r.text) == (0, "Freed: 0 bytes\n"), r


def test_a_cache_has_one_daemon(small, make_daemon):
    """A second daemon's start would remove our pull's staging folder, and its prune the images of our machines."""
    second = make_daemon()
    second.env["PYRO_ENVIRONMENT_CACHE_DIR"] = small.root + "/cache"
    left = small.root + "/cache/.staging-ours"
    os.mkdir(left)
    with pytest.raises(RuntimeError, match="another pyrod .pid %d. uses %s/cache .fix: .*PYRO_ENVIRONMENT_CACHE_DIR" % (small.process.pid, small.root)):
        second.start()
    assert os.path.isdir(left)
    assert "result" in small.call("system.ping")


def test_prune_lists_what_it_deletes_and_who_may_not(root_only, make_fake):
    d = make_fake().start()
    os.chmod(d.socket, 0o666)
    image, = [name for name in os.listdir(d.root + "/cache") if name.startswith("sha256-")]

    def as_other(*args):
        p = subprocess.run(["setpriv", "--reuid=61001", "--regid=61001", "--clear-groups", *d.command("env", "prune", *args)], env=d.client_env(),
                           capture_output=True, text=True, timeout=60)
        return p.returncode, p.stdout, p.stderr
    would = "Would delete: debian:12 (%s)\nWould free: 4096 bytes\n" % image
    assert as_other("--all", "--dry-run") == (0, would, "only root and group pyro-admin may remove them: sudo pyro env prune --all\n")
    status, out, err = as_other("--all")
    assert (status, out) == (1, "") and "env prune --all is not permitted for uid 61001" in err and "fix: sudo pyro env prune --all\n" in err
    r = d.pyro("env", "prune", "--all", "--dry-run")
    assert (r.status, r.text, r.errors) == (0, would, "")
    r = d.pyro("env", "prune", "--all")
    assert (r.status, r.text, r.errors) == (0, would.replace("Would delete", "Deleted").replace("Would free", "Freed"), "")
    assert 'uid 0 pruned [ "debian:12 (%s)" ]' % image in d.log_text()
    assert "pruned" not in d.log_text().replace("uid 0 pruned", "", 1)  # neither a dry run nor a refusal is a pull


def refused_pull(d):
    return d.call("env.pull", {"environment": ENV, "force": True}, timeout=60)["error"]["data"]


def test_fix_of_a_pull_without_space_frees_space(root_only, make_fake, tmp_path):
    """If a reserve prevents the pull, the fix lowers it enough; on a file system that is too small, no reserve is blamed."""
    d = make_fake(conf=["disk_reserve_mib = 1000000000"]).start()
    room = os.statvfs(d.root + "/cache")
    most, = re.fullmatch(r"Set disk_reserve_mib in pyrod.conf to at most (\d+) and reload pyrod, or put the cache elsewhere by "
                         r"PYRO_ENVIRONMENT_CACHE_DIR.", refused_pull(d)["fix"]).groups()
    assert 0 < int(most) + 3072 < room.f_bavail * room.f_frsize >> 20
    d = make_fake(conf=["disk_reserve_mib = 512"])
    d.prefix = ["unshare", "--mount", "--", "sh", "-c", 'mount -t tmpfs -o size=64m none "$0" && exec "$@"', d.root + "/cache"]
    d.start()
    assert refused_pull(d)["fix"] == ("Make that file system larger than 3584 MiB, or put the cache elsewhere by "
                                      "PYRO_ENVIRONMENT_CACHE_DIR."), d.log_text()


def test_a_replaced_image_is_deleted_with_its_last_machine(root_only, make_fake):
    """If no machine uses it, the pull that replaced it deletes it."""
    d = make_fake()
    fake_mmdebstrap(d)
    d.start()

    def images():
        return sorted(name for name in os.listdir(d.root + "/cache") if not name.startswith(".") and not name.endswith(".json"))

    def pull(file):
        """Brings another image each time."""
        open(d.root + "/tree/bin/" + file, "w").close()
        made = d.call("env.pull", {"environment": ENV, "force": True}, timeout=120)["result"]["digest"]
        assert "uid 0 forced a pull of " + ENV in d.log_text()
        return made.replace(":", "-")

    def until(wanted):
        end = time.monotonic() + 30
        while images() != sorted(wanted):
            assert time.monotonic() < end, (images(), wanted)
            time.sleep(0.02)

    first, = images()
    vms = [d.call("vm.create", d.spec())["result"]["vm_id"] for _ in range(2)]
    second = pull("second")
    assert images() == sorted([first, second])
    third = pull("third")
    until([first, third])
    assert d.call("vm.start", {"vm_id": vms[0]})["result"]["state"] == "started"
    assert d.call("vm.delete", {"vm_id": vms[0]})["result"]["deleted"] and images() == sorted([first, third])
    assert d.call("vm.delete", {"vm_id": vms[1]})["result"]["deleted"]
    until([third])
    assert d.call("env.prune", {"dry_run": True})["result"]["deleted"] == []
    d.wait_clean(30)


def test_a_long_step_of_a_pull_keeps_reporting(make_fake):
    """The same step is reported again and again, so that a waiting user sees that it continues."""
    d = make_fake(build=BUILD_ASAN, deadlines={"report": 1})
    fake_mmdebstrap(d)
    os.mkfifo(d.root + "/go")
    os.chmod(d.root + "/go", 0o666)
    with open(d.root + "/bin/mmdebstrap", "r+") as f:
        text = f.read()
        f.seek(0)
        f.write(text.replace("\n", "\nread x <%s/go\n" % d.root, 1))
    d.start()
    with Raw(d.socket, timeout=60) as c:
        c.send(b'{"jsonrpc":"2.0","id":1,"method":"env.pull","params":{"environment":"debian:12-base"}}\n')
        reports = [c.line()["params"] for _ in range(5)]
        step = {"phase": "install", "percent": 0}
        assert [{k: t[k] for k in step} for t in reports].count(step) >= 3, reports
        with open(d.root + "/go", "w") as f:
            f.write("go\n")
        reply = c.line()
        while "id" not in reply:
            reply = c.line()
        assert reply["result"]["name"] == "debian:12-base", reply
