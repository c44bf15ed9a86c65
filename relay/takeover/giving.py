"""The old process: goes on while the new one gets ready, and leaves when it is."""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from protocols.snapshot import snapshot
from protocols.snapshot.classes import VERSION
from relay import systemd
from relay.control.access import process_of
from relay.following import Follower
from relay.interceptor import Interceptor
from relay.kernel import KernelError
from relay.lock import Locks
from relay.service import Service
from relay.takeover import container, estate
from relay.takeover.channel import PROTOCOL, ChannelError, GivingEnd

_log = structlog.get_logger("vpnmasq.takeover")

#: Seconds that a new process has to get ready: to read its configuration, and then while it holds us up,
#: which is less than a PPTP host waits for an answer (RFC 2637 §3.1.4).
_PREPARATION: Final = 60.0
_PATIENCE: Final = 30.0

#: Records of the snapshot that are made before packets get their turn again.
_AT_ONCE: Final = 16


@dataclass(slots=True)
class Giver:
    """Hands all over that a process has open and knows. ``leave`` is called when that is done."""

    service: Service
    interceptor: Interceptor
    follower: Follower
    locks: Locks
    changing: asyncio.Lock
    leave: Callable[[], None]
    #: Whether somebody is taking over, and whether nothing may change because of it.
    busy: bool = False
    frozen: bool = False

    def refusal(self, asked: dict[str, Any]) -> str:
        """Why a process that introduces itself like this may not take over; empty when it may."""
        service = self.service
        if asked.get("protocol") != PROTOCOL or asked.get("snapshot") != VERSION:
            return (
                f"the running gateway hands over as version {PROTOCOL}.{VERSION}, and the new one takes over "
                f"as {asked.get('protocol')}.{asked.get('snapshot')}: stop the one, then start the other"
            )
        if asked.get("instance") != service.instance:
            return f'the running gateway is "{service.instance}", and the new one "{asked.get("instance")}"'
        if systemd.is_there() and asked.get("place") != systemd.place():
            return (
                "the running gateway is a service, which ends with it, and the new process is none of the "
                "service's: systemctl reload starts one that is"
            )
        if container.ends_with_us():
            return "the container of the running gateway ends with it: replace the container instead"
        if self.busy:
            return "another process is taking over already"
        if service.state == "draining":
            return "the running gateway is about to stop"
        return ""

    async def give(self, connection: socket.socket) -> None:
        """Hand over to the process at the other end; when that fails, go on as if nothing had been."""
        self.busy = True
        process = process_of(connection)
        try:
            _log.info("takeover begins", process=process)
            channel = GivingEnd(connection)
            hello = {"kind": "hello", "process": os.getpid(), "surroundings": systemd.surroundings()}
            await channel.send(hello, self.locks.descriptors())
            async with asyncio.timeout(_PREPARATION):
                await channel.expect("begin")
            async with self.changing:
                await self._hand_over(channel, process)
        except (ChannelError, TimeoutError) as error:
            _log.warning("takeover failed", why=str(error) or "the new process is too slow")
        finally:
            self.busy = False

    async def _hand_over(self, channel: GivingEnd, process: int) -> None:
        self.frozen = True
        try:
            async with self.interceptor.untouched():
                await self._pause()
                async with asyncio.timeout(_PATIENCE):
                    await self._send_estate(channel)
                    await channel.expect("ready")
                self._cease()
                counts = self.service.gateway.registry.counts()
                # Before the new process has anything to say to systemd, which listens to the main one alone.
                systemd.succeeded_by(process)
                await channel.send(estate.last(counts, self.service.datapath.kept()))
        except BaseException:
            self.frozen = False
            await self._resume()
            raise
        self.locks.give_up()
        _log.info("another process has taken over", process=process)
        self.leave()

    async def _pause(self) -> None:
        service = self.service
        service.station.intakes.shut_doors()
        service.datapath.pause()
        service.station.streams.pause()
        service.station.splices.pause()
        if service.keeper is not None:
            await service.keeper.pause()

    async def _send_estate(self, channel: GivingEnd) -> None:
        service, station = self.service, self.service.station
        given = estate.Estate(
            sockets=station.descriptors.open(),
            holds=service.holds.sockets,
            streams=list(station.streams.parts()),
            joints=list(station.splices.parts()),
            drivers=service.handover.driver_links,
        )
        for record, descriptors in estate.described(given):
            await channel.send(record, descriptors)
        header = snapshot((), now=service.clock())
        await channel.send(
            {"kind": "snapshot", "version": header.version, "now": header.now, "schema": header.schema}
        )
        rows = []
        for row in service.gateway.records():
            rows.append(row)
            if len(rows) == _AT_ONCE:
                await channel.send({"kind": "records", "rows": rows})
                await asyncio.sleep(0)
                rows = []
        await channel.send({"kind": "records", "rows": rows})
        await channel.send({"kind": "end"})

    def _cease(self) -> None:
        """Take no more packets, and count what the kernel has carried."""
        self.service.station.intakes.cease()
        self.service.handover.leave()

    async def _resume(self) -> None:
        service, follower = self.service, self.follower
        try:
            service.station.restore(follower.plan)
            await self.interceptor.install(
                follower.plan, service.policy.lan_networks, service.station.answer_port
            )
        except KernelError as error:
            _log.error("not as it was before the takeover", error=str(error))
        if service.keeper is not None:
            service.keeper.resume()
        service.datapath.resume()
        service.station.intakes.begin()
        service.station.streams.resume()
        service.station.splices.resume()
