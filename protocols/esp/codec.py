"""ESP headers (RFC 4303 §2).

    0                   1                   2                   3
    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 0 |               Security Parameters Index (SPI)                 |
 4 |                      Sequence Number                          |
 8 |                 Payload Data (encrypted) …                    |
   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

The SPI is chosen by the receiver. What follows the two words is the ends' secret: nothing here looks at it.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from protocols.drops import Reason
from protocols.errors import DecodeError

#: Octets that are not encrypted.
HEADER_LENGTH: Final = 8
#: "No Security Association exists": for use within a host only (RFC 4303 §2.1).
NO_SPI: Final = 0
#: 1 to 255 are reserved by the IANA (RFC 4303 §2.1); simple implementations use them nevertheless.
LAST_RESERVED: Final = 255
#: The first packet of a Security Association carries 1 (RFC 4303 §2.2).
FIRST_SEQUENCE: Final = 1
#: With extended numbers only the lower half is sent, so that it goes on at 0 after this (§2.2.1).
LAST_SEQUENCE: Final = 0xFFFFFFFF

_words = struct.Struct("!II")


@dataclass(slots=True)
class Esp:
    """One ESP packet without its IP header. Not frozen: generators build one per packet."""

    spi: int
    sequence: int
    #: Everything after the two words, which only the ends can read.
    payload: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read a packet.

        Raises:
            DecodeError: ESP_LENGTH, ESP_NO_SPI; as ``refusal``.
        """
        reason = refusal(data, 0, len(data))
        if reason is not None:
            raise DecodeError(reason, bytes(data[:HEADER_LENGTH]).hex())
        spi, sequence = _words.unpack_from(data)
        return cls(spi, sequence, bytes(data[HEADER_LENGTH:]))

    def to_bytes(self) -> bytes:
        """Encode the packet.

        Raises:
            ValueError: a field's value does not fit, or the SPI is 0.
        """
        if self.spi == NO_SPI:
            raise ValueError("SPI 0 is never sent (RFC 4303 §2.1)")
        try:
            return _words.pack(self.spi, self.sequence) + self.payload
        except struct.error as error:
            raise ValueError(f"an ESP field does not fit: {error}") from error


def refusal(packet: bytes | bytearray | memoryview, offset: int, length: int) -> Reason | None:
    """Why what lies at ``packet[offset:length]`` is no ESP packet to pass on, or None if it is one."""
    if length - offset < HEADER_LENGTH:
        return Reason.ESP_LENGTH
    return Reason.ESP_NO_SPI if spi_of(packet, offset) == NO_SPI else None


def spi_of(packet: bytes | bytearray | memoryview, offset: int) -> int:
    """The SPI in the ESP header at ``offset``, of which at least 4 octets are there."""
    return int.from_bytes(packet[offset : offset + 4])


def words_of(packet: bytes | bytearray | memoryview, offset: int) -> tuple[int, int]:
    """(SPI, sequence number) of the ESP header at ``offset``."""
    spi, sequence = _words.unpack_from(packet, offset)
    return spi, sequence


def show_spi(spi: int) -> str:
    """Write an SPI as people see it: eight hexadecimal digits."""
    return f"0x{spi:08x}"
