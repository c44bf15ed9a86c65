"""IPsec in UDP, and IKE whose source port may change: translation of address and port (RFC 3948, RFC 4787).

A port of an inside host stands for itself before all peers by one port of ours (REQ-1), which nobody
else has (REQ-3): its own where that is 4500 and free, else a random one. A peer gets in when the host has
talked to its address, from whatever port (REQ-8, address-dependent filtering: the peer's own NAT may change
its port at any time). Packets of both directions keep it alive (REQ-5, REQ-6), ICMP errors never end it
(REQ-12). An exposed server always has 4500, and with it the peers that its rule allows.

    (new) --one side speaks--> CONNECTING --the other answers--> ESTABLISHED
    either --idle--> (gone)
"""

from collections.abc import Callable, Iterator
from typing import Any

from protocols import ipv4
from protocols.actions import Action, Drop, SessionChanged, SessionClosed, SessionOpened
from protocols.addr import Ip4, contains
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.deadlines import Deadlines, earliest
from protocols.drops import Reason
from protocols.ike import natt, rules
from protocols.ike.header import forwardable
from protocols.ike.natt import PORT, EspInUdp, Keepalive, MarkedIke
from protocols.ike.rules import Relation
from protocols.ike.tracker import PORT as IKE_PORT
from protocols.ike.tracker import Observe
from protocols.natt.disguise import Disguises, addressee, shown
from protocols.natt.endpoints import Endpoints
from protocols.natt.flows import FlowTable
from protocols.natt.hairpins import Hairpins, Name
from protocols.natt.mapping import Mapping, NattSession, Talk
from protocols.natt.mappings import Mappings
from protocols.offload import Offloads
from protocols.outstanding import Outstanding
from protocols.policy import Ipsec
from protocols.registry import SessionRegistry
from protocols.sessions import Role, Session, State
from protocols.udp import Datagram, Endpoint

#: Sends a datagram of this talk out, or in again if it is for us (hairpin).
Onward = Callable[[ipv4.Header, Datagram, float, Talk], list[Action]]


