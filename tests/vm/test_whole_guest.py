# SPDX-License-Identifier: MIT
"""What a booted Debian has and a container does not, one row each. The expected values are Debian 12's own: the files of its
packages, as the last column says, or what a Debian 12 (linux-image-cloud-amd64, systemd, udev, procps, kmod) printed when it was
booted on the same QEMU. docs/guest.md has the same list with what is missing, and why; where a row differs from Debian on
purpose, the word "ours" says so. One machine answers many rows."""
import re
import time

import pytest

ENV = "debian:12"

# name: (command, its output, Debian's source for it). A compiled output is a pattern.
DEVICES = "udev 252: 50-udev-default.rules"
STATIC = "kmod static-nodes: modules.devname, with the modes of 50-udev-default.rules"
PID1 = "systemd 252: src/core/main.c"
MOUNT = "systemd 252: src/shared/mount-setup.c"


def stat(path):
    return "stat -c '%%A %%U:%%G %%t,%%T' %s" % path


def mounted(path):
    return "findmnt -rno FSTYPE,OPTIONS %s" % path


def sysctl(key):
    return "cat /proc/sys/" + key.replace(".", "/")


def options(*words):
    """These words among a mount's options, after its type."""
    return re.compile(words[0] + r" " + "".join("(?=(?:.*,)?%s(?:,|$))" % re.escape(w) for w in words[1:]) + r"\S*")


