# SPDX-License-Identifier: MIT
"""What a VMM that its guest has taken over can do to the host: a program of the tests in QEMU's place tries it
(tests/fake/probe.c), in a machine of a daemon of root's without systemd, and of a plain user's own. Under systemd:
tests/systemd."""
import os
import select
import shutil
import signal
import subprocess

import pytest

import confined
from conftest import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0 or not os.path.exists(confined.QEMU), reason="needs root, and a QEMU to take the place of")


@pytest.fixture(params=confined.MODES[1:])
def daemon(request, make_fake):
    d = make_fake()
    confined.put_in_place(d, confined.USER if "user" in request.param else None)
    return d.start()


def test_facts_of_the_vmm(daemon, request):
    with confined.probe(daemon) as probe:
        assert "less containment" not in daemon.log_text()  # every confinement succeeded
        probe.check()
        assert probe.facts(daemon.pid()) == confined.table(request.node.callspec.params["daemon"])


def test_another_daemons_qemu_is_left_alone(daemon):
    """Other tests run real machines at the same time: this test neither examines their VMMs nor kills them at its end."""
    said = "import sys; print('there', flush=True); sys.stdin.read()"
    with subprocess.Popen([confined.QEMU, "-c", said, "-name", "vm-0123456789ab", "-uuid"], executable="/usr/bin/python3", stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"there\n"
        with confined.probe(daemon) as probe:
            assert daemon.vmm_pids() == [probe.pid] != [other.pid]
        daemon.close()
        assert other.poll() is None
        other.communicate(timeout=60)
        assert other.returncode == 0


@pytest.mark.parametrize("mode", confined.MODES[1:])
def test_a_vmm_at_another_path(make_fake, mode):
    """The mount view that it needs is unknown: Landlock lets it read what any VMM may, and its own files."""
    d = make_fake()
    shutil.copy(confined.PROGRAM, d.vmm)
    if "user" in mode:
        confined.become(d, confined.USER)
    d.start()
    with confined.probe(d) as probe:
        wait_for(lambda: "runs with less containment: no empty mount view" in d.log_text())
        probe.check()
        facts = probe.facts(d.pid())
        assert facts.pop("reads") == confined.table(mode)["reads"].replace("`%s`, " % confined.QEMU, "")
        assert facts.items() <= confined.table(mode).items()


@pytest.mark.parametrize("mode", confined.MODES[1:])
def test_facts_of_its_launcher(make_fake, mode):
    d = make_fake()
    if "user" in mode:
        confined.become(d, confined.USER)
    facts = confined.launcher(d)
    said = confined.table(mode, "the launcher, until it is a VMM")
    assert facts == {row: said[row] for row in facts}


@pytest.mark.parametrize("mode", confined.MODES[1:])
def test_facts_of_an_import(work, mode):
    user = "user" in mode
    facts = confined.writer(work, confined.plain(confined.USER) if user else ())
    said = confined.table("what parses", "an import")
    assert said["user"] == "that of what fetches, or one of its own where that is root"
    assert facts.pop("user") == ("the same" if user else "one of its own")
    assert said["namespaces of its own"] == "pid mnt net ipc uts, and user unless root"
    assert facts.pop("namespaces of its own") == ("user " if user else "") + "pid mnt net ipc uts"
    assert facts.items() <= said.items()


@pytest.mark.parametrize("mem_mib", [301, 302], ids=["x32", "i386"])
def test_other_tables_of_system_calls(daemon, mem_mib):
    """The probe is killed before it has written anything."""
    vm = daemon.call("vm.create", dict(daemon.spec(), mem_mib=mem_mib))["result"]["vm_id"]
    reply = daemon.call("vm.start", {"vm_id": vm}, timeout=60)
    assert reply["error"]["data"]["code"] == "start_failed", reply
    with open("%s/machines/%s/disk.ext4" % (daemon.state, vm), "rb") as f:
        assert f.read(9) != b"survived="


@pytest.mark.parametrize("mode", confined.MODES[1:])
def test_a_vmm_with_pid_1_is_adopted_and_killed(make_fake, mode):
    """By the next daemon after one was killed, and by the pid that both know."""
    d = make_fake()
    if "user" in mode:
        confined.become(d, confined.USER)
    d.start()
    vm = d.call("vm.create", d.spec())["result"]["vm_id"]
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    pid, = d.vmm_pids()
    with open("/proc/%d/status" % pid) as f:
        assert next(line.split()[1:] for line in f if line.startswith("NSpid:"))[-1] == "1"
    d.kill()
    d.start()
    pidfd = os.pidfd_open(pid)
    assert d.call("vm.status", {"vm_id": vm})["result"]["state"] in ("started", "unknown")
    assert d.call("vm.stop", {"vm_id": vm})["result"]["state"] == "stopped"
    assert select.select([pidfd], [], [], 0)[0]  # it has ended
    os.close(pidfd)
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    d.kill()
    d.start()
    os.kill(d.vmm_pids()[0], signal.SIGKILL)
    d.call("vm.delete", {"vm_id": vm})
    d.wait_clean()
