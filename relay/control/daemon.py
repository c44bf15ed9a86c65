"""What the control API needs of the daemon, and nothing more.

``relay.app`` implements Daemon; the tests implement it in memory. Every time is the loop's clock, in
seconds, as everywhere in the daemon: the API alone turns it into dates.
"""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, Protocol, TypedDict

from protocols.addr import Ip4
from protocols.drops import Reason
from protocols.esp.told import Told
from protocols.sessions import Session
from relay.control.feed import Subscription


class RuleStatus(TypedDict):
    """One rule of the configuration, as it works out."""

    name: str
    role: str
    protocols: list[str]
    #: Sessions that live by the rule now.
    sessions: int
    #: What came for this rule and was refused, since the start.
    refused: int


class SocketStatus(TypedDict):
    """One of our sockets: packets that the kernel dropped there never reached the gateway."""

    name: str
    #: Packets read, since the start.
    packets: int
    #: Packets lost because we read too slowly (SO_RXQ_OVFL or /proc/net/raw).
    kernel_drops: int
    #: Octets, as the kernel granted them.
    receive_buffer: int
    interface: NotRequired[str]
    #: Packets the kernel refused to send.
    send_failures: NotRequired[int]


class Counted(TypedDict):
    """Data packets of one direction, since the start."""

    packets: int
    octets: int


class NameStatus(TypedDict):
    """A DNS name that follows the public address."""

    name: str
    host: str
    provider: str
    #: "waiting", "pending", "current" or "failing".
    state: str
    #: What the zone's servers said last.
    addresses: list[str]
    #: What is wrong; empty when nothing is.
    problem: str
    #: Updates that the provider has taken, since the start.
    updates: int


@dataclass(frozen=True, slots=True)
class Link:
    """The arguments of pppd's ip-up and ip-down, in their order; what is not known is empty."""

    interface: str
    tty: str = ""
    speed: str = ""
    local: str = ""
    remote: str = ""
    ipparam: str = ""

    def arguments(self) -> tuple[str, ...]:
        """As pppd gives them."""
        return (self.interface, self.tty, self.speed, self.local, self.remote, self.ipparam)


class FastPathStatus(TypedDict):
    """The kernel fast path; ``reason`` says why it is not active, or not for all interfaces.

    ``drivers``: by interface whose driver is to carry flows itself, why it does not; empty where it does.
    """

    mode: str
    active: bool
    reason: str
    #: Flows that the kernel carries now, and that it had no room for since the start.
    flows: int
    refused: int
    drivers: dict[str, str]


class StrangersStatus(TypedDict):
    """Whether the kernel keeps strangers' data packets from our sockets; ``reason`` says why not.

    What it has kept out is among the drops.
    """

    kept_out: bool
    reason: str


@dataclass(frozen=True, slots=True)
class WanStatus:
    """The public side; ``address`` is dotted-quad text, or None while there is none."""

    interface: str
    address: str | None
    #: When the address was got (loop's clock).
    since: float
    #: How often it changed since the start.
    changes: int = 0
    #: Seconds from the kernel's word of the last change until it was used everywhere, and until the first
    #: packet was forwarded; None before that.
    served: float | None = None
    first_packet: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What ``vpnmasq status`` shows."""

    #: "starting", "ready", "waiting" (for an address that was lost) or "draining".
    state: str
    #: The configuration's ``name``.
    instance: str
    version: str
    #: Loop's clock.
    started_at: float
    wan: WanStatus
    rules: Sequence[RuleStatus] = ()
    #: Sessions per protocol.
    sessions: Mapping[str, int] = field(default_factory=dict)
    fastpath: FastPathStatus = field(
        default_factory=lambda: FastPathStatus(
            mode="off", active=False, reason="not built in", flows=0, refused=0, drivers={}
        )
    )
    strangers: StrangersStatus = field(
        default_factory=lambda: StrangersStatus(kept_out=False, reason="not built in")
    )
    #: Drops since the start; reasons without a drop may be left out.
    drops: Mapping[Reason, int] = field(default_factory=dict)
    #: Those among them that were the kernel's doing.
    kernel_drops: Mapping[Reason, int] = field(default_factory=dict)
    sockets: Sequence[SocketStatus] = ()
    #: Keys "outbound" and "inbound": data carried since the start, in ended sessions too.
    traffic: Mapping[str, Counted] = field(default_factory=dict)
    #: What of it the kernel has carried.
    kernel_traffic: Mapping[str, Counted] = field(default_factory=dict)
    ddns: Sequence[NameStatus] = ()
    #: What an operator should look at, in whole sentences.
    attention: Sequence[str] = ()
    #: What is waited for while the gateway cannot serve; empty when it is not the public side.
    waiting: str = ""


class ReloadRefused(Exception):  # noqa: N818  an answer, not a failure
    """The new configuration is wrong; nothing was changed. ``problems`` are lines for people."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = list(problems)


class Daemon(Protocol):
    """The running gateway, as the control API sees it. Everything is called on the loop's thread."""

    def status(self) -> Status:
        """Return the state of everything now; cheap enough to be asked every second."""

    def sessions(self) -> Iterable[Session]:
        """Return every session of the registry, oldest first."""

    def clock(self) -> float:
        """Return the loop's clock, which every time here is counted in."""

    def kill(self, ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """End these sessions; return (the killed, the unknown) IDs."""

    def pairs(self) -> Sequence[Told]:
        """Return the pairs of ESP that we were told of."""

    def tell(self, peer: Ip4, spi: int, host: Ip4, lifetime: float) -> Reason | None:
        """Take a pair as told for so many seconds; return why not, if so."""

    def untell(self, peer: Ip4, spi: int) -> bool:
        """Believe a told pair no longer; return whether there was one."""

    async def reload(self) -> list[str]:
        """Read the configuration again and apply what differs; return the changed keys.

        Raises:
            ReloadRefused: the configuration is wrong; nothing was changed.
        """

    async def link_changed(self, event: str, link: Link) -> bool:
        """Act on a hook's word that a link is "up" or "down"; return whether the gateway has followed it."""

    def takeover_refusal(self, asked: dict[str, Any]) -> str:
        """Return why a process that introduces itself like this may not take over; empty when it may."""

    async def hand_over(self, connection: socket.socket) -> None:
        """Hand over to the process at the other end, and leave; go on as before if that fails."""

    def frozen(self) -> bool:
        """Whether nothing may be changed, because another process is about to take over."""

    def ready(self) -> bool:
        """Whether the gateway serves now."""

    def subscribe(self) -> Subscription:
        """Return a new subscription to the daemon's Feed, for the caller to close."""
