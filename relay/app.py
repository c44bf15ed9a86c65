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
from pathlib import Path
from random import SystemRandom

import click
import structlog
import uvloop

from protocols.addr import Ip4, parse_ip, show_ip
from protocols.admission import Addresses
from protocols.gateway import Gateway
from protocols.policy import Policy
from relay import addresses, config, logs, privileges, systemd
from relay.announce import announce
from relay.aside import aside
from relay.cli.exits import Exit
from relay.config import ConfigError, Settings
from relay.config.capabilities import needed_capabilities
from relay.config.interfaces import lan_interfaces
from relay.config.models import Config
from relay.control.daemon import FastPathStatus, ReloadRefused, WanStatus
from relay.control.feed import Feed
from relay.control.server import ApiOptions, ControlError, ControlServer
from relay.datapath import Datapath, Observer
from relay.interceptor import Interceptor
from relay.kernel import KernelError
from relay.lock import Held, hold, hold_name
from relay.mender import Mender
from relay.options import RunOptions
from relay.plan import Plan
from relay.privileges import Capability
from relay.service import Service
from relay.sockets import raw
from relay.sockets.splices import Splices
from relay.sockets.streams import Streams
from relay.station import Station
from relay.wakeup import Ticker

_log = structlog.get_logger("vpnmasq")

#: Seconds between log lines about dropped packets.
_REPORT = 60.0

#: Seconds between looks at connections of which an end does not read.
_LOOK = 30.0

