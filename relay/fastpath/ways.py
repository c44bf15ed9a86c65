"""The ways out of all offloaded flows, kept in step with the kernel's routing.

Flows share them: there is one for each interface and next hop, and a flow's line has its number. When routes
change, every destination is looked up anew, a slice at a time, so that ten thousand of them do not hold up
packets.
"""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from itertools import islice

from protocols.addr import Ip4
from relay.fastpath import Prefix, abi
from relay.fastpath.routes import NO_WAY, Routes, Way

#: Destinations looked up in one go: about five milliseconds' worth.
_SLICE = 256
#: Destinations passed in one go of which a change is not: about a millisecond's worth.
_PASSED = 4096

#: All of them.
_ALL: Prefix = 0, 0

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
        #: Where routes have changed: for this round, by how many bits an address has more; for the next one.
        self._round: dict[int, set[int]] = {}
        self._next: set[Prefix] = set()
        #: Destinations that it is about, as far as they were found and not looked up.
        self._concerned: list[Ip4] = []

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

    def changed(self, where: Set[Prefix] | None) -> None:
        """Routes to these destinations have changed; None: rules or interfaces, and nothing is sure."""
        if where is None:
            self._routes.forget()
            self.neighbours_changed(None)
            where = {_ALL}
        # A round is finished first: with changes without end the last destinations get their turn, too.
        self._next |= where
        if self._stale is None:
            self._begin()

    def _begin(self) -> None:
        """Another round, if any destination is to be looked up."""
        self._round.clear()
        for length, bits in self._next:
            self._round.setdefault(32 - length, set()).add(bits)
        self._next.clear()
        self._stale = iter(list(self._destinations)) if self._round else None

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
        ended = False
        if not self._concerned:
            some = list(islice(self._stale or (), _PASSED))
            found = [one for less, bits in self._round.items() for one in some if one >> less in bits]
            self._concerned += dict.fromkeys(found)
            ended = len(some) < _PASSED
        for target in self._concerned[:_SLICE]:
            self._look_up(target)
        del self._concerned[:_SLICE]
        if ended and not self._concerned:
            self._collect()
            self._begin()
        return self._stale is not None

    def _look_up(self, target: Ip4) -> None:
        destination = self._destinations.get(target)
        if destination is None:
            return
        way = self._way(target)
        if way != destination.way:
            number = self._number(way)
            destination.way = way if number is not None else NO_WAY
            for line in destination.lines:
                self._turn(line, number or 0)

    def _way(self, target: Ip4) -> Way:
        way = self._routes.way(target)
        if way.gateway or way == NO_WAY:
            return way
        own = way._replace(gateway=target)
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
