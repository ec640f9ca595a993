# SPDX-License-Identifier: MIT
"""The daemon's socket under bad conditions: another file at the path, a path too long for the kernel, no descriptors left. The
sanitized daemon."""
import os
import socket
import stat

import pytest

from conftest import BUILD_ASAN, Raw


def refused_start(d):
    with pytest.raises(RuntimeError):
        d.start()
    assert d.stop() != 0
    return d.log_text()


@pytest.mark.parametrize("make,kind", [(lambda p: open(p, "w").write("mine"), stat.S_IFREG), (os.mkdir, stat.S_IFDIR),
                                       (lambda p: os.symlink("/etc/passwd", p), stat.S_IFLNK)], ids=["file", "folder", "link"])
def test_a_file_that_is_not_a_socket_stays(make_daemon, make, kind):
    """Only a dead socket is removed from the path; a link is not followed to its target."""
    d = make_daemon(build=BUILD_ASAN)
    make(d.socket)
    assert "already exists" in refused_start(d)
    assert stat.S_IFMT(os.lstat(d.socket).st_mode) == kind


def test_a_path_too_long_for_the_kernel(make_daemon):
    d = make_daemon(build=BUILD_ASAN)
    d.socket = d.runtime + "/" + "s" * 120
    assert "is longer than 107 bytes" in refused_start(d)


@pytest.mark.parametrize("below", ["", "/below"])
@pytest.mark.parametrize("variable", ["PYRO_STATE_DIR", "PYRO_RUNTIME_DIR"])
def test_a_link_of_another_user_is_not_followed(make_daemon, root_only, variable, below):
    """Its target may belong to the daemon's user, and is not what was meant."""
    d = make_daemon(build=BUILD_ASAN)
    mine, link = d.root + "/mine", d.root + "/link"
    os.mkdir(mine)
    os.symlink(mine, link)
    os.lchown(link, 61001, 61001)
    d.env[variable] = link + below
    assert "%s contains a symbolic link of another user" % (link + below) in refused_start(d)
    assert os.listdir(mine) == []
    os.lchown(link, 0, 0)
    d.start()


def first_line(raw):
    """The answer to a ping, or what the daemon sent before it closed the connection."""
    try:
        raw.send(b'{"jsonrpc":"2.0","id":1,"method":"system.ping"}\n')
    except BrokenPipeError:
        pass  # it has closed; its line can still be read
    return raw.line()


def test_no_descriptors_left(make_daemon):
    """A client that is too late gets the error at once, the others stay served, and the next is served once there is room."""
    d = make_daemon(build=BUILD_ASAN)
    # More than it needs for itself, fewer than one uid may have connections.
    d.prefix = ["prlimit", "--nofile=40", "--"]
    d.start()
    held, refusal = [], None
    while refusal is None and len(held) < 32:
        raw = Raw(d.socket)
        reply = first_line(raw)
        if "error" in reply:
            assert reply["id"] is None
            refusal = reply["error"]
            raw.sock.close()
        else:
            held.append(raw)
    assert refusal and refusal["data"]["code"] == "quota_exceeded" and "no descriptors left" in refusal["message"]
    assert all("result" in raw.call("system.ping") for raw in held)
    while len(held) > 2:
        held.pop().sock.close()
    assert "result" in d.call("system.ping")
    assert "result" in held[0].call("system.ping")
    for raw in held:
        raw.sock.close()


def test_a_dead_socket_is_replaced(make_daemon):
    d = make_daemon(build=BUILD_ASAN)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(d.socket)
    d.start()
    assert "result" in d.call("system.ping")
