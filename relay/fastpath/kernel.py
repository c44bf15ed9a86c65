"""The fast path in the kernel: eBPF programs at the ingress of our interfaces.

A flow has a slot: what its packets leave with, and its counters, in memory that we and the kernel share. A
packet finds its slot by the table of flows. So handing over a flow is one system call, and reading back none.
"""

import mmap
import os
import re
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from protocols.actions import Shortcut, Side
from protocols.offload import Carried
from relay.fastpath import abi
from relay.fastpath.libbpf import libbpf
from relay.fastpath.links import Links
from relay.fastpath.routes import Routes, Way
from relay.fastpath.slots import Slots
from relay.fastpath.ways import Ways
from relay.kernel import KernelError
from relay.privileges import Capability, missing

#: Where the build puts the object.
OBJECT: Final = Path(__file__).with_name("vpnmasq.bpf.o")

#: Flows whose counters are looked at in one go …
_SLICE: Final = 16384
#: … and how often that is to be done a second, so that two for each of 65,536 sessions have their turn.
LOOKS: Final = 8
#: A slot is used anew after so many others: the kernel may still be counting a packet there.
_REST: Final = 1024
#: Attached by clsact, flows hold this much longer than somebody looks after them, in nanoseconds.
_LEASE: Final = 5_000_000_000
_FOREVER: Final = (1 << 64) - 1
_NANO: Final = 1e-9

#: The kernel since which whoever has a map may change it, without CAP_BPF.
_OPEN_MAPS: Final = (5, 19)


def needs_privilege() -> bool:
    """Whether CAP_BPF is needed for longer than to load the program."""
    release = re.findall(r"\d+", os.uname().release)[:2]
    return tuple(map(int, release)) < _OPEN_MAPS


