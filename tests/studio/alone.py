"""Run a command where there is no network but loopback: ``python -m tests.studio.alone COMMAND ...``.

A network namespace of its own, made without any tool of the system; without root's rights in a user namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1


def enter():
    """Leave the network.

    Raises
    ------
    OSError
        The system allows it to nobody here.
    """
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK) != 0:
        if libc.unshare(NEW_NETWORK | NEW_USER) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"no network namespace can be made: {os.strerror(number)}")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        flags = struct.unpack("16sH", fcntl.ioctl(s, GET_FLAGS, struct.pack("16sH14x", b"lo", 0))[:18])[1]
        fcntl.ioctl(s, SET_FLAGS, struct.pack("16sH14x", b"lo", flags | UP))


def alone():
    """Say whether loopback is the only way out."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


if __name__ == "__main__":
    enter()
    os.execvp(sys.argv[1], sys.argv[1:])