ROWS = {
    # /dev
    "dev-null": (stat("/dev/null"), "crw-rw-rw- root:root 1,3", "the kernel"),
    "dev-tty": (stat("/dev/tty"), "crw-rw-rw- root:tty 5,0", DEVICES),
    "dev-ptmx": (stat("/dev/ptmx"), "crw-rw-rw- root:tty 5,2", DEVICES),
    "dev-tty1": (stat("/dev/tty1"), "crw--w---- root:tty 4,1", DEVICES),
    "dev-ttyS0": (stat("/dev/ttyS0"), "crw-rw---- root:dialout 4,40", DEVICES),
    "dev-vcs": (stat("/dev/vcs1"), "crw-rw---- root:tty 7,1", DEVICES),
    "dev-mem": (stat("/dev/mem"), "crw-r----- root:kmem 1,1", DEVICES),
    "dev-disk": (stat("/dev/vda"), "brw-rw---- root:disk fe,0", DEVICES),
    "dev-kmsg": (stat("/dev/kmsg"), "crw-r--r-- root:root 1,b", "the kernel"),
    "dev-rtc": ("readlink /dev/rtc; stat -c %A /dev/rtc0", "rtc0\ncrw-------", DEVICES),
    "dev-fuse": (stat("/dev/fuse"), "crw-rw-rw- root:root a,e5", STATIC),
    "dev-tun": (stat("/dev/net/tun"), "crw-rw-rw- root:root a,c8", STATIC),
    "dev-loop-control": (stat("/dev/loop-control"), "crw-rw---- root:disk a,ed", STATIC),
    "dev-vfio": (stat("/dev/vfio/vfio"), "crw-rw-rw- root:root a,c4", STATIC),
    "dev-mapper": (stat("/dev/mapper/control"), "crw------- root:root a,ec", STATIC),
    # 0660 of group kvm there; debian:12 has no such group.
    "dev-vhost-net": (stat("/dev/vhost-net"), "crw-rw---- root:root a,ee", STATIC),
    "dev-autofs-cuse-uhid": ("stat -c %t,%T /dev/autofs /dev/cuse /dev/uhid /dev/vhost-vsock", "a,eb\na,cb\na,ef\na,f1", STATIC),
    "dev-links": ("readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/core",
                  "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/proc/kcore", "systemd 252: src/shared/dev-setup.c"),
    "dev-pts": ("python3 -c 'import os, pty; a, b = pty.openpty(); s = os.fstat(b); print(os.ttyname(b)[:9], oct(s.st_mode & 0o777), s.st_gid)'",
                "/dev/pts/ 0o620 5", MOUNT),
    # mounts
    "mount-proc": (mounted("/proc"), options("proc", "nosuid", "nodev", "noexec"), MOUNT),
    "mount-sys": (mounted("/sys"), options("sysfs", "nosuid", "nodev", "noexec"), MOUNT),
    "mount-cgroup": (mounted("/sys/fs/cgroup"), options("cgroup2", "nosuid", "nodev", "noexec", "nsdelegate", "memory_recursiveprot"), MOUNT),
    "mount-shm": (mounted("/dev/shm"), options("tmpfs", "nosuid", "nodev"), MOUNT),
    "mount-run": (mounted("/run"), options("tmpfs", "nosuid", "nodev", "mode=755"), MOUNT),
    "mount-lock": (mounted("/run/lock") + "; stat -c %a /run/lock", re.compile(r"tmpfs \S*nosuid,nodev,noexec\S*\n1777"), MOUNT),
    "mount-mqueue": (mounted("/dev/mqueue") + "; stat -c %a /dev/mqueue", re.compile(r"mqueue \S*nosuid,nodev,noexec\S*\n1777"), "systemd 252: dev-mqueue.mount"),
    "mount-hugepages": (mounted("/dev/hugepages"), options("hugetlbfs"), "systemd 252: dev-hugepages.mount"),
    "mount-debug": (mounted("/sys/kernel/debug"), options("debugfs", "noexec"), "systemd 252: sys-kernel-debug.mount"),
    "mount-tracing": (mounted("/sys/kernel/tracing"), options("tracefs", "noexec"), "systemd 252: sys-kernel-tracing.mount"),
    "mount-security": (mounted("/sys/kernel/security"), options("securityfs", "noexec"), MOUNT),
    "mount-bpf": (mounted("/sys/fs/bpf"), options("bpf", "noexec", "mode=700"), MOUNT),
    "mount-shared": ("findmnt -no PROPAGATION /", "shared", MOUNT),
    "mount-tmp-is-disk": ("stat -f -c %T /tmp; stat -c %a /tmp /tmp/.X11-unix", "ext2/ext3\n1777\n1777", "systemd 252: tmp.conf, x11.conf; /tmp is no tmpfs in Debian 12"),
    "mount-workspace": ("stat -f -c %T /workspace; stat -c '%a %U' /workspace", "ext2/ext3\n1777 root", "ours"),
    # files
    "etc-mtab": ("readlink /etc/mtab; df -T /proc | tail -1 | cut -d' ' -f1", "../proc/self/mounts\nproc", "systemd 252: tmpfiles.d/debian.conf"),
    "var-run": ("readlink -f /var/run /var/lock /run/shm", "/run\n/run/lock\n/dev/shm", "systemd 252: tmpfiles.d/legacy.conf, debian.conf"),
    "run-utmp": ("stat -c '%a %U:%G' /run/utmp; who -b; echo $?", "664 root:utmp\n0", "systemd 252: tmpfiles.d/systemd.conf"),
    "run-user": ("stat -c '%a %F' /run/user /run/log", "755 directory\n755 directory", "systemd 252: tmpfiles.d/systemd.conf"),
    "machine-id": ("wc -c < /etc/machine-id; tr -d 0-9a-f < /etc/machine-id", "33\n", "machine-id(5)"),
    # kernel settings
    "pid-max": (sysctl("kernel.pid_max"), "4194304", "systemd 252: sysctl.d/50-pid-max.conf"),
    "protected-fifos": (sysctl("fs.protected_fifos"), "1", "procps 4.0.2: sysctl.d/99-protect-links.conf"),
    "protected-hardlinks": (sysctl("fs.protected_hardlinks"), "1", "procps 4.0.2: sysctl.d/99-protect-links.conf"),
    "protected-regular": (sysctl("fs.protected_regular"), "2", "procps 4.0.2: sysctl.d/99-protect-links.conf"),
    "protected-symlinks": (sysctl("fs.protected_symlinks"), "1", "procps 4.0.2: sysctl.d/99-protect-links.conf"),
    "file-max": (sysctl("fs.file-max"), "9223372036854775807", PID1),
    "nr-open": (sysctl("fs.nr_open"), "1048576", "the kernel: Debian's systemd leaves it"),
    "dgram-qlen": (sysctl("net.unix.max_dgram_qlen"), "512", PID1),
    "printk-devkmsg": (sysctl("kernel.printk_devkmsg"), "on", "systemd 252: src/core/kmod-setup.c, as booted"),
    "inotify-watches": (sysctl("fs.inotify.max_user_watches"), "524288", "ours; 8192 in Debian"),
    "inotify-instances": (sysctl("fs.inotify.max_user_instances"), "1024", "ours; 128 in Debian"),
    "userns": (sysctl("kernel.unprivileged_userns_clone") + "; unshare -Ur id -u", "1\n0", "as booted"),
    "kernel-defaults": ("cat /proc/sys/vm/swappiness /proc/sys/vm/panic_on_oom /proc/sys/vm/overcommit_memory /proc/sys/kernel/core_pattern "
                        "/proc/sys/kernel/dmesg_restrict /proc/sys/kernel/yama/ptrace_scope /proc/sys/net/ipv4/conf/all/rp_filter "
                        "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/core/default_qdisc",
                        "60\n0\n0\ncore\n1\n0\n0\n1024\nfq_codel", "as booted"),
    "ping-group": (sysctl("net.ipv4.ping_group_range"), "1\t0", "as booted: Debian 12 ships no 50-default.conf"),
    # limits
    "limit-files": ("ulimit -Sn; ulimit -Hn", "1024\n1048576", "as booted, of a login"),
    "limit-core": ("ulimit -Sc; ulimit -Hc", "0\nunlimited", "as booted"),
    "limit-memlock": ("m=$(awk '/MemTotal/ {print $2}' /proc/meminfo); for l in $(ulimit -Sl) $(ulimit -Hl); do echo $((l - m / 8)); done", "0\n0",
                      "systemd 252: src/core/main.c: an eighth of memory, 64 MiB at least"),
    "limit-stack": ("ulimit -Ss; ulimit -Hs", "8192\nunlimited", "as booted"),
    "limit-queues": ("ulimit -q; ulimit -e; ulimit -r", "819200\n0\n0", "as booted"),
    "umask": ("umask", "0022", "login.defs"),
    # users, name, locale, time, randomness
    "users": ("id -u; id -un nobody; id -u nobody; getent passwd root | cut -d: -f7; getent group tty disk utmp | cut -d: -f3",
              "0\nnobody\n65534\n/bin/bash\n5\n6\n43", "base-passwd"),
    "hostname": ("test \"$(hostname)\" = \"$(cat /etc/hostname)\" && hostname | cut -c1-3; getent hosts $(hostname) | cut -d' ' -f1; python3 -c 'import socket; print(socket.gethostbyname(\"localhost\"))'",
                 "vm-\n127.0.1.1\n127.0.0.1", "hostname(1), /etc/hosts of the installer"),
    "locale": ("echo $LANG; python3 -c 'import locale; print(locale.setlocale(locale.LC_ALL, \"\"), locale.nl_langinfo(locale.CODESET), \"\\u00e4\".isalpha())'",
               "C.UTF-8\nC.UTF-8 UTF-8 True", "as booted"),
    "time-zone": ("date +%Z; readlink /etc/localtime", "UTC\n/usr/share/zoneinfo/Etc/UTC", "tzdata"),
    "randomness": ("cat /proc/sys/kernel/random/entropy_avail; python3 -c 'import os; print(len(os.getrandom(64, os.GRND_NONBLOCK)))'", "256\n64", "as booted"),
    "loopback": ("ip -br addr show lo", re.compile(r"lo\s+UNKNOWN\s+127\.0\.0\.1/8 ::1/128\s*"), "as booted"),
    # cgroups
    "cgroup-of-command": ("sed 's/ex-[0-9a-f]*$//' /proc/self/cgroup", "0::/pyro/", "ours: a unit's there"),
    "cgroup-controllers": ("cat /sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc", "as booted"),
    "cgroup-of-ones-own": ("mkdir /sys/fs/cgroup/mine && sh -c 'echo $$ > /sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup'", "0::/mine", "cgroups(7)"),
    # inotify, shm, mq
    "posix-shm": ("python3 -c 'from multiprocessing import shared_memory as s; m = s.SharedMemory(create=True, size=1 << 20); print(len(m.buf)); m.close(); m.unlink()'",
                  "1048576", "shm_overview(7)"),
    # modules on demand: kernel.modprobe
    "module-veth": ("ip link add v0 type veth peer name v1 && ip -br link show v0 | cut -d@ -f1", "v0", "kmod"),
    "module-bridge": ("ip link add br0 type bridge && ip link set v0 master br0 && ip -br link show br0 | cut -d' ' -f1; cat /proc/sys/net/bridge/bridge-nf-call-iptables",
                      "br0\n1", "ours: br_netfilter comes with bridge"),
    "module-dummy": ("ip link add d0 type dummy && ls /sys/class/net | grep -c dummy", "0", "systemd 252: modprobe.d/systemd.conf: numdummies=0"),
    "module-wireguard": ("ip link add w0 type wireguard && ip -br link show w0 | cut -d' ' -f1", "w0", "kmod"),
    "module-vlan-vxlan": ("ip link add link v0 name v0.5 type vlan id 5 && ip link add x0 type vxlan id 7 dstport 4789 dev v1 && ls -d /sys/class/net/v0.5 /sys/class/net/x0 | wc -l", "2", "kmod"),
    "module-tun": ("ip tuntap add t0 mode tap && ip -br link show t0 | cut -d' ' -f1", "t0", "kmod"),
    "module-namespace": ("unshare -Urn ip -br link add v0 type ipvlan link lo 2>/dev/null; unshare -Urn sh -c 'ip link add m0 type macvlan link lo 2>&1; ip link add g0 type ifb && ip -br link show g0' | tail -1 | cut -d' ' -f1",
                         "g0", "request_module in a user namespace"),
    "module-loop": ("truncate -s 16M /workspace/i && mkfs.ext4 -q /workspace/i && mkdir -p /mnt/i && mount -o loop /workspace/i /mnt/i && findmnt -no FSTYPE /mnt/i", "ext4", "kmod"),
    # udev learns of the device a moment later, and so does this row.
    "module-loop-node": ("for i in $(seq 200); do [ $(stat -c %U:%G:%a /dev/loop0) = root:disk:660 ] && break; sleep 0.05; done; stat -c %U:%G:%a /dev/loop0", "root:disk:660", DEVICES),
    "module-squashfs": ("mount -t squashfs /dev/null /mnt 2>/dev/null; grep -c squashfs /proc/filesystems", "1", "kmod: fs-squashfs"),
    "module-none": ("mount -t xyzfs none /mnt 2>&1 | grep -c 'unknown filesystem type'; ip link add n0 type nosuchtype 2>&1 | grep -c Unknown", "1\n1", "kmod"),
    "module-by-name": ("ip link show sctp >/dev/null 2>&1; grep -c '^sctp ' /proc/modules", "1", "request_module of a bare name"),
    "overlay-in-tmp": ("cd /tmp && mkdir l u w m && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m && touch m/x && ls u", "x", "overlayfs on a real file system"),
    "tmpfile": ("python3 -c 'import os; f = os.open(\"/tmp\", os.O_TMPFILE | os.O_RDWR); print(os.write(f, b\"x\"))'",
                           "1", "open(2)"),
    "modules-seen": ("ls /lib/modules/$(uname -r)/modules.dep | wc -l", "1", "kmod"),
    # git
    "git-other-owner": ("mkdir repo && cd repo && git init -q && chown -R 1234 . && git status --short | wc -l", "0", "ours: all of a machine is its owner's"),
    "git-own-config": ("mkdir -p /tmp/h && printf '[safe]\\n\\tdirectory =\\n' > /tmp/h/.gitconfig && HOME=/tmp/h git -C repo status 2>&1 | grep -c 'dubious ownership'",
                       "1", "ours: a user's own word is the last"),
}

