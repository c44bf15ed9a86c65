"""Telling systemd how we are (sd_notify(3)); outside of systemd nothing is told to nobody."""

import contextlib
import os
import socket
import time


def ready(status: str = "") -> None:
    """The service serves: at start, and again after a reload."""
    _notify("READY=1", status=status)


def reloading() -> None:
    """A reload has begun; ``ready`` ends it (Type=notify-reload)."""
    _notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str = "") -> None:
    """The service is about to end."""
    _notify("STOPPING=1", status=status)


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


def _notify(*assignments: str, status: str = "") -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    lines = [*assignments, f"STATUS={' '.join(status.split())}"] if status else [*assignments]
    # A leading @ stands for the zero of an abstract address (unix(7)).
    address = f"\0{path[1:]}" if path.startswith("@") else path
    # A systemd that does not listen is no reason not to run.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock,
    ):
        sock.sendto("\n".join(lines).encode(), address)
