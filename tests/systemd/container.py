# SPDX-License-Identifier: MIT
"""A Debian 12 with systemd as its PID 1, in systemd-nspawn: units, socket activation, polkit and host shutdown for real, as
installed from the packages. (cgroup v2 limits need tests/kvm.) Its root is made once (debian.py); a run writes into an
overlay of its own."""
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import debian  # noqa: E402

BOOT_WITHIN, END_WITHIN = 120, 90


def make_root(where):
    debian.make_tree(where + "/tree", debian.SYSTEM)
    etc = where + "/tree/etc/systemd/system"
    os.symlink("/lib/systemd/system/multi-user.target", etc + "/default.target")
    for unit in ("systemd-networkd-wait-online.service", "systemd-resolved.service", "apt-daily.timer", "apt-daily-upgrade.timer",
                 "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"):
        os.symlink("/dev/null", etc + "/" + unit)


class Machine:
    def __init__(self, cache, work):
        self.work, self.name = work, "pyro-test-%d" % os.getpid()
        lower = debian.kept(cache, "systemd", " ".join(debian.SYSTEM) + "2", make_root) + "/tree"
        self.root = work + "/root"
        for name in ("upper", "overlay", "root"):
            os.makedirs(work + "/" + name)
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", "lowerdir=%s,upperdir=%s/upper,workdir=%s/overlay" %
                        (lower, work, work), self.root], check=True)
        self.nspawn = self.init = None

    def boot(self):
        """Returns when its PID 1 says that it runs."""
        log = open(self.work + "/console.log", "ab")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--boot", "--keep-unit", "--register=no", "--directory=" + self.root, "--machine=" + self.name,
             "--private-users=no", "--resolv-conf=copy-host", "--console=pipe"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        until = time.monotonic() + BOOT_WITHIN
        while time.monotonic() < until:
            self.init = self.find_init()
            if self.init and self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip() in ("running", "degraded"):
                return
            if self.nspawn.poll() is not None:
                break
            time.sleep(0.2)  # there is no event for "PID 1 can be talked to"
        raise AssertionError("did not boot: " + open(self.work + "/console.log", errors="replace").read()[-3000:])

    def find_init(self):
        try:
            with open("/proc/%d/task/%d/children" % (self.nspawn.pid, self.nspawn.pid)) as f:
                for pid in f.read().split():
                    with open("/proc/%s/comm" % pid) as comm:
                        if comm.read().strip() == "systemd":
                            return int(pid)
                    with open("/proc/%s/task/%s/children" % (pid, pid)) as g:
                        for grandchild in g.read().split():
                            return int(grandchild)
        except OSError:
            pass
        return None

    def command(self, *argv, user=None):
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        return enter + (["runuser", "-u", user, "--"] if user else []) + list(argv)

    def run(self, *argv, user=None, check=True, timeout=120, **more):
        result = subprocess.run(self.command(*argv, user=user), capture_output=True, text=True, timeout=timeout,
                                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}, **more)
        if check:
            assert result.returncode == 0, "%s: %d\n%s%s" % (argv, result.returncode, result.stdout[-3000:], result.stderr[-3000:])
        return result

    def poweroff(self):
        """Its own orderly end; how many seconds it took."""
        begun = time.monotonic()
        os.kill(self.nspawn.pid, signal.SIGTERM)  # systemd-nspawn(1): asks PID 1 to power off
        self.nspawn.wait(END_WITHIN)
        return time.monotonic() - begun

    def end(self):
        """Its PID 1 first: with that all of it goes, while it would outlive a killed systemd-nspawn."""
        if self.nspawn and self.nspawn.poll() is None:
            self.init = self.init or self.find_init()
            if self.init:
                os.kill(self.init, signal.SIGKILL)
            else:
                self.nspawn.kill()
            self.nspawn.wait(END_WITHIN)
        subprocess.run(["umount", "--lazy", self.root], check=True)
        shutil.rmtree(self.work + "/upper", ignore_errors=True)
