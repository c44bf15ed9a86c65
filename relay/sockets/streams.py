"""TCP connections as numbered streams: accepted or dialled, reported to the core, written and closed.

What is read goes to the core at once, and what cannot be written yet waits here: so all that there is of a
stream beside its socket are these few octets, and another process can go on with it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from protocols.actions import Connect, Side
from protocols.addr import parse_ip
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
from relay.sockets.tcp import Acceptor, Dial, be_rude

#: Connections the kernel may hold for us between two wake-ups.
_BACKLOG: Final = 512

#: Octets that are read at once.
_READ: Final = 65536

#: Seconds to a standing connection; half of what a PPTP client waits for its Start-Control-Connection-Reply.
CONNECT_TIMEOUT: Final = 15.0

#: Seconds a closed stream may take to deliver what is left to write, before it is cut.
LINGER: Final = 10.0

#: Octets held for a peer that does not read, before the core hears of it.
WRITE_LIMIT: Final = 65536

#: Streams that begin before packets get their turn again.
_AT_ONCE: Final = 64

Report = Callable[[StreamEvent], None]


@dataclass(frozen=True, slots=True)
class StreamPart:
    """What there is of a stream: enough for another process to go on with it."""

    number: int
    #: The stream that was dialled for it, or it for that one; 0 when there is none.
    partner: int
    sock: socket.socket
    #: What is left to write.
    unsent: bytes
    #: Whether it is to be closed after that.
    done: bool


class Store(Protocol):
    """Keeps sockets open for whoever comes after a crash of ours."""

    def keep(self, one: tuple[int, socket.socket], other: tuple[int, socket.socket]) -> None:
        """Two streams stand, of which one was dialled for the other."""

    def forget(self, number: int) -> bool:
        """It is about to be closed; whether it was kept, and so stays open for another moment."""


class _Stream:
    """One TCP connection. The core's number stays with it until either side is done with the other."""

    __slots__ = ("_loop", "_stalled", "_streams", "_timeout", "done", "number", "partner", "sock", "unsent")

    def __init__(self, streams: "Streams", number: int, sock: socket.socket, unsent: bytes = b"") -> None:
        self._streams = streams
        self._loop = streams.loop
        self._timeout: asyncio.TimerHandle | None = None
        self._stalled = False
        self.number = number
        self.partner = 0
        self.sock = sock
        self.unsent = bytearray(unsent)
        #: Whether the core is done with it, and only what is left to write keeps it open.
        self.done = False

    def begin(self) -> None:
        """Read and write from now on."""
        if self.done:
            self.close(abort=False)
        else:
            self._loop.add_reader(self.sock.fileno(), self._readable)
        if self.unsent:
            self._loop.add_writer(self.sock.fileno(), self._writable)

    def pause(self) -> None:
        """Neither read nor write until ``begin``."""
        self._loop.remove_reader(self.sock.fileno())
        self._loop.remove_writer(self.sock.fileno())

    def _readable(self) -> None:
        try:
            data = self.sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        if data:
            self._streams.report(StreamData(self.number, data))
        else:
            self._loop.remove_reader(self.sock.fileno())  # we decide when our half is closed
            self._streams.report(StreamEnded(self.number))

    def write(self, data: bytes) -> None:
        """Send bytes, as soon as the peer takes them."""
        waiting = bool(self.unsent)
        self.unsent += data
        if waiting:
            self._look()
        elif self._send() and self.unsent:
            self._loop.add_writer(self.sock.fileno(), self._writable)
            self._look()

    def _look(self) -> None:
        if len(self.unsent) > WRITE_LIMIT and not self._stalled:
            self._stalled = True
            self._streams.report(StreamStalled(self.number))

    def _send(self) -> bool:
        """Send what can be sent; False when there is nobody any more."""
        try:
            del self.unsent[: self.sock.send(self.unsent)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.unsent.clear()
            # After what is just being done.
            self._loop.call_soon(self._lost, error)
            return False
        return True

    def _writable(self) -> None:
        if self._send() and not self.unsent:
            self._stalled = False
            self._loop.remove_writer(self.sock.fileno())
            if self.done:
                self._end(abort=False)

    def _lost(self, error: OSError) -> None:
        if self.sock.fileno() < 0:
            return
        done, self.done = self.done, True
        self._end(abort=True)
        if not done:
            self._streams.report(StreamLost(self.number, error.strerror or str(error)))

    def close(self, *, abort: bool) -> None:
        """End it. Nothing is reported any more."""
        self.done = True
        if abort or not self.unsent:
            self._end(abort=abort)
        else:
            self._loop.remove_reader(self.sock.fileno())
            self._timeout = self._loop.call_later(LINGER, lambda: self._end(abort=True))

    def _end(self, *, abort: bool) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        self.pause()
        if abort:
            be_rude(self.sock)
        self._streams.forget(self)
        self.sock.close()


class Streams:
    """All TCP connections, by the core's numbers. To be made on the running loop.

    ``report`` takes events to the core.
    """

    def __init__(self, *, number: Callable[[], int], report: Report, store: Store | None = None) -> None:
        self._number = number
        self._streams: dict[int, _Stream] = {}
        self._store = store
        self.dialling: dict[int, Dial[Connect]] = {}
        #: What ``pause`` has kept from dialling.
        self._interrupted: list[Connect] = []
        self.loop = asyncio.get_running_loop()
        self.report = report
        #: Set whenever the last stream has gone.
        self.gone = asyncio.Event()

    def __len__(self) -> int:
        return len(self._streams)

    # -- accepting and dialling ------------------------------------------------------------------------

    def listen(self, sock: socket.socket, side: Side) -> Acceptor:
        """What accepts connections on a bound socket; each is reported as StreamAccepted."""
        _prepare(sock)  # what is accepted inherits it

        def taken(accepted: socket.socket, remote: tuple[str, int]) -> None:
            local, _ = accepted.getsockname()
            number = self._number()
            self._add(number, accepted)
            self.report(StreamAccepted(number, side, parse_ip(local), parse_ip(remote[0])))

        return Acceptor(sock, _BACKLOG, taken)

    def connect(self, action: Connect) -> None:
        """Dial; the outcome is reported as StreamConnected or StreamFailed."""
        dialled = Dial(
            action, within=CONNECT_TIMEOUT, prepare=_prepare, stands=self._connected, failed=self._failed
        )
        self.dialling[action.stream] = dialled
        dialled.begin()

    def _connected(self, action: Connect, sock: socket.socket) -> None:
        del self.dialling[action.stream]
        local, _ = sock.getsockname()
        stream, caller = self._add(action.stream, sock), self._streams.get(action.caller)
        if caller is not None:
            stream.partner, caller.partner = caller.number, stream.number
            self._keep(stream, caller)
        self.report(StreamConnected(action.stream, parse_ip(local)))

    def _failed(self, action: Connect, why: str) -> None:
        del self.dialling[action.stream]
        self.report(StreamFailed(action.stream, why))

    def _add(self, number: int, sock: socket.socket) -> _Stream:
        self._streams[number] = stream = _Stream(self, number, sock)
        stream.begin()
        return stream

    def _keep(self, one: _Stream, other: _Stream) -> None:
        if self._store is not None:
            self._store.keep((one.number, one.sock), (other.number, other.sock))

    # -- what the core asks for ------------------------------------------------------------------------

    def write(self, number: int, data: bytes) -> None:
        """Send bytes on a stream; one that has just been lost swallows them."""
        stream = self._streams.get(number)
        if stream is not None and not stream.done:
            stream.write(data)

    def close(self, number: int, *, abort: bool) -> None:
        """Close a stream, or stop dialling it."""
        dialled, stream = self.dialling.pop(number, None), self._streams.get(number)
        if dialled is not None:
            dialled.stop()
        elif stream is not None:
            stream.close(abort=abort)

    def forget(self, stream: _Stream) -> None:
        """A stream is about to be closed."""
        if self._store is not None and self._store.forget(stream.number):
            # Somebody else holds it for another moment; its peer need not wait for that.
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_RDWR)
        if self._streams.get(stream.number) is stream:
            del self._streams[stream.number]
            if not self._streams:
                self.gone.set()

    # -- from process to process -----------------------------------------------------------------------

    def pause(self) -> None:
        """Neither read nor write, and dial nobody, until ``resume``."""
        for stream in self._streams.values():
            stream.pause()
        for dialled in self.dialling.values():
            dialled.stop()
            self._interrupted.append(dialled.wanted)
        self.dialling.clear()

    def resume(self) -> None:
        """Go on after ``pause``."""
        for stream in tuple(self._streams.values()):
            stream.begin()
        interrupted, self._interrupted = self._interrupted, []
        for action in interrupted:
            self.connect(action)

    def parts(self) -> Iterator[StreamPart]:
        """What another process needs to go on with all streams that stand."""
        for stream in self._streams.values():
            yield StreamPart(stream.number, stream.partner, stream.sock, bytes(stream.unsent), stream.done)

    def adopt(self, parts: Iterable[StreamPart]) -> None:
        """Have streams of another process, as yet without reading them; they can be written to."""
        for part in parts:
            # One that the core is done with has no number any more.
            number = -part.number if part.done else part.number
            stream = self._streams[number] = _Stream(self, number, part.sock, part.unsent)
            stream.done, stream.partner = part.done, part.partner

    def keep_all(self) -> None:
        """Have the Store keep all that stand."""
        for stream in self._streams.values():
            partner = self._streams.get(stream.partner)
            if partner is not None and stream.number < partner.number:
                self._keep(stream, partner)

    async def begin(self) -> None:
        """Go on with what was adopted, bit by bit."""
        for at, stream in enumerate(list(self._streams.values()), 1):
            if self._streams.get(stream.number) is stream:
                stream.begin()
            if not at % _AT_ONCE:
                await asyncio.sleep(0)

    def abort_all(self) -> None:
        """Cut everything that is left."""
        for number in (*self.dialling, *self._streams):
            self.close(number, abort=True)


def _prepare(sock: socket.socket) -> None:
    # A dead host is noticed within minutes even while nobody has anything to say.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)
