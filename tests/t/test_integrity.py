# SPDX-License-Identifier: MIT
"""doctor's results, and damaged kernels and images, with the fake VMM: a proof is valid until something changes or a start
fails; damage is noticed before the next boot, after a failed one, or by doctor; each fix is run as it is printed, and the next
run works. A stand-in for the downloads (IMPORT) brings the same files again; pyro-import does the reading."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess

import jsonschema
import pytest

from conftest import BUILD, BUILD_ASAN, Raw, stage, wait_for
from fakevm import sha256

ENV = "debian:12"

IMPORT = """#!/bin/sh
again=%(again)s
verb=$1
case $verb in
environment|kernel)
	while [ $# -gt 0 ]; do [ "$1" != --output ] || out=$2; shift; done
	cp -r "$again/$verb/." "$out" && cat "$again/$verb.json" ;;
check)
	echo >> %(again)s.checks
	[ ! -p %(again)s.gate ] || read line < %(again)s.gate
	[ ! -e %(again)s.broken ] || exit 1
	exec %(real)s "$@" ;;
*) exec %(real)s "$@" ;;
esac
"""


def reinstall(d, image):
    """What a pull brings: this image, and the kernel that is installed now."""
    again = d.root + "/again"
    shutil.rmtree(again, ignore_errors=True)
    os.makedirs(again + "/environment")
    with open(again + "/environment/image.ext4", "wb") as f:
        f.write(image)
    with open(again + "/environment.json", "w") as f:
        f.write('{"result":{"digest":"sha256:%s","size_bytes":%d,"packages":[]}}\n' % (sha256(image), len(image)))
    shutil.copytree(kernel_dir(d), again + "/kernel", ignore=shutil.ignore_patterns("initrd*"))
    with open(again + "/kernel.json", "w") as f:
        f.write('{"result":{"hash":"%s","version":"0"}}\n' % os.path.basename(kernel_dir(d)))
    for place, _, names in os.walk(again):
        for path in (place, *(place + "/" + n for n in names)):
            os.chmod(path, 0o755)


def kernel_dir(d):
    return d.state + "/kernels/" + json.load(open(d.state + "/kernels/current.json"))["hash"]


def image_dir(d):
    return d.root + "/cache/sha256-" + json.load(open(d.root + "/cache/" + ENV + ".json"))["digest"][len("sha256:"):]


def path_of(d, name):
    if name == "initrd":
        return kernel_dir(d) + "/" + json.load(open(kernel_dir(d) + "/initrd.json"))["name"]
    return (image_dir(d) if name == "image.ext4" else kernel_dir(d)) + "/" + name


@pytest.fixture(params=["release", "asan"])
def d(request, make_fake):
    """A daemon with a kernel and an environment that a pull can install again."""
    d = make_fake(build=BUILD if request.param == "release" else BUILD_ASAN)
    libexec, real = d.root + "/libexec", d.env["PYRO_LIBEXEC_DIR"]
    os.mkdir(libexec)
    for name in os.listdir(real):
        if name != "pyro-import":
            os.symlink(real + "/" + name, libexec + "/" + name)
    with open(libexec + "/pyro-import", "w") as f:
        f.write(IMPORT % {"again": d.root + "/again", "real": real + "/pyro-import"})
    os.chmod(libexec + "/pyro-import", 0o755)
    with open(d.root + "/again.checks", "w"):
        os.chmod(d.root + "/again.checks", 0o666)
    d.env["PYRO_LIBEXEC_DIR"] = libexec
    reinstall(d, open(path_of(d, "image.ext4"), "rb").read())
    return d.start()


def run(d, manner="good"):
    return d.pyro("run", *d.run_flags(manner), ENV, "--", "echo works")


def works(r):
    assert (r.status, r.out) == (0, b"works\n"), r


def parts(r):
    """The message, cause and fix lines of a failure."""
    assert r.status in (1, 125), r
    lines = r.errors.splitlines()
    found = [[x[len(begin):] for x in lines if x.startswith(begin)] for begin in ("pyro: ", "  cause: ", "  fix: ")]
    assert [len(f) for f in found] == [1, 1, 1], r
    return [f[0] for f in found]


def repair(d, fix):
    """Runs the printed fix as a user would paste it."""
    env = d.client_env(PATH=stage(d.build) + "/bin:" + os.environ["PATH"])
    r = subprocess.run(["sh", "-c", fix], env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, (fix, r)
    return r


class Doctor:
    """What `pyro doctor` prints for a person; its failed checks by name: (detail, fix)."""

    def __init__(self, d, *flags):
        r = d.pyro("doctor", *flags)
        lines = r.text.splitlines()
        self.all = r
        self.status = r.status
        self.runtime = lines[1][len("Runtime: "):]
        found = re.fullmatch(r"Capabilities: vm_boot=(\w+) guest_exec=(\w+) guest_network=(\w+)", lines[4])
        assert found, r
        self.can = found.groups()
        at = [i for i, x in enumerate(lines) if i > 5 and re.match(r"[a-z_]+: ", x)]
        self.failed = {}
        for i in at:
            name, detail = lines[i].split(": ", 1)
            fix = lines[i + 1][len("  fix: "):] if len(lines) > i + 1 and lines[i + 1].startswith("  fix: ") else None
            self.failed.setdefault(name, (detail, fix))
        assert (self.status == 0) == (self.runtime == "PASS"), r

    def passes(self):
        assert (self.status, self.runtime, self.can, self.failed) == (0, "PASS", ("yes", "yes", "no"), {}), self.all

    def has_no_proof(self, *names):
        assert (self.status, self.runtime, self.can) == (1, "UNKNOWN", ("unknown", "unknown", "no")), self.all
        assert set(self.failed) == {"probe_machine", *names} and "no machine was tried" in self.failed["probe_machine"][0], self.all

    def fails(self, name, can="no"):
        assert (self.status, self.runtime, self.can) == (1, "FAIL", (can, can, "no")), self.all
        assert name in self.failed, self.all
        return self.failed[name]


# What was proven

def test_doctor_before_the_first_environment(d):
    """On the first day: no environment yet. That is not a pass, and its fix leads to one."""
    d.stop()
    os.unlink(d.root + "/cache/" + ENV + ".json")
    d.start()
    doctor = Doctor(d)
    doctor.has_no_proof()
    detail, fix = doctor.failed["probe_machine"]
    assert (detail, fix) == ("no machine was tried: no environment is installed", "pyro env pull debian:12")
    runtime = json.loads(d.pyro("--json", "doctor").text)["runtime"]
    assert (runtime["ok"], runtime["verdict"]) == (False, "unknown")
    repair(d, fix)
    Doctor(d).passes()


def test_no_probe_claims_nothing(d):
    doctor = Doctor(d, "--no-probe")
    doctor.has_no_proof()
    assert doctor.failed["probe_machine"] == ("no machine was tried: it was not asked for", "pyro doctor")
    repair(d, doctor.failed["probe_machine"][1])
    Doctor(d, "--no-probe").passes()
    d.wait_clean()


def test_any_machine_is_a_proof_until_a_start_fails(d):
    works(run(d))
    Doctor(d, "--no-probe").passes()
    vm = d.call("vm.create", d.spec("refuses"))["result"]["vm_id"]
    assert "error" in d.call("vm.start", {"vm_id": vm})
    Doctor(d, "--no-probe").has_no_proof()
    report = json.loads(d.pyro("--json", "doctor").text)
    probe, = [c for c in report["runtime"]["checks"] if c["name"] == "probe_machine"]
    assert probe["ok"] and probe["detail"] == "a probe machine booted and ran `true`"
    Doctor(d, "--no-probe").passes()
    # A machine with a used disk may itself have damaged it, and does not end the proof.
    assert "error" in d.call("vm.start", {"vm_id": vm})
    Doctor(d, "--no-probe").passes()
    assert parts(run(d, "refuses"))
    Doctor(d, "--no-probe").has_no_proof()
    # A machine that only runs has booted, and executed nothing.
    good = d.call("vm.create", d.spec())["result"]["vm_id"]
    assert d.call("vm.start", {"vm_id": good})["result"]["state"] == "started"
    doctor = Doctor(d, "--no-probe")
    assert (doctor.status, doctor.runtime, doctor.can) == (1, "UNKNOWN", ("yes", "unknown", "no")), doctor.all
    for v in (vm, good):
        d.call("vm.delete", {"vm_id": v})
    d.wait_clean()


def change_vmm(d):
    shutil.copy(d.vmm, d.vmm + ".new")
    os.rename(d.vmm + ".new", d.vmm)


def change_image(d):
    repair(d, "pyro env pull --force " + ENV)


def change_kernel(d):
    shutil.copytree(kernel_dir(d), kernel_dir(d) + ".new")
    shutil.rmtree(kernel_dir(d))
    os.rename(kernel_dir(d) + ".new", kernel_dir(d))


def change_agent(d):
    os.utime(d.env["PYRO_AGENT"])


def restart(d):
    d.stop()
    d.start()


@pytest.mark.parametrize("change", [change_vmm, change_image, change_kernel, change_agent, restart])
def test_a_change_ends_the_proof(d, change):
    """Another agent: it is identified by its times."""
    shutil.copy2(d.env["PYRO_AGENT"], d.root + "/agent")
    d.stop()
    d.env["PYRO_AGENT"] = d.root + "/agent"
    d.start()
    works(run(d))
    Doctor(d, "--no-probe").passes()
    change(d)
    Doctor(d, "--no-probe").has_no_proof()
    Doctor(d).passes()
    works(run(d))


def test_every_reply_and_the_clients_own_report_keep_to_the_table(d):
    document = json.load(open(stage(d.build) + "/share/pyro/openrpc.json"))
    schema, = [m["result"]["schema"] for m in document["methods"] if m["name"] == "system.doctor"]
    for flags in ([], ["--no-probe"]):
        jsonschema.validate(json.loads(d.pyro("--json", "doctor", *flags).text), schema, jsonschema.Draft7Validator)
    d.stop()
    r = d.pyro("--json", "doctor")
    report = json.loads(r.text)
    jsonschema.validate(report, schema, jsonschema.Draft7Validator)
    assert r.status == 1 and (report["runtime"]["ok"], report["runtime"]["verdict"]) == (False, "fail")
    assert set(report["capabilities"].values()) == {"unknown"} and report["daemon"] is None


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_doctor_that_is_given_up_while_it_reads(d, how):
    """A disk may be slow: nobody waits for it, and no probe machine follows."""
    gate = d.root + "/again.gate"
    os.mkfifo(gate)
    os.chmod(gate, 0o666)
    with Raw(d.socket) as raw:
        raw.send(b'{"jsonrpc":"2.0","id":1,"method":"system.doctor"}\n')
        wait_for(lambda: os.path.getsize(d.root + "/again.checks") > 0)
        if how == "cancelled":
            raw.send(b'{"jsonrpc":"2.0","id":2,"method":"cancel","params":{"id":1}}\n')
            replies = {line["id"]: line for line in (raw.line(), raw.line())}
            assert replies[1]["error"]["data"]["code"] == "cancelled" and replies[2]["result"]["cancelled"], replies
    fd = os.open(gate, os.O_RDWR)
    os.write(fd, b"\n" * 8)
    os.unlink(gate)
    d.wait_clean(30)
    os.close(fd)
    assert "created for uid" not in d.log_text()
    Doctor(d).passes()


def test_check_that_cannot_be_made_does_not_pass(d):
    """Though the probe machine ran."""
    with open(d.root + "/again.broken", "w"):
        pass
    detail, fix = Doctor(d).fails("integrity", can="yes")
    assert "pyro-import" in detail and fix, (detail, fix)
    os.unlink(d.root + "/again.broken")
    Doctor(d).passes()


# Damage

def flip(path):
    """One bit in the middle."""
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)[0]
        f.seek(-1, 1)
        f.write(bytes([byte ^ 4]))


def cut(path):
    os.truncate(path, os.path.getsize(path) // 2)


def silently(how, path):
    """As a disk damages it: the times of the file stay."""
    st = os.stat(path)
    how(path)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


WHAT = {"image.ext4": "environment debian:12 is damaged", **dict.fromkeys(("vmlinux", "modules.ext4", "boot/one.ko"), "the kernel is damaged")}
CHECK = {"image.ext4": "environment"}


def is_refused(d, name, r):
    """The run fails at once with the damage's name, and the fix works."""
    what, cause, fix = parts(r)
    assert cause == name + " is not what was installed" and fix == "pyro env pull debian:12", r
    return what, fix


