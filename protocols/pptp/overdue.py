"""What time does to control connections: silence, calls and messages that are never finished."""

from protocols.actions import Action, StreamWrite
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.drops import Reason
from protocols.pptp import messages
from protocols.pptp.call import Call, CallState
from protocols.pptp.calls import Calls
from protocols.pptp.connection import Connection, Phase
from protocols.pptp.connections import Connections
from protocols.pptp.leg import Leg


class Overdue:
    """Looks at connections whose deadline has come."""

    def __init__(self, admission: Admission, connections: Connections, calls: Calls, random: Random) -> None:
        self._admission = admission
        self._connections = connections
        self._calls = calls
        self._random = random

    def look(self, connection: Connection, now: float) -> list[Action]:
        """Do what is due for one of them."""
        timers = self._admission.policy.pptp
        if connection.phase is Phase.CLOSING:
            if connection.since + timers.closing <= now:
                return self._connections.end(connection, "closing took too long", now)
        elif connection.phase is not Phase.UP and connection.since + timers.handshake <= now:
            return self._never_started(connection, now)
        for leg in connection.legs():
            if leg.partial_since is not None and leg.partial_since + timers.message <= now:
                return self._silent(connection, leg, "a message was never finished", now)
        actions = self._overdue_calls(connection, now)
        if connection.phase is Phase.UP:
            for leg in connection.legs():
                if leg.probe is not None and leg.probed_at + timers.echo_timeout <= now:
                    return [*actions, *self._silent(connection, leg, "no answer to Echo", now)]
                if leg.probe is None and leg.heard + timers.echo_after <= now:
                    leg.probe = self._random(1 << 32)
                    leg.probed_at = now
                    probe = messages.EchoRequest(identifier=leg.probe)
                    actions.append(StreamWrite(leg.stream, probe.to_bytes()))
        return actions

    def _never_started(self, connection: Connection, now: float) -> list[Action]:
        if connection.phase is Phase.CONNECTING and connection.asked:
            return self._connections.unreachable(connection, "no answer", now)
        late = connection.onward if connection.asked else connection.dialled
        return self._silent(connection, late, "no Start-Control exchange in time", now)

    def _silent(self, connection: Connection, leg: Leg, detail: str, now: float) -> list[Action]:
        return self._connections.fail(connection, leg, Reason.PPTP_SILENT, detail, now)

    def _overdue_calls(self, connection: Connection, now: float) -> list[Action]:
        actions: list[Action] = []
        late: list[Call] = []
        for call in connection.calls:
            until = call.deadline(self._admission.policy.pptp)
            if until is not None and until <= now:
                late.append(call)
        for call in late:
            if call.state is CallState.CLEARING:
                actions += self._calls.end(connection, call, "cleared", now=now)
            else:
                actions += self._calls.hang_up(connection, call, "the call was never answered", now=now)
        return actions
