"""One name: looks what it points at, updates it when that is wrong, and believes what it sees.

WAITING   there is no address, or none that is of use to anybody outside
PENDING   an update is under way, or has not appeared at the zone's servers yet
CURRENT   the zone's servers answer with our address (without ``verify``: the provider has said so)
FAILING   it did not work, or somebody else's address is there; it is tried again
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import structlog

from relay.config.models import Ddns
from relay.ddns.provider import LATER, NEVER, Provider, UpdateError

_log = structlog.get_logger("vpnmasq.ddns")

#: Seconds from one try to the next: doubled each time, up to the last.
_FIRST: Final = 1.0
_LONGEST: Final = 900.0
#: Seconds from news to what is done about them: a link has its address before its route.
_SETTLE: Final = 0.5
#: Seconds that an update may take to appear before it is sent again.
_APPEARS: Final = 300.0

#: What the zone's servers have for the name; raises UpdateError.
Look = Callable[[], Awaitable[frozenset[str]]]
#: Announces an event: its slug, and the fields that are of interest.
Announce = Callable[..., None]


class NameState(Enum):
    """How a name is; see the module's text."""

    WAITING = "waiting"
    PENDING = "pending"
    CURRENT = "current"
    FAILING = "failing"


@dataclass(slots=True)
class Updater:
    """Keeps one name up to date for as long as ``run`` runs. ``clock`` is the loop's."""

    entry: Ddns
    provider: Provider
    look: Look
    announce: Announce
    clock: Callable[[], float]
    state: NameState = NameState.WAITING
    #: What is wrong, for people; empty when nothing is.
    problem: str = ""
    #: What the zone's servers said last.
    found: frozenset[str] = frozenset()
    #: Updates that the provider has taken, since the start.
    updates: int = 0
    _wanted: str | None = None
    #: Our address before that.
    _former: str | None = None
    _useless: str = ""
    _sent: str | None = None
    _sent_at: float = 0.0
    _failures: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def point_at(self, address: str | None, useless: str = "") -> None:
        """Our address is another one; ``useless`` says why nobody outside could use it, if so."""
        if (address, useless) == (self._wanted, self._useless):
            return
        if self._wanted is not None and self._wanted != address:
            self._former = self._wanted
        self._wanted, self._useless = address, useless
        self.hurry()

    def hurry(self) -> None:
        """Try again now: what was wrong may have been put right."""
        self._failures = 0
        self._news.set()

    async def run(self) -> None:
        """Look after the name, until cancelled."""
        while True:
            self._news.clear()
            pause = await self._turn()
            try:
                async with asyncio.timeout(pause):
                    await self._news.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_SETTLE)

    async def _turn(self) -> float | None:
        """Do what is to be done now; seconds until the next time, None for when there is news."""
        wanted, host = self._wanted, self.entry.host
        if wanted is None or self._useless:
            still = f" and still points at {', '.join(sorted(self.found))}" if self.found else ""
            why = self._useless or "there is no public address"
            self._now(
                NameState.WAITING, f"{host} is not updated{still}: {why}" if self._useless or still else ""
            )
            return None
        try:
            return await self._bring_up(wanted)
        except UpdateError as error:
            return self._failed(wanted, error)
        except Exception as error:  # noqa: BLE001  a bug; a name is not worth everybody's sessions
            _log.exception("name not looked after", name=self.entry.name)
            return self._failed(wanted, UpdateError(f"{type(error).__name__}: {error}", LATER))

    def _failed(self, wanted: str, error: UpdateError) -> float:
        if wanted != self._wanted:
            return 0.0
        self._failures += 1
        host, advice = (
            self.entry.host,
            "; put that right, then: vpnmasq reload" if error.again >= NEVER else "",
        )
        self._now(NameState.FAILING, f"{host} is not known to point at {wanted}: {error}{advice}")
        return max(self._backoff(), error.again)

    async def _bring_up(self, wanted: str) -> float | None:
        entry = self.entry
        if self._sent != wanted:
            self.state = NameState.PENDING
        right = entry.verify and await self._points_at(wanted)
        if wanted != self._wanted:
            return 0.0
        if right:
            self._now(NameState.CURRENT, "")
            self._failures, self._sent = 0, wanted
            return entry.interval
        if self._sent != wanted or self.clock() >= self._sent_at + _APPEARS:
            self._now(NameState.PENDING, self.problem)
            await self.provider.update(wanted)
            self.updates += 1
            self._sent, self._sent_at, self._failures = wanted, self.clock(), 0
            _log.info("name updated", name=entry.name, provider=entry.provider)
            self.announce("ddns-updated", name=entry.name, host=entry.host, address=wanted)
        if wanted != self._wanted:
            return 0.0
        if not entry.verify:
            self.found = frozenset({wanted})
            self._now(NameState.CURRENT, "")
            return None
        self.found = await self.look()
        if self.found == {wanted}:
            self._now(NameState.CURRENT, "")
            return entry.interval
        self._failures += 1
        self._now(NameState.PENDING, self._elsewhere(wanted))
        return self._backoff()

    async def _points_at(self, wanted: str) -> bool:
        """Whether all is well already. That nobody answers is no reason not to update, the first time."""
        try:
            self.found = await self.look()
        except UpdateError:
            if self._sent == wanted:
                raise
            return False
        if self.found != {wanted} and self._sent == wanted and self.state is NameState.CURRENT:
            # It was right: somebody else has changed it.
            self.announce("ddns-taken", name=self.entry.name, host=self.entry.host, found=sorted(self.found))
            _log.warning("name points elsewhere", name=self.entry.name)
            self._sent = None
        return self.found == {wanted}

    def _elsewhere(self, wanted: str) -> str:
        host = self.entry.host
        if not self.found:
            return f"{host} does not exist yet at its own servers, though {wanted} was registered"
        others = ", ".join(sorted(self.found - {wanted}))
        if self.found <= {wanted, self._former}:
            return f"{host} still points at {others}, our address before, though {wanted} was registered"
        return f"{host} points at {others}, which is somebody else's: clients that dial it go there, not here"

    def _backoff(self) -> float:
        return float(min(_FIRST * 2 ** min(self._failures - 1, 16), _LONGEST))

    def _now(self, state: NameState, problem: str) -> None:
        """Take over a state; tell of it when something is wrong that was not said before."""
        if problem and problem != self.problem:
            _log.warning("name not up to date", name=self.entry.name, state=state.value, why=problem)
            self.announce("ddns-problem", name=self.entry.name, host=self.entry.host, why=problem)
        elif state is NameState.CURRENT and self.state is not NameState.CURRENT:
            _log.info("name up to date", name=self.entry.name)
            self.announce("ddns-current", name=self.entry.name, host=self.entry.host)
        self.state, self.problem = state, problem
