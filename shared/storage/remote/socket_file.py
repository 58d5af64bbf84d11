"""The socket of a store, as a file in its data folder.

Promises: only its owner may connect, from the first moment on; a folder's path may be longer than the
108 bytes that an address of a socket has.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOCKET_FILE = "store.sock"
_BACKLOG = 128
_LONGEST = 100
"""Bytes of a path that every system takes as an address."""
_DESCRIPTORS = Path("/proc/self/fd")
_CREDENTIALS = struct.Struct("3i")


def bound(folder: Path) -> socket.socket:
    """A socket that listens in the folder, in the place of one that a killed process left: who calls
    this holds the folder."""
    listening = _new()
    try:
        remove(folder)
        with _address(folder) as address:
            before = os.umask(0o177)
            try:
                listening.bind(address)
            finally:
                os.umask(before)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def remove(folder: Path) -> None:
    """Take the socket's file away."""
    with suppress(FileNotFoundError):
        (folder / SOCKET_FILE).unlink()


def connected(folder: Path) -> socket.socket:
    """A connection to the listener. OSError: there is none; BlockingIOError: too many wait."""
    link = _new()
    try:
        with _address(folder) as address:
            link.connect(address)
    except BaseException:
        link.close()
        raise
    return link


def is_of_us(link: socket.socket) -> bool:
    """True where the other side runs as our own user, or as root. Where the system does not report it, the
    mode of the file has decided."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, user, _ = _CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return user in {0, os.getuid()}


def _new() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    return made


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """The path of the socket; a long one through the open folder."""
    path = str(folder / SOCKET_FILE)
    if len(os.fsencode(path)) <= _LONGEST or not _DESCRIPTORS.is_dir():
        yield path
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(_DESCRIPTORS / str(handle) / SOCKET_FILE)
    finally:
        os.close(handle)
