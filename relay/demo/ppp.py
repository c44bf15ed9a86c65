"""What the demo's calls carry: LCP echoes with a name inside, so that everyone can tell whose they are.

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Address 0xFF  | Control 0x03  |  Protocol 0xC021 (LCP)        |   RFC 1662 §3.1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Code 9 or 10  |  Identifier   |            Length             |   RFC 1661 §5.8
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                         Magic-Number                          |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |    Data ...
"""

from dataclasses import dataclass
from typing import Final, Self

_FRAME: Final = bytes.fromhex("ff03 c021")  # RFC 1662 §3.1, RFC 1661 §2
_ECHO_REQUEST: Final = 9  # RFC 1661 §5.8
_ECHO_REPLY: Final = 10  # RFC 1661 §5.8
_HEADER_SIZE: Final = 12


@dataclass(frozen=True, slots=True)
class LcpEcho:
    """An LCP Echo-Request, or with ``reply`` the Echo-Reply to it (RFC 1661 §5.8)."""

    name: str
    reply: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a PPP frame.

        Raises:
            ValueError: it is not an LCP echo of ours, whole and unharmed.
        """
        code = data[4] if len(data) >= _HEADER_SIZE else 0
        if data[:4] != _FRAME or code not in {_ECHO_REQUEST, _ECHO_REPLY}:
            raise ValueError("not an LCP echo")
        echo = cls(data[_HEADER_SIZE:].decode("ascii"), code == _ECHO_REPLY)
        if echo.to_bytes() != data:
            raise ValueError("a damaged LCP echo")
        return echo

    def to_bytes(self) -> bytes:
        """Write the PPP frame."""
        data = self.name.encode("ascii")
        code = _ECHO_REPLY if self.reply else _ECHO_REQUEST
        length = _HEADER_SIZE - len(_FRAME) + len(data)
        return _FRAME + bytes((code, 0)) + length.to_bytes(2) + bytes(4) + data