def is_known(d, name):
    """From now on every run is refused before anything is created, and the lists say why."""
    what, fix = is_refused(d, name, run(d))
    assert what == WHAT[name], what
    inspected = d.call("env.inspect", {"environment": ENV})["result"]
    listed = d.pyro("env", "list").text
    if name == "image.ext4":
        assert inspected["damage"] == "image.ext4 is not what was installed" and inspected["installed"] is False
        assert "debian:12 [damaged] " in listed
    else:
        assert inspected["damage"] is None and "debian:12 [installed] " in listed
    assert d.vmm_pids() == []
    return fix


@pytest.mark.parametrize("how", [flip, cut])
@pytest.mark.parametrize("name", ["vmlinux", "modules.ext4"])
def test_a_changed_kernel_is_noticed_before_the_boot(d, name, how):
    change_is_noticed(d, name, how)


def test_a_changed_image_is_noticed_before_the_boot(d):
    change_is_noticed(d, "image.ext4", flip)


def change_is_noticed(d, name, how):
    works(run(d))
    how(path_of(d, name))
    assert is_refused(d, name, run(d))[0] == WHAT[name]
    fix = is_known(d, name)
    doctor = Doctor(d)
    detail, same = doctor.fails(CHECK.get(name, "kernel"))
    assert name + " is not what was installed" in detail and same == fix
    # No other line of the report contradicts it.
    assert doctor.failed["integrity"] == ("the sha256 of an installed file has changed", fix), doctor.all
    assert "no environment is installed" not in doctor.all.text
    repair(d, fix)
    works(run(d))
    Doctor(d).passes()


