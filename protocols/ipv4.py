"""IPv4 headers, whole packets, and fragmentation (RFC 791 §3).

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |Version|  IHL  |Type of Service|          Total Length         |
  4 |         Identification        |r|D|M|     Fragment Offset     |
  8 |  Time to Live |    Protocol   |         Header Checksum       |
 12 |                         Source Address                        |
 16 |                       Destination Address                     |
 20 |                    Options, a multiple of 32 bits             |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

Addresses are integers in host order, offsets and lengths are octets, also the fragment offset, which the
wire counts in units of 8.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final, Self

from protocols.allocator import Random
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.errors import DecodeError

VERSION: Final = 4  # RFC 791 §3.1
RESERVED_FLAG: Final = 0x8000  # Flags, RFC 791 §3.1
DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
OFFSET_MASK: Final = 0x1FFF
SHORTEST_HEADER: Final = 20  # IHL 5
LONGEST_HEADER: Final = 60  # IHL 15
#: Every link carries this much in one piece (RFC 791 §3.2).
SMALLEST_MTU: Final = 68
#: Every host takes this much (RFC 791 §3.1, Total Length).
EVERY_HOST_TAKES: Final = 576
LONGEST_PACKET: Final = 0xFFFF
DEFAULT_TTL: Final = 64  # RFC 1700

# Protocol numbers (RFC 1700)
ICMP: Final = 1
TCP: Final = 6
GRE: Final = 47
ESP: Final = 50  # RFC 4303
AH: Final = 51  # RFC 4302
FWZ: Final = 94  # Check Point FWZ encapsulation

# Options (RFC 791 §3.1)
_END_OF_OPTIONS: Final = 0
_NO_OPERATION: Final = 1
_COPIED: Final = 0x80

_CHECKSUM_AT: Final = 10
_header = struct.Struct("!BBHHHBBHII")


@dataclass(frozen=True, slots=True)
class Header:
    """An IPv4 header. The checksum is not a field: it is verified on reading and computed on writing."""

    src: int
    dst: int
    protocol: int
    total_length: int
    tos: int = 0
    identification: int = 0
    #: Must be zero (RFC 791 §3.1), and routers must not mind if it is not (RFC 1812 §4.2.2.3).
    reserved_flag: bool = False
    dont_fragment: bool = False
    more_fragments: bool = False
    #: In octets, a multiple of 8.
    fragment_offset: int = 0
    ttl: int = DEFAULT_TTL
    #: A multiple of 4 octets, at most 40.
    options: bytes = b""

    @property
    def length(self) -> int:
        """Octets of the header."""
        return SHORTEST_HEADER + len(self.options)

    @property
    def is_fragment(self) -> bool:
        """Whether it belongs to a part of a packet only."""
        return self.more_fragments or self.fragment_offset > 0

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, *, verify: bool = True) -> Self:
        """Read the header at the start of a packet, or of what an ICMP error quotes of one.

        What follows the header may be cut short; ``validate`` is for whole packets. Without ``verify``
        the checksum may be anything.

        Raises:
            DecodeError: BAD_HEADER, CHECKSUM.
        """
        if len(data) < SHORTEST_HEADER:
            raise DecodeError(Reason.BAD_HEADER, f"{len(data)} bytes")
        first, tos, total, identification, fragment, ttl, protocol, _, src, dst = _header.unpack_from(data)
        length = (first & 15) * 4
        if first >> 4 != VERSION or not SHORTEST_HEADER <= length <= min(len(data), total):
            detail = f"version {first >> 4}, header {length}, total {total}, {len(data)} bytes"
            raise DecodeError(Reason.BAD_HEADER, detail)
        if verify and checksum(data[:length]) != 0:
            raise DecodeError(Reason.CHECKSUM, "IPv4 header")
        return cls(
            src=src,
            dst=dst,
            protocol=protocol,
            total_length=total,
            tos=tos,
            identification=identification,
            reserved_flag=bool(fragment & RESERVED_FLAG),
            dont_fragment=bool(fragment & DONT_FRAGMENT),
            more_fragments=bool(fragment & MORE_FRAGMENTS),
            fragment_offset=(fragment & OFFSET_MASK) * 8,
            ttl=ttl,
            options=bytes(data[SHORTEST_HEADER:length]),
        )

    def to_bytes(self) -> bytes:
        """Encode the header with its checksum.

        Raises:
            ValueError: a field's value does not fit.
        """
        if len(self.options) % 4 or self.length > LONGEST_HEADER:
            raise ValueError("options come in whole words, at most ten of them")
        if self.fragment_offset % 8:
            raise ValueError("a fragment begins at a multiple of 8 octets")
        fragment = (
            self.fragment_offset >> 3
            | (RESERVED_FLAG if self.reserved_flag else 0)
            | (DONT_FRAGMENT if self.dont_fragment else 0)
            | (MORE_FRAGMENTS if self.more_fragments else 0)
        )
        if not 0 <= self.fragment_offset >> 3 <= OFFSET_MASK:
            raise ValueError(f"no fragment begins at {self.fragment_offset}")
        first = VERSION << 4 | self.length // 4
        ids = (self.identification, fragment, self.ttl, self.protocol)
        try:
            fixed = _header.pack(first, self.tos, self.total_length, *ids, 0, self.src, self.dst)
        except struct.error as error:
            raise ValueError(f"{self!r} does not fit: {error}") from error
        whole = bytearray(fixed + self.options)
        whole[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum(whole).to_bytes(2)
        return bytes(whole)


def validate(packet: bytes | bytearray | memoryview, *, verify: bool = True) -> Header:
    """The header of a whole, unfragmented packet without options, as we forward them (RFC 1812 §5.2.2).

    Raises:
        DecodeError: BAD_HEADER, CHECKSUM, IP_OPTIONS, FRAGMENT.
    """
    header = Header.from_bytes(packet, verify=verify)
    if header.total_length > len(packet):
        raise DecodeError(Reason.BAD_HEADER, f"total length {header.total_length}, {len(packet)} bytes")
    if header.options:
        raise DecodeError(Reason.IP_OPTIONS, header.options.hex())
    if header.is_fragment:
        raise DecodeError(Reason.FRAGMENT, f"offset {header.fragment_offset}")
    return header


def build(
    *,
    src: int,
    dst: int,
    protocol: int,
    payload: bytes,
    ttl: int = DEFAULT_TTL,
    tos: int = 0,
    identification: int = 0,
    dont_fragment: bool = False,
) -> bytes:
    """A whole packet around a payload.

    Raises:
        ValueError: it would be longer than 65,535 octets, or a value does not fit.
    """
    header = Header(
        src=src,
        dst=dst,
        protocol=protocol,
        total_length=SHORTEST_HEADER + len(payload),
        tos=tos,
        identification=identification,
        dont_fragment=dont_fragment,
        ttl=ttl,
    )
    return header.to_bytes() + payload


def fragment(packet: bytes, mtu: int) -> list[bytes]:
    """Cut a packet into pieces of at most ``mtu`` octets (RFC 791 §3.2); one that fits stays as it is.

    A piece of a packet may be cut further. The first piece keeps all options, the others those that
    are to be copied.

    Raises:
        ValueError: the packet must not be fragmented, or no link has so small an MTU.
        DecodeError: it is no whole packet.
    """
    header = Header.from_bytes(packet, verify=False)
    if header.total_length > len(packet):
        raise DecodeError(Reason.BAD_HEADER, f"total length {header.total_length}, {len(packet)} bytes")
    if mtu < SMALLEST_MTU:
        raise ValueError(f"no link has an MTU of {mtu}")
    if header.total_length <= mtu:
        return [packet[: header.total_length]]
    if header.dont_fragment:
        raise ValueError("the packet must not be fragmented")
    payload = packet[header.length : header.total_length]
    options = header.options
    pieces: list[bytes] = []
    at = 0
    while at < len(payload):
        room = mtu - SHORTEST_HEADER - len(options)
        last = len(payload) - at <= room
        piece = payload[at:] if last else payload[at : at + room // 8 * 8]
        of_piece = replace(
            header,
            total_length=SHORTEST_HEADER + len(options) + len(piece),
            fragment_offset=header.fragment_offset + at,
            more_fragments=header.more_fragments or not last,
            options=options,
        )
        pieces.append(of_piece.to_bytes() + piece)
        at += len(piece)
        options = _copied(header.options)
    return pieces


def fragment_anyway(packet: bytes, mtu: int, random: Random) -> list[bytes]:
    """Cut a packet whatever it says of fragments, and however small its link says to be.

    Raw sockets replace the identification 0 by a number of their own (raw(7)), another one in each piece; so
    a packet without gets one, which ``random`` chooses.
    """
    header = Header.from_bytes(packet, verify=False)
    if header.identification == 0 or header.dont_fragment:
        number = header.identification or 1 + random(0xFFFF)
        numbered = replace(header, identification=number, dont_fragment=False)
        packet = numbered.to_bytes() + packet[header.length :]
    return fragment(packet, max(mtu, SMALLEST_MTU))


def _copied(options: bytes) -> bytes:
    """The options that every fragment carries, padded to whole words (RFC 791 §3.1)."""
    kept = b""
    at = 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        kind = options[at]
        size = 1 if kind == _NO_OPERATION else max(2, int.from_bytes(options[at + 1 : at + 2]))
        if kind & _COPIED:
            kept += options[at : at + size]
        at += size
    return kept + bytes(-len(kept) % 4)
