# SPDX-License-Identifier: MIT
"""Every end of pyrod leaves a log line: its own, or one of the next pyrod."""
import json
import os
import re
import signal
import socket
import time

import pytest

from conftest import BUILD, BUILD_ASAN, Raw, assert_no_faults


@pytest.mark.parametrize("signo", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU])
def test_a_signal_is_named(make_daemon, signo):
    d = make_daemon(build=BUILD)
    d.prefix = ["prlimit", "--core=0", "--"]
    d.start()
    assert d.stop(signo) == -signo
    assert "ended by signal %02d\n" % signo in d.log_text()


def test_the_next_daemon_reports_a_kill(make_daemon):
    d = make_daemon(build=BUILD).start()
    killed = d.pid()
    d.stop(signal.SIGKILL)
    d.start()
    assert "(pid %d) did not stop cleanly" % killed in d.log_text()
    d.stop()
    before = d.log_text().count("did not stop cleanly")
    d.start()
    assert d.log_text().count("did not stop cleanly") == before == 1


def test_refusals_do_not_fill_the_log(make_fake):
    """Without the limit, 23 MB in 10 s were 50,000 copies of one line."""
    d = make_fake().start()
    held = [socket.socket(socket.AF_UNIX) for _ in range(32)]
    for s in held:
        s.connect(d.socket)
    for _ in range(2000):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(d.socket)
            s.recv(4096)
    assert 0 < d.log_text().count("refused") <= 60
    assert os.path.getsize(d.log) < 100_000


def as_uid(uid, function):
    """Runs it in a child of that uid, which must end without an error."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_one_users_messages_hide_none_of_anothers(make_fake, root_only):
    """Each message counts for the user who caused it: 60 lines of one user's leave room for the line of another."""
    d = make_fake().start()
    os.chmod(d.socket, 0o666)

    def start_machines(n):
        for _ in range(n):
            vm = d.call("vm.create", d.spec())["result"]["vm_id"]
            assert d.call("vm.start", {"vm_id": vm}, timeout=60)["result"]["state"] == "started"

    as_uid(61001, lambda: start_machines(30))
    as_uid(61002, lambda: start_machines(1))
    as_uid(61001, lambda: start_machines(30))
    owners = {vm["vm_id"]: vm["owner_uid"] for vm in d.call("vm.list", {"all_users": True})["result"]["vms"]}
    assert len(owners) == 61
    d.kill()
    d.start()
    end, said = time.monotonic() + 60, []
    while len(said) < 50 + 1:
        assert time.monotonic() < end, said
        time.sleep(0.05)
        said = [owners[vm] for vm in re.findall("(vm-[0-9a-f]{12}): adopted", d.log_text())]
    assert (said.count(61001), said.count(61002)) == (50, 1)
    for vm in owners:
        d.call("vm.delete", {"vm_id": vm}, timeout=60)
    d.wait_clean()


@pytest.mark.parametrize("what", ["start", "stop", "delete", "run", "doctor"])
def test_a_wait_that_the_daemon_ends_leaves_nothing(make_fake, what):
    """Each waiter is notified when pyrod is stopped, and what was kept for it is freed: the sanitized build reports leaks."""
    d = make_fake(build=BUILD_ASAN).start()
    vm = d.call("vm.create", d.spec("deaf" if what == "start" else "good"))["result"]["vm_id"]
    params = {"vm_id": vm}
    if what != "start":
        assert d.call("vm.start", params, timeout=60)["result"]["state"] == "started"
        pid, = d.vmm_pids()
        os.kill(pid, signal.SIGSTOP)  # it is slow in everything
    method = {"doctor": "system.doctor", "run": "vm.run"}.get(what, "vm." + what)
    if what == "run":
        params = d.spec(command="sleep 0")
    elif what == "doctor":
        params = {}
    with Raw(d.socket) as waits, Raw(d.socket) as other:
        waits.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        if what == "start":
            end = time.monotonic() + 30
            while not d.vmm_pids():
                assert time.monotonic() < end
                time.sleep(0.02)
        elif what == "run":
            while waits.line()["params"]["phase"] != "execute":
                pass
        other.call("system.ping")
        other.call("system.ping")
        assert d.stop() == 0, d.log_text()
    assert_no_faults(d.log_text())
    for pid in d.vmm_pids():
        os.kill(pid, signal.SIGKILL)
