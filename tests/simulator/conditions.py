"""How a run goes, and what came of it."""

from dataclasses import dataclass, field


@dataclass
class Conditions:
    """How one run goes."""

    clients: int = 2
    seconds: float = 60.0
    #: All clients begin within this time.
    starts: float = 2.0
    #: What a tunnel carries; each draws one of them.
    traffic: tuple[str, ...] = ("interactive",)
    #: The share of tunnels that are used interactively beside that.
    mixed: float = 0.0
    #: Seconds of thought between an answer and the next request, at least and at most.
    think: tuple[float, float] = (0.2, 3.0)
    #: Mean seconds between rekeys; 0 = never.
    rekey: float = 0.0
    #: Pairs that a client has at the same time, at most.
    children: int = 1
    loss: float = 0.0
    #: Of the round trip, at least and at most; and the jitter as a share of it, one of these.
    trip: tuple[float, float] = (0.010, 0.250)
    jitter: tuple[float, ...] = (0.01, 0.05, 0.2)
    #: The share of clients whose IKE passes the gateway unseen; whether tunnels are there from the beginning.
    unseen: float = 0.0
    established: bool = False
    #: The peer's broadcasts to all tunnels at once, a second.
    broadcasts: float = 0.0
    #: Clients that only listen, as a share of all.
    listeners: float = 0.0
    #: Mean seconds until a client is switched off without a word and dials again; 0 = never.
    reboots: float = 0.0
    #: The share of clients that leave for good on the way; the peer goes on for a while.
    leavers: float = 0.0
    #: Now and then a client is idle for so long on average; 0 = never.
    idle: float = 0.0
    #: How long the gateway has been there when the first client begins.
    age: float = 86400.0
    #: Before this time everything passes where the gateway does not see it.
    late: float = 0.0
    #: When the gateway is started anew, how long it is away, and whether it has kept its state.
    restart: float = 0.0
    away: float = 3.0
    keeps: bool = True
    #: The gateway's idle lifetime of sessions, and how long it remembers them.
    lifetime: float = 1800.0
    memory: float = 86400.0


@dataclass
class Tally:
    """What came of it."""

    #: Inbound packets that reached the gateway; those their owner got; those only others got.
    inbound: int = 0
    delivered: int = 0
    misdelivered: int = 0
    #: Those of a client of which the gateway has not seen anything, or not for as long as it remembers.
    unknowable: int = 0
    copies: int = 0
    outbound: int = 0
    blocked: int = 0
    #: Pairs that had inbound packets, those confirmed, and those whose confirmation was ever wrong.
    pairs: int = 0
    confirmed: int = 0
    wrong: int = 0
    #: Seconds from a pair's first inbound packet to its confirmation.
    confirmation: list[float] = field(default_factory=list)
    #: Seconds from a client's first packet to its first answer.
    two_way: list[float] = field(default_factory=list)
    up: int = 0
    clients: int = 0

    def add(self, other: "Tally") -> None:
        """Count another run too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
