"""As much of TCP as it takes to refuse a connection (RFC 9293 §3.1, §3.10.7.1).

    0                   1                   2                   3
    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 0 |          Source Port          |       Destination Port        |
 4 |                        Sequence Number                        |
 8 |                    Acknowledgment Number                      |
12 | Offset|  Rsrv |     Flags     |            Window             |
16 |           Checksum            |         Urgent Pointer        |
   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from protocols import ipv4
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.errors import DecodeError

# Flags (RFC 9293 §3.1)
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

SHORTEST_HEADER: Final = 20

_CHECKSUM_AT: Final = 16
_header = struct.Struct("!HHIIBBHHH")
_pseudo_header = struct.Struct("!IIxBH")


@dataclass(frozen=True, slots=True)
class Segment:
    """What one needs to know of a segment to answer it with a reset."""

    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int
    #: Octets of data.
    data_length: int

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read a segment without its IP header. The checksum is not looked at.

        Raises:
            DecodeError: BAD_HEADER.
        """
        if len(data) < SHORTEST_HEADER:
            raise DecodeError(Reason.BAD_HEADER, f"TCP: {len(data)} bytes")
        src_port, dst_port, seq, ack, offset, flags, _, _, _ = _header.unpack_from(data)
        header_length = (offset >> 4) * 4
        if not SHORTEST_HEADER <= header_length <= len(data):
            raise DecodeError(Reason.BAD_HEADER, f"TCP: header {header_length}, {len(data)} bytes")
        return cls(src_port, dst_port, seq, ack, flags, len(data) - header_length)

    @property
    def is_syn(self) -> bool:
        """Whether it asks for a connection."""
        return self.flags & (SYN | ACK | RST | FIN) == SYN


def is_syn(packet: bytes) -> bool:
    """Whether an IPv4 packet asks for a TCP connection; False for what cannot be read."""
    try:
        return _read(packet)[1].is_syn
    except DecodeError:
        return False


def reset_for(packet: bytes) -> bytes:
    """The IPv4 packet that refuses what a TCP packet asks for (RFC 9293 §3.10.7.1).

    Raises:
        DecodeError: it is no whole TCP packet.
        ValueError: it is a reset itself, which must not be answered.
    """
    header, segment = _read(packet)
    if segment.flags & RST:
        raise ValueError("a reset is not answered with a reset")
    if segment.flags & ACK:
        seq, ack, flags = segment.ack, 0, RST
    else:
        # SYN and FIN count as an octet each (RFC 9293 §3.4).
        taken = segment.data_length + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        seq, ack, flags = 0, (segment.seq + taken) & 0xFFFFFFFF, RST | ACK
    offset = SHORTEST_HEADER // 4 << 4
    reset = bytearray(_header.pack(segment.dst_port, segment.src_port, seq, ack, offset, flags, 0, 0, 0))
    pseudo_header = _pseudo_header.pack(header.dst, header.src, ipv4.TCP, len(reset))
    reset[_CHECKSUM_AT : _CHECKSUM_AT + 2] = checksum(pseudo_header, reset).to_bytes(2)
    return ipv4.build(src=header.dst, dst=header.src, protocol=ipv4.TCP, payload=bytes(reset))


def _read(packet: bytes) -> tuple[ipv4.Header, Segment]:
    header = ipv4.validate(packet, verify=False)
    if header.protocol != ipv4.TCP:
        raise DecodeError(Reason.BAD_HEADER, f"protocol {header.protocol} is not TCP")
    return header, Segment.from_bytes(packet[header.length : header.total_length])
