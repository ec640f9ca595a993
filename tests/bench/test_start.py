# SPDX-License-Identifier: MIT
"""The daemon's own start and size: from exec to the first answer, from a client's connect to a socket for which the daemon is
started, and its memory for each machine. The figures go to stdout and to build-test-results/bench.json."""
import json
import os
import signal
import socket
import statistics
import subprocess
import time

from conftest import N, keep, stage

ROWS = (0, 20, 100)


def exec_ms(daemon):
    """The time of the loader and the libraries on this host, now."""
    begin = time.monotonic()
    subprocess.run([stage(daemon.build) + "/bin/pyrod", "--version"], env=daemon.env, check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - begin) * 1e3


def test_daemon_start_and_size(make_daemon):
    starts, execs = [], []
    for _ in range(5 * N):
        d = make_daemon()
        execs.append(exec_ms(d))
        begin = time.monotonic()
        d.start()
        assert "result" in d.call("system.ping")
        starts.append((time.monotonic() - begin) * 1e3)
        rss = d.rss_kib()
        d.stop()
    start, bare = statistics.median(starts), statistics.median(execs)
    keep(start_to_first_answer_ms=round(start, 1), exec_only_ms=round(bare, 1))
    # The aims are 30 ms and 10 MB. On a busy host a time cannot be asserted, only the ratio of our own part to the loader's;
    # the start creates the store too, whose commits wait for the host's disk.
    assert start <= 20 * bare
    assert rss <= 10 * 1024


def activate(d, listener, client):
    """Starts the daemon for a client that has already connected; returns when it answered."""
    pid = d.exec_with(listener)
    client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"system.ping"}\n')
    try:
        assert b'"result"' in client.recv(4096), d.log_text()
    finally:
        took = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == 0, d.log_text()
    return took


def test_activation(make_daemon):
    d = make_daemon()
    times, execs = [], []
    for _ in range(1 + 10 * N):
        execs.append(exec_ms(d))
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            listener.bind(d.socket)
            listener.listen(16)
            begin = time.monotonic()
            client.connect(d.socket)
            times.append((activate(d, listener, client) - begin) * 1e3)
        os.unlink(d.socket)
    # The first creates the store, whose commits wait for the host's disk.
    first, took, bare = times[0], statistics.median(times[1:]), statistics.median(execs[1:])
    keep(activation_ms=round(took, 1), activation_best_ms=round(min(times[1:]), 1), activation_first_ms=round(first, 1),
         activation_exec_only_ms=round(bare, 1), activation_ratio=round(took / bare, 2), activation_host_load=os.getloadavg()[0])
    assert took <= 12 * bare
    # The aim of 30 ms, on a host where a bare exec (4 ms on an idle one) takes a fifth of it.
    if bare <= 6:
        assert took <= 30


def test_memory_for_rows(make_daemon, tmp_path):
    config = tmp_path / "pyrod.conf"
    config.write_text("max_machines = 200\nmax_vcpus = 1000\nmax_memory_mib = 100000\ntotal_memory_mib = 100000\nmax_disk_mib = 100000\n")
    d = make_daemon().start("--config", str(config))
    pulled = d.pyro("env", "pull", "debian:12", timeout=900)
    assert pulled.status == 0, pulled
    rss, have = {}, 0
    for rows in ROWS:
        while have < rows:
            reply = d.call("vm.create", {"environment": "debian:12", "mem_mib": 128, "disk_mib": 64}, timeout=60)
            assert "result" in reply, reply
            have += 1
        assert len(d.vms()) == rows
        rss[rows] = d.rss_kib()
    per_row = (rss[ROWS[-1]] - rss[0]) / ROWS[-1]
    keep(rss_rows_kib={str(rows): kib for rows, kib in rss.items()}, rss_per_row_kib=round(per_row, 1), rss_idle_kib=rss[0])
    for vm in d.vms():
        assert "result" in d.call("vm.delete", {"vm_id": vm["vm_id"]}, timeout=60)
    d.wait_clean()
    assert rss[0] <= 10 * 1024 and rss[ROWS[-1]] <= 12 * 1024
    assert per_row <= 16
