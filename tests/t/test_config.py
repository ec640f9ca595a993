# SPDX-License-Identifier: MIT
"""pyrod.conf as an administrator uses it: --check-config, a reload by SIGHUP that takes effect or is refused, and for each key
that has an effect, the effect, after a reload and without a restart. The sanitized daemon."""
import json
import os
import re
import select
import signal
import socket
import subprocess
import time

import pytest

from conftest import BUILD_ASAN, CACHE, NOT_DEBIAN, TOP, Daemon, assert_no_faults, stage, table

ENV = "debian:12"
# Keys of features that this version does not have yet: checked, and without an effect.
LATER = {"host_compat", "retention_days", "seed_max_mib", "output_limit_mib", "registries", "pool", "firecracker", "jailer"}


class Reloadable(Daemon):
    """Receives what the daemon reports to its service manager for as long as it lives."""

    def __init__(self, root, conf, **kw):
        super().__init__(root, build=BUILD_ASAN, **kw)
        self.conf = conf
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(root + "/notify")

    def start(self):
        env = dict(self.env, NOTIFY_SOCKET=self.root + "/notify")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, stage(self.build) + "/bin/pyrod", self.mode, "--socket", self.socket, "--config", self.conf],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        assert self.notification().startswith("READY=1\n")
        return self

    def notification(self, seconds=30):
        ready, _, _ = select.select([self.notify], [], [], seconds)
        assert ready, "no notification\n" + self.log_text()
        return self.notify.recv(4096).decode()

    def reload(self, text=None):
        """Sends SIGHUP and returns when the daemon reports that it is done; returns what it logged meanwhile."""
        if text is not None:
            with open(self.conf, "w") as f:
                f.write(text)
        at, before = os.path.getsize(self.log), time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.process.send_signal(signal.SIGHUP)
        found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", self.notification())
        assert before // 1000 <= int(found.group(1)) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert self.notification() == "READY=1\nSTATUS=Serving"
        with open(self.log) as log:
            log.seek(at)
            return log.read()

    def doctor(self):
        return self.call("system.doctor", {"probe": False})["result"]

    def check(self, name):
        found, = [c for c in self.doctor()["runtime"]["checks"] if c["name"] == name]
        return found

    def create(self, **params):
        return self.call("vm.create", dict({"environment": ENV, "mem_mib": 128}, **params), timeout=60)

    def refused(self, **params):
        return self.create(**params)["error"]


@pytest.fixture(scope="module")
def served(root_only, work, installed):
    root = work + "/config"
    os.makedirs(root)
    conf = root + "/pyrod.conf"
    open(conf, "w").close()
    d = Reloadable(root, conf, kernels=CACHE + "/kernels")
    d.prefix = NOT_DEBIAN  # where mirror= has an effect
    yield d.start()
    try:
        d.wait_clean(30)
    finally:
        d.stop()
    assert_no_faults(d.log_text())


@pytest.fixture
def d(served):
    """The daemon with an empty configuration; at the end its machines are deleted."""
    served.reload("")
    yield served
    for vm in served.vms():
        served.call("vm.delete", {"vm_id": vm["vm_id"]})


# One function for each key: the effect after its reload.

def accelerator(d, where):
    d.reload("accelerator = emulation\n")
    assert d.doctor()["accelerator"] == "emulation"
    assert d.create()["result"]["accelerator"] == "emulation"


def default_ttl_seconds(d, where):
    d.reload("default_ttl_seconds = 77\n")
    assert d.create()["result"]["ttl_seconds"] == 77
    assert d.create(ttl_seconds=5000)["result"]["ttl_seconds"] == 5000
    d.reload("default_ttl_seconds = 0\n")
    got = d.create()["result"]
    assert (got["ttl_seconds"], got["expires_at"]) == (0, None)


