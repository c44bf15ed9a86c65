"""Moves flows from the sockets to the kernel and back, and brings back what the kernel has counted.

A flow is handed over at the end of a turn of the loop, after its packets that have come so far were taken
from the sockets: so the kernel overtakes none of them, but for those that come in this very moment.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Self

import structlog

from protocols.actions import Offload, Shortcut, Side
from protocols.gateway import Gateway
from protocols.offload import Carried
from relay.fastpath import FastPath
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.null import NullFastPath
from relay.fastpath.routes import NEIGHBOURS, ROUTES, heard_of, rerouted, subscription
from relay.kernel import KernelError
from relay.wakeup import Ticker, Wakeup

_log = structlog.get_logger("vpnmasq")

#: Seconds in which all that the kernel has carried is looked at, a part at a time.
_ROUND: Final = 1.0
#: Seconds between two looks at what the kernel gives no word of; each may have to wait for who changes links.
_WAYS: Final = 1.0


def choose(mode: str, most: int, *, instance: str, xdp: bool) -> FastPath:
    """The fast path that this machine allows, by ``fastpath.mode``; ``most``: flows it has room for.

    ``xdp``: whether drivers are to carry some, too.

    Raises:
        KernelError: it is required, and there is none.
    """
    if mode == "off":
        return NullFastPath('switched off (fastpath.mode = "off")')
    try:
        return KernelFastPath(most, instance=instance, xdp=xdp)
    except KernelError as error:
        if mode == "require":
            raise
        return NullFastPath(str(error))


class Handover:
    """Between a core that decides and a fast path that carries. Use as a context manager on the loop.

    ``drain`` takes from the sockets what is there; ``carried`` is told what the kernel has forwarded.
    ``required``: whether an interface must not do without.
    """

    def __init__(
        self,
        fastpath: FastPath,
        gateway: Gateway,
        drain: Callable[[], None],
        *,
        carried: Callable[[Iterable[Carried]], None],
        required: bool,
    ) -> None:
        self._fastpath = fastpath
        self._gateway = gateway
        self._drain = drain
        self._carried = carried
        self._required = required
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, Shortcut] = {}
        self._following = False
        self._subscription = None if fastpath.reason else subscription(ROUTES)
        self._neighbours = None if fastpath.reason else subscription(NEIGHBOURS)
        self._next_look = Wakeup(self._look_in_turn)
        #: When it is due, and how much of all flows the last one was at.
        self._due = 0.0
        self._share = 1.0
        self._ways = Ticker(_WAYS, self._look_at_ways)
        #: By interface, what was said of its driver.
        self._drivers: dict[str, str] = {}
        #: The interfaces whose packets it sees, and why it does not see those of others.
        self._attached: dict[str, Side] = {}
        self._problems: dict[str, tuple[Side, str]] = {}

    def __enter__(self) -> Self:
        if self._subscription is not None:
            self._loop.add_reader(self._subscription.fileno(), self._rerouted)
            self._due = self._loop.time() + _ROUND
            self._next_look.follow(self._due)
            self._ways.__enter__()
        if self._neighbours is not None:
            self._loop.add_reader(self._neighbours.fileno(), self._neighbours_changed)
        return self

    def __exit__(self, *_: object) -> None:
        self._pending.clear()
        if self._subscription is not None:
            self._next_look.cancel()
            self._ways.__exit__()
            self._loop.remove_reader(self._subscription.fileno())
            self._subscription.close()
        if self._neighbours is not None:
            self._loop.remove_reader(self._neighbours.fileno())
            self._neighbours.close()

    @property
    def reason(self) -> str:
        """Why nothing, or not everything, is carried by the kernel; empty when all that can is."""
        return self._fastpath.reason or "; ".join(dict.fromkeys(text for _, text in self._problems.values()))

    @property
    def active(self) -> bool:
        """Whether there is a fast path, and interfaces that it can be used at."""
        return not self._fastpath.reason and bool(self._attached or not self._problems)

    @property
    def drivers(self) -> dict[str, str]:
        """As FastPath."""
        return self._fastpath.drivers

    @property
    def driver_links(self) -> dict[int, int]:
        """As FastPath."""
        return self._fastpath.driver_links

    def inherit(self, links: dict[int, int]) -> None:
        """As FastPath."""
        self._fastpath.inherit(links)
        self._tell_of_drivers()

    @property
    def carries(self) -> int:
        """How many flows the kernel carries now."""
        return len(self._fastpath)

    @property
    def refused(self) -> int:
        """How many it had no room for."""
        return self._fastpath.refused

    # -- interfaces ------------------------------------------------------------------------------------

    def attach(self, name: str, side: Side) -> None:
        """Have the kernel look at the packets that arrive on an interface.

        Raises:
            KernelError: it refuses, and the fast path is required.
        """
        self._forget(name)
        try:
            self._fastpath.attach(name, side)
        except KernelError as error:
            if self._required:
                raise
            self._problems[name] = side, str(error)
            _log.warning("no fast path", interface=name, reason=str(error))
        else:
            self._attached[name] = side
        self._tell_of_drivers()

    def detach(self, name: str) -> None:
        """The interface is used no more."""
        self._forget(name)
        self._fastpath.detach(name)

    def _tell_of_drivers(self) -> None:
        """Say once how each driver does."""
        before, self._drivers = self._drivers, self._fastpath.drivers
        for name, problem in self._drivers.items():
            if before.get(name) != problem:
                _log.info("not in the driver" if problem else "in the driver", interface=name, reason=problem)

    def _forget(self, name: str) -> None:
        self._attached.pop(name, None)
        self._problems.pop(name, None)

    def _is_blind(self, side: Side) -> bool:
        """Whether the fast path will see no packet of a side, as far as can be told."""
        failed = any(where is side for where, _ in self._problems.values())
        return failed and side not in self._attached.values()

    # -- flows -----------------------------------------------------------------------------------------

    def pptp_served(self, *, served: bool) -> None:
        """As FastPath."""
        self._fastpath.pptp_served(served=served)

    def offload(self, action: Offload) -> None:
        """Hand a flow over soon."""
        if not self._pending:
            self._loop.call_soon(self._hand_over)
        self._pending[action.flow] = action.shortcut

    def unload(self, flow: int) -> None:
        """Take a flow back at once."""
        self._pending.pop(flow, None)
        self._fastpath.unload(flow)

    def leave(self) -> None:
        """Let another process's fast path have the interfaces, and count what ours has carried."""
        self._fastpath.leave()
        self._gateway.offloads.refresh_all()

    def _hand_over(self) -> None:
        # What takes time comes first: no packet is to come between the sockets' last and the kernel's first.
        ready = [flow for flow, shortcut in self._pending.items() if self._prepare(flow, shortcut)]
        refused = self._pending.keys() - ready
        self._drain()
        for flow in ready:
            if self._pending.pop(flow, None) is not None:
                self._fastpath.offload(flow)
        for flow in refused:
            if self._pending.pop(flow, None) is not None:
                self._gateway.offload_refused(flow)
        if ready:
            self._hasten()
        if self._pending:  # what has come by the sockets' last packets
            self._loop.call_soon(self._hand_over)

    def _hasten(self) -> None:
        # With flows that the last look could not know of, all are to have their turn within a second, too.
        self._due = min(self._due, self._loop.time() + _ROUND * self._fastpath.portion)
        self._next_look.follow(self._due)

    def _prepare(self, flow: int, shortcut: Shortcut) -> bool:
        return not self._is_blind(shortcut.side) and self._fastpath.prepare(flow, shortcut)

    def look(self) -> None:
        """Tell the core what some of the flows have carried; all have their turn in a round."""
        changes, self._share = self._fastpath.look()
        if changes:
            self._gateway.counters_seen(changes)
            self._carried(carried for _, carried in changes)

    def _look_in_turn(self) -> None:
        self.look()
        # From when this one was due: else a round would take longer, for timers are always late.
        self._due = max(self._due + _ROUND * self._share, self._loop.time())
        self._next_look.follow(self._due)

    # -- routes ----------------------------------------------------------------------------------------

    def _rerouted(self) -> None:
        assert self._subscription is not None
        self._fastpath.rerouted(rerouted(self._subscription))
        if not self._following:
            self._following = True
            self._loop.call_soon(self._follow)

    def _look_at_ways(self) -> None:
        self._fastpath.look_at_ways()
        self._tell_of_drivers()

    def _neighbours_changed(self) -> None:
        assert self._neighbours is not None
        self._fastpath.neighbours_changed(heard_of(self._neighbours))

    def _follow(self) -> None:
        self._following = self._fastpath.follow()
        if self._following:
            self._loop.call_soon(self._follow)
