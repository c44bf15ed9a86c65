"""The fast path in the kernel: eBPF programs at the ingress of our interfaces.

What they share with us is memory: the table of flows, where they find what a packet is to leave with, and
count. So handing a flow over takes no system call, and reading back none either.
"""

import mmap
import os
import re
import secrets
import socket
import time
from collections.abc import Set
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from protocols.actions import Shortcut, Side
from protocols.offload import Carried
from relay.fastpath import Look, Prefix, abi
from relay.fastpath.drivers import Drivers
from relay.fastpath.libbpf import Libbpf, Object, libbpf
from relay.fastpath.links import Links
from relay.fastpath.netdev import Netdev
from relay.fastpath.routes import Routes, Way
from relay.fastpath.syscall import let_go
from relay.fastpath.table import Table, homes, lines
from relay.fastpath.ways import Ways
from relay.kernel import KernelError
from relay.privileges import Capability, missing

#: Where the build puts the object.
OBJECT: Final = Path(__file__).with_name("vpnmasq.bpf.o")

#: Attached by clsact, flows hold this much longer than somebody looks after them, in nanoseconds.
_LEASE: Final = 5_000_000_000
_FOREVER: Final = (1 << 64) - 1

#: The kernel since which whoever has a map may change it, without CAP_BPF.
_OPEN_MAPS: Final = (5, 19)


def needs_privilege() -> bool:
    """Whether CAP_BPF is needed for longer than to load the program."""
    release = re.findall(r"\d+", os.uname().release)[:2]
    return tuple(map(int, release)) < _OPEN_MAPS


