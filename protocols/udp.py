"""UDP headers and their checksum (RFC 768), translated in whole IPv4 packets.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |          Source Port          |       Destination Port        |
  4 |            Length             |           Checksum            |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

The checksum covers a pseudo header as well: addresses, protocol and length. Zero means there is none, and
stays so; a sum of zero is written as 0xFFFF. A packet that a virtual interface of this machine handed to us
may have an *unfinished* one: the field holds the sum of the pseudo header only, and the device was to do
the rest (CHECKSUM_PARTIAL). We are that device.
"""

import struct
from dataclasses import dataclass, field, replace
from typing import Final, Self

from protocols import ipv4
from protocols.actions import Send
from protocols.addr import Ip4, show_ip
from protocols.checksum import checksum, update
from protocols.drops import Reason
from protocols.errors import DecodeError

PROTOCOL: Final = 17  # RFC 768
HEADER: Final = 8
LONGEST: Final = ipv4.LONGEST_PACKET - ipv4.SHORTEST_HEADER

_CHECKSUM_AT: Final = 6
_udp = struct.Struct("!HHHH")
_pseudo = struct.Struct("!IIBBH")
_translated = struct.Struct("!IIHH")

#: An address and a port.
Endpoint = tuple[Ip4, int]


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram and the addresses it goes between."""

    source: Endpoint
    target: Endpoint
    payload: bytes = field(default=b"", repr=False)
    #: Right, or zero for none.
    checksum: int = 0

    def __str__(self) -> str:
        (source, source_port), (target, target_port) = self.source, self.target
        return f"{show_ip(source)}:{source_port} to {show_ip(target)}:{target_port}"

    @classmethod
    def from_packet(cls, header: ipv4.Header, packet: bytes) -> Self:
        """Read the datagram in a whole IPv4 packet; an unfinished checksum is finished.

        Raises:
            DecodeError: UDP_LENGTH, CHECKSUM.
        """
        segment = packet[header.length : header.total_length]
        if len(segment) < HEADER:
            raise DecodeError(Reason.UDP_LENGTH, f"{len(segment)} bytes")
        source_port, target_port, length, found = _udp.unpack_from(segment)
        if not HEADER <= length <= len(segment):
            raise DecodeError(Reason.UDP_LENGTH, f"length {length}, {len(segment)} bytes")
        segment = segment[:length]
        return cls(
            source=(Ip4(header.src), source_port),
            target=(Ip4(header.dst), target_port),
            payload=segment[HEADER:],
            checksum=_verified(found, header.src, header.dst, segment),
        )

    def summed(self) -> Self:
        """The same datagram with its checksum computed."""
        (src, source_port), (dst, target_port) = self.source, self.target
        segment = _udp.pack(source_port, target_port, HEADER + len(self.payload), 0) + self.payload
        return replace(self, checksum=_computed(src, dst, segment))

    def between(self, source: Endpoint, target: Endpoint) -> Self:
        """The same datagram between other endpoints; the checksum follows (RFC 1624 §3), zero stays zero."""
        new_sum = self.checksum
        if new_sum:
            old = _translated.pack(self.source[0], self.target[0], self.source[1], self.target[1])
            new = _translated.pack(source[0], target[0], source[1], target[1])
            new_sum = update(new_sum, old, new) or 0xFFFF
        return replace(self, source=source, target=target, checksum=new_sum)

    def to_bytes(self) -> bytes:
        """Encode header and payload.

        Raises:
            ValueError: it is too long, or a value does not fit.
        """
        length = HEADER + len(self.payload)
        if length > LONGEST:
            raise ValueError(f"a datagram of {length} octets fits into no packet")
        try:
            return _udp.pack(self.source[1], self.target[1], length, self.checksum) + self.payload
        except struct.error as error:
            raise ValueError(f"{self!r} does not fit: {error}") from error

    def forwarded(self, header: ipv4.Header) -> Send:
        """Send it on in the place of the packet with that header, one hop further."""
        packet = ipv4.build(
            src=self.source[0],
            dst=self.target[0],
            protocol=PROTOCOL,
            payload=self.to_bytes(),
            ttl=header.ttl - 1,
            tos=header.tos,
            identification=header.identification,
            dont_fragment=header.dont_fragment,
        )
        return Send(packet, Ip4(self.target[0]))


def pseudo_sum(src: int, dst: int, length: int) -> int:
    """The ones' complement sum of the pseudo header, which is what an unfinished checksum field holds."""
    return ~checksum(_pseudo.pack(src, dst, 0, PROTOCOL, length)) & 0xFFFF


def _computed(src: int, dst: int, segment: bytes) -> int:
    """The checksum over pseudo header and a segment whose checksum field is zero."""
    return checksum(_pseudo.pack(src, dst, 0, PROTOCOL, len(segment)), segment) or 0xFFFF


def _verified(found: int, src: int, dst: int, segment: bytes) -> int:
    """The checksum the segment should have: zero if it has none.

    Raises:
        DecodeError: CHECKSUM.
    """
    if found == 0:
        return 0
    right = _computed(src, dst, segment[:_CHECKSUM_AT] + b"\0\0" + segment[HEADER:])
    if found not in (right, pseudo_sum(src, dst, len(segment))):
        raise DecodeError(Reason.CHECKSUM, f"UDP: {found:#06x}, should be {right:#06x}")
    return right
