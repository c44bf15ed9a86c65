"""Records with descriptors over a connected Unix socket (unix(7), SCM_RIGHTS).

A record is the length of its JSON and the number of its descriptors, both 32 bits, and the JSON.
"""

import array
import asyncio
import json
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

#: Of what both processes say to each other.
PROTOCOL: Final = 1

#: Descriptors of one record; the kernel takes 253 (unix(7), SCM_MAX_FD).
MOST_DESCRIPTORS: Final = 240

#: Octets of a record: the counters of a million sessions fit.
_MOST: Final = 1 << 28

_header = struct.Struct("!II")
_FD_SIZE: Final = array.array("i").itemsize

Record = dict[str, Any]


class ChannelError(Exception):
    """The other process has gone, is too slow, or says what it must not; the text is for people."""


def _packed(record: Record, descriptors: Sequence[int]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return _header.pack(len(text), len(descriptors)) + text


def _rights(descriptors: Sequence[int]) -> list[tuple[int, int, bytes]]:
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]


def _read(octets: bytes) -> Record:
    try:
        record = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise ChannelError(f"a record is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ChannelError("a record is no object")
    return record


def _kind(record: Record, *kinds: str) -> Record:
    if record.get("kind") not in kinds:
        raise ChannelError(f"{record.get('error') or record.get('kind')!s} instead of {' or '.join(kinds)}")
    return record


class GivingEnd:
    """The old process's end: beside packets, so nothing here blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        sock.settimeout(0)

    async def send(self, record: Record, descriptors: Sequence[int] = ()) -> None:
        """Send a record.

        Raises:
            ChannelError: nobody is there any more.
        """
        left, rights = memoryview(_packed(record, descriptors)), _rights(descriptors)
        while left:
            try:
                sent = self._sock.sendmsg([left], rights)
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise ChannelError(error.strerror or str(error)) from error
            else:
                left, rights = left[sent:], []

    async def expect(self, kind: str) -> Record:
        """The next record, which is of this kind and has no descriptors.

        Raises:
            ChannelError: it is another one, or nobody is there any more.
        """
        length, _ = _header.unpack(await self._exactly(_header.size))
        if length > _MOST:
            raise ChannelError(f"a record of {length} octets")
        return _kind(_read(await self._exactly(length)), kind)

    async def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            try:
                more = self._sock.recv(count - len(got))
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError as error:
                raise ChannelError(error.strerror or str(error)) from error
            if not more:
                raise ChannelError("the new process has ended")
            got += more
        return got

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        ready = asyncio.Event()
        number = self._sock.fileno()
        add(number, ready.set)
        try:
            await ready.wait()
        finally:
            remove(number)


class TakingEnd:
    """The new process's end: it has nothing else to do, and waits."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, kind: str) -> None:
        """Say something.

        Raises:
            ChannelError: nobody is there any more.
        """
        try:
            self._sock.sendall(_packed({"kind": kind}, ()))
        except OSError as error:
            raise ChannelError(error.strerror or str(error)) from error

    def expect(self, *kinds: str) -> tuple[Record, list[int]]:
        """The next record, of one of these kinds, and its descriptors.

        Raises:
            ChannelError: it is another one, or nobody is there any more, or says nothing in time.
        """
        try:
            start, rights, _, _ = self._sock.recvmsg(
                _header.size, socket.CMSG_SPACE(MOST_DESCRIPTORS * _FD_SIZE), socket.MSG_CMSG_CLOEXEC
            )
            descriptors = array.array("i")
            for _, _, data in rights:
                descriptors.frombytes(data[: len(data) // _FD_SIZE * _FD_SIZE])
            length, count = _header.unpack(start + self._exactly(_header.size - len(start)))
            if length > _MOST or count != len(descriptors):
                raise ChannelError(f"a record of {length} octets, {len(descriptors)} of {count} descriptors")
            return _kind(_read(self._exactly(length)), *kinds), list(descriptors)
        except TimeoutError:
            raise ChannelError("the running process does not answer") from None
        except OSError as error:
            raise ChannelError(error.strerror or str(error)) from error

    def _exactly(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            more = self._sock.recv(count - len(got))
            if not more:
                raise ChannelError("the running process has ended the conversation")
            got += more
        return bytes(got)

    def close(self) -> None:
        """End the conversation."""
        self._sock.close()
