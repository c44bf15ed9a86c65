"""The fast path in the kernel: eBPF programs at the ingress of our interfaces.

A flow has a slot: what its packets leave with, and its counters, in memory that we and the kernel share. A
packet finds its slot by the table of flows. So handing over a flow is one system call, and reading back none.
"""

import mmap
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final

from protocols.actions import Shortcut, Side
from protocols.offload import Carried
from relay.fastpath import abi
from relay.fastpath.libbpf import Libbpf
from relay.fastpath.links import Links
from relay.fastpath.routes import Routes, Way
from relay.fastpath.ways import Ways
from relay.kernel import KernelError

#: Where the build puts the object.
OBJECT: Final = Path(__file__).with_name("vpnmasq.bpf.o")

#: Flows looked at in one go: some milliseconds' worth.
_SLICE: Final = 4096
#: Attached by clsact, flows hold this much longer than somebody looks after them, in nanoseconds.
_LEASE: Final = 5_000_000_000
_FOREVER: Final = (1 << 64) - 1
_NANO: Final = 1e-9


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
                "apt-get install clang libbpf-dev libbpf1, then install vpnmasq again",
            )
        self._library = library = Libbpf()
        with ExitStack() as stack:
            self._object = stack.enter_context(library.load(path, {abi.FLOWS: most, abi.SLOTS: most}))
            self._flows, self._hops = (self._object.map_fd(name) for name in (abi.FLOWS, abi.HOPS))
            self._memory = stack.enter_context(
                mmap.mmap(self._object.map_fd(abi.SLOTS), most * abi.SLOT_SIZE)
            )
            self._lease = stack.enter_context(mmap.mmap(self._object.map_fd(abi.LEASE), mmap.PAGESIZE))
            self._routes = Routes()
            stack.callback(self._routes.close)
            self._links = Links(library, instance, tcx=tcx)
            stack.callback(self._links.close)
            self._open = stack.pop_all()
        self._ways = Ways(self._routes, self._write_way, self._turn)
        #: Used last, a slot is used anew last: the kernel may still be counting a packet there.
        self._free = deque(range(most))
        self._numbers: dict[int, tuple[int, bytes, Shortcut]] = {}
        self._owners: dict[bytes, int] = {}
        self._packets: dict[int, int] = {}
        self._turned: Iterator[int] = iter(())
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

    # -- flows -----------------------------------------------------------------------------------------

    def offload(self, number: int, shortcut: Shortcut) -> bool:
        """As FastPath."""
        if not self._free:
            self.refused += 1
            return False
        slot = self._free.popleft()
        way = self._ways.enter(shortcut.target, slot)
        at = slot * abi.SLOT_SIZE
        key = abi.key(shortcut)
        self._memory[at : at + abi.SLOT_SIZE] = abi.slot(shortcut, way or 0)
        if way is None or self._library.update(self._flows, key, abi.SLOT_INDEX.pack(slot)):
            if way is not None:
                self._ways.leave(shortcut.target, slot)
            self._free.append(slot)
            self.refused += 1
            return False
        self._numbers[number] = slot, key, shortcut
        self._owners[key] = number
        self._packets[number] = 0
        return True

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
        del self._packets[number]
        self._free.append(slot)

    # -- reading back ----------------------------------------------------------------------------------

    def carried(self, number: int) -> Carried | None:
        """As FastPath."""
        found = self._numbers.get(number)
        if found is None:
            return None
        at = found[0] * abi.SLOT_SIZE + abi.COUNTERS_AT
        packets, octets, last, sequence = abi.COUNTERS.unpack_from(self._memory, at)
        return packets, octets, last * _NANO, sequence

    def changes(self) -> Iterator[tuple[int, Carried]]:
        """As FastPath."""
        if self._links.durable:
            self._hold(time.monotonic_ns() + _LEASE)
        numbers = list(islice(self._turned, _SLICE))
        if not numbers:
            self._turned = iter(list(self._numbers))
            numbers = list(islice(self._turned, _SLICE))
        for number in numbers:
            carried = self.carried(number)
            if carried is not None and carried[0] != self._packets[number]:
                self._packets[number] = carried[0]
                yield number, carried

    # -- routes ----------------------------------------------------------------------------------------

    def rerouted(self) -> None:
        """Routes have changed: ``follow`` must be called until it is through."""
        self._ways.changed()

    def follow(self) -> bool:
        """Take some flows to their new ways; whether there are others left."""
        return self._ways.follow()

    def _write_way(self, number: int, way: Way) -> None:
        value = abi.hop(way.interface, way.gateway, way.mtu)
        self._library.update(self._hops, abi.SLOT_INDEX.pack(number), value)

    def _turn(self, slot: int, way: int) -> None:
        abi.HOP_INDEX.pack_into(self._memory, slot * abi.SLOT_SIZE + abi.HOP_AT, way)

    def _hold(self, until: int) -> None:
        abi.LEASE_END.pack_into(self._lease, 0, until)

    def close(self) -> None:
        """As FastPath."""
        self._hold(0)
        self._open.close()
