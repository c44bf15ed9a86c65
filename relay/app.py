"""The composition root: what is made in which order, and unmade in the opposite one.

    configuration → privileges → lock → interfaces → sockets → routing and netfilter → API → ready

The kernel brings packets to us only once we can take them, and stops before we cannot. Everything is an
entry of one AsyncExitStack: whatever fails, what was done before it is undone.
"""

import asyncio
import contextlib
import os
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import SystemRandom

import click
import structlog
import uvloop

from protocols.addr import show_ip
from protocols.gateway import Gateway
from protocols.policy import Policy
from relay import addresses, config, logs, privileges, systemd, uplink
from relay.announce import announce
from relay.aside import aside
from relay.cli.exits import Exit
from relay.config import ConfigError, Settings
from relay.config.capabilities import needed_capabilities
from relay.config.interfaces import lan_interfaces
from relay.config.models import Config
from relay.control.daemon import ReloadRefused, WanStatus
from relay.control.feed import Feed
from relay.control.server import ApiOptions, ControlError, ControlServer
from relay.datapath import Datapath, Observer
from relay.ddns.names import Names
from relay.fastpath import FastPath
from relay.fastpath.handover import Handover, choose
from relay.fastpath.kernel import needs_privilege
from relay.following import Follower
from relay.interceptor import Interceptor
from relay.kernel import KernelError
from relay.links import Links
from relay.lock import Held, hold, hold_name
from relay.mender import Mender
from relay.options import RunOptions
from relay.plan import Plan
from relay.privileges import Capability
from relay.service import Service
from relay.sockets import raw
from relay.sockets.splices import Splices
from relay.sockets.streams import Streams
from relay.state.file import StateFile
from relay.state.keeper import Keeper
from relay.state.revival import revived
from relay.station import Station
from relay.uplink import Uplink
from relay.wakeup import Ticker
from relay.watcher import Watcher

_log = structlog.get_logger("vpnmasq")

#: Seconds between log lines about dropped packets.
_REPORT = 60.0

#: Seconds between looks at connections of which an end does not read, and for what cannot work.
_LOOK = 30.0

#: Two sockets a session, for those that are forwarded a pipe each way as well, and some for ourselves.
_FILES_PER_SESSION = 2
_FILES_PER_FORWARD = 6
_FILES_OF_OURS = 128

#: A session is a flow each way, but ESP has more while it changes its keys.
_FLOWS_PER_SESSION = 2

#: Seconds that closing streams get to deliver their last messages.
_LAST_WORDS = 2.0