#: Two sockets a session, for those that are forwarded a pipe each way as well, and some for ourselves.
_FILES_PER_SESSION = 2
_FILES_PER_FORWARD = 6
_FILES_OF_OURS = 128

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
    settings = config.load(options.config, sets, os.environ)
    unserved = config.unserved(settings)
    if unserved:
        raise ConfigError(tuple(unserved))
    return settings


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
            self._service.state = "ready"
            systemd.ready(self._service.summary())
            _log.info("ready", interface=self._service.wan.interface)
            house.enter_context(Ticker(_REPORT, lambda: systemd.status(self._service.summary())))
            watched = systemd.watchdog_interval()
            if watched is not None:
                # On the loop that carries the packets: when it is stuck, nothing is said.
                house.enter_context(Ticker(watched / 3, systemd.watchdog))
            await self._stopping.wait()
            systemd.stopping("waiting for sessions to end")
            await self._drain()

    # -- moving in and out -----------------------------------------------------------------------------

    async def _move_in(self, house: AsyncExitStack) -> None:
        settings, loop = self._settings.config, asyncio.get_running_loop()
        policy = self._policy(self._settings)
        interface = await aside(_wan_interface, settings)
        lan_interfaces = await aside(_lan_interfaces, settings, interface)
        self._addresses = await aside(_addresses, settings, interface)
        gateway = Gateway(policy, self._addresses, random=SystemRandom().randrange)
        self._service = service = self._make_service(gateway, policy, interface)
        sender = raw.sender(settings.sockets.receive_buffer)
        house.callback(sender.close)
        observer = Observer(service.dropped, service.session_event)
        service.datapath = datapath = Datapath(gateway, sender, loop.time, observer)
        house.callback(datapath.stop)
        streams = Streams(
            number=gateway.new_stream, report=datapath.stream_event, spawn=self._tasks.create_task
        )
        splices = Splices(number=gateway.new_stream, report=datapath.forward_event)
        datapath.attach(streams, splices)
        house.callback(streams.abort_all)
        house.callback(splices.abort_all)
        house.enter_context(Ticker(_LOOK, splices.look))
        service.station = Station(
            datapath,
            streams,
            splices,
            lan_interfaces,
            interface,
            settings.sockets.receive_buffer,
            settings.sockets.batch,
        )
        self._plan = Plan.of(policy, self._addresses.wan)
        house.callback(service.station.close)
        house.callback(service.holds.close)
        await service.station.open(self._plan)
        self._interceptor = Interceptor(settings, lan_interfaces, interface)
        house.push_async_callback(self._interceptor.remove)
        service.attention = self._interceptor.attention
        await self._interceptor.install(self._plan, policy.lan_networks)
        house.enter_context(Mender(self._interceptor, self._tasks.create_task))
        house.callback(service.feed.close, "the gateway stops")
        await house.enter_async_context(ControlServer(service, _api_options(self._settings)))
        house.enter_context(Ticker(_REPORT, service.report_drops))
        privileges.keep_only()
        watched = [*lan_interfaces, interface]
        watcher = addresses.Watcher(watched, self._interface_changed)
        await house.enter_async_context(watcher)
        self._indexes = {name: found.index for name, found in watcher.current.items()}

    def _make_service(self, gateway: Gateway, policy: Policy, interface: str) -> Service:
        clock = asyncio.get_running_loop().time
        wan = self._addresses.wan
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
            fastpath=FastPathStatus(
                mode=self._settings.config.fastpath.mode, active=False, reason="not built in"
            ),
            started_at=clock(),
        )

    async def _drain(self) -> None:
        service = self._service
        service.state = "draining"
        service.gateway.drain()
        if len(service.gateway.registry):
            await _within(self._options.drain, self._drained)
        service.datapath.perform(service.gateway.close("the gateway stops", now=service.clock()))
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

    # -- reload and address changes --------------------------------------------------------------------

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
            await self._live_at(await aside(_addresses, settings.config, self._service.wan.interface))
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
        plan = Plan.of(policy, self._addresses.wan)
        await service.station.change(plan)
        # Also when the plan is the same: the networks may differ, and our table may have been flushed.
        await self._interceptor.install(plan, policy.lan_networks)
        self._plan = plan
        service.policy = policy
        service.datapath.perform(service.gateway.reload(policy, now=service.clock()))

    def _interface_changed(self, interface: addresses.Interface) -> None:
        self._tasks.create_task(self._follow(interface))

    async def _follow(self, interface: addresses.Interface) -> None:
        """An interface is another one under the same name, or has other addresses."""
        async with self._changing:
            service = self._service
            try:
                if interface.index is not None and interface.index != self._indexes[interface.name]:
                    await service.station.reopen(interface.name, self._plan)
                    self._indexes[interface.name] = interface.index
                    _log.info("interface replaced", interface=interface.name)
                await self._live_at(await aside(_addresses, self._settings.config, service.wan.interface))
            except (KernelError, OSError) as error:
                # It may be gone again already; then the next change is the one that matters.
                _log.error("interface not in use", interface=interface.name, error=str(error))

    async def _live_at(self, found: Addresses) -> None:
        """Use these addresses everywhere; sessions on a lost one end."""
        service, old = self._service, self._addresses
        if found == old:
            return
        self._addresses = found
        service.datapath.perform(service.gateway.address_changed(found, now=service.clock()))
        service.datapath.perform(service.gateway.resend(now=service.clock()))
        if found.wan == old.wan:
            return
        shown = None if found.wan is None else show_ip(found.wan)
        _log.info("address changed", interface=service.wan.interface)
        service.feed.address_changed(service.wan.interface, service.wan.address, shown)
        service.wan = WanStatus(service.wan.interface, shown, service.clock(), service.wan.changes + 1)
        await self._live_by(service.policy)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


# -- what the configuration leaves to the machine ------------------------------------------------------


def _wan_interface(settings: Config) -> str:
    name = settings.wan.interface
    return addresses.default_interface() if name == "auto" else name


def _lan_interfaces(settings: Config, wan: str) -> tuple[str, ...]:
    found = lan_interfaces(settings, addresses.all_addresses(), wan)
    if not found:
        raise KernelError(
            "no interface has an address in lan.networks", "name the LAN's interfaces in lan.interfaces"
        )
    return found


def _addresses(settings: Config, interface: str) -> Addresses:
    if settings.wan.address != "auto":
        wan: Ip4 | None = parse_ip(settings.wan.address)
    else:
        wan = addresses.interface(interface).address
    own = set(addresses.own_addresses())
    return Addresses(wan, frozenset(own | {wan} if wan is not None else own))


def _api_options(settings: Settings) -> ApiOptions:
    api = settings.config.api
    return ApiOptions(
        socket=api.socket,
        http=api.http,
        token=settings.token,
        read_group=api.read_group,
        admin_group=api.admin_group,
    )
