"""What hooks tell us of a link, and what we run when it has come up or gone down.

pppd runs its ip-up with six arguments: interface, tty, speed, our address, the other end's, and ``ipparam``.
The user's ``up_commands`` get the same, whoever told us of the change: the kernel alone knows no tty or
speed, so a point-to-point link's commands wait a moment for a hook that does.
"""

import asyncio
import shlex
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from protocols.addr import Ip4, show_ip
from relay import programs
from relay.config.models import Dynamic
from relay.control.daemon import Link
from relay.uplink import Uplink

_log = structlog.get_logger("vpnmasq")

#: Seconds that the word of a hook is waited for before the commands run without it: on a small router its
#: command takes two to begin.
_WORD: Final = 5.0
#: Seconds that a hook is kept waiting until its address is served.
_SERVED: Final = 3.0
#: Lines of a command's output that are logged, and octets of each.
_MOST_LINES: Final = 20
_LONGEST_LINE: Final = 300
#: Changes that may wait while commands run; of more, the oldest are skipped.
_MOST_WAITING: Final = 8


@dataclass(slots=True)
class Links:
    """The hooks' side of the public link. ``hint`` makes the watcher look, ``uplink`` is what is in use."""

    settings: Callable[[], Dynamic]
    uplink: Callable[[], Uplink]
    hint: Callable[[], None]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    #: What went wrong with commands, for ``status``; each replaced by its next run.
    failures: dict[str, str] = field(default_factory=dict)
    _words: dict[str, Link] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: list[tuple[str, Link, bool]] = field(default_factory=list)
    _work_task: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End the command that runs."""
        if self._work_task is not None:
            self._work_task.cancel()

    # -- hooks -----------------------------------------------------------------------------------------

    async def told(self, event: str, link: Link) -> bool:
        """A hook says that a link is "up" or "down"; whether it is the public one and is dealt with now."""
        ours = self.uplink().interface.name
        if event == "up":
            self._words = {link.interface: link}
        self._tell()
        self.hint()
        try:
            async with asyncio.timeout(_SERVED):
                while not self._done(event, link):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return link.interface in (ours, self.uplink().interface.name)

    def _done(self, event: str, link: Link) -> bool:
        uplink = self.uplink()
        if uplink.interface.name and uplink.interface.name != link.interface:
            return True
        address = None if uplink.address is None else show_ip(uplink.address)
        if event == "up":
            return address == link.local if link.local else address is not None
        return address is None or (bool(link.local) and address != link.local)

    def _tell(self) -> None:
        self._news.set()

    # -- commands --------------------------------------------------------------------------------------

    def changed(self, before: Uplink, now: Uplink) -> None:
        """The public address has changed, and is in use."""
        self._tell()
        if before.address is not None and before.address != now.address:
            self._queue("down", self._link(before, before.address), wait=False)
        if now.address is not None and before.address != now.address:
            self._queue("up", self._link(now, now.address), wait=now.interface.remote is not None)

    def _link(self, uplink: Uplink, address: Ip4) -> Link:
        remote = uplink.interface.remote
        local = show_ip(address)
        known = Link(uplink.interface.name, local=local, remote="" if remote is None else show_ip(remote))
        word = self._words.get(uplink.interface.name)
        return word if word is not None and word.local in ("", local) else known

    def _queue(self, event: str, link: Link, *, wait: bool) -> None:
        if not self._commands(event):
            return
        self._waiting.append((event, link, wait))
        while len(self._waiting) > _MOST_WAITING:
            skipped = self._waiting.pop(0)
            _log.warning("commands skipped", event_=skipped[0], reason="too many changes while commands run")
        if self._work_task is None:
            self._work_task = self.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                event, link, wait = self._waiting.pop(0)
                if wait:
                    link = await self._word(link)
                for command in self._commands(event):
                    await self._run(event, command, link)
        finally:
            self._work_task = None

    async def _word(self, link: Link) -> Link:
        """The link as a hook tells of it, if one does soon."""
        try:
            async with asyncio.timeout(_WORD):
                while (word := self._words.get(link.interface)) is None or word.local not in ("", link.local):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return link
        return word

    def _commands(self, event: str) -> Sequence[str]:
        settings = self.settings()
        return settings.up_commands if event == "up" else settings.down_commands

    async def _run(self, event: str, command: str, link: Link) -> None:
        argv = [*shlex.split(command), *link.arguments()]
        more = {"VPNMASQ_EVENT": event, "VPNMASQ_INTERFACE": link.interface, "VPNMASQ_ADDRESS": link.local}
        outcome = await programs.run(argv, seconds=self.settings().command_timeout, more=more)
        for line in outcome.output.splitlines()[:_MOST_LINES]:
            _log.info("command says", command=argv[0], line=line[:_LONGEST_LINE])
        self.failures.pop(command, None)
        if outcome.failure:
            _log.warning("command failed", command=argv[0], why=outcome.failure)
            self.failures[command] = f"{event}_commands: {argv[0]}: {outcome.failure}"
        else:
            _log.info("command done", command=argv[0], link=event)
