"""Ethernet frames of VPN data, built once and sent many times: PPTP's GRE (RFC 2637 §4.1), and ESP."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from protocols.addr import parse_ip

_IP: Final = struct.Struct(">BBHHHBBHII")
_GRE: Final = struct.Struct(">HHHHI")
_UDP: Final = struct.Struct(">HHHH")
_ESP: Final = struct.Struct(">II")
#: Key and Sequence Number present, version 1; protocol type PPP.
_FLAGS: Final = 0x3001
_PPP: Final = 0x880B
_ETHERTYPE_IP: Final = b"\x08\x00"
SHORTEST: Final = _IP.size + _GRE.size


class Wire(Protocol):
    """One direction of a session, as somebody sends it."""

    def packet(self, size: int) -> bytes:
        """One IPv4 packet of ``size`` octets."""
        ...


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a call: where its packets come from and go to, and the receiver's Call ID."""

    source: str
    destination: str
    call_id: int

    def packet(self, size: int) -> bytes:
        """One IPv4 packet of ``size`` octets, at least SHORTEST."""
        gre = _GRE.pack(_FLAGS, _PPP, size - SHORTEST, self.call_id, 1)
        return _whole(self.source, self.destination, 47, gre, size)


@dataclass(frozen=True, slots=True)
class EspFlow:
    """One direction of a pair of SPIs."""

    source: str
    destination: str
    spi: int
    #: Not of a beginning: what begins takes the long way.
    sequence: int = 5000

    def packet(self, size: int) -> bytes:
        """One IPv4 packet of ``size`` octets."""
        return _whole(self.source, self.destination, 50, _ESP.pack(self.spi, self.sequence), size)


@dataclass(frozen=True, slots=True)
class UdpFlow:
    """One direction of UDP without checksums (RFC 3948 §2.1); ``payload`` is what it begins with."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes

    def packet(self, size: int = 0) -> bytes:
        """One IPv4 packet of ``size`` octets, or as many as it needs."""
        size = max(size, _IP.size + _UDP.size + len(self.payload))
        udp = _UDP.pack(self.source[1], self.destination[1], size - _IP.size, 0)
        return _whole(self.source[0], self.destination[0], 17, udp + self.payload, size)


def esp_in_udp(source: tuple[str, int], destination: tuple[str, int], spi: int) -> UdpFlow:
    """One direction of ESP in UDP."""
    return UdpFlow(source, destination, _ESP.pack(spi, 5000))


def _whole(source: str, destination: str, protocol: int, begin: bytes, size: int) -> bytes:
    header = _IP.pack(0x45, 0, size, 1, 0, 64, protocol, 0, parse_ip(source), parse_ip(destination))
    words = sum(struct.unpack(">10H", header))
    words = (words & 0xFFFF) + (words >> 16)
    checksum = ~(words + (words >> 16)) & 0xFFFF
    header = header[:10] + struct.pack(">H", checksum) + header[12:]
    return header + begin + bytes(size - len(header) - len(begin))


def frames(flows: Sequence[Wire], size: int, source_mac: str, destination_mac: str) -> list[bytes]:
    """One frame for each flow."""
    ethernet = _mac(destination_mac) + _mac(source_mac) + _ETHERTYPE_IP
    return [ethernet + flow.packet(size) for flow in flows]


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
