"""Enhanced GRE, the data packets of PPTP (RFC 2637 §4.1).

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |C|R|K|S|s|Recur|A| Flags | Ver |         Protocol Type         |
  4 |      Key: Payload Length      |         Key: Call ID          |
  8 |                  Sequence Number (if S is set)                |
    |               Acknowledgment Number (if A is set)             |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

K must be set and Ver must be 1; C, R, s, Recur and Flags must be zero. So only four first words are PPTP's.
The Call ID is the receiver's.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from protocols.drops import Reason
from protocols.errors import DecodeError

KEY_PRESENT: Final = 0x2000  # K, RFC 2637 §4.1
SEQUENCE_PRESENT: Final = 0x1000  # S
ACKNOWLEDGMENT_PRESENT: Final = 0x0080  # A
VERSION_MASK: Final = 0x0007  # Ver
VERSION: Final = 1  # enhanced GRE
PPP: Final = 0x880B  # Protocol Type

#: Octets of a header with neither sequence nor acknowledgment number.
SHORTEST: Final = 8
CALL_ID_OFFSET: Final = 6

_WORD: Final = (KEY_PRESENT | VERSION) << 16 | PPP
_SEQUENCE: Final = SEQUENCE_PRESENT << 16
_ACKNOWLEDGMENT: Final = ACKNOWLEDGMENT_PRESENT << 16

#: What of the first 32 bits says that it is PPTP's: Ver and the Protocol Type.
_PPTP_MASK: Final = VERSION_MASK << 16 | 0xFFFF
_PPTP: Final = VERSION << 16 | PPP

#: The first 32 bits that a PPTP data packet may begin with, and the length of the header they begin.
FIRST_WORDS: Final[dict[int, int]] = {
    _WORD: SHORTEST,
    _WORD | _SEQUENCE: SHORTEST + 4,
    _WORD | _ACKNOWLEDGMENT: SHORTEST + 4,
    _WORD | _SEQUENCE | _ACKNOWLEDGMENT: SHORTEST + 8,
}

_start = struct.Struct("!IHH")
_number = struct.Struct("!I")
_call_id = struct.Struct("!H")


@dataclass(slots=True)
class EnhancedGre:
    """One PPTP data packet without its IP header. Not frozen: generators build one per packet."""

    call_id: int
    seq: int | None = None
    ack: int | None = None
    payload: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read a packet. What follows the payload is padding and is left out.

        Raises:
            DecodeError: BAD_HEADER, GRE_VERSION, GRE_PROTOCOL, GRE_FLAGS, GRE_LENGTH; as ``refusal``.
        """
        reason = refusal(data, 0, len(data))
        if reason is not None:
            raise DecodeError(reason, bytes(data[:SHORTEST]).hex())
        word, payload_length, call_id = _start.unpack_from(data)
        at = SHORTEST
        seq = ack = None
        if word & _SEQUENCE:
            seq = _number.unpack_from(data, at)[0]
            at += 4
        if word & _ACKNOWLEDGMENT:
            ack = _number.unpack_from(data, at)[0]
            at += 4
        return cls(call_id, seq, ack, bytes(data[at : at + payload_length]))

    def to_bytes(self) -> bytes:
        """Encode the packet.

        Raises:
            ValueError: a field's value does not fit.
        """
        word = _WORD
        numbers = b""
        try:
            if self.seq is not None:
                word |= _SEQUENCE
                numbers = _number.pack(self.seq)
            if self.ack is not None:
                word |= _ACKNOWLEDGMENT
                numbers += _number.pack(self.ack)
            return _start.pack(word, len(self.payload), self.call_id) + numbers + self.payload
        except struct.error as error:
            raise ValueError(f"a GRE field does not fit: {error}") from error


def refusal(packet: bytes | bytearray | memoryview, offset: int, length: int) -> Reason | None:
    """Why the GRE header at ``packet[offset:length]`` is not PPTP's, or None if it is.

    ``length`` is the end of the packet in the buffer, not of the header.
    """
    if length - offset < SHORTEST:
        return Reason.BAD_HEADER
    word, payload_length, _ = _start.unpack_from(packet, offset)
    if word >> 16 & VERSION_MASK != VERSION:
        return Reason.GRE_VERSION
    if word & 0xFFFF != PPP:
        return Reason.GRE_PROTOCOL
    header_length = FIRST_WORDS.get(word)
    if header_length is None:
        return Reason.GRE_FLAGS
    if offset + header_length + payload_length > length:
        return Reason.GRE_LENGTH
    return None


def is_pptp(packet: bytes | bytearray | memoryview, offset: int) -> bool:
    """Whether the GRE header at ``offset`` says that it is PPTP's, right or wrong in the rest."""
    if len(packet) - offset < _number.size:
        return False
    word: int = _number.unpack_from(packet, offset)[0]
    return word & _PPTP_MASK == _PPTP


def call_id_of(packet: bytes | bytearray | memoryview, offset: int) -> int:
    """The Call ID in the GRE header at ``offset``, of which at least 8 octets are there."""
    call_id: int = _call_id.unpack_from(packet, offset + CALL_ID_OFFSET)[0]
    return call_id
