# SPDX-License-Identifier: MIT
"""What is written says what the programs do: every flag of the help texts and every key of the configuration has its entry in
the man pages, and no entry is of something that is not there; the method reference of PROTOCOL.md is the table's."""
import os
import re
import subprocess
import sys

import pytest

from conftest import BUILD_ASAN, TOP, stage

PYRO, PYROD = stage(BUILD_ASAN) + "/bin/pyro", stage(BUILD_ASAN) + "/bin/pyrod"
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-[a-zA-Z])(?![\w-])")


def output(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def page(name):
    """A man page as one reads it, unbroken: hyphens and lines' ends are none of the text."""
    text = output("mandoc", "-T", "utf8", "-O", "width=1000", TOP + "/docs/man/" + name)
    return re.sub(".\x08", "", text).replace("‐", "-").replace("−", "-").replace("–", "-")


def entries(name, macro):
    """Names that stand at the head of an entry of a list (.It Fl ..., .It Cm ...)."""
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
    """The flags a help text offers: what its option lines begin with."""
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
    keys = set(re.findall(r"^\s(?:INT_)?KEY\((\w+),", open(TOP + "/daemon/config.c").read(), re.M))
    assert len(keys) == 19
    assert entries("pyrod.conf.5", "Cm") == keys


def test_ranges_and_defaults_of_keys_are_as_written():
    text = re.sub(r"\s+", " ", page("pyrod.conf.5"))
    for key, low, high, dflt in re.findall(r"INT_KEY\((\w+), ([\w ()*]+), ([\w ()*]+), (\d+)\)", open(TOP + "/daemon/config.c").read()):
        entry = text.split(" %s " % key, 1)[1][:400]
        assert re.search(r"[Dd]efault %s\b" % dflt, entry), (key, dflt)
        if high.isdigit() and int(high) < 50000000 and "%s to %s" % (low, high) not in entry:
            assert key in ("max_vcpus",), "%s: %s to %s" % (key, low, high)


@pytest.mark.parametrize("name,section", [("pyro.1", 1), ("pyrod.8", 8), ("pyrod.conf.5", 5)])
def test_man_pages_are_installed(name, section):
    assert os.path.exists("%s/share/man/man%d/%s" % (stage(BUILD_ASAN), section, name))
