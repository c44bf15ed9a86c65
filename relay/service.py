"""The running gateway as the control API sees it: what it is doing, and what it can be told to do."""

import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from typing import Any, Protocol

import structlog

from protocols import ipv4
from protocols.actions import Drop, SessionChanged, SessionClosed, SessionOpened
from protocols.addr import Ip4, show_ip
from protocols.drops import HELP, Reason
from protocols.esp.told import Told
from protocols.gateway import Gateway
from protocols.policy import Expose, Masquerade, Policy
from protocols.sessions import Session, State, Traffic
from relay.control.daemon import (
    Counted,
    FastPathStatus,
    Link,
    RuleStatus,
    SocketStatus,
    Status,
    StrangersStatus,
    WanStatus,
)
from relay.control.feed import Feed, Subscription
from relay.datapath import Datapath
from relay.ddns.names import Names
from relay.fastpath.handover import Handover
from relay.holds import PortHolds
from relay.links import Links
from relay.logs import Throttle
from relay.others import Others
from relay.sockets.raw import losses
from relay.sockets.strangers import Strangers
from relay.state.keeper import Keeper
from relay.station import Station

_log = structlog.get_logger("vpnmasq")

#: What one has to do something about, if it has happened at all.
_TO_BE_TOLD = (Reason.LIMIT_FILES,)

#: Oddities of this many pairs of hosts are shown.
_MOST_WARNINGS = 5

#: As what is counted that the kernel keeps from our sockets, by the protocol.
_STRANGERS = {ipv4.ESP: Reason.ESP_STRANGER, ipv4.GRE: Reason.STRANGER}

#: Refusals of which the operator has to know who is in whose way, and for how long (HOWTO §6.2).
_NAMED = frozenset({Reason.ESP_BLOCKED, Reason.ESP_SQUELCHED, Reason.ESP_REFUSED})


class Handing(Protocol):
    """Hands all of it over to another process."""

    @property
    def frozen(self) -> bool:
        """Whether nothing may change, because that is under way."""

    def refusal(self, asked: dict[str, Any]) -> str:
        """Why a process may not take over; empty when it may."""

    async def give(self, connection: socket.socket) -> None:
        """Hand over, and leave; or go on as before."""