NOBODY = {
    "nobody-writes": ("cd /workspace && touch a && mkdir d && stat -c %U a d", "nobody\nnobody"),
    "nobody-not-others": ("rm -f /workspace/roots 2>&1 | grep -c 'Operation not permitted'", "1"),
    "nobody-git": ("cd /workspace && git init -q g && git -C g status --short | wc -l; git -C /workspace/rootrepo status --short", "0"),
    "nobody-tmp": ("touch /tmp/x /var/tmp/x /dev/shm/x && stat -c %U /tmp/x /dev/shm/x", "nobody\nnobody"),
    "nobody-devices": ("for d in fuse net/tun null zero tty ptmx; do [ -r /dev/$d ] && [ -w /dev/$d ] && echo $d; done", "fuse\nnet/tun\nnull\nzero\ntty\nptmx"),
    "nobody-veth": ("unshare -Urn sh -c 'ip link add v0 type veth peer name v1 && ip -br link show v0' | cut -d@ -f1", "v0"),
    "nobody-loads-none": ("ip link show sctp >/dev/null 2>&1; grep -c '^sctp ' /proc/modules", "0"),
    "nobody-limits": ("ulimit -Sn; ulimit -Hn; umask", "1024\n1048576\n0022"),
}


def ask(daemon, rows, flags=(), before="", timeout=400):
    """Runs every row's command in one machine: {name: its output}."""
    script = before + "".join("printf '\\036%%s\\036' %s; (%s) 2>&1; " % (name, row[0]) for name, row in rows.items())
    r = daemon.pyro("run", "--timeout-seconds", str(timeout), *flags, ENV, "--", "bash -c %s" % quoted(script), timeout=timeout + 60)
    assert r.status == 0, r
    parts = r.text.split("\036")[1:]
    return dict(zip(parts[::2], (text.rstrip("\n") for text in parts[1::2])))


