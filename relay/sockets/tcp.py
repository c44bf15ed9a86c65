"""TCP sockets: made, dialled and accepted, for control connections and forwards alike."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from protocols.actions import Connect, Splice
from protocols.addr import show_ip

_IP_TRANSPARENT: Final = 19
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_SO_BINDTODEVICE: Final = 25
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)

#: Connections that are taken at one wake-up.
_ACCEPTS: Final = 64
#: Seconds without accepting when there are too many open files.
_REST: Final = 0.5
_TOO_MANY_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

W = TypeVar("W", bound=Connect | Splice)


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


class Dial(Generic[W]):
    """A connection that is to be, for an action of the core: ``begin`` dials.

    One of ``stands`` and ``failed`` is called with the outcome, unless ``stop`` comes before: the first with
    the socket, which can be written to, the second with the reason, and at once where there is no way.
    ``prepare`` sets the socket's options; ``within``: seconds it may take.
    """

    def __init__(
        self,
        wanted: W,
        *,
        within: float,
        prepare: Callable[[socket.socket], None],
        stands: Callable[[W, socket.socket], None],
        failed: Callable[[W, str], None],
    ) -> None:
        self.wanted = wanted
        self._within = within
        self._prepare = prepare
        self._stands = stands
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._timeout: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Dial."""
        try:
            self._sock = sock = _connecting(self.wanted, self._prepare)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        self._loop.add_writer(sock.fileno(), self._answered, sock)
        self._timeout = self._loop.call_later(self._within, self._fail, "no answer")

    def stop(self) -> None:
        """Dial no more; nothing is reported."""
        sock = self._let_go()
        if sock is not None:
            sock.close()

    def _answered(self, sock: socket.socket) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(os.strerror(code))
            return
        self._let_go()
        self._stands(self.wanted, sock)

    def _fail(self, why: str) -> None:
        self.stop()
        self._failed(self.wanted, why)

    def _let_go(self) -> socket.socket | None:
        """Wait for no outcome any more; the socket, if there is one."""
        if self._timeout is not None:
            self._timeout.cancel()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_writer(sock.fileno())
        return sock


def _connecting(wanted: Connect | Splice, prepare: Callable[[socket.socket], None]) -> socket.socket:
    """Begin to connect from a source address, 0 for the one that faces the destination.

    Raises:
        OSError: the source address is not to be had, or there is no way.
    """
    sock = _tcp()
    try:
        prepare(sock)
        if wanted.transparent:
            make_transparent(sock)
        if wanted.source:
            # The port is chosen at connect, when it need only be unique towards this destination.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((show_ip(wanted.source), 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect((show_ip(wanted.destination), wanted.port))
    except OSError:
        sock.close()
        raise
    return sock


def be_rude(sock: socket.socket) -> None:
    """Have the socket's end be a RST, and nothing be sent any more that waits to be."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def _tcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
