"""Only one daemon for a control socket, and one for an instance's name: a second one would undo the first.

Both locks are the kernel's, so that a crash leaves neither behind.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: struct ucred: pid, uid, gid.
_CREDENTIALS: Final = "3i"


class Held(Exception):  # noqa: N818
    """Somebody else holds the lock; ``pid`` is who, or None when that cannot be told."""

    def __init__(self, what: str, pid: int | None) -> None:
        super().__init__(what, pid)
        self.what = what
        self.pid = pid

    def __str__(self) -> str:
        who = "another process" if self.pid is None else f"process {self.pid}"
        advice = "stop it, or give this instance a name and an api.socket of its own"
        return f"{self.what} is in use by {who}; {advice}"


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a lock file (flock(2)); it stays behind, empty, as removing it would be a race.

    Raises:
        Held: another process holds it.
        OSError: the file cannot be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise Held(str(path), int(written) if written.isdecimal() else None) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@contextlib.contextmanager
def hold_name(instance: str) -> Iterator[None]:
    """Hold the name of an instance in this network namespace, where its rules and table are unique.

    An abstract Unix socket (unix(7)) has just this scope, whatever file systems a container sees.

    Raises:
        Held: another process in this network namespace uses the name.
    """
    address = f"\0vpnmasq/{instance}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise Held(f'the name "{instance}"', _holder(address)) from None
        sock.listen(64)  # nobody is served, but whoever finds us here can ask the kernel for our pid
        yield


def _holder(address: str) -> int | None:
    """The process that listens at an abstract address; None when it is gone or not to be seen from here."""
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as sock:
        try:
            sock.connect(address)
        except OSError:
            return None
        size = struct.calcsize(_CREDENTIALS)
        pid, _, _ = struct.unpack(_CREDENTIALS, sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return pid or None
