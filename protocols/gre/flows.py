"""Data flows of PPTP calls: the packet path.

A call is two flows, one for each direction. A flow is found by what its packets carry when they reach
us, (source, destination, Call ID), on the side they reach us; a packet of a known flow is
rewritten where it lies and sent on. The Call ID in a packet is its receiver's (RFC 2637 §4.1), so a
flow restores the receiver's real ID wherever we gave another one out in its place.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |Version|  IHL  |      TOS      |          Total Length         |
  4 |         Identification        |Flags|      Fragment Offset    |
  8 |  Time to Live |    Protocol   |         Header Checksum       |
 12 |                         Source Address                        |
 16 |                       Destination Address                     |
 20 |C|R|K|S|s|Recur|A| Flags | Ver |         Protocol Type         |
 24 |       Payload Length          |            Call ID            |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
"""

import struct
from collections import Counter
from dataclasses import dataclass

from protocols.actions import Destination, Kind, Shortcut, Side
from protocols.addr import Ip4
from protocols.checksum import checksum
from protocols.gre.codec import FIRST_WORDS
from protocols.heeded import Heeded
from protocols.offload import Offloads
from protocols.sessions import Session, Traffic

#: What a packet is recognised by: its source, destination and Call ID in one integer. One object to
#: hash and compare instead of four, which is what counts when ten thousand flows do not fit the cache.
FlowKey = int

#: IPv4 header without options, and GRE up to the Call ID.
SHORTEST = 28

_IP_HEADER = 20
_VERSION_4_IHL_5 = 0x45
_GRE = 47
_IS_FRAGMENT = 0x3FFF  # More Fragments, or an offset
_read = struct.Struct("!BxHxxHBBxxQIHH").unpack_from
_write = struct.Struct("!BBHIIIHH").pack_into
_TTL_AT = 8
_CHECKSUM_AT = 10


def flow_key(source: int, destination: int, call_id: int) -> FlowKey:
    """The key of packets with these fields."""
    return (source << 32 | destination) << 16 | call_id


@dataclass(slots=True, eq=False, kw_only=True)
class Flow(Traffic):
    """One direction of a call, and what it has carried.

    Not frozen and without checks: one is read and counted for every packet, and what that touches
    comes first.
    """

    #: What its packets leave with.
    source: Ip4
    target: Ip4
    call_id: int
    #: What they arrive with: who sends them, to whom as the sender believes, and the ID it was shown.
    side: Side
    sender: Ip4
    addressed: Ip4
    shown_id: int
    #: The side they leave on.
    out: Side

    @property
    def key(self) -> FlowKey:
        """What the flow's packets carry when they reach us."""
        return flow_key(self.sender, self.addressed, self.shown_id)

    @property
    def sent_as(self) -> FlowKey:
        """What the flow's packets carry when they have left us."""
        return flow_key(self.source, self.target, self.call_id)

    @property
    def shortcut(self) -> Shortcut:
        """The flow as the kernel can carry it."""
        return Shortcut(
            kind=Kind.GRE,
            protocol=_GRE,
            side=self.side,
            sender=self.sender,
            addressed=self.addressed,
            label=self.shown_id,
            source=self.source,
            target=self.target,
            new_label=self.call_id,
        )


class FlowTable:
    """All flows, by what their packets carry on arrival, and by what they carry on departure.

    The second index is for ICMP errors, which quote what we sent (RFC 5508 §4.2).
    """

    def __init__(self, offloads: Offloads | None = None, heeded: Heeded | None = None) -> None:
        self._offloads = offloads or Offloads()
        self._heeded = heeded or Heeded()
        self._arriving: dict[Side, dict[FlowKey, Flow]] = {Side.LAN: {}, Side.WAN: {}}
        self._departed: dict[FlowKey, Flow] = {}
        self._senders: Counter[int] = Counter()
        self.lan = self._arriving[Side.LAN]
        self.wan = self._arriving[Side.WAN]

    def __len__(self) -> int:
        return len(self.lan) + len(self.wan)

    def add(self, flow: Flow) -> None:
        """Let a flow's packets pass. A flow that carries the same as an older one replaces it."""
        self._senders[flow.sender] += 1
        if flow.side is Side.WAN:
            self._heeded.heed(_GRE, flow.sender)
        arriving = self._arriving[flow.side]
        replaced = arriving.get(flow.key)
        if replaced is not None:
            self._offloads.withdraw(replaced)
        arriving[flow.key] = flow
        self._departed[flow.sent_as] = flow

    def offer(self, flow: Flow, session: Session) -> None:
        """Let the kernel carry a flow that is here, if it can: its call stands."""
        self._offloads.offer(flow, session)

    def remove(self, flow: Flow) -> None:
        """Let them pass no longer. What has replaced the flow stays."""
        self._offloads.withdraw(flow)
        self._senders[flow.sender] -= 1
        if not self._senders[flow.sender]:
            del self._senders[flow.sender]
            if flow.side is Side.WAN:
                self._heeded.ignore(_GRE, flow.sender)
        arriving = self._arriving[flow.side]
        if arriving.get(flow.key) is flow:
            del arriving[flow.key]
        if self._departed.get(flow.sent_as) is flow:
            del self._departed[flow.sent_as]

    def departed(self, key: FlowKey) -> Flow | None:
        """The flow whose packets leave us carrying ``key``."""
        return self._departed.get(key)

    def flows_from(self, address: int) -> int:
        """How many flows the host sends to."""
        return self._senders[address]

    def sends(self, address: int) -> bool:
        """Whether the host has any flow."""
        return address in self._senders


def forward(flows: dict[FlowKey, Flow], buffer: bytearray, length: int, now: float) -> Destination | None:
    """Rewrite the packet in ``buffer[:length]`` for its flow and say where to send it.

    None, and the buffer untouched, when it is not an ordinary packet of a known flow. The header checksum
    is left zero: the raw socket that sends it fills it in (raw(7)).
    """
    if length < SHORTEST:
        return None
    first, total, fragment, ttl, protocol, addresses, word, payload, call_id = _read(buffer)
    flow = flows.get(addresses << 16 | call_id)
    gre_header = FIRST_WORDS.get(word)
    if (
        flow is None
        or gre_header is None
        or first != _VERSION_4_IHL_5
        or protocol != _GRE
        or total != length
        or ttl < 2
        or fragment & _IS_FRAGMENT
        or _IP_HEADER + gre_header + payload > length
    ):
        return None
    flow.packets += 1
    flow.octets += length
    flow.last_seen = now
    _write(buffer, _TTL_AT, ttl - 1, _GRE, 0, flow.source, flow.target, word, payload, flow.call_id)
    return flow.target


def restore(flow: Flow, packet: bytes) -> bytes:
    """A packet of the flow as it was before ``forward`` rewrote it, to quote it to its sender.

    The header checksum is made good again: it is part of what the sender sent.
    """
    whole = bytearray(packet)
    _, _, _, ttl, protocol, _, word, payload, _ = _read(whole)
    _write(whole, _TTL_AT, ttl + 1, protocol, 0, flow.sender, flow.addressed, word, payload, flow.shown_id)
    whole[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum(whole[:_IP_HEADER]).to_bytes(2)
    return bytes(whole)
