"""A loop on which hours pass in no time: whenever all wait, its clock is at the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Idle(selectors.DefaultSelector):
    """Does not wait, but says how long it was told to."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everybody waits for ever"
            self.passed += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.passed


def play(story: Coroutine[Any, Any, None]) -> None:
    """Run a story that waits for timers only."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(story)
