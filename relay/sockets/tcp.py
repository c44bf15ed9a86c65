"""TCP sockets: made, dialled and accepted, for control connections and forwards alike."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from protocols.addr import Ip4, show_ip

_IP_TRANSPARENT: Final = 19
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_SO_BINDTODEVICE: Final = 25
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)

#: Connections that are taken at one wake-up.
_ACCEPTS: Final = 64
#: Seconds without accepting when there are too many open files.
_REST: Final = 0.5
_TOO_MANY_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Takes connections from a listening socket, from ``begin`` to ``pause`` or ``close``.

    ``taken`` is called with each, which does not block, and with the address and port it came from.
    """

    def __init__(
        self, sock: socket.socket, backlog: int, taken: Callable[[socket.socket, tuple[str, int]], None]
    ) -> None:
        self.sock = sock
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        self._open = False
        sock.settimeout(0)
        sock.listen(backlog)

    def begin(self) -> None:
        """Accept from now on."""
        self._open = True
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def pause(self) -> None:
        """Let them wait in the kernel."""
        self._open = False
        self._loop.remove_reader(self.sock.fileno())

    def close(self) -> None:
        """Listen no more."""
        self.pause()
        self.sock.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, remote = self.sock.accept()
            except OSError as error:
                if error.errno in _TOO_MANY_FILES:
                    self._loop.remove_reader(self.sock.fileno())
                    self._loop.call_later(_REST, self._accept_again)
                return  # nothing more there, or it was reset before we came to it
            sock.settimeout(0)
            self._taken(sock, remote)

    def _accept_again(self) -> None:
        if self._open:
            self.begin()


def listener(interface: str, address: str, port: int, *, transparent: bool) -> socket.socket:
    """A bound socket for an Acceptor: connections that arrive on one interface.

    ``transparent``: also those that were dialled to addresses that are not ours.

    Raises:
        OSError: the port is taken on this interface, the address is not ours, or a capability is missing.
    """
    sock = _tcp()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode() + b"\0")
        if transparent:
            make_transparent(sock)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def make_transparent(sock: socket.socket) -> None:
    """Let a socket have addresses that are not ours (ip(7), IP_TRANSPARENT).

    Raises:
        OSError: a capability is missing.
    """
    sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def dial(
    destination: Ip4, port: int, *, source: Ip4, transparent: bool, prepare: Callable[[socket.socket], None]
) -> socket.socket:
    """Begin to connect from a source address, 0 for the one that faces the destination.

    ``prepare`` sets the socket's options. It can be written to as soon as the outcome is known; ``outcome``
    tells it.

    Raises:
        OSError: the source address is not to be had, or there is no way.
    """
    sock = _tcp()
    try:
        prepare(sock)
        if transparent:
            make_transparent(sock)
        if source:
            # The port is chosen at connect, when it need only be unique towards this destination.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((show_ip(source), 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect((show_ip(destination), port))
    except OSError:
        sock.close()
        raise
    return sock


def outcome(sock: socket.socket) -> str:
    """Why a connection did not come about; empty when it stands."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return os.strerror(code) if code else ""


def be_rude(sock: socket.socket) -> None:
    """Have the socket's end be a RST, and nothing be sent any more that waits to be."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def _tcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
