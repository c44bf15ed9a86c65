"""Writes the state down when something has changed, beside the packets and not too often.

Ten thousand sessions are a second of work. So it is done in slices between packets, and never for more than
a small part of the time.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self

import structlog

from protocols.gateway import Gateway
from protocols.snapshot import snapshot
from relay.aside import aside
from relay.state.file import StateFile, encoded
from relay.wakeup import Ticker

_log = structlog.get_logger("vpnmasq.state")

#: Seconds from a change to the beginning of the writing, in which others may join it.
DELAY: Final = 0.5

#: Of all time, the part that is spent on it at most.
SHARE: Final = 0.05

#: Seconds between writings though no session came or went: for what they have carried, and when.
REGULARLY: Final = 60.0

#: Seconds of work before packets get their turn again.
_SLICE: Final = 0.002


class Keeper:
    """Keeps the state file up to date. Use as a context manager on the running loop.

    ``spawn`` starts a coroutine in the daemon's task group.
    """

    def __init__(
        self,
        file: StateFile,
        gateway: Gateway,
        clock: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._file = file
        self._gateway = gateway
        self._clock = clock
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._writing = False
        self._again = False
        self._not_before = 0.0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._ticker = Ticker(REGULARLY, self._regularly)
        #: Written since the start: how often, and seconds of our own work and octets of the last time.
        self.count = 0
        self.work = 0.0
        self.octets = 0
        #: What to tell the operator; always the same list.
        self.attention: list[str] = []

    def __enter__(self) -> Self:
        self._ticker.__enter__()
        self.changed()
        return self

    def __exit__(self, *_: object) -> None:
        self._ticker.__exit__()
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()

    def _regularly(self) -> None:
        if len(self._gateway.registry):
            self.changed()

    def changed(self) -> None:
        """Something is different from what the file says. Cheap."""
        if self._handle is not None or self._closed:
            return
        if self._writing:
            self._again = True
            return
        when = max(self._clock() + DELAY, self._not_before)
        self._handle = self._loop.call_at(when, self._begin)

    def _begin(self) -> None:
        self._handle = None
        self._writing = True
        self._idle.clear()
        self._spawn(self._write())

    async def _write(self) -> None:
        try:
            lines, work = await self._lines()
            if not self._closed:
                self.octets = await aside(self._file.write, lines)
                self.count, self.work = self.count + 1, work
                self._recovered()
                _log.debug("state written", octets=self.octets, seconds=round(work, 3))
            self._not_before = self._clock() + work / SHARE
        except OSError as error:
            self._failed(error)
            self._not_before = self._clock() + REGULARLY
        finally:
            self._writing = False
            self._idle.set()
        if self._again:
            self._again = False
            self.changed()

    async def _lines(self) -> tuple[list[bytes], float]:
        """The lines of a file, and the seconds of work that they took."""
        began = time.perf_counter()
        lines = list(self._file.lines(snapshot((), now=self._clock())))
        work = 0.0
        for record in self._gateway.records():
            lines.append(encoded(record))
            spent = time.perf_counter() - began
            if spent > _SLICE:
                work += spent
                await asyncio.sleep(0)
                began = time.perf_counter()
        return lines, work + time.perf_counter() - began

    async def pause(self) -> None:
        """Leave the file alone until ``resume`` or for good: another process is about to write it."""
        self.__exit__()
        await self._idle.wait()

    def resume(self) -> None:
        """Go on after ``pause``."""
        self._closed = self._again = False
        self._handle = None
        self.__enter__()

    def write_last(self) -> None:
        """Write what there is now, and nothing more after that. Blocks."""
        self.__exit__()
        try:
            self.octets = self._file.write(self._file.lines(self._gateway.snapshot(now=self._clock())))
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        text = f"sessions would not survive a restart: {self._file.path} cannot be written: {error.strerror}"
        if self.attention != [text]:
            _log.warning("state not written", path=str(self._file.path), error=error.strerror)
        self.attention[:] = [text]

    def _recovered(self) -> None:
        if self.attention:
            _log.info("state written again", path=str(self._file.path))
        self.attention.clear()