@pytest.mark.parametrize("how", [flip, cut])
@pytest.mark.parametrize("name", ["image.ext4", "vmlinux", "modules.ext4", "boot/one.ko"])
def test_doctor_finds_damage_that_nothing_else_shows(d, name, how):
    """The machine ran, and would again: its success does not make doctor pass."""
    if (name, how) == ("image.ext4", cut):
        pytest.skip("of the wrong size it counts as not installed: tests/vm/test_broken_hosts.py")
    works(run(d))
    silently(how, path_of(d, name))
    doctor = Doctor(d)
    detail, fix = doctor.fails(CHECK.get(name, "kernel"))
    assert name + " is not what was installed" in detail, doctor.all
    assert is_known(d, name) == fix == "pyro env pull debian:12"
    repair(d, fix)
    Doctor(d).passes()
    works(run(d))


@pytest.mark.parametrize("name", ["image.ext4", "vmlinux", "modules.ext4"])
def test_failed_boot_names_the_damage(d, name):
    silently(flip, path_of(d, name))
    assert is_refused(d, name, run(d, "refuses"))[0] == WHAT[name]
    repair(d, is_known(d, name))
    works(run(d))


def test_failed_boot_without_damage_names_its_cause(d):
    what, cause, fix = parts(run(d, "refuses"))
    assert "damaged" not in what + cause
    assert d.call("env.inspect", {"environment": ENV})["result"]["damage"] is None
    works(run(d))