class NattTracker:
    """All IPsec in UDP that is told apart by ports."""

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        disguises: Disguises,
        *,
        random: Random,
        onward: Onward,
        observe: Observe,
        offloads: Offloads | None = None,
    ) -> None:
        self._admission = admission
        self._registry = registry
        self._disguises = disguises
        self._onward = onward
        self._observe = observe
        self._mappings = Mappings(admission, random)
        self._talks: dict[tuple[Ip4, Ip4], dict[Talk, None]] = {}
        self._deadlines: Deadlines[Talk] = Deadlines()
        self.flows = FlowTable(offloads)
        self._endpoints = Endpoints(self.flows, disguises, lambda: self._ipsec)
        self._hairpins = Hairpins(self.flows, self._mappings)
        self._outstanding: Outstanding[Talk] = Outstanding(lambda: self._ipsec.most_outstanding)
        #: Datagrams of all time that were keepalives, and IKE messages.
        self.keepalives = 0
        self.messages = 0

    @property
    def _ipsec(self) -> Ipsec:
        return self._admission.policy.ipsec

    @property
    def _wan(self) -> Ip4:
        wan = self._admission.addresses.wan
        assert wan is not None
        return wan

    def alive(self, host: Ip4, peer: Ip4) -> float | None:
        """When the two last exchanged anything; None if nothing of it is remembered."""
        return max((session.idle_since() for session in self.sessions(host, peer)), default=None)

    def sessions(self, host: Ip4, peer: Ip4) -> list[NattSession]:
        """The sessions of the two."""
        return [talk.session for talk in self._talks.get((host, peer), ())]

    def owner(self, port: int) -> Ip4 | None:
        """The client that one of our ports stands for."""
        mapping = self._mappings.at(port)
        return mapping.host[0] if mapping else None

    # -- packets ---------------------------------------------------------------------------------------

    def outbound(
        self, header: ipv4.Header, datagram: Datagram, neighbour: Ip4 | None, now: float
    ) -> list[Action]:
        """Take a datagram of an inside host; ``neighbour`` as in ``addressee``.

        Raises:
            DecodeError: it is neither IKE nor anything that RFC 3948 knows.
        """
        host = datagram.source
        if datagram.target[0] == self._wan and neighbour is None:
            relation = rules.neighbourly(self._admission, host[0])
            meant = (relation, datagram.target) if relation else None
        else:
            meant = addressee(self._admission, self._disguises, datagram, neighbour)
        if meant is None:
            return [Drop(Reason.NO_RULE, str(datagram))]
        relation, target = meant
        fixed = relation.role is Role.EXPOSE and host[1] == PORT
        content = _content(datagram.payload, marked=fixed or target[1] != IKE_PORT)
        actions: list[Action] = []
        talk = self._talk(relation, host, host[0], actions, fixed=fixed, now=now)
        if isinstance(talk, Reason):
            return [Drop(talk, str(datagram))]
        talk.heard_host = True
        actions += self._heard(talk, header, content, outbound=True, now=now)
        source = (self._wan, talk.mapping.public_port)
        if isinstance(content, EspInUdp):
            actions += self._endpoints.publish(
                talk, public=source, seen=datagram.target, peer=target, now=now
            )
        elif isinstance(content, MarkedIke) and not talk.heard_peer and not talk.hairpin:
            self._outstanding.keep(talk, header, datagram.between(source, target), now=now)
        return actions + self._onward(header, datagram.between(source, target), now, talk)

    def awaited(self) -> Ip4 | None:
        """A peer whose first answer somebody waits for."""
        return self._outstanding.target()

    def resend(self, *, now: float) -> list[Action]:
        """Send first messages that nobody has answered again, from the public address of now."""
        actions: list[Action] = []
        wan = self._admission.addresses.wan
        for talk, sent in self._outstanding.since(now - self._ipsec.unanswered):
            if talk.session.state is State.CLOSING:
                self._outstanding.answered(talk)
            elif wan is not None and sent.datagram.source[0] != wan:
                source = (wan, talk.mapping.public_port)
                datagram = sent.datagram.between(source, sent.datagram.target)
                self._outstanding.keep(talk, sent.header, datagram, now=now)
                actions += self._onward(sent.header, datagram, now, talk)
        return actions

    def inbound(
        self, header: ipv4.Header, datagram: Datagram, peer: Ip4, now: float, sender: Talk | None = None
    ) -> list[Action]:
        """Take a datagram for one of our ports from ``peer``: its address, or the host it stands for.

        ``sender``: the talk of the inside host that it comes from, if it does.

        Raises:
            DecodeError: it is neither IKE nor anything that RFC 3948 knows.
        """
        port = datagram.target[1]
        relation = rules.from_peer(self._admission, peer) if port == PORT else None
        actions: list[Action] = []
        talk: Talk | Reason
        if relation is not None:
            content = _content(datagram.payload, marked=True)
            talk = self._talk(relation, (relation.host, PORT), peer, actions, fixed=True, now=now)
        else:
            mapping = self._mappings.at(port)
            talk = mapping.talks.get(peer, Reason.UDP_STRANGER) if mapping else Reason.UDP_STRANGER
            content = _content(datagram.payload, marked=datagram.source[1] != IKE_PORT)
        if isinstance(talk, Reason):
            return [Drop(talk, str(datagram))]
        host = talk.mapping.host
        seen = shown(self._disguises, talk.relation, datagram, host[1])
        if seen is None:
            return [*actions, Drop(Reason.NO_PORT, str(datagram))]
        talk.heard_peer = True
        self._outstanding.answered(talk)
        actions += self._heard(talk, header, content, outbound=False, now=now)
        if talk.relation.hidden:
            actions += self._endpoints.remember(talk, datagram.source, now=now)
        if isinstance(content, EspInUdp):
            public = (self._wan, port)
            if sender is not None:
                self._hairpins.publish(sender, talk)
            actions += self._endpoints.publish(talk, public=public, seen=seen, peer=datagram.source, now=now)
        return [*actions, datagram.between(seen, host).forwarded(header)]

    def _heard(
        self, talk: Talk, header: ipv4.Header, content: natt.Natt, *, outbound: bool, now: float
    ) -> list[Action]:
        session = talk.session
        traffic = session.outbound if outbound else session.inbound
        traffic.packets += 1
        traffic.octets += header.total_length
        traffic.last_seen = now
        if isinstance(content, Keepalive):
            self.keepalives += 1
            session.keepalives += 1
        elif isinstance(content, MarkedIke):
            self.messages += 1
            session.messages += 1
            relation = talk.relation
            self._observe(
                talk.exchanges.observe(relation.host, relation.peer, content.header, outbound=outbound)
            )
        if not talk.mutual or session.state is not State.CONNECTING:
            return []
        session.state = State.ESTABLISHED
        return [SessionChanged(session)]

    # -- who talks with whom ---------------------------------------------------------------------------

    def _talk(
        self,
        relation: Relation,
        host: Endpoint,
        initiator: Ip4,
        actions: list[Action],
        *,
        fixed: bool,
        now: float,
    ) -> Talk | Reason:
        mapping = self._mappings.of(host, fixed=fixed)
        talk = mapping.talks.get(relation.peer) if mapping else None
        if talk is not None:
            if talk.relation != relation:
                self._endpoints.unpublish(talk, now=now)
                talk.relation = relation
            return talk
        refusal = self._registry.refusal(initiator, now=now)
        if refusal is not None:
            return refusal
        mapping = self._mappings.make(host, fixed=fixed)
        if mapping is None:
            return Reason.NO_PORT
        talk = Talk(mapping, relation, self._session(mapping, relation, now), self._is_hairpin(relation))
        self._registry.add(talk.session, initiator)
        self._mappings.enter(talk)
        self._talks.setdefault((relation.host, relation.peer), {})[talk] = None
        self._deadlines.file(talk, now + self._ipsec.mapping)
        actions.append(SessionOpened(talk.session))
        return talk

    def _session(self, mapping: Mapping, relation: Relation, now: float) -> NattSession:
        return NattSession(
            id=self._registry.new_id("n"),
            protocol="isakmp" if mapping.host[1] == IKE_PORT else "natt",
            role=relation.role,
            rule=relation.rule,
            state=State.CONNECTING,
            inside=relation.host,
            gateway=self._wan,
            peer=relation.peer,
            opened=now,
            last_seen=now,
            host_port=mapping.host[1],
            public_port=mapping.public_port,
        )

    def _is_hairpin(self, relation: Relation) -> bool:
        inside = contains(self._admission.policy.lan_networks, relation.peer)
        return inside or relation.peer == self._wan

    # -- endings ---------------------------------------------------------------------------------------

    def _end(self, talk: Talk, why: str, now: float) -> list[Action]:
        self._hairpins.unpublish(talk)
        self._endpoints.unpublish(talk, now=now)
        self._mappings.leave(talk, now=now)
        pair = (talk.relation.host, talk.relation.peer)
        del self._talks[pair][talk]
        if not self._talks[pair]:
            del self._talks[pair]
        self._deadlines.discard(talk)
        talk.session.state = State.CLOSING
        self._registry.remove(talk.session)
        return [SessionClosed(talk.session, why)]

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session, if it is one of ours. Nobody is told: there is no way to."""
        found = [talk for talk in self._mappings if talk.session is session]
        return [action for talk in found for action in self._end(talk, why, now)]

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        return [action for talk in list(self._mappings) for action in self._end(talk, why, now)]

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules of now do not allow; a new public address is taken over with the old ports.

        Peers that follow a changed address (RFC 7296 §2.23, RFC 4555) go on.
        """
        ipsec, wan = self._ipsec, self._admission.addresses.wan
        ports = self._mappings.ports
        (ports.first, ports.last), ports.rest = ipsec.ports, ipsec.port_rest
        actions: list[Action] = []
        for talk in list(self._mappings):
            why = self._objection(talk)
            if why is not None:
                actions += self._end(talk, why, now)
                continue
            relation = rules.renewed(self._admission, talk.relation)
            assert relation is not None
            if relation != talk.relation or wan != talk.session.gateway:
                self._endpoints.unpublish(talk, now=now)
            talk.relation = relation
            talk.session.rule = relation.rule
            talk.session.gateway = wan or talk.session.gateway
            self._deadlines.file(talk, talk.session.idle_since() + ipsec.mapping)
        return actions

    def _objection(self, talk: Talk) -> str | None:
        """Why a talk must not go on."""
        mapping, relation, wan = talk.mapping, talk.relation, self._admission.addresses.wan
        if rules.renewed(self._admission, relation) is None:
            return "no longer allowed"
        if talk.hairpin and talk.session.gateway != wan:
            return "the public address has changed"
        if wan is not None and talk.hairpin != self._is_hairpin(relation):
            return "its peer is on another side now"
        if mapping.public_port == PORT and not mapping.fixed and rules.serves(self._admission):
            return "port 4500 is an exposed server's now"
        keeps_port = mapping.host[1] == IKE_PORT and not contains(self._ipsec.change_port, relation.peer)
        return "its source port is to be kept" if keeps_port and not talk.hairpin else None

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        yield "ports", *self._mappings.ports.held()
        if former := self._mappings.former():
            yield "former", former
        for mapping in self._mappings.all():
            if mapping.talks:
                sessions = [talk.session for talk in mapping.talks.values()]
                yield "mapping", mapping, self._registry.accounts(sessions)
        if pairs := self._hairpins.pairs():
            yield "hairpins", pairs

    def adopt_ports(self, owners: dict[int, Ip4], resting: dict[int, float]) -> None:
        """Take in a record of before a restart."""
        self._mappings.ports.hold(owners, resting)

    def adopt_former(self, former: dict[Endpoint, int]) -> None:
        """Take in a record of before a restart."""
        self._mappings.remember(former)

    def adopt(self, mapping: Mapping, accounts: dict[str, Ip4]) -> None:
        """Take in a record of before a restart."""
        if not self._mappings.readmit(mapping):
            return
        for talk in mapping.talks.values():
            self._registry.readmit(talk.session, accounts[talk.session.id])
            self._talks.setdefault((talk.relation.host, talk.relation.peer), {})[talk] = None
            self._deadlines.file(talk, talk.session.idle_since() + self._ipsec.mapping)
            self._endpoints.resume(talk)

    def adopt_hairpins(self, pairs: list[tuple[Name, Name]]) -> None:
        """Take in a record of before a restart."""
        self._hairpins.adopt(pairs)

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest((self._deadlines.next(), self._mappings.ports.next_deadline()))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        self._mappings.ports.expire(now=now)
        actions: list[Action] = []
        for talk in self._deadlines.due(now):
            until = talk.session.idle_since() + self._ipsec.mapping
            if until <= now:
                actions += self._end(talk, "idle", now)
            else:
                self._deadlines.file(talk, until)
        return actions


def _content(payload: bytes, *, marked: bool) -> natt.Natt:
    """What a datagram holds; on a peer's port 500 IKE has no marker (RFC 3947 §4)."""
    return natt.decode(payload) if marked else MarkedIke(forwardable(payload))
