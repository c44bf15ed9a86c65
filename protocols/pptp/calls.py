"""Calls of a control connection: whose they are, and the translation of their Call IDs.

A Call ID is translated wherever the address of its owner is. A host that sees its correspondent's real
address sees the real Call ID as well; a host that sees ours instead is shown an ID from
``CallIds``. So a masqueraded client's and an exposed server's IDs change, and those of hosts outside
stay as they are.

Which field that concerns follows from RFC 2637 §2: the sender of a message is known from its type (the
PNS sends 7, 10, 12, 15, the PAC 8, 9, 11, 13, 14), and the roles hold for the call, not for the TCP
connection.
"""

from collections.abc import Callable
from dataclasses import replace

from protocols.actions import Action, Drop, SessionChanged, SessionClosed, SessionOpened, StreamWrite
from protocols.allocator import CallIds
from protocols.drops import Reason
from protocols.gre.flows import FlowTable
from protocols.pptp import messages
from protocols.pptp.call import Call, CallState, End
from protocols.pptp.codes import DisconnectResult, GeneralError, IncomingCallResult, OutgoingCallResult
from protocols.pptp.connection import Connection, Phase
from protocols.pptp.ends import Ends
from protocols.pptp.leg import Leg
from protocols.registry import SessionRegistry
from protocols.sessions import Role, Session, State, Traffic

CallMessage = (
    messages.OutgoingCallRequest
    | messages.OutgoingCallReply
    | messages.IncomingCallRequest
    | messages.IncomingCallReply
    | messages.IncomingCallConnected
    | messages.CallClearRequest
    | messages.CallDisconnectNotify
    | messages.WanErrorNotify
    | messages.SetLinkInfo
)


