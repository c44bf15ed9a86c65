"""The table of flows: memory that we and the kernel share. The kernel looks for flows there, and counts.

It has a line for each flow. By the hash of its key a flow has a home, and lies there or, if that is taken, in
the next free line; the home says how far behind it a search has to go. The other side is bpf/table.h.
"""

import mmap
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from protocols.offload import Carried
from relay.fastpath import Look, abi
from relay.fastpath.parts import NANO, Parts

#: A line is used anew after so many seconds: the kernel may be at work on a packet of the flow there was.
_REST: Final = 0.1

#: What a line is.
_FREE, _TAKEN, _RESTING = range(3)

# bpf/table.h
_GOLDEN: Final = 0x9E3779B97F4A7C15
_WORD: Final = (1 << 64) - 1


def homes(most: int) -> int:
    """Lines at which a search may begin, with ``most`` flows: hardly ever is one in another's way."""
    return 2 * most


def lines(most: int) -> int:
    """All lines: the last home has some behind it, too."""
    return homes(most) + abi.MOST_REACH


class Table:
    """Where flows lie; ``most``: how many there may be, ``seed``: what the hash begins with, two words."""

    def __init__(
        self,
        descriptor: int,
        most: int,
        seed: tuple[int, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._descriptor = descriptor
        self._seed = seed
        self._homes = homes(most)
        self._lines = lines(most)
        self._state = bytearray(self._lines)
        #: By line that is taken, its flow's home.
        self._home_of: dict[int, int] = {}
        self._resting: deque[tuple[float, int]] = deque()
        self._parts = Parts()
        # Mapped with the first flow: from then on it counts as our memory.
        self._memory: mmap.mmap | None = None
        #: Of all lines, each of abi.COUNTERS.
        self._counters: list[memoryview] = []

    def _map(self) -> mmap.mmap:
        if self._memory is None:
            self._memory = mmap.mmap(self._descriptor, self._lines * abi.FLOW_SIZE)
            with memoryview(self._memory) as whole:
                for kind, lines in abi.COUNTERS_OF_ALL:
                    with whole.cast(kind) as elements:
                        self._counters.append(elements[lines])
        return self._memory

    # -- places ----------------------------------------------------------------------------------------

    def _home(self, key: bytes) -> int:
        first, second = abi.KEY_WORDS.unpack(key)
        value = (first ^ self._seed[0]) * _GOLDEN & _WORD
        value = (value ^ value >> 32 ^ second ^ self._seed[1]) * _GOLDEN & _WORD
        value = (value ^ value >> 32) * _GOLDEN & _WORD
        home: int = (value >> 32) * self._homes >> 32
        return home

    def take(self, key: bytes, flow: int) -> int | None:
        """A line for a flow with this key; None if there is none where it would be looked for.

        ``flow`` is the number by which ``look`` speaks of it.

        Raises:
            OSError: the kernel does not let us have the table's memory.
        """
        self._map()
        now = self._clock()
        while self._resting and self._resting[0][0] <= now:
            self._set_free(self._resting.popleft()[1])
        home = self._home(key)
        end = home + abi.MOST_REACH + 1
        line = self._state.find(_FREE, home, end)
        if line < 0:
            line = self._state.find(_RESTING, home, end)  # rather than none
        if line < 0:
            return None
        self._state[line] = _TAKEN
        self._home_of[line] = home
        if line - home > self._reach(home):
            self._set_reach(home, line - home)
        self._parts.put(line, flow)
        return line

    def free(self, line: int) -> None:
        """The line's flow is gone: hidden before, or never shown."""
        self._state[line] = _RESTING
        self._resting.append((self._clock() + _REST, line))
        home = self._home_of.pop(line)
        if line - home == self._reach(home):
            others = (at - home for at in range(home, line) if self._home_of.get(at) == home)
            self._set_reach(home, max(others, default=0))
        self._parts.drop(line)

    def _set_free(self, line: int) -> None:
        if self._state[line] == _RESTING:
            self._state[line] = _FREE

    def _reach(self, home: int) -> int:
        reach: int = abi.REACH.unpack_from(self._map(), home * abi.FLOW_SIZE + abi.REACH_AT)[0]
        return reach

    def _set_reach(self, home: int, reach: int) -> None:
        abi.REACH.pack_into(self._map(), home * abi.FLOW_SIZE + abi.REACH_AT, reach)

    # -- flows -----------------------------------------------------------------------------------------

    def fill(self, line: int, leaves: bytes) -> None:
        """Write down what a flow's packets are to leave with (abi.py), its counters at zero."""
        at = line * abi.FLOW_SIZE
        self._map()[at + abi.KEY.size : at + abi.REACH_AT] = leaves

    def show(self, line: int, key: bytes) -> None:
        """Have the kernel find the flow there, by what its packets carry."""
        memory, at = self._map(), line * abi.FLOW_SIZE
        first, second = abi.KEY_WORDS.unpack(key)
        # No packet's key has a second half of zero: with that half the flow is there, and not before.
        abi.KEY_WORD.pack_into(memory, at, first)
        abi.KEY_WORD.pack_into(memory, at + abi.KEY_WORD.size, second)

    def hide(self, line: int) -> None:
        """Have the kernel find it no more; its counters stay until the line is used anew."""
        memory, at = self._map(), line * abi.FLOW_SIZE
        abi.KEY_WORD.pack_into(memory, at + abi.KEY_WORD.size, 0)
        abi.KEY_WORD.pack_into(memory, at, 0)

    def turn(self, line: int, way: int) -> None:
        """Send a flow another way."""
        abi.HOP_INDEX.pack_into(self._map(), line * abi.FLOW_SIZE + abi.HOP_AT, way)

    # -- reading back ----------------------------------------------------------------------------------

    def carried(self, line: int) -> Carried:
        """What a line's flow has carried."""
        at = line * abi.FLOW_SIZE + abi.COUNTERS_AT
        packets, octets, last, sequence = abi.COUNTERS.unpack_from(self._map(), at)
        return packets, octets, last * NANO, sequence

    @property
    def portion(self) -> float:
        """As FastPath."""
        return self._parts.portion

    def look(self) -> Look:
        """As FastPath."""
        return self._parts.look(self._counters)

    def close(self) -> None:
        """Give the memory back."""
        if self._memory is not None:
            for view in self._counters:
                view.release()
            self._memory.close()
