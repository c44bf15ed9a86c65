"""Who owns an inbound SPI: prior knowledge and evidence together.

A new SPI (its packets begin with the first) belongs to a host that has agreed on one: each such agreement
is seen as an IKE exchange or as a new outbound SPI, and stands for one inbound SPI. An SPI whose numbers are
high was there before we looked: it says nothing about agreements, and uses none up.
"""

from dataclasses import dataclass
from functools import cache
from math import exp, log
from typing import Final

from protocols.esp.contacts import Contact, Inbound, Peer
from protocols.esp.evidence import log_sum

#: An SPI is taken for new when the first packet seen has a number up to this: some may have been lost.
FRESH_UP_TO: Final = 32
#: An agreement is the likelier to have brought about a new SPI the fresher it is: as 1 / (its age + this).
_YOUNG: Final = 1.0
#: … and less likely when a later one has already been used: it may have been for IKE itself.
_SUPERSEDED: Final = 0.1
#: The weight of a host whose IKE we may have missed: it may own anything, less likely when it has its own.
_UNWATCHED: Final = 0.2
_UNWATCHED_SERVED: Final = 0.02
#: The weight of a host that has not sent anything yet as the owner of an SPI that was there before us.
_OLD_OF_NOBODY: Final = 0.2
#: A test that is begun again m times errs m times as often; looks come many to each beginning.
_LOOKS_PER_START: Final = 16
#: Open SPIs of a peer that are weighed against each other at once, and how often.
_MOST_ROWS: Final = 32
_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """Candidates, likeliest first; the owner, once it is clear; how likely the first one is the owner."""

    ranking: list[Contact]
    owner: Contact | None
    confidence: float


def weight(inbound: Inbound, contact: Contact) -> float:
    """How much speaks for a host before its behaviour is looked at; 0: it cannot be the owner."""
    if not inbound.fresh:
        return 1.0
    used = max((o.since for o in contact.openings if o.inbound is not None), default=float("-inf"))
    total = 0.0
    for opening in contact.awaiting(inbound.first_seen):
        young = 1 / (inbound.first_seen - opening.since + _YOUNG)
        total += young if opening.since > used else young * _SUPERSEDED
    if not contact.watched:
        total += _UNWATCHED_SERVED if contact.inbound else _UNWATCHED
    return total


def candidates(peer: Peer, inbound: Inbound) -> list[Contact]:
    """Who may own the SPI, the likeliest first.

    If nobody can, by what we have seen, then we have not seen everything: it may be anybody's.
    """
    able = [(w, c.since, c.host, c) for c in peer.contacts.values() if (w := weight(inbound, c)) > 0]
    if not able:
        return list(peer.contacts.values())
    return [contact for *_, contact in sorted(able, key=lambda known: known[:3], reverse=True)]


def judge(inbound: Inbound, error: float, *, together: bool = True) -> Verdict:
    """Weigh the evidence. ``error``: how likely a confirmed owner may be the wrong one.

    ``together``: with what speaks for the same hosts as owners of other open SPIs, which takes its time.
    """
    own, rival = _scores(inbound)
    ranking = sorted(own, key=lambda c: (-own[c], c.since, c.host))
    best = ranking[0]
    if len(ranking) == 1 and not _nobody_known(inbound):
        return Verdict(ranking, best, _sure(error))
    needed = log(1 / error) + log(1 + inbound.looks / _LOOKS_PER_START)
    spoken_for = _spoken_for(inbound, needed) if together else {}
    for contact, other in spoken_for.items():
        rival[contact] -= other
        own[contact] -= other
    ranking.sort(key=lambda c: (-own[c], c.since, c.host))
    best = ranking[0]
    lead = own[best] - log_sum([*(rival[c] for c in ranking[1:]), *_nobody_known(inbound)])
    if lead >= needed:
        return Verdict(ranking, best, 1 - exp(-lead))
    # Who is as far behind as that is out, though it is not clear yet who of the others it is.
    behind = own[best] - needed - log(len(ranking))
    ranking = [c for c in ranking if c is best or rival[c] > behind]
    return Verdict(ranking, None, 1 / (1 + exp(-lead)))


