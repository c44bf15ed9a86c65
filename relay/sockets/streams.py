"""TCP connections as numbered streams: accepted or dialled, reported to the core, written and closed."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, cast

from protocols.actions import Connect, Side
from protocols.addr import parse_ip, show_ip
from protocols.events import (
    StreamAccepted,
    StreamConnected,
    StreamData,
    StreamEnded,
    StreamEvent,
    StreamFailed,
    StreamLost,
    StreamStalled,
)

_IP_TRANSPARENT: Final = 19
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_SO_BINDTODEVICE: Final = 25
LINGER_ZERO: Final = struct.pack("ii", 1, 0)

#: Connections the kernel may hold for us between two wake-ups.
_BACKLOG: Final = 512

#: Seconds to a standing connection; half of what a PPTP client waits for its Start-Control-Connection-Reply.
CONNECT_TIMEOUT: Final = 15.0

#: Seconds a closed stream may take to deliver what is left to write, before it is cut.
LINGER: Final = 10.0

#: Octets held for a peer that does not read, before the core hears of it.
WRITE_LIMIT: Final = 65536

Report = Callable[[StreamEvent], None]
Spawn = Callable[[Coroutine[Any, Any, None]], object]


class _Stream(asyncio.Protocol):
    """One TCP connection. The core's number stays with it until either side is done with the other."""

    def __init__(self, streams: "Streams", number: int, opened: Callable[["_Stream"], None]) -> None:
        self._streams = streams
        self._opened = opened
        self.number = number
        self.transport: asyncio.Transport | None = None
        self.done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface and not the base class.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        if not self.done:
            self._streams.report(StreamData(self.number, data))

    def eof_received(self) -> bool:
        if not self.done:
            self._streams.report(StreamEnded(self.number))
        return True  # we decide when our half is closed

    def pause_writing(self) -> None:
        if not self.done:
            self._streams.report(StreamStalled(self.number))

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.forget(self)
        if not self.done:
            self.done = True
            self._streams.report(StreamLost(self.number, str(exc) if exc else "reset"))

    def close(self, abort: bool) -> None:
        """End it. Nothing is reported any more."""
        self.done = True
        transport = self.transport
        if transport is None:
            return
        if abort:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            transport.abort()
        else:
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(LINGER, transport.abort)


class Streams:
    """All TCP connections, by the core's numbers.

    ``spawn`` starts a coroutine in the daemon's task group; ``report`` takes events to the core.
    """

    def __init__(self, *, number: Callable[[], int], report: Report, spawn: Spawn) -> None:
        self._number = number
        self._spawn = spawn
        self._streams: dict[int, _Stream] = {}
        self._dialling: dict[int, asyncio.Task[None]] = {}
        self.report = report
        #: Set whenever the last stream has gone.
        self.gone = asyncio.Event()

    def __len__(self) -> int:
        return len(self._streams)

    # -- accepting -------------------------------------------------------------------------------------

    async def listen(self, sock: socket.socket, side: Side) -> asyncio.Server:
        """Accept connections on a bound socket; each is reported as StreamAccepted."""
        loop = asyncio.get_running_loop()
        accepted = partial(self._accepted, side)
        return await loop.create_server(
            lambda: _Stream(self, self._number(), accepted), sock=sock, backlog=_BACKLOG
        )

    def _accepted(self, side: Side, stream: _Stream) -> None:
        transport = stream.transport
        assert transport is not None
        local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if not local or not remote:  # reset before we came to it
            stream.close(abort=True)
            return
        self._streams[stream.number] = stream
        self.report(StreamAccepted(stream.number, side, parse_ip(local[0]), parse_ip(remote[0])))

    # -- dialling --------------------------------------------------------------------------------------

    def connect(self, action: Connect) -> None:
        """Dial; the outcome is reported as StreamConnected or StreamFailed."""
        task = self._spawn(self._dial(action))
        assert isinstance(task, asyncio.Task)
        self._dialling[action.stream] = task
        task.add_done_callback(lambda _: self._dialling.pop(action.stream, None))

    async def _dial(self, action: Connect) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = _outgoing(action)
        except OSError as error:
            self.report(StreamFailed(action.stream, error.strerror or str(error)))
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.sock_connect(sock, (show_ip(action.destination), action.port))
            await loop.create_connection(lambda: _Stream(self, action.stream, self._connected), sock=sock)
        except (OSError, TimeoutError) as error:
            sock.close()
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            self.report(StreamFailed(action.stream, why))
        except asyncio.CancelledError:
            sock.close()
            raise

    def _connected(self, stream: _Stream) -> None:
        transport = stream.transport
        assert transport is not None
        local = transport.get_extra_info("sockname")
        if not local:
            stream.close(abort=True)
            self.report(StreamFailed(stream.number, "reset"))
            return
        self._streams[stream.number] = stream
        self.report(StreamConnected(stream.number, parse_ip(local[0])))

    # -- what the core asks for ------------------------------------------------------------------------

    def write(self, number: int, data: bytes) -> None:
        """Send bytes on a stream; one that has just been lost swallows them."""
        stream = self._streams.get(number)
        if stream is not None and not stream.done and stream.transport is not None:
            stream.transport.write(data)

    def close(self, number: int, *, abort: bool) -> None:
        """Close a stream, or stop dialling it."""
        dialling = self._dialling.pop(number, None)
        if dialling is not None and number not in self._streams:
            dialling.cancel()
            return
        stream = self._streams.get(number)
        if stream is not None:
            stream.close(abort)

    def forget(self, stream: _Stream) -> None:
        """A stream's connection is gone."""
        if self._streams.get(stream.number) is stream:
            del self._streams[stream.number]
            if not self._streams:
                self.gone.set()

    def abort_all(self) -> None:
        """Cut everything that is left."""
        for number in (*self._dialling, *self._streams):
            self.close(number, abort=True)


def listener(interface: str, address: str, port: int, *, transparent: bool) -> socket.socket:
    """A bound socket for ``Streams.listen``: connections that arrive on one interface.

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


def _outgoing(action: Connect) -> socket.socket:
    sock = _tcp()
    try:
        if action.transparent:
            make_transparent(sock)
        if action.source:
            # The port is chosen at connect, when it need only be unique towards this destination.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((show_ip(action.source), 0))
    except OSError:
        sock.close()
        raise
    return sock


def _tcp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    # A dead host is noticed within minutes even while nobody has anything to say.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)
    return sock
