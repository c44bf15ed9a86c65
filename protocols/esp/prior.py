"""Who may own an inbound SPI, before anybody's behaviour is looked at.

A new SPI (its packets begin with the first) belongs to a host that has agreed on one: each such agreement
is seen as an IKE exchange or as a new outbound SPI, and stands for one inbound SPI. An SPI whose numbers are
high was there before we looked: it says nothing about agreements, and uses none up.

What we have missed counts too. A host may have agreed on a pair while we were not looking, and there may be
hosts that we have never seen: they owe us a sign of life, and are the less likely the longer it is due.
"""

from math import inf
from typing import Final

from protocols.esp.contacts import Contact, Inbound, Peer

#: An SPI is taken for new when the first packet seen has a number up to this: some may have been lost …
FRESH_UP_TO: Final = 32
#: … but one that was in use before we began to look may have small numbers too, for so many seconds.
_NUMBERS_DOUBTED: Final = 3600.0
#: An agreement is the likelier to have brought about a new SPI the fresher it is: as 1 / (its age + this).
_YOUNG: Final = 1.0
#: … and less likely when a later one has already been used: it may have been for IKE itself.
_SUPERSEDED: Final = 0.1
#: A pair cannot be used before the peer has had the message that agrees on it and a packet has come back:
#: so much of the shortest round trip, and the weight of an agreement that is younger.
_AT_LEAST: Final = 0.8
_TOO_EARLY: Final = 1e-3
#: The weight of a host whose IKE we have missed: it may own anything, less likely when it has its own.
_MISSED: Final = 0.2
_MISSED_SERVED: Final = 0.02
#: The weight of all hosts together that we have never seen anything of: so much that the only host we know
#: of is not given an SPI without any sign of its own, and more when we have just begun to look …
_STRANGER: Final = 1e-6
_UNSEEN: Final = 1e-5
#: … if somebody was there before us, so that others may have been …
_UNSEEN_BEFORE: Final = 0.05
#: … and at any time, where somebody's IKE takes another way.
_UNSEEN_IKE: Final = 0.02
#: What was missed shows itself, or never, within some times of this many seconds.
_DUE: Final = 30.0
#: The weight of a host that has not sent anything yet as the owner of an SPI that was there before us.
_OLD_OF_NOBODY: Final = 0.2
#: The weight of what cannot be, by what we know.
_NEVER: Final = 1e-8
#: Who is this much less likely than the likeliest gets no copies.
_NEGLIGIBLE: Final = 1e-6


def is_fresh(peer: Peer, sequence: int, *, now: float) -> bool:
    """Whether an unknown SPI whose packet has this number has just come into use."""
    return sequence <= (FRESH_UP_TO if now - peer.blind > _NUMBERS_DOUBTED else 1)


def weight(inbound: Inbound, contact: Contact) -> float:
    """How much speaks for a host before its behaviour is looked at."""
    if not inbound.fresh:
        return 1.0
    used = max((o.since for o in contact.openings if o.inbound is not None), default=-inf)
    total = missed(contact, inbound.first_seen)
    trip = inbound.peer.round_trip or 0.0
    for opening in contact.awaiting(inbound.first_seen):
        age = inbound.first_seen - opening.since
        young = 1 / (age + _YOUNG)
        if opening.since < used:
            young *= _SUPERSEDED
        if opening.exchange is not None and age < _AT_LEAST * trip:
            young *= _TOO_EARLY
        total += young
    return total


def missed(contact: Contact, when: float) -> float:
    """The weight of a host that has agreed on a pair unseen."""
    weight = _MISSED_SERVED if contact.inbound else _MISSED
    return max(_NEVER, weight * _overdue(when - contact.missed))


def unknown(inbound: Inbound) -> float:
    """The weight of all hosts together that are not asked: unseen ones, and those left out."""
    peer, when = inbound.peer, inbound.first_seen
    if peer.reserved:
        return inbound.beside + _NEVER
    if not inbound.fresh:
        return _OLD_OF_NOBODY + inbound.beside
    contacts = peer.contacts.values()
    if all(contact.watched for contact in contacts) or _alone(peer):
        unseen = _UNSEEN * _overdue(when - peer.blind)
    else:
        unseen = _UNSEEN_BEFORE * _overdue(when - peer.blind)
        if any(contact.missed == inf for contact in contacts):
            unseen += _UNSEEN_IKE
    return max(unseen, _STRANGER) + inbound.beside


def _alone(peer: Peer) -> bool:
    """Whether only one host is known to talk to the peer, and has just begun."""
    (contact, *others) = peer.contacts.values()
    return not others and not contact.inbound and all(opening.fresh for opening in contact.openings)


def candidates(peer: Peer, inbound: Inbound, most: int) -> tuple[list[Contact], float, int]:
    """Who may own the SPI, the likeliest first; the weight of the others; how many there are too many.

    If nobody can, by what we have seen, then we have not seen everything: it may be anybody's.
    """
    known = [(weight(inbound, c), c.since, c.host, c) for c in peer.contacts.values()]
    known.sort(key=lambda k: k[:3], reverse=True)
    least = known[0][0] * _NEGLIGIBLE if known else 0.0
    able = [k for k in known if k[0] >= least]
    asked = [contact for *_, contact in able[:most]]
    return asked, sum(w for w, *_ in known[len(asked) :]), len(able) - len(asked)


def _overdue(seconds: float) -> float:
    """How likely it is still to come after so long: it has to be used, and its host to have been silent."""
    return (_DUE / (_DUE + max(0.0, seconds))) ** 2
