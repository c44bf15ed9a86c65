"""State of one relayed control connection: its two legs, its calls, and when to look at it next.

    CONNECTING --both TCP connections stand--> STARTING --Start-Control answered with 1--> UP
    any --Stop-Control, FIN, refusal, error--> CLOSING --closing time--> (gone)
    UP --a restart of ours that its TCP does not survive--> ORPHANED --orphan time--> (gone)

Operations and caveats, by phase:

    CONNECTING  messages of the first leg are checked and held; the second leg must not be written to, and
                Stop-Control is answered by us.
    STARTING    only Start-Control, Stop-Control and Echo may pass (RFC 2637 §3.1.2).
    UP          everything may pass; silence is answered with an Echo-Request (§3.1.4).
    CLOSING     no data flows and no call begins; messages still pass, so that both ends can finish politely.
    ORPHANED    data of established calls flows; there is nobody to talk to.
"""

from dataclasses import dataclass, field
from enum import Enum

from protocols.policy import PptpTimers
from protocols.pptp.call import Call
from protocols.pptp.leg import Leg
from protocols.sessions import Session


class Phase(Enum):
    """Life of a control connection; see the module's text."""

    CONNECTING = "connecting"
    STARTING = "starting"
    UP = "up"
    CLOSING = "closing"
    ORPHANED = "orphaned"


@dataclass(slots=True, eq=False)
class Connection:
    """A control connection between two hosts that both talk to us."""

    #: The leg that was dialled to us, and the one we dialled.
    dialled: Leg
    onward: Leg
    session: Session
    rule: str
    since: float
    phase: Phase = Phase.CONNECTING
    #: Whether the Start-Control-Connection-Request has come.
    asked: bool = False
    #: Whether there has been a call.
    called: bool = False
    calls: list[Call] = field(default_factory=list)
    #: Messages for the second leg that arrived before it stood.
    held: list[bytes] = field(default_factory=list)

    def legs(self) -> tuple[Leg, Leg]:
        """Both legs."""
        return (self.dialled, self.onward)

    def deadline(self, timers: PptpTimers) -> float:
        """When the connection is next to be looked at."""
        if self.phase is Phase.CLOSING:
            return self.since + timers.closing
        if self.phase is Phase.ORPHANED:
            return self.since + timers.orphan
        if self.phase is not Phase.UP:
            when = self.since + timers.handshake
        else:
            when = min(leg.deadline(timers) for leg in self.legs())
        for leg in self.legs():
            if leg.partial_since is not None:
                when = min(when, leg.partial_since + timers.message)
        for call in self.calls:
            until = call.deadline(timers)
            if until is not None and until < when:
                when = until
        return when