class KernelFastPath:
    """Implements FastPath.

    ``most``: flows there is room for. ``tcx``: whether to try that before clsact. ``xdp``: whether to have
    drivers run programs, too.

    Raises:
        KernelError: no object, no libbpf, a kernel too old, no privilege, or the verifier's words.
    """

    reason = ""

    def __init__(
        self, most: int, *, instance: str, path: Path = OBJECT, tcx: bool = True, xdp: bool = False
    ) -> None:
        if not path.exists():
            raise KernelError(
                "the program for the kernel was not built",
                "run contrib/fastpath in the checkout, or install a package that was built where clang is",
            )
        if lacking := missing((Capability.CAP_BPF, Capability.CAP_NET_ADMIN)):
            raise KernelError(f"it takes {' and '.join(one.name for one in lacking)}")
        self._library = library = libbpf()
        with ExitStack() as stack:
            netdev = Netdev() if xdp else None
            if netdev is not None:
                stack.callback(netdev.close)
            self._object = stack.enter_context(_loaded(library, path, most, netdev))
            self._hops = self._object.map_fd(abi.HOPS)
            self._control = stack.enter_context(mmap.mmap(self._object.map_fd(abi.CONTROLS), mmap.PAGESIZE))
            seed = secrets.randbits(64), secrets.randbits(64)
            self._control[: abi.CONTROL_SIZE] = abi.control(_FOREVER, seed, homes(most))
            self._table = Table(self._object.map_fd(abi.FLOWS), most, seed)
            stack.callback(self._table.close)
            self._routes = Routes(netdev)
            stack.callback(self._routes.close)
            self._links = Links(library, instance, tcx=tcx)
            stack.callback(self._links.close)
            self._drivers: Drivers | None = None
            if netdev is not None:
                self._drivers = Drivers(library, self._object.map_fd(abi.STATIONS), netdev)
                stack.callback(self._drivers.close)
            self._open = stack.pop_all()
        self._ways = Ways(self._routes, self._write_way, self._table.turn)
        self._most = most
        #: Line, key and what it amounts to of each flow; by key, the one that packets find.
        self._numbers: dict[int, tuple[int, bytes, Shortcut]] = {}
        self._owners: dict[bytes, int] = {}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._numbers)

    # -- interfaces ------------------------------------------------------------------------------------

    def attach(self, name: str, side: Side) -> None:
        """As FastPath."""
        try:
            interface = socket.if_nametoindex(name)
        except OSError:
            self.detach(name)
            return
        ethernet = self._routes.has_ethernet(interface)
        if ethernet is None:
            raise KernelError(f"{name} is neither Ethernet nor an interface of IP alone")
        program = self._object.program_fd(abi.PROGRAMS[side, ethernet])
        self._links.attach(name, interface, program)
        if self._drivers is not None:
            self._drivers.attach(name, interface, self._object.program_fd(abi.DRIVERS[side]))

    def detach(self, name: str) -> None:
        """As FastPath."""
        if self._drivers is not None:
            self._drivers.detach(name)
        self._links.detach(name)

    @property
    def drivers(self) -> dict[str, str]:
        """As FastPath."""
        return {} if self._drivers is None else self._drivers.problems

    @property
    def driver_links(self) -> dict[int, int]:
        """As FastPath."""
        return {} if self._drivers is None else self._drivers.links

    def inherit(self, links: dict[int, int]) -> None:
        """As FastPath."""
        if self._drivers is not None:
            self._drivers.inherit(links)
        else:
            let_go(links.values())

    # -- flows -----------------------------------------------------------------------------------------

    def prepare(self, number: int, shortcut: Shortcut) -> bool:
        """As FastPath."""
        key = abi.key(shortcut)
        line = self._place(key, number)
        if line is not None:
            way = self._ways.enter(shortcut.target, line)
            if way is not None:
                self._table.fill(line, abi.leaves(shortcut, way))
                self._numbers[number] = line, key, shortcut
                return True
            self._table.free(line)
        self.refused += 1
        return False

    def offload(self, number: int) -> None:
        """As FastPath."""
        line, key, _ = self._numbers[number]
        if (replaced := self._owners.get(key)) is not None:
            self._table.hide(self._numbers[replaced][0])
        self._table.show(line, key)
        self._owners[key] = number

    def _place(self, key: bytes, number: int) -> int | None:
        if len(self._numbers) >= self._most:
            return None
        try:
            return self._table.take(key, number)
        except OSError:
            return None

    def unload(self, number: int) -> None:
        """As FastPath."""
        found = self._numbers.pop(number, None)
        if found is None:
            return
        line, key, shortcut = found
        # What has replaced the flow stays.
        if self._owners.get(key) == number:
            del self._owners[key]
            self._table.hide(line)
        self._ways.leave(shortcut.target, line)
        self._table.free(line)

    # -- reading back ----------------------------------------------------------------------------------

    def carried(self, number: int) -> Carried | None:
        """As FastPath."""
        found = self._numbers.get(number)
        return None if found is None else self._table.carried(found[0])

    @property
    def portion(self) -> float:
        """As FastPath."""
        return self._table.portion

    def look(self) -> Look:
        """As FastPath."""
        if self._links.durable:
            self._hold(time.monotonic_ns() + _LEASE)
        return self._table.look()

    # -- routes ----------------------------------------------------------------------------------------

    def rerouted(self, where: Set[Prefix] | None = None) -> None:
        """As FastPath."""
        self._ways.changed(where)

    def neighbours_changed(self, changed: set[tuple[int, int]] | None) -> None:
        """As FastPath."""
        self._ways.neighbours_changed(changed)

    def look_at_ways(self) -> None:
        """As FastPath."""
        self._ways.look()
        if self._drivers is not None:
            self._drivers.look()

    def follow(self) -> bool:
        """As FastPath."""
        return self._ways.follow()

    def _write_way(self, number: int, way: Way) -> None:
        value = abi.hop(way.interface, way.gateway, way.mtu, *self._routes.means(way))
        self._library.update(self._hops, abi.INDEX.pack(number), value)

    def pptp_served(self, *, served: bool) -> None:
        """As FastPath."""
        abi.PPTP.pack_into(self._control, abi.PPTP_AT, served)

    def _hold(self, until: int) -> None:
        abi.LEASE_END.pack_into(self._control, 0, until)

    def leave(self) -> None:
        """As FastPath."""
        if self._drivers is not None:
            self._drivers.close()
        self._links.close()  # what another process has put in our place stays

    def close(self) -> None:
        """As FastPath."""
        self._hold(0)
        self._open.close()


def _loaded(library: Libbpf, path: Path, most: int, netdev: Netdev | None) -> Object:
    """The object; where drivers are not to run programs, or the kernel refuses those, without them.

    Raises:
        KernelError: as KernelFastPath.
    """
    sizes, drivers = {abi.FLOWS: lines(most)}, abi.DRIVERS.values()
    if netdev is not None and not netdev.problem:
        try:
            return library.load(path, sizes, abi.SHAPES)
        except KernelError as error:
            netdev.problem = str(error)
    return library.load(path, sizes, abi.SHAPES, without=drivers)
