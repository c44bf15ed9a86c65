"""Forwarded TCP connections: accepted, dialled on to a server, and joined by splice(2).

The bytes stay in the kernel. Each direction moves what there is into a pipe and on to the other socket; when
that one takes no more, the direction stops reading, so that the sender is held up by TCP itself and nothing
piles up here. FIN is passed on as FIN and RST as RST, each half by itself.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from protocols.actions import Examine, Side, Splice
from protocols.addr import parse_ip, show_ip
from protocols.events import (
    ForwardAccepted,
    ForwardAlive,
    ForwardConnected,
    ForwardEnded,
    ForwardEvent,
    ForwardFailed,
    ForwardHalfClosed,
)
from protocols.sessions import Traffic
from relay.sockets.pipes import SIZE, Pipe, Pipes
from relay.sockets.streams import LINGER_ZERO, make_transparent

#: Connections the kernel may hold for us between two wake-ups, and how many are taken at one.
_BACKLOG: Final = 1024
_ACCEPTS: Final = 64
#: Seconds without accepting when there are too many open files.
_REST: Final = 0.5

#: Seconds the server may take to answer a SYN.
CONNECT_TIMEOUT: Final = 30.0

#: Pipefuls that one direction moves before the others have their turn.
_ROUNDS: Final = 4

#: Octets not sent yet that a socket holds for a receiver that does not read (tcp(7), TCP_NOTSENT_LOWAT).
_UNSENT: Final = 262_144
_TCP_NOTSENT_LOWAT: Final = 25

#: When the kernel begins to ask whether the other end is alive, how often, and how many times (RFC 1122
#: §4.2.3.6: not before two hours). Later than that, and it is dead: RFC 5382 REQ-5 asks for 2 h 4 min.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 7200), (socket.TCP_KEEPINTVL, 75), (socket.TCP_KEEPCNT, 9))

_IP_BIND_ADDRESS_NO_PORT: Final = 24
#: TCP_ESTABLISHED and TCP_CLOSE (linux/net/tcp_states.h).
_ESTABLISHED: Final = 1
_CLOSED: Final = 7
#: linux/tcp.h, struct tcp_info: the state, and milliseconds since data and since an ACK came.
_info = struct.Struct("=B51xII")

_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_TOO_MANY_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Report = Callable[[ForwardEvent], None]


class _Half:
    """One direction of a connection: from one socket to the other."""

    __slots__ = ("_fd", "_held", "_joint", "_loop", "_pipe", "_sink", "_sink_fd", "_traffic", "done")

    def __init__(self, joint: "_Joint", source: socket.socket, sink: socket.socket, traffic: Traffic) -> None:
        self._joint = joint
        self._loop = joint.splices.loop
        self._fd = source.fileno()
        self._sink = sink
        self._sink_fd = sink.fileno()
        self._traffic = traffic
        self._pipe: Pipe | None = None
        self._held = 0
        self.done = False

    def start(self) -> None:
        """Carry what comes from now on."""
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        pipes = self._joint.splices.pipes
        for _ in range(_ROUNDS):
            try:
                pipe = pipes.take()
            except OSError:  # too many open files: it is tried again as long as there is something to read
                return
            try:
                count = os.splice(self._fd, pipe.inlet, SIZE, flags=_FLAGS)
            except BlockingIOError:
                pipes.give(pipe)
                return
            except OSError as error:
                pipes.give(pipe)
                self._joint.broken(error)
                return
            if not count:
                pipes.give(pipe)
                self._finish()
                return
            self._pipe, self._held = pipe, count
            self._traffic.octets += count
            self._traffic.last_seen = self._loop.time()
            if not self._flush():
                if not self.done:
                    self._pause()
                return

    def _flush(self) -> bool:
        """Pass on what the pipe holds; whether all of it was taken."""
        pipe = self._pipe
        assert pipe is not None
        while self._held:
            try:
                self._held -= os.splice(pipe.outlet, self._sink_fd, self._held, flags=_FLAGS)
            except BlockingIOError:
                return False
            except OSError:
                # Nobody is there any more to take it; but what they had said before is still to be passed on.
                self._end()
                return False
        self._pipe = None
        self._joint.splices.pipes.give(pipe)
        return True

    def _pause(self) -> None:
        """Read no more until the receiver takes what is held."""
        self._loop.remove_reader(self._fd)
        self._loop.add_writer(self._sink_fd, self._writable)
        self._joint.splices.held_up[self._joint] = None

    def _writable(self) -> None:
        if self._flush():
            self._loop.remove_writer(self._sink_fd)
            self._loop.add_reader(self._fd, self._readable)

    def _finish(self) -> None:
        """FIN has come: pass it on."""
        with contextlib.suppress(OSError):  # it has been reset; the other half finds out
            self._sink.shutdown(socket.SHUT_WR)
        self._end()

    def _end(self) -> None:
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._sink_fd)
        self.stop()
        self._joint.half_done()

    @property
    def held_up(self) -> bool:
        """Whether the receiver does not take what there is."""
        return self._pipe is not None

    def stop(self) -> None:
        """Carry nothing more; what the pipe holds is lost."""
        self.done = True
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


class _Joint:
    """A connection that was accepted, and the one that was dialled for it."""

    __slots__ = ("_halves", "_sockets", "_timeout", "number", "splices")

    def __init__(self, splices: "Splices", number: int, accepted: socket.socket) -> None:
        self.splices = splices
        self.number = number
        self._sockets = [accepted]
        self._halves: tuple[_Half, ...] = ()
        self._timeout: asyncio.TimerHandle | None = None

    def dial(self, action: Splice) -> None:
        """Connect to the server, and begin to carry once it has answered."""
        try:
            dialled = _dialled(action)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        self._sockets.append(dialled)
        loop = self.splices.loop
        try:
            dialled.connect((show_ip(action.destination), action.port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        loop.add_writer(dialled.fileno(), self._answered, action)
        self._timeout = loop.call_later(CONNECT_TIMEOUT, self._fail, "no answer")

    def _answered(self, action: Splice) -> None:
        accepted, dialled = self._sockets
        self.splices.loop.remove_writer(dialled.fileno())
        self._at_ease()
        code = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(os.strerror(code))
            return
        self._halves = (
            _Half(self, accepted, dialled, action.toward),
            _Half(self, dialled, accepted, action.back),
        )
        for half in self._halves:
            half.start()
        self.splices.report(ForwardConnected(self.number))

    def _at_ease(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _fail(self, why: str) -> None:
        self.close(abort=True)
        self.splices.report(ForwardFailed(self.number, why))

    def broken(self, error: OSError) -> None:
        """An end is gone without a FIN; so the other is told in the same way."""
        self.close(abort=True)
        self.splices.report(ForwardEnded(self.number, error.strerror or str(error)))

    def half_done(self) -> None:
        """One direction has come to its end."""
        if all(half.done for half in self._halves):
            self.close(abort=False)
            self.splices.report(ForwardEnded(self.number, "both ends have finished"))
        else:
            self.splices.report(ForwardHalfClosed(self.number))

    def alive(self, within: float) -> bool:
        """Whether the kernel has heard of both ends in so many seconds."""
        infos = [_tcp_info(sock) for sock in self._sockets]
        return all(state == _ESTABLISHED and min(data, ack) <= within * 1000 for state, data, ack in infos)

    def look(self) -> None:
        """Find out whether an end is gone that is not read from, because the other one does not take more."""
        if not any(half.held_up for half in self._halves):
            self.splices.held_up.pop(self, None)
        elif any(_tcp_info(sock)[0] == _CLOSED for sock in self._sockets):
            self.broken(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def close(self, *, abort: bool) -> None:
        """Close both connections: after what was written, or at once with RST."""
        self._at_ease()
        for half in self._halves:
            half.stop()
        loop = self.splices.loop
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            loop.remove_writer(sock.fileno())
            if abort:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            sock.close()
        self.splices.forget(self)


class Splices:
    """All forwarded TCP connections, by the core's numbers. To be made on the running loop.

    ``report`` takes events to the core.
    """

    def __init__(self, *, number: Callable[[], int], report: Report) -> None:
        self._number = number
        self.report = report
        self.loop = asyncio.get_running_loop()
        self.pipes = Pipes()
        self._joints: dict[int, _Joint] = {}
        #: Connections of which an end did not read lately.
        self.held_up: dict[_Joint, None] = {}

    def __len__(self) -> int:
        return len(self._joints)

    # -- accepting -------------------------------------------------------------------------------------

    def listen(self, sock: socket.socket, side: Side) -> Callable[[], None]:
        """Accept connections on a bound socket, reported as ForwardAccepted; call the result to end it."""
        _prepare(sock)  # what is accepted inherits all of it but O_NONBLOCK
        sock.listen(_BACKLOG)
        self.loop.add_reader(sock.fileno(), self._accept, sock, side)

        def close() -> None:
            self.loop.remove_reader(sock.fileno())
            sock.close()

        return close

    def _accept(self, listening: socket.socket, side: Side) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, (remote, remote_port) = listening.accept()
            except OSError as error:
                if error.errno in _TOO_MANY_FILES:
                    self.loop.remove_reader(listening.fileno())
                    self.loop.call_later(_REST, self._listen_again, listening, side)
                return  # nothing more there, or it was reset before we came to it
            sock.settimeout(0)
            local, port = sock.getsockname()
            number = self._number()
            self._joints[number] = _Joint(self, number, sock)
            self.report(ForwardAccepted(number, side, parse_ip(local), port, parse_ip(remote), remote_port))

    def _listen_again(self, listening: socket.socket, side: Side) -> None:
        if listening.fileno() >= 0:
            self.loop.add_reader(listening.fileno(), self._accept, listening, side)

    # -- what the core asks for ------------------------------------------------------------------------

    def splice(self, action: Splice) -> None:
        """Dial the server for an accepted connection; ForwardConnected or ForwardFailed is the outcome."""
        joint = self._joints.get(action.stream)
        if joint is not None:
            joint.dial(action)

    def examine(self, action: Examine) -> None:
        """Report ForwardAlive if both ends were heard of lately."""
        joint = self._joints.get(action.stream)
        if joint is not None and joint.alive(action.within):
            self.report(ForwardAlive(action.stream))

    def cut(self, number: int) -> None:
        """End a connection with RST to both ends; nothing is reported any more."""
        joint = self._joints.get(number)
        if joint is not None:
            joint.close(abort=True)

    def forget(self, joint: _Joint) -> None:
        """A connection is gone."""
        self._joints.pop(joint.number, None)
        self.held_up.pop(joint, None)

    def look(self) -> None:
        """Notice ends that are gone though nobody reads from them; to be called now and then."""
        for joint in tuple(self.held_up):
            joint.look()

    def abort_all(self) -> None:
        """Cut everything that is left, and let the pipes go."""
        for number in tuple(self._joints):
            self.cut(number)
        self.pipes.close()


def _dialled(action: Splice) -> socket.socket:
    """A socket to connect to the server with.

    Raises:
        OSError: the source address is not to be had.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _prepare(sock)
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


def _tcp_info(sock: socket.socket) -> tuple[int, int, int]:
    """State, and milliseconds since data and since an ACK came."""
    state, data, ack = _info.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _info.size))
    return state, data, ack


def _prepare(sock: socket.socket) -> None:
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