def test_failed_boots_read_once(d):
    """What was read completely a short while ago and has not changed is not read again, whoever's boots fail; what was written
    to is read."""
    reads = lambda: len(open(d.root + "/again.checks").read().splitlines())
    before = reads()
    for _ in range(4):
        parts(run(d, "refuses"))
        assert reads() == before + 2  # image and kernel
    Doctor(d)
    assert reads() == before + 2
    flip(path_of(d, "image.ext4"))
    assert is_refused(d, "image.ext4", run(d, "refuses"))[0] == WHAT["image.ext4"]
    assert reads() > before + 2


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("how", [flip, cut])
def test_damaged_initramfs_is_rebuilt(d, how, silent):
    works(run(d))
    path = path_of(d, "initrd")
    if not silent:
        how(path)
        works(run(d))
    else:
        silently(how, path)
        what, cause, fix = parts(run(d, "refuses"))
        assert "initramfs" in what and cause == os.path.basename(path) + " is not what was installed", what
        assert fix.startswith("run the command again")
    works(run(d))
    assert sha256(open(path, "rb").read()) == json.load(open(kernel_dir(d) + "/initrd.json"))["digest"][len("sha256:"):]
    Doctor(d).passes()


@pytest.mark.parametrize("name", ["image.ext4", "vmlinux"])
def test_damage_is_known_to_the_next_daemon(d, name):
    silently(flip, path_of(d, name))
    Doctor(d)
    restart(d)
    what, cause, fix = parts(run(d))
    assert what == WHAT[name] and cause == "it is not what was installed", what
    repair(d, fix)
    restart(d)
    works(run(d))
    Doctor(d).passes()


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("name", ["image.ext4", "vmlinux"])
def test_host_that_crashed(d, name, crashed):
    """The daemon that finds its predecessor's record from another boot of the host reads what is installed, without a request."""
    trace = d.state + "/running"
    assert open(trace).read() == open("/proc/sys/kernel/random/boot_id").read()
    d.stop()
    assert not os.path.exists(trace)
    silently(flip, path_of(d, name))
    with open(trace, "w") as f:
        f.write("01234567-89ab-cdef-0123-456789abcdef\n" if crashed else open("/proc/sys/kernel/random/boot_id").read())
    d.start()
    mark = os.path.dirname(path_of(d, name)) + "/damaged.json"
    if crashed:
        wait_for(lambda: os.path.exists(mark))
        is_known(d, name)
    else:
        works(run(d))
        assert not os.path.exists(mark)


