"""The ISAKMP or IKE header (RFC 2408 §3.1, RFC 7296 §3.1).

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |               Initiator Cookie, in IKEv2 Initiator's SPI      |
    |                                                               |
  8 |               Responder Cookie, in IKEv2 Responder's SPI      |
    |                                                               |
 16 | Next Payload  | MjVer | MnVer | Exchange Type |     Flags     |
 20 |                          Message ID                           |
 24 |                            Length                             |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

Both versions have the same layout. What follows is encrypted but for the first messages, and is never
looked at here. Cookies and SPIs are the same to us and are called cookies.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from protocols.drops import Reason
from protocols.errors import DecodeError

LENGTH: Final = 28  # RFC 2408 §3.1

# Exchange types of ISAKMP and IKEv1
IDENTITY_PROTECTION: Final = 2  # RFC 2408 §3.1, "main mode"
AGGRESSIVE: Final = 4  # RFC 2408 §3.1
INFORMATIONAL_1: Final = 5  # RFC 2408 §3.1
QUICK_MODE: Final = 32  # RFC 2409 §5.5
NEW_GROUP_MODE: Final = 33  # RFC 2409 §5.6

# Exchange types of IKEv2, RFC 7296 §3.1
IKE_SA_INIT: Final = 34
IKE_AUTH: Final = 35
CREATE_CHILD_SA: Final = 36
INFORMATIONAL: Final = 37

ENCRYPTION: Final = 0x01  # E, RFC 2408 §3.1
INITIATOR: Final = 0x08  # I, RFC 7296 §3.1
RESPONSE: Final = 0x20  # R, RFC 7296 §3.1

#: Next Payload of an encrypted message: RFC 7296 §3.2, and one of its fragments: RFC 7383 §2.5.
ENCRYPTED_PAYLOADS: Final = frozenset({46, 53})

_header = struct.Struct("!QQBBBBII")


@dataclass(frozen=True, slots=True)
class IkeHeader:
    """The header of one IKE message."""

    #: 64 bits; never zero in a message that can be forwarded (RFC 7296 §3.1).
    initiator_cookie: int
    #: 64 bits; zero in the first message of an exchange that sets up an IKE SA.
    responder_cookie: int
    exchange: int
    message_id: int
    #: Octets of the whole message, header included.
    length: int
    version: int = 2
    minor: int = 0
    next_payload: int = 0
    flags: int = 0

    @property
    def encrypted(self) -> bool:
        """Whether what follows the header is encrypted."""
        if self.version == 1:
            return bool(self.flags & ENCRYPTION)
        return self.next_payload in ENCRYPTED_PAYLOADS

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read the header at the start of a whole message; octets after the message are let be.

        A zero initiator cookie is not refused here: see ``forwardable``.

        Raises:
            DecodeError: IKE_LENGTH, IKE_VERSION.
        """
        if len(data) < LENGTH:
            raise DecodeError(Reason.IKE_LENGTH, f"{len(data)} bytes")
        initiator, responder, payload, version, exchange, flags, number, length = _header.unpack_from(data)
        if version >> 4 not in (1, 2):
            raise DecodeError(Reason.IKE_VERSION, f"version {version >> 4}.{version & 15}")
        if not LENGTH <= length <= len(data):
            raise DecodeError(Reason.IKE_LENGTH, f"length {length}, {len(data)} bytes")
        return cls(
            initiator_cookie=initiator,
            responder_cookie=responder,
            exchange=exchange,
            message_id=number,
            length=length,
            version=version >> 4,
            minor=version & 15,
            next_payload=payload,
            flags=flags,
        )

    def to_bytes(self) -> bytes:
        """Encode the header.

        Raises:
            ValueError: a field's value does not fit.
        """
        if self.version not in (1, 2) or not 0 <= self.minor <= 15 or self.length < LENGTH:
            raise ValueError(f"{self!r} is no IKE header")
        try:
            return _header.pack(
                self.initiator_cookie,
                self.responder_cookie,
                self.next_payload,
                self.version << 4 | self.minor,
                self.exchange,
                self.flags,
                self.message_id,
                self.length,
            )
        except struct.error as error:
            raise ValueError(f"{self!r} does not fit: {error}") from error


def forwardable(data: bytes | bytearray | memoryview) -> IkeHeader:
    """The header of a message that can belong to somebody (RFC 7296 §3.1; HOWTO §5.7: "zero cookie").

    Raises:
        DecodeError: IKE_LENGTH, IKE_VERSION, IKE_ZERO_COOKIE.
    """
    header = IkeHeader.from_bytes(data)
    if not header.initiator_cookie:
        responder = show_cookie(header.responder_cookie)
        raise DecodeError(Reason.IKE_ZERO_COOKIE, f"zero initiator cookie, responder cookie {responder}")
    return header


def show_cookie(cookie: int) -> str:
    """Write a cookie as 16 hex digits."""
    return f"{cookie:016x}"
