"""Call IDs that we give out in the place of those of hosts that are hidden behind us.

Uniqueness is needed per pair of addresses as the receiver sees them: (its own, ours). IDs come from the
whole 16-bit space at random (RFC 7857 §9 asks as much for ports), and the ID of an ended call rests
for a while: a late packet of the old call must not reach the new one's owner.
"""

from collections import deque
from collections.abc import Callable

from protocols.addr import Ip4

#: A random integer below its argument, as ``random.randrange``.
Random = Callable[[int], int]

#: RFC 2637 §2.7: "a unique identifier": 16 bits. Zero is left out: peers take it for "no call".
_HIGHEST = 0xFFFF

#: Random tries before looking through the space in order.
_TRIES = 8


class CallIds:
    """Call IDs in use or at rest, for each (receiver, address the receiver sees).

    ``capacity`` bounds all of them together, those at rest included.
    """

    def __init__(self, random: Random, *, ghost: float, capacity: int) -> None:
        self.ghost = ghost
        self.capacity = capacity
        self._random = random
        self._taken: dict[tuple[Ip4, Ip4], set[int]] = {}
        self._resting: deque[tuple[float, tuple[Ip4, Ip4], int]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def take(self, receiver: Ip4, seen: Ip4) -> int | None:
        """A free Call ID for use towards ``receiver`` under the address ``seen``; None when there is none."""
        taken = self._taken.setdefault((receiver, seen), set())
        if self._count >= self.capacity or len(taken) >= _HIGHEST:
            if not taken:
                del self._taken[(receiver, seen)]
            return None
        call_id = self._pick(taken)
        taken.add(call_id)
        self._count += 1
        return call_id

    def _pick(self, taken: set[int]) -> int:
        for _ in range(_TRIES):
            call_id = 1 + self._random(_HIGHEST)
            if call_id not in taken:
                return call_id
        while call_id in taken:
            call_id = call_id % _HIGHEST + 1
        return call_id

    def reserve(self, receiver: Ip4, seen: Ip4, call_id: int) -> bool:
        """Take this very ID, which was given out before a restart; False when it is taken."""
        taken = self._taken.setdefault((receiver, seen), set())
        if call_id in taken:
            return False
        taken.add(call_id)
        self._count += 1
        return True

    def resting(self) -> list[tuple[float, tuple[Ip4, Ip4], int]]:
        """(until when, (receiver, address seen), ID) of all that rest, in the order of their times."""
        return list(self._resting)

    def rest_until(self, until: float, pair: tuple[Ip4, Ip4], call_id: int) -> None:
        """Let an ID go on resting after a restart, unless it is in use."""
        if self.reserve(*pair, call_id):
            self._resting.append((until, pair, call_id))

    def taken(self, receiver: Ip4, seen: Ip4, call_id: int) -> bool:
        """Whether the ID is in use or at rest."""
        return call_id in self._taken.get((receiver, seen), ())

    def free(self, receiver: Ip4, seen: Ip4, call_id: int) -> None:
        """Make the ID available at once: its call never came about."""
        taken = self._taken[(receiver, seen)]
        taken.remove(call_id)
        self._count -= 1
        if not taken:
            del self._taken[(receiver, seen)]

    def rest(self, receiver: Ip4, seen: Ip4, call_id: int, *, now: float) -> None:
        """Let the ID of an ended call rest before it becomes available."""
        self._resting.append((now + self.ghost, (receiver, seen), call_id))

    def next_deadline(self) -> float | None:
        """When the first resting ID becomes available."""
        return self._resting[0][0] if self._resting else None

    def expire(self, *, now: float) -> None:
        """Make available what has rested long enough."""
        while self._resting and self._resting[0][0] <= now:
            _, (receiver, seen), call_id = self._resting.popleft()
            self.free(receiver, seen, call_id)
