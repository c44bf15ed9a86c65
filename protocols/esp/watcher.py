"""Observations: what each packet says about the SPIs whose owner is open."""

from math import inf

from protocols.esp.contacts import Contact, Inbound, Opening, Peer
from protocols.esp.evidence import ECHO, REPLY, Evidence
from protocols.esp.flows import Flow
from protocols.ike.observation import IkeObserved

#: RFC 2409 §5, appendix A (IKEv1) and RFC 7296 §3.1 (IKEv2): exchanges that begin an IKE SA …
_BEGINNINGS = frozenset({(1, 2), (1, 4), (2, 34)})
#: … and those that agree on SPIs for ESP: Quick Mode, IKE_AUTH, CREATE_CHILD_SA.
_QUICK_MODE = (1, 32)
_IKE_AUTH = (2, 35)
_CREATE_CHILD = (2, 36)
_AGREEMENTS = frozenset({_QUICK_MODE, _IKE_AUTH, _CREATE_CHILD})
#: Any of these, of an IKE SA before the last one: no message of now repeats it.
_EARLIER = (0,)

#: Agreements of a host that may be waiting for their first packet; of more, the oldest are forgotten.
MOST_OPENINGS = 8
_MOST_PAIRS = 32

#: Only packets that break a silence tell something: not those of a call or a stream …
QUIET = 0.035
#: … and that do not come by the clock: two regular streams may keep step with each other for ever, and
#: then every packet of the one follows one of the other, whoever they belong to.
_REGULAR = 0.1


def arrived(inbound: Inbound, peer: Peer, *, now: float) -> bool:
    """A packet of an SPI whose owner is open was passed to its candidates. Whether it speaks for any."""
    gap, before = now - inbound.arrived_before, inbound.gap
    inbound.arrived_before, inbound.gap = now, gap
    inbound.unbroken = inbound.unbroken + 1 if gap < QUIET else 0
    for evidence in inbound.evidence.values():
        evidence.asked_last = now
    if gap < QUIET or abs(gap - before) < _REGULAR * before:
        return False
    able = [(contact, e) for contact, e in inbound.evidence.items() if not _explained(contact)]
    speaks = False
    for window, width in enumerate(ECHO):
        # Windows must not overlap: no packet of a host may speak for it twice.
        if now - inbound.echo_at[window] >= width:
            inbound.echo_at[window] = now
            for contact, evidence in able:
                speaks |= evidence.echo(window, contact.activity, now)
    trip = peer.round_trip
    if trip is not None:
        speaks |= _after_round_trip(inbound, able, trip, now)
    for window, width in enumerate(REPLY):
        if now - inbound.reply_at[window] >= 2 * width:
            for contact, evidence in inbound.evidence.items():
                evidence.ask(window, contact.activity, now)
            inbound.reply_at[window] = now
    inbound.looks += 1
    return speaks


def _after_round_trip(
    inbound: Inbound, able: list[tuple[Contact, Evidence]], trip: float, now: float
) -> bool:
    earliest, latest = 0.85 * trip - 0.001, 1.3 * trip + 0.01
    last = len(ECHO)
    if now - inbound.echo_at[last] < latest:
        return False
    inbound.echo_at[last] = now
    hits = [evidence.echo_at(earliest, latest, contact.activity, now) for contact, evidence in able]
    return any(hits)


def _explained(contact: Contact) -> bool:
    """Whether the host's last packet has had an answer already, which was surely its own."""
    return contact.last_inbound() > contact.activity.last


def sent(contact: Contact, *, now: float) -> list[Inbound]:
    """The host sends to the peer by the slow lane; the open SPIs that it speaks for owning."""
    peer = contact.peer
    told: list[Inbound] = []
    mine = [i for i in peer.open.values() if contact in i.evidence]
    trials = [inbound.trial for inbound in mine if inbound.trial is not None]
    # What it answers may have waited for us: it need not be in step with what it usually is.
    stirred = any(trial.stirs(now) for trial in trials)
    for trial in trials:
        trial.sent(contact, now)
    for inbound in mine:
        others = max(
            (i.evidence[contact].asked_last for i in mine if i is not inbound), default=float("-inf")
        )
        contested = now if stirred else max(others, contact.last_inbound())
        if inbound.evidence[contact].reply(inbound.reply_at, contested, contact.activity, now):
            told.append(inbound)
    if mine or contact.acts is not None or any(o.inbound is None for o in contact.openings):
        contact.activity.sent(now)
    return told


def begins(message: IkeObserved) -> bool:
    """Whether it is of the exchange that begins an IKE SA."""
    return (message.version, message.exchange) in _BEGINNINGS


def ike(contact: Contact, message: IkeObserved, *, now: float) -> None:
    """Take what an IKE message of the host or of the peer says about SPIs to come, and about time."""
    kind = (message.version, message.exchange)
    contact.ike_seen = now
    if begins(message):
        # What it agreed on before belongs to another life of it, in which numbers may have been the same.
        contact.missed = -inf
        for opening in contact.openings:
            opening.exchange = opening.exchange and _EARLIER
    contact.missed = min(contact.missed, now)
    if kind in _AGREEMENTS and message.outbound:
        # The host's first message of such an exchange names the SPI that the peer shall send with.
        _offer(contact, kind, message, now)
    request = (message.exchange, message.message_id)
    if message.outbound and not message.response:
        contact.asked = None if contact.asked == request else request
        contact.asked_at = now
    elif contact.asked == request and not message.outbound and message.response:
        contact.asked = None
        contact.peer.measured(now - contact.asked_at)


def _offer(contact: Contact, kind: tuple[int, int], message: IkeObserved, now: float) -> None:
    # IKE_AUTH may take several rounds (RFC 7296 §2.16) and has agreed on one pair at the end of them.
    exchange = _IKE_AUTH if kind == _IKE_AUTH else (*kind, message.message_id, message.response)
    for opening in contact.openings:
        if opening.exchange == exchange and opening.inbound is None and opening.outbound is None:
            return
    file(contact, Opening(now, exchange), now=now)


def file(contact: Contact, opening: Opening, *, now: float) -> None:
    """Remember an opening, within bounds."""
    if contact.openings:
        contact.openings.append(opening)
    else:  # a list that grows has room for more, which hardly any needs
        contact.openings = [opening]
    _trim(contact, now)


def silenced(contact: Contact, flow: Flow, *, now: float) -> None:
    """An outbound SPI is not used any more. If it was never answered, its answer may still come."""
    for opening in contact.openings:
        if opening.outbound is flow:
            opening.outbound, opening.silent = None, True
            if opening.inbound is not None or not opening.fresh:
                contact.openings.remove(opening)
            break
    _trim(contact, now)


def _trim(contact: Contact, now: float) -> None:
    waiting = [o for o in contact.openings if o.inbound is None and o.outbound is None]
    for opening in waiting[:-MOST_OPENINGS]:
        contact.openings.remove(opening)
    lost = len(waiting) > MOST_OPENINGS
    lost |= any(o.inbound is None for o in contact.openings[:-_MOST_PAIRS])
    del contact.openings[:-_MOST_PAIRS]
    if lost:
        # It is as if the agreement had been missed.
        contact.missed = max(contact.missed, now)
