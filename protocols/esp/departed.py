"""Packets that have left us, of which ICMP errors quote the beginning: whose they were (RFC 5508 §4.2).

There is no index for that: errors are few, and so are the hosts that talk to one peer.
"""

from collections.abc import Iterable

from protocols.addr import Ip4
from protocols.esp.contacts import Contact
from protocols.esp.flows import Flow
from protocols.esp.ledger import Ledger
from protocols.ike import rules


def departed(ledger: Ledger, source: Ip4, target: Ip4, spi: int) -> Flow | None:
    """The flow whose packets leave with these; the outbound half of a pair from its first packet on."""
    peer = ledger.peers.get(target)
    out = () if peer is None else (contact.sending(spi) for contact in peer.contacts.values())
    known = ledger.behind.get((target, source)) or _known_as(ledger, target, source)
    back = (inbound.flow for contact in known for inbound in contact.inbound if inbound.spi == spi)
    return next((flow for flow in (*out, *back) if flow is not None and flow.source == source), None)


def _known_as(ledger: Ledger, host: Ip4, seen: Ip4) -> Iterable[Contact]:
    """The contact of a host with the peer that it knows by an address: the peer's own, or one of ours."""
    relation = rules.from_host(ledger.admission, host, seen)
    peer = None if relation is None else ledger.peers.get(relation.peer)
    contact = None if peer is None else peer.contacts.get(host)
    return () if contact is None else (contact,)
