"""Working in other network namespaces from one process (setns(2), namespaces(7))."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def sh(*command: str, stdin: str | None = None) -> str:
    """Run a command and return what it printed.

    Raises:
        RuntimeError: it failed; the text has the command and its error output.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def sh_in(namespace: str, *command: str, stdin: str | None = None) -> str:
    """The same in a network namespace, which ``ip netns exec`` also gives its own /sys."""
    return sh("ip", "netns", "exec", namespace, *command, stdin=stdin)


def batch(namespace: str, lines: Sequence[str]) -> None:
    """Run many ``ip`` commands in a namespace by one process."""
    sh("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a namespace for a while: sockets and /proc/self/net files opened now stay there for good.

    Only for the main thread, whose namespace is what /proc/self/net shows.
    """
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
