"""What is known about a peer, the inside hosts that talk to it, and the SPIs seen between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from protocols.addr import Ip4
from protocols.bucket import TokenBucket, after_taking
from protocols.esp.evidence import ECHO, REPLY, Activity, Evidence
from protocols.esp.flows import Flow
from protocols.esp.trial import Trial
from protocols.few import Few
from protocols.ike.rules import Relation
from protocols.sessions import Session

#: Round trips measured, of which the shortest counts.
_ROUND_TRIPS = 16
#: Open SPIs that went silent and are remembered, of each peer.
_SHELVED = 256
_LONG_AGO = float("-inf")
#: Judgements on all open SPIs of a peer together, a second: they take milliseconds if these are many.
_JOINT_PER_SECOND = 50.0
JOINT_AT_ONCE = 300


class PairState(Enum):
    """How much is known of a tunnel's newest pair of SPIs.

    OUTSTANDING  the host sends; nothing that could be the answer has come
    AMBIGUOUS    an inbound SPI may be its or another host's: all of them get copies
    CONFIRMED    the inbound SPI is its
    """

    OUTSTANDING = "outstanding"
    AMBIGUOUS = "ambiguous"
    CONFIRMED = "confirmed"


@dataclass(slots=True, eq=False, kw_only=True)
class EspSession(Session):
    """One tunnel: an inside host and a peer, whatever SPIs it uses up. The traffic is all of them's."""

    pairing: PairState = PairState.OUTSTANDING
    #: SPIs of the newest pair; 0 = not known yet.
    spi_outbound: int = 0
    spi_inbound: int = 0
    #: While it is open who owns the inbound SPI: who may, likeliest first; how sure the first one is.
    asked: tuple[Ip4, ...] = ()
    confidence: float = 0.0

    @property
    def candidates(self) -> tuple[Ip4, ...]:
        """Who may own the inbound SPI, likeliest first."""
        return self.asked or (self.inside,)


@dataclass(slots=True, eq=False)
class Opening:
    """A pair of SPIs that a host has agreed on with the peer, as far as we have seen it.

    It begins with the host's IKE message that must contain its new SPI, or with the first packet of an
    unknown outbound SPI, whichever is seen first.
    """

    since: float
    #: Which IKE exchange it is from, to know its repetitions; None: found out by its packets only.
    exchange: tuple[int, ...] | None = None
    #: Whether its packets begin with the first: what was there before us owns no new inbound SPI.
    fresh: bool = True
    #: Whether its outbound SPI has been in use and is silent: no later one belongs to it.
    silent: bool = False
    outbound: Flow | None = None
    inbound: "Inbound | None" = None


@dataclass(slots=True, eq=False)
class Contact:
    """An inside host in its relation to one peer."""

    relation: Relation
    peer: "Peer"
    since: float
    session: EspSession | None = None
    #: Until when it may have agreed on pairs unseen: forever, while none of its IKE is seen, and never, if
    #: that was seen from its beginning, so that new SPIs announce themselves.
    missed: float = float("inf")
    #: When its last session ended.
    ended: float = _LONG_AGO
    ike_seen: float = _LONG_AGO
    openings: list[Opening] = field(default_factory=list)
    #: What it sends and owns, the newest last. They are few, and a dictionary of one is large.
    outbound: tuple[Flow, ...] = ()
    inbound: "tuple[Inbound, ...]" = ()
    #: When it sent, while that may be of use.
    acts: Activity | None = None
    #: Whether its flows wait for a public address.
    parked: bool = False
    #: Packets that the fast lane had carried when last looked at.
    sampled: int = 0
    sampled_at: float = 0.0
    #: An IKE request that is not answered yet: which, and when it was sent.
    asked: tuple[int, int] | None = None
    asked_at: float = 0.0

    @property
    def host(self) -> Ip4:
        """The inside host."""
        return self.relation.host

    @property
    def watched(self) -> bool:
        """Whether its IKE has been seen from the beginning."""
        return self.missed == _LONG_AGO

    @property
    def activity(self) -> Activity:
        """When it sent; from now on, if nobody has asked for it lately."""
        if self.acts is None:
            self.acts = Activity()
        return self.acts

    def rest(self) -> None:
        """Remember no more of when it sent than its flows do, while it is not a likely candidate."""
        if all(o.inbound is not None for o in self.openings):
            self.acts = None

    def esp_seen(self) -> float:
        """When ESP last passed, in either direction."""
        last = self.since if self.session is None else self.session.last_seen
        for flow in self.outbound:
            last = max(last, flow.last_seen)
        for inbound in self.inbound:
            last = max(last, inbound.last_seen)
        return last

    def last_inbound(self) -> float:
        """When it was last given a packet that is surely its own."""
        return max((inbound.last_seen for inbound in self.inbound), default=_LONG_AGO)

    def sending(self, spi: int) -> Flow | None:
        """The flow of an outbound SPI."""
        return next((flow for flow in self.outbound if flow.spi == spi), None)

    def awaiting(self, since: float) -> list[Opening]:
        """Its openings of before ``since`` that have no inbound SPI yet."""
        return [o for o in self.openings if o.inbound is None and o.fresh and o.since <= since]

    def sample(self, now: float) -> None:
        """Take note of what it sent by the fast lane."""
        carried, last = 0, _LONG_AGO
        for flow in self.outbound:
            carried += flow.packets
            last = max(last, flow.last_seen)
        if carried > self.sampled and last > self.activity.last:
            self.activity.sampled(carried - self.sampled, self.sampled_at, now, last)
        self.sampled, self.sampled_at = carried, now


