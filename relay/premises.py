"""All that one run of the gateway has open, made in this order and unmade in the opposite one.

    fast path → core → sockets → routing and netfilter → what looks after them → API

The kernel brings packets to us only once we can take them, and stops before we cannot. Everything is an
entry of one AsyncExitStack: whatever fails, what was done before it is undone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from random import SystemRandom
from typing import Any

import structlog

from protocols.addr import show_ip
from protocols.gateway import Gateway
from protocols.policy import Policy
from relay import addresses, config, logs, privileges, uplink
from relay.addresses import Scene
from relay.aside import aside
from relay.config import Settings
from relay.config.interfaces import lan_interfaces
from relay.config.models import Config
from relay.control.daemon import WanStatus
from relay.control.feed import Feed
from relay.control.server import ApiOptions, ControlServer
from relay.datapath import Datapath, Observer
from relay.ddns.names import Names
from relay.fastpath import FastPath
from relay.fastpath.handover import Handover, choose
from relay.fastpath.kernel import needs_privilege
from relay.following import Follower
from relay.intakes import Intakes
from relay.interceptor import Interceptor
from relay.kernel import KernelError
from relay.links import Links
from relay.lock import Locks
from relay.mender import Mender
from relay.plan import Plan
from relay.privileges import Capability
from relay.service import Service
from relay.sockets import raw
from relay.sockets.descriptors import Descriptors
from relay.sockets.splices import Splices
from relay.sockets.strangers import Strangers, keep_out
from relay.sockets.streams import Streams
from relay.state.beginning import begun, state_file, store
from relay.state.keeper import Keeper
from relay.state.store import DescriptorStore
from relay.station import Station
from relay.takeover.estate import Estate
from relay.takeover.giving import Giver
from relay.takeover.taking import Predecessor
from relay.uplink import Uplink
from relay.wakeup import Ticker
from relay.watcher import Watcher

_log = structlog.get_logger("vpnmasq")

#: Seconds between log lines about dropped packets.
_REPORT = 60.0

#: Seconds between looks at connections of which an end does not read, and for what cannot work.
_LOOK = 30.0

#: A session is a flow each way, but ESP has more while it changes its keys.
_FLOWS_PER_SESSION = 2


@dataclass(slots=True)
class Premises:
    """What a run of the gateway lives in. To be made on the running loop.

    ``spawn`` starts a coroutine in the daemon's task group.
    """

    settings: Settings
    #: TCP connections that there are file descriptors for.
    most_streams: int
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    reloader: Callable[[], Awaitable[list[str]]]
    #: Called when the last session has ended, and when the first address has come.
    emptied: Callable[[], None]
    arrived: Callable[[], None]
    locks: Locks
    #: Called when another process has taken over.
    succeeded: Callable[[], None]
    #: Whom we take over from.
    predecessor: Predecessor | None = None
    #: Held by whoever changes rules, addresses or interfaces.
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    service: Service = field(init=False)
    interceptor: Interceptor = field(init=False)
    follower: Follower = field(init=False)
    _watcher: Watcher[Scene] = field(init=False)
    _descriptors: Descriptors = field(init=False)
    _control: ControlServer = field(init=False)
    #: Where control connections survive a crash; None without systemd.
    _store: DescriptorStore | None = None
    _lan: tuple[str, ...] = ()

    @property
    def _config(self) -> Config:
        return self.settings.config

    def policy(self, settings: Settings) -> Policy:
        """The core's part of settings."""
        return config.policy(settings, streams=self.most_streams)

    async def move_in(self, house: AsyncExitStack) -> None:
        """Make everything, to be unmade by ``house``.

        Raises:
            KernelError, ControlError, OSError: the kernel refuses what the configuration takes.
        """
        async with self.changing:
            await self._move_in(house)

    async def _move_in(self, house: AsyncExitStack) -> None:
        first = uplink.found(self._config, await aside(uplink.eyes(self._config, ())), None)
        self._lan = await aside(_lan_interfaces, self._config, first.interface.name)
        fastpath, strangers = self._fastpath(house), self._strangers(house)
        state = state_file(self._config)
        estate = None if self.predecessor is None else self.predecessor.estate()
        self._descriptors = Descriptors({} if estate is None else estate.sockets)
        self._store, kept = store(self._config)
        make, now = self._maker(fastpath, strangers, first), asyncio.get_running_loop().time()
        found = begun(make, state, kept, estate, now=now)
        self.service = service = self._service(found.gateway, first)
        service.strangers = strangers
        service.remarks.append(lambda: found.attention)
        self._open_datapath(house, fastpath)
        self._open_station(house, first)
        if estate is not None:
            self._inherit(estate)
        service.station.streams.adopt(kept)
        # Before the first packet, so that each session is heard of before what becomes of it.
        service.datapath.perform(found.actions)
        await service.station.open(Plan.of(service.policy, first.address))
        if estate is None:
            await service.station.streams.begin()
        await self._intercept(house, first)
        await self._look_after_names_and_links(house)
        house.callback(service.feed.close, "the gateway stops")
        control = ControlServer(service, _api_options(self.settings), self._descriptors)
        await control.prepare()
        house.push_async_callback(control.stop)
        self._control = control
        service.giver = self._giver()
        self._give_up_privileges()
        await self._watch(house)
        if self.predecessor is not None and estate is not None:
            await self._replace(self.predecessor, estate)
        if state is not None:
            self._keep(house, Keeper(state, found.gateway, service.clock, self.spawn))
        await control.serve()
        house.enter_context(Ticker(_REPORT, service.report_drops))

    def _keep(self, house: AsyncExitStack, keeper: Keeper) -> None:
        """Have what there is be written down from time to time."""
        self.service.keeper = house.enter_context(keeper)
        self.service.remarks.append(lambda: keeper.attention)

    # -- the core and its sockets ----------------------------------------------------------------------

    def _fastpath(self, house: AsyncExitStack) -> FastPath:
        """The kernel's fast path, or what stands in its place."""
        settings = self._config
        most = settings.limits.sessions * _FLOWS_PER_SESSION
        wanted = settings.fastpath
        fastpath = choose(wanted.mode, most, instance=settings.name, xdp=wanted.xdp)
        house.callback(fastpath.close)
        if fastpath.reason:
            _log.info("no fast path", reason=fastpath.reason)
        else:
            _log.info("fast path in the kernel", flows=most)
        return fastpath

    def _strangers(self, house: AsyncExitStack) -> Strangers:
        """What keeps strangers' packets from the sockets, or what stands in its place."""
        policy = self.policy(self.settings)
        strangers = keep_out(policy.limits.sessions + policy.ipsec.most_remembered)
        house.callback(strangers.close)
        if strangers.reason:
            _log.info("strangers are not kept out", reason=strangers.reason)
        return strangers

    def _maker(self, fastpath: FastPath, strangers: Strangers, first: Uplink) -> Callable[[], Gateway]:
        return partial(
            Gateway,
            self.policy(self.settings),
            first.addresses,
            random=SystemRandom().randrange,
            carried=None if fastpath.reason else fastpath.carried,
            selective=not strangers.reason,
        )

    def _service(self, gateway: Gateway, first: Uplink) -> Service:
        clock = asyncio.get_running_loop().time
        interface, wan = first.interface.name, first.address
        return Service(
            instance=self._config.name,
            gateway=gateway,
            clock=clock,
            wan=WanStatus(interface, None if wan is None else show_ip(wan), clock()),
            policy=self.policy(self.settings),
            reloader=self.reloader,
            feed=Feed(clock),
            throttle=logs.Throttle(clock),
            emptied=self.emptied,
            fastpath_mode=self._config.fastpath.mode,
            started_at=clock(),
        )

    def _open_datapath(self, house: AsyncExitStack, fastpath: FastPath) -> None:
        service = self.service
        gateway = service.gateway
        sender = raw.sender(self._config.sockets.receive_buffer)
        house.callback(sender.close)
        observer = Observer(service.dropped, service.session_event)
        service.datapath = datapath = Datapath(gateway, sender, service.clock, observer)
        house.callback(datapath.stop)
        handover = Handover(
            fastpath,
            gateway,
            datapath.drain,
            carried=datapath.recovery.carried,
            required=self._config.fastpath.mode == "require",
        )
        handover.pptp_served(served=service.policy.serves_pptp())
        service.handover = house.enter_context(handover)

    def _open_station(self, house: AsyncExitStack, first: Uplink) -> None:
        service, sockets = self.service, self._config.sockets
        gateway, datapath = service.gateway, service.datapath
        streams = Streams(number=gateway.new_stream, report=datapath.stream_event, store=self._store)
        splices = Splices(number=gateway.new_stream, report=datapath.forward_event)
        datapath.attach(streams, splices, service.handover, service.strangers)
        house.callback(streams.abort_all)
        house.callback(splices.abort_all)
        house.enter_context(Ticker(_LOOK, splices.look))
        house.enter_context(Ticker(_LOOK, service.look))
        service.station = station = Station(
            datapath,
            streams,
            splices,
            service.handover,
            service.strangers,
            self._lan,
            first.interface.name,
            sockets.receive_buffer,
            sockets.batch,
            self._descriptors,
            Intakes(open=self.predecessor is None),
        )
        house.callback(station.close)
        house.callback(service.holds.close)
        service.remarks.append(lambda: station.attention)

    # -- what stands around them -----------------------------------------------------------------------

    async def _intercept(self, house: AsyncExitStack, first: Uplink) -> None:
        service = self.service
        self.interceptor = interceptor = Interceptor(
            self._config, self._lan, first.interface.name, shared=self.predecessor is not None
        )
        house.push_async_callback(interceptor.remove)
        self.follower = follower = self._make_follower(first)
        service.remarks += [lambda: interceptor.attention, lambda: follower.attention]
        scene = await aside(uplink.eyes(self._config, self._lan))
        follower.indexes |= {name: scene.interfaces[name].index for name in self._lan}
        # With this the WAN's sockets are opened, too, if it is there.
        await follower.live_in(scene, service.clock())
        await interceptor.install(follower.plan, service.policy.lan_networks, service.station.answer_port)
        self.spawn(follower.send_again())
        await service.others.look(follower.plan)
        service.remarks.append(lambda: service.others.remarks)
        house.enter_context(Mender(interceptor, self.spawn))

    def _make_follower(self, first: Uplink) -> Follower:
        return Follower(
            service=self.service,
            interceptor=self.interceptor,
            changing=self.changing,
            settings=lambda: self._config,
            spawn=self.spawn,
            arrived=self.arrived,
            uplink=first,
        )

    async def _look_after_names_and_links(self, house: AsyncExitStack) -> None:
        service = self.service
        service.names = names = await house.enter_async_context(Names(service.feed.publish, self.spawn))
        service.links = links = Links(
            settings=lambda: self._config.dynamic,
            uplink=lambda: self.follower.uplink,
            hint=lambda: self._watcher.hint(),
            spawn=self.spawn,
        )
        house.callback(links.close)
        service.remarks += [names.problems, links.failures.values]

    async def _watch(self, house: AsyncExitStack) -> None:
        """Follow what changes, also what has changed before it was watched."""
        settings, service, follower = self._config, self.service, self.follower
        self._watcher = Watcher(
            uplink.eyes(settings, self._lan),
            follower.changed,
            whole=uplink.whole(settings),
            routes=settings.wan.interface == "auto",
        )
        await house.enter_async_context(self._watcher)
        await follower.live_in(self._watcher.current, service.clock())
        await service.names.set(settings.ddns)
        for told in (service.links.changed, service.names.changed):
            told(uplink.NOWHERE, follower.uplink)
            follower.listeners.append(told)

    # -- from process to process -----------------------------------------------------------------------

    def _giver(self) -> Giver:
        return Giver(
            service=self.service,
            interceptor=self.interceptor,
            follower=self.follower,
            locks=self.locks,
            changing=self.changing,
            leave=self.succeeded,
        )

    async def leave(self) -> None:
        """Let another process have it all: say so to those who listen, and close our doors."""
        self.service.feed.close("another process has taken over")
        await self._control.leave()

    def _inherit(self, estate: Estate) -> None:
        """Have what the process before us has, but leave it alone as yet."""
        service = self.service
        service.datapath.wait()
        service.holds.sockets = estate.holds
        service.station.streams.adopt(estate.streams)
        service.station.splices.adopt(estate.joints)

    async def _replace(self, predecessor: Predecessor, estate: Estate) -> None:
        """Serve in the place of the process before us. From here on it has left."""
        last, service = predecessor.replace(), self.service
        station = service.station
        self.interceptor.shared = False
        self.locks.take_up()
        service.gateway.registry.recount(last.counts)
        service.handover.inherit(estate.drivers)
        station.intakes.begin()
        service.datapath.begin(last.packets)
        station.splices.cut_others()
        station.streams.keep_all()
        await station.streams.begin()
        self._descriptors.close_others()
        service.holds.close_others()
        _log.info("taken over", sessions=len(service.gateway.registry), kept=len(last.packets))

    def _give_up_privileges(self) -> None:
        in_use = self.service.handover.active or not self.service.strangers.reason
        if in_use and needs_privilege():
            privileges.keep_only(privileges.KEPT | {Capability.CAP_BPF})
        else:
            privileges.keep_only()


def _lan_interfaces(settings: Config, wan: str) -> tuple[str, ...]:
    found = lan_interfaces(settings, addresses.all_addresses(), wan)
    if not found:
        raise KernelError(
            "no interface has an address in lan.networks", "name the LAN's interfaces in lan.interfaces"
        )
    return found


def _api_options(settings: Settings) -> ApiOptions:
    api = settings.config.api
    return ApiOptions(
        socket=api.socket,
        http=api.http,
        token=settings.token,
        read_group=api.read_group,
        admin_group=api.admin_group,
    )
