"""SPIs that went silent: whose they were.

A tunnel that says nothing for longer than the lifetime loses its session, but its Security Association may
live on for hours (HOWTO §6.2). So what was once found out is kept, for a day and within bounds: a few dozen
octets for each SPI.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocols.addr import Ip4

#: How many are written down at once.
_AT_ONCE: Final = 256


@dataclass(slots=True)
class Remembered:
    """Who owned an SPI, how surely, until when that is kept, and the last number of its packets."""

    host: Ip4
    confidence: float
    until: float
    sequence: int = 0


#: The peer, and the owner, of an SPI.
Forgotten = tuple[Ip4, Remembered]


class Memory:
    """Owners of (peer, SPI) that are no longer in use. The oldest go first."""

    def __init__(self) -> None:
        self._owners: dict[tuple[Ip4, int], Remembered] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def keep(self, peer: Ip4, spi: int, remembered: Remembered, *, most: int) -> list[Forgotten]:
        """Remember an owner; forget the oldest if there are more than ``most``."""
        self._owners.pop((peer, spi), None)
        self._owners[peer, spi] = remembered
        return [self._forget_oldest() for _ in range(len(self._owners) - most)]

    def recall(self, peer: Ip4, spi: int, *, now: float) -> Remembered | None:
        """Take out who owned the SPI."""
        remembered = self._owners.pop((peer, spi), None)
        return remembered if remembered is not None and remembered.until > now else None

    def forget(self, peer: Ip4, host: Ip4) -> None:
        """Forget all SPIs of a host with a peer."""
        gone = [key for key, r in self._owners.items() if key[0] == peer and r.host == host]
        for key in gone:
            del self._owners[key]

    def portions(self) -> Iterator[list[tuple[tuple[Ip4, int], Remembered]]]:
        """As ``all``, some at a time, to be written down."""
        remembered = self.all()
        for at in range(0, len(remembered), _AT_ONCE):
            yield remembered[at : at + _AT_ONCE]

    def take_in(self, portion: list[tuple[tuple[Ip4, int], Remembered]], *, most: int) -> None:
        """Remember again what was written down."""
        for (peer, spi), owner in portion:
            self.keep(peer, spi, owner, most=most)

    def all(self) -> list[tuple[tuple[Ip4, int], Remembered]]:
        """((peer, SPI), owner) of all, oldest first."""
        return list(self._owners.items())

    def expire(self, *, now: float) -> list[Forgotten]:
        """Forget what has been kept long enough."""
        forgotten: list[Forgotten] = []
        while self._owners and next(iter(self._owners.values())).until <= now:
            forgotten.append(self._forget_oldest())
        return forgotten

    def _forget_oldest(self) -> Forgotten:
        (peer, spi) = next(iter(self._owners))
        return peer, self._owners.pop((peer, spi))
