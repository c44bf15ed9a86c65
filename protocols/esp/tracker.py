"""ESP between inside hosts and peers: the slow lane.

An outbound packet needs no more than its addresses changed. An inbound one belongs to the host that chose
its SPI, which the host has told the peer in secret. So the tracker finds it out (``posterior``), by the
policy of pairing (``pairings``), and what is sure goes the fast lane (``flows``).
"""

from collections.abc import Callable

from protocols import icmp, ipv4
from protocols.actions import Action, Drop, Send, Side
from protocols.addr import Ip4, show_ip
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.drops import Reason
from protocols.esp import codec, copies, inquiry, prior, watcher
from protocols.esp.contacts import Contact, EspSession, Inbound, PairState, Peer
from protocols.esp.flows import Flow, FlowTable
from protocols.esp.ledger import Ledger
from protocols.esp.lifetimes import Lifetimes
from protocols.esp.pairings import Fanout, Refuse, Serialize, Strategy
from protocols.esp.survival import Survival
from protocols.esp.told import Told, ToldPairs
from protocols.heeded import Heeded
from protocols.icmp import IcmpError
from protocols.ike import rules
from protocols.ike.observation import IkeObserved
from protocols.policy import OnChange, Pairing
from protocols.registry import SessionRegistry
from protocols.sessions import Session

#: Sends an ICMP error about a packet to its sender, as far as the rates allow.
Answer = Callable[[IcmpError, bytes, float], list[Action]]

#: Reserved SPIs are told about once for each pair of hosts, as long as there are not too many.
_MOST_WARNED = 1024


