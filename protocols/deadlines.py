"""An index from keys to the times they are next to be looked at.

A deadline is computed from state by whoever owns the key; the index only has to wake early enough. So an
entry moves when its deadline gets *earlier*, and one that got later is found out when it falls due: the
owner looks, sees that it is not time yet, and files it again. Refreshing a deadline per packet
costs nothing here, and the heap never holds more than a few entries per key.
"""

import heapq
from collections.abc import Iterable
from typing import Generic, TypeVar

K = TypeVar("K")

#: Stale heap entries tolerated before the heap is rebuilt.
_SLACK = 64


class Deadlines(Generic[K]):
    """Keys with the time of their next look. Keys need not be comparable."""

    def __init__(self) -> None:
        self._filed: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._filed)

    def file(self, key: K, when: float) -> None:
        """Look at ``key`` no later than ``when``. A later time than already filed changes nothing."""
        filed = self._filed.get(key)
        if filed is not None and filed <= when:
            return
        self._filed[key] = when
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, key))
        if len(self._heap) > 2 * len(self._filed) + _SLACK:
            self._rebuild()

    def discard(self, key: K) -> None:
        """Forget a key."""
        self._filed.pop(key, None)
        if len(self._heap) > 2 * len(self._filed) + _SLACK:
            self._rebuild()

    def next(self) -> float | None:
        """The earliest time filed."""
        heap = self._heap
        while heap and self._filed.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[K]:
        """Take out the keys whose time has come, in the order of their times."""
        keys = []
        while (when := self.next()) is not None and when <= now:
            key = heapq.heappop(self._heap)[2]
            del self._filed[key]
            keys.append(key)
        return keys

    def _rebuild(self) -> None:
        self._heap = [(when, serial, key) for serial, (key, when) in enumerate(self._filed.items())]
        self._serial = len(self._heap)
        heapq.heapify(self._heap)


def earliest(whens: Iterable[float | None]) -> float | None:
    """The first of these times; None if there is none."""
    return min((when for when in whens if when is not None), default=None)
