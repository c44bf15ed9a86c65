"""Rate limits."""

from typing import Final

#: What is less than this is no part of one.
_ROUNDED: Final = 0.01


class TokenBucket:
    """``rate`` per second on average, ``burst`` at once."""

    __slots__ = ("_burst", "_full_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at = 0.0

    def take(self, *, now: float) -> bool:
        """Take one, if there is one."""
        full_at = after_taking(self._full_at, self._rate, self._burst, now=now)
        if full_at is None:
            return False
        self._full_at = full_at
        return True


def after_taking(full_at: float, rate: float, burst: float, *, now: float) -> float | None:
    """When a bucket that is full at ``full_at`` will be so with one taken; None if there is none to take.

    For those of whom there are too many to have an object each: this one number is all that changes.
    """
    if not rate:
        return None
    then = max(full_at, now) + 1 / rate
    # The last one must not be missed for what adding up has rounded.
    return None if (then - now) * rate > burst + _ROUNDED else then
