"""The question whose an SPI is: asked, answered, and asked again when the answer turns out doubtful."""

from protocols.actions import Action
from protocols.esp import codec, posterior, prior
from protocols.esp.contacts import Contact, Inbound, Peer
from protocols.esp.flows import FIRST_FEW, Flow
from protocols.esp.ledger import Ledger

#: After a sequence number in this last part of its range, small ones are its continuation.
_WRAPS_FROM = codec.LAST_SEQUENCE - (1 << 20)
#: What was sent this long ago without an answer, so often, makes us doubt what we have found out.
_DOUBT_AFTER = 3.0
_DOUBT_PACKETS = 4


class Inquiry:
    """Judgement on all SPIs whose owner is open, and on those that it turned out to be wrong about."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def judge(self, inbound: Inbound, *, now: float) -> list[Action]:
        """Confirm the owner of an SPI if it is clear by now."""
        if inbound.owner is not None or inbound.shared:
            return []
        together = inbound.peer.judged_together(now=now)
        verdict = posterior.judge(inbound, self._ledger.settings.error, together=together)
        inbound.ranking = verdict.ranking
        inbound.likeliest = verdict.confidence
        for contact in list(inbound.evidence):
            if contact not in verdict.ranking:
                del inbound.evidence[contact]
        if verdict.owner is None:
            return []
        before = inbound.before
        if before is not None and verdict.owner is not before:
            # Two hosts have the same SPI now. Both get everything; there is nothing more to find out.
            both = [verdict.owner, before]
            actions = self._ledger.experiments.end(inbound, both, now=now)
            inbound.open(both)
            inbound.shared = True
            return [*actions, *(a for contact in both for a in self._ledger.refresh(contact))]
        actions = self._ledger.confirm(inbound, verdict.owner, verdict.confidence, now=now)
        return [*actions, *self.rejudge(inbound.peer, now=now)]

    def rejudge(self, peer: Peer, *, now: float) -> list[Action]:
        """One SPI fewer is open, so there is one host fewer who can own the others."""
        actions: list[Action] = []
        for inbound in list(peer.open.values()):
            actions += self.judge(inbound, now=now)
        return actions

    def doubt(self, contact: Contact, flow: Flow, *, now: float) -> list[Action]:
        """Take back what was found out when it leaves somebody without any answer.

        The host keeps sending and gets nothing, while an SPI that might have been its goes to somebody
        who has said nothing since.
        """
        opening = next((o for o in contact.openings if o.outbound is flow), None)
        if opening is None or opening.inbound is not None or now - opening.since < _DOUBT_AFTER:
            return []
        peer = contact.peer
        if flow.packets < _DOUBT_PACKETS or any(contact in i.evidence for i in peer.open.values()):
            return []
        actions: list[Action] = []
        for inbound in list(peer.inbound.values()):
            if inbound.first_seen >= opening.since and self._unanswered(inbound):
                owner = inbound.owner
                assert owner is not None
                actions += self._ledger.widen(inbound, [owner, contact], now=now)
                self._ledger.watch(inbound, now=now)
        return actions

    def _unanswered(self, inbound: Inbound) -> bool:
        owner, flow = inbound.owner, inbound.flow
        if owner is None or flow is None or inbound.told:
            return False
        self._ledger.read(owner)
        last = max((f.last_seen for f in owner.outbound), default=0.0)
        return last <= inbound.confirmed_at < flow.last_seen - _DOUBT_AFTER / 2

    def begins_anew(self, inbound: Inbound, sequence: int) -> bool:
        """Whether a confirmed SPI's numbers start over: a new Security Association uses it."""
        flow = inbound.flow
        if flow is None or inbound.told or sequence >= FIRST_FEW:
            return False
        self._ledger.flows.refresh(flow)
        return prior.FRESH_UP_TO < flow.sequence < _WRAPS_FROM

    def reused(self, inbound: Inbound, *, now: float) -> list[Action]:
        """A confirmed SPI is used for a new Security Association: whose may be another host's."""
        owner = inbound.owner
        assert owner is not None
        inbound.first_seen, inbound.fresh = now, True
        most = self._ledger.settings.most_candidates
        contacts, inbound.beside, inbound.left_out = prior.candidates(inbound.peer, inbound, most)
        if owner not in contacts:
            contacts.append(owner)
        actions = self._ledger.widen(inbound, contacts, now=now)
        inbound.before = owner
        self._ledger.watch(inbound, now=now)
        return actions
