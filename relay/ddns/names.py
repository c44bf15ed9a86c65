"""All names that follow the public address."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from protocols.addr import show_ip
from relay import uplink
from relay.config.models import Ddns
from relay.control.daemon import NameStatus
from relay.ddns.updater import Announce, Updater
from relay.uplink import Uplink

#: Starts a coroutine in the daemon's task group.
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Names:
    """One Updater for each entry, and the task that it runs in. Use as an async context manager."""

    def __init__(self, announce: Announce, spawn: Spawn) -> None:
        self._announce = announce
        self._spawn = spawn
        self._running: dict[str, tuple[Updater, asyncio.Task[None]]] = {}
        self._address: tuple[str | None, str] = (None, "")

    async def __aenter__(self) -> "Names":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.set(())

    @property
    def updaters(self) -> list[Updater]:
        """All of them."""
        return [updater for updater, _ in self._running.values()]

    async def set(self, entries: Sequence[Ddns]) -> None:
        """Look after these names from now on; those whose entry is the same go on, and are
        tried again at once when something is wrong with them.
        """
        wanted = {entry.name: entry for entry in entries}
        gone = [name for name, (u, _) in self._running.items() if wanted.get(name) != u.entry]
        ended = [self._running.pop(name)[1] for name in gone]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        for updater in self.updaters:
            if updater.problem:
                updater.hurry()
        for name, entry in wanted.items():
            if name not in self._running:
                # Here and not above: dnspython takes 2.4 MB, and most gateways have no name.
                from relay.ddns.provision import updater_of

                updater = updater_of(entry, self._announce, asyncio.get_running_loop().time)
                updater.point_at(*self._address)
                self._running[name] = updater, self._spawn(updater.run())

    def changed(self, _before: Uplink, now: Uplink) -> None:
        """The public address is another one."""
        address = None if now.address is None else show_ip(now.address)
        self._address = (address, "" if now.address is None else uplink.useless(now.address))
        for updater in self.updaters:
            updater.point_at(*self._address)

    def status(self) -> list[NameStatus]:
        """How they are."""
        return [
            NameStatus(
                name=updater.entry.name,
                host=updater.entry.host,
                provider=updater.entry.provider,
                state=updater.state.value,
                addresses=sorted(updater.found),
                problem=updater.problem,
                updates=updater.updates,
            )
            for updater in self.updaters
        ]

    def problems(self) -> list[str]:
        """What is wrong with names, for ``status``."""
        return [updater.problem for updater in self.updaters if updater.problem]
