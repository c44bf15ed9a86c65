"""Control connections that survive a crash of ours: systemd keeps their sockets (FileDescriptorStoreMax=).

A socket's name is its stream's number and that of the other leg: with the state file they tell whose it is.
Both go to systemd together when both stand. Names are passed to the next process in one environment
variable, which may have 128 KiB (execve(2), MAX_ARG_STRLEN): that bounds how many there can be.
"""

import re
import socket
from collections.abc import Callable
from typing import Final

from relay import systemd
from relay.sockets.streams import StreamPart

_NAME: Final = re.compile(r"([1-9][0-9]{0,14})\.([1-9][0-9]{0,14})")


class DescriptorStore:
    """Implements relay.sockets.streams.Store; ``most`` sockets at once."""

    def __init__(
        self,
        most: int,
        *,
        keep: Callable[[str, socket.socket], bool] = systemd.keep,
        forget: Callable[[str], bool] = systemd.forget,
    ) -> None:
        self._most = most
        self._keep = keep
        self._forget = forget
        #: Names that systemd was too busy to be told of.
        self._left: list[str] = []
        #: By stream, the name of its socket.
        self._names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._names) + len(self._left)

    def keep(self, one: tuple[int, socket.socket], other: tuple[int, socket.socket]) -> None:
        """As Store."""
        self._tidy()
        if len(self) + 2 > self._most:
            return
        for (number, sock), (partner, _) in ((one, other), (other, one)):
            name = f"{number}.{partner}"
            if not self._keep(name, sock):
                self.forget(partner)  # the one without the other is of no use
                return
            self._names[number] = name

    def forget(self, number: int) -> bool:
        """As Store."""
        name = self._names.pop(number, None)
        if name is None:
            return False
        self._left.append(name)
        self._tidy()
        return True

    def _tidy(self) -> None:
        while self._left and self._forget(self._left[-1]):
            self._left.pop()

    def kept(self, sockets: list[tuple[str, socket.socket]]) -> list[StreamPart]:
        """The streams among what systemd has kept; it keeps no longer what is none."""
        parts = []
        for name, sock in sockets:
            found = _NAME.fullmatch(name)
            if found is None or sock.family != socket.AF_INET or sock.type != socket.SOCK_STREAM:
                self._left.append(name)
                sock.close()
                continue
            sock.settimeout(0)
            number, partner = map(int, found.groups())
            self._names[number] = name
            parts.append(StreamPart(number, partner, sock, b"", done=False))
        self._tidy()
        return parts
