"""The datapath loop: packets from sockets to the core, verdicts and actions from the core to sockets.

In order of priority, at each wake-up of a socket:

1. take at most ``batch`` packets in one system call, ask the core about each, and send those that it let
   through in one more;
2. carry out the actions of those that were not ordinary, in order;
3. re-arm the one timer, if the core's deadline moved;
4. return to the event loop, so that timers, control connections and the API get their turn however
   fast packets come. What does not fit the socket's buffer meanwhile is dropped by the kernel, before
   it cost us anything, and counted there.
"""

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from protocols.actions import (
    Action,
    Connect,
    Cut,
    Destination,
    Drop,
    Examine,
    Heed,
    Ignore,
    Offload,
    Send,
    SessionChanged,
    SessionClosed,
    SessionOpened,
    Side,
    Splice,
    StreamClose,
    StreamWrite,
    Unload,
)
from protocols.addr import show_ip
from protocols.drops import Reason
from protocols.events import ForwardEvent, StreamEvent
from protocols.gateway import Gateway
from relay.addresses import path_mtu
from relay.fastpath.handover import Handover
from relay.recovery import Recovery
from relay.sockets.burst import Inbox, Outbox
from relay.sockets.raw import TRANSIENT
from relay.sockets.splices import Splices
from relay.sockets.strangers import Strangers
from relay.sockets.streams import Streams
from relay.wakeup import Wakeup

#: Of what may wait its turn, how many actions are carried out before packets get theirs.
_TURN = 64

#: How often a socket is read before flows are handed to the kernel, at most.
_ROUNDS = 8

#: Packets that need more than forwarding, kept while another process takes over.
_MOST_KEPT = 4096

#: An entry of the gateway for packets: ``Gateway.from_lan`` or ``Gateway.from_wan``.
_Entry = Callable[..., Destination | Drop | list[Action]]

#: Octets of an IP header, which a buffer has room for however short its packet is.
_HEADER = 20

#: The verdict on a packet that is kept.
_KEPT = Drop(Reason.TAKEOVER)

#: What is seen outside of this process.
_OUTWARD = (StreamWrite, StreamClose, Connect, Splice, Cut, Examine, Send)


@dataclass(slots=True)
class SocketCount:
    """What one socket has read and sent, and what the kernel refused to send of it."""

    packets: int = 0
    send_failures: int = 0


@dataclass(slots=True)
class Observer:
    """Who is told of what happens; each may be called from the packet path and must be quick."""

    dropped: Callable[[Drop], None]
    session: Callable[[SessionOpened | SessionChanged | SessionClosed], None]


