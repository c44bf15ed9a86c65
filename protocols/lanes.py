"""The short lanes, one for each protocol that carries data: GRE, ESP, UDP, and what is forwarded whole.

A lane knows the flows whose packets are rewritten where they lie, and finds a flow again by a packet that
has left us: an ICMP error quotes that, at least its IP header and 8 octets more (RFC 792, RFC 5508 §4.2).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from protocols import udp
from protocols.actions import Destination, Side
from protocols.addr import Ip4
from protocols.checksum import update
from protocols.drops import Reason
from protocols.esp import flows as esp
from protocols.forward import flows as whole
from protocols.gre import flows as gre
from protocols.gre.codec import CALL_ID_OFFSET, is_pptp
from protocols.natt import flows as natt

#: Rewrites a packet for its flow, as ``gre.flows.forward``, given a lane's ``lan`` or ``wan``.
Forward = Callable[[dict[int, Any], bytearray, int, float], Destination | None]

#: Octets of a header without options, as the short lanes want it.
_IP_HEADER = 20
_PROTOCOL_AT = 9
_CHECKSUM_AT = 10
_ADDRESSES_AT = 12
_UDP_CHECKSUM_AT = 6
_addresses = struct.Struct("!II")
_word = struct.Struct("!H")
_long = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Sent:
    """A quoted packet that we had sent: whose it was, and what its sender had sent in its place."""

    side: Side
    sender: Ip4
    addressed: Ip4
    target: Ip4
    #: The side it left on.
    out: Side
    quote: bytes
    #: Whether its sender, a peer, sends to several flows behind our one address.
    shared: bool = False


class Lane(Protocol):
    """The flows of one protocol."""

    lan: dict[int, Any]
    wan: dict[int, Any]

    @property
    def forward(self) -> Forward:
        """Takes a packet of a known flow."""

    def sent(self, quote: bytes, at: int) -> Sent | Reason:
        """What a quoted packet, whose IP header is ``at`` octets long, was before we rewrote it."""

    def restored(self, packet: bytes, at: int) -> bytes | None:
        """A whole packet as it was before ``forward`` rewrote it; None when its flow is not known."""


class GreLane:
    """Calls of PPTP."""

    forward = staticmethod(gre.forward)

    def __init__(self, flows: gre.FlowTable) -> None:
        self._flows = flows
        self.lan, self.wan = flows.lan, flows.wan

    def _flow(self, packet: bytes, at: int) -> gre.Flow | None:
        source, target = _addresses.unpack_from(packet, _ADDRESSES_AT)
        call_id = _word.unpack_from(packet, at + CALL_ID_OFFSET)[0]
        return self._flows.departed(gre.flow_key(source, target, call_id))

    def sent(self, quote: bytes, at: int) -> Sent | Reason:
        """As Lane."""
        if len(quote) < at + CALL_ID_OFFSET + _word.size:
            return Reason.ICMP_MALFORMED
        flow = self._flow(quote, at)
        if flow is None:
            return Reason.ICMP_UNKNOWN
        packet = _readdressed(quote, flow.sender, flow.addressed)
        _word.pack_into(packet, at + CALL_ID_OFFSET, flow.shown_id)
        shared = flow.side is Side.WAN and self._flows.flows_from(flow.sender) > 1
        return Sent(flow.side, flow.sender, flow.addressed, flow.target, flow.out, bytes(packet), shared)

    def restored(self, packet: bytes, at: int) -> bytes | None:
        """As Lane."""
        flow = self._flow(packet, at)
        return None if flow is None else gre.restore(flow, packet)


class EspLane:
    """Confirmed pairs of ESP.

    ``departed`` finds a flow by the (source, target, SPI) its packets leave with, the outbound half from its
    first packet on: path MTU discovery begins with that.
    """

    forward = staticmethod(esp.forward)

    def __init__(self, flows: esp.FlowTable, departed: Callable[[Ip4, Ip4, int], esp.Flow | None]) -> None:
        self._departed = departed
        self.lan, self.wan = flows.lan, flows.wan

    def _flow(self, packet: bytes, at: int) -> esp.Flow | None:
        source, target = _addresses.unpack_from(packet, _ADDRESSES_AT)
        return self._departed(Ip4(source), Ip4(target), _long.unpack_from(packet, at)[0])

    def sent(self, quote: bytes, at: int) -> Sent | Reason:
        """As Lane."""
        if len(quote) < at + _long.size:
            return Reason.ICMP_MALFORMED
        flow = self._flow(quote, at)
        if flow is None:
            return Reason.ICMP_UNKNOWN
        packet = _readdressed(quote, flow.sender, flow.addressed)
        return Sent(flow.side, flow.sender, flow.addressed, flow.target, flow.out, bytes(packet))

    def restored(self, packet: bytes, at: int) -> bytes | None:
        """As Lane."""
        flow = self._flow(packet, at)
        return None if flow is None else esp.restore(flow, packet)


class UdpLane:
    """ESP in UDP that both sides have begun to send, and forwarded UDP."""

    forward = staticmethod(natt.forward)

    def __init__(self, flows: natt.FlowTable) -> None:
        self._flows = flows
        self.lan, self.wan = flows.lan, flows.wan

    def _flow(self, packet: bytes, at: int) -> natt.Flow | None:
        source, target = _addresses.unpack_from(packet, _ADDRESSES_AT)
        ports = _long.unpack_from(packet, at)[0]
        return self._flows.departed((source << 32 | target) << 32 | ports)

    def sent(self, quote: bytes, at: int) -> Sent | Reason:
        """As Lane. A checksum follows the change of addresses and ports, also if it was wrong before."""
        if len(quote) < at + udp.HEADER:
            return Reason.ICMP_MALFORMED
        flow = self._flow(quote, at)
        if flow is None:
            return Reason.ICMP_UNKNOWN
        packet = _readdressed(quote, flow.sender[0], flow.addressed[0])
        _long.pack_into(packet, at, flow.sender[1] << 16 | flow.addressed[1])
        found = _word.unpack_from(quote, at + _UDP_CHECKSUM_AT)[0]
        if found:
            old, new = _pseudo(quote, at), _pseudo(packet, at)
            _word.pack_into(packet, at + _UDP_CHECKSUM_AT, update(found, old, new) or 0xFFFF)
        return Sent(flow.side, flow.sender[0], flow.addressed[0], flow.target[0], flow.out, bytes(packet))

    def restored(self, packet: bytes, at: int) -> bytes | None:
        """As Lane."""
        flow = self._flow(packet, at)
        return None if flow is None else natt.restore(flow, packet)


class IpLane:
    """Protocols that are forwarded whole."""

    forward = staticmethod(whole.forward)

    def __init__(self, flows: whole.FlowTable) -> None:
        self._flows = flows
        self.lan, self.wan = flows.lan, flows.wan

    def _flow(self, packet: bytes) -> whole.Flow | None:
        source, target = _addresses.unpack_from(packet, _ADDRESSES_AT)
        return self._flows.departed(whole.flow_key(source, target, packet[_PROTOCOL_AT]))

    def sent(self, quote: bytes, at: int) -> Sent | Reason:  # noqa: ARG002
        """As Lane."""
        flow = self._flow(quote)
        if flow is None:
            return Reason.ICMP_UNKNOWN
        packet = _readdressed(quote, flow.sender, flow.addressed)
        return Sent(flow.side, flow.sender, flow.addressed, flow.target, flow.out, bytes(packet))

    def restored(self, packet: bytes, at: int) -> bytes | None:  # noqa: ARG002
        """As Lane."""
        flow = self._flow(packet)
        return None if flow is None else whole.restore(flow, packet)


class GreLanes:
    """GRE of calls, and GRE of any other kind, which is forwarded whole."""

    def __init__(self, calls: Lane, others: Lane) -> None:
        self._calls, self._others = calls, others
        self.lan: Any = (calls.lan, others.lan)
        self.wan: Any = (calls.wan, others.wan)

    def forward(self, flows: Any, buffer: bytearray, length: int, now: float) -> Destination | None:
        """As Lane. Of PPTP's kind is nothing the forward's, whether its call is known or not."""
        taken = self._calls.forward(flows[0], buffer, length, now)
        if taken or is_pptp(buffer, _IP_HEADER):
            return taken
        return self._others.forward(flows[1], buffer, length, now)

    def _lane(self, packet: bytes, at: int) -> Lane:
        return self._calls if is_pptp(packet, at) else self._others

    def sent(self, quote: bytes, at: int) -> Sent | Reason:
        """As Lane."""
        return self._lane(quote, at).sent(quote, at)

    def restored(self, packet: bytes, at: int) -> bytes | None:
        """As Lane."""
        return self._lane(packet, at).restored(packet, at)


def _readdressed(quote: bytes, source: Ip4, target: Ip4) -> bytearray:
    """A quotation with the addresses its sender used; a header checksum that was wrong stays wrong."""
    packet = bytearray(quote)
    _addresses.pack_into(packet, _ADDRESSES_AT, source, target)
    old, new = quote[_ADDRESSES_AT : _ADDRESSES_AT + 8], bytes(packet[_ADDRESSES_AT : _ADDRESSES_AT + 8])
    checksum = update(_word.unpack_from(packet, _CHECKSUM_AT)[0], old, new)
    _word.pack_into(packet, _CHECKSUM_AT, checksum)
    return packet


def _pseudo(packet: bytes | bytearray, at: int) -> bytes:
    """What a UDP checksum covers and we change: addresses and ports."""
    return bytes(packet[_ADDRESSES_AT : _ADDRESSES_AT + 8]) + bytes(packet[at : at + 4])
