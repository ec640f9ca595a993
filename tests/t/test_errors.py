# SPDX-License-Identifier: MIT
"""What a user reads when something fails: the code, the value that was wrong, and a fix that works when it is typed."""
import json
import re
import subprocess


def lines_of(result):
    """What failed, why, and the fix: the three lines of a failure."""
    found = re.search(r"^pyro: (.*)\n(?:  cause: (.*)\n)?(?:  fix: (.*)\n)?", result.errors, re.M)
    assert found, result
    return found.groups()


def test_panic_is_one_clean_line(fake):
    r = fake.pyro("run", *fake.run_flags(), "debian:12", "--", "panic")
    assert r.status == 125, r
    message, cause, fix = lines_of(r)
    vm = re.fullmatch(r"machine (vm-[0-9a-f]{12}) ended under its command", message).group(1)
    assert cause == ("the guest ended itself; its console ended: pyro-agent: the port: No such device; "
                     "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100")
    fake.wait_clean()
    # The fix shows the console, from its beginning to its end, a line a line.
    shown = subprocess.run(fix, shell=True, check=True, capture_output=True, text=True).stdout
    assert vm + ": its console ended:" in shown, shown
    log = fake.log_text()
    at = log.index(vm + ": its console ended:")
    assert "pyrod: [    2.412401] Call Trace:\n" in log[at:] and "---[ end Kernel panic" in log[at:], log[at:]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]|\\x", log[at:]), log[at:]


def test_panic_in_json(fake):
    r = fake.pyro("--json", "run", *fake.run_flags(), "debian:12", "--", "panic")
    error = json.loads(r.out)["error"]
    assert (error["code"], error["retryable"]) == ("guest_died", True)
    assert "\\" not in error["cause"] and len(error["cause"]) < 300, error
