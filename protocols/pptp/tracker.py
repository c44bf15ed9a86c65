"""PPTP: control connections from the first byte to the last.

Both ends of a control connection talk to us (HOWTO §2.3, RFC 2637 §3.1); the tracker checks what each
says, passes it on with the Call IDs translated, and ends the data flows with the connection they belong
to.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Set
from typing import Any

from protocols.actions import (
    Action,
    Drop,
    SessionChanged,
    SessionOpened,
    StreamClose,
    StreamWrite,
)
from protocols.addr import UNSPECIFIED, Ip4, show_ip
from protocols.admission import Admission, Route
from protocols.allocator import CallIds, Random
from protocols.deadlines import earliest
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.events import (
    StreamAccepted,
    StreamConnected,
    StreamData,
    StreamEnded,
    StreamEvent,
    StreamFailed,
    StreamLost,
)
from protocols.gre.flows import FlowTable
from protocols.policy import PptpTimers
from protocols.pptp import messages
from protocols.pptp.calls import Calls
from protocols.pptp.codes import PORT, StartResult, StopReason
from protocols.pptp.connection import Connection, Phase
from protocols.pptp.connections import Connections
from protocols.pptp.leg import Leg
from protocols.pptp.moving import CHANGED, Moving
from protocols.pptp.orphans import Orphans
from protocols.pptp.overdue import Overdue
from protocols.registry import SessionRegistry
from protocols.sessions import Session, State

#: Messages held while the second TCP connection is being made: Start-Control and little else may come.
_MOST_HELD = 16


class PptpTracker:
    """All PPTP control connections of the gateway."""

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        flows: FlowTable,
        *,
        random: Random,
        new_stream: Callable[[], int],
    ) -> None:
        self.admission = admission
        #: Connections that a rule allowed and a limit did not, by rule.
        self.refused: Counter[str] = Counter()
        self._registry = registry
        self._new_stream = new_stream
        self.ids = CallIds(random, ghost=self._timers.ghost, capacity=2 * registry.limits.sessions)
        self._calls = Calls(registry, flows, self.ids)
        self._moving = Moving(admission, self._calls, new_stream)
        self.orphans = Orphans(admission, registry, self._calls, self._moving)
        self._connections = Connections(admission, registry, self._calls, self._moving)
        self._overdue = Overdue(admission, self._connections, self._calls, random)

    @property
    def _timers(self) -> PptpTimers:
        return self.admission.policy.pptp

    # -- what happens to streams -----------------------------------------------------------------------

    def stream_event(self, event: StreamEvent, *, now: float) -> list[Action]:
        """Act on an event of one TCP stream. Events of streams that are gone are of no interest."""
        if isinstance(event, StreamAccepted):
            return self._accepted(event, now)
        known = self._connections.of(event.stream)
        if known is None:
            return []
        connection, leg = known
        match event:
            case StreamConnected():
                actions = self._connected(connection, event, now)
            case StreamData():
                actions = self._data(connection, leg, event.data, now)
            case StreamFailed():
                actions = self._connections.unreachable(connection, event.error, now, gone=leg)
            case StreamEnded():
                actions = self._connections.end(connection, f"closed by {show_ip(leg.remote)}", now)
            case StreamLost():
                why = f"connection to {show_ip(leg.remote)} lost: {event.error}"
                actions = self._connections.end(connection, why, now, gone=leg, abort=True)
            case _:  # StreamStalled
                actions = self._connections.fail(connection, leg, Reason.PPTP_STALLED, "does not read", now)
        self._connections.file(connection)
        return actions

    def _accepted(self, event: StreamAccepted, now: float) -> list[Action]:
        route = self.admission.admit(event.side, event.local, event.remote)
        refusal = route if isinstance(route, Reason) else None
        if refusal is None and len(self._connections.streams) + 2 > self._registry.limits.streams:
            refusal = Reason.LIMIT_FILES
        if refusal is None:
            refusal = self._registry.refusal(event.remote, now=now)
        if refusal is not None or isinstance(route, Reason):
            if isinstance(route, Route):
                self.refused[route.rule] += 1
            detail = (
                f"{show_ip(event.remote)} to {show_ip(event.local)} tcp/{PORT} from the {event.side.value}"
            )
            return [Drop(refusal or Reason.NO_RULE, detail), StreamClose(event.stream, abort=True)]
        connection = self._open(event, route, now)
        onward = connection.onward
        return [
            SessionOpened(connection.session),
            onward.dial(PORT, transparent=route.transparent),
        ]

    def _open(self, event: StreamAccepted, route: Route, now: float) -> Connection:
        wan = self.admission.addresses.wan
        assert wan is not None
        session = Session(
            id=self._registry.new_id("p"),
            protocol="pptp",
            role=route.role,
            rule=route.rule,
            state=State.CONNECTING,
            inside=route.inside,
            gateway=wan,
            peer=route.peer,
            opened=now,
            last_seen=now,
        )
        dialled = Leg(event.stream, event.side, event.remote, event.local, now)
        onward = Leg(self._new_stream(), route.side, route.destination, route.source, now)
        dialled.other, onward.other = onward, dialled
        connection = Connection(dialled, onward, session, route.rule, now)
        self._connections.enter(connection, event.remote)
        return connection

    def _connected(self, connection: Connection, event: StreamConnected, now: float) -> list[Action]:
        connection.onward.local = event.local
        connection.onward.heard = now
        connection.phase = Phase.STARTING
        connection.session.state = State.CONTROL
        held, connection.held = connection.held, []
        return [
            SessionChanged(connection.session),
            *(StreamWrite(connection.onward.stream, message) for message in held),
        ]

    def _data(self, connection: Connection, leg: Leg, data: bytes, now: float) -> list[Action]:
        actions: list[Action] = []
        connection.session.last_seen = now
        for frame in leg.framer.feed(data):
            actions += self._frame(connection, leg, frame, now)
            leg.partial_since = None
            if connection not in self._connections:
                return actions
        if leg.framer.error is not None:
            error = leg.framer.error
            return [*actions, *self._connections.fail(connection, leg, error.reason, error.detail, now)]
        if not leg.framer.pending:
            leg.partial_since = None
        elif leg.partial_since is None:
            leg.partial_since = now
        return actions

    # -- messages --------------------------------------------------------------------------------------

    def _frame(self, connection: Connection, leg: Leg, frame: bytes, now: float) -> list[Action]:
        try:
            message = messages.decode(frame)
        except DecodeError as error:
            return self._connections.fail(connection, leg, error.reason, error.detail, now, answer=True)
        leg.heard = now
        match message:
            case messages.EchoRequest():
                return self._pass(connection, leg, frame, now)
            case messages.EchoReply():
                if message.identifier == leg.probe:
                    leg.probe = None
                    return []
                return self._pass(connection, leg, frame, now)
            case messages.StartRequest() | messages.StartReply():
                return self._start(connection, leg, message, frame, now)
            case messages.StopRequest() | messages.StopReply():
                return self._stop(connection, leg, message, frame, now)
            case _:
                if connection.phase in (Phase.UP, Phase.CLOSING):
                    return self._calls.relay(connection, leg, message, now=now)
                detail = f"{type(message).__name__} before the Start-Control exchange"
                return self._connections.fail(connection, leg, Reason.PPTP_STATE, detail, now, answer=True)

    def _start(
        self,
        connection: Connection,
        leg: Leg,
        message: messages.StartRequest | messages.StartReply,
        frame: bytes,
        now: float,
    ) -> list[Action]:
        is_reply = isinstance(message, messages.StartReply)
        # The originator of the TCP connection asks once, the other answers (RFC 2637 §3.1.2).
        in_turn = (leg is connection.onward) == is_reply == connection.asked
        if not in_turn or connection.phase in (Phase.UP, Phase.CLOSING):
            detail = f"{type(message).__name__} out of turn"
            return self._connections.fail(connection, leg, Reason.PPTP_STATE, detail, now, answer=True)
        connection.asked = True
        actions = self._pass(connection, leg, frame, now)
        if isinstance(message, messages.StartReply):
            if message.result == StartResult.OK:
                connection.phase = Phase.UP
                connection.dialled.heard = connection.onward.heard = now
            else:
                actions += self._connections.wind_down(connection, now)
        return actions

    def _stop(
        self,
        connection: Connection,
        leg: Leg,
        message: messages.StopRequest | messages.StopReply,
        frame: bytes,
        now: float,
    ) -> list[Action]:
        if connection.phase is Phase.CONNECTING:
            # There is nobody to ask yet.
            answer = StreamWrite(leg.stream, messages.StopReply().to_bytes())
            return [answer, *self._connections.end(connection, f"stopped by {show_ip(leg.remote)}", now)]
        actions = self._pass(connection, leg, frame, now)
        if isinstance(message, messages.StopRequest):
            actions += self._connections.wind_down(connection, now)
        return actions

    def _pass(self, connection: Connection, leg: Leg, frame: bytes, now: float) -> list[Action]:
        if connection.phase is not Phase.CONNECTING:
            return [StreamWrite(leg.other.stream, frame)]
        if len(connection.held) == _MOST_HELD:
            detail = f"more than {_MOST_HELD} messages before the other side was reached"
            return self._connections.fail(connection, leg, Reason.PPTP_STATE, detail, now)
        connection.held.append(frame)
        return []

    # -- whole connections -----------------------------------------------------------------------------

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session: its call, or the whole connection when it is the connection's first."""
        for connection in self._connections:
            if connection.session is session:
                return self._connections.dismiss(connection, why, now=now)
            for call in connection.calls:
                if call.session is session:
                    return self._calls.hang_up(connection, call, why, now=now)
        return self.orphans.kill(session, why, now=now)

    def connections(self) -> list[Connection]:
        """All control connections."""
        return list(self._connections)

    def hang_up(self, why: str, *, now: float) -> list[Action]:
        """End all of them, politely."""
        actions: list[Action] = []
        for connection in self._connections:
            actions += self._connections.dismiss(connection, why, now=now)
        return actions + self.orphans.close_all(why, now=now)

    def reconsider(self, *, now: float) -> list[Action]:
        """End the connections that the rules and addresses of now would not let in; see ``moving``."""
        actions: list[Action] = []
        self._moving.begin()
        for connection in self._connections:
            why = self._moving.objection(connection)
            if why is not None:
                actions += self._connections.dismiss(connection, why, now=now)
            self._connections.file(connection)
        return actions + self.orphans.reconsider(now=now)

    def awaited(self) -> Ip4 | None:
        """Whom a connection that ``redial`` would make again leads to; None if there is none."""
        return next((c.onward.remote for c in self._connections if self._moving.waits(c)), None)

    def redial(self, *, now: float) -> list[Action]:
        """Make connections that nobody has answered yet from the public address of now (ip_dynaddr)."""
        actions: list[Action] = []
        for connection in self._connections:
            if not self._moving.waits(connection):
                continue
            before, dial = connection.onward, self._moving.dial_again(connection, now=now)
            if dial is None:
                actions += self._connections.dismiss(connection, CHANGED, now=now)
                continue
            self._connections.redialled(connection, before)
            actions += [StreamClose(before.stream, abort=True), dial]
        return actions

    def relimit(self) -> None:
        """Take over the limits and times of a new policy."""
        self.ids.ghost = self._timers.ghost
        self.ids.capacity = 2 * self._registry.limits.sessions

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        yield "resting", self.ids.resting()
        for connection in (*self._connections, *self.orphans):
            if connection in self._connections or connection in self.orphans:
                sessions = {connection.session: None, **{call.session: None for call in connection.calls}}
                yield "connection", connection, self._registry.accounts(sessions)

    def streams(self) -> Set[int]:
        """All TCP connections that have a part in it."""
        return self._connections.streams

    def adopt(self, kind: str, *record: Any, streams: Set[int], now: float) -> list[Action]:
        """Take in a record of before a restart, as far as its ``streams`` have survived."""
        if kind == "resting":
            for until, pair, call_id in record[0]:
                self.ids.rest_until(until, pair, call_id)
            return []
        return self._adopt(*record, streams=streams, now=now)

    def _adopt(
        self, connection: Connection, accounts: dict[str, Ip4], *, streams: Set[int], now: float
    ) -> list[Action]:
        if not self._calls.may_adopt(connection):
            return []
        self._registry.readmit(connection.session, accounts[connection.session.id])
        for call in connection.calls:
            self._calls.adopt(call)
            if call.session is not connection.session:
                self._registry.readmit(call.session, accounts[call.session.id])
        dialling = connection.phase is Phase.CONNECTING
        legs = (connection.dialled,) if dialling else connection.legs()
        gone = [leg for leg in legs if leg.stream not in streams]
        # An orphan's numbers may be others' by now.
        if len(gone) == len(legs) or connection.phase is Phase.ORPHANED:
            return self.orphans.adopt(connection, now=now)
        self._connections.resume(connection)
        if gone:
            told = self._connections.farewell(connection, gone[0].other, StopReason.NONE)
            return [*told, *self._connections.end(connection, "half of it is gone", now, gone=gone[0])]
        if not dialling or self._moving.waits(connection):  # for which ``redial`` is called
            return []
        onward = connection.onward
        transparent = onward.local not in (*self.admission.addresses.own, UNSPECIFIED)
        return [onward.dial(PORT, transparent=transparent)]

    def resynchronise(self, *, now: float) -> list[Action]:
        """Go on with streams of which a crash has lost what was just being read.

        That is one message at most, as each is passed on before the next is read. A connection that was
        still being made, or ended, cannot do without any.
        """
        actions: list[Action] = []
        for connection in self._connections:
            for leg in connection.legs():
                leg.resynchronise(now=now)
            if connection.phase is not Phase.UP:
                actions += self._connections.end(connection, "not finished before the restart", now)
            self._connections.file(connection)
        return actions

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest(part.next_deadline() for part in (self._connections, self.ids, self.orphans))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        self.ids.expire(now=now)
        actions: list[Action] = []
        for connection in self._connections.due(now):
            actions += self._overdue.look(connection, now)
            self._connections.file(connection)
        return actions + self.orphans.expire(now=now)
