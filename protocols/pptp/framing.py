"""Cutting the byte stream of a control connection into messages (RFC 2637 §2).

Every message says its length first. TCP may split and join them anywhere, so what is left of an unfinished
message waits here, never more than one message of it.
"""

from dataclasses import dataclass, field

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.pptp.messages import CONTROL_MESSAGE, LONGEST, MAGIC, SHORTEST

_TYPE_END = 4
_MAGIC_END = 8
_MAGIC = MAGIC.to_bytes(4)


@dataclass(slots=True, eq=False)
class Framer:
    """Whole messages out of bytes cut anywhere.

    ``error`` is set as soon as the start of a message cannot be one; the stream is then out of
    step for good, and what comes after is thrown away. Messages before the error are not lost:
    ``feed`` returns them. So look at ``error`` after each ``feed``.
    """

    _buffer: bytes = field(default=b"", init=False)
    error: DecodeError | None = field(default=None, init=False)
    #: Octets that may still be passed over to find the start of a message; 0: the stream is in step.
    _sought: int = field(default=0, init=False)

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
        if self._sought:
            stream = self._seek(stream)
        at = 0
        messages: list[bytes] = []
        while not self._sought and (left := len(stream) - at) >= 2:
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

    def resynchronise(self) -> None:
        """Begin anew with the next message: the start of the one under way may be lost."""
        self._buffer, self._sought = b"", LONGEST

    def _seek(self, stream: bytes) -> bytes:
        """The stream from the next message on, if it begins in it; else what its beginning may be."""
        at = stream.find(_MAGIC, _TYPE_END)
        while at >= 0:
            start = at - _TYPE_END
            if start <= self._sought and _fault(stream[start : start + _MAGIC_END]) is None:
                self._sought = 0
                return stream[start:]
            at = stream.find(_MAGIC, at + 1)
        passed = max(0, len(stream) - _MAGIC_END + 1)
        self._sought -= passed
        if self._sought <= 0:
            self._sought = 0
            self.error = DecodeError(Reason.PPTP_MAGIC, "no message begins after a restart")
            return b""
        return stream[passed:]


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
