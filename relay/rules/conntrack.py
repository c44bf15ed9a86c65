"""What conntrack remembers from before IPsec came to us, and afterwards from us (conntrack(8)).

A client whose IPsec the router's own masquerading has carried is remembered with its port 500 on our public
address. As long as its packets refresh that, they would be rewritten before they reach us, the peer's
answers would be sent past us, and other clients would get other ports. The other way round, what came to us
is remembered as not to be masqueraded. So these entries are deleted when we begin, and when we end.

The function here blocks: call it with ``asyncio.to_thread``.
"""

from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from relay.kernel import refused

_UDP: Final = 17
_PORTS: Final = frozenset({500, 4500})


def forget_ipsec() -> int:
    """Delete the entries of IPsec's UDP; how many there were.

    Raises:
        KernelError: the kernel refuses, or has no conntrack.
    """
    deleted = 0
    try:
        with NFCTSocket() as conntrack:
            for entry in list(conntrack.dump(tuple_orig=NFCTAttrTuple(proto=_UDP))):
                stale = _stale(entry)
                if stale is None:
                    continue
                try:
                    conntrack.entry("del", tuple_orig=stale)
                except NetlinkError:  # it has ended in the meantime
                    continue
                deleted += 1
    except NetlinkError as error:
        raise refused("forget old connections of IPsec", error.code) from error
    except OSError as error:
        raise refused("forget old connections of IPsec", error.errno) from error
    return deleted


def _stale(entry: Any) -> NFCTAttrTuple | None:
    found = _tuple(entry.get_attr("CTA_TUPLE_ORIG"))
    if found is None:
        return None
    source, destination, protocol, source_port, destination_port = found
    if protocol != _UDP or _PORTS.isdisjoint((source_port, destination_port)):
        return None
    return NFCTAttrTuple(
        saddr=source, daddr=destination, proto=_UDP, sport=source_port, dport=destination_port
    )


def _tuple(found: Any) -> tuple[str, str, int, int, int] | None:
    """(source, destination, protocol, source port, destination port) of one direction."""
    addresses, protocol = found.get_attr("CTA_TUPLE_IP"), found.get_attr("CTA_TUPLE_PROTO")
    if addresses is None or protocol is None:
        return None
    values = (
        addresses.get_attr("CTA_IP_V4_SRC"),
        addresses.get_attr("CTA_IP_V4_DST"),
        protocol.get_attr("CTA_PROTO_NUM"),
        protocol.get_attr("CTA_PROTO_SRC_PORT"),
        protocol.get_attr("CTA_PROTO_DST_PORT"),
    )
    return None if any(value is None for value in values) else values
