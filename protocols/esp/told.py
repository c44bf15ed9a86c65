"""Pairs that an operator, or the hosts themselves, have told us of (HOWTO §6.2: "some way to preload")."""

from dataclasses import dataclass

from protocols.addr import Ip4


@dataclass(frozen=True, slots=True)
class Told:
    """Inbound packets of the peer with this SPI are the host's, until then."""

    peer: Ip4
    spi: int
    host: Ip4
    until: float


class ToldPairs:
    """Told pairs by (peer, SPI)."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[Ip4, int], Told] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, told: Told) -> None:
        """Enter a pair in the place of what was told of this SPI before."""
        self._pairs[told.peer, told.spi] = told

    def remove(self, peer: Ip4, spi: int) -> Told | None:
        """Take a pair out."""
        return self._pairs.pop((peer, spi), None)

    def forget(self, peer: Ip4, host: Ip4) -> None:
        """Take out all pairs of a host with a peer."""
        for told in self.all():
            if (told.peer, told.host) == (peer, host):
                self.remove(peer, told.spi)

    def get(self, peer: Ip4, spi: int) -> Told | None:
        """What was told of this SPI."""
        return self._pairs.get((peer, spi))

    def all(self) -> list[Told]:
        """All pairs, as they were told."""
        return list(self._pairs.values())

    def next_deadline(self) -> float | None:
        """When the first of them ends."""
        return min((told.until for told in self._pairs.values()), default=None)

    def due(self, now: float) -> list[Told]:
        """Those whose time is up."""
        return [told for told in self._pairs.values() if told.until <= now]