def test_a_repair_by_hand_is_accepted(d):
    path = path_of(d, "image.ext4")
    silently(flip, path)
    Doctor(d).fails("environment")
    silently(flip, path)
    Doctor(d).passes()
    works(run(d))


def test_force_replaces_an_unread_kernel(d):
    """It was never read: a user who forces a pull has a reason, and gets an intact kernel."""
    silently(flip, path_of(d, "vmlinux"))
    repair(d, "pyro env pull --force debian:12")
    assert sha256(open(path_of(d, "vmlinux"), "rb").read()).startswith(os.path.basename(kernel_dir(d)))
    Doctor(d).passes()


def test_files_copied_without_their_times(d):
    """Files that a restored backup made newer than their meta.json are read once, and are accepted."""
    d.stop()
    for name in ("image.ext4", "vmlinux", "modules.ext4", "initrd"):
        os.utime(path_of(d, name))
    d.start()
    works(run(d))
    for name in ("image.ext4", "vmlinux", "modules.ext4"):
        meta = os.path.dirname(path_of(d, name)) + "/meta.json"
        assert os.stat(path_of(d, name)).st_mtime_ns <= os.stat(meta).st_mtime_ns


# Machines that stay

def machine(d):
    vm = d.call("vm.create", d.spec(ttl_seconds=0))["result"]["vm_id"]
    assert d.call("vm.start", {"vm_id": vm})["result"]["state"] == "started"
    assert d.call("vm.stop", {"vm_id": vm})["result"]["state"] == "stopped"
    return vm