def quoted(script):
    return "'" + script.replace("'", "'\\''") + "'"


@pytest.fixture(scope="module")
def whole(daemon):
    return ask(daemon, ROWS)


@pytest.fixture(scope="module")
def nobody(daemon):
    """As root first, then the rows as nobody: setpriv does the same as -u, and the first row of the run tests -u itself."""
    return ask(daemon, {name: ("setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/nonexistent sh -c " + quoted(row[0]), row[1]) for name, row in NOBODY.items()},
               before="touch /workspace/roots; git init -q /workspace/rootrepo; ")


def check(got, want):
    if isinstance(want, str):
        assert got == want.rstrip("\n")
    else:
        assert want.fullmatch(got), got


@pytest.mark.parametrize("name", ROWS)
def test_row(whole, name):
    check(whole[name], ROWS[name][1])


@pytest.mark.parametrize("name", NOBODY)
def test_row_as_nobody(nobody, name):
    check(nobody[name], NOBODY[name][1])


def test_there_are_enough_rows():
    assert len(ROWS) + len(NOBODY) >= 40


def test_user_nobody_can_write_where_it_starts(daemon):
    r = daemon.pyro("run", "-u", "nobody", ENV, "--", "touch x && mkdir d && stat -c '%U %n' x d && pwd")
    assert (r.status, r.text) == (0, "nobody x\nnobody d\n/workspace\n"), r


