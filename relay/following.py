"""Keeps up with the public side: when it changes, everything else does, in the order that loses least.

kernel's message → look → core (what ends, what moves) → sockets and filters → served → kernel's tables
                                                      └→ as soon as there is a route: what waits is sent
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from protocols.addr import show_ip
from protocols.admission import Addresses
from relay import uplink
from relay.addresses import Interface, Scene, is_routed
from relay.aside import aside
from relay.config.models import Config
from relay.control.daemon import WanStatus
from relay.interceptor import Interceptor
from relay.kernel import KernelError
from relay.plan import Plan
from relay.service import Service
from relay.uplink import Uplink

_log = structlog.get_logger("vpnmasq")

#: A link has its address before its route: how often, and for how long, the route is looked for.
_ROUTE_POLL = 0.02
_ROUTE_PATIENCE = 5.0

#: Called with the link as it was and as it is, when the address has changed.
Told = Callable[[Uplink, Uplink], None]


@dataclass(slots=True)
class Follower:
    """Lives where the host lives."""

    service: Service
    interceptor: Interceptor
    changing: asyncio.Lock
    settings: Callable[[], Config]
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    #: Told when the first address has come.
    arrived: Callable[[], None]
    uplink: Uplink
    #: Of the interfaces whose sockets are open: another number is another interface.
    indexes: dict[str, int | None] = field(default_factory=dict)
    listeners: list[Told] = field(default_factory=list)
    #: What is to be said of the public side.
    attention: list[str] = field(default_factory=list)
    _newest: tuple[Scene, float] | None = None

    @property
    def addresses(self) -> Addresses:
        """The addresses that are in use."""
        return self.uplink.addresses

    @property
    def plan(self) -> Plan:
        """What follows for sockets and kernel tables."""
        return Plan.of(self.service.policy, self.uplink.address)

    def changed(self, scene: Scene, since: float) -> None:
        """The watcher has found something new; ``since``: when the kernel first said so."""
        self._newest = scene, since
        self.spawn(self._follow())

    async def _follow(self) -> None:
        async with self.changing:
            if self._newest is None:
                return  # what was told twice in a row is dealt with once
            (scene, since), self._newest = self._newest, None
            try:
                await self.live_in(scene, since)
            except (KernelError, OSError) as error:
                # It may be gone again already; then the next change is the one that matters.
                _log.error("interface not in use", error=str(error))

    async def look_again(self) -> None:
        """Live by the settings of now. To be called while nothing else changes.

        Raises:
            KernelError, OSError: the kernel does not answer, or refuses.
        """
        lan = self.service.station.lan_interfaces
        scene = await aside(uplink.eyes(self.settings(), lan))
        await self.live_in(scene, self.service.clock())

    async def live_in(self, scene: Scene, since: float) -> None:
        """Use interfaces and addresses as they are in a scene.

        Raises:
            KernelError, OSError: the kernel refuses.
        """
        before, now = self.uplink, uplink.found(self.settings(), scene, self.uplink.address)
        self.uplink = now
        station = self.service.station
        for name in station.lan_interfaces:
            await self._replaced(scene.interfaces[name])
        if now.interface.name != station.wan_interface or not now.interface.exists:
            station.move_wan(now.interface.name)
            self.interceptor.wan = now.interface.name
            self.indexes.pop(before.interface.name, None)
        await self._replaced(now.interface)
        self.attention = list(uplink.remarks(self.settings(), now))
        self.service.waiting = self.attention[0] if now.address is None else ""
        await self._live_at(before, now, since)

    async def _replaced(self, interface: Interface) -> None:
        if interface.index is None or self.indexes.get(interface.name) == interface.index:
            return
        await self.service.station.reopen(interface.name, self.plan)
        if interface.name in self.indexes:
            _log.info("interface replaced", interface=interface.name)
        self.indexes[interface.name] = interface.index

    async def _live_at(self, before: Uplink, now: Uplink, since: float) -> None:
        service, clock = self.service, self.service.clock
        moved = (now.address, now.interface.name) != (before.address, before.interface.name)
        if moved:
            service.datapath.recovery.changed(since, usable=now.address is not None)
        if now.addresses != before.addresses:
            service.datapath.perform_in_turns(service.gateway.address_changed(now.addresses, now=clock()))
        if not moved:
            return
        shown = None if now.address is None else show_ip(now.address)
        if now.address != before.address:
            _log.info("address changed", interface=now.interface.name)
            service.feed.address_changed(now.interface.name, service.wan.address, shown)
        await service.station.change(self.plan)
        # Only now: who reads it in the status may rely on it.
        service.wan = WanStatus(now.interface.name, shown, clock(), service.wan.changes + 1)
        service.datapath.recovery.done()
        self.spawn(self.send_again())
        if now.address is not None:
            self.arrived()
        for told in self.listeners:
            told(before, now)
        # Last, for none of it depends on the address: a firewall that was loaded anew may have taken it away.
        await self.interceptor.install(self.plan, service.policy.lan_networks, service.station.answer_port)

    async def send_again(self) -> None:
        """Send what nobody has answered yet, as soon as there is a way."""
        service = self.service
        address, until = self.uplink.address, service.clock() + _ROUTE_PATIENCE
        while (peer := service.gateway.awaited()) is not None and self.uplink.address == address:
            if is_routed(show_ip(peer)) or service.clock() > until or service.state == "draining":
                service.datapath.perform(service.gateway.resend(now=service.clock()))
                return
            await asyncio.sleep(_ROUTE_POLL)