@dataclass(slots=True)
class Datapath:
    """Connects one Gateway with its sockets. ``clock`` is the loop's."""

    gateway: Gateway
    sender: socket.socket
    clock: Callable[[], float]
    observer: Observer
    counts: dict[str, SocketCount] = field(default_factory=dict)
    recovery: Recovery = field(init=False)
    _streams: Streams = field(init=False)
    _splices: Splices = field(init=False)
    _handover: Handover = field(init=False)
    _strangers: Strangers = field(init=False)
    #: By socket, what takes a batch of packets from it; returns how many they were.
    _drains: dict[str, Callable[[], int]] = field(default_factory=dict)
    #: By its kind, what carries out an action.
    _carry_out: dict[type[Action], Callable[[Any], None]] = field(init=False)
    #: By socket, the core's entry.
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _wakeup: Wakeup = field(init=False)
    _queue: deque[Action] = field(default_factory=deque)
    _performing: bool = False
    #: What waits for its turn.
    _patient: deque[Action] = field(default_factory=deque)
    _turn: asyncio.Handle | None = None
    #: While the process before us still serves: what is to be done as soon as it has left.
    _deferred: list[Action] | None = None
    #: While another process takes over: packets for it to judge, with the sockets they came from.
    _kept: list[tuple[str, bytes]] | None = None

    def __post_init__(self) -> None:
        self.recovery = Recovery(self.clock)

    def attach(self, streams: Streams, splices: Splices, handover: Handover, strangers: Strangers) -> None:
        """Use these for what the core asks for of connections, flows and peers; once, on the loop."""
        self._streams = streams
        self._splices = splices
        self._handover = handover
        self._strangers = strangers
        self._carry_out = self._doers()
        self._wakeup = Wakeup(self._expire)

    # -- packets ---------------------------------------------------------------------------------------

    def reader(self, name: str, sock: socket.socket, side: Side, *, batch: int) -> Callable[[], int]:
        """A callback for ``loop.add_reader``: takes ``batch`` packets at once, until ``released``."""
        judge = self.gateway.from_wan if side is Side.WAN else self.gateway.from_lan
        keep = partial(self._keep, name, side)
        count = self.counts.setdefault(name, SocketCount())
        inbox = Inbox(sock, batch)
        buffers, addresses, lengths = inbox.buffers, inbox.addresses, inbox.lengths
        receive, clock = inbox.receive, self.clock
        add, slots, send = self._sending(inbox, batch, count)

        def drain() -> int:
            now, acted = clock(), False
            try:
                taken = receive()
            except OSError as error:
                if error.errno not in TRANSIENT:
                    raise
                return 0
            count.packets += taken
            entry: _Entry = judge if self._kept is None else keep
            for slot in range(taken):
                length = lengths[slot]
                verdict = entry(buffers[slot], length, now=now)
                if isinstance(verdict, int):
                    add(addresses[slot], length, verdict)
                    slots.append(slot)
                elif isinstance(verdict, list):
                    send()  # what came before goes before
                    self._carry_out_all(verdict)
                    acted = True
            send()
            if acted:
                self._follow()
            return taken

        self._drains[name] = drain
        self._entries[name] = judge
        return drain

    def _sending(
        self, inbox: Inbox, batch: int, count: SocketCount
    ) -> tuple[Callable[[int, int, int], None], list[int], Callable[[], None]]:
        """How a reader sends: ``Outbox.add``, the slots of what was added, and what sends that."""
        outbox = Outbox(self.sender, batch)
        slots: list[int] = []
        recovery = self.recovery

        def send() -> None:
            outbox.flush(unsent)
            recovery.sent(len(slots))
            slots.clear()

        def unsent(number: int, code: int) -> None:
            if code == errno.EMSGSIZE:
                slot, mtu = slots[number], path_mtu(show_ip(outbox.destination(number)))
                buffer, length = inbox.buffers[slot], inbox.lengths[slot]
                self.perform(self.gateway.too_big(buffer, length, mtu=mtu, now=self.clock()))
                return
            if code not in TRANSIENT:
                raise OSError(code, os.strerror(code))
            count.send_failures += 1
            self.gateway.drops[Reason.SEND_FAILED] += 1

        return outbox.add, slots, send

    def _keep(
        self, name: str, side: Side, buffer: bytearray, length: int, *, now: float
    ) -> Destination | Drop:
        """Forward an ordinary packet; keep any other for the process that takes over."""
        destination = self.gateway.carry(side, buffer, length, now=now)
        if destination is not None:
            return destination
        assert self._kept is not None
        if len(self._kept) < _MOST_KEPT:
            self._kept.append((name, bytes(buffer[:length])))
        else:
            self.gateway.drops[Reason.TAKEOVER] += 1
        return _KEPT

    def released(self, name: str) -> None:
        """A socket is about to be closed."""
        self._drains.pop(name, None)
        self._entries.pop(name, None)

    def drain(self) -> None:
        """Take what the sockets hold, so that the kernel overtakes nothing that came before."""
        if self._deferred is not None:
            return  # it is not ours yet
        for drain in tuple(self._drains.values()):
            for _ in range(_ROUNDS):
                if not drain():
                    break

    # -- streams and time ------------------------------------------------------------------------------

    def stream_event(self, event: StreamEvent) -> None:
        """Take an event of a stream to the core and carry out what follows."""
        self.perform(self.gateway.stream_event(event, now=self.clock()))

    def forward_event(self, event: ForwardEvent) -> None:
        """The same for a forwarded connection."""
        self.perform(self.gateway.forward_event(event, now=self.clock()))

    def _expire(self) -> None:
        self.perform(self.gateway.expire(now=self.clock()))

    # -- actions ---------------------------------------------------------------------------------------

    def perform(self, actions: list[Action]) -> None:
        """Carry out actions in order. An event that one of them causes is dealt with after them all."""
        self._carry_out_all(actions)
        if not self._performing:
            self._follow()

    def perform_in_turns(self, actions: list[Action]) -> None:
        """Carry out what may end thousands of sessions at once, with turns for packets in between.

        What waits is told to streams that end and to observers of sessions that have ended: of both the core
        asks nothing any more, so nothing can come before its time. Everything else is carried out now.
        """
        ending = {action.stream for action in actions if isinstance(action, StreamClose)}
        urgent: list[Action] = []
        for action in actions:
            words = isinstance(action, StreamWrite | StreamClose) and action.stream in ending
            (self._patient if words or isinstance(action, SessionClosed) else urgent).append(action)
        self.perform(urgent)
        if self._turn is None:
            self._take_turn()

    def _take_turn(self) -> None:
        self._turn = None
        self.perform([self._patient.popleft() for _ in range(min(_TURN, len(self._patient)))])
        if self._patient:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turn)

    def _follow(self) -> None:
        if self._deferred is None and self._kept is None:
            self._wakeup.follow(self.gateway.next_deadline())

    def _carry_out_all(self, actions: list[Action]) -> None:
        if self._deferred is not None:
            self._deferred += [action for action in actions if isinstance(action, _OUTWARD)]
            actions = [action for action in actions if not isinstance(action, _OUTWARD)]
        self._queue.extend(actions)
        if self._performing:
            return
        self._performing = True
        try:
            while self._queue:
                action = self._queue.popleft()
                self._carry_out[type(action)](action)
        finally:
            self._performing = False

    def _doers(self) -> dict[type[Action], Callable[[Any], None]]:
        """What carries out each kind of action."""
        tell = self.observer.session
        return {
            StreamWrite: lambda action: self._streams.write(action.stream, action.data),
            StreamClose: lambda action: self._streams.close(action.stream, abort=action.abort),
            Connect: self._streams.connect,
            Splice: self._splices.splice,
            Cut: lambda action: self._splices.cut(action.stream),
            Examine: self._splices.examine,
            Send: self._send,
            Drop: self.observer.dropped,
            Offload: self._handover.offload,
            Unload: lambda action: self._handover.unload(action.flow),
            Heed: lambda action: self._strangers.heed(action.protocol, action.address),
            Ignore: lambda action: self._strangers.ignore(action.protocol, action.address),
            SessionOpened: tell,
            SessionChanged: tell,
            SessionClosed: tell,
        }

    def _send(self, action: Send) -> None:
        try:
            self.sender.sendto(action.packet, (show_ip(action.destination), 0))
            self.recovery.sent(1)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                mtu = path_mtu(show_ip(action.destination))
                if len(action.packet) > mtu:
                    packet = bytearray(action.packet)
                    smaller = self.gateway.too_big(packet, len(packet), mtu=mtu, now=self.clock())
                    self._queue.extendleft(reversed(smaller))
                    return
            elif error.errno not in TRANSIENT:
                raise
            self.gateway.drops[Reason.SEND_FAILED] += 1

    # -- from process to process -----------------------------------------------------------------------

    def wait(self) -> None:
        """Do nothing that is seen outside, until ``begin``: another process still serves."""
        self._deferred = []

    def begin(self, packets: Iterable[tuple[str, bytes]]) -> None:
        """Serve, beginning with what has waited and with ``packets`` that the other process has kept."""
        deferred, self._deferred = self._deferred or [], None
        self.perform(deferred)
        self._judge(packets)

    def pause(self) -> None:
        """Forward what can be forwarded, and keep all else as it is, until ``resume`` or for good."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self.perform([self._patient.popleft() for _ in range(len(self._patient))])
        self._kept = []
        self._wakeup.cancel()

    def kept(self) -> list[tuple[str, bytes]]:
        """What came since ``pause`` and was not forwarded."""
        return self._kept or []

    def resume(self) -> None:
        """Go on after ``pause``."""
        kept, self._kept = self.kept(), None
        self._judge(kept)
        self.perform([])

    def _judge(self, packets: Iterable[tuple[str, bytes]]) -> None:
        for name, packet in packets:
            entry = self._entries.get(name)
            if entry is None:  # served no more
                self.gateway.drops[Reason.NOT_SERVED] += 1
                continue
            buffer = bytearray(max(len(packet), _HEADER))
            buffer[: len(packet)] = packet
            verdict = entry(buffer, len(packet), now=self.clock())
            if isinstance(verdict, int):
                verdict = [Send(bytes(buffer[: len(packet)]), verdict)]
            if isinstance(verdict, list):
                self.perform(verdict)

    def stop(self) -> None:
        """Follow no deadline any more; what waits for its turn is dropped."""
        self._wakeup.cancel()
        if self._turn is not None:
            self._turn.cancel()