def default_size(d, key, field):
    """For a machine whose request does not set it; for a command too."""
    with_size = {"vcpu_count": 1, "mem_mib": 256, "disk_mib": 128}
    del with_size[field]
    value = {"vcpu_count": 1, "mem_mib": 300, "disk_mib": 100}[field]
    d.reload("%s = %d\n" % (key, value))
    ask = lambda **more: d.call("vm.create", dict(with_size, environment="debian:12", **more), timeout=60)["result"][field]
    assert ask() == value and ask(**{field: None}) == value
    if field != "vcpu_count":
        assert ask(**{field: 200}) == 200


def default_vcpu_count(d, where):
    default_size(d, "default_vcpu_count", "vcpu_count")
    d.reload("default_vcpu_count = 32\n")  # more than the host has: a default is refused like a requested value
    if os.cpu_count() < 32:
        error = d.call("vm.create", {"environment": "debian:12"}, timeout=60)["error"]
        assert error["data"]["code"] == "invalid_argument" and "vcpu_count" in error["message"], error


def default_mem_mib(d, where):
    default_size(d, "default_mem_mib", "mem_mib")


def default_disk_mib(d, where):
    default_size(d, "default_disk_mib", "disk_mib")


def quota(d, text, word, **over):
    d.reload(text)
    error = d.refused(**over)
    assert error["data"]["code"] == "quota_exceeded" and word in error["message"], error
    assert error["data"]["fix"] and error["data"]["retryable"] is True
    assert d.vms() == []


def max_machines(d, where):
    assert "result" in d.create() and "result" in d.create()
    d.reload("max_machines = 1\n")
    assert d.refused()["data"]["code"] == "quota_exceeded"
    assert len(d.vms()) == 2  # existing machines stay
    assert d.doctor()["limits"]["max_machines"] == 1


def max_vcpus(d, where):
    quota(d, "max_vcpus = 1\n", "vCPUs", vcpu_count=2)


def max_memory_mib(d, where):
    quota(d, "max_memory_mib = 200\n", "memory", mem_mib=256)


def total_machines(d, where):
    assert "result" in d.create()
    d.reload("total_machines = 1\n")
    error = d.refused()
    assert error["data"]["code"] == "quota_exceeded" and "of all users together" in error["message"], error


def total_vcpus(d, where):
    quota(d, "total_vcpus = 1\n", "vCPUs of all users together", vcpu_count=2)


def total_memory_mib(d, where):
    quota(d, "total_memory_mib = 200\n", "memory in MiB of all users together", mem_mib=256)


def total_disk_mib(d, where):
    quota(d, "total_disk_mib = 100\n", "disk in MiB of all users together", disk_mib=200)


def max_disk_mib(d, where):
    quota(d, "max_disk_mib = 1000\n", "disk", disk_mib=1001)


def memory_reserve_mib(d, where):
    d.reload("memory_reserve_mib = 1000000000\n")
    assert d.refused()["data"]["code"] == "no_memory"


def disk_reserve_mib(d, where):
    d.reload("disk_reserve_mib = 1000000000\n")
    assert d.refused()["data"]["code"] == "no_space"
    assert d.check("disk_space")["ok"] is False
    pulled = d.call("env.pull", {"environment": "debian:12", "force": True}, timeout=60)
    assert pulled["error"]["data"]["code"] == "no_space", pulled


def kernel(d, where):
    d.reload("kernel = %s/no-kernel\n" % where)
    error = d.refused()
    assert error["data"]["code"] == "start_failed" and "no-kernel" in error["message"], error
    assert "kernel=" in error["data"]["fix"]
    d.reload("")
    assert "result" in d.create()


def mirror(d, where):
    d.reload("mirror = http://127.0.0.1:9/nowhere\n")
    pulled = d.call("env.pull", {"environment": "debian:12", "force": True}, timeout=120)
    assert pulled["error"]["data"]["code"] == "pull_failed" and "127.0.0.1" in json.dumps(pulled), pulled
    assert d.call("env.inspect", {"environment": "debian:12"})["result"]["installed"] is True


