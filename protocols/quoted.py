"""ICMP errors about packets we sent, translated for those who sent the originals (RFC 5508 §4.2).

An ICMP error quotes the packet it is about, at least its IP header and 8 bytes more (RFC 792), and those
tell its flow. So the flow is found by what it sends, the quotation is turned back into what its sender sent,
and the error goes on to that sender. Errors neither refresh nor end anything (REQ-6).
"""

from collections.abc import Mapping
from dataclasses import replace

from protocols import icmp, ipv4
from protocols.actions import Action, Drop, Send, Side
from protocols.addr import Ip4, show_ip
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.icmp import IcmpError
from protocols.lanes import Lane, Sent

#: Protocol and port unreachable. They come from our one address, and a peer takes them for all hosts
#: behind it: a PPTP server ends every call from there, though one host alone has left (seen with pptpd).
_REFUSALS = frozenset(
    (icmp.DESTINATION_UNREACHABLE, code) for code in (icmp.PROTOCOL_UNREACHABLE, icmp.PORT_UNREACHABLE)
)


def translate(lanes: Mapping[int, Lane], side: Side, packet: bytes) -> list[Action]:
    """Pass an ICMP error that reached us on ``side`` on to the sender of the packet it quotes.

    ``lanes`` are by IP protocol.
    """
    try:
        header = ipv4.validate(packet, verify=False)
        error = IcmpError.from_bytes(packet[header.length : header.total_length])
    except DecodeError as fault:
        return [Drop(fault.reason, fault.detail)]
    sent = _sent(lanes, error.quote)
    if isinstance(sent, Sent) and sent.out is not side:
        sent = Reason.ICMP_UNKNOWN
    if isinstance(sent, Reason):
        return [Drop(sent, f"from {show_ip(header.src)}")]
    if header.ttl < 2:
        return [Drop(Reason.TTL_EXPIRED)]
    if side is Side.LAN and sent.shared and (error.type, error.code) in _REFUSALS:
        return [Drop(Reason.ICMP_SHARED, f"from {show_ip(header.src)}")]
    whole = ipv4.build(
        src=_reporter(sent, side, Ip4(header.src)),
        dst=sent.sender,
        protocol=ipv4.ICMP,
        payload=replace(error, quote=sent.quote).to_bytes(),
        ttl=header.ttl - 1,
        tos=header.tos,
        identification=header.identification,
        dont_fragment=header.dont_fragment,
    )
    return [Send(whole, sent.sender)]


def _sent(lanes: Mapping[int, Lane], quote: bytes) -> Sent | Reason:
    try:
        header = ipv4.Header.from_bytes(quote, verify=False)
    except DecodeError:
        return Reason.ICMP_MALFORMED
    lane = lanes.get(header.protocol)
    if lane is None or header.fragment_offset:
        return Reason.ICMP_UNKNOWN
    return lane.sent(quote, header.length)


def _reporter(sent: Sent, side: Side, reporter: Ip4) -> Ip4:
    """Whom the error shall come from: routers outside stay themselves, what is hidden stays so (REQ-4, 5)."""
    to_lan = sent.side is Side.LAN
    if side is Side.WAN and to_lan and reporter != sent.target:
        return reporter
    return sent.addressed
