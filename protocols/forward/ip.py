"""IP protocols that are forwarded whole (the HOWTO's ipfwd --masq, §3.5).

Addresses are all there is to go by. So a peer has one session with the server, and of the neighbours of the
server, which it sees under our public address, one at a time can have one. The server may speak first, to
whom its rule allows.

    (new) --one side speaks--> CONNECTING --the other answers--> ESTABLISHED
    either --idle--> (gone)
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from protocols import ipv4
from protocols.actions import Action, Drop, Send, SessionChanged, SessionClosed, SessionOpened, Side
from protocols.addr import Ip4, show_ip
from protocols.admission import Admission
from protocols.deadlines import Deadlines
from protocols.drops import Reason
from protocols.forward.flows import Flow, FlowTable
from protocols.forward.session import ForwardSession
from protocols.forward.ways import Way, renewed, rule_at, waits, way
from protocols.offload import Offloads
from protocols.policy import ForwardTimers
from protocols.registry import SessionRegistry
from protocols.sessions import Role, Session, State


@dataclass(slots=True, eq=False)
class Talk:
    """What one peer and the server exchange by a protocol."""

    way: Way
    session: ForwardSession
    flows: dict[bool, Flow] = field(default_factory=dict)


class IpForwards:
    """All protocols that are forwarded whole; behind the first packet each way the short lane is open."""

    def __init__(
        self, admission: Admission, registry: SessionRegistry, offloads: Offloads | None = None
    ) -> None:
        self._admission = admission
        self._registry = registry
        self.flows = FlowTable(offloads)
        self._talks: dict[tuple[int, Ip4], Talk] = {}
        #: By protocol, the neighbour whom the server sees under our public address.
        self._neighbours: dict[int, Ip4] = {}
        self._deadlines: Deadlines[Talk] = Deadlines()
        #: Sessions that a rule allows and a limit refused, by rule.
        self.refused: Counter[str] = Counter()

    @property
    def _timers(self) -> ForwardTimers:
        return self._admission.policy.forwarding

    # -- packets ---------------------------------------------------------------------------------------

    def take(self, side: Side, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action] | None:
        """Take a packet; None if it is none of a forward."""
        wan = self._admission.addresses.wan
        rule = rule_at(self._admission, header.protocol, 0)
        if wan is None or rule is None:
            return None
        source, target = Ip4(header.src), Ip4(header.dst)
        outbound = side is Side.LAN and source == rule.server
        peer = source
        if outbound:
            peer = self._neighbours.get(header.protocol, wan) if target == wan else target
        elif target != wan:
            return None
        fault = self._admission.source_fault(side, header.src)
        if fault is not None:
            return [Drop(fault, _ends(header))]
        if header.ttl < 2:
            return [Drop(Reason.TTL_EXPIRED)]
        found = way(self._admission, rule, peer)
        if found is None:
            return [Drop(Reason.NO_RULE, _ends(header))]
        return self._carry(found, header, packet, outbound=outbound, now=now)

    def _carry(
        self, found: Way, header: ipv4.Header, packet: bytes, *, outbound: bool, now: float
    ) -> list[Action]:
        actions: list[Action] = []
        talk = self._talk(found, header, actions, now)
        if isinstance(talk, Reason):
            return [Drop(talk, _ends(header))]
        session = talk.session
        flow = talk.flows.get(outbound)
        if flow is None:
            flow = talk.flows[outbound] = self._flow(talk, outbound=outbound)
            self.flows.add(flow)
            self.flows.offer(flow, session)
            if len(talk.flows) > 1 and session.state is State.CONNECTING:
                session.state = State.ESTABLISHED
                actions.append(SessionChanged(session))
        traffic = flow.traffic
        traffic.packets += 1
        traffic.octets += header.total_length
        traffic.last_seen = now
        out = ipv4.build(
            src=flow.source,
            dst=flow.target,
            protocol=header.protocol,
            payload=packet[header.length : header.total_length],
            ttl=header.ttl - 1,
            tos=header.tos,
            identification=header.identification,
            dont_fragment=header.dont_fragment,
        )
        return [*actions, Send(out, flow.target)]

    def _flow(self, talk: Talk, *, outbound: bool) -> Flow:
        found, session = talk.way, talk.session
        peers_side = Side.LAN if found.hidden else Side.WAN
        server, public = found.rule.server, session.gateway
        if outbound:
            return Flow(
                protocol=found.rule.protocol,
                source=public,
                target=found.peer,
                out=peers_side,
                side=Side.LAN,
                sender=server,
                addressed=found.seen,
                traffic=session.outbound,
            )
        return Flow(
            protocol=found.rule.protocol,
            source=found.seen,
            target=server,
            out=Side.LAN,
            side=peers_side,
            sender=found.peer,
            addressed=public,
            traffic=session.inbound,
        )

    # -- who talks with whom ---------------------------------------------------------------------------

    def _talk(self, found: Way, header: ipv4.Header, actions: list[Action], now: float) -> Talk | Reason:
        key = header.protocol, found.peer
        talk = self._talks.get(key)
        if talk is not None:
            return talk
        if found.hidden and header.protocol in self._neighbours:
            return Reason.FORWARD_SHARED
        initiator = Ip4(header.src)
        refusal = self._registry.refusal(initiator, now=now)
        if refusal is not None:
            self.refused[found.rule.name] += 1
            return refusal
        wan, rule = self._admission.addresses.wan, found.rule
        assert wan is not None
        session = ForwardSession(
            id=self._registry.new_id("f"),
            protocol="ip",
            role=Role.FORWARD,
            rule=rule.name,
            state=State.CONNECTING,
            inside=rule.server,
            gateway=wan,
            peer=found.peer,
            opened=now,
            last_seen=now,
            listen=rule.listen,
        )
        talk = self._talks[key] = Talk(found, session)
        if found.hidden:
            self._neighbours[header.protocol] = found.peer
        self._registry.add(session, initiator)
        self._deadlines.file(talk, now + self._timers.ip)
        actions.append(SessionOpened(session))
        return talk

    # -- endings ---------------------------------------------------------------------------------------

    def _end(self, talk: Talk, why: str) -> list[Action]:
        self._stop(talk)
        protocol = talk.way.rule.protocol
        del self._talks[protocol, talk.way.peer]
        if talk.way.hidden:
            del self._neighbours[protocol]
        self._deadlines.discard(talk)
        talk.session.state = State.CLOSING
        self._registry.remove(talk.session)
        return [SessionClosed(talk.session, why)]

    def kill(self, session: Session, why: str) -> list[Action]:
        """End a session, if it is one of ours. Nobody is told: there is no way to."""
        found = [talk for talk in self._talks.values() if talk.session is session]
        return [action for talk in found for action in self._end(talk, why)]

    def close_all(self, why: str) -> list[Action]:
        """End all sessions."""
        return [action for talk in list(self._talks.values()) for action in self._end(talk, why)]

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules and addresses of now do not allow."""
        actions: list[Action] = []
        if waits(self._admission):
            self._rest()
            return actions
        for talk in list(self._talks.values()):
            again = renewed(self._admission, talk.way)
            if talk.session.gateway != self._admission.addresses.wan:
                actions += self._end(talk, "our address has changed")
            elif again is None:
                actions += self._end(talk, "no longer allowed")
            else:
                talk.way = again
                talk.session.rule = again.rule.name
                self._deadlines.file(talk, max(now, talk.session.idle_since() + self._timers.ip))
        return actions

    def _rest(self) -> None:
        """Let no data pass while we have no address: to whom what is sent to it now belongs, nobody knows."""
        for talk in self._talks.values():
            self._stop(talk)

    def _stop(self, talk: Talk) -> None:
        for flow in talk.flows.values():
            self.flows.remove(flow)
        talk.flows.clear()

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        for key, talk in list(self._talks.items()):
            if self._talks.get(key) is talk:
                yield talk, self._registry.accounts([talk.session])

    def adopt(self, talk: Talk, accounts: dict[str, Ip4]) -> None:
        """Take in a record of before a restart."""
        protocol = talk.way.rule.protocol
        if (protocol, talk.way.peer) in self._talks:
            return
        self._registry.readmit(talk.session, accounts[talk.session.id])
        self._talks[protocol, talk.way.peer] = talk
        if talk.way.hidden:
            self._neighbours[protocol] = talk.way.peer
        for flow in talk.flows.values():
            self.flows.add(flow)
            self.flows.offer(flow, talk.session)
        self._deadlines.file(talk, talk.session.idle_since() + self._timers.ip)

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return self._deadlines.next()

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        for talk in self._deadlines.due(now):
            until = talk.session.idle_since() + self._timers.ip
            if until <= now:
                actions += self._end(talk, "idle")
            else:
                self._deadlines.file(talk, until)
        return actions


def _ends(header: ipv4.Header) -> str:
    return f"{show_ip(header.src)} to {show_ip(header.dst)}, protocol {header.protocol}"
