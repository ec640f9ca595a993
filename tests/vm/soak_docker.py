# SPDX-License-Identifier: MIT
"""`tests/soak whole`: Debian's own docker.io, installed in a machine as on any Debian without a network, runs containers: from
an imported tar, with a network of its own, with limits of its own. Not part of tests/run: emulated, it takes minutes."""
import glob
import os
import re
import subprocess
import tarfile

import pytest

import debian

ENV = "debian:12"

# The .debs come on its standard input. Each step's output follows a line "=== NAME"; the first failed step ends it.
SCRIPT = r"""
set -e
export DEBIAN_FRONTEND=noninteractive
exec 2>&1
mkdir /workspace/debs && cd /workspace/debs && tar -xf -
echo "=== install"; dpkg -i ./*.deb | tail -n 60
setsid dockerd >/workspace/dockerd.log 2>&1 </dev/null &
for i in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 1; done
echo "=== daemon"; docker info --format '{{.Driver}} {{.CgroupDriver}} {{.CgroupVersion}}' || tail -n 30 /workspace/dockerd.log
cd /workspace
(cd /; ls -d bin lib lib64 usr/lib64 usr/bin/dash usr/bin/sh usr/bin/cat usr/bin/head usr/bin/tail
    ldd usr/bin/cat usr/bin/dash | grep -o '/lib[^ ]*' | while read -r f; do echo "usr$f"; realpath "/usr$f" | cut -c2-; done) | sort -u >files
tar -C / --no-recursion -cf image.tar -T files
echo "=== import"; docker import --change 'ENV FROM=a-tar' image.tar small:1 | cut -c1-7; docker images --format '{{.Repository}}:{{.Tag}}'
# A network of its own: a bridge, a pair of interfaces, rules of the packet filter, all by modules that the kernel asked for.
echo "=== network"; docker run --rm --memory 64m small:1 sh -c 'echo "pid $$, from $FROM"; cat /sys/class/net/eth0/operstate /sys/fs/cgroup/memory.max'
echo "=== rules"; iptables -t nat -S DOCKER | head -n1; cat /sys/class/net/docker0/bridge/stp_state; cat /proc/sys/net/bridge/bridge-nf-call-iptables
echo "=== input"; echo in | docker run --rm -i --network none small:1 cat
echo "=== status"; docker run --rm --network none small:1 sh -c 'exit 7' || echo $?
echo "=== memory"; docker run --network none --name big --memory 16m small:1 tail /dev/zero || echo $?; docker inspect -f '{{.State.OOMKilled}}' big
# As docs/guest.md says: a container's cgroup is not the command's.
echo "=== cgroup"; docker run -d --network none --name stays small:1 tail -f /dev/null >/dev/null
cut -d/ -f1-2 "/proc/$(docker inspect -f '{{.State.Pid}}' stays)/cgroup"; cut -d/ -f1-2 /proc/self/cgroup
echo "=== end"; docker rm -f stays
"""
WANT = {
    "daemon": "overlay2 cgroupfs 2", "import": "sha256:\nsmall:1", "network": "pid 1, from a-tar\nup\n%d" % (64 << 20),
    "rules": "-N DOCKER\n0\n1", "input": "in", "status": "7", "memory": "137\ntrue", "cgroup": "0::/docker\n0::/pyro", "end": "stays",
}


def debs_for(daemon, where, names):
    """A tar of the .debs that apt would install in a machine: by the environment's own list of packages, from this host's
    sources."""
    status = daemon.pyro("run", ENV, "--", "cat", "/var/lib/dpkg/status")
    assert status.status == 0, status.errors
    os.makedirs(where + "/archives/partial")
    with open(where + "/status", "wb") as f:
        f.write(status.out)
    subprocess.run(["apt-get", "-qq", "install", "--download-only", "--yes", "--no-install-recommends", "-o", "Dir::State::status=%s/status" % where,
                    "-o", "Dir::Cache::archives=%s/archives" % where, "-o", "APT::Sandbox::User=root", *names], check=True, timeout=600)
    with tarfile.open(where + "/debs.tar", "w") as tar:
        for deb in glob.glob(where + "/archives/*.deb"):
            tar.add(deb, os.path.basename(deb))
    return open(where + "/debs.tar", "rb").read()


def test_docker_runs_containers(daemon, tmp_path):
    if debian.host_suite() != "bookworm":
        pytest.skip("this host's packages are not those of %s" % ENV)
    debs = debs_for(daemon, str(tmp_path), ["docker.io"])
    r = daemon.pyro("run", "-i", "-m", "2G", "--timeout", "30m", ENV, "--", SCRIPT, input=debs, timeout=2000)
    got = dict(re.findall(r"^=== (\w+)\n(.*?)\n(?==== |\Z)", r.text, re.M | re.S))
    print("%.0f s; %s" % (r.seconds, r.errors.splitlines()[-1:]))
    assert r.status == 0, r.text
    assert "Setting up docker.io" in got.pop("install"), r.text
    assert got == WANT, r.text
    daemon.wait_clean()
