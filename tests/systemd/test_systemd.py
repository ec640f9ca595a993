# SPDX-License-Identifier: MIT
"""pyro as installed from its packages, under a real systemd (container.py), in the order in which an admin uses it: installed,
used by two users, restarted and killed while commands run, attacked as user pyro, switched off, purged. Run by `tests/soak
systemd`; `tests/run` leaves out what is marked soak."""
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import confined  # noqa: E402
import container  # noqa: E402
from conftest import BUILD, CACHE, TOP  # noqa: E402

UNITS = ("pyrod.service", "pyro-vm@.service", "pyro-import@.service", "pyro-machines.service")
WITHIN = 300  # seconds for one command of a user, emulated on a loaded host


def listing(root):
    """Every path of the system's root, and its accounts."""
    paths = set()
    for top, dirs, files in os.walk(root):
        relative = top[len(root):] or "/"
        if relative in ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/cache", "/var/log", "/root"):
            dirs[:] = []
            continue
        paths.update(os.path.join(relative, name) for name in dirs + files)
    for name in ("passwd", "group", "subuid", "subgid"):
        if os.path.exists(root + "/etc/" + name):
            with open(root + "/etc/" + name) as f:
                paths.update("%s: %s" % (name, line.strip()) for line in f)
    return paths


class Host(container.Machine):
    def pyro(self, *args, user="alice", check=True, **more):
        more.setdefault("timeout", WITHIN)
        return self.run("pyro", *args, user=user, check=check, **more)

    def show(self, unit, name):
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def machine(self, user="alice"):
        made = json.loads(self.pyro("--json", "vm", "create", "debian:12", user=user).stdout)["vm_id"]
        self.pyro("vm", "start", made, user=user)
        return made

    def main_pid(self, vm):
        return int(self.show("pyro-vm@%s.service" % vm, "MainPID"))

    def status_of(self, pid, field):
        for line in self.run("cat", "/proc/%d/status" % pid).stdout.splitlines():
            if line.startswith(field + ":"):
                return line.split(":", 1)[1].split()
        raise AssertionError(field)

    def journal(self):
        return self.run("journalctl", "--no-pager", "-n", "300", "-o", "cat").stdout

    def wait_for(self, what, command, wanted, seconds=60):
        """Polls: neither nsenter nor systemctl report a change."""
        until = time.monotonic() + seconds
        while True:
            got = self.run("sh", "-c", command, check=False).stdout.strip()
            if wanted(got):
                return got
            assert time.monotonic() < until, "%s: %r\n%s" % (what, got, self.journal())
            time.sleep(0.1)


CGROUPS = "find /sys/fs/cgroup -name '*pyro-vm@*' -o -name '*pyro-import@*'"


@pytest.fixture(scope="module")
def host(root_only, work, daemon):
    """Booted, installed, with the environment of the shared cache. The daemon fixture is a parameter because it fills that
    cache."""
    deb = os.environ.get("PYRO_TEST_DEB")  # tests/run has just built them
    if not deb:
        deb = work + "/deb"
        built = subprocess.run([TOP + "/tests/deb", deb], capture_output=True, text=True, timeout=900)
        assert built.returncode == 0, built.stdout + built.stderr
    os.makedirs(work + "/systemd")
    h = Host(CACHE, work + "/systemd")
    try:
        h.before = listing(h.root)
        h.boot()
        h.cgroups_before = set(h.run("sh", "-c", CGROUPS).stdout.split())  # those of killed containers stay on this host
        os.makedirs(h.root + "/root/deb")
        for name in os.listdir(deb):
            if re.match(r"(pyro|libpyro0)_.*\.deb$", name):
                shutil.copy(deb + "/" + name, h.root + "/root/deb")
        h.run("sh", "-c", "dpkg -i /root/deb/*.deb")
        os.makedirs(h.root + "/var/lib/pyro")
        for name in ("environments", "kernels"):
            subprocess.run(["cp", "-a", "--sparse=always", CACHE + "/" + name, h.root + "/var/lib/pyro/" + name], check=True)
        h.run("chown", "-R", "pyro:pyro", "/var/lib/pyro")
        for user in ("alice", "bob"):
            h.run("useradd", "-m", "-G", "pyro", user)
        h.run("useradd", "-m", "carol")
        yield h
    finally:
        h.end()


