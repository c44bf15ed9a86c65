"""UDP ports of ours that stand for those of hosts: each belongs to one, and none is shared (RFC 4787 REQ-3).

A port is preserved where that is possible, else it is random (RFC 7857 §9). The port of a host that
has gone rests for a while, so that a late packet for the old owner does not find a new one; the old owner
itself may have it back at once.
"""

from collections import deque

from protocols.addr import Ip4
from protocols.allocator import Random

#: Random tries before looking through the range in order.
_TRIES = 8


class Ports:
    """The ports of one of our addresses that are taken or at rest. ``first`` to ``last`` are ours to give."""

    def __init__(self, random: Random, *, first: int, last: int, rest: float) -> None:
        self.first = first
        self.last = last
        self.rest = rest
        self._random = random
        #: Who has each port, or had it last as long as it rests.
        self._owners: dict[int, Ip4] = {}
        self._resting: dict[int, float] = {}
        self._queue: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._owners)

    def take(self, owner: Ip4, wanted: int, *, also: int | None = None) -> int | None:
        """A port for ``owner``: the wanted one if it is free and ours to give, or else any that is.

        ``also`` is one more port that may be given to who wants it. None when all are taken.
        """
        ours = self.first <= wanted <= self.last or wanted == also
        if ours and (wanted not in self._owners or self._rests_from(wanted, owner)):
            self._resting.pop(wanted, None)
            port: int | None = wanted
        else:
            port = self._pick()
        if port is not None:
            self._owners[port] = owner
        return port

    def _rests_from(self, port: int, owner: Ip4) -> bool:
        return port in self._resting and self._owners[port] == owner

    def _pick(self) -> int | None:
        size = self.last - self.first + 1
        for _ in range(_TRIES):
            port = self.first + self._random(size)
            if port not in self._owners:
                return port
        start = port - self.first
        ports = (self.first + (start + step) % size for step in range(size))
        return next((port for port in ports if port not in self._owners), None)

    def free(self, port: int, *, now: float) -> None:
        """Let the port of a host that has gone rest."""
        self._resting[port] = now + self.rest
        self._queue.append((now + self.rest, port))

    def next_deadline(self) -> float | None:
        """When the first resting port becomes available, or was taken back."""
        return self._queue[0][0] if self._queue else None

    def expire(self, *, now: float) -> None:
        """Make available what has rested long enough."""
        while self._queue and self._queue[0][0] <= now:
            when, port = self._queue.popleft()
            if self._resting.get(port) == when:
                del self._resting[port]
                del self._owners[port]

    # -- across a restart ------------------------------------------------------------------------------

    def held(self) -> tuple[dict[int, Ip4], dict[int, float]]:
        """Who has each port, or had it last; until when those rest that do."""
        return dict(sorted(self._owners.items())), dict(sorted(self._resting.items()))

    def hold(self, owners: dict[int, Ip4], resting: dict[int, float]) -> None:
        """Hold the ports that were held before a restart; nothing is held yet."""
        self._owners, self._resting = owners, resting
        self._queue = deque(sorted((until, port) for port, until in resting.items()))

    def reserve(self, port: int, owner: Ip4) -> None:
        """A port is in use, whatever was known of it."""
        self._owners[port] = owner
        self._resting.pop(port, None)
