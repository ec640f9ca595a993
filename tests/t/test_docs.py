# SPDX-License-Identifier: MIT
"""The documents say what the programs do: every flag of the help texts and every key of the configuration has its entry in the
man pages, and every entry exists in the programs; the method reference of PROTOCOL.md is the table's."""
import json
import os
import re
import subprocess

import pytest

from conftest import BUILD_ASAN, CACHE, TOP, Daemon, Raw, assert_no_faults, stage, table

PYRO, PYROD = stage(BUILD_ASAN) + "/bin/pyro", stage(BUILD_ASAN) + "/bin/pyrod"
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-[a-zA-Z])(?![\w-])")


def output(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def page(name):
    """A man page as it is displayed, on one line: hyphens and line breaks are not part of the text."""
    text = output("mandoc", "-T", "utf8", "-O", "width=1000", TOP + "/docs/man/" + name)
    return re.sub(".\x08", "", text).replace("‐", "-").replace("−", "-").replace("–", "-")


def entries(name, macro):
    """Names at the head of an entry of a list (.It Fl ..., .It Cm ...)."""
    found = set()
    for line in open(TOP + "/docs/man/" + name):
        if line.startswith(".It " + macro + " "):
            found.update(w for w in re.split(r"[ ,]+", line[5 + len(macro):].strip()) if re.fullmatch(r"-?[a-z][a-z0-9_-]*", w) and w not in ("Fl", "Cm"))
    return found


def verbs():
    """Every command of `pyro --help`, as a list of words."""
    block = output(PYRO, "--help").split("\n\n")[2]
    found = [line[2:26].split() for line in block.splitlines()]
    assert ["run"] in found and ["vm", "create"] in found and len(found) >= 15
    return found


def flags_of(text):
    """The flags of a help text: the start of its option lines."""
    found = set()
    for line in text.splitlines():
        if re.match(r"  -", line):
            found.update(FLAG.findall(re.split(r"\s{2,}", line[2:])[0]))
    return found


def test_every_flag_of_pyro_is_in_its_man_page():
    text = page("pyro.1")
    flags = flags_of(output(PYRO, "--help"))
    for verb in verbs():
        name = " ".join(verb)
        assert re.search(r"^ +%s\b" % name, text, re.M), "%s has no entry" % name
        flags |= flags_of(output(PYRO, *verb, "--help"))
    assert {"--socket", "--json", "-q", "--quiet", "-m", "--memory", "--no-probe", "--dry-run", "-t"} <= flags
    written = set(FLAG.findall(text))
    assert flags - written == set(), "not in pyro(1)"
    assert {f for f in written if len(f) > 2} - flags == set(), "pyro has no such flag"


def test_every_flag_of_pyrod_is_in_its_man_page():
    flags = flags_of(output(PYROD, "--help"))
    assert {"--system", "--user", "--socket", "--config", "--detach", "--check-config", "--log-level", "--version", "--help"} == flags
    written = set(FLAG.findall(page("pyrod.8")))
    assert flags - written == set(), "not in pyrod(8)"
    assert {f for f in written if len(f) > 2} - flags == set(), "pyrod has no such flag"


def test_every_key_is_in_its_man_page():
    assert entries("pyrod.conf.5", "Cm") == {row[0] for row in table("keys")}


def test_ranges_and_defaults_of_keys_are_as_written():
    text = re.sub(r"\s+", " ", page("pyrod.conf.5"))
    for key, is_int, low, high, dflt in table("keys"):
        if is_int == "0":
            continue
        entry = text.split(" %s " % key, 1)[1][:400]
        assert re.search(r"[Dd]efault %s\b" % dflt, entry), (key, dflt)
        if int(high) < 50000000 and "%s to %s" % (low, high) not in entry:
            assert key in ("max_vcpus",), "%s: %s to %s" % (key, low, high)


@pytest.mark.parametrize("name,section", [("pyro.1", 1), ("pyrod.8", 8), ("pyrod.conf.5", 5)])
def test_man_pages_are_installed(name, section):
    assert os.path.exists("%s/share/man/man%d/%s" % (stage(BUILD_ASAN), section, name))


# PROTOCOL.md

def protocol():
    return open(TOP + "/docs/PROTOCOL.md").read()


def block(kind):
    return re.search(r"```%s\n(.*?)```" % kind, protocol(), re.S).group(1)


@pytest.fixture(scope="module")
def served(work, installed):
    d = Daemon(work + "/docs", build=BUILD_ASAN, kernels=CACHE + "/kernels").start()
    yield d
    try:
        d.wait_clean(30)
    finally:
        d.stop()
    assert_no_faults(d.log_text())


def test_reference_is_the_tables():
    made = stage(BUILD_ASAN) + "/share/pyro/openrpc.json"
    r = subprocess.run([TOP + "/docs/reference", made, "--check", TOP + "/docs/PROTOCOL.md"], capture_output=True, text=True)
    assert r.returncode == 0, "run docs/reference BUILD/proto/openrpc.json --write docs/PROTOCOL.md\n" + r.stdout + r.stderr


def test_reference_that_differs_is_found(tmp_path):
    made = stage(BUILD_ASAN) + "/share/pyro/openrpc.json"
    for old, new in (("| `vm_id` |", "| `vm` |"), ("### exec.attach", "### exec.attack"), ("| `no_space` |", "| `no_room` |")):
        (tmp_path / "p.md").write_text(protocol().replace(old, new, 1))
        r = subprocess.run([TOP + "/docs/reference", made, "--check", str(tmp_path / "p.md")], capture_output=True, text=True)
        assert r.returncode == 1 and new in r.stdout, r.stdout


def shape(value):
    """What is the same in each reply: members and kinds, but not ids, times and numbers."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"\d+", "N", re.sub(r"\b(vm|ex)-[0-9a-f]{3,12}", r"\1-ID", value))
    return value if value is None or isinstance(value, bool) else "number"


def same_shape(got, written):
    got, written = shape(got), shape(written)
    for path in (("socket",), ("stdout",), ("accelerator",), ("mode",)):
        for o in (got, written):
            o.get("result", {}).pop(path[0], None)
    return got == written


def test_opening_session_is_as_documented(served):
    """When it is typed again, each line gets an answer of the documented shape, after progress of the documented phases."""
    lines = [json.loads(line) for line in block("console").splitlines() if line.startswith("{")]
    typed = [line for line in lines if "method" in line and "id" in line]
    assert [line["method"] for line in typed] == ["system.ping", "vm.run", "vm.create", "vm.exec", "vm.status", "vm.run"]
    made = None
    with Raw(served.socket, 60) as raw:
        for line in typed:
            if "vm_id" in line.get("params", {}):
                line["params"]["vm_id"] = made
            raw.send(json.dumps(line).encode() + b"\n")
            phases = []
            while "id" not in (reply := raw.line()):
                phases.append(reply["params"]["phase"])
            written, = [other for other in lines if other.get("id") == line["id"] and other not in typed]
            assert same_shape(reply, written), (reply, written)
            reported = [other["params"]["phase"] for other in lines if other.get("method") == "progress" and other["params"]["call"] == line["id"]]
            assert [phase for phase in phases if phase not in ("kernel", "install", "write")] == reported
            if line["method"] == "vm.create":
                made = reply["result"]["vm_id"]


@pytest.mark.parametrize("times", [1, 100000])
def test_documented_client_works(served, tmp_path, times):
    program = block("python")
    assert 'b"hello from outside\\n"' in program
    (tmp_path / "client.py").write_text(program.replace('b"hello from outside\\n"', 'b"hello from outside\\n" * %d' % times))
    r = subprocess.run(["/usr/bin/python3", str(tmp_path / "client.py")], env=dict(os.environ, PYRO_SOCKET=served.socket),
                       capture_output=True, timeout=120)
    assert r.stdout == b"HELLO FROM OUTSIDE\n" * times, (r.stdout[-200:], r.stderr)
    assert (r.stderr, r.returncode) == (b"done\n", 3)


def constants(names, tmp_path):
    """The values that a compiler computes from proto/limits.h and proto/deadline.h, as in a release."""
    values = [("deadline_usec(%s)" if name.startswith("DEADLINE_") else "(uint64_t)(%s)") % name for name in names]
    source = tmp_path / "limits.c"
    source.write_text('#include "proto/deadline.h"\n#include "proto/limits.h"\n#include <inttypes.h>\nint main(void)\n{\n%s}\n' % "".join(
        '\tprintf("%%" PRIu64 "\\n", %s);\n' % value for value in values))
    program = str(tmp_path / "limits")
    subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-I", TOP, "-o", program, str(source)], check=True)
    return dict(zip(names, map(int, subprocess.run([program], check=True, capture_output=True, text=True).stdout.split())))


def test_limits_are_as_written(tmp_path):
    rows = re.findall(r"^\|[^|]+\| (\d+)(?: (MiB|KiB|s))?[^|]*\| `(\w+)` \|$", protocol(), re.M)
    known = constants([name for _, _, name in rows], tmp_path)
    units = {"": 1, "KiB": 1024, "MiB": 1 << 20, "s": 1000000}
    assert len(rows) == 19
    for number, unit, name in rows:
        assert known[name] == int(number) * units[unit], name


def test_links_have_targets():
    for name in ("README.md", *("docs/" + f for f in os.listdir(TOP + "/docs") if f.endswith(".md"))):
        text = open(TOP + "/" + name).read()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                heads = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
                assert target[1:] in heads, (name, target)
            elif not target.startswith("http"):
                assert os.path.exists(os.path.join(TOP, os.path.dirname(name), target.split("#")[0])), (name, target)


def test_examples_build_where_there_is_a_compiler():
    """debian:12 has no compiler."""
    texts = [TOP + "/README.md"] + [TOP + "/docs/man/" + name for name in os.listdir(TOP + "/docs/man")]
    examples = [line for path in texts for line in open(path) if re.search(r"pyro run .*debian:12", line)]
    assert len(examples) >= 6
    for line in examples:
        if re.search(r"\b(make|cc|gcc|cmake|gdb)\b", line.split("#")[0]):
            assert "debian:12-build" in line, line
