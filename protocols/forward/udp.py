"""Forwarded UDP (RFC 4787): a port of ours is a port of one server, before all peers that its rule allows.

The mapping is the rule itself, and endpoint-independent (REQ-1): it needs no state as long as the server sees
its peers' own addresses. Where it sees ours instead, each endpoint of a peer gets a port of ours (Disguises).
A session is all that one peer exchanges with the server, from whatever ports; packets of both directions keep
it (REQ-6), ICMP errors never end it (REQ-12). The server may speak first, to whom its rule allows.

    (new) --one side speaks--> CONNECTING --the other answers--> ESTABLISHED
    either --idle--> (gone)
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from protocols import ipv4
from protocols.actions import Action, Drop, SessionChanged, SessionClosed, SessionOpened, Side
from protocols.addr import Ip4, contains
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.deadlines import Deadlines, earliest
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.forward.session import ForwardSession
from protocols.forward.ways import Way, renewed, rule_at, waits, way
from protocols.natt.disguise import Disguises, forgotten
from protocols.natt.flows import Flow, FlowTable
from protocols.policy import UDP, ForwardTimers
from protocols.registry import SessionRegistry
from protocols.sessions import Role, Session, State
from protocols.udp import Datagram, Endpoint


@dataclass(slots=True, eq=False)
class Talk:
    """What one peer and the server exchange."""

    way: Way
    session: ForwardSession
    heard: set[Side] = field(default_factory=set)
    #: The peer's endpoints, the least recently new one first, with the flows to and from each.
    endpoints: dict[Endpoint, dict[Side, Flow]] = field(default_factory=dict)


class UdpForwards:
    """All forwarded UDP. ``flows`` is shared with IPsec's: no port is both's."""

    def __init__(
        self, admission: Admission, registry: SessionRegistry, flows: FlowTable, *, random: Random
    ) -> None:
        self._admission = admission
        self._registry = registry
        self._flows = flows
        self._disguises = Disguises(random, lambda: admission.policy.ipsec)
        self._talks: dict[tuple[Endpoint, int, Ip4], Talk] = {}
        self._deadlines: Deadlines[Talk] = Deadlines()
        #: Sessions that a rule allows and a limit refused, by rule.
        self.refused: Counter[str] = Counter()

    @property
    def _timers(self) -> ForwardTimers:
        return self._admission.policy.forwarding

    # -- packets ---------------------------------------------------------------------------------------

    def take(self, side: Side, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action] | None:
        """Take a UDP packet; None if it is none of a forward."""
        wan = self._admission.addresses.wan
        if wan is None or not self._admission.policy.forward:
            return None
        try:
            datagram = Datagram.from_packet(header, packet)
        except DecodeError:
            return None  # whoever else takes it says what is wrong
        answer = self._answer_to(datagram) if side is Side.LAN else None
        rule = None
        if answer is None:
            rule = rule_at(self._admission, UDP, datagram.target[1]) if header.dst == wan else None
            if rule is None:
                return None
        fault = self._admission.source_fault(side, header.src)
        if fault is not None:
            return [Drop(fault, str(datagram))]
        if header.ttl < 2:
            return [Drop(Reason.TTL_EXPIRED)]
        if answer is not None:
            return self._outbound(header, datagram, *answer, now)
        assert rule is not None
        found = way(self._admission, rule, Ip4(header.src))
        return (
            [Drop(Reason.NO_RULE, str(datagram))]
            if found is None
            else self._inbound(header, datagram, found, now)
        )

    def _answer_to(self, datagram: Datagram) -> tuple[Way, Endpoint] | None:
        """By which way a server's datagram leaves, and the endpoint of the peer that it is for."""
        peer = self._disguises.behind(datagram.source, datagram.target)
        for rule in self._admission.policy.forward:
            if rule.protocol != UDP or (rule.server, rule.server_port) != datagram.source:
                continue
            found = way(self._admission, rule, (peer or datagram.target)[0])
            if found is None or found.hidden != (peer is not None):
                continue
            # Several rules may lead to one port of a server: the one that this peer uses goes first.
            if self._key(found) in self._talks or not self._uses_another(found):
                return found, peer or datagram.target
        return None

    def _uses_another(self, found: Way) -> bool:
        server, _, peer = self._key(found)
        return any((server, rule.port, peer) in self._talks for rule in self._admission.policy.forward)

    def _inbound(self, header: ipv4.Header, datagram: Datagram, found: Way, now: float) -> list[Action]:
        actions: list[Action] = []
        talk = self._talk(found, datagram.source[0], actions, now)
        if isinstance(talk, Reason):
            return [Drop(talk, str(datagram))]
        server, seen = found.server, datagram.source
        if found.hidden:
            if not found.seen:
                return [*actions, Drop(Reason.NO_ADDRESS, str(datagram))]
            shown = self._disguises.show(server, datagram.source, found.seen)
            if shown is None:
                return [*actions, Drop(Reason.NO_PORT, str(datagram))]
            seen = shown
        actions += self._publish(talk, Side.WAN, datagram.source, datagram.target, seen, now)
        actions += self._heard(talk, Side.WAN, header, now)
        return [*actions, datagram.between(seen, server).forwarded(header)]

    def _outbound(
        self, header: ipv4.Header, datagram: Datagram, found: Way, peer: Endpoint, now: float
    ) -> list[Action]:
        actions: list[Action] = []
        talk = self._talk(found, datagram.source[0], actions, now)
        if isinstance(talk, Reason):
            return [Drop(talk, str(datagram))]
        public = (talk.session.gateway, found.rule.port)
        actions += self._publish(talk, Side.LAN, peer, public, datagram.target, now)
        actions += self._heard(talk, Side.LAN, header, now)
        return [*actions, datagram.between(public, peer).forwarded(header)]

    def _heard(self, talk: Talk, side: Side, header: ipv4.Header, now: float) -> list[Action]:
        session = talk.session
        traffic = session.inbound if side is Side.WAN else session.outbound
        traffic.packets += 1
        traffic.octets += header.total_length
        traffic.last_seen = now
        talk.heard.add(side)
        if len(talk.heard) < len(Side) or session.state is not State.CONNECTING:
            return []
        session.state = State.ESTABLISHED
        return [SessionChanged(session)]

    # -- who talks with whom ---------------------------------------------------------------------------

    @staticmethod
    def _key(found: Way) -> tuple[Endpoint, int, Ip4]:
        return found.server, found.rule.port, found.peer

    def _talk(self, found: Way, initiator: Ip4, actions: list[Action], now: float) -> Talk | Reason:
        talk = self._talks.get(self._key(found))
        if talk is not None:
            return talk
        refusal = self._registry.refusal(initiator, now=now)
        if refusal is not None:
            self.refused[found.rule.name] += 1
            return refusal
        wan = self._admission.addresses.wan
        assert wan is not None
        rule = found.rule
        session = ForwardSession(
            id=self._registry.new_id("u"),
            protocol="udp",
            role=Role.FORWARD,
            rule=rule.name,
            state=State.CONNECTING,
            inside=rule.server,
            gateway=wan,
            peer=found.peer,
            opened=now,
            last_seen=now,
            listen=rule.listen,
            server_port=rule.server_port,
        )
        talk = Talk(found, session)
        self._talks[self._key(found)] = talk
        self._registry.add(session, initiator)
        self._deadlines.file(talk, now + self._timers.udp)
        actions.append(SessionOpened(session))
        return talk

    def _publish(
        self, talk: Talk, side: Side, peer: Endpoint, public: Endpoint, seen: Endpoint, now: float
    ) -> list[Action]:
        """Let what arrives on a side, for or from an endpoint of the peer, take the short lane from now on.

        The first packet of each direction has come here: then both sides are known to have spoken. A
        neighbour of the server is on its side, though spoken of as if he were outside.
        """
        actions: list[Action] = []
        flows = talk.endpoints.get(peer)
        if flows is None:
            if len(talk.endpoints) >= self._timers.most_endpoints:
                oldest = next(iter(talk.endpoints))
                self._forget(talk, oldest, now)
                if talk.way.hidden:
                    actions.append(forgotten(talk.session.inside, oldest))
            flows = talk.endpoints[peer] = {}
        if side in flows:
            return actions
        server, inbound = talk.way.server, side is Side.WAN
        hairpin = contains(self._admission.policy.lan_networks, peer[0])
        flow = Flow(
            side=Side.LAN if hairpin else side,
            sender=peer if inbound else server,
            addressed=public if inbound else seen,
            source=seen if inbound else public,
            target=server if inbound else peer,
            traffic=talk.session.inbound if inbound else talk.session.outbound,
            plain=True,
            hairpin=hairpin,
        )
        flows[side] = flow
        self._flows.add(flow)
        self._flows.offer(flow, talk.session)
        return actions

    def _forget(self, talk: Talk, peer: Endpoint, now: float) -> None:
        self._stop(talk.endpoints.pop(peer))
        if talk.way.hidden:
            self._disguises.forget(talk.way.server, peer, now=now)

    # -- endings ---------------------------------------------------------------------------------------

    def _end(self, talk: Talk, why: str, now: float) -> list[Action]:
        for peer in list(talk.endpoints):
            self._forget(talk, peer, now)
        del self._talks[self._key(talk.way)]
        self._deadlines.discard(talk)
        talk.session.state = State.CLOSING
        self._registry.remove(talk.session)
        return [SessionClosed(talk.session, why)]

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session, if it is one of ours. Nobody is told: there is no way to."""
        found = [talk for talk in self._talks.values() if talk.session is session]
        return [action for talk in found for action in self._end(talk, why, now)]

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        return [action for talk in list(self._talks.values()) for action in self._end(talk, why, now)]

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules and addresses of now do not allow."""
        actions: list[Action] = []
        if waits(self._admission):
            self._rest()
            return actions
        for talk in list(self._talks.values()):
            again = renewed(self._admission, talk.way)
            if talk.session.gateway != self._admission.addresses.wan:
                actions += self._end(talk, "our address has changed", now)
            elif again is None:
                actions += self._end(talk, "no longer allowed", now)
            else:
                talk.way = again
                talk.session.rule = again.rule.name
                self._deadlines.file(talk, max(now, talk.session.idle_since() + self._timers.udp))
        return actions

    def _rest(self) -> None:
        """Let no data pass while we have no address: to whom what is sent to it now belongs, nobody knows."""
        for talk in self._talks.values():
            for flows in talk.endpoints.values():
                self._stop(flows)

    def _stop(self, flows: dict[Side, Flow]) -> None:
        for flow in flows.values():
            self._flows.remove(flow)
        flows.clear()

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        for record in self._disguises.records():
            yield "disguises", *record
        for talk in list(self._talks.values()):
            if self._talks.get(self._key(talk.way)) is talk:
                yield "talk", talk, self._registry.accounts([talk.session])

    def adopt(self, kind: str, *record: Any) -> None:
        """Take in a record of before a restart."""
        if kind == "disguises":
            self._disguises.adopt(*record)
        else:
            self._adopt(*record)

    def _adopt(self, talk: Talk, accounts: dict[str, Ip4]) -> None:
        if self._key(talk.way) in self._talks:
            return
        self._registry.readmit(talk.session, accounts[talk.session.id])
        self._talks[self._key(talk.way)] = talk
        for flows in talk.endpoints.values():
            for flow in flows.values():
                self._flows.add(flow)
                self._flows.offer(flow, talk.session)
        self._deadlines.file(talk, talk.session.idle_since() + self._timers.udp)

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest((self._deadlines.next(), self._disguises.next_deadline()))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        self._disguises.expire(now=now)
        actions: list[Action] = []
        for talk in self._deadlines.due(now):
            until = talk.session.idle_since() + self._timers.udp
            if until <= now:
                actions += self._end(talk, "idle", now)
            else:
                self._deadlines.file(talk, until)
        return actions