def test_the_socket_waits_and_the_daemon_does_not_run(host):
    assert host.run("systemctl", "is-enabled", "pyrod.socket").stdout == "enabled\n"
    assert host.show("pyrod.socket", "ActiveState") == "active"
    assert host.show("pyrod.service", "ActiveState") == "inactive"
    assert host.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""


def test_a_member_of_the_group_runs(host):
    result = json.loads(host.pyro("--json", "run", "debian:12", "--", "sh", "-c", "id -u; cat /proc/1/comm").stdout)
    assert result["exit_code"] == 0 and result["stdout"] == "0\npyro-agent\n", result
    assert host.show("pyrod.service", "User") == "pyro"
    assert "Runtime: PASS" in host.pyro("doctor").stdout


def test_the_manuals_example_changes_a_limit(host):
    with open(TOP + "/docs/man/pyrod.8") as f:
        write, reload = re.search(r"^\.Dl (echo .*)\n\.Dl (systemctl reload .*)$", f.read(), re.M).groups()
    host.run("sh", "-c", write)
    host.run("sh", "-c", reload)
    assert json.loads(host.pyro("--json", "doctor").stdout)["limits"]["max_machines"] == 32
    host.run("rm", "/etc/pyro/conf.d/limits.conf")
    host.run("systemctl", "reload", "pyrod")


def test_an_outsider_learns_how_to_get_access(host):
    refused = host.pyro("run", "debian:12", "--", "true", user="carol", check=False)
    assert refused.returncode == 125 and "usermod" in refused.stderr, refused


@pytest.mark.soak
def test_a_member_pulls(host):
    """mmdebstrap runs in pyro-import@.service; its result belongs to pyrod, and works."""
    pulled = host.pyro("env", "pull", "debian:12-base", timeout=1200)
    assert pulled.stdout == "Pulled: debian:12-base\n"
    foreign = host.run("find", "/var/lib/pyro", "!", "-user", "pyro").stdout
    assert foreign == "", foreign
    assert host.pyro("run", "debian:12-base", "--", "true").returncode == 0
    assert host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "pyro-import@*").stdout == ""


def test_each_vmm_has_a_uid_of_its_own_and_no_rights(host):
    first, second = host.machine(), host.machine("bob")
    uids = {int(host.run("id", "-u", "pyro").stdout), 0}
    for vm in (first, second):
        pid = host.main_pid(vm)
        assert os.path.basename(host.run("readlink", "/proc/%d/exe" % pid).stdout.strip()) == "qemu-system-x86_64"
        uid = {int(u) for u in host.status_of(pid, "Uid")}
        assert len(uid) == 1 and not uid & uids, (uid, uids)
        uids |= uid
        assert host.status_of(pid, "NoNewPrivs") == ["1"] and host.status_of(pid, "Seccomp") == ["2"]
        assert host.status_of(pid, "CapEff") == ["0" * 16] and host.status_of(pid, "CapBnd") == ["0" * 16]
        assert "pyro.slice" in host.show("pyro-vm@%s.service" % vm, "ControlGroup")
        inside = host.run("ls", "/proc/%d/root/" % pid, "/proc/%d/root/run/pyro" % pid).stdout
        assert "home" not in inside and "pyrod.sock" not in inside, inside
    # What no user of the host may read.
    for path in ("/run/pyro/launch/launch.sock", "/run/pyro/launch", "/run/pyro/vm", "/var/lib/pyro"):
        assert host.run("ls", path, user="alice", check=False).returncode != 0, path
    for vm, user in ((first, "alice"), (second, "bob")):
        host.pyro("vm", "delete", vm, user=user)