class Calls:
    """The call messages of all control connections; owns the calls, their IDs and their data flows."""

    def __init__(self, registry: SessionRegistry, flows: FlowTable, ids: CallIds) -> None:
        self._registry = registry
        self._ends = Ends(registry, flows, ids)

    def park(self, parked: bool) -> None:
        """Whether calls that begin now have to wait for a public address; see ``suspend`` for the others."""
        self._ends.parked = parked

    def suspend(self, connection: Connection) -> None:
        """Let no data of these calls pass until ``resume``; the calls stand."""
        for call in connection.calls:
            self._ends.park(call)

    def resume(self, connection: Connection) -> None:
        """Let their data pass again."""
        for call in connection.calls:
            self._ends.resume(call)

    def relay(self, connection: Connection, leg: Leg, message: CallMessage, *, now: float) -> list[Action]:
        """Act on a call message from ``leg`` and pass it on, translated."""
        match message:
            case messages.OutgoingCallRequest():
                return self._outgoing_request(connection, leg, message, now)
            case messages.OutgoingCallReply():
                return self._outgoing_reply(connection, leg, message, now)
            case messages.IncomingCallRequest():
                return self._incoming_request(connection, leg, message, now)
            case messages.IncomingCallReply():
                return self._incoming_reply(connection, leg, message, now)
            case messages.IncomingCallConnected():
                return self._incoming_connected(connection, leg, message)
            case messages.CallClearRequest():
                return self._clear(connection, leg, message, now)
            case messages.CallDisconnectNotify():
                return self._disconnected(connection, leg, message, now)
            case _:  # WAN-Error-Notify, Set-Link-Info
                return self._about_link(connection, leg, message)

    # -- the nine messages, RFC 2637 §2.7-2.15 ---------------------------------------------------------

    def _outgoing_request(
        self, connection: Connection, pns: Leg, message: messages.OutgoingCallRequest, now: float
    ) -> list[Action]:
        call, actions = self._requested(connection, pns, message.call_id, is_pns=True, now=now)
        if call is None:
            return [*actions, _no_outgoing(pns, message.call_id)]
        assert call.pns.shown_id is not None
        return [*actions, _write(pns.other, replace(message, call_id=call.pns.shown_id))]

    def _outgoing_reply(
        self, connection: Connection, pac: Leg, message: messages.OutgoingCallReply, now: float
    ) -> list[Action]:
        call = _find(connection, lambda c: c.pac.leg is pac and c.pns.shown_id == message.peer_call_id)
        if call is None or call.pns.own_id is None or call.state is CallState.CLEARING:
            return [_unknown(message.peer_call_id)]
        if message.result != OutgoingCallResult.CONNECTED:
            refused = _write(pac.other, replace(message, peer_call_id=call.pns.own_id))
            return [refused, *self._refused(connection, call, now)]
        if not self._ends.show(call, call.pac, message.call_id, now=now):
            return self._no_id(connection, call, now)
        assert call.pac.shown_id is not None
        reply = replace(message, call_id=call.pac.shown_id, peer_call_id=call.pns.own_id)
        return [_write(pac.other, reply), *self._established(connection, call)]

    def _incoming_request(
        self, connection: Connection, pac: Leg, message: messages.IncomingCallRequest, now: float
    ) -> list[Action]:
        call, actions = self._requested(connection, pac, message.call_id, is_pns=False, now=now)
        if call is None:
            return [*actions, _no_incoming(pac, message.call_id)]
        assert call.pac.shown_id is not None
        return [*actions, _write(pac.other, replace(message, call_id=call.pac.shown_id))]

    def _incoming_reply(
        self, connection: Connection, pns: Leg, message: messages.IncomingCallReply, now: float
    ) -> list[Action]:
        call = _find(connection, lambda c: c.pns.leg is pns and c.pac.shown_id == message.peer_call_id)
        if call is None or call.pac.own_id is None or call.state is CallState.CLEARING:
            return [_unknown(message.peer_call_id)]
        if message.result != IncomingCallResult.CONNECT:
            refused = _write(pns.other, replace(message, peer_call_id=call.pac.own_id))
            return [refused, *self._refused(connection, call, now)]
        if not self._ends.show(call, call.pns, message.call_id, now=now):
            return self._no_id(connection, call, now)
        assert call.pns.shown_id is not None
        return [_write(pns.other, replace(message, call_id=call.pns.shown_id, peer_call_id=call.pac.own_id))]

    def _incoming_connected(
        self, connection: Connection, pac: Leg, message: messages.IncomingCallConnected
    ) -> list[Action]:
        call = _find(connection, lambda c: c.pac.leg is pac and c.pns.shown_id == message.peer_call_id)
        if call is None or call.pns.own_id is None or call.state is CallState.CLEARING:
            return [_unknown(message.peer_call_id)]
        connected = _write(pac.other, replace(message, peer_call_id=call.pns.own_id))
        return [connected, *self._established(connection, call)]

    def _clear(
        self, connection: Connection, pns: Leg, message: messages.CallClearRequest, now: float
    ) -> list[Action]:
        call = _find(connection, lambda c: c.pns.leg is pns and c.pns.own_id == message.call_id)
        if call is None or call.pns.shown_id is None:
            return [_unknown(message.call_id)]
        self.silence(call, now=now)
        return [_write(pns.other, replace(message, call_id=call.pns.shown_id)), *self._closing(call)]

    def _disconnected(
        self, connection: Connection, pac: Leg, message: messages.CallDisconnectNotify, now: float
    ) -> list[Action]:
        call = _find(connection, lambda c: c.pac.leg is pac and c.pac.own_id == message.call_id)
        if call is None or call.pac.shown_id is None:
            # Some PACs name the PNS's Call ID here. With one call being cleared there is no doubt which.
            clearing = [c for c in connection.calls if c.pac.leg is pac and c.state is CallState.CLEARING]
            if len(clearing) != 1:
                return [_unknown(message.call_id)]
            return [_write(pac.other, message), *self.end(connection, clearing[0], "disconnected", now=now)]
        notify = _write(pac.other, replace(message, call_id=call.pac.shown_id))
        return [notify, *self.end(connection, call, "disconnected", now=now)]

    def _about_link(
        self, connection: Connection, leg: Leg, message: messages.WanErrorNotify | messages.SetLinkInfo
    ) -> list[Action]:
        from_pac = isinstance(message, messages.WanErrorNotify)
        call = _find(
            connection,
            (lambda c: c.pac.leg is leg and c.pns.shown_id == message.peer_call_id)
            if from_pac
            else (lambda c: c.pns.leg is leg and c.pac.shown_id == message.peer_call_id),
        )
        real = None if call is None else (call.pns.own_id if from_pac else call.pac.own_id)
        if real is None:
            return [_unknown(message.peer_call_id)]
        return [_write(leg.other, replace(message, peer_call_id=real))]

    def adopt(self, call: Call) -> None:
        """Go on with a call of before a restart."""
        self._ends.adopt(call)

    def may_adopt(self, connection: Connection) -> bool:
        """Whether the IDs of a connection's calls are still theirs."""
        return all(map(self._ends.may_adopt, connection.calls))

    # -- what becomes of a call ------------------------------------------------------------------------

    def silence(self, call: Call, *, now: float) -> None:
        """Let the call's data pass no longer, though its IDs stay known."""
        self._ends.silence(call)
        call.state = CallState.CLEARING
        call.since = now

    def end(
        self, connection: Connection, call: Call, why: str, *, now: float, rest: bool = True
    ) -> list[Action]:
        """Forget a call; its IDs ``rest``, or are free at once (a call that never was)."""
        self.silence(call, now=now)
        self._ends.forget(call, rest=rest, now=now)
        connection.calls.remove(call)
        session = call.session
        if session is not connection.session:
            self._registry.remove(session)
            return [SessionClosed(session, why)]
        if connection.phase is not Phase.UP:
            return []  # it ends with the connection, and is remembered with its Call IDs
        session.call_ids = {}
        if session.state is State.CONTROL:
            return []
        session.state = State.CONTROL
        return [SessionChanged(session)]

    def _refused(self, connection: Connection, call: Call, now: float) -> list[Action]:
        # The ID of a call that never was is free at once; after a reply data may be under way with it.
        answered = call.pns.shown_id is not None and call.pac.shown_id is not None
        return self.end(connection, call, "refused", now=now, rest=answered)

    def hang_up(self, connection: Connection, call: Call, why: str, *, now: float) -> list[Action]:
        """End a call of our own accord, and tell both ends; one that waits for a reply gets that."""
        actions: list[Action] = []
        if call.pns.shown_id is not None:
            actions.append(_write(call.pac.leg, messages.CallClearRequest(call_id=call.pns.shown_id)))
        else:
            assert call.pac.own_id is not None
            actions.append(_no_incoming(call.pac.leg, call.pac.own_id))
        if call.pac.shown_id is None:
            assert call.pns.own_id is not None
            actions.append(_no_outgoing(call.pns.leg, call.pns.own_id))
        else:
            result = DisconnectResult.ADMIN_SHUTDOWN
            actions.append(_write(call.pns.leg, messages.CallDisconnectNotify(call.pac.shown_id, result)))
        return [*actions, *self.end(connection, call, why, now=now)]

    def _requested(
        self, connection: Connection, owner: Leg, call_id: int, *, is_pns: bool, now: float
    ) -> tuple[Call | None, list[Action]]:
        """The call that a request is about: a new one, or the same one if it is asked for again."""
        actions: list[Action] = []
        call = _find(
            connection,
            lambda c: (end := c.pns if is_pns else c.pac).leg is owner and end.own_id == call_id,
        )
        if call is not None and call.state is CallState.CLEARING:
            actions = self.end(connection, call, "called again", now=now)
            call = None
        if call is not None:
            return call, actions
        opened = self._open(connection, owner, call_id, is_pns=is_pns, now=now)
        if isinstance(opened, Reason):
            return None, [*actions, Drop(opened)]
        return opened[0], [*actions, *opened[1]]

    def _open(
        self, connection: Connection, owner: Leg, call_id: int, *, is_pns: bool, now: float
    ) -> tuple[Call, list[Action]] | Reason:
        """Begin a call that the owner of the Call ID has asked for."""
        if connection.phase is Phase.CLOSING:
            return Reason.PPTP_STATE
        further = any(c.session is connection.session for c in connection.calls)
        refusal = None
        if further:
            refusal = self._registry.refusal(connection.dialled.remote, now=now)
        elif connection.called:
            # Each call leaves an ID at rest: calling and clearing in haste would use them all up.
            refusal = self._registry.haste(now=now)
        if refusal is not None:
            return refusal
        connection.called = True
        session = self._further_session(connection, now) if further else connection.session
        mine, other = End(owner), End(owner.other)
        call = Call(mine, other, session, now) if is_pns else Call(other, mine, session, now)
        if not self._ends.show(call, mine, call_id, now=now):
            return Reason.NO_CALL_ID
        connection.calls.append(call)
        if not further:
            return call, []
        self._registry.add(session, connection.dialled.remote)
        return call, [SessionOpened(session)]

    def _further_session(self, connection: Connection, now: float) -> Session:
        return replace(
            connection.session,
            id=self._registry.new_id("p"),
            state=State.CONTROL,
            opened=now,
            last_seen=now,
            call_ids={},
            outbound=Traffic(),
            inbound=Traffic(),
        )

    def _established(self, connection: Connection, call: Call) -> list[Action]:
        if call.state is CallState.ESTABLISHED:
            return []
        session = call.session
        call.state = CallState.ESTABLISHED
        self._ends.establish(call)
        inside = call.pns if call.pns.leg is inside_leg(connection) else call.pac
        name = "client" if session.role is Role.MASQUERADE else "server"
        ids = {name: inside.own_id, "gateway": inside.shown_id, "peer": call.other(inside).own_id}
        session.call_ids = {key: value for key, value in ids.items() if value is not None}
        session.state = State.ESTABLISHED
        return [SessionChanged(session)]

    def _closing(self, call: Call) -> list[Action]:
        session = call.session
        if session.state is State.CLOSING:
            return []
        session.state = State.CLOSING
        return [SessionChanged(session)]

    def _no_id(self, connection: Connection, call: Call, now: float) -> list[Action]:
        return [Drop(Reason.NO_CALL_ID), *self.hang_up(connection, call, "no free Call ID", now=now)]