@dataclass(slots=True)
class Service:
    """Implements relay.control.daemon.Daemon."""

    instance: str
    gateway: Gateway
    clock: Callable[[], float]
    wan: WanStatus
    policy: Policy
    reloader: Callable[[], Awaitable[list[str]]]
    feed: Feed
    throttle: Throttle
    #: Called when the last session has ended.
    emptied: Callable[[], None]
    fastpath_mode: str
    started_at: float
    state: str = "starting"
    others: Others = field(default_factory=Others)
    #: Asked for what an operator should look at now, in whole sentences.
    remarks: list[Callable[[], Iterable[str]]] = field(default_factory=list)
    #: Why there is no public address; empty when there is one.
    waiting: str = ""
    #: Writes down what is to survive; None when nothing is.
    keeper: Keeper | None = None
    datapath: Datapath = field(init=False)
    station: Station = field(init=False)
    handover: Handover = field(init=False)
    strangers: Strangers = field(init=False)
    holds: PortHolds = field(default_factory=PortHolds)
    links: Links = field(init=False)
    names: Names = field(init=False)
    giver: Handing = field(init=False)
    _reported: dict[Reason, int] = field(default_factory=dict)
    #: What was logged once, and is not again.
    _said: set[str] = field(default_factory=set)
    #: Sessions that were logged as established, so that their end is too.
    _stood: set[str] = field(default_factory=set)

    # -- told by the datapath --------------------------------------------------------------------------

    def dropped(self, drop: Drop) -> None:
        """Log and announce a refusal, but not every one of a flood."""
        if drop.detail and self.throttle.allows(drop.reason.value):
            held_back = self.throttle.held(drop.reason.value)
            who = {"detail": drop.detail} if drop.reason in _NAMED else {}
            _log.info("refused", reason=drop.reason.value, held_back=held_back, **who)
            _log.debug("refused", reason=drop.reason.value, detail=drop.detail)
            self.feed.refused(drop.reason.value, detail=drop.detail)

    def session_event(self, event: SessionOpened | SessionChanged | SessionClosed) -> None:
        """Log and announce what became of a session."""
        session = event.session
        self.holds.follow(event)
        self._changed()
        match event:
            case SessionOpened():
                # Who talks to whom is for those who look for it (RFC 6888 REQ-12).
                _log.debug("session opened", session=session.id, **_parties(session))
                self.feed.session_opened(session)
                if session.state is State.ESTABLISHED:  # by a gateway before us
                    self._stood.add(session.id)
            case SessionChanged():
                if session.state is State.ESTABLISHED:
                    self._stood.add(session.id)
                    _log.info("session established", session=session.id, rule=session.rule)
                self.feed.session_changed(session)
            case SessionClosed():
                # One that never stood is soon opened again, and again.
                if session.id in self._stood or self.throttle.allows("session closed"):
                    _log.info("session closed", session=session.id, rule=session.rule)
                self._stood.discard(session.id)
                _log.debug("session closed", session=session.id, why=event.why)
                self.feed.session_closed(session, event.why)
                if not len(self.gateway.registry):
                    self.emptied()

    def _changed(self) -> None:
        if self.keeper is not None:
            self.keeper.changed()

    def report_drops(self) -> None:
        """Log what was dropped since the last report: packets get no line of their own."""
        drops = self._drops(self._kept_out())
        new = {
            r.value: n - self._reported.get(r, 0) for r, n in drops.items() if n != self._reported.get(r, 0)
        }
        self._reported = drops
        if new:
            _log.info("dropped", **new)

    # -- Daemon ----------------------------------------------------------------------------------------

    def status(self) -> Status:
        """The state of everything now."""
        self.handover.look()
        sessions = list(self.gateway.sessions())
        by_rule = Counter(session.rule for session in sessions)
        recovery, kept_out = self.datapath.recovery, self._kept_out()
        return Status(
            state=self._state(),
            instance=self.instance,
            version=version("vpnmasq"),
            started_at=self.started_at,
            wan=replace(self.wan, served=recovery.served, first_packet=recovery.first_packet),
            rules=self._rules(by_rule),
            sessions=Counter(session.protocol for session in sessions),
            fastpath=self._fastpath(),
            waiting=self.summary() if self.wan.address is None else "",
            strangers=StrangersStatus(kept_out=not self.strangers.reason, reason=self.strangers.reason),
            drops={reason: count for reason, count in self._drops(kept_out).items() if count},
            kernel_drops=kept_out,
            sockets=self._sockets(),
            ddns=self.names.status(),
            traffic=self._traffic(sessions),
            kernel_traffic=_both(self.gateway.offloads.outbound, self.gateway.offloads.inbound),
            attention=[text for remarks in (*self.remarks, self._seen) for text in remarks()],
        )

    def sessions(self) -> Iterable[Session]:
        """Every session, oldest first."""
        self.handover.look()
        return self.gateway.sessions()

    def kill(self, ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """End these sessions."""
        known = [i for i in dict.fromkeys(ids) if self.gateway.registry.get(i) is not None]
        unknown = [i for i in dict.fromkeys(ids) if i not in known]
        self.datapath.perform(self.gateway.kill(known, now=self.clock()))
        return known, unknown

    def pairs(self) -> Sequence[Told]:
        """The pairs of ESP that we were told of."""
        return self.gateway.esp.told()

    def tell(self, peer: Ip4, spi: int, host: Ip4, lifetime: float) -> Reason | None:
        """Take a pair as told."""
        told = self.gateway.esp.tell(peer, spi, host, lifetime=lifetime, now=self.clock())
        if isinstance(told, Reason):
            return told
        self.datapath.perform(self.gateway.settled(told))
        self._changed()
        return None

    def untell(self, peer: Ip4, spi: int) -> bool:
        """Believe a told pair no longer."""
        self._changed()
        known = self.gateway.esp.untell(peer, spi)
        self.datapath.perform(self.gateway.settled([]))
        return known

    async def link_changed(self, event: str, link: Link) -> bool:
        """A hook says that a link is "up" or "down"."""
        return await self.links.told(event, link)

    async def reload(self) -> list[str]:
        """Read the configuration again."""
        return await self.reloader()

    def summary(self) -> str:
        """What we are doing, in one line."""
        if self.wan.address is None and self.waiting:
            return self.waiting
        number = len(self.gateway.registry)
        return f"{number} session{'' if number == 1 else 's'} on {self.wan.address or 'no address yet'}"

    def takeover_refusal(self, asked: dict[str, Any]) -> str:
        """Why a process may not take over."""
        return self.giver.refusal(asked)

    async def hand_over(self, connection: socket.socket) -> None:
        """Hand over, and leave."""
        await self.giver.give(connection)

    def frozen(self) -> bool:
        """Whether another process is about to take over."""
        return self.giver.frozen

    def ready(self) -> bool:
        """Whether new sessions are served."""
        return self._state() == "ready"

    def _state(self) -> str:
        return "waiting" if self.state == "ready" and self.wan.address is None else self.state

    def subscribe(self) -> Subscription:
        """Follow events."""
        return self.feed.subscribe()

    # -- pieces of the status --------------------------------------------------------------------------

    def _fastpath(self) -> FastPathStatus:
        handover = self.handover
        return FastPathStatus(
            mode=self.fastpath_mode,
            active=handover.active,
            reason=handover.reason,
            flows=handover.carries,
            refused=handover.refused,
            drivers=handover.drivers,
        )

    def _kept_out(self) -> dict[Reason, int]:
        """What the kernel has kept from our sockets."""
        return {reason: self.strangers.kept_out(protocol) for protocol, reason in _STRANGERS.items()}

    def _drops(self, kept_out: dict[Reason, int]) -> dict[Reason, int]:
        """What was refused, by us or by the kernel for us."""
        return {reason: count + kept_out.get(reason, 0) for reason, count in self.gateway.drops.items()}

    def _rules(self, sessions: Counter[str]) -> list[RuleStatus]:
        policy = self.policy
        vpn: list[tuple[str, Masquerade | Expose]] = [("masquerade", r) for r in policy.masquerade]
        vpn += [("expose", r) for r in policy.expose]
        rules = [
            (role, rule.name, [name for name in ("pptp", "ipsec") if getattr(rule, name)])
            for role, rule in vpn
        ]
        rules += [("forward", rule.name, [rule.listen]) for rule in policy.forward]
        return [
            RuleStatus(
                name=name,
                role=role,
                protocols=protocols,
                sessions=sessions[name],
                refused=self.gateway.refused(name),
            )
            for role, name, protocols in rules
        ]

    def _seen(self) -> list[str]:
        """What came that cannot work, or is odd."""
        gateway = self.gateway
        limits = [HELP[reason] for reason in _TO_BE_TOLD if gateway.drops[reason]]
        found = (*gateway.collisions.warnings.values(), *gateway.esp.warnings.values())
        return [*gateway.hopeless.texts(), *limits, *islice(found, _MOST_WARNINGS)]

    def look(self) -> None:
        """Say what was found out to be wrong, each thing once."""
        for text in (*self.gateway.look(now=self.clock()), *self.gateway.hopeless.texts()):
            # How many hosts there are is no news.
            what = text.partition("; seen from ")[0]
            if what not in self._said:
                self._said.add(what)
                _log.warning("cannot work", why=text)

    def _sockets(self) -> list[SocketStatus]:
        rows = []
        for name, interface, sock in self.station.raw_sockets:
            drops, size = losses(sock)
            count = self.datapath.counts[name]
            rows.append(
                SocketStatus(
                    name=name,
                    interface=interface,
                    packets=count.packets,
                    kernel_drops=drops,
                    receive_buffer=size,
                    send_failures=count.send_failures,
                )
            )
        return rows

    def _traffic(self, sessions: list[Session]) -> dict[str, Counted]:
        registry = self.gateway.registry
        outbound, inbound = Traffic(), Traffic()
        for one in (registry.carried_outbound, *(session.outbound for session in sessions)):
            outbound.add(one.packets, one.octets, one.last_seen)
        for one in (registry.carried_inbound, *(session.inbound for session in sessions)):
            inbound.add(one.packets, one.octets, one.last_seen)
        return _both(outbound, inbound)


def _both(outbound: Traffic, inbound: Traffic) -> dict[str, Counted]:
    return {
        name: Counted(packets=traffic.packets, octets=traffic.octets)
        for name, traffic in (("outbound", outbound), ("inbound", inbound))
    }


def _parties(session: Session) -> dict[str, str]:
    return {"inside": show_ip(session.inside), "peer": show_ip(session.peer)}