#: For all SPIs about which there is no question; never changed.
NO_EVIDENCE: "dict[Contact, Evidence]" = {}
_NO_TIMES: list[float] = []
#: Of all peers that have none; never changed.
NONE_OPEN: "dict[int, Inbound]" = {}
_NONE_SHELVED: dict[int, tuple[float, int]] = {}
_NOBODY: dict[tuple[Ip4, int], float] = {}


@dataclass(slots=True, eq=False)
class Inbound:
    """An SPI that a peer sends to us with."""

    spi: int
    peer: "Peer"
    first_seen: float
    #: Whether its packets begin with the first (RFC 4303 §2.2).
    fresh: bool
    packets: int = 0
    octets: int = 0
    arrived: float = 0.0
    sequence: int = 0
    #: The confirmed owner, and how surely it is the owner.
    owner: Contact | None = None
    flow: Flow | None = None
    confidence: float = 0.0
    told: bool = False
    #: When that was found out.
    confirmed_at: float = 0.0
    #: While there is none: what speaks for each candidate; who owned the SPI before it was used anew.
    evidence: dict[Contact, Evidence] = field(default_factory=lambda: NO_EVIDENCE)
    #: As judged last: the candidates, likeliest first, and how likely the first one is the owner.
    ranking: Sequence[Contact] = ()
    likeliest: float = 0.0
    #: Hosts that might own it too, and are too many to be asked; what all hosts not asked weigh.
    left_out: int = 0
    beside: float = 0.0
    before: Contact | None = None
    #: Whether two hosts have it, so that both get everything for as long as it lives.
    shared: bool = False
    #: When each window of the test was last opened; how often.
    echo_at: list[float] = field(default_factory=lambda: _NO_TIMES)
    reply_at: list[float] = field(default_factory=lambda: _NO_TIMES)
    looks: int = 0
    #: When the packet before came, and how long after its own predecessor.
    arrived_before: float = _LONG_AGO
    gap: float = 0.0
    #: Packets since the last pause; the experiments, once there are any.
    unbroken: int = 0
    trial: Trial | None = None

    @property
    def last_seen(self) -> float:
        """When its last packet came."""
        return self.arrived if self.flow is None else max(self.arrived, self.flow.last_seen)

    @property
    def number(self) -> int:
        """The sequence number of its last packet."""
        return self.sequence if self.flow is None else self.flow.sequence

    @property
    def receivers(self) -> Sequence[Contact]:
        """Who gets copies, the likeliest first."""
        return list(self.evidence) if self.shared or not self.ranking else self.ranking

    def close(self) -> None:
        """Ask no longer whose it is: what was asked takes no room."""
        self.evidence, self.ranking = NO_EVIDENCE, ()
        self.echo_at = self.reply_at = _NO_TIMES
        self.arrived_before, self.gap = _LONG_AGO, 0.0

    def open(self, contacts: list[Contact]) -> None:
        """Begin to find out whose it is."""
        self.owner, self.flow = None, None
        self.evidence = {contact: Evidence() for contact in contacts}
        self.echo_at = [_LONG_AGO] * (len(ECHO) + 1)
        self.reply_at = [_LONG_AGO] * len(REPLY)
        self.looks = 0
        self.arrived_before, self.gap, self.trial = _LONG_AGO, 0.0, None
        self.ranking = contacts