def test_what_a_vmm_may_do(host):
    """A program of the tests in QEMU's place, in pyro-vmm@.service."""
    program, aside = host.root + confined.QEMU, host.root + "/root/qemu"
    vm = json.loads(host.pyro("--json", "vm", "create", "--disk-mib", str(confined.DISK_MIB), "debian:12").stdout)["vm_id"]
    shutil.move(program, aside)
    shutil.copy(confined.PROGRAM, program)
    try:
        with confined.Probe("%s/var/lib/pyro/machines/%s/disk.ext4" % (host.root, vm), lambda: host.pyro("vm", "start", vm, check=False),
                            lambda: host.main_pid(vm), lambda *argv: host.run(*argv).stdout, WITHIN) as probe:
            assert "less containment" not in host.journal()
            probe.check()
            assert probe.facts(int(host.show("pyrod.service", "MainPID")), 1) == confined.table(confined.MODES[0])
    finally:
        shutil.move(aside, program)
    host.pyro("vm", "delete", vm)


def test_nobody_sees_anothers_machine(host):
    vm = host.machine("alice")
    assert vm in host.pyro("vm", "list").stdout and vm not in host.pyro("vm", "list", user="bob").stdout
    for verb in (["status"], ["start"], ["stop"], ["network-info"], ["delete"]):
        refused = json.loads(host.pyro("--json", "vm", *verb, vm, user="bob", check=False).stdout)
        assert refused["error"]["code"] == "vm_not_found", (verb, refused)
    refused = json.loads(host.pyro("--json", "vm", "exec", vm, "--", "true", user="bob", check=False).stdout)
    assert refused["error"]["code"] == "vm_not_found"
    seen = json.loads(host.run("pyro", "--json", "vm", "list", "--all-users").stdout)["vms"]
    assert [v["owner_uid"] for v in seen if v["vm_id"] == vm] == [int(host.run("id", "-u", "alice").stdout)]
    host.pyro("vm", "delete", vm)


def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(host):
    before = host.show("pyrod.service", "MainPID")

    def configure(text, check=True):
        host.run("sh", "-c", "mkdir -p /etc/pyro && cat >/etc/pyro/pyrod.conf", input=text)
        return host.run("systemctl", "reload", "pyrod.service", check=check)

    def ttl():
        vm = json.loads(host.pyro("--json", "vm", "create", "debian:12").stdout)
        host.pyro("vm", "delete", vm["vm_id"])
        return vm["ttl_seconds"]

    try:
        configure("default_ttl_seconds = 77\n")
        host.wait_for("the new configuration holds", "journalctl -u pyrod.service -o cat --no-pager", lambda log: "configuration reloaded" in log)
        assert ttl() == 77
        assert configure("default_ttl_seconds = soon\n", check=False).returncode != 0
        assert ttl() == 77
        assert "soon" in host.journal()
    finally:
        configure("")
        host.run("rm", "-r", "/etc/pyro")
    assert host.show("pyrod.service", "MainPID") == before and host.show("pyrod.service", "ActiveState") == "active"


