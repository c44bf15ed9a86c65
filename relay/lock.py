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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Nobody is served, but whoever finds us by our name can ask the kernel for our pid.
_BACKLOG: Final = 64

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


@dataclass(slots=True)
class Lock:
    """A lock file that we hold, perhaps together with the process that takes over from us or we from it."""

    fd: int
    #: Whether it says that it is ours.
    ours: bool = False

    def sign(self) -> None:
        """Write into it who holds it."""
        self.ours = True
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)


@dataclass(frozen=True, slots=True)
class Locks:
    """The locks of one daemon: objects of the kernel, which go from process to process as descriptors."""

    file: Lock
    name: socket.socket

    def descriptors(self) -> list[int]:
        """For the process that takes over."""
        return [self.file.fd, self.name.fileno()]

    def take_up(self) -> None:
        """They are ours now, as everybody can see."""
        self.file.sign()
        self.name.listen(_BACKLOG)

    def give_up(self) -> None:
        """They are another process's now."""
        self.file.ours = False


@contextlib.contextmanager
def hold(path: Path, given: int | None = None) -> Iterator[Lock]:
    """Hold a lock file (flock(2)); it stays behind, empty, as removing it would be a race.

    ``given``: a descriptor with which it is held already, by another process as well.

    Raises:
        Held: another process holds it.
        OSError: the file cannot be made.
    """
    fd = given
    if fd is None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    lock = Lock(fd)
    try:
        if given is None:
            _lock(path, fd)
            lock.sign()
        yield lock
    finally:
        if lock.ours:
            os.ftruncate(fd, 0)
        os.close(fd)


def _lock(path: Path, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        raise Held(str(path), int(written) if written.isdecimal() else None) from None


@contextlib.contextmanager
def hold_name(instance: str, given: int | None = None) -> Iterator[socket.socket]:
    """Hold the name of an instance in this network namespace, where its rules and table are unique.

    An abstract Unix socket (unix(7)) has just this scope, whatever file systems a container sees. ``given``:
    as for ``hold``.

    Raises:
        Held: another process in this network namespace uses the name.
    """
    address = f"\0vpnmasq/{instance}"
    if given is not None:
        with socket.socket(fileno=given) as sock:
            yield sock
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise Held(f'the name "{instance}"', _holder(address)) from None
        sock.listen(_BACKLOG)
        yield sock


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
