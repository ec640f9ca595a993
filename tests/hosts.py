# SPDX-License-Identifier: MIT
"""Whole systems with systemd as PID 1, in systemd-nspawn: Machine boots any root; Fresh is a Debian as its installer leaves it,
in which this repository can be cloned and its README's commands run. Their roots are made once (debian.py)."""
import os
import shutil
import signal
import subprocess
import time

import debian

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BOOT_WITHIN, END_WITHIN = 120, 90


class Machine:
    """The system below root; options and env are systemd-nspawn's. Its console goes to work/console.log."""

    def __init__(self, root, work, options=(), env=None):
        self.root, self.work, self.name = root, work, "pyro-test-%d" % os.getpid()
        self.options, self.env = list(options), dict(os.environ, **(env or {}))
        self.nspawn = self.init = None

    def boot(self):
        """Returns when its PID 1 reports that it runs."""
        log = open(self.work + "/console.log", "ab")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--boot", "--keep-unit", "--register=no", "--directory=" + self.root, "--machine=" + self.name,
             "--private-users=no", "--resolv-conf=copy-host", "--console=pipe", *self.options], env=self.env, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log)
        log.close()
        until = time.monotonic() + BOOT_WITHIN
        while time.monotonic() < until:
            self.init = self.find_init()
            if self.init and self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip() in ("running", "degraded"):
                return self
            if self.nspawn.poll() is not None:
                break
            time.sleep(0.2)  # no event reports that PID 1 accepts requests
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
        more.setdefault("env", {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"})
        more.setdefault("capture_output", "stdout" not in more)
        result = subprocess.run(self.command(*argv, user=user), text=True, timeout=timeout, **more)
        if check:
            assert result.returncode == 0, "%s: %d\n%s%s" % (argv, result.returncode, (result.stdout or "")[-3000:], (result.stderr or "")[-3000:])
        return result

    def poweroff(self):
        """Shuts it down in order; returns the seconds that it took."""
        begun = time.monotonic()
        os.kill(self.nspawn.pid, signal.SIGTERM)  # systemd-nspawn(1): asks PID 1 to power off
        self.nspawn.wait(END_WITHIN)
        return time.monotonic() - begun

    def end(self):
        """Kills its PID 1 first, which ends all of it; the system would outlive a killed systemd-nspawn."""
        if self.nspawn and self.nspawn.poll() is None:
            self.init = self.init or self.find_init()
            if self.init:
                os.kill(self.init, signal.SIGKILL)
            else:
                self.nspawn.kill()
            self.nspawn.wait(END_WITHIN)


class Fresh(Machine):
    """A Debian of that suite that nobody has used yet, as close to a separate machine as systemd-nspawn can make it: all
    capabilities, /proc and /sys as the kernel has them, /tmp on its disk. The packages that it downloads are kept in CACHE."""

    # /proc/sys and /sys writable and nothing in /proc hidden: the kernel lets a user namespace mount its own /proc only where no part
    # of the outer one is covered, and pulling an environment needs that.
    ENV = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes", "SYSTEMD_NSPAWN_TMPFS_TMP": "0"}

    def __init__(self, cache, work, suite="bookworm"):
        tree = debian.kept(cache, "fresh-" + suite, " ".join(debian.FRESH) + "1",
                           lambda where: debian.make_tree(where + "/tree", debian.FRESH, suite)) + "/tree"
        root, packages = work + "/root", "%s/apt-%s" % (cache, suite)
        subprocess.run(["cp", "-a", "--reflink=auto", tree, root], check=True)
        os.makedirs(packages + "/partial", exist_ok=True)
        devices = [d for d in ("/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/loop-control") if os.path.exists(d)]
        super().__init__(root, work, ["--capability=all", "--bind=%s:/var/cache/apt/archives" % packages, *("--bind=" + d for d in devices)],
                         self.ENV)

    def clone(self, where, user="root", cache=None):
        """Clones what is committed here to `where`, with shared/ beside it; that user owns both. With cache, it starts with the
        environments and kernels of that cache, so that nothing is pulled."""
        place = self.root + where
        os.makedirs(os.path.dirname(place), exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", TOP, place], check=True)
        shared = os.path.dirname(TOP) + "/shared"
        if os.path.isdir(shared):
            shutil.copytree(shared + "/", os.path.dirname(place) + "/shared", dirs_exist_ok=True)
        for name in ("environments", "kernels", "floor") if cache else ():
            if os.path.isdir(cache + "/" + name):
                os.makedirs(place + "/.cache", exist_ok=True)
                subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", cache + "/" + name, place + "/.cache/" + name], check=True)
        self.run("chown", "-R", user + ":", where, os.path.dirname(where) + "/shared", check=False)
        return where

    def end(self):
        super().end()
        shutil.rmtree(self.root, ignore_errors=True)
