"""Data flows of confirmed ESP pairs: the packet path.

One direction of a Security Association pair is a flow, found by what its packets carry when they reach us:
(source, destination, SPI), on the side they reach us. The SPI is never changed: it is covered by the
ends' integrity check. So only addresses and TTL are written.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |Version|  IHL  |      TOS      |          Total Length         |
  4 |         Identification        |Flags|      Fragment Offset    |
  8 |  Time to Live |    Protocol   |         Header Checksum       |
 12 |                         Source Address                        |
 16 |                       Destination Address                     |
 20 |               Security Parameters Index (SPI)                 |
 24 |                      Sequence Number                          |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from protocols import ipv4
from protocols.actions import Destination, Kind, Shortcut, Side
from protocols.addr import Ip4
from protocols.checksum import checksum
from protocols.offload import Offloads
from protocols.sessions import Session, Traffic

#: What a packet is recognised by: its source, destination and SPI in one integer.
FlowKey = int

#: IPv4 header without options, and the part of ESP that can be read.
SHORTEST: Final = 28
#: Sequence numbers below this always take the slow lane: they may belong to a new Security Association
#: that happens to have the SPI of a known one.
FIRST_FEW: Final = 4

_IP_HEADER = 20
_VERSION_4_IHL_5 = 0x45
_IS_FRAGMENT = 0x3FFF  # More Fragments, or an offset
_read = struct.Struct("!BxHxxHBBxxQII").unpack_from
_write = struct.Struct("!BBHII").pack_into
_TTL_AT = 8
_CHECKSUM_AT = 10


def flow_key(source: int, destination: int, spi: int) -> FlowKey:
    """The key of packets with these fields."""
    return (source << 32 | destination) << 32 | spi


@dataclass(slots=True, eq=False, kw_only=True)
class Flow(Traffic):
    """One direction of a Security Association pair, and what it has carried.

    Not frozen and without checks: one is read and counted for every packet, and what that touches
    comes first.
    """

    #: What its packets leave with.
    source: Ip4
    target: Ip4
    #: Of the last packet: one value that starts over is seen, and nothing is compared.
    sequence: int = 0
    spi: int
    #: What they arrive with: who sends them, and to whom as the sender believes.
    side: Side
    sender: Ip4
    addressed: Ip4
    #: The side they leave on.
    out: Side

    @property
    def key(self) -> FlowKey:
        """What the flow's packets carry when they reach us."""
        return flow_key(self.sender, self.addressed, self.spi)

    @property
    def shortcut(self) -> Shortcut:
        """The flow as the kernel can carry it."""
        return Shortcut(
            kind=Kind.ESP,
            protocol=ipv4.ESP,
            side=self.side,
            sender=self.sender,
            addressed=self.addressed,
            label=self.spi,
            source=self.source,
            target=self.target,
            new_label=self.spi,
        )

    def add(self, packets: int, octets: int, last_seen: float, sequence: int = 0) -> None:
        """As Traffic, with the number of the last of the packets."""
        Traffic.add(self, packets, octets, last_seen)
        self.sequence = sequence

    def carry(self, packet: bytes, header: ipv4.Header, *, now: float) -> bytes:
        """Count a packet of the slow lane and rewrite it as ``forward`` does."""
        self.packets += 1
        self.octets += header.total_length
        self.last_seen = now
        return rewritten(packet, header, self.source, self.target)


class FlowTable:
    """Confirmed flows by what their packets carry on arrival."""

    #: Of the packets whose flows are here.
    protocol: ClassVar[int] = ipv4.ESP

    def __init__(self, offloads: Offloads | None = None) -> None:
        self._offloads = offloads or Offloads()
        self._arriving: dict[Side, dict[FlowKey, Flow]] = {Side.LAN: {}, Side.WAN: {}}
        self.lan = self._arriving[Side.LAN]
        self.wan = self._arriving[Side.WAN]

    def __len__(self) -> int:
        return len(self.lan) + len(self.wan)

    def add(self, flow: Flow) -> None:
        """Let a flow's packets pass. A flow that carries the same as an older one replaces it."""
        key, arriving = flow.key, self._arriving[flow.side]
        replaced = arriving.get(key)
        if replaced is flow:
            return
        if replaced is not None:
            self._offloads.withdraw(replaced)
        arriving[key] = flow

    def offer(self, flow: Flow, session: Session) -> None:
        """Let the kernel carry a flow that is here, if it can."""
        self._offloads.offer(flow, session)

    def refresh(self, flow: Flow) -> None:
        """Count what the kernel has carried of a flow up to now."""
        self._offloads.refresh(flow)

    def hold(self, flow: Flow) -> None:
        """Send its packets through the slow lane again. What has replaced the flow stays."""
        self._offloads.withdraw(flow)
        arriving = self._arriving[flow.side]
        if arriving.get(flow.key) is flow:
            del arriving[flow.key]


def forward(flows: dict[FlowKey, Flow], buffer: bytearray, length: int, now: float) -> Destination | None:
    """Rewrite the packet in ``buffer[:length]`` for its flow and say where to send it.

    None, and the buffer untouched, when it is not an ordinary packet of a confirmed flow. The header
    checksum is left zero: the raw socket that sends it fills it in (raw(7)).
    """
    if length < SHORTEST:
        return None
    first, total, fragment, ttl, protocol, addresses, spi, sequence = _read(buffer)
    flow = flows.get(addresses << 32 | spi)
    if (
        flow is None
        or first != _VERSION_4_IHL_5
        or protocol != ipv4.ESP
        or total != length
        or ttl < 2
        or fragment & _IS_FRAGMENT
        or sequence < FIRST_FEW
    ):
        return None
    flow.packets += 1
    flow.octets += length
    flow.last_seen = now
    flow.sequence = sequence
    _write(buffer, _TTL_AT, ttl - 1, ipv4.ESP, 0, flow.source, flow.target)
    return flow.target


def rewritten(packet: bytes, header: ipv4.Header, source: Ip4, target: Ip4) -> bytes:
    """A packet with the addresses it leaves with, as ``forward`` would make it. Its TTL is 2 or more."""
    whole = bytearray(packet[: header.total_length])
    _write(whole, _TTL_AT, header.ttl - 1, ipv4.ESP, 0, source, target)
    return bytes(whole)


def restore(flow: Flow, packet: bytes) -> bytes:
    """A packet of the flow as it was before it was rewritten, to quote it to its sender.

    The header checksum is made good again: it is part of what the sender sent.
    """
    whole = bytearray(packet)
    _write(whole, _TTL_AT, whole[_TTL_AT] + 1, ipv4.ESP, 0, flow.sender, flow.addressed)
    whole[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum(whole[:_IP_HEADER]).to_bytes(2)
    return bytes(whole)
