"""Forwarded TCP: who is let in, and how long a connection may be idle. The bytes never come here.

The shell accepts, asks here, dials the server and carries the bytes between the two connections with the
kernel's help (Splice); it says how the connection fares, and here it is kept in time (RFC 5382 REQ-5).

    (new) --server answers--> ESTABLISHED --FIN of one end--> CLOSING --FIN of the other--> (gone)
    CONNECTING, CLOSING --idle--> (gone)
    ESTABLISHED --idle, and an end does not answer--> (gone)

Whether the ends answer, the kernel's keepalives have found out meanwhile.
"""

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from protocols.actions import Action, Cut, Drop, Examine, SessionChanged, SessionClosed, SessionOpened, Splice
from protocols.addr import Ip4, show_ip
from protocols.admission import Admission
from protocols.deadlines import Deadlines
from protocols.drops import Reason
from protocols.events import (
    ForwardAccepted,
    ForwardConnected,
    ForwardEnded,
    ForwardEvent,
    ForwardFailed,
    ForwardHalfClosed,
)
from protocols.forward.session import ForwardSession
from protocols.forward.ways import Way, renewed, rule_at, waits, way
from protocols.policy import TCP, ForwardTimers
from protocols.registry import SessionRegistry
from protocols.sessions import Role, Session, State

#: Seconds the shell has to answer an Examine.
_ANSWER_WITHIN = 10.0


@dataclass(slots=True, eq=False)
class Connection:
    """One forwarded connection: the shell's number for it, and its session."""

    stream: int
    way: Way
    session: ForwardSession
    #: When its ends were last asked for, while it is open whether they are there.
    examined: float | None = None


