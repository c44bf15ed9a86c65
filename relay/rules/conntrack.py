"""What conntrack remembers from before traffic came to us, and afterwards from us (conntrack(8)).

A client whose IPsec the router's own masquerading has carried is remembered with its port 500 on our public
address. As long as its packets refresh that, they would be rewritten before they reach us, the peer's
answers would be sent past us, and other clients would get other ports. The other way round, what came to us
is remembered as not to be masqueraded. So these entries are deleted when we begin, and when we end. The same
holds for what generic forwards carry by UDP or by another protocol.

The function here blocks: call it with ``asyncio.to_thread``.
"""

from collections.abc import Set
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from relay.kernel import refused

_UDP: Final = 17

#: A protocol and a port at either end, or with port 0 all of the protocol.
Kind = tuple[int, int]

#: IKE, and IPsec in UDP.
IPSEC: Final[frozenset[Kind]] = frozenset({(_UDP, 500), (_UDP, 4500)})


def forget(kinds: Set[Kind]) -> int:
    """Delete the entries of these kinds of traffic; how many there were.

    Raises:
        KernelError: the kernel refuses, or has no conntrack.
    """
    deleted = 0
    try:
        with NFCTSocket() as conntrack:
            for protocol in {protocol for protocol, _ in kinds}:
                for entry in list(conntrack.dump(tuple_orig=NFCTAttrTuple(proto=protocol))):
                    stale = _stale(entry, kinds)
                    if stale is None:
                        continue
                    try:
                        conntrack.entry("del", tuple_orig=stale)
                    except NetlinkError:  # it has ended in the meantime
                        continue
                    deleted += 1
    except NetlinkError as error:
        raise refused("forget old connections", error.code) from error
    except OSError as error:
        raise refused("forget old connections", error.errno) from error
    return deleted


def _stale(entry: Any, kinds: Set[Kind]) -> NFCTAttrTuple | None:
    found = entry.get_attr("CTA_TUPLE_ORIG")
    addresses, protocol = found.get_attr("CTA_TUPLE_IP"), found.get_attr("CTA_TUPLE_PROTO")
    if addresses is None or protocol is None:
        return None
    source, destination = addresses.get_attr("CTA_IP_V4_SRC"), addresses.get_attr("CTA_IP_V4_DST")
    number = protocol.get_attr("CTA_PROTO_NUM")
    if source is None or destination is None:
        return None
    ports = protocol.get_attr("CTA_PROTO_SRC_PORT"), protocol.get_attr("CTA_PROTO_DST_PORT")
    if kinds.isdisjoint({(number, 0), *((number, port) for port in ports)}):
        return None
    if None in ports:
        return NFCTAttrTuple(saddr=source, daddr=destination, proto=number)
    return NFCTAttrTuple(saddr=source, daddr=destination, proto=number, sport=ports[0], dport=ports[1])
