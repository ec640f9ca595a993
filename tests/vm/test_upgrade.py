# SPDX-License-Identifier: MIT
"""pyrod is replaced by a newer one while a guest keeps the agent with which it booted: the agents are those whose messages were
recorded (tests/frames), built from the commit that each recording names. tests/t/test_agent_protocol.py has the rest without a
guest."""
import os
import re
import signal
import subprocess
import sys

import pytest

from conftest import TOP, stage

sys.path.insert(0, TOP + "/tests/t")
import wire  # noqa: E402

ENV = "debian:12"
VERSIONS = list(range(1, wire.NEWEST))


def built(version, place):
    """The agent of that version, as it was when its messages were recorded."""
    commit = re.search(r"at commit ([0-9a-f]+)", open("%s/tests/frames/protocol-%d" % (TOP, version)).read()).group(1)
    source = subprocess.run(["git", "-C", TOP, "archive", commit, "guest", "proto"], capture_output=True)
    if source.returncode != 0:
        pytest.skip("this clone does not have commit %s" % commit)
    subprocess.run(["tar", "-x", "-C", place], input=source.stdout, check=True)
    text = open(place + "/proto/meson.build").read()
    proto = ["proto/" + name for name in re.findall(r"'([\w-]+\.c)'", text[:text.index("libapi")])
             if name != "deadline.c"]  # only of builds with crash points
    guest = ["guest/" + name for name in os.listdir(place + "/guest") if name.endswith(".c")]
    subprocess.run(["cc", "-std=gnu17", "-O2", "-static", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", '-DPYRO_VERSION="%d"' % version, "-I.", "-fno-strict-aliasing",
                    "-o", "pyro-agent", *guest, *proto], cwd=place, check=True)
    return place + "/pyro-agent"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_guest_keeps_its_agent(installed, make_daemon, tmp_path, version):
    """Its command continues, with input and output; its machine is stopped in order; the next start has the new agent."""
    old = built(version, str(tmp_path))
    d = make_daemon()
    new = d.env["PYRO_AGENT"]
    d.env["PYRO_AGENT"] = old
    d.start()
    p = d.popen("-q", "run", "-i", "-m", "256M", ENV, "--", "sh", "-c", "/proc/1/exe --version; cat; echo err >&2; exit 7", stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"pyro-agent %d (protocol %d)\n" % (version, version)
    vm = d.pyro("vm", "create", "--id-only", "-m", "256M", ENV).text.strip()
    assert d.pyro("vm", "start", vm).status == 0
    d.process.send_signal(signal.SIGKILL)
    d.process.wait()
    d.process = None
    d.env["PYRO_AGENT"] = new
    d.start()
    data = os.urandom(1 << 20)
    out, err = p.communicate(data, timeout=120)
    assert (p.returncode, out == data, err) == (7, True, b"err\n"), (err, d.log_text())
    assert d.pyro("vm", "stop", vm).status == 0
    assert d.pyro("vm", "start", vm).status == 0
    r = d.pyro("-q", "vm", "exec", vm, "--", "/proc/1/exe", "--version")
    assert r.text.endswith("(protocol %d)\n" % wire.NEWEST), r
    d.wait_clean()
