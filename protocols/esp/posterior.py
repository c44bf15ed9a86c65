"""Who owns an inbound SPI: prior knowledge and evidence together."""

from dataclasses import dataclass
from math import exp, log
from typing import Final

from protocols.esp import prior
from protocols.esp.contacts import Contact, Inbound
from protocols.esp.evidence import log_sum

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


def judge(inbound: Inbound, error: float, *, together: bool = True) -> Verdict:
    """Weigh the evidence. ``error``: how likely a confirmed owner may be the wrong one.

    ``together``: with what speaks for the same hosts as owners of other open SPIs, which takes its time.
    """
    own, rival = _scores(inbound)
    ranking = sorted(own, key=lambda c: (-own[c], c.since, c.host))
    best = ranking[0]
    unknown = log(prior.unknown(inbound))
    needed = log(1 / error) + log(1 + inbound.looks / _LOOKS_PER_START)
    spoken_for = _spoken_for(inbound, needed) if together else {}
    for contact, other in spoken_for.items():
        rival[contact] -= other
        own[contact] -= other
    ranking.sort(key=lambda c: (-own[c], c.since, c.host))
    best = ranking[0]
    lead = own[best] - log_sum([*(rival[c] for c in ranking[1:]), unknown])
    if lead >= needed:
        return Verdict(ranking, best, 1 - exp(-lead))
    # Who is as far behind as that is out, though it is not clear yet who of the others it is.
    behind = own[best] - needed - log(len(ranking))
    ranking = [c for c in ranking if c is best or rival[c] > behind]
    return Verdict(ranking, None, 1 / (1 + exp(-lead)))


def _scores(inbound: Inbound) -> tuple[dict[Contact, float], dict[Contact, float]]:
    """What speaks for each candidate as the owner, and as a rival of the owner, as logarithms.

    An owner may well be silent: as a rival, nobody counts for less than without any evidence.
    """
    own: dict[Contact, float] = {}
    rival: dict[Contact, float] = {}
    trial = inbound.trial
    for contact, evidence in inbound.evidence.items():
        weight, speaks = log(prior.weight(inbound, contact)), evidence.log
        if trial is not None:
            speaks += trial.log(contact)
        own[contact], rival[contact] = weight + speaks, weight + max(0.0, speaks)
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
    ceiling, when = exp(most), inbound.first_seen
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
        free = [{c: _free(c, claims[c] - claim, when) for c, claim in row.items()} for row in claimed]
    return {
        contact: -log(_free(contact, claims.get(contact, 0.0), when))
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


def _free(contact: Contact, elsewhere: float, when: float) -> float:
    """How likely the host is still free to own an SPI, by the odds that it owns another one."""
    free = 1 / (1 + max(0.0, elsewhere))
    # Of a host whose IKE we do not see we do not know what it has agreed on.
    return max(free, prior.missed(contact, when))
