"""Data flows of ESP in UDP, and of UDP that is forwarded: the packet path.

A flow is found by addresses and ports; its packets are rewritten where they lie. Of IPsec only ESP takes this
way: IKE and keepalives (RFC 3948 §2.2, §2.3) go the long way, where they are understood.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |Version|  IHL  |      TOS      |          Total Length         |
  4 |         Identification        |Flags|      Fragment Offset    |
  8 |  Time to Live |    Protocol   |         Header Checksum       |
 12 |                         Source Address                        |
 16 |                       Destination Address                     |
 20 |          Source Port          |       Destination Port        |
 24 |            Length             |           Checksum            |
 28 |                    SPI, or a Non-ESP Marker                   |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

Nothing is summed up here. A UDP checksum of zero stays so; any other one is corrected by the difference,
which is the same for all packets of a flow, so that what was wrong stays wrong and the receiver finds out. An
unfinished one, which holds the sum of the pseudo header, would be spoilt by that; it is recognised by
being just that sum, and goes the long way.
"""

import struct
from dataclasses import dataclass, field

from protocols.actions import Destination, Kind, Shortcut, Side
from protocols.checksum import checksum
from protocols.offload import Offloads
from protocols.sessions import Session, Traffic
from protocols.udp import Endpoint

#: Source, destination and both ports in one integer, as they lie in the packet.
FlowKey = int

#: IPv4 header without options, UDP header, SPI and sequence number.
SHORTEST = 36

_IP_HEADER = 20
_VERSION_4_IHL_5 = 0x45
_UDP = 17
_IS_FRAGMENT = 0x3FFF  # More Fragments, or an offset
_TTL_AT = 8
_CHECKSUM_AT = 10
_PORTS = 0xFFFFFFFF
#: Octets that are looked at; what is shorter goes the long way.
_LEAST = 32
#: Ones' complement sums are sums modulo this.
_MODULUS = 0xFFFF
_read = struct.Struct("!BxHxxHBBxxQIHHI").unpack_from
_write = struct.Struct("!BBHQIHH").pack_into


def flow_key(source: Endpoint, target: Endpoint) -> FlowKey:
    """The key of packets between these endpoints."""
    return (source[0] << 32 | target[0]) << 32 | source[1] << 16 | target[1]


@dataclass(slots=True, eq=False, kw_only=True)
class Flow:
    """One direction between a port of an inside host and one of a peer. Read for every packet.

    ``hairpin``: both are inside, and it leaves on the side that it came in on.
    """

    #: What its packets leave with.
    source: Endpoint
    target: Endpoint
    #: What they arrive with: who sends them, and to whom as the sender believes.
    side: Side
    sender: Endpoint
    addressed: Endpoint
    #: What the session has carried in this direction, and another one that the flow is of as well.
    traffic: Traffic
    also: Traffic | None = None
    #: Whether all of its datagrams pass here, and not those alone that hold ESP.
    plain: bool = False
    hairpin: bool = False
    addresses: int = field(init=False)
    ports: int = field(init=False)
    #: What is to be added to the ones' complement sum of a packet.
    difference: int = field(init=False)
    destination: Destination = field(init=False)

    def __post_init__(self) -> None:
        self.addresses = self.source[0] << 32 | self.target[0]
        self.ports = self.source[1] << 16 | self.target[1]
        self.difference = (self.addresses + self.ports - self.key % _MODULUS) % _MODULUS
        self.destination = self.target[0]

    @property
    def key(self) -> FlowKey:
        """What the flow's packets carry when they reach us."""
        return flow_key(self.sender, self.addressed)

    @property
    def sent_as(self) -> FlowKey:
        """What they carry when they have left us."""
        return flow_key(self.source, self.target)

    @property
    def out(self) -> Side:
        """The side that its packets leave on."""
        return Side.LAN if self.hairpin or self.side is Side.WAN else Side.WAN

    @property
    def shortcut(self) -> Shortcut:
        """The flow as the kernel can carry it."""
        return Shortcut(
            kind=Kind.UDP if self.plain else Kind.NATT,
            protocol=_UDP,
            side=self.side,
            sender=self.sender[0],
            addressed=self.addressed[0],
            label=self.key & _PORTS,
            source=self.source[0],
            target=self.target[0],
            new_label=self.ports,
        )

    def add(self, packets: int, octets: int, last_seen: float, _sequence: int = 0) -> None:
        """Count packets that the kernel has carried."""
        self.traffic.add(packets, octets, last_seen)
        if self.also is not None:
            self.also.add(packets, octets, last_seen)