def main(options: RunOptions) -> int:
    """Run the gateway until it is told to stop; the exit status."""
    try:
        settings = _load(options)
        wanted = settings.config
        logs.configure(wanted.log.level, wanted.log.format)
        announce(settings)
        privileges.take_up()
        missing = privileges.missing(Capability[name] for name in needed_capabilities(wanted))
        if missing:
            return _complain(Exit.NO_PRIVILEGE, *privileges.explain(missing).splitlines())
        per_session = _FILES_PER_FORWARD if wanted.forward else _FILES_PER_SESSION
        files = _open_files(wanted.limits.sessions * per_session)
        lock = Path(f"{wanted.api.socket}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with hold(lock), hold_name(wanted.name):
            return int(uvloop.run(Daemon(settings, options, files).run()))
    except ConfigError as error:
        return _complain(Exit.BAD_CONFIGURATION, *(str(problem) for problem in error.problems))
    except (KernelError, ControlError, Held) as error:
        return _complain(Exit.FAILED, str(error))
    except OSError as error:
        return _complain(Exit.FAILED, f"{error.filename or 'the kernel'}: {error.strerror}")


def _load(options: RunOptions) -> Settings:
    sets = options.sets if options.socket is None else (*options.sets, f"api.socket={options.socket}")
    return config.load(options.config, sets, os.environ)


def _open_files(for_sessions: int) -> int:
    """Raise the limit of open files for so many as far as we may; what it is then."""
    needed = for_sessions + _FILES_OF_OURS
    files = privileges.raise_open_files(needed)
    if files < needed:
        advice = "raise LimitNOFILE= in the systemd unit, or ulimit -n, or lower limits.sessions"
        _log.warning("not enough files for limits.sessions", files=files, needed=needed, advice=advice)
    return files


def _complain(status: Exit, *lines: str) -> int:
    for line in lines:
        click.echo(f"vpnmasq: {line}", err=True)
    return status


class Daemon:
    """One run of the gateway, on one loop."""

    def __init__(self, settings: Settings, options: RunOptions, files: int) -> None:
        self._settings = settings
        self._streams = max(0, files - _FILES_OF_OURS)
        self._options = options
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal says stop.

        Raises:
            KernelError, ControlError, OSError: the kernel refuses what the configuration takes.
        """
        try:
            await self._serve()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:  # which it was is of interest, and not that it was in a group
                raise group.exceptions[0] from None
            raise
        return Exit.DONE

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as house:
            self._tasks = tasks
            # First, so that nothing stays in the kernel when we are stopped half-way.
            self._watch_signals()
            async with self._changing:
                await self._move_in(house)
            self._begin()
            house.enter_context(Ticker(_REPORT, lambda: systemd.status(self._service.summary())))
            watched = systemd.watchdog_interval()
            if watched is not None:
                # On the loop that carries the packets: when it is stuck, nothing is said.
                house.enter_context(Ticker(watched / 3, systemd.watchdog))
            await self._stopping.wait()
            systemd.stopping("waiting for sessions to end")
            await self._drain()

    def _begin(self) -> None:
        """Serve, as soon as there is an address."""
        service = self._service
        if service.state == "starting" and service.wan.address is not None:
            service.state = "ready"
            _log.info("ready", interface=service.wan.interface)
        elif service.state == "starting":
            _log.warning("waiting", reason=service.summary())
        # Also while we wait: a network that comes late is no reason for systemd to end us.
        if service.state != "draining":
            systemd.ready(service.summary())

    # -- moving in and out -----------------------------------------------------------------------------

    async def _move_in(self, house: AsyncExitStack) -> None:
        settings, loop = self._settings.config, asyncio.get_running_loop()
        policy = self._policy(self._settings)
        first = uplink.found(settings, await aside(uplink.eyes(settings, ())), None)
        interface = first.interface.name
        lan_interfaces = await aside(_lan_interfaces, settings, interface)
        fastpath = self._fastpath(house)
        read = None if fastpath.reason else fastpath.carried
        make = partial(Gateway, policy, first.addresses, random=SystemRandom().randrange, carried=read)
        state = _state_file(settings)
        revived_ = revived(make, state, now=loop.time())
        gateway = revived_.gateway
        self._service = service = self._make_service(gateway, policy, first)
        service.remarks.append(revived_.attention)
        sender = raw.sender(settings.sockets.receive_buffer)
        house.callback(sender.close)
        observer = Observer(service.dropped, service.session_event)
        service.datapath = datapath = Datapath(gateway, sender, loop.time, observer)
        house.callback(datapath.stop)
        streams = Streams(
            number=gateway.new_stream, report=datapath.stream_event, spawn=self._tasks.create_task
        )
        splices = Splices(number=gateway.new_stream, report=datapath.forward_event)
        handover = Handover(
            fastpath,
            gateway,
            datapath.drain,
            carried=datapath.recovery.carried,
            required=settings.fastpath.mode == "require",
        )
        service.handover = house.enter_context(handover)
        datapath.attach(streams, splices, handover)
        house.callback(streams.abort_all)
        house.callback(splices.abort_all)
        house.enter_context(Ticker(_LOOK, splices.look))
        house.enter_context(Ticker(_LOOK, service.look))
        service.station = Station(
            datapath,
            streams,
            splices,
            handover,
            lan_interfaces,
            interface,
            settings.sockets.receive_buffer,
            settings.sockets.batch,
        )
        # Before the first packet, so that each session is heard of before what becomes of it.
        datapath.perform(revived_.actions)
        plan = Plan.of(policy, first.address)
        house.callback(service.station.close)
        house.callback(service.holds.close)
        await service.station.open(plan)
        self._interceptor = Interceptor(settings, lan_interfaces, interface)
        house.push_async_callback(self._interceptor.remove)
        service.attention = self._interceptor.attention
        self._follower = self._make_follower(first)
        scene = await aside(uplink.eyes(settings, lan_interfaces))
        self._follower.indexes |= {name: scene.interfaces[name].index for name in lan_interfaces}
        # With this the WAN's sockets are opened, too, if it is there.
        await self._follower.live_in(scene, loop.time())
        await self._interceptor.install(self._follower.plan, policy.lan_networks, service.station.answer_port)
        self._tasks.create_task(self._follower.send_again())
        await service.others.look(self._follower.plan)
        house.enter_context(Mender(self._interceptor, self._tasks.create_task))
        service.names = await house.enter_async_context(Names(service.feed.publish, self._tasks.create_task))
        service.links = Links(
            settings=lambda: self._settings.config.dynamic,
            uplink=lambda: self._follower.uplink,
            hint=lambda: self._watcher.hint(),
            spawn=self._tasks.create_task,
        )
        house.callback(service.links.close)
        if state is not None:
            keeper = Keeper(state, gateway, loop.time, self._tasks.create_task)
            service.keeper = house.enter_context(keeper)
            service.remarks.append(keeper.attention)
        house.callback(service.feed.close, "the gateway stops")
        await house.enter_async_context(ControlServer(service, _api_options(self._settings)))
        house.enter_context(Ticker(_REPORT, service.report_drops))
        if handover.active and needs_privilege():
            privileges.keep_only(privileges.KEPT | {Capability.CAP_BPF})
        else:
            privileges.keep_only()
        self._watcher = Watcher(
            uplink.eyes(settings, lan_interfaces),
            self._follower.changed,
            whole=uplink.whole(settings),
            routes=settings.wan.interface == "auto",
        )
        await house.enter_async_context(self._watcher)
        # What changed before it was watched.
        await self._follower.live_in(self._watcher.current, loop.time())
        await service.names.set(settings.ddns)
        for told in (service.links.changed, service.names.changed):
            told(uplink.NOWHERE, self._follower.uplink)
            self._follower.listeners.append(told)

    def _fastpath(self, house: AsyncExitStack) -> FastPath:
        """The kernel's fast path, or what stands in its place."""
        settings = self._settings.config
        most = settings.limits.sessions * _FLOWS_PER_SESSION
        fastpath = choose(settings.fastpath.mode, most, instance=settings.name)
        house.callback(fastpath.close)
        if fastpath.reason:
            _log.info("no fast path", reason=fastpath.reason)
        else:
            _log.info("fast path in the kernel", flows=most)
        return fastpath

    def _make_follower(self, first: Uplink) -> Follower:
        return Follower(
            service=self._service,
            interceptor=self._interceptor,
            changing=self._changing,
            settings=lambda: self._settings.config,
            spawn=self._tasks.create_task,
            arrived=self._begin,
            uplink=first,
        )

    def _make_service(self, gateway: Gateway, policy: Policy, first: Uplink) -> Service:
        clock = asyncio.get_running_loop().time
        interface, wan = first.interface.name, first.address
        return Service(
            instance=self._settings.config.name,
            gateway=gateway,
            clock=clock,
            wan=WanStatus(interface, None if wan is None else show_ip(wan), clock()),
            policy=policy,
            reloader=self._reload,
            feed=Feed(clock),
            throttle=logs.Throttle(clock),
            emptied=self._drained.set,
            fastpath_mode=self._settings.config.fastpath.mode,
            started_at=clock(),
        )

    async def _drain(self) -> None:
        service = self._service
        service.state = "draining"
        service.gateway.drain()
        if len(service.gateway.registry):
            await _within(self._options.drain, self._drained)
        why = "the gateway stops"
        # What lives by no connection of ours can go on when we are back.
        service.datapath.perform(service.gateway.hang_up(why, now=service.clock()))
        if service.keeper is not None:
            service.keeper.write_last()
        service.datapath.perform(service.gateway.close(why, now=service.clock()))
        gone = service.station.streams.gone
        if len(service.station.streams):
            gone.clear()
            await _within(_LAST_WORDS, gone)
        _log.info("stopped")

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._drained.set()  # told twice: wait no longer
        else:
            self._drained.clear()
        self._stopping.set()

    # -- reload --------------------------------------------------------------------

    def _hang_up(self) -> None:
        self._tasks.create_task(self._reload_and_log())

    async def _reload_and_log(self) -> None:
        systemd.reloading()
        try:
            await self._reload()
        except ReloadRefused as refused:
            for problem in refused.problems:
                _log.error("reload refused, nothing was changed", problem=problem)
        finally:
            systemd.ready(self._service.summary())

    async def _reload(self) -> list[str]:
        """Apply what differs in the file now, or nothing at all.

        Raises:
            ReloadRefused: the file is wrong, asks for what takes a restart, or the kernel refuses.
        """
        async with self._changing:
            try:
                settings = _load(self._options)
            except ConfigError as error:
                raise ReloadRefused([str(problem) for problem in error.problems]) from error
            fixed = config.needs_restart(self._settings, settings)
            if fixed:
                raise ReloadRefused([f"{key}: can only change with a restart" for key in fixed])
            missing = privileges.missing(Capability[name] for name in needed_capabilities(settings.config))
            if missing:
                raise ReloadRefused(privileges.explain(missing).splitlines())
            changed = config.differences(self._settings, settings)
            before, self._settings = self._settings, settings
            try:
                await self._live_by(self._policy(settings))
            except (KernelError, OSError) as error:
                self._settings = before
                await self._live_by(self._policy(before))
                raise ReloadRefused([str(error)]) from error
            logs.configure(settings.config.log.level, settings.config.log.format)
            await self._follower.look_again()
            await self._service.others.look(self._follower.plan)
            await self._service.names.set(settings.config.ddns)
            _log.info("reloaded", changed=changed)
            return changed

    def _policy(self, settings: Settings) -> Policy:
        return config.policy(settings, streams=self._streams)

    async def _live_by(self, policy: Policy) -> None:
        """Use a policy, at the addresses of now, everywhere.

        Raises:
            KernelError, OSError: the kernel refuses; no session has been ended then.
        """
        service = self._service
        plan = Plan.of(policy, self._follower.uplink.address)
        await service.station.change(plan)
        # Also when the plan is the same: the networks may differ, and our table may have been flushed.
        await self._interceptor.install(plan, policy.lan_networks, service.station.answer_port)
        service.policy = policy
        service.datapath.perform(service.gateway.reload(policy, now=service.clock()))


async def _within(seconds: float, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


# -- what the configuration leaves to the machine ------------------------------------------------------


def _lan_interfaces(settings: Config, wan: str) -> tuple[str, ...]:
    found = lan_interfaces(settings, addresses.all_addresses(), wan)
    if not found:
        raise KernelError(
            "no interface has an address in lan.networks", "name the LAN's interfaces in lan.interfaces"
        )
    return found


def _state_file(settings: Config) -> StateFile | None:
    return StateFile(Path(settings.state.directory), settings.name) if settings.state.directory else None


def _api_options(settings: Settings) -> ApiOptions:
    api = settings.config.api
    return ApiOptions(
        socket=api.socket,
        http=api.http,
        token=settings.token,
        read_group=api.read_group,
        admin_group=api.admin_group,
    )
