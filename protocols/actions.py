"""What the core asks of the shell.

Control-lane calls return ``list[Action]``, to be carried out in order. Data-lane calls return a
Verdict: where to send the buffer they were given (already rewritten), or why it was dropped.
"""

from dataclasses import dataclass
from enum import Enum

from protocols.addr import Ip4
from protocols.drops import Reason
from protocols.sessions import Session, Traffic


class Side(Enum):
    """Which of the gateway's sides something is on, decided by the interface alone."""

    LAN = "lan"
    WAN = "wan"


#: Where a packet is to be sent; the shell finds the route.
Destination = Ip4


@dataclass(frozen=True, slots=True)
class Drop:
    """Something was refused. Counted by the core; ``detail`` is for a rate-limited log line."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a whole IPv4 packet. The shell's raw socket fills the header checksum (raw(7))."""

    packet: bytes
    destination: Destination


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a TCP connection and report it as ``stream``.

    ``source`` is the address to dial from: ours, or (``transparent``) somebody else's.
    """

    stream: int
    side: Side
    source: Ip4
    destination: Ip4
    port: int
    transparent: bool


@dataclass(frozen=True, slots=True)
class StreamWrite:
    """Write bytes to a stream."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamClose:
    """Close a stream: after what was written (FIN), or at once and rudely (``abort``: RST)."""

    stream: int
    abort: bool = False


@dataclass(frozen=True, slots=True)
class Splice:
    """Dial a server for a connection that was accepted as ``stream``, and carry bytes between the two.

    ``source`` is the address to dial from: 0 for ours that faces the server, or (``transparent``) somebody
    else's. What goes each way is counted there by the shell: the core sees none of it.
    """

    stream: int
    source: Ip4
    destination: Ip4
    port: int
    transparent: bool
    toward: Traffic
    back: Traffic


@dataclass(frozen=True, slots=True)
class Examine:
    """Say ForwardAlive if both ends of a spliced connection have been heard of lately."""

    stream: int
    #: Seconds that count as lately.
    within: float


@dataclass(frozen=True, slots=True)
class Cut:
    """End an accepted or spliced connection at once, with RST to both ends."""

    stream: int


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session entered the registry."""

    session: Session


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """A session's state changed."""

    session: Session


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """A session left the registry; ``why`` is for people."""

    session: Session
    why: str


SessionEvent = SessionOpened | SessionChanged | SessionClosed
Action = Drop | Send | Connect | StreamWrite | StreamClose | Splice | Examine | Cut | SessionEvent
Verdict = Destination | Drop
