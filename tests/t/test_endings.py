# SPDX-License-Identifier: MIT
"""Every end of pyrod leaves a line: its own, or its successor's."""
import os
import signal
import socket

import pytest

from conftest import BUILD


@pytest.mark.parametrize("signo", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU])
def test_a_signal_is_named(make_daemon, signo):
    d = make_daemon(build=BUILD)
    d.prefix = ["prlimit", "--core=0", "--"]
    d.start()
    assert d.stop(signo) == -signo
    assert "ended by signal %02d\n" % signo in d.log_text()


def test_the_next_one_tells_of_a_kill(make_daemon):
    d = make_daemon(build=BUILD).start()
    killed = d.pid()
    d.stop(signal.SIGKILL)
    d.start()
    assert "(pid %d) did not stop in order" % killed in d.log_text()
    d.stop()
    before = d.log_text().count("did not stop in order")
    d.start()
    assert d.log_text().count("did not stop in order") == before == 1


def test_refusals_do_not_fill_the_log(make_fake):
    """23 MB in 10 s were 50,000 of the same line."""
    d = make_fake().start()
    held = [socket.socket(socket.AF_UNIX) for _ in range(32)]
    for s in held:
        s.connect(d.socket)
    for _ in range(2000):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(d.socket)
            s.recv(4096)
    assert 0 < d.log_text().count("refused") <= 60
    assert os.path.getsize(d.log) < 100_000
