"""One VPN session as people see it.

A session is one tunnel: its control channel and its data flows. For PPTP it is a control connection with
its first call; a further call on the same connection is a session of its own.
"""

from dataclasses import dataclass, field
from enum import Enum

from protocols.addr import Ip4


class Role(Enum):
    """Which kind of rule a session lives by."""

    MASQUERADE = "masquerade"
    EXPOSE = "expose"
    FORWARD = "forward"


class State(Enum):
    """Life of a PPTP session.

    CONNECTING   the initiator's TCP stands, the other side's does not yet
    CONTROL      both control connections stand; no call is up
    ESTABLISHED  a call was answered; data flows
    CLOSING      somebody asked for the end; data no longer flows
    """

    CONNECTING = "connecting"
    CONTROL = "control"
    ESTABLISHED = "established"
    CLOSING = "closing"


@dataclass(slots=True)
class Traffic:
    """Data packets of one direction. A flow is one, and counts where they pass."""

    packets: int = 0
    octets: int = 0
    last_seen: float = 0.0

    def add(self, packets: int, octets: int, last_seen: float, _sequence: int = 0) -> None:
        """Count packets that the kernel has carried."""
        self.packets += packets
        self.octets += octets
        if last_seen > self.last_seen:
            self.last_seen = last_seen


#: Of all sessions that are no calls; never changed.
NO_CALL_IDS: dict[str, int] = {}


@dataclass(slots=True, eq=False)
class Session:
    """A row of ``vpnmasq sessions``. Times are the loop's clock, in seconds."""

    id: str
    protocol: str
    role: Role
    rule: str
    state: State
    #: The inside host: the client, or for an exposed server the server.
    inside: Ip4
    gateway: Ip4
    peer: Ip4
    opened: float
    last_seen: float
    #: Call IDs as each party knows them; absent until known.
    call_ids: dict[str, int] = field(default_factory=lambda: NO_CALL_IDS)
    outbound: Traffic = field(default_factory=Traffic)
    inbound: Traffic = field(default_factory=Traffic)
    #: How many of its flows the kernel carries.
    offloaded: int = 0

    def idle_since(self) -> float:
        """When something was last heard on any of the session's channels."""
        return max(self.last_seen, self.outbound.last_seen, self.inbound.last_seen)
