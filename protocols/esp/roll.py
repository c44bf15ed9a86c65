"""Who talks to whom: peers, and the inside hosts that they know.

What may have escaped us is written down here too: when we began to look, and when we last forgot somebody.
"""

from protocols import ipv4
from protocols.addr import Ip4
from protocols.admission import Admission
from protocols.deadlines import Deadlines
from protocols.esp.contacts import Contact, Inbound, Peer
from protocols.esp.evidence import Evidence
from protocols.heeded import Heeded
from protocols.ike import rules
from protocols.ike.rules import Relation
from protocols.policy import Ipsec


class Roll:
    """Peers and their contacts."""

    def __init__(self, admission: Admission, heeded: Heeded | None = None) -> None:
        self.admission = admission
        self.peers: dict[Ip4, Peer] = {}
        #: Since when we look; None: nothing has been to be seen yet.
        self.began: float | None = None
        #: When all hosts of a peer were last forgotten, or we began to look.
        self.lost = float("-inf")
        #: Contacts without a session, the one unheard of for longest first.
        self.dormant: dict[Contact, None] = {}
        #: Contacts whose host knows the peer by an address of ours that other peers may have too.
        self.behind: dict[tuple[Ip4, Ip4], list[Contact]] = {}
        #: When to look at a contact or at an SPI without an owner again.
        self.deadlines: Deadlines[Contact | Inbound] = Deadlines()
        self._heeded = heeded or Heeded()

    @property
    def settings(self) -> Ipsec:
        """The policy of now."""
        return self.admission.policy.ipsec

    def begin(self, *, now: float) -> None:
        """Begin to look, unless that is done."""
        if self.began is None:
            self.began = self.lost = now

    def away(self, *, now: float) -> None:
        """What happened lately up to now was not seen."""
        self.lost = now
        for peer in self.peers.values():
            peer.blind = now
            for contact in peer.contacts.values():
                contact.missed = max(contact.missed, now)

    def contact(self, relation: Relation, *, now: float, suspect: bool = True) -> Contact:
        """The contact of these two, a new one if there is none.

        ``suspect``: whether a new one may have been here before, and own what is open already.
        """
        self.begin(now=now)
        peer = self.peers.get(relation.peer)
        if peer is None:
            peer = Peer(relation.peer, blind=self.lost)
            peer.reserved = not rules.anybody(self.admission, relation.peer)
            self.enter(peer)
        contact = peer.contacts.get(relation.host)
        if contact is None:
            contact = Contact(relation, peer, now)
            peer.contacts[relation.host] = contact
            self.dormant[contact] = None
            self.deadlines.file(contact, now + min(self.settings.lifetime, self.settings.memory))
            self.know(contact)
            for inbound in peer.open.values() if suspect else ():
                if len(inbound.evidence) >= self.settings.most_candidates:
                    inbound.left_out += 1
                else:  # of a host that is new, nothing speaks against its being the owner
                    inbound.evidence[contact] = Evidence()
                    inbound.ranking = [*inbound.ranking, contact]
            self.trim(now)
        return contact

    def enter(self, peer: Peer) -> None:
        """Know a peer."""
        self.peers[peer.address] = peer
        self._heeded.heed(ipv4.ESP, peer.address)

    def know(self, contact: Contact) -> None:
        """Find the contact also by an address of ours that its host knows the peer by."""
        relation = contact.relation
        if relation.hidden or relation.seen == self.admission.addresses.wan:
            self.behind.setdefault((relation.host, relation.seen), []).append(contact)

    def trim(self, now: float) -> None:
        """Forget who was heard of longest ago, while there are too many."""
        while len(self.dormant) > self.settings.most_remembered:
            self.forget(next(iter(self.dormant)), now=now)

    def forget(self, contact: Contact, *, now: float) -> None:
        """Know nothing of a contact any more, though it may be heard of again. It has no session."""
        peer = contact.peer
        if peer.contacts.get(contact.host) is not contact:
            return
        self.dormant.pop(contact, None)
        self.deadlines.discard(contact)
        del peer.contacts[contact.host]
        for inbound in list(peer.open.values()):
            if inbound.evidence.pop(contact, None) is not None:
                inbound.ranking = [c for c in inbound.ranking if c is not contact]
                if not inbound.evidence:
                    self.drop_open(inbound)
        key = (contact.host, contact.relation.seen)
        if contact in self.behind.get(key, ()):
            self.behind[key].remove(contact)
            if not self.behind[key]:
                del self.behind[key]
        peer.blind = now
        if not peer.contacts:
            self.lost = now
            del self.peers[peer.address]
            self._heeded.ignore(ipv4.ESP, peer.address)

    def drop_open(self, inbound: Inbound) -> None:
        """Forget an inbound SPI that has no owner."""
        peer = inbound.peer
        peer.inbound.pop(inbound.spi, None)
        peer.settle(inbound)
        self.deadlines.discard(inbound)