def test_machine_of_a_damaged_kernel(d):
    """The pull brings the same kernel, and the machine starts again."""
    vm = machine(d)
    flip(path_of(d, "vmlinux"))
    what, cause, fix = parts(d.pyro("vm", "start", vm))
    assert what == "the kernel of machine %s is damaged" % vm and fix == "pyro env pull debian:12"
    assert "vmlinux is not what was installed" in d.call("vm.status", {"vm_id": vm})["result"]["last_error"]
    repair(d, fix)
    assert d.pyro("vm", "start", vm).status == 0
    works(d.pyro("vm", "exec", vm, "--", "echo works"))
    d.wait_clean()


@pytest.mark.parametrize("pulled", [False, True])
def test_machine_of_a_damaged_image(d, pulled):
    """No pull brings this image again, since packages change: its machine cannot be kept, and the error says so."""
    vm = machine(d)
    reinstall(d, b"another image")
    flip(path_of(d, "image.ext4"))
    what, cause, fix = parts(d.pyro("vm", "start", vm))
    assert what == "the environment of machine %s is damaged" % vm and cause == "image.ext4 is not what was installed"
    assert fix == "pyro env pull debian:12 && pyro vm delete %s && pyro vm create debian:12" % vm
    if pulled:
        repair(d, "pyro env pull debian:12")
        what, cause, fix = parts(d.pyro("vm", "start", vm))
        assert fix == "pyro vm delete %s && pyro vm create debian:12" % vm
    made = repair(d, fix).stdout
    vms = d.vms()
    assert len(vms) == 1 and vms[0]["vm_id"] in made and vms[0]["vm_id"] != vm
    works(d.pyro("vm", "exec", vms[0]["vm_id"], "--", "echo works"))
    d.wait_clean()


# Space

