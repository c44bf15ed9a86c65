"""Timers: the one that follows the core's next deadline, and regular ones of the shell."""

import asyncio
from collections.abc import Callable
from typing import Self


class Wakeup:
    """Calls ``wake`` when the deadline it follows has come."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._when: float | None = None

    def follow(self, deadline: float | None) -> None:
        """Wake at ``deadline``, and at no other time. Cheap when it has not moved."""
        if deadline == self._when:
            return
        self.cancel()
        if deadline is not None:
            self._when = deadline
            self._handle = self._loop.call_at(deadline, self._fire)

    def cancel(self) -> None:
        """Do not wake."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._when = None

    def _fire(self) -> None:
        self._handle = self._when = None
        self._wake()


class Ticker:
    """Calls ``work`` every ``seconds``. Use as a context manager on the running loop."""

    def __init__(self, seconds: float, work: Callable[[], None]) -> None:
        self._seconds = seconds
        self._work = work
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._handle = asyncio.get_running_loop().call_later(self._seconds, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _tick(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(self._seconds, self._tick)
        self._work()
