"""What goes over UDP 4500 (RFC 3948 §2): ESP in UDP, IKE after a marker, and keepalives.

ESP:        SPI, not zero (4) | Sequence Number (4) | encrypted …
IKE:        Non-ESP Marker, zero (4) | IKE header (28) | …
keepalive:  0xFF (1)
"""

import struct
from dataclasses import dataclass
from typing import Final

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.ike.header import IkeHeader, forwardable

PORT: Final = 4500  # RFC 3947 §8
NON_ESP_MARKER: Final = bytes(4)  # RFC 3948 §2.2
KEEPALIVE: Final = b"\xff"  # RFC 3948 §2.3
#: SPI and sequence number (RFC 4303 §2).
SHORTEST_ESP: Final = 8

_esp = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class EspInUdp:
    """The clear part of an ESP packet in UDP (RFC 3948 §2.1)."""

    spi: int
    sequence: int

    def to_bytes(self) -> bytes:
        """Encode SPI and sequence number.

        Raises:
            ValueError: a value does not fit, or the SPI is zero.
        """
        if self.spi == 0:
            raise ValueError("an SPI of zero would be a non-ESP marker")
        try:
            return _esp.pack(self.spi, self.sequence)
        except struct.error as error:
            raise ValueError(f"{self!r} does not fit: {error}") from error


@dataclass(frozen=True, slots=True)
class MarkedIke:
    """An IKE message after the marker (RFC 3948 §2.2), as far as its header."""

    header: IkeHeader

    def to_bytes(self) -> bytes:
        """Encode marker and header.

        Raises:
            ValueError: a field of the header does not fit.
        """
        return NON_ESP_MARKER + self.header.to_bytes()


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A datagram that only keeps a NAT's mapping alive (RFC 3948 §2.3)."""

    def to_bytes(self) -> bytes:
        """Encode it."""
        return KEEPALIVE


Natt = EspInUdp | MarkedIke | Keepalive


def decode(payload: bytes | bytearray | memoryview) -> Natt:
    """Tell what the payload of a datagram on port 4500 is.

    Raises:
        DecodeError: NATT_LENGTH; IKE_LENGTH, IKE_VERSION, IKE_ZERO_COOKIE of what follows a marker.
    """
    if payload == KEEPALIVE:
        return Keepalive()
    if payload[:4] == NON_ESP_MARKER:
        return MarkedIke(forwardable(payload[len(NON_ESP_MARKER) :]))
    if len(payload) < SHORTEST_ESP:
        raise DecodeError(Reason.NATT_LENGTH, f"{len(payload)} bytes")
    return EspInUdp(*_esp.unpack_from(payload))
