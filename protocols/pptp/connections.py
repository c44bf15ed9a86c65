"""All control connections: found by their streams, looked at in time, and ended one way or another."""

from collections.abc import Iterator, Set

from protocols.actions import Action, Drop, SessionChanged, SessionClosed, StreamClose, StreamWrite
from protocols.addr import Ip4, show_ip
from protocols.admission import Admission
from protocols.deadlines import Deadlines
from protocols.drops import Reason
from protocols.pptp import messages
from protocols.pptp.calls import Calls
from protocols.pptp.codes import GeneralError, StartResult, StopReason
from protocols.pptp.connection import Connection, Phase
from protocols.pptp.leg import Leg
from protocols.pptp.moving import Moving
from protocols.registry import SessionRegistry
from protocols.sessions import State

#: Reasons that leave the byte stream out of step: there is no message to answer (RFC 2637 §2).
_OUT_OF_STEP = frozenset({Reason.PPTP_LENGTH, Reason.PPTP_TYPE, Reason.PPTP_MAGIC})


class Connections:
    """The table of control connections; whoever ends one ends it here."""

    def __init__(self, admission: Admission, registry: SessionRegistry, calls: Calls, moving: Moving) -> None:
        self._admission = admission
        self._registry = registry
        self._calls = calls
        self._moving = moving
        self._streams: dict[int, tuple[Connection, Leg]] = {}
        self._deadlines: Deadlines[Connection] = Deadlines()

    def __iter__(self) -> Iterator[Connection]:
        return iter([connection for connection, leg in self._streams.values() if leg is connection.dialled])

    def __contains__(self, connection: Connection) -> bool:
        return connection.dialled.stream in self._streams

    @property
    def streams(self) -> Set[int]:
        """The streams of all of them."""
        return self._streams.keys()

    def of(self, stream: int) -> tuple[Connection, Leg] | None:
        """The connection that a stream is a leg of, and which."""
        return self._streams.get(stream)

    def enter(self, connection: Connection, initiator: Ip4) -> None:
        """Take in a new one and its session, on the account of whoever began it."""
        self._registry.add(connection.session, initiator)
        self.resume(connection)

    def resume(self, connection: Connection) -> None:
        """Take in one whose session is there."""
        for leg in connection.legs():
            self._streams[leg.stream] = (connection, leg)
        self.file(connection)

    def redialled(self, connection: Connection, before: Leg) -> None:
        """A connection has another second leg than before."""
        del self._streams[before.stream]
        self._streams[connection.onward.stream] = (connection, connection.onward)

    # -- time ------------------------------------------------------------------------------------------

    def file(self, connection: Connection) -> None:
        """Note when to look at it, if it is still there."""
        if connection in self:
            self._deadlines.file(connection, connection.deadline(self._admission.policy.pptp))

    def next_deadline(self) -> float | None:
        """When one is next to be looked at."""
        return self._deadlines.next()

    def due(self, now: float) -> list[Connection]:
        """Those to be looked at now; each is to be filed again."""
        return self._deadlines.due(now)

    # -- endings ---------------------------------------------------------------------------------------

    def unreachable(
        self, connection: Connection, error: str, now: float, *, gone: Leg | None = None
    ) -> list[Action]:
        """End a connection whose second leg did not come about."""
        why = f"no connection to {show_ip(connection.onward.remote)}: {error}"
        return [Drop(Reason.UNREACHABLE, why), *self.end(connection, why, now, gone=gone, abort=True)]

    def wind_down(self, connection: Connection, now: float) -> list[Action]:
        """Stop all data; the ends still have a moment to finish their conversation."""
        for call in connection.calls:
            self._calls.silence(call, now=now)
        if connection.phase is Phase.CLOSING:
            return []
        connection.phase = Phase.CLOSING
        connection.since = now
        sessions = [connection.session, *(c.session for c in connection.calls)]
        changed: list[Action] = []
        for session in sessions:
            if session.state is not State.CLOSING:
                session.state = State.CLOSING
                changed.append(SessionChanged(session))
        return changed

    def fail(
        self,
        connection: Connection,
        leg: Leg,
        reason: Reason,
        detail: str,
        now: float,
        *,
        answer: bool = False,
    ) -> list[Action]:
        """End a connection because of what ``leg`` did; ``answer`` when there is a message to answer."""
        text = f"{show_ip(leg.remote)}: {detail}" if detail else show_ip(leg.remote)
        actions: list[Action] = [Drop(reason, text)]
        if answer and reason not in _OUT_OF_STEP:
            started = connection.phase in (Phase.UP, Phase.CLOSING) or leg is connection.onward
            reply: messages.Message = (
                messages.StopRequest(reason=StopReason.PROTOCOL)
                if started
                else messages.StartReply(result=StartResult.GENERAL_ERROR, error=GeneralError.BAD_FORMAT)
            )
            actions.append(StreamWrite(leg.stream, reply.to_bytes()))
        actions += self.farewell(connection, leg.other, StopReason.NONE)
        return [*actions, *self.end(connection, f"{reason.value}: {text}", now)]

    def farewell(self, connection: Connection, leg: Leg, reason: int) -> list[Action]:
        """Ask the host of a leg to stop, if the connection is up (RFC 2637 §2.3)."""
        if connection.phase is not Phase.UP:
            return []
        return [StreamWrite(leg.stream, messages.StopRequest(reason=reason).to_bytes())]

    def end(
        self, connection: Connection, why: str, now: float, *, gone: Leg | None = None, abort: bool = False
    ) -> list[Action]:
        """Forget the connection, its calls and streams. The stream of ``gone`` needs no closing any more."""
        actions: list[Action] = []
        connection.phase = Phase.CLOSING
        for call in list(connection.calls):
            actions += self._calls.end(connection, call, why, now=now)
        for leg in connection.legs():
            del self._streams[leg.stream]
            if leg is not gone:
                # What still has to be said from a lost address would wait in the kernel for minutes.
                actions.append(StreamClose(leg.stream, abort=abort or self._moving.is_lost(leg)))
        connection.session.state = State.CLOSING
        self._registry.remove(connection.session)
        self._deadlines.discard(connection)
        return [*actions, SessionClosed(connection.session, why)]

    def dismiss(self, connection: Connection, why: str, *, now: float) -> list[Action]:
        """End a connection of our own accord, politely: both ends are told (RFC 2637 §2.3)."""
        actions: list[Action] = []
        for leg in connection.legs():
            if not self._moving.is_lost(leg):
                actions += self.farewell(connection, leg, StopReason.SHUTDOWN)
        return [*actions, *self.end(connection, why, now)]
