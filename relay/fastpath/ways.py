"""The ways out of all offloaded flows, kept in step with the kernel's routing.

Flows share them: there is one for each interface and next hop, and a flow's line has its number. When routes
change, every destination is looked up anew, a slice at a time, so that ten thousand of them do not hold up
packets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from protocols.addr import Ip4
from relay.fastpath import abi
from relay.fastpath.routes import NO_WAY, Routes, Way

#: Destinations looked up in one go: about five milliseconds' worth.
_SLICE = 256

#: While there are fewer ways, destinations that are neighbours themselves have one of their own each, so that
#: the kernel knows how they are reached; further ones share one, and are looked for each time.
_MOST_OWN = abi.MOST_HOPS // 4


@dataclass(slots=True)
class _Destination:
    way: Way
    #: Lines of the flows that go there.
    lines: set[int] = field(default_factory=set)


class Ways:
    """Numbers for ways out. ``write`` puts one into the kernel, ``turn`` gives a flow another one."""

    def __init__(
        self, routes: Routes, write: Callable[[int, Way], None], turn: Callable[[int, int], None]
    ) -> None:
        self._routes = routes
        self._write = write
        self._turn = turn
        self._destinations: dict[Ip4, _Destination] = {}
        #: Number 0 is of none; a number is used anew when nobody has it.
        self._numbers: dict[Way, int] = {NO_WAY: 0}
        self._free = list(range(abi.MOST_HOPS - 1, 0, -1))
        self._stale: Iterator[Ip4] | None = None
        self._again = False

    def enter(self, target: Ip4, line: int) -> int | None:
        """The number of the way to a flow's target; None when there are too many different ones."""
        destination = self._destinations.get(target)
        if destination is None:
            way = self._way(target)
            if self._number(way) is None:
                return None
            destination = self._destinations[target] = _Destination(way)
        destination.lines.add(line)
        return self._numbers[destination.way]

    def leave(self, target: Ip4, line: int) -> None:
        """The flow is gone."""
        destination = self._destinations[target]
        destination.lines.discard(line)
        if not destination.lines:
            del self._destinations[target]

    def changed(self) -> None:
        """Routes, rules or interfaces have changed: nothing is sure any more."""
        self._routes.forget()
        self.neighbours_changed(None)
        # A round is finished first: with changes without end the last destinations get their turn, too.
        self._again = self._stale is not None
        if self._stale is None:
            self._stale = iter(list(self._destinations))

    def neighbours_changed(self, changed: set[tuple[int, int]] | None) -> None:
        """How the next hops with these interfaces and addresses are reached has changed; None: of any."""
        self._write_again(lambda way: changed is None or (way.interface, way.gateway) in changed)

    def look(self) -> None:
        """Follow what the kernel does not tell."""
        changed = self._routes.reprogrammed()
        self._write_again(lambda way: way.interface in changed)

    def _write_again(self, concerns: Callable[[Way], bool]) -> None:
        """See anew how the next hops of these ways are reached."""
        for way, number in self._numbers.items():
            if way.gateway and concerns(way):
                self._write(number, way)

    def follow(self) -> bool:
        """Look up some more destinations; whether there are others left."""
        targets = [] if self._stale is None else list(islice(self._stale, _SLICE))
        for target in targets:
            destination = self._destinations.get(target)
            if destination is None:
                continue
            way = self._way(target)
            if way == destination.way:
                continue
            number = self._number(way)
            destination.way = way if number is not None else NO_WAY
            for line in destination.lines:
                self._turn(line, number or 0)
        if len(targets) < _SLICE:
            self._collect()
            self._stale = iter(list(self._destinations)) if self._again else None
            self._again = False
        return self._stale is not None

    def _way(self, target: Ip4) -> Way:
        way = self._routes.way(target)
        if way.gateway or way == NO_WAY:
            return way
        own = replace(way, gateway=target)
        return own if own in self._numbers or len(self._numbers) < _MOST_OWN else way

    def _number(self, way: Way) -> int | None:
        number = self._numbers.get(way)
        if number is None:
            if not self._free:
                self._collect()
            if not self._free:
                return None
            number = self._numbers[way] = self._free.pop()
            self._write(number, way)
        return number

    def _collect(self) -> None:
        used = {destination.way for destination in self._destinations.values()} | {NO_WAY}
        for way in [way for way in self._numbers if way not in used]:
            self._free.append(self._numbers.pop(way))
