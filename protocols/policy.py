"""What is allowed: the rules and limits, as the core sees them.

Built from the validated configuration by relay.config; immutable, so that a reload is the exchange of
one Policy for another. Default deny: what no rule here allows is refused.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from protocols.addr import Ip4, Network, contains

#: IP protocol numbers (RFC 793, RFC 768) of what has ports.
TCP: Final = 6
UDP: Final = 17


class Source(Enum):
    """Whom an exposed server sees as the client."""

    KEEP = "keep"
    GATEWAY = "gateway"


class Refuse(Enum):
    """How somebody whom no rule admits is refused."""

    RESET = "reset"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Clients inside may reach peers outside (HOWTO §2.6)."""

    name: str
    clients: tuple[Network, ...]
    servers: tuple[Network, ...]
    pptp: bool = True
    ipsec: bool = False
    #: Relay style: clients dial this address of ours; ``servers`` is then exactly one host.
    listen: Ip4 | None = None
    #: Whether the kernel may carry its flows.
    fastpath: bool = True

    def allows(self, client: int, server: int) -> bool:
        """Whether the rule lets the client reach the server."""
        return contains(self.clients, client) and contains(self.servers, server)


@dataclass(frozen=True, slots=True)
class Expose:
    """Peers outside may reach one server inside (HOWTO §2.7, §3.5)."""

    name: str
    server: Ip4
    allow: tuple[Network, ...]
    pptp: bool = True
    ipsec: bool = False
    source: Source = Source.KEEP
    #: Whether the kernel may carry its flows.
    fastpath: bool = True


#: More than any machine has ports for.
MOST_STREAMS: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of ours, or an IP protocol, goes to one server inside (HOWTO §3.5: ipportfw, ipfwd)."""

    name: str
    #: IP protocol number: 6, 17, or with port 0 any that has no ports we know of.
    protocol: int
    port: int
    server: Ip4
    server_port: int
    allow: tuple[Network, ...]
    source: Source = Source.KEEP
    #: Whether the kernel may carry its flows.
    fastpath: bool = True

    @property
    def listen(self) -> str:
        """As the configuration writes it."""
        kind = {TCP: "tcp", UDP: "udp"}.get(self.protocol)
        return f"ip/{self.protocol}" if kind is None else f"{kind}/{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every table, and times of every wait. Times are seconds."""

    sessions: int = 65536
    sessions_per_client: int = 64
    new_per_second: int = 200
    icmp_per_second: int = 100
    #: TCP connections that the shell can hold open, two for each PPTP control connection.
    streams: int = MOST_STREAMS


@dataclass(frozen=True, slots=True)
class PptpTimers:
    """Times of a PPTP control connection, in seconds."""

    #: RFC 2637 §3.1.4: silence after which an Echo-Request is sent …
    echo_after: float = 60.0
    #: … and how long its answer may take.
    echo_timeout: float = 60.0
    #: From the connection to a finished Start-Control-Connection exchange (MS-PTPT §3.1.2: 30 s).
    handshake: float = 30.0
    #: From the first byte of a control message to its last.
    message: float = 30.0
    #: From a call request to its answer: a real modem bank may dial for a minute.
    call_setup: float = 120.0
    #: From Stop-Control or FIN on one side to the end of both.
    closing: float = 10.0
    #: How long data of a call goes on whose control connection did not survive a restart of ours.
    orphan: float = 120.0
    #: How long the Call ID of an ended call rests before it may be given out again.
    ghost: float = 240.0


class OnChange(Enum):
    """What becomes of sessions when the public address changes (HOWTO §3.7).

    CLOSE  those that the change has broken end at once, and their ends are told; those that can move, do
    KEEP   all that can move do, and without an address they wait for one
    """

    CLOSE = "close"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class ForwardTimers:
    """How long forwards are remembered without traffic, in seconds."""

    #: A TCP connection of which nobody knows whether its ends are alive (RFC 5382 REQ-5: at least 2 h 4 min).
    tcp: float = 7440.0
    #: One that is not answered yet, or half closed (RFC 5382 REQ-5: at least 4 minutes).
    tcp_transitory: float = 240.0
    #: What a peer and the server exchange by UDP (RFC 4787 REQ-5: at least 2 minutes, 5 are better) …
    udp: float = 300.0
    #: … or by another IP protocol.
    ip: float = 600.0
    #: Ports of one peer whose datagrams take the short lane; with more, the oldest goes the long way again.
    most_endpoints: int = 64