def test_time_is_that_of_the_host(daemon):
    r = daemon.pyro("run", ENV, "--", "date +%s; cat /proc/uptime")
    now, uptime = float(r.text.split()[0]), float(r.text.split()[1])
    assert abs(now - time.time()) < 30 and uptime < 300


FUSE = r"""
import ctypes, os, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
os.makedirs("/mnt/f", exist_ok=True)
data = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
assert libc.mount(b"x", b"/mnt/f", b"fuse", 0, data) == 0, ctypes.get_errno()
def serve():
    while True:
        q = os.read(fd, 1 << 17)
        size, op, unique, node = struct.unpack_from("<IIQQ", q)
        if op == 26: out = struct.pack("<IIII", 7, 31, 0, 0) + struct.pack("<HHIIHHI", 1, 1, 4096, 1, 1, 0, 0) + bytes(28)
        elif op == 3: out = struct.pack("<QII", 1, 0, 0) + struct.pack("<QQQQQQIIIIIIIIII", 1, 42, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
        else: out = None
        os.write(fd, struct.pack("<IiQ", 16 + len(out or b""), 0 if out else -38, unique) + (out or b""))
threading.Thread(target=serve, daemon=True).start()
print(os.stat("/mnt/f").st_size, flush=True)
print(os.path.ismount("/sys/fs/fuse/connections"), len(os.listdir("/sys/fs/fuse/connections")), flush=True)
os._exit(0)
"""

