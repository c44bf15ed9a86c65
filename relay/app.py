"""One run of the gateway, from the command line to the exit status.

configuration → privileges → lock → premises → ready … → draining → gone
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import click
import structlog
import uvloop

from relay import logs, privileges, systemd
from relay.announce import announce
from relay.cli.exits import Exit
from relay.config import ConfigError, Settings
from relay.config.capabilities import needed_capabilities
from relay.control.server import ControlError
from relay.kernel import KernelError
from relay.lock import Held, Locks, hold, hold_name
from relay.options import RunOptions
from relay.premises import Premises
from relay.privileges import Capability
from relay.reload import Reloader, load
from relay.service import Service
from relay.takeover.channel import ChannelError
from relay.takeover.taking import Predecessor, TakeoverError, meet
from relay.wakeup import Ticker

_log = structlog.get_logger("vpnmasq")

#: Seconds between what systemd is told of us.
_REPORT = 60.0

#: Two sockets a session, for those that are forwarded a pipe each way as well, and some for ourselves.
_FILES_PER_SESSION = 2
_FILES_PER_FORWARD = 6
_FILES_OF_OURS = 128

#: Seconds that closing streams get to deliver their last messages.
_LAST_WORDS = 2.0


def main(options: RunOptions, serving: Callable[[], None] = lambda: None) -> int:
    """Run the gateway until it is told to stop; the exit status.

    ``serving`` is called when it serves, or waits for nothing but an address.
    """
    try:
        settings = load(options)
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
        before = meet(wanted.api.socket, wanted.name) if options.takeover else None
        given = (None, None) if before is None else (before.lock, before.name)
        with hold(lock, given[0]) as file, hold_name(wanted.name, given[1]) as name:
            daemon = Daemon(settings, options, files, Locks(file, name), before, serving)
            return int(uvloop.run(daemon.run()))
    except ConfigError as error:
        return _complain(Exit.BAD_CONFIGURATION, *(str(problem) for problem in error.problems))
    except ChannelError as error:
        return _complain(Exit.FAILED, f"the takeover has failed, and the running gateway goes on: {error}")
    except (KernelError, ControlError, Held, TakeoverError) as error:
        return _complain(Exit.FAILED, str(error))
    except OSError as error:
        return _complain(Exit.FAILED, f"{error.filename or 'the kernel'}: {error.strerror}")


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


class _SucceededError(Exception):
    """Another process has taken over: the tasks of this one are to end as they are."""


class Daemon:
    """One run of the gateway, on one loop."""

    def __init__(
        self,
        settings: Settings,
        options: RunOptions,
        files: int,
        locks: Locks,
        predecessor: Predecessor | None,
        serving: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._locks = locks
        self._predecessor = predecessor
        self._serving = serving
        self._succeeded = asyncio.Event()
        self._streams = max(0, files - _FILES_OF_OURS)
        self._options = options
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
            if group.subgroup(_SucceededError):
                return Exit.DONE
            if len(group.exceptions) == 1:  # which it was is of interest, and not that it was in a group
                raise group.exceptions[0] from None
            raise
        return Exit.DONE

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as house:
            self._tasks = tasks
            self._premises = premises = Premises(
                settings=self._settings,
                most_streams=self._streams,
                spawn=tasks.create_task,
                reloader=lambda: self._reloader.reload(),
                emptied=self._drained.set,
                arrived=self._begin,
                locks=self._locks,
                succeeded=self._succeed,
                predecessor=self._predecessor,
            )
            self._reloader = Reloader(premises, self._options)
            # First, so that nothing stays in the kernel when we are stopped half-way.
            self._watch_signals()
            with _all_that_is_made_stays():
                await premises.move_in(house)
            self._begin()
            house.enter_context(Ticker(_REPORT, lambda: systemd.status(self._service.summary())))
            watched = systemd.watchdog_interval()
            if watched is not None:
                # On the loop that carries the packets: when it is stuck, nothing is said.
                house.enter_context(Ticker(watched / 3, systemd.watchdog))
            await self._stopping.wait()
            async with premises.changing:  # a takeover that is under way decides
                if self._succeeded.is_set():
                    await premises.leave()
                    house.pop_all()  # nothing is undone: it is another process's now
                    raise _SucceededError
            systemd.stopping("waiting for sessions to end")
            await self._drain()

    @property
    def _service(self) -> Service:
        return self._premises.service

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
            self._serving()

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

    def _succeed(self) -> None:
        self._succeeded.set()
        self._stopping.set()

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._drained.set()  # told twice: wait no longer
        else:
            self._drained.clear()
        self._stopping.set()

    def _hang_up(self) -> None:
        self._tasks.create_task(self._reloader.reload_and_log())


@contextlib.contextmanager
def _all_that_is_made_stays() -> Iterator[None]:
    """Look for no garbage among what is made now, neither while it is made nor later.

    Of 10,000 calls that go on from a file, looking again and again at the growing heap took 0.9 s of 1.4 (and
    each look later 0.2 s in which no packet passes, 0.04 s without any call). It goes as its references do;
    what refers to itself in a circle, 0.6 KB of each connection that was restored, stays when it has ended.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def _within(seconds: float, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
