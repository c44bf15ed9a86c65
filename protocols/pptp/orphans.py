"""Calls whose control connection did not survive a restart of ours.

Their data needs no control connection to flow, and whoever loses one may take a while to notice or to
redial (RFC 2637 §3.1.3 leaves open when). So it flows on for a bounded time; then the call ends, and its
Call IDs rest like those of any other.
"""

from collections.abc import Iterator

from protocols.actions import Action, SessionClosed
from protocols.admission import Admission
from protocols.deadlines import Deadlines
from protocols.pptp.call import CallState
from protocols.pptp.calls import Calls
from protocols.pptp.connection import Connection, Phase
from protocols.pptp.moving import Moving
from protocols.registry import SessionRegistry
from protocols.sessions import Session, State


class Orphans:
    """Control connections that are gone, as far as they have calls."""

    def __init__(self, admission: Admission, registry: SessionRegistry, calls: Calls, moving: Moving) -> None:
        self._admission = admission
        self._moving = moving
        self._registry = registry
        self._calls = calls
        self._connections: dict[Connection, None] = {}
        self._deadlines: Deadlines[Connection] = Deadlines()

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections))

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._connections

    def adopt(self, connection: Connection, *, now: float) -> list[Action]:
        """Take a connection in whose sessions, flows and IDs are there, and its TCP connections are not."""
        if connection.phase is not Phase.ORPHANED:
            connection.phase, connection.since = Phase.ORPHANED, now
        self._connections[connection] = None
        actions: list[Action] = []
        for call in list(connection.calls):
            if call.state is not CallState.ESTABLISHED:
                actions += self._calls.end(connection, call, "not finished before the restart", now=now)
        if not connection.calls:
            return [*actions, *self._end(connection, "its control connection is gone", now)]
        self._deadlines.file(connection, connection.deadline(self._admission.policy.pptp))
        return actions

    def _end(self, connection: Connection, why: str, now: float) -> list[Action]:
        actions: list[Action] = []
        for call in list(connection.calls):
            actions += self._calls.end(connection, call, why, now=now)
        del self._connections[connection]
        self._deadlines.discard(connection)
        connection.session.state = State.CLOSING
        self._registry.remove(connection.session)
        return [*actions, SessionClosed(connection.session, why)]

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session, if it is one of these; with a connection's first all of its calls end."""
        actions: list[Action] = []
        for connection in self:
            if connection.session is session:
                return self._end(connection, why, now)
            for call in list(connection.calls):
                if call.session is session:
                    actions += self._calls.end(connection, call, why, now=now)
        return actions

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all of them."""
        return [action for connection in self for action in self._end(connection, why, now)]

    def reconsider(self, *, now: float) -> list[Action]:
        """End those that the rules and addresses of now would not let in."""
        actions: list[Action] = []
        for connection in self:
            why = self._moving.objection(connection)
            if why is not None:
                actions += self._end(connection, why, now)
        return actions

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return self._deadlines.next()

    def expire(self, *, now: float) -> list[Action]:
        """End those whose time is up."""
        actions: list[Action] = []
        for connection in self._deadlines.due(now):
            until = connection.deadline(self._admission.policy.pptp)
            if until <= now:
                actions += self._end(connection, "its control connection is gone", now)
            else:
                self._deadlines.file(connection, until)
        return actions