class TcpForwards:
    """All forwarded TCP connections, by the shell's numbers."""

    def __init__(self, admission: Admission, registry: SessionRegistry) -> None:
        self._admission = admission
        self._registry = registry
        self._connections: dict[int, Connection] = {}
        self._deadlines: Deadlines[Connection] = Deadlines()
        #: Connections that a rule allows and a limit refused, by rule.
        self.refused: Counter[str] = Counter()

    @property
    def _timers(self) -> ForwardTimers:
        return self._admission.policy.forwarding

    def stream_event(self, event: ForwardEvent, *, now: float) -> list[Action]:
        """Act on what happened to a connection; events of one that was cut come too late, and do nothing.

        ForwardAlive counts as traffic.
        """
        if isinstance(event, ForwardAccepted):
            return self._accepted(event, now)
        connection = self._connections.get(event.stream)
        if connection is None:
            return []
        match event:
            case ForwardConnected():
                return self._enter(connection, State.ESTABLISHED, now)
            case ForwardHalfClosed():
                return self._enter(connection, State.CLOSING, now)
            case ForwardFailed():
                detail = f"{connection.session.listen}: {event.error}"
                return [Drop(Reason.UNREACHABLE, detail), *self._end(connection, event.error)]
            case ForwardEnded():
                return self._end(connection, event.why)
            case _:
                connection.session.last_seen = now
                return []

    def _accepted(self, event: ForwardAccepted, now: float) -> list[Action]:
        way_ = self._admit(event)
        if isinstance(way_, Way):
            refusal = self._registry.refusal(event.remote, now=now)
            if refusal is None:
                return self._open(event, way_, now)
            self.refused[way_.rule.name] += 1
            way_ = refusal
        detail = f"{show_ip(event.remote)}:{event.remote_port} to tcp/{event.port}"
        return [Cut(event.stream), Drop(way_, detail)]

    def _admit(self, event: ForwardAccepted) -> Way | Reason:
        fault = self._admission.source_fault(event.side, event.remote)
        if fault is not None:
            return fault
        rule = rule_at(self._admission, TCP, event.port)
        if rule is None or event.local != self._admission.addresses.wan:
            return Reason.NO_RULE
        return way(self._admission, rule, event.remote) or Reason.NO_RULE

    def _open(self, event: ForwardAccepted, found: Way, now: float) -> list[Action]:
        rule = found.rule
        session = ForwardSession(
            id=self._registry.new_id("t"),
            protocol="tcp",
            role=Role.FORWARD,
            rule=rule.name,
            state=State.CONNECTING,
            inside=rule.server,
            gateway=event.local,
            peer=event.remote,
            opened=now,
            last_seen=now,
            listen=rule.listen,
            peer_port=event.remote_port,
            server_port=rule.server_port,
        )
        connection = Connection(event.stream, found, session)
        self._connections[event.stream] = connection
        self._registry.add(session, event.remote)
        self._deadlines.file(connection, now + self._limit(connection))
        return [SessionOpened(session), _splice(connection)]

    def _enter(self, connection: Connection, state: State, now: float) -> list[Action]:
        session = connection.session
        session.state = state
        session.last_seen = now
        self._deadlines.file(connection, now + self._limit(connection))
        return [SessionChanged(session)]

    def _limit(self, connection: Connection) -> float:
        timers = self._timers
        return timers.tcp if connection.session.state is State.ESTABLISHED else timers.tcp_transitory

    # -- endings ---------------------------------------------------------------------------------------

    def _end(self, connection: Connection, why: str) -> list[Action]:
        del self._connections[connection.stream]
        self._deadlines.discard(connection)
        connection.session.state = State.CLOSING
        self._registry.remove(connection.session)
        return [SessionClosed(connection.session, why)]

    def _cut(self, connection: Connection, why: str) -> list[Action]:
        return [Cut(connection.stream), *self._end(connection, why)]

    def kill(self, session: Session, why: str) -> list[Action]:
        """End a session, if it is one of ours; both ends are reset."""
        found = [one for one in self._connections.values() if one.session is session]
        return [action for one in found for action in self._cut(one, why)]

    def close_all(self, why: str) -> list[Action]:
        """End all sessions."""
        return [action for one in list(self._connections.values()) for action in self._cut(one, why)]

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules and addresses of now do not allow: a connection cannot move."""
        actions: list[Action] = []
        if waits(self._admission):
            return actions
        for connection in list(self._connections.values()):
            again = renewed(self._admission, connection.way)
            session = connection.session
            if session.gateway != self._admission.addresses.wan:
                actions += self._cut(connection, "our address has changed")
            elif again is None:
                actions += self._cut(connection, "no longer allowed")
            else:
                connection.way = again
                session.rule = again.rule.name
                self._deadlines.file(connection, max(now, session.idle_since() + self._limit(connection)))
        return actions

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        for connection in list(self._connections.values()):
            if connection.stream in self._connections:
                yield connection, self._registry.accounts([connection.session])

    def streams(self) -> Set[int]:
        """All TCP connections that have a part in it."""
        return self._connections.keys()

    def adopt(self, connection: Connection, accounts: dict[str, Ip4], *, streams: Set[int]) -> list[Action]:
        """Go on with a connection of before a restart, if it is among the ``streams`` that survived."""
        if connection.stream not in streams or connection.stream in self._connections:
            return []
        session = connection.session
        self._registry.readmit(session, accounts[session.id])
        self._connections[connection.stream] = connection
        until = session.idle_since() + self._limit(connection)
        examined = connection.examined
        self._deadlines.file(connection, until if examined is None else examined + _ANSWER_WITHIN)
        return [_splice(connection)]

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return self._deadlines.next()

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        for connection in self._deadlines.due(now):
            session, limit = connection.session, self._limit(connection)
            until = session.idle_since() + limit
            if until > now:
                connection.examined = None
                self._deadlines.file(connection, until)
            elif session.state is State.ESTABLISHED and connection.examined is None:
                connection.examined = now
                self._deadlines.file(connection, now + _ANSWER_WITHIN)
                actions.append(Examine(connection.stream, limit))
            else:
                actions += self._cut(connection, "idle")
        return actions


def _splice(connection: Connection) -> Splice:
    way_, session = connection.way, connection.session
    server, port = way_.server
    return Splice(
        stream=connection.stream,
        source=way_.seen,
        destination=server,
        port=port,
        transparent=not way_.hidden,
        toward=session.inbound,
        back=session.outbound,
    )