def qemu(d, where):
    with open(where + "/not-qemu", "w") as f:
        f.write("#!/bin/sh\necho QEMU emulator version 0.0.77\n")
    os.chmod(where + "/not-qemu", 0o755)
    d.reload("qemu = %s/not-qemu\n" % where)
    vmm, = [v for v in d.doctor()["vmm"] if v["name"] == "qemu"]
    assert vmm["path"] == where + "/not-qemu"
    d.reload("qemu = %s/nothing\n" % where)
    vmm, = [v for v in d.doctor()["vmm"] if v["name"] == "qemu"]
    assert vmm["usable"] is False
    vm = d.create()["result"]["vm_id"]
    error = d.call("vm.start", {"vm_id": vm}, timeout=60)["error"]
    assert error["data"]["code"] == "vm_unavailable" and where + "/nothing" in error["message"], error


EFFECTS = [accelerator, default_ttl_seconds, default_vcpu_count, default_mem_mib, default_disk_mib, max_machines, max_vcpus, max_memory_mib, max_disk_mib, total_machines, total_vcpus,
           total_memory_mib, total_disk_mib, memory_reserve_mib, disk_reserve_mib, kernel, mirror, qemu]


def test_every_key_has_an_effect_or_is_for_later():
    assert {effect.__name__ for effect in EFFECTS} | LATER == {row[0] for row in table("keys")}


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda e: e.__name__)
def test_effect_of(d, tmp_path, effect):
    effect(d, str(tmp_path))