@cache
def _sure(error: float) -> float:
    """How sure it is what was sure at once: one number for all such pairs."""
    return 1 - error


def _nobody_known(inbound: Inbound) -> list[float]:
    """The rival that we know nothing of: a host that has only listened so far, and whose IKE we missed."""
    if not inbound.fresh:
        return [log(_OLD_OF_NOBODY)]
    return (
        []
        if any(c.watched for c in inbound.evidence) or len(inbound.evidence) == 1
        else [log(_UNWATCHED_SERVED)]
    )


def _scores(inbound: Inbound) -> tuple[dict[Contact, float], dict[Contact, float]]:
    """What speaks for each candidate as the owner, and as a rival of the owner, as logarithms.

    An owner may well be silent: as a rival, nobody counts for less than without any evidence.
    """
    weights = {c: w for c in inbound.evidence if (w := weight(inbound, c)) > 0}
    if not weights:
        weights = dict.fromkeys(inbound.evidence, 1.0)
    own = {c: log(w) + inbound.evidence[c].log for c, w in weights.items()}
    rival = {c: log(w) + max(0.0, inbound.evidence[c].log) for c, w in weights.items()}
    return own, rival


def _spoken_for(inbound: Inbound, most: float) -> dict[Contact, float]:
    """How much less likely each candidate is the owner because it rather owns another open SPI.

    A host that has agreed on one pair owns one new SPI. So far as the evidence gives it to another one,
    it does not own this one. What speaks for the other one is lessened by its own rivals in the same way,
    who are the stronger the less they are spoken for elsewhere: the messages of belief propagation on
    the bipartite graph of SPIs and hosts, a few rounds of them.
    """
    if not inbound.fresh:
        return {}
    others = [i for i in inbound.peer.open.values() if i.fresh and not i.shared and i is not inbound]
    if not others:
        return {}
    # The SPI in question is left out: what is known of it must not come back as if it were news.
    table = [_row(other) for other in others[:_MOST_ROWS]]
    free: list[dict[Contact, float]] = [{} for _ in table]
    claims: dict[Contact, float] = {}
    ceiling = exp(most)
    for _ in range(_ROUNDS):
        claims = {}
        claimed: list[dict[Contact, float]] = []
        for (own, rival, single), released in zip(table, free, strict=True):
            total = sum(w * released.get(c, 1.0) for c, w in rival.items())
            row: dict[Contact, float] = {}
            for contact in single:
                against = total - rival[contact] * released.get(contact, 1.0)
                row[contact] = claim = min(own[contact] / against, ceiling) if against > 0 else ceiling
                claims[contact] = claims.get(contact, 0.0) + claim
            claimed.append(row)
        free = [{c: _free(c, claims[c] - claim) for c, claim in row.items()} for row in claimed]
    return {
        contact: -log(_free(contact, claims.get(contact, 0.0)))
        for contact in inbound.evidence
        if len(contact.awaiting(inbound.first_seen)) == 1
    }


def _row(inbound: Inbound) -> tuple[dict[Contact, float], dict[Contact, float], list[Contact]]:
    """An open SPI's scores, as multiples of the highest, and who competes with itself about it.

    That does a host with a single agreement that can have brought the SPI about.
    """
    own, rival = _scores(inbound)
    top = max(max(own.values()), max(rival.values()))
    single = [c for c in own if len(c.awaiting(inbound.first_seen)) == 1]
    return {c: exp(s - top) for c, s in own.items()}, {c: exp(s - top) for c, s in rival.items()}, single


def _free(contact: Contact, elsewhere: float) -> float:
    """How likely the host is still free to own an SPI, by the odds that it owns another one."""
    free = 1 / (1 + max(0.0, elsewhere))
    # Of a host whose IKE we do not see we do not know what it has agreed on.
    return free if contact.watched else max(free, _UNWATCHED_SERVED)
