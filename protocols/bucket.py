"""Rate limits."""


class TokenBucket:
    """``rate`` per second on average, ``burst`` at once."""

    __slots__ = ("_burst", "_filled", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._filled = 0.0

    def take(self, *, now: float) -> bool:
        """Take one, if there is one."""
        self._level = min(self._burst, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
