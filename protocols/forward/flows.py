"""Flows of IP protocols that are forwarded whole: the packet path. They are told apart by addresses alone."""

import struct
from dataclasses import dataclass, field

from protocols.actions import Destination, Kind, Shortcut, Side
from protocols.addr import Ip4
from protocols.checksum import checksum
from protocols.offload import Offloads
from protocols.sessions import Session, Traffic

#: Source, destination and protocol in one integer.
FlowKey = int

_IP_HEADER = 20
_VERSION_4_IHL_5 = 0x45
_IS_FRAGMENT = 0x3FFF  # More Fragments, or an offset
_TTL_AT = 8
_CHECKSUM_AT = 10
_read = struct.Struct("!BxHxxHBBxxQ").unpack_from
_write = struct.Struct("!BBHQ").pack_into


def flow_key(source: int, target: int, protocol: int) -> FlowKey:
    """The key of packets of a protocol between these addresses."""
    return (source << 32 | target) << 8 | protocol


@dataclass(slots=True, eq=False, kw_only=True)
class Flow:
    """One direction between a peer and the server. Read for every packet."""

    protocol: int
    #: What its packets leave with, and on which side.
    source: Ip4
    target: Ip4
    out: Side
    #: What they arrive with: who sends them, and to whom as the sender believes.
    side: Side
    sender: Ip4
    addressed: Ip4
    #: What the session has carried in this direction.
    traffic: Traffic
    addresses: int = field(init=False)

    def __post_init__(self) -> None:
        self.addresses = self.source << 32 | self.target

    @property
    def key(self) -> FlowKey:
        """What the flow's packets carry when they reach us."""
        return flow_key(self.sender, self.addressed, self.protocol)

    @property
    def sent_as(self) -> FlowKey:
        """What they carry when they have left us."""
        return flow_key(self.source, self.target, self.protocol)

    @property
    def shortcut(self) -> Shortcut:
        """The flow as the kernel can carry it."""
        return Shortcut(
            kind=Kind.IP,
            protocol=self.protocol,
            side=self.side,
            sender=self.sender,
            addressed=self.addressed,
            label=0,
            source=self.source,
            target=self.target,
            new_label=0,
        )

    def add(self, packets: int, octets: int, last_seen: float, _sequence: int = 0) -> None:
        """Count packets that the kernel has carried."""
        self.traffic.add(packets, octets, last_seen)


class FlowTable:
    """All flows by what their packets carry on arrival, and on departure."""

    def __init__(self, offloads: Offloads | None = None) -> None:
        self._offloads = offloads or Offloads()
        self.lan: dict[FlowKey, Flow] = {}
        self.wan: dict[FlowKey, Flow] = {}
        self._departed: dict[FlowKey, Flow] = {}

    def _arriving(self, flow: Flow) -> dict[FlowKey, Flow]:
        return self.lan if flow.side is Side.LAN else self.wan

    def add(self, flow: Flow) -> None:
        """Let a flow's packets pass."""
        self._arriving(flow)[flow.key] = flow
        self._departed[flow.sent_as] = flow

    def offer(self, flow: Flow, session: Session) -> None:
        """Let the kernel carry a flow that is here, if it can."""
        self._offloads.offer(flow, session)

    def remove(self, flow: Flow) -> None:
        """Let them pass no longer."""
        self._offloads.withdraw(flow)
        del self._arriving(flow)[flow.key]
        del self._departed[flow.sent_as]

    def departed(self, key: FlowKey) -> Flow | None:
        """The flow whose packets leave us carrying ``key``."""
        return self._departed.get(key)


def forward(flows: dict[FlowKey, Flow], buffer: bytearray, length: int, now: float) -> Destination | None:
    """Rewrite the packet in ``buffer[:length]`` for its flow and say where to send it.

    None, and the buffer untouched, when it is of no known flow. The header checksum is left zero: the raw
    socket that sends it fills it in (raw(7)).
    """
    first, total, fragment, ttl, protocol, addresses = _read(buffer)
    flow = flows.get(addresses << 8 | protocol)
    if (
        flow is None
        or first != _VERSION_4_IHL_5
        or not _IP_HEADER <= total == length
        or ttl < 2
        or fragment & _IS_FRAGMENT
    ):
        return None
    traffic = flow.traffic
    traffic.packets += 1
    traffic.octets += length
    traffic.last_seen = now
    _write(buffer, _TTL_AT, ttl - 1, protocol, 0, flow.addresses)
    return flow.target


def restore(flow: Flow, packet: bytes) -> bytes:
    """A packet of the flow as it was before ``forward`` rewrote it, to quote it to its sender."""
    whole = bytearray(packet)
    _write(whole, _TTL_AT, whole[_TTL_AT] + 1, flow.protocol, 0, flow.key >> 8)
    whole[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum(whole[:_IP_HEADER]).to_bytes(2)
    return bytes(whole)
