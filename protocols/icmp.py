"""ICMP errors (RFC 792, RFC 1191, RFC 1812 §4.3).

   0                   1                   2                   3
   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
0 |     Type      |     Code      |           Checksum            |
4 |     rest: zero, or by type and code (unused, Next-Hop MTU)    |
8 |   quote: the packet it is about, its header and 8 octets or   |
  |   more of what follows                                        |
  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
"""

import struct
from collections.abc import Set
from dataclasses import dataclass
from typing import Final, Self

from protocols import ipv4
from protocols.addr import is_martian
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.errors import DecodeError

# Types that are errors: they quote a packet (RFC 792, RFC 1812 §4.3.2.7)
DESTINATION_UNREACHABLE: Final = 3
SOURCE_QUENCH: Final = 4
REDIRECT: Final = 5
TIME_EXCEEDED: Final = 11
PARAMETER_PROBLEM: Final = 12
ERRORS: Final = frozenset(
    {DESTINATION_UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM}
)

# Codes of Destination Unreachable
NETWORK_UNREACHABLE: Final = 0  # RFC 792
HOST_UNREACHABLE: Final = 1
PROTOCOL_UNREACHABLE: Final = 2
PORT_UNREACHABLE: Final = 3
FRAGMENTATION_NEEDED: Final = 4  # RFC 792; with the MTU: RFC 1191 §4
ADMINISTRATIVELY_PROHIBITED: Final = 13  # RFC 1812 §5.2.7.1

# Codes of Time Exceeded (RFC 792)
TTL_EXCEEDED: Final = 0
REASSEMBLY_TIME_EXCEEDED: Final = 1

HEADER_LENGTH: Final = 8
#: The whole ICMP packet should not be longer than 576 octets (RFC 1812 §4.3.2.3).
MOST_QUOTED: Final = ipv4.EVERY_HOST_TAKES - ipv4.SHORTEST_HEADER - HEADER_LENGTH

_CHECKSUM_AT: Final = 2
_FIRST_MULTICAST: Final = 0xE0000000  # and class E above it: not a single host's address either
_header = struct.Struct("!BBHI")


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP message that quotes the packet it is about."""

    type: int
    code: int
    #: The second word: the next-hop MTU in its lower half, a gateway, a pointer, or unused.
    rest: int = 0
    quote: bytes = b""

    @property
    def next_hop_mtu(self) -> int:
        """MTU of the link a packet was too big for; 0 from routers older than RFC 1191 (§4)."""
        return self.rest & 0xFFFF

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read an ICMP error, without its IP header.

        How much is quoted, and of what, is not looked at.

        Raises:
            DecodeError: ICMP_MALFORMED for what is too short, no error, or has a wrong checksum.
        """
        if len(data) < HEADER_LENGTH:
            raise DecodeError(Reason.ICMP_MALFORMED, f"{len(data)} bytes")
        kind, code, _, rest = _header.unpack_from(data)
        if kind not in ERRORS:
            raise DecodeError(Reason.ICMP_MALFORMED, f"type {kind} is no error")
        if checksum(data) != 0:
            raise DecodeError(Reason.ICMP_MALFORMED, "the checksum does not match")
        return cls(kind, code, rest, bytes(data[HEADER_LENGTH:]))

    def to_bytes(self) -> bytes:
        """Encode the message with its checksum.

        Raises:
            ValueError: a field's value does not fit.
        """
        try:
            whole = bytearray(_header.pack(self.type, self.code, 0, self.rest) + self.quote)
        except struct.error as error:
            raise ValueError(f"{self!r} does not fit: {error}") from error
        whole[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum(whole).to_bytes(2)
        return bytes(whole)


def fragmentation_needed(mtu: int, packet: bytes) -> IcmpError:
    """ "Too big for the next link, which takes ``mtu`` octets" (RFC 1191 §4)."""
    return IcmpError(DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, mtu, packet[:MOST_QUOTED])


def time_exceeded(packet: bytes) -> IcmpError:
    """ "Its time to live ran out here" (RFC 1812 §5.3.1)."""
    return IcmpError(TIME_EXCEEDED, TTL_EXCEEDED, 0, packet[:MOST_QUOTED])


def admin_prohibited(packet: bytes) -> IcmpError:
    """ "The rules here do not let it through" (RFC 1812 §5.2.7.1, RFC 5508 REQ-8)."""
    return IcmpError(DESTINATION_UNREACHABLE, ADMINISTRATIVELY_PROHIBITED, 0, packet[:MOST_QUOTED])


def may_answer(packet: bytes, broadcasts: Set[int] = frozenset()) -> bool:
    """Whether an ICMP error may be sent about a packet (RFC 1812 §4.3.2.7, RFC 1122 §3.2.2).

    Not about what is no IPv4 packet, an ICMP error, a fragment but the first, or a packet to or from
    what is not a single host; ``broadcasts`` are addresses of all hosts of a network.
    """
    try:
        header = ipv4.Header.from_bytes(packet, verify=False)
    except DecodeError:
        return False
    if header.fragment_offset or header.dst >= _FIRST_MULTICAST or is_martian(header.src):
        return False
    if header.dst in broadcasts or header.src in broadcasts:
        return False
    if header.protocol != ipv4.ICMP:
        return True
    # Of an ICMP message cut off before its type nobody knows that it is not an error.
    return len(packet) > header.length and packet[header.length] not in ERRORS
