# SPDX-License-Identifier: MIT
"""Twelve broken hosts. Each error gives one line what and one line fix; where a command can repair it, the printed fix is run as
it is, and `pyro run` works afterwards. doctor finds the same. Accounts, mounts and files made here are removed."""
import json
import os
import pwd
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

from conftest import BUILD, CACHE, NOT_DEBIAN, Result, stage

WORDS = ("debian:12", "--", "echo", "works")
RUN = ("run", *WORDS)
BASE = "debian:12-base"  # where a real pull is part of the proof: the smallest environment
RUN_BASE = ("run", BASE, "--", "echo", "works")
PULL_SECONDS = 900


def parts(result):
    """The message and fix lines of a failure; one each."""
    what = [line for line in result.errors.splitlines() if line.startswith("pyro: ")]
    fix = [line[len("  fix: "):] for line in result.errors.splitlines() if line.startswith("  fix: ")]
    assert len(what) == 1 and len(fix) == 1, result
    return what[0], fix[0]


def repair(daemon, fix, path=None, seconds=60):
    """Runs the printed fix as a user would paste it. A plain user's `sudo` is removed: the test is already root."""
    env = daemon.client_env(PATH=":".join(filter(None, [path, stage(BUILD) + "/bin", os.environ["PATH"]])))
    r = subprocess.run(["sh", "-c", re.sub(r"\bsudo ", "", fix)], env=env, capture_output=True, timeout=seconds,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == 0, (fix, r)


def works(result):
    assert result.status == 0 and result.out == b"works\n", result


def checks(daemon):
    """Failed checks of doctor by name."""
    r = daemon.pyro("--json", "doctor")
    return {c["name"]: c for c in json.loads(r.text)["runtime"]["checks"] if not c["ok"]}, r


def has_failed(doctor, *texts):
    """doctor's output for a person: not fit, and why."""
    assert doctor.status == 1 and "Runtime: FAIL" in doctor.text, doctor
    for text in texts:
        assert text in doctor.text, (text, doctor)


def adopt(daemon):
    """This test must stop a daemon that a fix started in the background: its pid is in the lock file."""
    pid = int(open(daemon.state + "/lock").read().split()[0])
    fd = os.pidfd_open(pid)

    class Process:
        def poll(self):
            return 0 if select.select([fd], [], [], 0)[0] else None

        def send_signal(self, sig):
            signal.pidfd_send_signal(fd, sig)

        def wait(self, timeout):
            assert select.select([fd], [], [], timeout)[0], "pyrod %d does not end" % pid
            os.close(fd)
            return 0
    daemon.process = Process()
    daemon.process.pid = pid


@pytest.fixture(autouse=True)
def needs_root(root_only, daemon):
    """The shared daemon has filled the cache."""


@pytest.fixture
def user():
    """An account without subordinate ids."""
    name = "pyro-test-%d" % os.getpid()
    subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/sh", name], check=True)
    yield pwd.getpwnam(name)
    subprocess.run(["userdel", name], check=True)


@pytest.fixture
def group():
    name = "pyro-test-g%d" % os.getpid()
    subprocess.run(["groupadd", "--system", name], check=True)
    yield name
    subprocess.run(["groupdel", name], check=True)


def as_user(d, user, *words, groups="--init-groups", command=None, timeout=120, **kw):
    """A login of that user: --init-groups a new one, --clear-groups one from before any change."""
    begin = time.monotonic()
    p = subprocess.run(["setpriv", "--reuid=%d" % user.pw_uid, "--regid=%d" % user.pw_gid, groups, *(command or d.command(*words))],
                       env=d.client_env(HOME=d.root, PATH=stage(BUILD) + "/bin:" + os.environ["PATH"]), capture_output=True, timeout=timeout,
                       **({} if "input" in kw else {"stdin": subprocess.DEVNULL}), **kw)
    return Result(p.returncode, p.stdout, p.stderr, time.monotonic() - begin)


def test_daemon_off(make_daemon):
    d = make_daemon()
    r = d.pyro(*RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert d.socket in what
    has_failed(d.pyro("doctor"), d.socket, "  fix: " + fix)
    repair(d, fix)
    adopt(d)
    works(d.pyro(*RUN))


def test_socket_not_permitted(user, group, make_daemon):
    d = make_daemon()
    d.start()
    shutil.chown(d.socket, group=group)
    os.chmod(d.socket, 0o600)
    subprocess.run(["usermod", "-aG", group, user.pw_name], check=True)
    r = as_user(d, user, *RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert "permission" in what and d.socket in what and group in r.errors
    has_failed(as_user(d, user, "doctor"), what[len("pyro: "):], "  fix: " + fix)
    repair(d, fix)
    works(as_user(d, user, *RUN))


def test_not_in_group(user, group, make_daemon):
    d = make_daemon()
    d.start()
    shutil.chown(d.socket, group=group)
    r = as_user(d, user, *RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert "permission" in what and "not in group " + group in r.errors and "usermod" in fix
    has_failed(as_user(d, user, "doctor"), "not in group " + group, "  fix: " + fix)
    repair(d, fix)
    works(as_user(d, user, *RUN))
    # the old login does not have the group yet: the error says that too, and the fix works from within that login
    r = as_user(d, user, *RUN, groups="--clear-groups")
    assert r.status == 125 and "began before" in r.errors
    what, fix = parts(r)
    works(as_user(d, user, command=["sh", "-c", fix], groups="--clear-groups", input=b"exec pyro -q " + " ".join(RUN).encode() + b"\n"))


WITHOUT_KVM = r"""
d=$1; shift
mkdir "$d"; mount -t tmpfs tmpfs "$d"
for f in /dev/*; do
	n=$d/${f##*/}
	if [ "$f" = /dev/kvm ]; then continue
	elif [ -L "$f" ]; then cp -P "$f" "$n"
	elif [ -d "$f" ]; then mkdir "$n"; mount --rbind "$f" "$n"
	else : > "$n"; mount --bind "$f" "$n"; fi
done
mount --move "$d" /dev
exec "$@"
"""
NAMESPACE = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]


def test_no_kvm(make_daemon):
    """Not an error: emulation is a real machine. A note says it once, clearly; a user who asks for KVM gets the reason."""
    d = make_daemon()
    d.prefix = [*NAMESPACE, WITHOUT_KVM, "sh", d.root + "/dev"]
    d.start()
    r = d.pyro("run", "--accelerator", "kvm", *WORDS)
    assert r.status == 125
    what, fix = parts(r)
    assert "KVM" in what and "/dev/kvm does not exist" in r.errors and fix
    works(d.pyro(*RUN))
    report = json.loads(d.pyro("--json", "doctor").text)
    assert report["kvm"] == {"exists": False, "readable": False, "writable": False, "usable": False}
    assert report["accelerator"] == "emulation" and report["emulation"]["available"] and report["runtime"]["ok"]
    r = d.pyro("doctor")
    assert r.status == 0 and "KVM: exists=no readable=no writable=no\n" in r.text
    assert "Accelerator: emulation: KVM is not usable: /dev/kvm does not exist" in r.text, r


def test_kvm_that_does_not_work(daemon):
    r = daemon.pyro("--json", "doctor")
    report = json.loads(r.text)
    if report["kvm"]["usable"] or not report["kvm"]["exists"]:
        pytest.skip("this host's KVM works, or there is none")
    assert report["accelerator"] == "emulation" and report["runtime"]["ok"] and r.status == 0
    r = daemon.pyro("run", "--accelerator", "kvm", *WORDS)
    assert r.status == 125
    what, fix = parts(r)
    assert "KVM" in what and "/dev/kvm" in r.errors and fix
    works(daemon.pyro(*RUN))


def hide(folder, *names):
    """A PATH with all of the host's programs except the named ones."""
    os.makedirs(folder)
    for place in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name not in names and not os.path.lexists(folder + "/" + name):
                os.symlink(place + "/" + name, folder + "/" + name)
    return folder


APT_GET = """#!/bin/sh
# Brings what the named packages would, into the PATH of a daemon from which it was hidden.
[ "$1 $2" = "install -y" ] || exit 100
shift 2
dpkg -L "$@" | grep -E '^(/usr)?/s?bin/.' | while read f; do
	[ -e "%(path)s/${f##*/}" ] || ln -s "$f" "%(path)s/"
done
"""


def apt_get(folder, path):
    os.makedirs(folder)
    with open(folder + "/apt-get", "w") as f:
        f.write(APT_GET % {"path": path})
    os.chmod(folder + "/apt-get", 0o755)
    return folder


def test_qemu_missing(make_daemon):
    d = make_daemon()
    path = d.env["PATH"] = hide(d.root + "/bin", "qemu-system-x86_64")
    d.start()
    r = d.pyro(*RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert "QEMU" in what and fix == "apt-get install -y qemu-system-x86"
    assert d.vms() == []
    failed, doctor = checks(d)
    assert failed["qemu"]["fix"] == "sudo " + fix
    has_failed(d.pyro("doctor"), "qemu: ", "  fix: " + fix, "vm_boot=no guest_exec=no")
    repair(d, fix, path=apt_get(d.root + "/apt", path))
    works(d.pyro(*RUN))


FIRMWARE = "/usr/share/qemu/qboot.rom"


def without_firmware(d, instead):
    """This daemon and its machines find the file `instead` in place of the firmware that loads the kernel."""
    d.prefix = [*NAMESPACE, 'mount --bind "$1" %s; shift; exec "$@"' % FIRMWARE, "sh", instead]


def test_firmware_damaged(make_daemon):
    d = make_daemon()
    with open(d.root + "/empty", "w"):
        without_firmware(d, d.root + "/empty")
    d.start()
    r = d.pyro(*RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert "could not be started" in what and "qboot.rom" in r.errors and fix == "apt-get install --reinstall -y qemu-system-data", r
    package = fix.split()[-1]
    assert FIRMWARE in subprocess.run(["dpkg", "-L", package], check=True, capture_output=True, text=True).stdout.split()
    d.wait_clean()


@pytest.mark.soak
def test_firmware_that_loads_no_kernel(make_daemon):
    """The vCPUs run and nothing else happens, for as long as a boot may take: tests/soak hosts."""
    d = make_daemon()
    without_firmware(d, "/usr/share/seabios/bios-microvm.bin")
    d.start()
    r = d.pyro(*RUN, timeout=200)
    assert r.status == 125
    what, fix = parts(r)
    version, = re.match(r"QEMU emulator version (\S+)", subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True).stdout).groups()
    assert "the VMM did not boot the kernel" in what and "cause: QEMU %s (" % version in r.errors, r
    assert fix == "apt-get install --reinstall -y qemu-system-x86 qemu-system-data"
    packages = subprocess.run(["dpkg", "-L", *fix.split()[4:]], check=True, capture_output=True, text=True).stdout.split()
    assert {FIRMWARE, "/usr/bin/qemu-system-x86_64"} <= set(packages)
    d.wait_clean()


def test_disk_full(make_daemon):
    d = make_daemon(kernels=None)
    kernels = int(subprocess.run(["du", "-sm", CACHE + "/kernels"], capture_output=True, check=True).stdout.split()[0])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dm" % (kernels + 2048), "tmpfs", d.state], check=True)
    try:
        subprocess.run(["cp", "-a", CACHE + "/kernels", d.state + "/kernels"], check=True)
        room = os.statvfs(d.state)
        ballast = room.f_bavail * room.f_frsize - (8 << 20)
        with open(d.state + "/ballast", "wb") as f:
            os.posix_fallocate(f.fileno(), 0, ballast)
        d.start()
        r = d.pyro(*RUN)
        assert r.status == 125
        what, fix = parts(r)
        assert "space" in what and d.state in what
        room = re.fullmatch(r"free at least (\d+) MiB there", fix)
        failed, doctor = checks(d)
        assert d.state in failed["disk_space"]["detail"] and failed["disk_space"]["fix"]
        has_failed(d.pyro("doctor"), "disk_space: ", "vm_boot=no guest_exec=no", "  fix: " + fix)
        assert d.vms() == []
        # exactly what the fix says, and a little for what is written meanwhile
        os.truncate(d.state + "/ballast", ballast - ((int(room[1]) + 64) << 20))
        works(d.pyro(*RUN))
        d.stop()
    finally:
        d.stop()
        subprocess.run(["umount", d.state], check=True)


def names(folder):
    return [n for n in os.listdir(folder) if not n.startswith(".lock")]


def test_mirror_unreachable(root_only, make_daemon):
    d = make_daemon()
    d.prefix = NOT_DEBIAN
    conf, cache = d.root + "/pyrod.conf", d.root + "/cache"
    with open(conf, "w") as f:
        f.write("mirror = http://127.0.0.1:9/debian\n")
    d.env["PYRO_ENVIRONMENT_CACHE_DIR"] = cache
    d.start("--config", conf)
    r = d.pyro(*RUN, timeout=240)
    assert r.status == 125
    what, fix = parts(r)
    assert "debian:12" in what and "mirror" in fix and "127.0.0.1:9" in r.errors, r
    failed, _ = checks(d)
    assert "127.0.0.1:9" in failed["environment"]["detail"] and failed["environment"]["fix"] == fix
    has_failed(d.pyro("doctor"), "debian:12", "127.0.0.1:9", "  fix: " + fix)
    assert "debian:12 [not installed]" in d.pyro("env", "list").text
    d.wait_clean()
    assert names(cache) == [], "a pull that failed left something"


def test_no_subuid(user, make_daemon):
    """A user's own daemon, whose user has no subordinate ids; with them it pulls and runs without root anywhere."""
    d = make_daemon(mode="--user", kernels=None)
    subprocess.run(["cp", "-a", CACHE + "/kernels", d.state], check=True)
    d.env.update(PYRO_ENVIRONMENT_CACHE_DIR=d.root + "/cache", HOME=d.root)
    subprocess.run(["chown", "-R", "%d:%d" % (user.pw_uid, user.pw_gid), d.root], check=True)
    r = as_user(d, user, command=[stage(BUILD) + "/bin/pyrod", "--user", "--socket", d.socket, "--detach"], timeout=30)
    assert r.status == 0, r
    adopt(d)
    r = as_user(d, user, *RUN_BASE)
    assert r.status == 125
    what, fix = parts(r)
    assert BASE in what and "subordinate" in r.errors
    assert re.fullmatch(r"sudo usermod --add-subuids \d+-\d+ --add-subgids \d+-\d+ " + user.pw_name, fix)
    report = json.loads(as_user(d, user, "--json", "doctor").text)
    assert [c["fix"] for c in report["runtime"]["checks"] if c["name"] == "subuid" and not c["ok"]] == [fix]
    has_failed(as_user(d, user, "doctor"), "subuid: ", "  fix: " + fix)
    repair(d, fix)
    works(as_user(d, user, *RUN_BASE, timeout=PULL_SECONDS))


def test_kernel_store_empty_and_no_apt(make_daemon):
    if any(n.startswith("vmlinuz") for n in os.listdir("/boot")):
        pytest.skip("this host has a kernel in /boot, which would be used")
    d = make_daemon(kernels=None)
    d.env["PATH"] = hide(d.root + "/bin", "apt-get", "apt", "apt-cache")
    d.start()
    r = d.pyro(*RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert "kernel" in what and "no apt" in r.errors and "kernel=" in fix and "pyrod.conf" in fix, r
    failed, _ = checks(d)
    assert "kernel=" in failed["apt"]["fix"] and "kernel store is empty" in failed["kernel"]["detail"]
    has_failed(d.pyro("doctor"), "kernel: ", "apt: ")
    d.stop()
    # as the fix says: a kernel that the administrator provides, with its modules in their place
    store = CACHE + "/kernels/" + json.load(open(CACHE + "/kernels/current.json"))["hash"]
    version = json.load(open(store + "/meta.json"))["version"]
    modules, conf = d.root + "/modules", d.root + "/pyrod.conf"
    os.mkdir(modules)
    subprocess.run(["debugfs", "-R", "rdump /%s %s" % (version, modules), store + "/modules.ext4"], check=True, capture_output=True)
    shutil.copy(store + "/vmlinux", d.root + "/vmlinux")
    with open(conf, "w") as f:
        f.write("kernel = %s/vmlinux\n" % d.root)
    made = not os.path.isdir("/lib/modules")
    if made:
        os.mkdir("/lib/modules")
    try:
        d.prefix = [*NAMESPACE, 'mount --bind "$1" /lib/modules; shift; exec "$@"', "sh", modules]
        d.start("--config", conf)
        works(d.pyro(*RUN))
        assert checks(d)[0] == {}
    finally:
        d.stop()
        if made:
            os.rmdir("/lib/modules")


def break_image(image, meta):
    os.unlink(image)


def cut_image(image, meta):
    os.unlink(image)  # its bytes belong to the shared cache, too
    with open(image, "wb") as f:
        f.write(b"short")


def break_meta(image, meta):
    os.unlink(meta)


def garble_meta(image, meta):
    os.unlink(meta)
    with open(meta, "w") as f:
        f.write("{nonsense")


def half_installed(d, how):
    cache = d.root + "/cache"
    subprocess.run(["cp", "-al", CACHE + "/environments", cache], check=True)
    with open(cache + "/debian:12.json") as f:
        folder = cache + "/" + json.load(f)["digest"].replace(":", "-")
    how(folder + "/image.ext4", folder + "/meta.json")
    d.env["PYRO_ENVIRONMENT_CACHE_DIR"] = cache
    return cache


def doctor_names_environment(d, name):
    """The fix of the one check that fails for it."""
    assert name + " [not installed]" in d.pyro("env", "list").text
    failed, _ = checks(d)
    assert name + ": " in failed["environment"]["detail"]
    has_failed(d.pyro("doctor"), "environment: " + name, "  fix: " + failed["environment"]["fix"])
    return failed["environment"]["fix"]


@pytest.mark.parametrize("how", [break_image, cut_image, break_meta, garble_meta])
def test_half_installed_environment(make_daemon, how):
    """It counts as not installed, so `run` pulls it again; if the pull is impossible, that is the error."""
    d = make_daemon()
    half_installed(d, how)
    d.env["https_proxy"] = d.env["http_proxy"] = "http://127.0.0.1:9"
    d.start()
    assert doctor_names_environment(d, "debian:12") == "pyro env pull debian:12"
    r = d.pyro(*RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert "debian:12" in what and "proxy" in fix


def test_half_installed_environment_is_repaired(make_daemon):
    d = make_daemon()
    cache = half_installed(d, cut_image)
    os.rename(cache + "/debian:12.json", cache + "/" + BASE + ".json")
    d.start()
    repair(d, doctor_names_environment(d, BASE), seconds=PULL_SECONDS)
    assert BASE + " [installed]" in d.pyro("env", "list").text
    works(d.pyro(*RUN_BASE))
    assert checks(d)[0] == {}


def test_store_of_a_newer_version(make_daemon):
    d = make_daemon()
    d.start()
    d.stop()
    database = d.state + "/pyro.db"
    db = sqlite3.connect(database)
    db.execute("PRAGMA user_version = 999")
    db.commit()
    db.close()
    before = open(database, "rb").read()
    d.start()
    r = d.pyro(*RUN)
    assert r.status == 125
    what, fix = parts(r)
    assert "newer" in what and database in what, r
    failed, _ = checks(d)
    assert failed["store"]["fix"] == "sudo " + fix
    has_failed(d.pyro("doctor"), "store: ", database, "  fix: " + fix)
    assert open(database, "rb").read() == before, "the newer store was touched"
    old = d.process
    repair(d, fix)
    assert old.wait(timeout=20) == 0
    adopt(d)
    works(d.pyro(*RUN))
    assert open(d.state + "/newer/pyro.db", "rb").read() == before, "the newer store was lost"


def test_daemon_hung(make_daemon):
    d = make_daemon()
    d.start()
    os.kill(d.process.pid, signal.SIGSTOP)
    r = d.pyro(*RUN)
    assert r.status == 125 and r.seconds < 12, r
    what, fix = parts(r)
    assert "did not answer" in what and str(d.process.pid) in fix, r
    has_failed(d.pyro("doctor"), "did not answer", "  fix: " + fix)
    old = d.process
    repair(d, fix)
    old.wait(timeout=20)
    adopt(d)
    works(d.pyro(*RUN))


def test_doctor_takes_a_run_as_proof(make_daemon):
    """What a machine has proven since the daemon started is not tried again: a second quickstart is cheap."""
    d = make_daemon()
    d.start()
    works(d.pyro(*RUN))
    d.wait_clean()
    r = d.pyro("--json", "doctor")
    report = json.loads(r.text)
    assert r.status == 0 and (report["capabilities"]["vm_boot"], report["capabilities"]["guest_exec"]) == ("yes", "yes")
    probe, = [c["detail"] for c in report["runtime"]["checks"] if c["name"] == "probe_machine"]
    assert re.fullmatch(r"a machine ran a command at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", probe)
    assert "PROGRESS" not in r.errors and "phase=" not in r.errors