class FlowTable:
    """All flows by what their packets carry on arrival, and on departure."""

    def __init__(self, offloads: Offloads | None = None) -> None:
        self._offloads = offloads or Offloads()
        self.lan: dict[FlowKey, Flow] = {}
        self.wan: dict[FlowKey, Flow] = {}
        self._departed: dict[FlowKey, Flow] = {}

    def __len__(self) -> int:
        return len(self.lan) + len(self.wan)

    def _arriving(self, flow: Flow) -> dict[FlowKey, Flow]:
        return self.lan if flow.side is Side.LAN else self.wan

    def add(self, flow: Flow) -> None:
        """Let a flow's packets pass. A flow that carries the same as an older one replaces it."""
        arriving = self._arriving(flow)
        replaced = arriving.get(flow.key)
        if replaced is not None:
            self._offloads.withdraw(replaced)
        arriving[flow.key] = flow
        self._departed[flow.sent_as] = flow

    def offer(self, flow: Flow, *sessions: Session) -> None:
        """Let the kernel carry a flow that is here, if it can; it counts for these sessions."""
        self._offloads.offer(flow, *sessions)

    def remove(self, flow: Flow) -> None:
        """Let them pass no longer. What has replaced the flow stays."""
        self._offloads.withdraw(flow)
        for flows, key in ((self._arriving(flow), flow.key), (self._departed, flow.sent_as)):
            if flows.get(key) is flow:
                del flows[key]

    def departed(self, key: FlowKey) -> Flow | None:
        """The flow whose packets leave us carrying ``key``."""
        return self._departed.get(key)


def forward(flows: dict[FlowKey, Flow], buffer: bytearray, length: int, now: float) -> Destination | None:
    """Rewrite the packet in ``buffer[:length]`` for its flow and say where to send it.

    None, and the buffer untouched, when it is of no known flow, or is not what the flow carries. The header
    checksum is left zero: the raw socket that sends it fills it in (raw(7)).
    """
    if length < _LEAST:
        return None
    first, total, fragment, ttl, protocol, addresses, ports, udp_length, udp_sum, spi = _read(buffer)
    flow = flows.get(addresses << 32 | ports)
    if (
        flow is None
        or ((not spi or length < SHORTEST) and not flow.plain)
        or first != _VERSION_4_IHL_5
        or protocol != _UDP
        or total != length
        or ttl < 2
        or fragment & _IS_FRAGMENT
        or udp_length != length - _IP_HEADER
    ):
        return None
    if udp_sum:
        # The sum of the pseudo header; 32-bit words add up to the same as their halves do.
        if (addresses % _MODULUS + _UDP + udp_length - udp_sum) % _MODULUS == 0:
            return None
        udp_sum = _MODULUS - (_MODULUS - udp_sum + flow.difference) % _MODULUS
    traffic = flow.traffic
    traffic.packets += 1
    traffic.octets += length
    traffic.last_seen = now
    if flow.also is not None:
        flow.also.add(1, length, now)
    _write(buffer, _TTL_AT, ttl - 1, _UDP, 0, flow.addresses, flow.ports, udp_length, udp_sum)
    return flow.destination


def restore(flow: Flow, packet: bytes) -> bytes:
    """A packet of the flow as it was before ``forward`` rewrote it, to quote it to its sender.

    The header checksum is made good again: it is part of what the sender sent.
    """
    whole = bytearray(packet)
    _, _, _, ttl, protocol, _, _, udp_length, udp_sum, _ = _read(whole)
    if udp_sum:
        udp_sum = _MODULUS - (_MODULUS - udp_sum - flow.difference) % _MODULUS
    addresses, ports = divmod(flow.key, 1 << 32)
    _write(whole, _TTL_AT, ttl + 1, protocol, 0, addresses, ports, udp_length, udp_sum)
    whole[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum(whole[:_IP_HEADER]).to_bytes(2)
    return bytes(whole)
