# SPDX-License-Identifier: MIT
"""Commands of a workspace in a real guest: what stays between them, what they leave running, and what outlives the daemon."""
import time

import pytest

ENV = "debian:12"


@pytest.fixture
def ws(daemon):
    reply = daemon.call("workspace.create", {"environment": ENV, "mem_mib": 384}, timeout=300)
    assert "result" in reply, reply
    yield Workspace(daemon, reply["result"]["workspace_id"])
    daemon.call("workspace.delete", {"workspace_id": reply["result"]["workspace_id"]}, timeout=120)


class Workspace:
    def __init__(self, d, id_):
        self.d, self.id = d, id_

    def call(self, method, **params):
        reply = self.d.call(method, params, timeout=300)
        assert "result" in reply, (method, params, reply)
        return reply["result"]

    def run(self, command, **more):
        return self.call("workspace.exec", workspace_id=self.id, command=command, **more)

    def out(self, command, **more):
        r = self.run(command, **more)
        assert (r["exit_code"], r["stderr"]) == (0, ""), r
        return r["stdout"]


def test_a_machine_of_ones_own(ws):
    assert ws.out("pwd; id -un") == "/workspace\nroot\n"
    ws.out("echo kept > file; mkdir -p sub; useradd -m dev")
    assert ws.out("cat ../file", cwd="sub") == "kept\n"
    assert ws.out("id -un; pwd", user="dev", cwd="/home/dev") == "dev\n/home/dev\n"
    # A shell's variables do not carry over; its login files do, also when they change.
    ws.out("export LOST=1; echo 'export KEPT=1' > /etc/profile.d/kept.sh")
    assert ws.out("echo \"${LOST-none} ${KEPT-none}\"") == "none 1\n"
    ws.out("echo 'export KEPT=2' > /etc/profile.d/kept.sh")
    assert ws.out("echo $KEPT $MINE", env={"MINE": "3"}) == "2 3\n"
    # A server in the background lets its command end, and stays.
    begin = time.monotonic()
    r = ws.run("python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 & echo up")
    assert (r["stdout"], r["exit_code"], r["background_left"]) == ("up\n", 0, True), r
    r = ws.run("sleep 300 & echo again")
    assert r["stdout"] == "again\n" and time.monotonic() - begin < 60, r
    assert ws.out("for i in $(seq 50); do curl -fs http://127.0.0.1:8000/file && break; sleep 0.1; done") == "kept\n"
    # The machine starts again with its disk, and without its processes.
    ws.call("workspace.stop", workspace_id=ws.id)
    assert ws.out("cat file; pgrep -fc [h]ttp.server || true") == "kept\n0\n"
    found = ws.call("exec.list", workspace_id=ws.id)["execs"]
    assert [x["sequence"] for x in found] == list(range(1, len(found) + 1)) and {x["state"] for x in found} == {"exited"}, found


# Mounts a FUSE file system that answers nothing, until this process ends.
HANG = """python3 -c '
import ctypes, os, signal
fd = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
assert ctypes.CDLL(None).mount(b"hung", b"/home/dev", b"fuse", 0, options) == 0
print("mounted", flush=True)
signal.pause()
'"""


def test_a_home_that_hangs_delays_only_its_user(ws):
    """The agent looks for changed login files before each command; on a file system that hangs it must not."""
    ws.out("useradd -m dev")
    assert ws.out("pwd", user="dev") == "/workspace\n"
    server = ws.run(HANG, background=True)["exec_id"]
    while "mounted" not in ws.call("exec.read", exec_id=server, wait_ms=20000)["output"]:
        assert ws.call("exec.wait", exec_id=server, wait_ms=0)["state"] == "running"
    ws.out("echo two:x:4242:4242::/home/dev/two:/bin/bash >> /etc/passwd")
    stuck = ws.run("echo two", user="two", background=True)["exec_id"]
    assert ws.out("echo root") == "root\n"
    ws.call("exec.signal", exec_id=server, signal_name="KILL")
    assert ws.call("exec.wait", exec_id=stuck, wait_ms=60000)["stdout"] == "two\n"


def test_commands_outlive_the_daemon(ws):
    d = ws.d
    count = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; echo done >&2; exit 5"
    first = ws.run(count, background=True)["exec_id"]
    second = ws.run("cat; echo end", background=True, interactive=True)["exec_id"]
    ws.call("exec.write", exec_id=second, data="before\n")
    for end in (lambda: (d.process.kill(), d.process.wait()), d.stop):
        end()
        d.start()
        ws.call("exec.read", exec_id=first, wait_ms=20000)
    ws.call("exec.write", exec_id=second, data="after\n", eof=True)
    r = ws.call("exec.wait", exec_id=first)
    assert r["exit_code"] == 5 and r["stdout"].split("\n")[:-1] == ["line %d" % i for i in range(400)] and r["stderr"] == "done\n", r
    assert ws.call("exec.wait", exec_id=second)["stdout"] == "before\nafter\nend\n"
    assert ws.out("echo still there") == "still there\n"


def test_half_a_character_is_waited_for(ws):
    ex = ws.run("printf 'a\\342'; sleep 3; printf '\\202\\254'", background=True)["exec_id"]
    read = ws.call("exec.read", exec_id=ex, wait_ms=60000)
    assert read["output"] == "a"
    read = ws.call("exec.read", exec_id=ex, cursor=read["next_cursor"], wait_ms=60000)
    assert read["output"] == "\u20ac", read


def test_a_flood_is_kept_up_to_the_limit(ws):
    r = ws.run("seq 4000000; echo last")
    assert r["exit_code"] == 0 and r["truncated"] and r["stdout"].endswith("4000000\nlast\n"), r["stdout"][-100:]
    read = ws.call("exec.read", exec_id=r["exec_id"])
    assert read["gap_bytes"] > 0 and read["cursor"] == read["earliest"] > 0, {k: v for k, v in read.items() if k != "output"}
    assert ws.d.vm_hwm_kib() < 60 * 1024, ws.d.vm_hwm_kib()