class EspTracker:
    """All ESP of the gateway."""

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        flows: FlowTable,
        *,
        random: Random,
        answer: Answer = lambda _error, _about, _now: [],
        alive: Callable[[Ip4, Ip4], float | None] = lambda _host, _peer: None,
        heeded: Heeded | None = None,
    ) -> None:
        self.admission = admission
        self.ledger = Ledger(admission, registry, flows, random, heeded)
        #: What an operator should know: a text for each pair of hosts that it is about.
        self.warnings: dict[tuple[Ip4, Ip4], str] = {}
        self._flows = flows
        self._answer = answer
        self._inquiry = inquiry.Inquiry(self.ledger)
        self._told = ToldPairs()
        self._lifetimes = Lifetimes(self.ledger, self._told, alive)
        self.survival = Survival(self.ledger, self._told, registry)
        self._strategies: dict[Pairing, Strategy] = {
            Pairing.FANOUT: Fanout(self.ledger),
            Pairing.SERIALIZE: Serialize(self.ledger),
            Pairing.REFUSE: Refuse(self.ledger),
        }

    @property
    def _strategy(self) -> Strategy:
        return self._strategies[self.ledger.settings.pairing]

    # -- from inside -----------------------------------------------------------------------------------

    def from_lan(self, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action]:
        """Take a packet of an inside host that the fast lane has left to us."""
        refusal = self._refusal(Side.LAN, header, packet)
        if refusal is not None:
            return refusal
        host, addressed = Ip4(header.src), Ip4(header.dst)
        spi, sequence = codec.words_of(packet, header.length)
        contact = self._contact_of(host, addressed, spi, now)
        if contact is None:
            if addressed == self.admission.addresses.wan:
                return self._inbound(header, packet, spi, sequence, now)
            detail = f"{show_ip(host)} to {show_ip(addressed)}"
            return [Drop(Reason.NO_RULE, detail), *self._prohibit(packet, now)]
        flow = contact.sending(spi)
        actions: list[Action] = []
        if flow is None:
            new = self._begin(contact, spi, sequence, packet, now)
            if not isinstance(new, tuple):
                return new
            flow, actions = new
        elif not _answered(contact, flow):
            refused = self._strategy.again(contact, flow, now=now)
            if refused is not None:
                return [refused]
        self._warn(spi, host, contact.peer.address)
        out = flow.carry(packet, header, now=now)
        flow.sequence = sequence
        contact.sampled += 1
        if contact.peer.open:
            self.ledger.read(contact)
        for inbound in watcher.sent(contact, now=now):
            actions += self._inquiry.judge(inbound, now=now)
        actions += self._inquiry.doubt(contact, flow, now=now)
        return [Send(out, flow.target), *actions]

    def _contact_of(self, host: Ip4, addressed: Ip4, spi: int, now: float) -> Contact | None:
        """The contact a host's packet belongs to, by rule or by what it has been told to talk to."""
        behind = self.ledger.behind.get((host, addressed))
        if behind is not None:
            # Several peers behind one address of ours: whoever has the SPI, else who waits for an answer.
            for hidden in behind:
                if hidden.sending(spi) is not None:
                    return hidden
            return max(behind, key=lambda c: (any(o.outbound is None for o in c.openings), c.esp_seen()))
        peer = self.ledger.peers.get(addressed)
        contact = None if peer is None else peer.contacts.get(host)
        if contact is not None and contact.relation.seen == addressed and contact.session is not None:
            return contact
        relation = rules.from_host(self.admission, host, addressed)
        return None if relation is None else self.ledger.contact(relation, now=now)

    def _begin(
        self, contact: Contact, spi: int, sequence: int, packet: bytes, now: float
    ) -> tuple[Flow, list[Action]] | list[Action]:
        """Enter a new outbound SPI, or say why its packet cannot pass."""
        refused = self._strategy.admit(contact, spi, now=now)
        if refused is not None:
            told = self._prohibit(packet, now) if refused.reason is Reason.ESP_REFUSED else []
            return [refused, *told]
        opened = self.ledger.open_session(contact, contact.host, now=now)
        if isinstance(opened, Reason):
            return [Drop(opened, f"{show_ip(contact.host)} to {show_ip(contact.peer.address)}")]
        fresh = prior.is_fresh(contact.peer, sequence, now=now)
        room = self.ledger.make_room(contact, now=now)
        flow = self.ledger.add_outbound(contact, spi, fresh=fresh, now=now)
        self._strategy.began(contact, flow, now=now)
        return flow, [*opened, *room, *self.ledger.refresh(contact)]

    def _prohibit(self, packet: bytes, now: float) -> list[Action]:
        """RFC 5508 REQ-8: a host whose session is refused is told so."""
        return self._answer(icmp.admin_prohibited(packet), packet, now)

    # -- from outside ----------------------------------------------------------------------------------

    def from_wan(self, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action]:
        """Take a packet of a peer that the fast lane has left to us."""
        refusal = self._refusal(Side.WAN, header, packet)
        if refusal is not None:
            return refusal
        spi, sequence = codec.words_of(packet, header.length)
        return self._inbound(header, packet, spi, sequence, now)

    def _inbound(
        self, header: ipv4.Header, packet: bytes, spi: int, sequence: int, now: float
    ) -> list[Action]:
        peer = self.ledger.peers.get(Ip4(header.src))
        inbound = None if peer is None else peer.inbound.get(spi)
        to: list[Contact] = []
        actions: list[Action] = []
        is_new = False
        if inbound is None:
            served = self._serve(Ip4(header.src), now)
            peer = served or peer
            if peer is None:
                return [Drop(Reason.ESP_STRANGER, show_ip(header.src))]
            unknown = self._unknown(peer, spi, sequence, now)
            if isinstance(unknown, Drop):
                return [unknown]
            inbound, to, actions = unknown
            is_new = True
        elif self._inquiry.begins_anew(inbound, sequence):
            actions = self._inquiry.reused(inbound, now=now)
        if inbound is None:
            if not to:
                return [Drop(Reason.ESP_UNKNOWN, f"{show_ip(header.src)} {codec.show_spi(spi)}")]
            sends: list[Action] = [copies.copy(header, packet, contact) for contact in to]
            return [*sends, *actions]
        self._warn(spi, Ip4(header.src), Ip4(header.dst))
        sent = self._deliver(inbound, header, packet, sequence, now)
        if is_new and inbound.owner is None:
            self.ledger.watch(inbound, now=now)
        return [*sent, *actions]

    def _serve(self, address: Ip4, now: float) -> Peer | None:
        """The peer, with the exposed server that it may reach among its contacts."""
        if not rules.serves(self.admission):
            return None
        relation = rules.from_peer(self.admission, address)
        if relation is None:
            return None
        return self.ledger.contact(relation, now=now).peer

    def _unknown(
        self, peer: Peer, spi: int, sequence: int, now: float
    ) -> tuple[Inbound | None, list[Contact], list[Action]] | Drop:
        where = f"{show_ip(peer.address)} {codec.show_spi(spi)}"
        if not peer.shows(self.ledger.settings.spis_per_second, now=now):
            return Drop(Reason.ESP_SPI_RATE, where)
        if len(peer.inbound) >= self.ledger.settings.most_spis:
            return Drop(Reason.ESP_SPIS, where)
        fresh = prior.is_fresh(peer, sequence, now=now)
        told = self._told.get(peer.address, spi)
        if told is not None and told.host in peer.contacts:
            installed = self._install(peer.contacts[told.host], spi, now)
            return Drop(installed, where) if isinstance(installed, Reason) else installed
        remembered = self._lifetimes.recall(peer.address, spi, now=now)
        if remembered is not None and sequence > remembered.sequence and remembered.host in peer.contacts:
            inbound = self.ledger.add_inbound(peer, spi, fresh=fresh, now=now)
            contact = peer.contacts[remembered.host]
            actions = self.ledger.confirm(inbound, contact, remembered.confidence, now=now)
        else:
            found = self._strategy.unknown(peer, spi, fresh=fresh, now=now)
            if found[0] is None:
                return found
            inbound, actions = found[0], found[2]
        if inbound.owner is not None:
            actions += self._inquiry.rejudge(peer, now=now)
        return inbound, [], actions

    def _deliver(
        self, inbound: Inbound, header: ipv4.Header, packet: bytes, sequence: int, now: float
    ) -> list[Action]:
        """Send a packet to its owner, or copies to all who may be."""
        inbound.arrived = now
        if inbound.flow is not None:
            out = inbound.flow.carry(packet, header, now=now)
            inbound.flow.sequence = sequence
            return [Send(out, inbound.flow.target)]
        inbound.packets += 1
        inbound.octets += header.total_length
        inbound.sequence = sequence
        for contact in inbound.evidence:
            self.ledger.read(contact)
            contact.sample(now)
            if contact.session is not None:
                contact.session.last_seen = now
        rate = self.ledger.settings.copies_per_second
        speaks = watcher.arrived(inbound, inbound.peer, now=now)
        actions, told = self.ledger.experiments.pass_on(inbound, header, packet, rate=rate, now=now)
        if speaks or told:
            actions += self._inquiry.judge(inbound, now=now)
        return actions

    def ike_seen(self, observed: IkeObserved, *, now: float) -> list[Action]:
        """Take note of an IKE message between an inside host and a peer that the rules let through."""
        relation = rules.between(self.admission, observed.host, observed.peer)
        if relation is None:
            return []
        begins = watcher.begins(observed)
        contact = self.ledger.contact(relation, now=now, suspect=not begins)
        watcher.ike(contact, observed, now=now)
        return []

    def _refusal(self, side: Side, header: ipv4.Header, packet: bytes) -> list[Action] | None:
        """What has to be said of a packet that goes no further, whatever is known."""
        fault = self.admission.source_fault(side, header.src)
        if fault is None:
            fault = codec.refusal(packet, header.length, header.total_length)
        if fault is None and self.admission.addresses.wan is None:
            fault = Reason.NO_ADDRESS
        if fault is None and side is Side.WAN and header.dst != self.admission.addresses.wan:
            fault = Reason.NO_RULE
        if fault is not None:
            return [Drop(fault, f"{show_ip(header.src)} to {show_ip(header.dst)}")]
        if header.ttl < 2:
            return [Drop(Reason.TTL_EXPIRED)]
        return None

    def _warn(self, spi: int, sender: Ip4, receiver: Ip4) -> None:
        """RFC 4303 §2.1 reserves small SPIs; simple implementations use them, so they pass."""
        if spi <= codec.LAST_RESERVED and len(self.warnings) < _MOST_WARNED:
            text = f"{show_ip(sender)} sends ESP with the reserved SPI {spi} to {show_ip(receiver)}"
            self.warnings.setdefault((sender, receiver), text)

    # -- what we are told ------------------------------------------------------------------------------

    def tell(self, peer: Ip4, spi: int, host: Ip4, *, lifetime: float, now: float) -> list[Action] | Reason:
        """Take a pair as told: this host owns this inbound SPI, for so many seconds.

        It wins over what was found out. NO_RULE if no rule lets the two talk, ESP_NO_SPI for SPI 0,
        ESP_SPIS if there are too many.
        """
        if spi == codec.NO_SPI:
            return Reason.ESP_NO_SPI
        relation = rules.between(self.admission, host, peer)
        if relation is None:
            return Reason.NO_RULE
        if self._told.get(peer, spi) is None and len(self._told) >= self.ledger.settings.most_told:
            return Reason.ESP_SPIS
        contact = self.ledger.contact(relation, now=now)
        known = contact.peer.inbound.get(spi)
        if known is not None:
            self.ledger.drop_inbound(known, spent=False)
        installed = self._install(contact, spi, now)
        if isinstance(installed, Reason):
            return installed
        self._told.add(Told(peer, spi, host, now + lifetime))
        return [*installed[2], *self._inquiry.rejudge(contact.peer, now=now)]

    def _install(
        self, contact: Contact, spi: int, now: float
    ) -> tuple[Inbound, list[Contact], list[Action]] | Reason:
        """Enter a told SPI, and the session of its owner if there is none."""
        opened = self.ledger.open_session(contact, contact.peer.address, now=now)
        if isinstance(opened, Reason):
            return opened
        inbound = self.ledger.add_inbound(contact.peer, spi, fresh=True, now=now)
        inbound.told = True
        inbound.close()
        return inbound, [], [*opened, *self.ledger.confirm(inbound, contact, 1.0, now=now)]

    def untell(self, peer: Ip4, spi: int) -> bool:
        """Forget a told pair; False if there is none."""
        return self._lifetimes.untell(peer, spi)

    def told(self) -> list[Told]:
        """All told pairs."""
        return self._told.all()

    # -- the operator and time -------------------------------------------------------------------------

    def alive(self, host: Ip4, peer: Ip4) -> float | None:
        """When ESP of these two was last seen; None if they have no session."""
        known = self.ledger.peers.get(peer)
        contact = None if known is None else known.contacts.get(host)
        return None if contact is None or contact.session is None else contact.esp_seen()

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session; its peer is free for others at once, and nothing of it is remembered."""
        known = self.ledger.peers.get(session.peer)
        contact = None if known is None else known.contacts.get(session.inside)
        if contact is None or contact.session is not session:
            return []
        actions = self.ledger.close_session(contact, why, now=now)
        self.ledger.memory.forget(session.peer, session.inside)
        self._told.forget(session.peer, session.inside)
        self.ledger.forget(contact, now=now)
        return actions

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        actions: list[Action] = []
        for contact in self.contacts():
            if contact.session is not None:
                actions += self.kill(contact.session, why, now=now)
        return actions

    def contacts(self) -> list[Contact]:
        """All pairs of hosts that are known of."""
        return [contact for peer in self.ledger.peers.values() for contact in peer.contacts.values()]

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules and addresses of now do not allow, and forget who may not talk any more."""
        actions: list[Action] = []
        for peer in self.ledger.peers.values():
            peer.reserved = not rules.anybody(self.admission, peer.address)
        for contact in self.contacts():
            relation = contact.relation
            addressed = relation.seen if not relation.hidden else relation.peer
            again = rules.from_host(self.admission, relation.host, addressed)
            if again is None:
                again = rules.from_peer(self.admission, relation.peer)
            session = contact.session
            moved = session is not None and session.gateway != self.admission.addresses.wan
            if again == relation and not moved and not contact.parked:
                # A lifetime that is shorter from now on may be over.
                self.ledger.deadlines.file(contact, now)
                continue
            if session is not None and again == relation and (not moved or self._moves(session)):
                self.ledger.move(contact)
            elif session is not None:
                why = "no longer allowed" if again != relation else "our address has changed"
                actions += self.kill(session, why, now=now)
            else:
                self.ledger.memory.forget(relation.peer, relation.host)
                self.ledger.forget(contact, now=now)
        return actions

    def _moves(self, session: EspSession) -> bool:
        """Whether a session goes on by another address: also when nothing has come back yet (ip_dynaddr)."""
        keep = self.admission.policy.on_change is OnChange.KEEP
        return keep or session.pairing is PairState.OUTSTANDING

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return self._lifetimes.next_deadline()

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        return self._lifetimes.expire(now=now)


def _answered(contact: Contact, flow: Flow) -> bool:
    return any(o.outbound is flow and o.inbound is not None for o in contact.openings)
