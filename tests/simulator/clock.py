"""A virtual clock: what is to happen, in the order of time."""

import heapq
from collections.abc import Callable


class Clock:
    """Runs callbacks at their times. Nothing ever waits."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do it then, or at once if that is past."""
        self._serial += 1
        heapq.heappush(self._queue, (max(when, self.now), self._serial, what))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        """Do it so many seconds from now."""
        self.at(self.now + delay, what)

    def run(self, until: float) -> None:
        """Let time pass."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, what = heapq.heappop(queue)
            what()
        self.now = until