class Pairing(Enum):
    """How inbound ESP is given to one of several hosts that talk to the same peer (HOWTO §6.2).

    FANOUT     nobody waits: copies to all who may own it, until it is known who does
    SERIALIZE  one after the other: who is not answered yet blocks the others
    REFUSE     one host per peer
    """

    FANOUT = "fanout"
    SERIALIZE = "serialize"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Ipsec:
    """How IPsec is carried: its times in seconds, and its bounds."""

    #: Idle lifetime of ESP and of IKE on port 500 (HOWTO §5.7: at least the rekey interval).
    lifetime: float = 1800.0
    #: Peers before which the source port 500 is translated like any other.
    change_port: tuple[Network, ...] = ()
    #: Idle lifetime of a mapping of UDP ports (RFC 4787 REQ-5: at least 2 minutes, 5 are better).
    mapping: float = 300.0
    #: UDP ports of ours to give out, first and last; 4500 is added as far as it is free.
    ports: tuple[int, int] = (61000, 65095)
    #: How long a port rests before another host may have it: a late packet must not find a new owner.
    port_rest: float = 120.0
    #: How long an IKE SA that only one side has spoken in is remembered.
    unanswered: float = 60.0
    #: How long, and how many, first messages wait that begin with another host's cookie.
    hold: float = 10.0
    most_held: int = 64
    #: How many first messages are kept until they are answered, to be sent again from another address.
    most_outstanding: int = 1024
    #: IKE SAs remembered for each inside host and peer, and of these such as the host has not answered.
    most_associations: int = 32
    most_unanswered: int = 8
    #: Ports of one peer, behind a NAT of its own, that one host talks to at the same time.
    most_endpoints: int = 16
    pairing: Pairing = Pairing.FANOUT
    #: Copies of one inbound ESP packet, while it is open whose it is …
    most_candidates: int = 32
    #: … and of all such packets of a peer in a second, the first of each not counted.
    copies_per_second: float = 20000.0
    #: How likely a pair may be confirmed wrongly, at most.
    error: float = 1e-6
    #: New SPIs that a peer may show in a second, and unconfirmed and confirmed ones it may have.
    spis_per_second: float = 200.0
    most_spis: int = 1024
    #: SPIs that an inside host may use with a peer at once; of more, the one silent longest is forgotten.
    most_outbound: int = 32
    #: ESP sessions and SPIs that are remembered after their lifetime, and how long: a tunnel that was
    #: silent for hours goes on with the SPIs it had.
    most_remembered: int = 65536
    memory: float = 86400.0
    #: ESP pairs an operator may tell us of.
    most_told: int = 4096
    #: How long an unconfirmed inbound SPI is kept without a packet.
    unconfirmed: float = 60.0
    #: ``serialize``: how long an unanswered host may block others, at most (HOWTO §6.2), in round trips,
    #: at least, where none was measured, and without anybody waiting.
    block_round_trips: float = 8.0
    shortest_block: float = 1.0
    usual_block: float = 5.0
    outstanding: float = 120.0
    #: … how many times it may try again while others wait, and how long it then has to be silent.
    retries: int = 5
    squelch: float = 30.0
    #: … to how many hosts a packet goes of which nothing is known.
    guesses: int = 5


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything the core has to know to decide."""

    lan_networks: tuple[Network, ...] = ()
    masquerade: tuple[Masquerade, ...] = ()
    expose: tuple[Expose, ...] = ()
    forward: tuple[Forward, ...] = ()
    refuse: Refuse = Refuse.RESET
    on_change: OnChange = OnChange.CLOSE
    limits: Limits = field(default_factory=Limits)
    forwarding: ForwardTimers = field(default_factory=ForwardTimers)
    pptp: PptpTimers = field(default_factory=PptpTimers)
    ipsec: Ipsec = field(default_factory=Ipsec)

    def serves_pptp(self) -> bool:
        """Whether any rule is for PPTP: then nothing of its kind of GRE is forwarded whole."""
        rules: tuple[Masquerade | Expose, ...] = (*self.masquerade, *self.expose)
        return any(rule.pptp for rule in rules)

    def kept_out(self) -> frozenset[str]:
        """Names of the rules that keep their flows from the kernel."""
        rules: tuple[Masquerade | Expose | Forward, ...] = (*self.masquerade, *self.expose, *self.forward)
        return frozenset(rule.name for rule in rules if not rule.fastpath)
