"""Cutting the byte stream of a control connection into messages (RFC 2637 §2).

Every message says its length first. TCP may split and join them anywhere, so what is left of an unfinished
message waits here, never more than one message of it.
"""

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.pptp.messages import CONTROL_MESSAGE, LONGEST, MAGIC, SHORTEST

_TYPE_END = 4
_MAGIC_END = 8


class Framer:
    """Whole messages out of bytes cut anywhere.

    ``error`` is set as soon as the start of a message cannot be one; the stream is then out of
    step for good, and what comes after is thrown away. Messages before the error are not lost:
    ``feed`` returns them. So look at ``error`` after each ``feed``.
    """

    __slots__ = ("_buffer", "error")

    def __init__(self) -> None:
        self._buffer = b""
        self.error: DecodeError | None = None

    @property
    def pending(self) -> int:
        """Bytes of an unfinished message held; less than the longest message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in; return the messages that are whole now, in order.

        Never raises: see ``error``, which has reason PPTP_LENGTH, PPTP_TYPE or PPTP_MAGIC.
        """
        if self.error is not None:
            return []
        stream = self._buffer + data
        at = 0
        messages: list[bytes] = []
        while (left := len(stream) - at) >= 2:
            self.error = _fault(stream[at : at + _MAGIC_END])
            if self.error is not None:
                self._buffer = b""
                return messages
            length = int.from_bytes(stream[at : at + 2])
            if left < length:
                break
            messages.append(stream[at : at + length])
            at += length
        self._buffer = stream[at:]
        return messages


def _fault(start: bytes) -> DecodeError | None:
    """What is wrong with the start of a message, of 2 to 8 bytes."""
    length = int.from_bytes(start[:2])
    if not SHORTEST <= length <= LONGEST:
        return DecodeError(Reason.PPTP_LENGTH, f"length {length}")
    message_type = int.from_bytes(start[2:_TYPE_END])
    if len(start) >= _TYPE_END and message_type != CONTROL_MESSAGE:
        return DecodeError(Reason.PPTP_TYPE, f"message type {message_type}")
    magic = int.from_bytes(start[_TYPE_END:])
    if len(start) == _MAGIC_END and magic != MAGIC:
        return DecodeError(Reason.PPTP_MAGIC, f"0x{magic:08x}")
    return None
