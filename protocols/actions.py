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

    ``source`` is the address to dial from: ours, or (``transparent``) somebody else's. ``caller`` is the
    stream that it is dialled for.
    """

    stream: int
    side: Side
    source: Ip4
    destination: Ip4
    port: int
    transparent: bool
    caller: int


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


class Kind(Enum):
    """How packets of a flow are told from others, and what is rewritten in them besides their addresses.

    GRE   by the Call ID, which is rewritten (RFC 2637 §4.1)
    ESP   by the SPI, which is not
    NATT  by the ports, which are rewritten; only ESP in UDP, and not what else comes that way (RFC 3948)
    UDP   the same for all datagrams
    IP    by the protocol alone
    """

    GRE = "gre"
    ESP = "esp"
    NATT = "natt"
    UDP = "udp"
    IP = "ip"


@dataclass(frozen=True, slots=True)
class Shortcut:
    """One direction of a data flow as the kernel can carry it without us.

    ``label``: Call ID, SPI, both ports in one integer, or 0; what it is on arrival and on departure.
    """

    kind: Kind
    protocol: int
    side: Side
    #: What its packets arrive with …
    sender: Ip4
    addressed: Ip4
    label: int
    #: … and leave with.
    source: Ip4
    target: Ip4
    new_label: int


@dataclass(frozen=True, slots=True)
class Offload:
    """Let the kernel carry a flow from now on; ``flow`` is its number, and never used again."""

    flow: int
    shortcut: Shortcut


@dataclass(frozen=True, slots=True)
class Unload:
    """The kernel must not carry the flow any more; its packets come to us again."""

    flow: int


@dataclass(frozen=True, slots=True)
class Heed:
    """Data packets of an IP protocol from this outside address may be somebody's from now on."""

    protocol: int
    address: Ip4


@dataclass(frozen=True, slots=True)
class Ignore:
    """They are nobody's any more: the shell may keep them out, as those of everybody not heeded."""

    protocol: int
    address: Ip4


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
StreamAction = Connect | StreamWrite | StreamClose | Splice | Examine | Cut
Action = Drop | Send | StreamAction | Offload | Unload | Heed | Ignore | SessionEvent
Verdict = Destination | Drop
