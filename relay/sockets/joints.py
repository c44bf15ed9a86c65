"""A forwarded connection: two sockets, and what carries bytes each way between them.

Each direction moves what there is into a pipe and on to the other socket; when that one takes no more, the
direction stops reading, so that the sender is held up by TCP itself and nothing piles up here. FIN is passed
on as FIN and RST as RST, each half by itself.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from protocols.actions import Splice
from protocols.events import ForwardConnected, ForwardEnded, ForwardEvent, ForwardFailed, ForwardHalfClosed
from protocols.sessions import Traffic
from relay.sockets.pipes import SIZE, Pipe, Pipes
from relay.sockets.tcp import Dial, be_rude

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

#: TCP_ESTABLISHED and TCP_CLOSE (linux/net/tcp_states.h).
_ESTABLISHED: Final = 1
_CLOSED: Final = 7
#: linux/tcp.h, struct tcp_info: the state, and milliseconds since data and since an ACK came.
_info = struct.Struct("=B51xII")

_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

Report = Callable[[ForwardEvent], None]


class Owner(Protocol):
    """What joints have in common."""

    loop: asyncio.AbstractEventLoop
    pipes: Pipes
    #: Takes events to the core.
    report: Report
    #: Connections of which an end did not read lately.
    held_up: "dict[Joint, None]"

    def forget(self, joint: "Joint") -> None:
        """A connection is gone."""


@dataclass(frozen=True, slots=True)
class HalfPart:
    """What there is of one direction: its end has come, or it holds what was read and not passed on."""

    done: bool
    held: int = 0
    pipe: Pipe | None = None


@dataclass(frozen=True, slots=True)
class JointPart:
    """What there is of a connection: enough for another process to go on with it.

    Without ``halves`` there is no connection to the server yet.
    """

    number: int
    sockets: tuple[socket.socket, ...]
    halves: tuple[HalfPart, ...]


_NEW: Final = HalfPart(done=False)


class Half:
    """One direction of a connection: from one socket to the other."""

    __slots__ = ("_fd", "_held", "_joint", "_loop", "_pipe", "_sink", "_sink_fd", "_traffic", "done")

    def __init__(
        self,
        joint: "Joint",
        source: socket.socket,
        sink: socket.socket,
        traffic: Traffic,
        part: HalfPart = _NEW,
    ) -> None:
        self._joint = joint
        self._loop = joint.splices.loop
        self._fd = source.fileno()
        self._sink = sink
        self._sink_fd = sink.fileno()
        self._traffic = traffic
        self._pipe = part.pipe
        self._held = part.held
        self.done = part.done

    def start(self) -> None:
        """Carry what comes from now on."""
        if self._pipe is not None:
            self._wait()
        elif not self.done:
            self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        """Carry nothing until ``start``."""
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._sink_fd)

    @property
    def part(self) -> HalfPart:
        """What there is of it."""
        return HalfPart(self.done, self._held, self._pipe)

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
                    self._wait()
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

    def _wait(self) -> None:
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
        self.pause()
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


class Joint:
    """A connection that was accepted, and the one that was dialled for it."""

    __slots__ = ("_action", "_dialled", "_halves", "_sockets", "number", "parts", "splices")

    def __init__(
        self, splices: "Owner", number: int, *sockets: socket.socket, parts: tuple[HalfPart, ...] = ()
    ) -> None:
        self.splices = splices
        self.number = number
        self._sockets = [*sockets]
        #: Of both directions, if another process has joined them before us.
        self.parts = parts
        self._halves: tuple[Half, ...] = ()
        self._action: Splice | None = None
        self._dialled: Dial[Splice] | None = None

    def dial(self, action: Splice) -> None:
        """Connect to the server, and begin to carry once it has answered."""
        self._action = action
        self._dialled = Dial(
            action, within=CONNECT_TIMEOUT, prepare=prepare, stands=self._answered, failed=self._failed
        )
        self._dialled.begin()

    def _answered(self, action: Splice, sock: socket.socket) -> None:
        self._dialled = None
        self._sockets.append(sock)
        self.join(action, (_NEW, _NEW))
        self.splices.report(ForwardConnected(self.number))

    def _failed(self, _action: Splice, why: str) -> None:
        self.close(abort=True)
        self.splices.report(ForwardFailed(self.number, why))

    def join(self, action: Splice, parts: tuple[HalfPart, ...]) -> None:
        """Carry between the two, each direction from where it is."""
        self._action = action
        accepted, dialled = self._sockets
        toward, back = parts
        self._halves = (
            Half(self, accepted, dialled, action.toward, toward),
            Half(self, dialled, accepted, action.back, back),
        )
        for half in self._halves:
            half.start()

    def pause(self) -> None:
        """Carry nothing, and dial nobody, until ``resume``."""
        for half in self._halves:
            half.pause()
        self._hang_up()

    def resume(self) -> None:
        """Go on after ``pause``."""
        for half in self._halves:
            half.start()
        if not self._halves and self._action is not None:
            self.dial(self._action)

    @property
    def wanted(self) -> bool:
        """Whether the core has asked for it to be carried."""
        return self._action is not None

    @property
    def part(self) -> JointPart:
        """What there is of it while it is paused."""
        return JointPart(self.number, tuple(self._sockets), tuple(half.part for half in self._halves))

    def _hang_up(self) -> None:
        """Dial no more."""
        if self._dialled is not None:
            self._dialled.stop()
            self._dialled = None

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
        self._hang_up()
        for half in self._halves:
            half.stop()
        loop = self.splices.loop
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            loop.remove_writer(sock.fileno())
            if abort:
                be_rude(sock)
            sock.close()
        self.splices.forget(self)


def _tcp_info(sock: socket.socket) -> tuple[int, int, int]:
    """State, and milliseconds since data and since an ACK came."""
    state, data, ack = _info.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _info.size))
    return state, data, ack


def prepare(sock: socket.socket) -> None:
    """Set the options of a socket that bytes are carried to and from."""
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
