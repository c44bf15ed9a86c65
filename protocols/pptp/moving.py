"""Control connections when the public address changes.

TCP is bound to its address: a connection that stands ends with it (HOWTO §3.7), or with
``on_change = "keep"`` waits for the same address to come back. One that nobody has answered yet is made
again from the new address, as Linux does with ip_dynaddr: the client that has dialled notices nothing.
"""

from collections.abc import Callable

from protocols.actions import Connect, Side
from protocols.admission import Admission
from protocols.drops import Reason
from protocols.policy import OnChange
from protocols.pptp.calls import Calls
from protocols.pptp.codes import PORT
from protocols.pptp.connection import Connection, Phase
from protocols.pptp.leg import Leg

#: Why connections end, for people.
CHANGED = "the public address has changed"
_GONE = "the public address is gone"


class Moving:
    """Decides what becomes of each connection, and makes the second leg anew."""

    def __init__(self, admission: Admission, calls: Calls, new_stream: Callable[[], int]) -> None:
        self._admission = admission
        self._calls = calls
        self._new_stream = new_stream

    def begin(self) -> None:
        """Rules or addresses are other ones now; each connection is about to be asked for."""
        self._calls.park(self._admission.addresses.wan is None)

    def objection(self, connection: Connection) -> str | None:
        """Why a connection cannot go on; None when it can, or waits for an address."""
        leg, session, wan = connection.dialled, connection.session, self._admission.addresses.wan
        route = self._admission.at(session.gateway).admit(leg.side, leg.local, leg.remote)
        if isinstance(route, Reason):
            return f"no longer allowed: {route.value}"
        if route.destination != connection.onward.remote:
            return "the rules have changed"
        session.rule = connection.rule = route.rule
        if session.gateway == wan:
            self._calls.resume(connection)
        elif wan is None and self._admission.policy.on_change is OnChange.KEEP:
            self._calls.suspend(connection)
        elif connection.phase is not Phase.CONNECTING or leg.local == session.gateway:
            return _GONE if wan is None else CHANGED
        return None

    def is_lost(self, leg: Leg) -> bool:
        """Whether a leg's own address is not ours any more, so that nothing can be said on it."""
        return leg.side is Side.WAN and bool(leg.local) and leg.local not in self._admission.addresses.own

    def waits(self, connection: Connection) -> bool:
        """Whether a connection is being made from an address that is not the public one any more."""
        wan = self._admission.addresses.wan
        elsewhere = wan is not None and connection.session.gateway != wan
        return elsewhere and connection.phase is Phase.CONNECTING

    def dial_again(self, connection: Connection, *, now: float) -> Connect | None:
        """Give a connection another second leg; None when the rules do not allow it from this address."""
        leg, wan = connection.dialled, self._admission.addresses.wan
        route = self._admission.admit(leg.side, leg.local, leg.remote)
        if isinstance(route, Reason) or route.destination != connection.onward.remote or wan is None:
            return None
        onward = Leg(self._new_stream(), route.side, route.destination, route.source, now)
        leg.other, onward.other = onward, leg
        connection.onward, connection.session.gateway = onward, wan
        return onward.dial(PORT, transparent=route.transparent)
