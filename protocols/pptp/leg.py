"""One TCP side of a relayed control connection."""

from dataclasses import dataclass, field

from protocols.actions import Connect, Side
from protocols.addr import Ip4
from protocols.policy import PptpTimers
from protocols.pptp.framing import Framer


@dataclass(slots=True, eq=False)
class Leg:
    """One TCP side of a control connection: the host at its far end, and who that host takes us for."""

    stream: int
    side: Side
    remote: Ip4
    local: Ip4
    heard: float
    framer: Framer = field(default_factory=Framer)
    #: Since when an unfinished message has been waiting for its rest.
    partial_since: float | None = None
    #: The identifier of our own Echo-Request that is not answered yet, and when it was sent.
    probe: int | None = None
    probed_at: float = 0.0
    other: "Leg" = field(init=False, repr=False)

    def shows(self, owner: "Leg") -> bool:
        """Whether the host of this leg sees ``owner``'s real address, and so may see its real Call IDs."""
        return self.local == owner.remote

    def dial(self, port: int, *, transparent: bool) -> Connect:
        """What makes this leg, which is the second one."""
        caller = self.other.stream
        return Connect(self.stream, self.side, self.local, self.remote, port, transparent, caller)

    def resynchronise(self, *, now: float) -> None:
        """Go on though what the host has said lately may be lost: the start of a message, an answer."""
        self.framer.resynchronise()
        self.partial_since = self.probe = None
        self.heard = now

    def deadline(self, timers: PptpTimers) -> float:
        """When this leg is next to be looked at."""
        if self.probe is not None:
            when = self.probed_at + timers.echo_timeout
        else:
            when = self.heard + timers.echo_after
        if self.partial_since is not None:
            when = min(when, self.partial_since + timers.message)
        return when