def inside_leg(connection: Connection) -> Leg:
    """The leg of the host the session is named after: the client, or the exposed server."""
    masquerade = connection.session.role is Role.MASQUERADE
    return connection.dialled if masquerade else connection.onward


def _find(connection: Connection, fits: Callable[[Call], bool]) -> Call | None:
    return next((call for call in connection.calls if fits(call)), None)


def _write(leg: Leg, message: messages.Message) -> StreamWrite:
    return StreamWrite(leg.stream, message.to_bytes())


def _no_outgoing(pns: Leg, call_id: int) -> StreamWrite:
    """Our refusal of an outgoing call (RFC 2637 §2.8)."""
    result, error = OutgoingCallResult.GENERAL_ERROR, GeneralError.NO_RESOURCE
    return _write(pns, messages.OutgoingCallReply(peer_call_id=call_id, result=result, error=error))


def _no_incoming(pac: Leg, call_id: int) -> StreamWrite:
    """Our refusal of an incoming call (RFC 2637 §2.10)."""
    result, error = IncomingCallResult.GENERAL_ERROR, GeneralError.NO_RESOURCE
    return _write(pac, messages.IncomingCallReply(peer_call_id=call_id, result=result, error=error))


def _unknown(call_id: int) -> Drop:
    return Drop(Reason.PPTP_UNKNOWN_CALL, f"Call ID {call_id}")
