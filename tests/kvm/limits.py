#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Run as root in the machine of machine.py, where cgroup v2 has its controllers: VMMs and a guest that use all they can get,
each in the unit of a machine of alice's. Writes to out/limits.json what the kernel's cgroup files contained meanwhile; the tests
outside decide what is right."""
import glob
import json
import os
import shutil
import subprocess
import time

CONF = "/etc/pyro/pyrod.conf"
HOSTILE = ["cpu", "tasks", "memory"]  # hostile.c
VMM = "/usr/local/bin/qemu-system-x86_64"  # a path that the units of machines see
GUEST = "for i in 1 2 3 4; do (while :; do :; done) & done; tail /dev/zero; sleep 30"


def read(cgroup, name):
    try:
        with open(cgroup + "/" + name) as f:
            return f.read().strip()
    except OSError:
        return None


def fields(text):
    return {line.split()[0]: int(line.split()[1]) for line in (text or "").splitlines()}


def unit(before, program, seconds=60):
    """The cgroup in which program has started."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for cgroup in set(glob.glob("/sys/fs/cgroup/pyro.slice/pyro-vm@*.service")) - before:
            for pid in (read(cgroup, "cgroup.procs") or "").split():
                words = read("/proc/" + pid, "cmdline") or ""
                if program in words:
                    return cgroup
        time.sleep(0.05)
    log = subprocess.run(["journalctl", "-b", "--no-pager", "-n", "60", "-u", "pyrod.service", "-u", "pyro-vm@*"], capture_output=True, text=True)
    raise SystemExit("no unit runs %s\n%s" % (program, log.stdout))


def watch(cgroup, seconds):
    begun, cpu = time.monotonic(), fields(read(cgroup, "cpu.stat"))["usage_usec"]
    seen = {"limits": {n: read(cgroup, n) for n in ("memory.max", "cpu.max", "pids.max")}, "pids": 0, "memory": 0}
    while time.monotonic() < begun + seconds and read(cgroup, "pids.current") is not None:
        seen["pids"] = max(seen["pids"], int(read(cgroup, "pids.current") or 0))
        seen["memory"] = max(seen["memory"], int(read(cgroup, "memory.peak") or 0))
        seen["memory_events"] = fields(read(cgroup, "memory.events")) or seen.get("memory_events")
        seen["pids_events"] = fields(read(cgroup, "pids.events")) or seen.get("pids_events")
        stat = fields(read(cgroup, "cpu.stat"))
        if stat:
            seen["cpus"] = (stat["usage_usec"] - cpu) / 1e6 / (time.monotonic() - begun)
            seen["throttled"] = stat["nr_throttled"]
        time.sleep(0.1)
    return seen


def attempt(program, command, seconds):
    before = set(glob.glob("/sys/fs/cgroup/pyro.slice/pyro-vm@*.service"))
    run = subprocess.Popen(["runuser", "-u", "alice", "--", "pyro", "run", "-m", "256", "--timeout", "60", "debian:12", "--", "sh", "-c", command],
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = watch(unit(before, program), seconds)
    run.terminate()
    run.wait()
    return seen


def main():
    found = {"guest": attempt("qemu-system", GUEST, 15)}
    os.makedirs(os.path.dirname(CONF), exist_ok=True)
    for name in HOSTILE:
        shutil.copy("hostile-" + name, VMM)
        with open(CONF, "w") as f:
            f.write("[pyrod]\nqemu=%s\n" % VMM)
        subprocess.run(["systemctl", "restart", "pyrod.service"], check=True)
        found[name] = attempt(VMM, "true", 6)
        os.unlink(VMM)
    os.unlink(CONF)
    # The unit is stopped at once, so its own counters may not have been read.
    found["memory"]["oom"] = subprocess.run(["journalctl", "-o", "cat", "--no-pager", "-u", "pyro-vm@*"], capture_output=True, text=True,
                                            check=True).stdout.count("killed by the OOM killer")
    subprocess.run(["systemctl", "restart", "pyrod.service"], check=True)
    with open("out/limits.json", "w") as f:
        json.dump(found, f)


main()
