"""What is known of ESP, across a restart: all of it, from the pairs to what speaks for open ones."""

from collections.abc import Iterator
from typing import Any

from protocols.addr import Ip4
from protocols.esp.contacts import Contact, Inbound, Peer
from protocols.esp.ledger import Ledger
from protocols.esp.told import Told, ToldPairs
from protocols.registry import SessionRegistry


class Survival:
    """Takes records out of a ledger, and takes them in."""

    def __init__(self, ledger: Ledger, told: ToldPairs, registry: SessionRegistry) -> None:
        self._ledger = ledger
        self._told = told
        self._registry = registry

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        ledger = self._ledger
        if ledger.began is not None:
            yield "looking", ledger.began, ledger.lost
        for peer in list(ledger.peers.values()):
            if ledger.peers.get(peer.address) is peer:
                sessions = [c.session for c in peer.contacts.values() if c.session is not None]
                yield "peer", peer, self._registry.accounts(sessions)
        for portion in ledger.memory.portions():
            yield "memory", portion
        if len(self._told):
            yield "told", self._told.all()

    def adopt(self, kind: str, *record: Any) -> None:
        """Take in a record of before a restart."""
        if kind == "looking":
            self._ledger.began, self._ledger.lost = record
        elif kind == "peer":
            self._peer(*record)
        elif kind == "memory":
            ledger = self._ledger
            ledger.memory.take_in(*record, most=ledger.settings.most_remembered)
        else:
            self._tell(*record)

    def away(self, *, now: float) -> None:
        """Know that the records are of some time ago: tunnels may have been agreed on since."""
        self._ledger.away(now=now)

    def _peer(self, peer: Peer, accounts: dict[str, Ip4]) -> None:
        ledger = self._ledger
        ledger.enter(peer)
        for contact in peer.contacts.values():
            self._contact(contact, accounts)
        for inbound in peer.inbound.values():
            self._inbound(inbound)

    def _contact(self, contact: Contact, accounts: dict[str, Ip4]) -> None:
        ledger, settings = self._ledger, self._ledger.settings
        ledger.know(contact)
        if contact.session is None:
            ledger.dormant[contact] = None
            seen = max(contact.since, contact.ike_seen, contact.ended)
            ledger.deadlines.file(contact, seen + settings.memory)
            return
        self._registry.readmit(contact.session, accounts[contact.session.id])
        times = [*(f.last_seen for f in contact.outbound), *(i.last_seen for i in contact.inbound)]
        ledger.deadlines.file(contact, min(times, default=contact.since) + settings.lifetime)
        if contact.parked:
            return
        for opening in contact.openings:
            if opening.outbound is not None and opening.inbound is not None:
                ledger.carry(contact, opening.outbound)

    def _inbound(self, inbound: Inbound) -> None:
        if inbound.owner is None:
            self._ledger.watch(inbound, now=inbound.arrived)
            self._ledger.experiments.resume(inbound)
            return
        inbound.close()
        if inbound.flow is not None and not inbound.owner.parked:
            self._ledger.carry(inbound.owner, inbound.flow)

    def _tell(self, pairs: list[Told]) -> None:
        for told in pairs:
            self._told.add(told)
