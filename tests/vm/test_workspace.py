# SPDX-License-Identifier: MIT
"""A workspace in a real guest: started when it is created, found by its name, stopped cleanly and started again with its disk, and
adopted by the next daemon."""
import os
import re
import signal
import subprocess

from conftest import wait_for

ENV = "debian:12"


def status(d, ref):
    return d.call("workspace.status", {"workspace_id": ref})["result"]


def debugfs(disk, command, write=False):
    p = subprocess.run(["debugfs", *(["-w"] if write else []), "-R", command, disk], check=True, capture_output=True, text=True)
    return p.stdout


def clean(disk):
    out = subprocess.run(["dumpe2fs", "-h", disk], check=True, capture_output=True, text=True).stdout
    return "needs_recovery" not in out and re.search(r"Filesystem state:\s+clean", out)


def test_a_workspace_from_its_creation_to_its_deletion(make_daemon, tmp_path):
    d = make_daemon().start()
    r = d.pyro("workspace", "create", "--name", "build", "--label", "team=web", "-m", "256", ENV, env={"HOME": str(tmp_path)})
    emulated = status(d, "build")["accelerator"] == "emulation"
    assert ("[workspace-create] note accelerator=emulation reason=" in r.errors) == emulated, r
    assert r.status == 0 and "State: started\n" in r.text and "Execution mode: guest_serial\n" in r.text, r
    ws, = re.findall(r"^Workspace ID: (ws-[0-9a-f]{12})$", r.text, re.M)
    disk, pid = "%s/machines/%s/disk.ext4" % (d.state, ws), d.vmm_pids()
    assert len(pid) == 1
    d.process.send_signal(signal.SIGKILL)
    d.process.wait()
    d.start()
    assert d.pyro("ws", "wait", "build", timeout=60).status == 0  # its agent has answered the next daemon
    assert d.vmm_pids() == pid and status(d, "build")["labels"] == {"team": "web"}
    assert d.pyro("ws", "stop", "build").status == 0 and d.vmm_pids() == []
    assert clean(disk)
    (tmp_path / "mark").write_text("from outside\n")
    debugfs(disk, "write %s /workspace/mark" % (tmp_path / "mark"), write=True)
    assert d.stop() == 0
    d.start()
    assert status(d, ws)["state"] == "stopped" and status(d, ws)["disk_used_bytes"] == os.stat(disk).st_blocks * 512
    assert d.pyro("ws", "start", "build").status == 0 and len(d.vmm_pids()) == 1
    os.kill(d.vmm_pids()[0], signal.SIGKILL)
    r = d.pyro("ws", "wait", "--state", "failed", "build", timeout=60)
    assert r.status == 0 and re.search("^Last error: .*signal 9", r.text, re.M), r
    wait_for(lambda: not d.vmm_pids())
    assert d.pyro("ws", "start", "build").status == 0
    assert d.pyro("ws", "stop", "--force", "build").status == 0
    assert debugfs(disk, "cat /workspace/mark") == "from outside\n"
    assert d.pyro("ws", "delete", "build").text == "Deleted workspace: %s\n" % ws
    d.wait_clean()
