"""Our sockets by names, under which another process of ours finds what it can go on with."""

import contextlib
import socket
from collections.abc import Callable, Mapping


def place(interface: str) -> str:
    """Names an interface as it is now: one that is replaced is another one, and its sockets are deaf."""
    with contextlib.suppress(OSError):
        return f"{interface}%{socket.if_nametoindex(interface)}"
    return interface


class Descriptors:
    """What is open, and what was ``given`` to us and has not been asked for yet."""

    def __init__(self, given: Mapping[str, socket.socket] | None = None) -> None:
        self._given = dict(given or {})
        self._had: dict[str, socket.socket] = {}

    def given(self, name: str) -> bool:
        """Whether it is there already."""
        return name in self._given

    def have(self, name: str, make: Callable[[], socket.socket]) -> socket.socket:
        """The socket of this name, made if it was not given.

        Raises: what ``make`` raises.
        """
        sock = self._given.pop(name, None) or make()
        self._had[name] = sock
        return sock

    def open(self) -> dict[str, socket.socket]:
        """All that are open and in use."""
        self._had = {name: sock for name, sock in self._had.items() if sock.fileno() >= 0}
        return self._had

    def close_others(self) -> None:
        """Close what was given and is of no use."""
        while self._given:
            self._given.popitem()[1].close()
