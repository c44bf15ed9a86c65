"""One call: whose it is, and the Call IDs its ends know it by."""

from dataclasses import dataclass
from enum import Enum

from protocols.gre.flows import Flow
from protocols.policy import PptpTimers
from protocols.pptp.leg import Leg
from protocols.sessions import Session


class CallState(Enum):
    """Life of a call.

    REQUESTED    one side asked; the way to it is open already (data may come before the reply)
    ESTABLISHED  the other side agreed; both flows are open
    CLEARING     the PNS asked for the end; no data flows; the PAC's Call-Disconnect-Notify is awaited
    """

    REQUESTED = "requested"
    ESTABLISHED = "established"
    CLEARING = "clearing"


@dataclass(slots=True, eq=False)
class End:
    """One of the two ends of a call: the PNS, or the PAC."""

    leg: Leg
    #: The Call ID that it chose, and the one that the other end is shown in its place; absent until known.
    own_id: int | None = None
    shown_id: int | None = None
    #: Data towards this end, and where it is kept while there is no public address.
    flow: Flow | None = None
    parked: Flow | None = None


@dataclass(slots=True, eq=False)
class Call:
    """One call between its two ends, whichever of them asked for it."""

    pns: End
    pac: End
    #: Its own, or the connection's if no other call has that.
    session: Session
    since: float
    state: CallState = CallState.REQUESTED

    def other(self, end: End) -> End:
        """The end across."""
        return self.pac if end is self.pns else self.pns

    def deadline(self, timers: PptpTimers) -> float | None:
        """When to give the call up, if it does not move on."""
        if self.state is CallState.REQUESTED:
            return self.since + timers.call_setup
        if self.state is CallState.CLEARING:
            return self.since + timers.closing
        return None