def test_no_byte_is_lost_over_restart_kill_and_upgrade(host):
    """A command prints while its daemon is restarted, killed, and replaced by another binary."""
    lines = 3000
    printer = subprocess.Popen(
        host.command("pyro", "run", "--timeout", "250", "debian:12", "--", "bash", "-c",
                     "for ((i = 0; i < %d; i++)); do echo line $i; [ $((i %% 20)) != 0 ] || sleep 0.05; done" % lines, user="alice"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    got, reached = [], threading.Condition()

    def read():
        for line in printer.stdout:
            with reached:
                got.append(line)
                reached.notify()

    reader = threading.Thread(target=read)
    reader.start()

    def at(n):
        with reached:
            assert reached.wait_for(lambda: len(got) >= n, WITHIN), (len(got), host.journal())

    def main_pid():
        return host.show("pyrod.service", "MainPID")

    at(100)
    vmm = host.run("pgrep", "qemu-system").stdout
    before = main_pid()
    host.run("systemctl", "restart", "pyrod.service")
    assert main_pid() != before
    at(700)
    before = main_pid()
    host.run("kill", "-KILL", before)
    host.wait_for("the daemon is back", "systemctl show -P MainPID pyrod.service", lambda pid: pid not in ("0", before))
    at(1400)
    before = main_pid()
    host.run("sh", "-c", "cp /usr/bin/pyrod /usr/bin/pyrod.new && mv /usr/bin/pyrod.new /usr/bin/pyrod")
    assert "(deleted)" in host.run("readlink", "/proc/%s/exe" % before).stdout
    host.run("systemctl", "restart", "pyrod.service")
    assert "(deleted)" not in host.run("readlink", "/proc/%s/exe" % main_pid()).stdout
    assert len(got) < lines, "it ended before the end of its output"
    assert printer.wait(WITHIN) == 0, printer.stderr.read()
    reader.join()
    assert got == ["line %d\n" % i for i in range(lines)]
    assert vmm.strip() and host.run("pgrep", "-F", "/dev/stdin", input=vmm, check=False).stdout in ("", vmm)


ELSEWHERE = ["systemd-hostnamed.service", "pyrod.service", "pyro-machines.service", "pyro-vm@.service", "pyro-vm@evil.service",
             "pyro-vm@vm-0123456789abc.service", "pyro-vm@vm-0123456789aB.service", "pyro-import@evil.service", "pyro.slice",
             "pyro-vm@vm-0123456789ab.socket", "dbus.service", "rescue.target", "x-pyro-vm@vm-0123456789ab.service"]


def bus(host, *call):
    return host.run("busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", *call,
                    user="pyro", check=False)


def test_user_pyro_can_touch_no_other_unit(host):
    for unit in ELSEWHERE:
        for verb in ("StartUnit", "StopUnit", "RestartUnit"):
            refused = bus(host, verb, "ss", unit, "replace")
            assert refused.returncode != 0, (verb, unit, refused.stdout)
            assert re.search("authenti|denied|not valid|Invalid|missing the instance", refused.stderr + refused.stdout), (verb, unit, refused.stderr)
        assert bus(host, "SetUnitProperties", "sba(sv)", unit, "true", "1", "TasksMax", "t", "7").returncode != 0, unit
    ours = "pyro-vm@vm-0123456789ab.service"
    for refused in (
        bus(host, "RestartUnit", "ss", ours, "replace"),
        bus(host, "KillUnit", "ssi", ours, "all", "9"),
        bus(host, "StartTransientUnit", "ssa(sv)a(sa(sv))", "pyro-vm@vm-aaaaaaaaaaaa.service", "replace", "1", "ExecStart", "a(sasb)", "1",
            "/bin/sh", "1", "/bin/sh", "false", "0"),
        bus(host, "EnableUnitFiles", "asbb", "1", "/tmp/x.service", "true", "true"),
        bus(host, "MaskUnitFiles", "asbb", "1", "pyrod.service", "true", "true"),
        bus(host, "Reload"),
        bus(host, "PowerOff"),
    ):
        assert refused.returncode != 0, (refused.args, refused.stdout)
    assert host.run("systemctl", "start", "systemd-hostnamed.service", user="pyro", check=False).returncode != 0
    assert host.show("pyrod.service", "TasksMax") != "7"


def test_a_unit_that_pyrod_did_not_start_gets_no_descriptors(host):
    """User pyro may start such a unit, but nothing runs in it; and the refusals above did not come from a broken bus."""
    unit = "pyro-vm@vm-ffffffffffff.service"
    begun = bus(host, "StartUnit", "ss", unit, "replace")
    assert begun.returncode == 0, begun.stderr
    host.wait_for("it has ended", "systemctl show -P ActiveState " + unit, lambda state: state in ("inactive", "failed"))
    assert "Refused a connection" in host.journal()
    assert host.run("pgrep", "qemu-system", check=False).stdout == ""


def test_a_stopped_vmm_is_ended(host):
    vm = host.machine()
    pid = host.main_pid(vm)
    host.run("kill", "-STOP", str(pid))
    begun = time.monotonic()
    host.pyro("vm", "delete", vm)
    print("a stopped VMM was ended in %.1f s" % (time.monotonic() - begun))
    assert host.run("test", "-e", "/proc/%d" % pid, check=False).returncode != 0


def test_a_machine_of_a_previous_daemon_is_stopped_by_its_unit(host):
    """A machine whose daemon was killed: the next daemon adopts it and deletes it."""
    vm = host.machine()
    pid = host.main_pid(vm)
    host.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "pyrod.service", check=False)
    host.wait_for("it is adopted", "pyro --json vm status " + vm, lambda text: '"state":"started"' in text)
    host.pyro("vm", "delete", vm)
    assert host.run("test", "-e", "/proc/%d" % pid, check=False).returncode != 0


def test_a_restarted_unit_is_not_adopted(host):
    """Another invocation under the machine's name: nothing of it is trusted, and no process is killed because of its pid."""
    vm = host.machine()
    host.run("systemctl", "stop", "pyrod.service", "pyrod.socket")
    link = "/run/systemd/units/invocation:pyro-vm@%s.service" % vm
    true_id = host.run("readlink", link).stdout.strip()
    pid = host.main_pid(vm)
    host.run("ln", "-sfn", "0" * 32, link)
    host.run("systemctl", "start", "pyrod.socket")
    status = json.loads(host.run("pyro", "--json", "vm", "status", vm).stdout)
    assert status["state"] == "unknown", status
    assert host.run("test", "-e", "/proc/%d" % pid, check=False).returncode == 0
    host.run("ln", "-sfn", true_id, link)
    host.run("systemctl", "restart", "pyrod.service")
    host.wait_for("it is adopted", "pyro --json vm status " + vm, lambda text: '"state":"started"' in text)
    host.pyro("vm", "delete", vm)


def test_a_boot_in_progress_ends_with_its_daemon(host):
    vm = json.loads(host.pyro("--json", "vm", "create", "debian:12").stdout)["vm_id"]
    boot = subprocess.Popen(host.command("pyro", "vm", "start", vm, user="alice"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    host.wait_for("its VMM runs", "pgrep qemu-system", lambda text: text != "")
    host.run("systemctl", "restart", "pyrod.service")
    boot.wait(WITHIN)
    host.wait_for("its VMM is gone", "pgrep qemu-system", lambda text: text == "")
    assert host.show("pyro-vm@%s.service" % vm, "ActiveState") == "inactive"
    host.pyro("vm", "delete", vm)


def test_the_bus_is_lost_and_reconnected(host):
    vm = host.machine()
    pid = host.main_pid(vm)
    host.run("systemctl", "restart", "dbus.service", check=False)
    host.wait_for("the bus is back", "journalctl -u pyrod.service -o cat --no-pager -n 20",
                  lambda text: "Reconnected to the bus of the service manager" in text)
    assert host.run("test", "-e", "/proc/%d" % pid, check=False).returncode == 0
    host.pyro("vm", "delete", vm)
    assert host.pyro("run", "debian:12", "--", "true").returncode == 0


def test_machines_leave_nothing(host):
    host.wait_for("units", "systemctl list-units --all --plain --no-legend 'pyro-vm@*' 'pyro-import@*'", lambda text: text == "")
    host.wait_for("drop-ins", "ls /run/systemd/system.control", lambda text: text == "")
    host.wait_for("cgroups", CGROUPS, lambda text: set(text.split()) <= host.cgroups_before)
    assert host.run("ls", "/run/pyro/vm", "/var/lib/pyro/machines").stdout.split() == ["/run/pyro/vm:", "/var/lib/pyro/machines:"]


def exposed(host, unit):
    """What systemd-analyze counts against the unit, and the sum."""
    path = "/tmp/" + unit.replace("@", "@i")
    host.run("cp", "/lib/systemd/system/" + unit, path)
    rows = json.loads(host.run("systemd-analyze", "security", "--offline=true", "--json=short", path).stdout)
    text = host.run("systemd-analyze", "security", "--offline=true", "--no-pager", path).stdout
    overall = float(re.search(r"exposure level for \S+: ([0-9.]+)", text).group(1))
    return overall, [row["name"] for row in rows if row["set"] is False and row["exposure"] not in (None, "", "0.0")]


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_hardened_or_say_why_not(host, unit):
    overall, names = exposed(host, unit)
    print("%s: %.1f" % (unit, overall))
    if unit != "pyro-import@.service":
        assert overall <= 1.5, names
        return
    with open(host.root + "/lib/systemd/system/" + unit) as f:
        reasons = " ".join(line for line in f if line.startswith("#"))
    for name in names:
        setting = re.match(r"[A-Za-z]+=", name).group(0)
        assert setting in reasons, "no reason for " + name


def test_what_the_subid_process_may_do(host):
    """pyro-subid inside pyrod.service: its module tries, and the bits of what it could do are in the owner that it names
    (tests/fake/subid.c)."""
    files = host.root + "/usr/local/lib/libsubid_pyrotest.so", host.root + "/etc/nsswitch.conf"
    with open(files[1]) as f:
        before = f.read()
    shutil.copy(BUILD + "/tests/fake/libsubid_pyrotest.so", files[0])
    host.run("ldconfig")
    try:
        with open(files[1], "a") as f:
            f.write("subid: pyrotest\n")
        host.run("setpriv", "--reuid=1400000", "--regid=pyro", "--clear-groups", "pyro", "vm", "list")
        host.wait_for("the answer", "journalctl -u pyrod -o cat --no-pager | grep 'uid 1400000 '", lambda text: text != "")
        said = host.run("sh", "-c", "journalctl -u pyrod -o cat --no-pager | grep 'uid 1400000 '").stdout
        assert 'uid 1400000 counts as uid 62000, which owns it by subid source "pyrotest"' in said, said
    finally:
        with open(files[1], "w") as f:
            f.write(before)
        os.unlink(files[0])
        host.run("ldconfig")


def test_every_shipped_unit_is_checked(host):
    shipped = host.run("sh", "-c", "dpkg -L pyro | grep -E '^(/usr)?/lib/systemd/system/.*\\.service$'").stdout.split()
    assert sorted(os.path.basename(path) for path in shipped) == sorted(UNITS)


def write_a_file(host, vm):
    """A command that writes a file and continues; returns a second after the write, with the machine's open disk."""
    writer = subprocess.Popen(host.command("pyro", "vm", "exec", vm, "--timeout", "200", "--", "sh", "-c",
                                           "echo first > /workspace/file; echo written; sleep 200", user="alice"),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert writer.stdout.readline() == "written\n"
    time.sleep(1)  # the second of the promise: long before a guest writes back on its own
    return writer, open(host.root + "/var/lib/pyro/machines/%s/disk.ext4" % vm, "rb")


def file_on(disk):
    """Reads a file of a disk whose machine, and so its name, may be deleted: vm.exec deletes it with the command."""
    path = "/proc/%d/fd/%d" % (os.getpid(), disk.fileno())
    subprocess.run(["e2fsck", "-fy", path], capture_output=True)
    return subprocess.run(["debugfs", "-R", "cat /workspace/file", path], capture_output=True, text=True).stdout


def test_a_killed_machine_loses_what_was_not_written_back(host):
    """Without this, the test of poweroff would prove nothing."""
    vm = host.machine()
    writer, disk = write_a_file(host, vm)
    with disk:
        host.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "pyro-vm@%s.service" % vm, check=False)
        assert writer.wait(60) != 0
        assert file_on(disk) != "first\n"


def test_poweroff_ends_machines_in_order(host):
    """A file written a second before exists, and a machine that stays is stopped, not failed."""
    kept, vm = host.machine(), host.machine()
    assert host.show("pyro-machines.service", "ActiveState") == "active"
    writer, disk = write_a_file(host, vm)
    with disk:
        took = host.poweroff()
        print("poweroff took %.1f s" % took)
        assert writer.wait(30) != 0
        assert file_on(disk) == "first\n"
    assert took < 60 and os.path.exists(host.root + "/var/lib/pyro/machines/%s/disk.ext4" % kept)


def test_the_machine_is_listed_after_the_next_boot(host):
    host.boot()
    listed = json.loads(host.pyro("--json", "vm", "list").stdout)["vms"]
    assert [(v["state"], v["stop_reason"]) for v in listed] == [("stopped", "host_shutdown")], listed
    host.pyro("vm", "delete", listed[0]["vm_id"])


def test_removal_keeps_disks(host):
    """Machines end in order, a machine of one command together with it, and the next installation knows them; they also end when
    the socket is stopped."""
    kept, vm = host.machine(), host.machine()
    writer, disk = write_a_file(host, vm)
    disk.close()
    removed = host.run("dpkg", "--remove", "pyro", timeout=WITHIN)
    assert "could not be" not in removed.stderr, removed.stderr
    assert writer.wait(30) != 0
    assert host.run("pgrep", "-a", "pyrod|pyro-vmm|qemu", check=False).stdout == ""
    assert os.listdir(host.root + "/var/lib/pyro/machines") == [kept]
    host.run("sh", "-c", "dpkg -i /root/deb/*.deb")
    assert [(v["vm_id"], v["state"]) for v in json.loads(host.pyro("--json", "vm", "list").stdout)["vms"]] == [(kept, "stopped")]
    second = host.machine()
    host.run("systemctl", "stop", "pyrod.socket", "pyrod.service")
    assert host.run("pgrep", "qemu", check=False).stdout != ""
    host.run("dpkg", "--remove", "pyro", timeout=WITHIN)
    assert host.run("pgrep", "-a", "pyrod|pyro-vmm|qemu", check=False).stdout == ""
    assert os.path.exists(host.root + "/var/lib/pyro/machines/%s/disk.ext4" % second)
    host.run("sh", "-c", "dpkg -i /root/deb/*.deb")
    assert {v["vm_id"] for v in json.loads(host.pyro("--json", "vm", "list").stdout)["vms"]} == {kept, second}


def test_purge_leaves_nothing(host):
    host.machine()  # removing the package ends it
    purged = host.run("dpkg", "--purge", "pyro", "libpyro0", timeout=WITHIN)
    assert "could not be" not in purged.stderr, purged.stderr
    for user in ("alice", "bob", "carol"):
        host.run("userdel", "-r", user, check=False)
    shutil.rmtree(host.root + "/root/deb")
    left = listing(host.root) - host.before
    left = {line for line in left if "pyro" in line and not line.startswith("/var/lib/dpkg")}
    assert not left, sorted(left)
    assert host.run("pgrep", "-a", "pyrod|pyro-vmm|pyro-import|qemu", check=False).stdout == ""
    assert host.run("sh", "-c", "ls -d /run/pyro /run/systemd/system.control/pyro* /etc/pyro 2>/dev/null", check=False).stdout == ""
    units = host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "pyro*").stdout.splitlines()
    assert not [line for line in units if "not-found inactive dead" not in line], (units, host.run("journalctl", "-u", "pyrod.service", "-n", "20", "--no-pager", "-o", "cat").stdout)