NFT = r"""
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.bind((0, 0))
s.settimeout(60)
def attr(kind, value):
    return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
def message(kind, flags, body, family=2, resource=0):
    body = struct.pack(">BBH", family, 0, resource) + body
    return struct.pack("<IHHII", 16 + len(body), kind, flags, 1, 0) + body
NEW, CREATE = 1 | 4, 0x400
table = message(10 << 8, NEW | CREATE, attr(1, b"t\0"))
hook = attr(1, struct.pack(">I", 4)) + attr(2, struct.pack(">I", 100))
chain = message((10 << 8) | 3, NEW | CREATE, attr(1, b"t\0") + attr(3, b"c\0") + attr(4 | 0x8000, hook) + attr(7, b"nat\0"))
s.send(message(16, 1, b"", 0, 10) + table + chain + message(17, 1, b"", 0, 10))
for _ in range(2):
    reply = s.recv(65536)
    print(struct.unpack_from("<i", reply, 16)[0])
"""


def python(daemon, program):
    return daemon.pyro("run", "-i", "--timeout-seconds", "120", ENV, "--", "python3", "-", input=program.encode(), timeout=200)


def test_own_fuse_file_system(daemon):
    r = python(daemon, FUSE)
    assert (r.status, r.text) == (0, "42\nTrue 1\n"), r


def test_own_nft_table(daemon):
    """A table and a chain of type nat, in netlink's own words: debian:12 has no nft."""
    r = python(daemon, NFT)
    assert (r.status, r.text) == (0, "0\n0\n"), r


# An environment's own boot settings, as if a user's image had them: placed before the machine's first start.

SMALL = ["128", "256"]
# Fills each file system in memory, then asks for what a command needs. The numbers: what is left.
FILL = ("for d in /dev/shm /run /run/lock /dev; do head -c 4G /dev/zero > $d/fill 2>/dev/null; done; "
        "for i in $(seq 20000); do : > /dev/shm/f$i || break; done 2>/dev/null; "
        "python3 -c 'print(sum(range(1000)))'; git --version | cut -d' ' -f1; df -k --output=avail /dev/shm | tail -1; "
        "awk '/MemAvailable/ {print ($2 > 15000)}' /proc/meminfo")


@pytest.mark.parametrize("mib", SMALL)
def test_full_file_systems_in_memory_leave_the_machine_usable(daemon, mib):
    r = daemon.pyro("run", "-m", mib + "M", "--timeout-seconds", "300", ENV, "--", FILL, timeout=400)
    assert (r.status, r.text.split()) == (0, ["499500", "git", "0", "1"]), r


@pytest.mark.parametrize("mib", SMALL)
def test_a_command_that_takes_all_memory_ends_and_the_machine_continues(daemon, mib):
    r = daemon.pyro("run", "-m", mib + "M", "--timeout-seconds", "300", ENV, "--",
                    "head -c 4G /dev/zero > /dev/shm/fill 2>/dev/null; bash -c 'tail /dev/zero' >/dev/null 2>&1; echo $?; echo on", timeout=400)
    assert (r.status, r.text.split()) == (0, ["137", "on"]), r


def test_700_mb_into_tmp(daemon):
    r = daemon.pyro("run", "--timeout-seconds", "300", ENV, "--",
                    "head -c 700M /dev/zero > /tmp/big && stat -c %s /tmp/big; free -m | awk '/Mem/ {print ($7 > 500)}'", timeout=400)
    assert (r.status, r.text.split()) == (0, ["734003200", "1"]), r


def test_sizes_in_memory_are_a_share_of_free_memory(daemon):
    """ours: half of the memory that is free at the start for all of them; in Debian half of all memory for /dev/shm alone."""
    r = daemon.pyro("run", ENV, "--", "awk '/MemTotal/ {print $2}' /proc/meminfo; df -k --output=size /dev/shm /run /run/lock /dev | tail -4")
    total, shm, run, lock, dev = map(int, r.text.split())
    assert 0.3 * total < shm < 0.4 * total and shm + run + lock + dev < total / 2, r
