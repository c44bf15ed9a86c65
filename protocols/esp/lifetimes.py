"""How long what is known of ESP is kept."""

from collections.abc import Callable

from protocols.actions import Action
from protocols.addr import Ip4
from protocols.deadlines import earliest
from protocols.esp import prior
from protocols.esp.contacts import Contact, Inbound
from protocols.esp.ledger import Ledger
from protocols.esp.memory import Forgotten, Remembered
from protocols.esp.told import ToldPairs


class Lifetimes:
    """Ends sessions and forgets SPIs that have been silent for their lifetime.

    ``alive``: when IKE of a host and a peer was last seen; the two keep each other's entries alive.
    """

    def __init__(self, ledger: Ledger, told: ToldPairs, alive: Callable[[Ip4, Ip4], float | None]) -> None:
        self._ledger = ledger
        self._told = told
        self._alive = alive

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        ledger = self._ledger
        return earliest(
            (ledger.experiments.next_deadline(), ledger.deadlines.next(), self._told.next_deadline())
        )

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        actions = self._ledger.experiments.due(self._ledger.settings.copies_per_second, now=now)
        for told in self._told.due(now):
            self.untell(told.peer, told.spi)
        self._missed(self._ledger.memory.expire(now=now), now)
        for key in self._ledger.deadlines.due(now):
            if isinstance(key, Contact):
                actions += self._contact_due(key, now)
            else:
                actions += self._inbound_due(key, now)
        return actions

    def recall(self, peer: Ip4, spi: int, *, now: float) -> Remembered | None:
        """Whose an SPI was that has been silent for its owner's lifetime; None if that is not remembered."""
        self._missed(self._ledger.memory.expire(now=now), now)
        return self._ledger.memory.recall(peer, spi, now=now)

    def untell(self, peer: Ip4, spi: int) -> bool:
        """Forget a told pair, and the SPI with it."""
        told = self._told.remove(peer, spi)
        if told is None:
            return False
        known = self._ledger.peers.get(peer)
        inbound = None if known is None else known.inbound.get(spi)
        if inbound is not None:
            self._ledger.drop_inbound(inbound)
        return True

    def _contact_due(self, contact: Contact, now: float) -> list[Action]:
        """End a silent session, forget a session's silent SPIs, or in the end forget the contact."""
        ledger, settings = self._ledger, self._ledger.settings
        if contact.peer.contacts.get(contact.host) is not contact:
            return []
        if contact.session is None:
            seen = max(contact.since, contact.ike_seen, contact.ended)
            if seen + settings.memory <= now:
                ledger.forget(contact, now=now)
            else:
                ledger.deadlines.file(contact, seen + settings.memory)
            return []
        ledger.read(contact)
        seen = max(contact.esp_seen(), self._alive(contact.host, contact.peer.address) or contact.since)

        def silent(last: float) -> bool:
            # As it is filed: rounded otherwise it might fall due again at once, and for ever.
            return last + settings.lifetime <= now

        if silent(seen):
            for inbound in contact.inbound:
                self._remember(inbound, contact, now)
            return ledger.close_session(contact, "silent for its lifetime", now=now)
        if not silent(contact.esp_seen()):
            # Some of its pairs are older than the one in use: they have drained by now.
            for flow in [f for f in contact.outbound if silent(f.last_seen)]:
                ledger.drop_outbound(contact, flow, now=now)
            for inbound in [i for i in contact.inbound if silent(i.last_seen) and not i.told]:
                self._remember(inbound, contact, now)
                ledger.drop_inbound(inbound)
        times = [*(f.last_seen for f in contact.outbound), *(i.last_seen for i in contact.inbound)]
        oldest = min((when for when in times if not silent(when)), default=seen)
        ledger.deadlines.file(contact, oldest + settings.lifetime)
        return []

    def _remember(self, inbound: Inbound, owner: Contact, now: float) -> None:
        if not inbound.told:
            settings = self._ledger.settings
            until = now + settings.memory
            remembered = Remembered(owner.host, inbound.confidence, until, inbound.number)
            forgotten = self._ledger.memory.keep(
                inbound.peer.address, inbound.spi, remembered, most=settings.most_remembered
            )
            self._missed(forgotten, now)

    def _missed(self, forgotten: list[Forgotten], now: float) -> None:
        """SPIs are not known any more. One that has had few packets will be taken for a new one.

        No agreement will be found that has brought it about. So it is as if its owner's had been missed.
        """
        for address, owner in forgotten:
            peer = self._ledger.peers.get(address)
            contact = None if peer is None else peer.contacts.get(owner.host)
            if contact is not None and owner.sequence < prior.FRESH_UP_TO:
                contact.missed = max(contact.missed, now)

    def _inbound_due(self, inbound: Inbound, now: float) -> list[Action]:
        """Forget an SPI whose owner was never found out and that is silent."""
        ledger = self._ledger
        if inbound.peer.open.get(inbound.spi) is not inbound:
            return []
        until = inbound.arrived + ledger.settings.unconfirmed
        if until > now:
            ledger.deadlines.file(inbound, until)
            return []
        contacts = list(inbound.evidence)
        ledger.drop_inbound(inbound)
        inbound.peer.shelve(inbound)
        return [action for contact in contacts for action in ledger.refresh(contact)]
