# SPDX-License-Identifier: MIT
"""pyro as installed, under systemd with KVM: an emulated machine boots once (machine.py), its user works (inside), and these
tests check the results. Run by `tests/soak kvm`; takes some minutes."""
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import machine  # noqa: E402
from conftest import CACHE, TOP  # noqa: E402

WITHIN = 900  # seconds for all of it, including installation and the machine's own boot


@pytest.fixture(scope="module")
def came(root_only, work, daemon):
    """The results of the one boot. The daemon fixture is a parameter because it fills the cache."""
    payload = work + "/payload"
    os.makedirs(payload)
    built = subprocess.run([TOP + "/tests/deb", work + "/deb"], capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr
    for name in os.listdir(work + "/deb"):
        if name.endswith(".deb"):
            shutil.copy(work + "/deb/" + name, payload)
    os.makedirs(payload + "/cache")
    for name in ("environments", "kernels"):
        subprocess.run(["cp", "-al", CACHE + "/" + name, payload + "/cache/" + name], check=True)
    shutil.copytree(TOP + "/tests", payload + "/tests", ignore=shutil.ignore_patterns("__pycache__", "corpus"))
    shutil.copy(TOP + "/tests/kvm/inside", payload + "/inside")
    for what in ("cpu", "tasks", "memory"):
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-DHOSTILE_" + what, "-o", payload + "/hostile-" + what, TOP + "/tests/kvm/hostile.c", "-lpthread"], check=True)
    out, log = machine.boot(CACHE, payload, work, WITHIN)
    print(log[-20000:])
    assert read(out, "stays.txt") == "active\n"
    return out


def read(came, name):
    with open(came + "/" + name, errors="replace") as f:
        return f.read()


def test_package_installs_and_enables_the_socket(came):
    assert read(came, "install.status") == "0\n"
    assert read(came, "enabled.txt") == "enabled\n"


def test_purge_leaves_nothing(came):
    assert read(came, "purge.status") == "0\n", read(came, "purge.txt")
    left = set(read(came, "after.txt").splitlines()) - set(read(came, "before.txt").splitlines())
    # Files that any removal or running system leaves: those of dpkg, systemd, udev and the journal.
    left = {line for line in left if not line.startswith(("/var/lib/dpkg", "/var/lib/systemd", "/var/spool", "/var/mail"))}
    assert not [line for line in left if "pyro" in line], sorted(left)
    assert not [line for line in read(came, "ps.txt").splitlines() if "pyrod" in line or "pyro-vmm" in line or "qemu-system" in line]
    print("left by installation and purge: %s" % sorted(left))


def test_outsider_is_refused_with_the_fix(came):
    *text, status = read(came, "outsider.txt").splitlines()
    assert status == "125" and any("usermod" in line or "adduser" in line for line in text), text


def test_doctor_passes_with_kvm(came):
    text = read(came, "doctor.txt")
    assert read(came, "doctor.status") == "0\n", text
    assert "Runtime: PASS" in text
    assert "KVM: exists=yes readable=yes writable=yes" in text
    assert "Accelerator: kvm" in text
    assert "vm_boot=yes guest_exec=yes" in text


def test_run_uses_kvm(came):
    result = json.loads(read(came, "run.json"))
    assert result["accelerator"] == "kvm" and result["exit_code"] == 0
    assert "cloud-amd64" in result["stdout"]
    assert "accelerator=emulation" not in read(came, "run.err")


def test_the_marked_tests_pass_there(came):
    suite = ElementTree.parse(came + "/subset.xml").getroot().find("testsuite")
    failed = [c.get("name") for c in suite.iter("testcase") if c.find("failure") is not None or c.find("error") is not None]
    assert not failed, read(came, "journal.txt")[-4000:]
    assert int(suite.get("tests")) >= 8 and suite.get("skipped") == "0"
    seconds = float(suite.get("time"))
    print("the marked tests took %.0f s there" % seconds)
    assert seconds < 480


OVERHEAD = {"memory": 384 << 20, "cpus": 0.25, "tasks": 80}  # daemon/vmm/launch.c


def tried(came, who):
    seen = json.loads(read(came, "limits.json"))[who]
    print(who, seen)
    # 256 MiB and 1 vCPU were requested.
    assert seen["limits"] == {"memory.max": str((256 << 20) + OVERHEAD["memory"]), "cpu.max": "125000 100000", "pids.max": "81"}
    return seen


def test_a_guest_that_tries_stays_within(came):
    seen = tried(came, "guest")
    assert 0.5 < seen["cpus"] < 1 + OVERHEAD["cpus"] + 0.1  # it did work, and no more than that
    assert 128 << 20 < seen["memory"] <= (256 << 20) + OVERHEAD["memory"]
    assert seen["memory_events"]["oom_kill"] == 0 and seen["pids"] <= 81


def test_cpu_quota_holds_against_a_vmm_that_tries(came):
    seen = tried(came, "cpu")
    assert seen["throttled"] > 0 and 1 < seen["cpus"] < 1 + OVERHEAD["cpus"] + 0.1


def test_tasks_max_holds_against_a_vmm_that_tries(came):
    seen = tried(came, "tasks")
    assert seen["pids_events"]["max"] > 0 and seen["pids"] <= 81


def test_memory_max_holds_against_a_vmm_that_tries(came):
    seen = tried(came, "memory")
    assert seen["oom"] == 1 and 256 << 20 < seen["memory"] <= (256 << 20) + OVERHEAD["memory"]