@dataclass(slots=True, eq=False)
class Peer:
    """An outside host."""

    address: Ip4
    #: When all new SPIs that it may show in a second are left to it again (``after_taking``).
    spis_full: float = 0.0
    #: The same for judgements on all its open SPIs together.
    joint_full: float = 0.0
    copies: TokenBucket | None = None
    contacts: Few[Ip4, Contact] = field(default_factory=Few)
    inbound: Few[int, Inbound] = field(default_factory=Few)
    #: Those of ``inbound`` that have no confirmed owner.
    open: dict[int, Inbound] = field(default_factory=lambda: NONE_OPEN)
    round_trips: tuple[float, ...] = ()
    #: Until when hosts may have been here that we do not know of …
    blind: float = _LONG_AGO
    #: … unless the rules let nobody talk to it but an exposed server.
    reserved: bool = False
    #: Open SPIs that went silent: when they were first seen, and their last number.
    shelved: dict[int, tuple[float, int]] = field(default_factory=lambda: _NONE_SHELVED)
    #: ``serialize``: the pair whose first answer everybody waits for.
    pending: "Pending | None" = None
    squelched: dict[tuple[Ip4, int], float] = field(default_factory=lambda: _NOBODY)

    def shows(self, rate: float, *, now: float) -> bool:
        """Whether the peer may show one more new SPI, so many a second."""
        full = after_taking(self.spis_full, rate, rate, now=now)
        self.spis_full = self.spis_full if full is None else full
        return full is not None

    def judged_together(self, *, now: float) -> bool:
        """Whether there is time to judge with all its open SPIs; it is taken. One alone takes none."""
        if len(self.open) == 1:
            return True
        full = after_taking(self.joint_full, _JOINT_PER_SECOND, JOINT_AT_ONCE, now=now)
        self.joint_full = self.joint_full if full is None else full
        return full is not None

    def question(self, inbound: Inbound) -> None:
        """Nobody knows whose this SPI is."""
        if self.open is NONE_OPEN:
            self.open = {}
        self.open[inbound.spi] = inbound

    def settle(self, inbound: Inbound) -> None:
        """Somebody does, or it is none of the peer's any more."""
        if self.open.get(inbound.spi) is inbound:
            del self.open[inbound.spi]
            self.open = self.open or NONE_OPEN

    def squelch(self, host: Ip4, spi: int, until: float) -> None:
        """``serialize``: let a host's outbound SPI be silent until then."""
        if self.squelched is _NOBODY:
            self.squelched = {}
        self.squelched[host, spi] = until

    @property
    def round_trip(self) -> float | None:
        """The shortest of the last round trips; None before the first."""
        return min(self.round_trips, default=None)

    def shelve(self, inbound: Inbound) -> None:
        """Remember that an SPI without an owner was here: what is agreed on later did not bring it about."""
        if self.shelved is _NONE_SHELVED:
            self.shelved = {}
        self.shelved[inbound.spi] = inbound.first_seen, inbound.sequence
        if len(self.shelved) > _SHELVED:
            del self.shelved[next(iter(self.shelved))]

    def measured(self, seconds: float) -> None:
        """Take note of a round trip."""
        self.round_trips = (*self.round_trips[1 - _ROUND_TRIPS :], seconds)


@dataclass(slots=True, eq=False)
class Pending:
    """``serialize``: a host whose first packet has not been answered."""

    contact: Contact
    opening: Opening
    until: float
    #: Since when others wait for it, and how often it has sent since.
    blocking_since: float | None = None
    retries: int = 0
