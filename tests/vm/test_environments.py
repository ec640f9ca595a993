# SPDX-License-Identifier: MIT
"""The catalog for real: debian:12-base pulled through the confined writer and used. debian:12-build, which takes minutes, is in
soak_environments.py."""
import json
import os

BASE = "ca-certificates procps iproute2 iputils-ping less file patch xz-utils unzip netbase tzdata vim-tiny".split()


def environments(daemon):
    return {e["name"]: e for e in daemon.call("env.list")["result"]["environments"]}


def installed_in(daemon, environment, packages):
    """Asks dpkg in a machine; the words are not quoted on the way."""
    r = daemon.pyro("run", environment, "--", "dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *packages, timeout=300)
    assert r.status == 0, r
    return dict(line.split() for line in r.text.splitlines())


def pull(daemon, environment):
    r = daemon.pyro("env", "pull", environment, timeout=1500)
    assert r.status == 0, r
    assert r.text == "Pulled: %s\n" % environment
    found = environments(daemon)[environment]
    assert found["installed"] and found["size_bytes"] == os.stat(found["path"] + "/image.ext4").st_size
    return found


def test_base_is_pulled_and_runs(daemon):
    found = pull(daemon, "debian:12-base")
    assert found["packages"] == BASE
    r = daemon.pyro("env", "inspect", "debian:12-base")
    assert "Minimal Debian 12 environment for shell and core Unix tooling." in r.text and found["digest"] in r.text
    assert set(installed_in(daemon, "debian:12-base", BASE).values()) == {"installed"}
    r = daemon.pyro("run", "debian:12-base", "--", "command -v git python3 gcc; . /etc/os-release; echo $ID $VERSION_ID $LANG $HOME", timeout=300)
    assert r.text == "debian 12 C.UTF-8 /root\n", r
    daemon.wait_clean()


def test_base_is_smaller_than_the_default(daemon):
    found = environments(daemon)
    assert found["debian:12-base"]["size_bytes"] < found["debian:12"]["size_bytes"]
    assert set(json.loads(daemon.pyro("--json", "env", "list").text)["environments"][0]) >= {"name", "version", "description", "installed", "digest"}
