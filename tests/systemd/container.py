# SPDX-License-Identifier: MIT
"""This host's Debian with systemd as its PID 1, in systemd-nspawn (hosts.py): units, socket activation, polkit and host shutdown for
real, as installed from the packages. (cgroup v2 limits need tests/kvm.) A run writes into an overlay of its own."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import debian  # noqa: E402
import hosts  # noqa: E402


# Its own filter denies them, and a host has them.
LANDLOCK = "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self"
# Without it systemd 257 gives its units no network namespace, and reports nothing (its exec-invoke.c).
NETWORK = "--capability=CAP_NET_ADMIN"


def tree(cache):
    """The Debian over which each run has an overlay."""
    return debian.kept(cache, "systemd", " ".join(debian.SYSTEM) + "2", lambda where: debian.make_tree(where + "/tree", debian.SYSTEM)) + "/tree"


class Machine(hosts.Machine):
    def __init__(self, cache, work):
        lower = tree(cache)
        for name in ("upper", "overlay", "root"):
            os.makedirs(work + "/" + name)
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", "lowerdir=%s,upperdir=%s/upper,workdir=%s/overlay" %
                        (lower, work, work), work + "/root"], check=True)
        super().__init__(work + "/root", work, [LANDLOCK, NETWORK])

    def end(self):
        super().end()
        subprocess.run(["umount", "--lazy", self.root], check=True)
        shutil.rmtree(self.work + "/upper", ignore_errors=True)