def test_limits_without_a_file(d):
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) // 1024
    limits = d.doctor()["limits"]
    assert (limits["max_machines"], limits["max_vcpus"]) == (16, 4 * os.cpu_count())
    room = os.statvfs(d.state)
    assert limits["max_disk_mib"] == max(16 * 10240, room.f_blocks * room.f_frsize // 2 >> 20)
    assert abs(limits["max_memory_mib"] - memory // 2) <= 1
    assert (limits["memory_reserve_mib"], limits["disk_reserve_mib"]) == (0, 512)
    assert (limits["total_machines"], limits["total_vcpus"], limits["total_disk_mib"]) == (0, 0, 0)
    assert abs(limits["total_memory_mib"] - memory * 3 // 4) <= 3
    d.reload("total_machines = 30\ntotal_vcpus = 31\ntotal_memory_mib = 32000\ntotal_disk_mib = 330000\n")
    report = d.doctor()
    assert [report["limits"]["total_" + k] for k in ("machines", "vcpus", "memory_mib", "disk_mib")] == [30, 31, 32000, 330000]
    check, = (c["detail"] for c in report["runtime"]["checks"] if c["name"] == "limits")
    assert check.endswith("; all users: total_machines=30 total_vcpus=31 total_memory_mib=32000 total_disk_mib=330000 (0: no limit)"), check


def test_bad_file_is_refused_and_nothing_changes(d):
    d.reload("max_machines = 5\n")
    before = d.doctor()["limits"]
    said = d.reload("max_disk_mib = 7\nmax_machines = 0\n")
    assert "the configuration is unchanged: %s:2: max_machines: 0 (fix: set max_machines to a number from 1 to 10000)" % d.conf in said
    assert d.doctor()["limits"] == dict(before, max_machines=5)
    os.unlink(d.conf)
    assert "the configuration is unchanged: cannot read " + d.conf in d.reload()
    assert d.doctor()["limits"]["max_machines"] == 5
    assert "configuration reloaded" in d.reload("")
    assert d.doctor()["limits"]["max_machines"] == 16


def test_reload_leaves_machines_and_connections_alone(d):
    p = d.popen("run", "-i", "-m", "256", "--timeout-seconds", "0", ENV, "--", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL)
    p.stdin.write(b"before\n")
    p.stdin.flush()
    assert p.stdout.readline() == b"before\n"
    pid, guests = d.pid(), d.processes()
    for text in ("max_machines = 1\nmax_memory_mib = 1\n", "nonsense\n", ""):
        d.reload(text)
    assert (d.pid(), d.processes()) == (pid, guests)
    p.stdin.write(b"after\n")
    p.stdin.close()
    assert p.stdout.read() == b"after\n"
    assert p.wait(timeout=60) == 0


def check_config(*args, env=None):
    return subprocess.run([stage(BUILD_ASAN) + "/bin/pyrod", "--check-config", *args], capture_output=True, text=True, timeout=30,
                          env=dict(os.environ, **(env or {})))


@pytest.mark.parametrize("text,says", [
    ("max_machnes = 3\n", "1: unknown key: max_machnes (fix: pyrod.conf(5) lists the keys)"),
    ("# one\n\npool = -1\n", "3: pool: -1 (fix: set pool to a number from 0 to 1000)"),
    ("kernel = vmlinuz\n", "1: kernel: vmlinuz (fix: give an absolute path)"),
    ("max_memory_mib = 1500 # x\n", "1: max_memory_mib: 1500 # x (fix: write the comment on a line of its own)"),
    ("kernel = /boot/vmlinuz\t# mine\n", "1: kernel: /boot/vmlinuz\\x09# mine (fix: write the comment on a line of its own)"),
    ("mirror = # none\n", "1: mirror: # none (fix: write the comment on a line of its own)"),
    ("[net]\nx = 1\n", "2: unknown section: net (fix: the only section is [pyrod])"),
    ("what\n", "1: neither a key, a section nor a comment (fix: write KEY = VALUE)"),
])
def test_check_config_names_the_line(tmp_path, text, says):
    conf = tmp_path / "pyrod.conf"
    conf.write_text(text)
    r = check_config("--config", str(conf), env={"PYRO_STATE_DIR": str(tmp_path / "state")})
    assert (r.returncode, r.stdout) == (1, "")
    assert r.stderr == "pyrod: %s:%s\n" % (conf, says)
    assert not (tmp_path / "state").exists()


def test_check_config_names_valid_files(tmp_path):
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    r = check_config("--user", env=env)
    assert (r.returncode, r.stdout, r.stderr) == (0, "no configuration file: the defaults are used\n", "")
    (tmp_path / "pyro/conf.d").mkdir(parents=True)
    (tmp_path / "pyro/pyrod.conf").write_text("".join("%s = %s\n" % (k, v) for k, v in (
        ("max_machines", 3), ("host_compat", "no"), ("retention_days", 1), ("seed_max_mib", 1), ("output_limit_mib", 1),
        ("registries", "registry.example"), ("pool", 1), ("firecracker", "/usr/bin/firecracker"), ("jailer", "/usr/bin/jailer"))))
    (tmp_path / "pyro/conf.d/10.conf").write_text("[pyrod]\npool = 2\n")
    r = check_config("--user", env=env)
    assert (r.returncode, r.stdout, r.stderr) == (0, "%s/pyro/pyrod.conf: OK\n%s/pyro/conf.d/10.conf: OK\n" % (tmp_path, tmp_path), "")
    (tmp_path / "pyro/conf.d/20.conf").write_text("pool = 2000\n")
    r = check_config("--user", env=env)
    assert r.returncode == 1 and r.stdout == "" and "%s/pyro/conf.d/20.conf:1: pool: 2000" % tmp_path in r.stderr


@pytest.mark.parametrize("unit", ["systemd/pyrod.service.in", "systemd/user/pyrod.service.in"])
def test_units_check_before_they_reload(unit):
    lines = [line.split("=", 1)[1] for line in open(TOP + "/" + unit) if line.startswith("ExecReload=")]
    assert [line.split()[-1] for line in lines] == ["--check-config", "$MAINPID"]
    assert lines[1] == "/bin/kill -HUP $MAINPID\n"
