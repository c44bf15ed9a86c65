"""Questions to the kernel by netlink(7), answered while the question is being sent: no thread, no waiting."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

# linux/netlink.h
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLM_F_DUMP_INTR: Final = 0x10
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3

HEADER: Final = struct.Struct("=IHHII")
ATTRIBUTE: Final = struct.Struct("=HH")
INDEX: Final = struct.Struct("=I")
#: struct nlmsgerr begins with it.
_ERROR: Final = struct.Struct("=i")
_ALIGNED: Final = 4

#: Octets of the longest answer.
_LONGEST: Final = 65536


class Questions:
    """A socket for questions of one protocol."""

    def __init__(self, protocol: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        # Answers are there when the question has been sent; this is for a kernel that gives none.
        self._socket.settimeout(1.0)
        self._number = 0

    def ask(self, message: int, question: bytes) -> bytes | None:
        """The answer without its header; None for an error."""
        try:
            return next(self._answers(message, question, _NLM_F_REQUEST))
        except OSError:
            return None

    def ask_all(self, message: int, question: bytes) -> Iterator[bytes]:
        """All that there are of a kind.

        Raises:
            OSError: the kernel refuses; EINTR: something has changed meanwhile, and may be missing.
        """
        return self._answers(message, question, _NLM_F_REQUEST | _NLM_F_DUMP)

    def _answers(self, message: int, question: bytes, flags: int) -> Iterator[bytes]:
        self._number += 1
        head = HEADER.pack(HEADER.size + len(question), message, flags, self._number, 0)
        self._socket.send(head + question)
        while True:
            for kind, number, body in _messages(self._socket.recv(_LONGEST)):
                if number != self._number:  # of a question that had timed out
                    continue
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    code = -_ERROR.unpack_from(body)[0]
                    raise OSError(code, os.strerror(code))
                yield body

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, number and body of each message.

    Raises:
        OSError: EINTR, as ``Questions.ask_all``.
    """
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, flags, number, _ = HEADER.unpack_from(datagram, at)
        if flags & _NLM_F_DUMP_INTR and kind != _NLMSG_ERROR:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        yield kind, number, datagram[at + HEADER.size : at + length]
        at += max(length, HEADER.size) + _ALIGNED - 1 & -_ALIGNED


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, filled up as the kernel wants it."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(-length % _ALIGNED)


def attributes(message: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes of a message from an offset on, by their kind; of several of a kind the last one."""
    found: dict[int, bytes] = {}
    while at + ATTRIBUTE.size <= len(message):
        length, kind = ATTRIBUTE.unpack_from(message, at)
        if length < ATTRIBUTE.size:
            break
        found[kind] = message[at + ATTRIBUTE.size : at + length]
        at += length + _ALIGNED - 1 & -_ALIGNED
    return found
