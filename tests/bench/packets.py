"""Ethernet frames of PPTP data, built once and sent many times (RFC 2637 §4.1)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocols.addr import parse_ip

_IP: Final = struct.Struct(">BBHHHBBHII")
_GRE: Final = struct.Struct(">HHHHI")
#: Key and Sequence Number present, version 1; protocol type PPP.
_FLAGS: Final = 0x3001
_PPP: Final = 0x880B
_ETHERTYPE_IP: Final = b"\x08\x00"
SHORTEST: Final = _IP.size + _GRE.size


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a call: where its packets come from and go to, and the receiver's Call ID."""

    source: str
    destination: str
    call_id: int


def packet(flow: Flow, size: int, sequence: int = 1) -> bytes:
    """One IPv4 packet of ``size`` octets, at least SHORTEST."""
    payload = size - SHORTEST
    header = _IP.pack(
        0x45, 0, size, sequence & 0xFFFF, 0, 64, 47, 0, parse_ip(flow.source), parse_ip(flow.destination)
    )
    words = sum(struct.unpack(">10H", header))
    words = (words & 0xFFFF) + (words >> 16)
    checksum = ~(words + (words >> 16)) & 0xFFFF
    gre = _GRE.pack(_FLAGS, _PPP, payload, flow.call_id, sequence)
    return header[:10] + struct.pack(">H", checksum) + header[12:] + gre + bytes(payload)


def frames(flows: Sequence[Flow], size: int, source_mac: str, destination_mac: str) -> list[bytes]:
    """One frame for each flow."""
    ethernet = _mac(destination_mac) + _mac(source_mac) + _ETHERTYPE_IP
    return [ethernet + packet(flow, size) for flow in flows]


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
