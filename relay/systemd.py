"""Telling systemd how we are (sd_notify(3)); outside of systemd nothing is told to nobody."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: SD_LISTEN_FDS_START.
_FIRST_DESCRIPTOR: Final = 3


def ready(status: str = "") -> None:
    """The service serves: at start, and again after a reload."""
    _notify("READY=1", status=status)


def reloading() -> None:
    """A reload has begun; ``ready`` ends it (Type=notify-reload)."""
    _notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str = "") -> None:
    """The service is about to end."""
    _notify("STOPPING=1", status=status)


def keep(name: str, sock: socket.socket) -> bool:
    """Have a socket kept open for the process after us (FileDescriptorStoreMax=); whether that was heard.

    ``name``: printable ASCII without a colon, of at most 255 characters.
    """
    return _notify("FDSTORE=1", f"FDNAME={name}", descriptor=sock.fileno())


def forget(name: str) -> bool:
    """Have it kept no longer; whether that was heard."""
    return _notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def is_there() -> bool:
    """Whether there is a service manager that listens to us."""
    return os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@"))


def kept() -> list[tuple[str, socket.socket]]:
    """The sockets that were kept, with their names (sd_listen_fds_with_names(3)); to be called once."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdecimal() or pid != str(os.getpid()) or len(names) != int(count):
        return []
    sockets = []
    for number, name in enumerate(names, _FIRST_DESCRIPTOR):
        try:
            sock = socket.socket(fileno=number)
        except OSError:  # something else
            continue
        sock.set_inheritable(False)
        sockets.append((name, sock))
    return sockets


def succeeded_by(process: int) -> None:
    """Another process of the service is its main process from now on; of others systemd takes no notice."""
    _notify(f"MAINPID={process}")


def place() -> str:
    """The control group of this process (cgroups(7)): those of a service have one of their own."""
    try:
        return Path("/proc/self/cgroup").read_text()
    except OSError:
        return ""


def surroundings() -> dict[str, str]:
    """What the next main process of the service has to know of its manager; empty without one."""
    there = {"NOTIFY_SOCKET": is_there(), "WATCHDOG_USEC": watchdog_interval() is not None}
    return {name: os.environ[name] for name, is_set in there.items() if is_set}


def move_in(found: Mapping[str, str]) -> None:
    """Live in the ``surroundings`` of the main process before us, if it had any."""
    if found:
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)
        os.environ.update(found)


def status(text: str) -> None:
    """One line for ``systemctl status``."""
    _notify(status=text)


def watchdog() -> None:
    """The service is alive: to be said more often than every ``watchdog_interval``."""
    _notify("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Seconds after which systemd gives us up for dead, or None when it does not watch this process."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in (None, str(os.getpid())):
        return None
    return int(microseconds) / 1e6


def _notify(*assignments: str, status: str = "", descriptor: int | None = None) -> bool:
    """Say something, with a descriptor for one; whether it was heard."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    lines = [*assignments, f"STATUS={' '.join(status.split())}"] if status else [*assignments]
    # A leading @ stands for the zero of an abstract address (unix(7)).
    address = f"\0{path[1:]}" if path.startswith("@") else path
    rights = () if descriptor is None else (struct.pack("i", descriptor),)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, right) for right in rights]
    # A systemd that does not listen is no reason not to run.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock,
    ):
        sock.sendmsg(["\n".join(lines).encode()], ancillary, 0, address)
        return True
    return False