@contextlib.contextmanager
def small(path, options):
    """Mounts a file system of its own, with the previous content."""
    kept = path + ".kept"
    os.rename(path, kept)
    os.makedirs(path, 0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
    try:
        subprocess.run(["cp", "-a", kept + "/.", path], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def remount(path, options):
    subprocess.run(["mount", "-o", "remount," + options, path], check=True)


def test_too_little_space_for_a_machine(d, root_only):
    d.stop()
    with small(d.state, "size=32m"):
        d.start()
        doctor = Doctor(d)
        detail, fix = doctor.fails("disk_space")
        assert d.state in detail, doctor.all
        what, _, same = parts(run(d))
        assert detail.startswith(what) and fix == same
        remount(d.state, "size=%dm" % (32 + int(re.fullmatch(r"free at least (\d+) MiB there", fix)[1])))
        Doctor(d).passes()
        works(run(d))
        d.wait_clean()
        d.stop()


def test_too_few_inodes_for_a_machine(d, root_only):
    d.stop()
    with small(d.state, "size=512m,nr_inodes=100000"):
        d.start()
        used = len([n for _, dirs, files in os.walk(d.state) for n in dirs + files]) + 1
        remount(d.state, "nr_inodes=%d" % (used + 10))
        detail, fix = Doctor(d).fails("disk_space")
        assert "inodes" in detail and d.state in detail
        what, _, same = parts(run(d))
        assert detail.startswith(what) and fix == same
        more = int(re.fullmatch(r"delete at least (\d+) files there", fix)[1])
        remount(d.state, "nr_inodes=%d" % (used + 10 + more + 16))  # a little for what is written meanwhile
        Doctor(d).passes()
        works(run(d))
        d.wait_clean()
        d.stop()


def test_too_little_space_for_the_first_pull(d, root_only):
    """Enough for a machine, but there is no environment for one."""
    d.stop()
    os.unlink(d.root + "/cache/" + ENV + ".json")
    with small(d.root + "/cache", "size=64m"):
        d.start()
        detail, fix = Doctor(d).fails("pull_space")
        assert d.root + "/cache" in detail
        _, cause, same = parts(d.pyro("env", "pull", ENV))
        assert cause in detail and fix == same
        size = int(re.match(r"Make that file system larger than (\d+) MiB", fix)[1])
        remount(d.root + "/cache", "size=%dm" % (size + 16))
        doctor = Doctor(d)
        doctor.has_no_proof()
        repair(d, doctor.failed["probe_machine"][1])
        Doctor(d).passes()
        d.stop()


def test_too_little_memory_for_a_machine(make_fake):
    d = make_fake()
    text = open(d.conf).read()
    with open(d.conf, "w") as f:
        f.write(text.replace("memory_reserve_mib = 0", "memory_reserve_mib = 100000000"))
    d.start()
    detail, fix = Doctor(d).fails("memory")
    assert "memory_reserve_mib in pyrod.conf keeps 100000000 MiB" in detail and "set memory_reserve_mib" in fix, (detail, fix)
    with open(d.conf, "w") as f:
        f.write(text)
    restart(d)
    Doctor(d).passes()
    with open(d.conf, "w") as f:
        f.write(text.replace("max_memory_mib = 1000000", "max_memory_mib = 900"))
    restart(d)
    detail, fix = Doctor(d).fails("limits", can="yes")  # a smaller one was tried
    assert "1024 of 900 (max_memory_mib" in detail and "-m 900" in fix, (detail, fix)
    works(d.pyro("run", "-m", "900", ENV, "--", "echo works"))


# Reasons for which a run would be refused now

def reload(d, *lines):
    """Sends SIGHUP with these lines at the end of pyrod.conf, and returns when they have been read."""
    if not hasattr(d, "plain"):
        d.plain = open(d.conf).read()
    with open(d.conf, "w") as f:
        f.write(d.plain + "".join(x + "\n" for x in lines))
    read = d.log_text().count("configuration reloaded")
    d.process.send_signal(signal.SIGHUP)
    wait_for(lambda: d.log_text().count("configuration reloaded") > read)


CORRECT_QEMU = "correct qemu= in pyrod.conf, or leave it out"
REFUSALS = [
    # what pyrod.conf says, the check, its detail, its fix, and whether a machine of any size is still possible
    ("kernel = /nonexistent", "kernel", "Cannot read the kernel /nonexistent", "Correct kernel= in pyrod.conf", False),
    ("kernel = /dev", "kernel", "it is not a regular file", "Correct kernel= in pyrod.conf", False),
    ("qemu = /bin/false", "qemu", "/bin/false is not QEMU: with --version it ended with status 1", CORRECT_QEMU, False),
    ("qemu = /bin/true", "qemu", "/bin/true is not QEMU", CORRECT_QEMU, False),
    ("qemu = /nonexistent", "qemu", "there is no program /nonexistent", CORRECT_QEMU, False),
    ("max_memory_mib = 512", "limits", "1024 of 512 (max_memory_mib in pyrod.conf)", "-m 512", True),
    ("total_memory_mib = 512", "limits", "1024 of 512 (total_memory_mib in pyrod.conf)", "-m 512", True),
    ("max_disk_mib = 512", "limits", "10240 of 512 (max_disk_mib in pyrod.conf)", "--disk-mib 512", True),
    ("total_disk_mib = 512", "limits", "10240 of 512 (total_disk_mib in pyrod.conf)", "--disk-mib 512", True),
    ("default_vcpu_count = 32", "limits", "vcpu_count must be from 1", "--cpus", True),
    ("max_memory_mib = 100", "limits", "1024 of 100 (max_memory_mib in pyrod.conf)", "set max_memory_mib in pyrod.conf to at least 1024", False),
    ("total_memory_mib = 100", "limits", "of 100 (total_memory_mib in pyrod.conf)", "set total_memory_mib in pyrod.conf to at least 1024", False),
    ("max_disk_mib = 10", "limits", "of 10 (max_disk_mib in pyrod.conf)", "set max_disk_mib in pyrod.conf to at least 10240", False),
    ("memory_reserve_mib = 1000000000", "memory", "memory_reserve_mib in pyrod.conf keeps 1000000000 MiB", "set memory_reserve_mib in pyrod.conf to at most", False),
    ("disk_reserve_mib = 1000000000", "disk_space", "disk_reserve_mib in pyrod.conf keeps 1000000000 MiB", "set disk_reserve_mib in pyrod.conf to at most", False),
]


def of_default_size(d):
    """As in the README."""
    return d.pyro("run", ENV, "--", "echo works")


def test_a_reason_to_refuse_a_run_is_a_failed_check(make_fake):
    """The same fault has the same verdict everywhere: the check fails, its fix is the run's fix, and if no machine can start, no
    capability is claimed, though one was proven before."""
    d = make_fake(build=BUILD_ASAN).start()
    works(of_default_size(d))
    Doctor(d).passes()
    for line, name, says, fix, smaller in REFUSALS:
        if line.startswith("default_vcpu_count") and os.cpu_count() >= 32:
            continue
        reload(d, line)
        _, _, refused = parts(of_default_size(d))
        for flags in ([], ["--no-probe"]) if name != "qemu" else ([],):
            doctor = Doctor(d, *flags)
            detail, advice = doctor.fails(name, can="yes" if smaller else "no")
            assert says in detail and fix in advice, (line, doctor.all)
            if name not in ("memory", "disk_space"):  # the free amount changes all the time
                assert advice == refused, (line, advice, refused)
            assert not any(f and f.startswith("pyro doctor") and not flags for _, f in doctor.failed.values()), (line, doctor.all)
        reload(d)
        works(of_default_size(d))
        Doctor(d).passes()


def test_limit_reached_by_ones_own_machines(make_fake):
    d = make_fake(build=BUILD_ASAN).start()
    vm = d.pyro("vm", "create", "--id-only", ENV).text.strip()
    for key, what in (("max_machines", "you would use 2 of 1"), ("total_machines", "you would use 2 of 1")):
        reload(d, key + " = 1")
        _, cause, fix = parts(of_default_size(d))
        assert what in cause and key in cause and fix.startswith("pyro vm delete VM_ID"), (cause, fix)
        assert Doctor(d).fails("limits")[1] == fix
    # One machine fewer is not enough, and deleting machines does not help one that alone exceeds the limit.
    reload(d, "total_machines = 10", "max_machines = 10")
    others = [d.pyro("vm", "create", "--id-only", ENV).text.strip() for _ in range(2)]
    reload(d, "max_machines = 2")
    assert parts(of_default_size(d))[2] == "pyro vm delete VM_ID, for each of 2 machines that pyro vm list shows"
    reload(d, "max_machines = 10", "max_disk_mib = 10000")
    _, cause, fix = parts(of_default_size(d))
    assert "this machine alone would use 10240 of 10000" in cause, cause
    assert fix == "set max_disk_mib in pyrod.conf to at least 40960 and reload pyrod", fix
    reload(d, "max_disk_mib = 40960")
    works(of_default_size(d))
    for vm in (vm, *others):
        assert d.pyro("vm", "delete", vm).status == 0
    Doctor(d).passes()


def test_program_that_is_not_a_vmm(make_fake):
    """The error names the program that was started and its exit; and the fix names the key that set it."""
    d = make_fake(build=BUILD_ASAN).start()
    reload(d, "qemu = /bin/false")
    what, cause, fix = parts(run(d))
    assert (cause, fix) == ("/bin/false exited at once with status 1 without any output", CORRECT_QEMU), what
    doctor = Doctor(d)
    assert doctor.fails("probe_machine")[1] == CORRECT_QEMU and doctor.failed["qemu"][1] == CORRECT_QEMU, doctor.all
