"""Many packets in one system call: recvmmsg(2) and sendmmsg(2), which Python's socket module does not have.

A call for every packet costs about as much as everything else that is done with it; 64 in a call make
the gateway half as fast again. ctypes builds the kernel's structures once, and per packet only their numbers
are set.
"""

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

#: The largest IPv4 packet, which the kernel may have put together from fragments.
LARGEST: Final = 65536

_MSG_DONTWAIT: Final = 0x40
_MADV_DONTNEED: Final = 4
_NAME: Final = 16  # octets of struct sockaddr_in
_ADDRESS_AT: Final = 4
_put_address = struct.Struct("!I").pack_into


class _Vector(ctypes.Structure):
    """struct iovec (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vectors_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr: what to move, and how many octets were."""

    _fields_ = (("header", _Header), ("moved", ctypes.c_uint32))


_WORDS: Final = ctypes.sizeof(_Message) // 4
_MOVED: Final = _Message.moved.offset // 4

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Inbox:
    """Takes up to ``slots`` packets from a socket at once, each into a buffer of its own."""

    def __init__(self, sock: socket.socket, slots: int) -> None:
        self.buffers = [bytearray(LARGEST) for _ in range(slots)]
        self.addresses = [ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in self.buffers]
        for address in self.addresses:
            _give_back(address, LARGEST)
        self._vectors = (_Vector * slots)(*(_Vector(address, LARGEST) for address in self.addresses))
        self._messages = (_Message * slots)()
        for slot, message in enumerate(self._messages):
            message.header.vectors = ctypes.addressof(self._vectors) + slot * ctypes.sizeof(_Vector)
            message.header.vectors_length = 1
        self._moved = memoryview(self._messages).cast("B").cast("I")[_MOVED::_WORDS]
        self._at = ctypes.addressof(self._messages)
        self._fd = sock.fileno()
        self._slots = slots

    @property
    def lengths(self) -> memoryview:
        """By slot, the length of the packet that the last ``receive`` put there."""
        return self._moved

    def receive(self) -> int:
        """Take what there is; how many packets came, in the first slots.

        Raises:
            OSError: nothing is there (EAGAIN), or the interface is down.
        """
        count = int(_recvmmsg(self._fd, self._at, self._slots, _MSG_DONTWAIT, None))
        if count < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return count


class Outbox:
    """Sends packets that lie in an Inbox's buffers, up to ``slots`` at once."""

    def __init__(self, sock: socket.socket, slots: int) -> None:
        self._vectors = (_Vector * slots)()
        self._names = bytearray(slots * _NAME)
        names = ctypes.addressof(ctypes.c_char.from_buffer(self._names))
        self._messages = (_Message * slots)()
        for slot, message in enumerate(self._messages):
            struct.pack_into("=H", self._names, slot * _NAME, socket.AF_INET)
            message.header.name = names + slot * _NAME
            message.header.name_length = _NAME
            message.header.vectors = ctypes.addressof(self._vectors) + slot * ctypes.sizeof(_Vector)
            message.header.vectors_length = 1
        self._where = (
            memoryview(self._vectors).cast("B").cast("Q" if ctypes.sizeof(ctypes.c_size_t) == 8 else "I")
        )
        self._at = ctypes.addressof(self._messages)
        self._fd = sock.fileno()
        self._count = 0

    def add(self, address: int, length: int, destination: int) -> None:
        """Put the packet at a memory address, from ``Inbox.addresses``, into the next message."""
        count = self._count
        self._where[2 * count] = address
        self._where[2 * count + 1] = length
        _put_address(self._names, count * _NAME + _ADDRESS_AT, destination)
        self._count = count + 1

    def destination(self, number: int) -> int:
        """Where the message that ``flush`` complained about was to go."""
        (address,) = struct.unpack_from("!I", self._names, number * _NAME + _ADDRESS_AT)
        return int(address)

    def flush(self, unsent: Callable[[int, int], None]) -> None:
        """Send all messages, in order; ``unsent(number, errno)`` is told of each that the kernel refused."""
        done, count = 0, self._count
        self._count = 0
        while done < count:
            at = self._at + done * ctypes.sizeof(_Message)
            sent = int(_sendmmsg(self._fd, at, count - done, _MSG_DONTWAIT))
            if sent < 0:
                unsent(done, ctypes.get_errno())
                sent = 1
            done += sent


def _give_back(address: int, size: int) -> None:
    """Give the pages of zeros in a new buffer back to the kernel: few packets need more than the first.

    They are zeros as before, and take memory only once something is written there.
    """
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        _madvise(first, last - first, _MADV_DONTNEED)