class KernelFastPath:
    """Implements FastPath.

    ``most``: flows there is room for. ``tcx``: whether to try that before clsact.

    Raises:
        KernelError: no object, no libbpf, a kernel too old, no privilege, or the verifier's words.
    """

    reason = ""

    def __init__(self, most: int, *, instance: str, path: Path = OBJECT, tcx: bool = True) -> None:
        if not path.exists():
            raise KernelError(
                "the program for the kernel was not built",
                "run contrib/fastpath in the checkout, or install a package that was built where clang is",
            )
        if lacking := missing((Capability.CAP_BPF, Capability.CAP_NET_ADMIN)):
            raise KernelError(f"it takes {' and '.join(one.name for one in lacking)}")
        self._library = library = libbpf()
        with ExitStack() as stack:
            sizes = {abi.FLOWS: most, abi.SLOTS: most}
            self._object = stack.enter_context(library.load(path, sizes, abi.SHAPES))
            self._flows, self._hops = (self._object.map_fd(name) for name in (abi.FLOWS, abi.HOPS))
            self._slots = Slots(self._object.map_fd(abi.SLOTS), most)
            stack.callback(self._slots.close)
            self._lease = stack.enter_context(mmap.mmap(self._object.map_fd(abi.LEASE), mmap.PAGESIZE))
            self._routes = Routes()
            stack.callback(self._routes.close)
            self._links = Links(library, instance, tcx=tcx)
            stack.callback(self._links.close)
            self._open = stack.pop_all()
        self._ways = Ways(self._routes, self._write_way, self._turn)
        self._most = most
        #: Slots that have been used, and those of them that are free, the one that is for longest first.
        self._used = 0
        self._free: deque[int] = deque()
        self._numbers: dict[int, tuple[int, bytes, Shortcut]] = {}
        self._owners: dict[bytes, int] = {}
        #: By slot: which flow has it, or had it last; and its packets when it was looked at last.
        self._flow_at = [0] * most
        self._packets = [0] * most
        self._next_look = 0
        self.refused = 0
        self._hold(_FOREVER)

    def __len__(self) -> int:
        return len(self._numbers)

    # -- interfaces ------------------------------------------------------------------------------------

    def attach(self, name: str, side: Side) -> None:
        """As FastPath."""
        try:
            interface = socket.if_nametoindex(name)
        except OSError:
            self._links.detach(name)
            return
        ethernet = self._routes.has_ethernet(interface)
        if ethernet is None:
            raise KernelError(f"{name} is neither Ethernet nor an interface of IP alone")
        program = self._object.program_fd(abi.PROGRAMS[side, ethernet])
        self._links.attach(name, interface, program)

    def detach(self, name: str) -> None:
        """As FastPath."""
        self._links.detach(name)

    # -- flows -----------------------------------------------------------------------------------------

    def offload(self, number: int, shortcut: Shortcut) -> bool:
        """As FastPath."""
        slot = self._take_slot()
        if slot is None:
            self.refused += 1
            return False
        way = self._ways.enter(shortcut.target, slot)
        at = slot * abi.SLOT_SIZE
        key = abi.key(shortcut)
        self._slots.memory[at : at + abi.SLOT_SIZE] = abi.slot(shortcut, way or 0)
        if way is None or self._library.update(self._flows, key, abi.SLOT_INDEX.pack(slot)):
            if way is not None:
                self._ways.leave(shortcut.target, slot)
            self._free.append(slot)
            self.refused += 1
            return False
        self._numbers[number] = slot, key, shortcut
        self._owners[key] = number
        self._flow_at[slot] = number
        self._packets[slot] = 0
        return True

    def _take_slot(self) -> int | None:
        """A free slot, of the first ones if possible: there is less to look at then."""
        if self._used < self._most and len(self._free) < _REST and self._slots.reach(self._used + 1):
            self._used += 1
            return self._used - 1
        return self._free.popleft() if self._free else None

    def unload(self, number: int) -> None:
        """As FastPath."""
        found = self._numbers.pop(number, None)
        if found is None:
            return
        slot, key, shortcut = found
        # What has replaced the flow stays.
        if self._owners[key] == number:
            del self._owners[key]
            self._library.delete(self._flows, key)
        self._ways.leave(shortcut.target, slot)
        self._free.append(slot)

    # -- reading back ----------------------------------------------------------------------------------

    def carried(self, number: int) -> Carried | None:
        """As FastPath."""
        found = self._numbers.get(number)
        if found is None:
            return None
        at = found[0] * abi.SLOT_SIZE + abi.COUNTERS_AT
        packets, octets, last, sequence = abi.COUNTERS.unpack_from(self._slots.memory, at)
        return packets, octets, last * _NANO, sequence

    def changes(self) -> Iterator[tuple[int, Carried]]:
        """As FastPath."""
        if self._links.durable:
            self._hold(time.monotonic_ns() + _LEASE)
        if not self._numbers:
            return
        start, known = self._next_look, self._packets
        end = min(start + _SLICE, self._used)
        seen, before = self._slots.carried[start:end].tolist(), known[start:end]
        self._next_look = end if end < self._used else 0
        if seen == before:
            return
        for slot, packets in enumerate(seen, start):
            if packets != known[slot]:
                known[slot] = packets
                number = self._flow_at[slot]
                carried = self.carried(number)
                if carried is not None:
                    yield number, carried

    # -- routes ----------------------------------------------------------------------------------------

    def rerouted(self) -> None:
        """As FastPath."""
        self._ways.changed()

    def neighbours_changed(self, changed: set[tuple[int, int]] | None) -> None:
        """As FastPath."""
        self._ways.neighbours_changed(changed)

    def look_at_ways(self) -> None:
        """As FastPath."""
        self._ways.look()

    def follow(self) -> bool:
        """As FastPath."""
        return self._ways.follow()

    def _write_way(self, number: int, way: Way) -> None:
        value = abi.hop(way.interface, way.gateway, way.mtu, *self._routes.means(way))
        self._library.update(self._hops, abi.SLOT_INDEX.pack(number), value)

    def _turn(self, slot: int, way: int) -> None:
        abi.HOP_INDEX.pack_into(self._slots.memory, slot * abi.SLOT_SIZE + abi.HOP_AT, way)

    def _hold(self, until: int) -> None:
        abi.LEASE_END.pack_into(self._lease, 0, until)

    def leave(self) -> None:
        """As FastPath."""
        self._links.close()  # what another process has put in our place stays

    def close(self) -> None:
        """As FastPath."""
        self._hold(0)
        self._open.close()
