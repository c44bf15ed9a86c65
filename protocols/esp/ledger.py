"""The book of sessions and SPIs: what is entered, confirmed, doubted and forgotten.

Nothing here decides whose an SPI is; it carries out what was decided.
"""

from protocols.actions import Action, Drop, SessionChanged, SessionClosed, SessionOpened, Side
from protocols.addr import Ip4, contains, show_ip
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.drops import Reason
from protocols.esp import prior, watcher
from protocols.esp.contacts import Contact, EspSession, Inbound, Opening, PairState, Peer
from protocols.esp.experiments import Experiments
from protocols.esp.flows import Flow, FlowTable
from protocols.esp.memory import Memory
from protocols.esp.roll import Roll
from protocols.heeded import Heeded
from protocols.ike.rules import Relation
from protocols.registry import SessionRegistry
from protocols.sessions import State, Traffic


class Ledger(Roll):
    """Sessions of contacts, and their flows."""

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        flows: FlowTable,
        random: Random,
        heeded: Heeded | None = None,
    ) -> None:
        super().__init__(admission, heeded)
        self.flows = flows
        self.memory = Memory()
        self.experiments = Experiments(random)
        self._registry = registry
        self._random = random

    # -- sessions --------------------------------------------------------------------------------------

    def open_session(self, contact: Contact, initiator: Ip4, *, now: float) -> list[Action] | Reason:
        """Give the contact a session, unless it has one, or say which limit forbids it."""
        if contact.session is not None:
            return []
        wan = self.admission.addresses.wan
        if wan is None:
            return Reason.NO_ADDRESS
        refusal = self._registry.refusal(initiator, now=now)
        if refusal is not None:
            return refusal
        relation = contact.relation
        session = EspSession(
            id=self._registry.new_id("e"),
            protocol="esp",
            role=relation.role,
            rule=relation.rule,
            state=State.ESTABLISHED,
            inside=relation.host,
            gateway=wan,
            peer=relation.peer,
            opened=now,
            last_seen=now,
        )
        contact.session = session
        self.dormant.pop(contact, None)
        self._registry.add(session, initiator)
        self.deadlines.file(contact, now + self.settings.lifetime)
        return [SessionOpened(session)]

    def close_session(self, contact: Contact, why: str, *, now: float) -> list[Action]:
        """End the contact's session and its flows; confirmed SPIs are up to the caller."""
        for flow in contact.outbound:
            self.drop_outbound(contact, flow, now=now)
        for inbound in contact.inbound:
            self.drop_inbound(inbound)
        session = contact.session
        assert session is not None
        contact.session = None
        contact.ended = now
        self.dormant[contact] = None
        self.deadlines.file(contact, now + self.settings.memory)
        self._registry.remove(session)
        self.trim(now)
        return [SessionClosed(session, why)]

    def move(self, contact: Contact) -> None:
        """Let the contact's flows go by the public address of now; while there is none they wait."""
        session, wan = contact.session, self.admission.addresses.wan
        assert session is not None
        inbound = [i.flow for i in contact.inbound if i.flow is not None]
        for flow in (*contact.outbound, *inbound):
            self.flows.hold(flow)
        contact.parked = wan is None
        if wan is None:
            return
        session.gateway = wan
        for flow in contact.outbound:
            flow.source = wan
        for flow in inbound:
            flow.addressed = wan
            self.carry(contact, flow)
        for opening in contact.openings:
            if opening.outbound is not None and opening.inbound is not None:
                self.carry(contact, opening.outbound)

    def carry(self, contact: Contact, flow: Flow) -> None:
        """Let a flow's packets pass without a look, here and in the kernel."""
        assert contact.session is not None
        self.flows.add(flow)
        self.flows.offer(flow, contact.session)

    def read(self, contact: Contact) -> None:
        """Count what the kernel has carried of the contact's flows: what they do is evidence."""
        for flow in contact.outbound:
            self.flows.refresh(flow)
        for inbound in contact.inbound:
            assert inbound.flow is not None
            self.flows.refresh(inbound.flow)

    def refresh(self, contact: Contact) -> list[Action]:
        """Bring the session up to date with what is known; an action if its state changed."""
        session = contact.session
        if session is None:
            return []
        before, session.asked = session.pairing, ()
        doubtful = next((i for i in contact.peer.open.values() if contact in i.evidence), None)
        paired = [o for o in contact.openings if o.inbound is not None]
        if doubtful is not None:
            session.pairing = PairState.AMBIGUOUS
            session.asked = tuple(c.host for c in doubtful.ranking)
            session.confidence = doubtful.likeliest
        elif paired:
            newest = paired[-1].inbound
            assert newest is not None
            session.pairing = PairState.CONFIRMED
            session.confidence = newest.confidence
            session.spi_inbound = newest.spi
        else:
            session.pairing = PairState.OUTSTANDING
            session.confidence = 0.0
        return [SessionChanged(session)] if session.pairing is not before else []

    # -- outbound SPIs ---------------------------------------------------------------------------------

    def make_room(self, contact: Contact, *, now: float) -> list[Action]:
        """Forget outbound SPIs of a contact, those silent longest, until there is room for another."""
        actions: list[Action] = []
        while len(contact.outbound) >= self.settings.most_outbound:
            self.read(contact)
            oldest = min(contact.outbound, key=lambda flow: flow.last_seen)
            self.drop_outbound(contact, oldest, now=now)
            pair = f"{show_ip(contact.host)} to {show_ip(contact.peer.address)}"
            actions.append(Drop(Reason.ESP_FORGOTTEN, pair))
        return actions

    def add_outbound(self, contact: Contact, spi: int, *, fresh: bool, now: float) -> Flow:
        """Enter a new outbound SPI of a contact that has a session, and room for it."""
        session, relation = contact.session, contact.relation
        assert session is not None
        flow = Flow(
            source=session.gateway,
            target=relation.peer,
            spi=spi,
            side=Side.LAN,
            sender=relation.host,
            addressed=relation.seen,
            out=self._side_of(relation),
        )
        contact.outbound = (*contact.outbound, flow)
        session.outbound = _succeed(session.outbound, flow)
        session.spi_outbound = spi
        waiting = [o for o in contact.openings if o.outbound is None and o.fresh == fresh and not o.silent]
        opening = waiting[-1] if waiting else None
        if opening is None:
            opening = Opening(now, fresh=fresh)
            watcher.file(contact, opening, now=now)
        opening.outbound = flow
        if opening.inbound is not None:
            self.carry(contact, flow)
        return flow

    def drop_outbound(self, contact: Contact, flow: Flow, *, now: float) -> None:
        """Forget an outbound SPI."""
        self.flows.hold(flow)
        contact.outbound = tuple(f for f in contact.outbound if f is not flow)
        contact.sampled = max(0, contact.sampled - flow.packets)
        watcher.silenced(contact, flow, now=now)
        assert contact.session is not None
        contact.session.outbound = _retire(contact.session.outbound, flow)

    def _side_of(self, relation: Relation) -> Side:
        # A client inside may reach an exposed server by our public address (RFC 4787 REQ-9).
        inside = contains(self.admission.policy.lan_networks, relation.peer)
        return Side.LAN if inside else Side.WAN

    # -- inbound SPIs ----------------------------------------------------------------------------------

    def add_inbound(self, peer: Peer, spi: int, *, fresh: bool, now: float) -> Inbound:
        """Enter an inbound SPI whose owner is open."""
        inbound = Inbound(spi, peer, now, fresh, arrived=now)
        peer.inbound[spi] = inbound
        since, _ = peer.shelved.pop(spi, (now, 0))
        inbound.first_seen = since
        peer.question(inbound)
        self.ask(inbound)
        return inbound

    def ask(self, inbound: Inbound) -> None:
        """Begin to find out whose an SPI is."""
        most = self.settings.most_candidates
        contacts, inbound.beside, inbound.left_out = prior.candidates(inbound.peer, inbound, most)
        inbound.open(contacts)

    def watch(self, inbound: Inbound, *, now: float) -> None:
        """Look at an SPI again when it may have gone silent without an owner."""
        self.deadlines.file(inbound, now + self.settings.unconfirmed)

    def confirm(
        self,
        inbound: Inbound,
        contact: Contact,
        confidence: float,
        *,
        now: float,
        opening: Opening | None = None,
    ) -> list[Action]:
        """Give an SPI to its owner, who has a session or is given one; with it the fast lane.

        ``opening``: which of the owner's it answers; the oldest if that is not known.
        """
        actions = self.open_session(contact, contact.relation.peer, now=now)
        if isinstance(actions, Reason):
            # Packets still go to it; the fast lane is for sessions only.
            return []
        session = contact.session
        assert session is not None
        contact.peer.settle(inbound)
        self.deadlines.discard(inbound)
        actions += self.experiments.end(inbound, [contact], now=now)
        rivals = [c for c in inbound.evidence if c is not contact]
        inbound.close()
        inbound.owner, inbound.confidence, inbound.confirmed_at = contact, confidence, now
        inbound.flow = flow = self._flow(inbound, contact.relation, session.gateway)
        session.inbound = _succeed(session.inbound, flow)
        contact.inbound = (*contact.inbound, inbound)
        self._attach(contact, inbound, opening, now)
        contact.rest()
        self.carry(contact, flow)
        actions += self.refresh(contact)
        for rival in rivals:
            actions += self.refresh(rival)
        return actions

    def _flow(self, inbound: Inbound, relation: Relation, gateway: Ip4) -> Flow:
        """The flow of an SPI that has an owner; it has carried what came before."""
        return Flow(
            source=relation.seen,
            target=relation.host,
            spi=inbound.spi,
            side=self._side_of(relation),
            sender=relation.peer,
            addressed=gateway,
            out=Side.LAN,
            packets=inbound.packets,
            octets=inbound.octets,
            last_seen=inbound.arrived,
            sequence=inbound.sequence,
        )

    def _attach(self, contact: Contact, inbound: Inbound, opening: Opening | None, now: float) -> None:
        # The newest that it can belong to: an older one can still be any later SPI's.
        if opening is None:
            waiting = [o for o in contact.openings if o.inbound is None and o.fresh == inbound.fresh]
            able = [o for o in waiting if o.since <= inbound.first_seen]
            opening = able[-1] if able else None
        if opening is None:
            opening = Opening(now, fresh=inbound.fresh)
            watcher.file(contact, opening, now=now)
        opening.inbound = inbound
        if opening.outbound is not None:
            self.carry(contact, opening.outbound)

    def widen(self, inbound: Inbound, contacts: list[Contact], *, now: float) -> list[Action]:
        """Take a confirmed SPI back: somebody else may own it."""
        owner, flow = inbound.owner, inbound.flow
        assert owner is not None
        assert flow is not None
        self._detach(inbound, owner, flow, spent=False)
        inbound.packets, inbound.octets, inbound.arrived = 0, 0, now
        inbound.peer.question(inbound)
        inbound.open(contacts)
        actions: list[Action] = []
        for contact in contacts:
            actions += self.refresh(contact)
        return actions

    def drop_inbound(self, inbound: Inbound, *, spent: bool = True) -> None:
        """Forget an inbound SPI, which may have been what its owner had agreed on and what is now used up."""
        self.drop_open(inbound)
        if inbound.owner is not None and inbound.flow is not None:
            self._detach(inbound, inbound.owner, inbound.flow, spent=spent)

    def _detach(self, inbound: Inbound, owner: Contact, flow: Flow, *, spent: bool) -> None:
        self.flows.hold(flow)
        owner.inbound = tuple(i for i in owner.inbound if i is not inbound)
        for opening in owner.openings:
            if opening.inbound is inbound:
                # If it comes again it is an old one, and no new one is to be expected.
                opening.inbound, opening.fresh = None, opening.fresh and not spent
                if opening.outbound is not None:
                    self.flows.hold(opening.outbound)
        owner.openings = [o for o in owner.openings if o.inbound or o.outbound or (o.exchange and o.fresh)]
        assert owner.session is not None
        owner.session.inbound = _retire(owner.session.inbound, flow)


def _succeed(old: Traffic, flow: Flow) -> Flow:
    """The newest flow counts for the whole session; what an older one still carries is added when it goes."""
    flow.packets += old.packets
    flow.octets += old.octets
    old.packets = old.octets = 0
    return flow


def _retire(current: Traffic, flow: Flow) -> Traffic:
    """The session's traffic without the object that is about to go."""
    if current is flow:
        return Traffic(flow.packets, flow.octets, flow.last_seen)
    current.packets += flow.packets
    current.octets += flow.octets
    return current
