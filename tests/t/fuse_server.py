# SPDX-License-Identifier: MIT
"""A FUSE file system with one file whose server never answers FLUSH: a process that closes a descriptor of that file
stays in close(), even after SIGKILL, until the server ends (linux/fuse.h; protocol 7.31)."""
import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct

LOOKUP, FORGET, GETATTR, OPEN, RELEASE, FLUSH, INIT, BATCH_FORGET = 1, 2, 3, 14, 18, 25, 26, 42
FILE = 2
CLONE_NEWNS = 0x20000


def attributes(node):
    mode = 0o100666 if node == FILE else 0o40755
    return struct.pack("<6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node):
    """The reply: bytes, an errno, or None for no reply."""
    if opcode == INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 16, 12, 65536, 1, 1, 0, *[0] * 8)
    if opcode == LOOKUP:
        return struct.pack("<4Q2I", FILE, 0, 3600, 3600, 0, 0) + attributes(FILE)
    if opcode == GETATTR:
        return struct.pack("<Q2I", 3600, 0, 0) + attributes(node)
    if opcode == OPEN:
        return struct.pack("<Q2I", 0, 0, 0)
    if opcode in (FORGET, BATCH_FORGET, FLUSH):
        return None
    return b"" if opcode == RELEASE else errno.ENOSYS


def serve(fd):
    while True:
        request = os.read(fd, 1 << 17)
        _, opcode, unique, node = struct.unpack_from("<2I2Q", request)
        out = answer(opcode, node)
        if isinstance(out, int):
            os.write(fd, struct.pack("<IiQ", 16, -out, unique))
        elif out is not None:
            os.write(fd, struct.pack("<IiQ", 16 + len(out), 0, unique) + out)


def mount(place, options):
    libc = ctypes.CDLL(None, use_errno=True)
    for source, kind, flags, data in ((None, None, (1 << 18) | (1 << 14), None), (b"pyro-test", b"fuse", 0, options)):
        if libc.mount(source, b"/" if kind is None else place.encode(), kind, ctypes.c_ulong(flags), data) != 0:
            raise OSError(ctypes.get_errno(), "mount %s" % place)


def run(place, report):
    """Runs in a child: the mount is in a namespace of its own; the opened file is sent over the socket."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    fd = os.open("/dev/fuse", os.O_RDWR)
    mount(place, b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd)
    if os.fork() == 0:  # the opener needs a working server
        os.close(fd)
        opened = os.open(place + "/file", os.O_RDONLY)
        socket.send_fds(report, [b"!"], [opened])
        os._exit(0)  # its own close is never answered: it stays until the server ends
    report.close()
    serve(fd)


@contextlib.contextmanager
def stuck_file(place):
    """Returns a socket from which one process takes a descriptor of the file (taken), and what ends the server. No
    process that has the descriptor can fork or end before."""
    os.makedirs(place)
    here, there = socket.socketpair()
    server = os.fork()
    if server == 0:
        try:
            here.close()
            run(place, there)
        finally:
            os._exit(1)
    there.close()
    try:
        yield here, lambda: os.kill(server, signal.SIGKILL)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        here.close()


def taken(sock):
    data, fds, _, _ = socket.recv_fds(sock, 1, 1)
    assert data == b"!", "the file could not be opened"
    return fds[0]
