"""Whether a container ends with this process: then another one in its place is of no use."""

import contextlib
import os
from pathlib import Path
from typing import Final

#: The namespace of processes that a machine begins with (linux/proc_ns.h, PROC_PID_INIT_INO).
_MACHINE: Final = 0xEFFFFFFC

#: First processes of a container that start one other and end with it: tini, as it is and as Docker calls it,
#: catatonit, as it is and as podman calls it, dumb-init. There may be one behind the other.
_WAITING: Final = frozenset({"tini", "docker-init", "catatonit", "podman-init", "dumb-init"})

#: First processes that have more to look after than one other, and go on.
_LASTING: Final = frozenset({"systemd", "init", "openrc-init", "runit", "s6-svscan", "dinit"})


def ends_with_us() -> bool:
    """Whether we are a container's first process, or what that waits for, as far as can be told."""
    parent = os.getppid()
    if _is_nobodys():
        return False
    if _name(parent) in _WAITING:
        return True
    if parent > 1 or Path("/proc/self/ns/pid").stat().st_ino == _MACHINE:
        return False
    return _name(parent) not in _LASTING


def _is_nobodys() -> bool:
    """Whether we were left behind in the background (daemon(7)): whoever led our session has gone.

    Nobody waits for us then, for a first process leads a session itself, and so does what it starts, or is in
    that one.
    """
    try:
        os.kill(os.getsid(0), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _name(process: int) -> str:
    """What a process is called, as its parent has started it; empty when nobody lets us know."""
    with contextlib.suppress(OSError):
        about = Path("/proc") / str(process)
        name = (about / "comm").read_text().rstrip("\n")
        # Older podman and Docker call theirs init; it is given the command to run after this word.
        if name == "init" and b"--" in (about / "cmdline").read_bytes().split(b"\0"):
            return "catatonit"
        return name
    return ""
