"""The kernel's part of the fast path, as a slow model: what relay/fastpath/bpf does, said in Python."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from protocols import ipv4
from protocols.actions import Action, Kind, Offload, Shortcut, Side, Unload
from protocols.checksum import update
from protocols.errors import DecodeError
from protocols.gre import codec as gre
from protocols.offload import Carried

_IP_HEADER = 20
_ESP_FIRST_FEW = 4


@dataclass
class _Slot:
    shortcut: Shortcut
    packets: int = 0
    octets: int = 0
    last_seen: float = 0.0
    sequence: int = 0


class Carrier:
    """Carries the flows that it was given, and counts. ``pptp``: whether rules are for it."""

    def __init__(self, pptp: Callable[[], bool] = lambda: True) -> None:
        self._pptp = pptp
        self._slots: dict[int, _Slot] = {}
        self._numbers: dict[tuple[Side, int, int, int, int | None], int] = {}
        #: Packets of all flows, of all time.
        self.packets = 0

    def __len__(self) -> int:
        return len(self._slots)

    def perform(self, action: Action) -> None:
        """Carry out an Offload or an Unload."""
        if isinstance(action, Offload):
            one = action.shortcut
            self._slots[action.flow] = _Slot(one)
            label = None if one.kind is Kind.IP else one.label
            self._numbers[one.side, one.sender, one.addressed, one.protocol, label] = action.flow
        elif isinstance(action, Unload):
            del self._slots[action.flow]
            self._numbers = {key: flow for key, flow in self._numbers.items() if flow != action.flow}

    def read(self, flow: int) -> Carried | None:
        """What a flow has carried."""
        return dict(self.counters()).get(flow)

    def counters(self) -> list[tuple[int, Carried]]:
        """The same of all of them."""
        return [(flow, (s.packets, s.octets, s.last_seen, s.sequence)) for flow, s in self._slots.items()]

    def take(self, side: Side, packet: bytes, now: float) -> bytes | None:
        """A packet as it leaves; None when it goes on to user space."""
        try:
            header = ipv4.validate(packet, verify=False)
        except DecodeError:
            return None
        payload = packet[_IP_HEADER : header.total_length]
        key = side, header.src, header.dst, header.protocol
        flow = self._numbers.get((*key, _label(header.protocol, payload)))
        if flow is None and (header.protocol == ipv4.ESP or not self._pptp()):
            flow = self._numbers.get((*key, None))
        if flow is None or header.length > _IP_HEADER or header.ttl < 2 or len(payload) < 8:
            return None
        slot = self._slots[flow]
        if header.total_length != len(packet) or not _ordinary(slot.shortcut.kind, packet, payload):
            return None
        slot.packets += 1
        slot.octets += header.total_length
        slot.last_seen = now
        if slot.shortcut.kind is Kind.ESP:
            slot.sequence = int.from_bytes(payload[4:8])
        self.packets += 1
        return _rewritten(slot.shortcut, packet[: header.total_length])


def _label(protocol: int, payload: bytes) -> int | None:
    """What packets are told apart by beside their addresses; None: they are not."""
    if protocol == ipv4.GRE and gre.is_pptp(payload, 0):
        return int.from_bytes(payload[6:8])
    return int.from_bytes(payload[:4]) if protocol in (ipv4.ESP, 17) else None


def _ordinary(kind: Kind, packet: bytes, payload: bytes) -> bool:
    if kind is Kind.GRE:
        return gre.refusal(packet, _IP_HEADER, _IP_HEADER + len(payload)) is None
    if kind is Kind.ESP:
        return int.from_bytes(payload[4:8]) >= _ESP_FIRST_FEW
    if kind is Kind.NATT:
        return len(payload) >= 16 and payload[8:12] != bytes(4)
    return True


def _rewritten(shortcut: Shortcut, packet: bytes) -> bytes:
    """As the raw socket would get it: without the header's checksum."""
    out = bytearray(packet)
    out[8] -= 1
    struct.pack_into("!HII", out, 10, 0, shortcut.source, shortcut.target)
    if shortcut.kind is Kind.GRE:
        struct.pack_into("!H", out, _IP_HEADER + 6, shortcut.new_label)
    elif shortcut.kind in (Kind.NATT, Kind.UDP):
        struct.pack_into("!I", out, _IP_HEADER, shortcut.new_label)
        found = int.from_bytes(packet[26:28])
        if found:
            old, new = packet[12:20] + packet[20:24], bytes(out[12:20] + out[20:24])
            struct.pack_into("!H", out, _IP_HEADER + 6, update(found, old, new) or 0xFFFF)
    return bytes(out)
