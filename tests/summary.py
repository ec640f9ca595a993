#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Adds up what the test kinds left in one folder and prints the closing line; exit status 1 on any failure or when nothing
ran.

*.xml are JUnit reports (pytest, meson), *.tsv the steps of tests/run; the second argument is meson's own log, one JSON object
per line. The report lists a program with TAP subtests only by its subtests: what it did after the last of them (a leak found
at exit, a crash, a timeout) is in the log alone, and counts as one more failure."""
import glob
import json
import os
import sys
import xml.etree.ElementTree as ET

BAD = ("FAIL", "TIMEOUT", "INTERRUPT", "ERROR", "UNEXPECTEDPASS")


class Sum:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.names = set()  # of the suites with a failed case

    def add(self, result, name, why=""):
        setattr(self, result, getattr(self, result) + 1)
        if result != "passed":
            print("%s: %s%s" % (result.upper(), name, ": " + why if why else ""))


def reason(case):
    """Why a case was skipped: pytest's message, or the explanation that meson keeps with a TAP line."""
    message = case.find("skipped").get("message")
    said = (case.findtext("system-out") or "").strip().split("\n")[-1]
    return message or said.split("# SKIP", 1)[-1].strip() or "no reason given"


def add_report(total, path):
    for case in ET.parse(path).getroot().iter("testcase"):
        name = "%s %s" % (case.get("classname"), case.get("name"))
        if case.find("failure") is not None or case.find("error") is not None:
            total.names |= {case.get("classname"), case.get("name")}
            total.add("failed", name)
        elif case.find("skipped") is not None:
            total.add("skipped", name, reason(case))
        else:
            total.add("passed", name)


def add_log(total, path):
    for line in open(path, encoding="utf-8"):
        test = json.loads(line)
        name = test["name"]
        if test["result"] in BAD and not total.names & {name, "pyro." + name}:
            total.add("failed", name, "%s, status %s" % (test["result"].lower(), test.get("returncode")))


def add_steps(total, path):
    for line in open(path, encoding="utf-8"):
        name, result = line.rstrip("\n").split("\t")[:2]
        total.add(result, name)


def main(folder, log=None):
    total = Sum()
    for path in sorted(glob.glob(folder + "/*.xml")):
        add_report(total, path)
    if log and os.path.exists(log):
        add_log(total, log)
    for path in glob.glob(folder + "/*.tsv"):
        add_steps(total, path)
    print("%d passed, %d failed, %d skipped" % (total.passed, total.failed, total.skipped))
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
