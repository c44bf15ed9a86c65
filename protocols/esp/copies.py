"""Copies of an inbound packet for all who may own it.

The wrong hosts discard what they cannot authenticate (RFC 4303 §3.4), and learn nothing from it that its
owner's key does not protect.
"""

from collections.abc import Sequence

from protocols import ipv4
from protocols.actions import Action, Drop, Send
from protocols.bucket import TokenBucket
from protocols.drops import Reason
from protocols.esp.codec import show_spi
from protocols.esp.contacts import Contact, Inbound, Peer
from protocols.esp.flows import rewritten


def of(
    inbound: Inbound,
    ranking: Sequence[Contact],
    header: ipv4.Header,
    packet: bytes,
    *,
    rate: float,
    now: float,
) -> list[Action]:
    """Copies, to the likeliest first, as far as the budget goes; the first one is always there.

    ``rate``: further copies a second that the peer's packets may cause.
    """
    actions: list[Action] = []
    left, reach = inbound.left_out, len(ranking) + inbound.left_out
    for number, contact in enumerate(ranking):
        if number and not _affordable(inbound.peer, rate, now):
            left += len(ranking) - number
            break
        actions.append(copy(header, packet, contact))
    if left:
        actions.append(Drop(Reason.ESP_COPIES, f"{left} of {reach} for {show_spi(inbound.spi)}"))
    return actions


def copy(header: ipv4.Header, packet: bytes, contact: Contact) -> Send:
    """The packet for one of them."""
    relation = contact.relation
    return Send(rewritten(packet, header, relation.seen, relation.host), relation.host)


def _affordable(peer: Peer, rate: float, now: float) -> bool:
    if peer.copies is None:
        peer.copies = TokenBucket(rate, rate)
    return peer.copies.take(now=now)
