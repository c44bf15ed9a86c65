"""Which flows have carried something: their counters are looked at, a part of the flows at a time.

A part is flows whose lines follow each other: not so many that a look at them takes long, however busy they
are, and not so few that there are many. Parts are split as flows come, and joined as they go.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from protocols.offload import Carried
from relay.fastpath import Look

#: Flows of a part, at most, and busy ones after which a look ends: the core's work with them takes longest.
_MOST: Final = 256
#: It ends as well when it was at so many times as many flows.
_STANDING: Final = 8

#: The kernel's times are nanoseconds.
NANO: Final = 1e-9

#: What there is of one of abi.COUNTERS, by line.
Counters = Sequence[int]

#: Takes some lines' of them.
_Reader = Callable[[Counters], tuple[int, ...]]


@dataclass(slots=True)
class _Part:
    """Flows by their lines, in order: memory is read in less time from one end to the other."""

    lines: list[int] = field(default_factory=list)
    flows: list[int] = field(default_factory=list)
    #: Packets when they were looked at last.
    packets: list[int] = field(default_factory=list)
    #: For the lines there are; made when it is needed.
    reader: _Reader | None = None

    def put(self, line: int, flow: int) -> None:
        """A flow comes, which has carried nothing."""
        at = bisect_left(self.lines, line)
        self.lines.insert(at, line)
        self.flows.insert(at, flow)
        self.packets.insert(at, 0)
        self.reader = None

    def drop(self, line: int) -> None:
        """It goes."""
        at = bisect_left(self.lines, line)
        del self.lines[at], self.flows[at], self.packets[at]
        self.reader = None

    def split(self) -> "_Part":
        """The second half, which is no longer here."""
        half = len(self.lines) // 2
        behind = _Part(self.lines[half:], self.flows[half:], self.packets[half:])
        del self.lines[half:], self.flows[half:], self.packets[half:]
        self.reader = None
        return behind

    def join(self, behind: "_Part") -> None:
        """Take what lies behind all that is here."""
        self.lines += behind.lines
        self.flows += behind.flows
        self.packets += behind.packets
        self.reader = None

    def read(self) -> _Reader:
        """What reads all lines in one call, which costs a third of what a call for each does."""
        if self.reader is None:
            first, *others = self.lines
            self.reader = itemgetter(first, *others) if others else lambda counters: (counters[first],)
        return self.reader

    def changes(self, counters: Sequence[Counters]) -> Sequence[tuple[int, Carried]]:
        """Flows that have carried something since they were looked at last."""
        if not self.lines:
            return ()
        read = self.read()
        packets = list(read(counters[0]))
        if packets == self.packets:
            return ()
        before, self.packets = self.packets, packets
        octets, last, sequences = map(read, counters[1:])
        rows = zip(self.flows, before, packets, octets, last, sequences, strict=True)
        return [
            (flow, (now, octets, last * NANO, sequence))
            for flow, then, now, octets, last, sequence in rows
            if now != then
        ]


class Parts:
    """All flows by their lines, and whose turn it is to be looked at. ``most``: of a part."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        #: The first line that is of each part.
        self._starts = [0]
        self._parts = [_Part()]
        #: The next look begins here.
        self._turn = 0

    def _at(self, line: int) -> int:
        return bisect_right(self._starts, line) - 1

    def put(self, line: int, flow: int) -> None:
        """A flow comes, which has carried nothing."""
        at = self._at(line)
        part = self._parts[at]
        part.put(line, flow)
        if len(part.lines) > self._most:
            behind = part.split()
            self._parts.insert(at + 1, behind)
            self._starts.insert(at + 1, behind.lines[0])

    def drop(self, line: int) -> None:
        """It goes."""
        at = self._at(line)
        self._parts[at].drop(line)
        for first in (at, at - 1):
            if 0 <= first < len(self._parts) - 1:
                part, behind = self._parts[first : first + 2]
                if len(part.lines) + len(behind.lines) <= self._most // 2:
                    part.join(behind)
                    del self._parts[first + 1], self._starts[first + 1]

    @property
    def portion(self) -> float:
        """As FastPath."""
        return 1 / len(self._parts)

    def look(self, counters: Sequence[Counters]) -> Look:
        """As FastPath."""
        changes: list[tuple[int, Carried]] = []
        at, flows, parts = self._at(self._turn), 0, 0
        while parts < len(self._parts) and flows < self._most * _STANDING and len(changes) < self._most:
            part = self._parts[at]
            changes += part.changes(counters)
            flows += len(part.lines)
            parts += 1
            at = (at + 1) % len(self._parts)
        self._turn = self._starts[at]
        return Look(changes, parts / len(self._parts))
