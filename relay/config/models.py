"""The whole schema of the configuration, as pydantic models: frozen, and unknown keys are errors.

A key's description is its text in conf/schema.json. Values are checked one by one here;
relay.config.crosscheck looks at what does not fit together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    WithJsonSchema,
)

from relay.config import values


@dataclass(frozen=True, slots=True)
class Shown:
    """Annotates a type with the way its values are written for people."""

    show: Callable[[Any], str]


_TEXT = WithJsonSchema({"type": "string"})
_TEXT_OR_NUMBER = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})

Duration = Annotated[float, BeforeValidator(values.duration), Shown(values.show_duration), _TEXT_OR_NUMBER]
Size = Annotated[int, BeforeValidator(values.size), Shown(values.show_size), _TEXT_OR_NUMBER]
Mark = Annotated[int, BeforeValidator(values.mark), Shown(hex), _TEXT_OR_NUMBER]
Host = Annotated[str, BeforeValidator(values.host_address), _TEXT]
AnyNetwork = Annotated[str, BeforeValidator(values.network), _TEXT]
OwnNetwork = Annotated[str, BeforeValidator(values.definite_network), _TEXT]
Interface = Annotated[str, BeforeValidator(values.interface), _TEXT]
RuleName = Annotated[str, BeforeValidator(values.rule_name), _TEXT]
NameServer = Annotated[str, BeforeValidator(values.name_server), _TEXT]
Command = Annotated[str, BeforeValidator(values.command), _TEXT]
HostName = Annotated[str, BeforeValidator(values.host_name), _TEXT]
Path = Annotated[str, BeforeValidator(values.absolute_path), _TEXT]
PortRange = Annotated[str, BeforeValidator(values.port_range), _TEXT]
Vpn = Literal["pptp", "ipsec"]


def _address_or_auto(value: object) -> str:
    return "auto" if value == "auto" else values.host_address(value)


class Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Wan(Table):
    """The public side."""

    interface: Interface = "auto"
    """The interface to the outside; "auto" = the interface of the default route."""
    address: Annotated[str, BeforeValidator(_address_or_auto), _TEXT] = "auto"
    """"auto" follows the interface; or one fixed IPv4 address."""


class Lan(Table):
    """The private side."""

    interfaces: Annotated[tuple[Interface, ...], Field(min_length=1)] = ("auto",)
    """Where clients and exposed servers live; "auto" = every interface with a route into the networks."""
    networks: Annotated[tuple[OwnNetwork, ...], Field(min_length=1)] = (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
    )
    """The addresses of the private side: they may come from there only, and nothing else may."""


class Masquerade(Table):
    """Clients inside, peers outside."""

    name: RuleName = ""
    """Names the rule in sessions, logs and metrics."""
    clients: Annotated[tuple[AnyNetwork, ...], Field(min_length=1)]
    """Who may: addresses and networks inside, or "any" for the whole LAN."""
    servers: Annotated[tuple[AnyNetwork, ...], Field(min_length=1)]
    """Whom they may reach: addresses and networks outside; "any" must be written out."""
    proto: Annotated[tuple[Vpn, ...], Field(min_length=1)]
    """pptp = tcp/1723 and GRE; ipsec = udp/500, udp/4500 and ESP."""
    listen: Host | None = None
    """Relay style: clients dial this address of ours instead of the peer."""
    fastpath: StrictBool = True
    """Whether the kernel may carry its flows (see [fastpath])."""


class Expose(Table):
    """A server inside, peers outside."""

    name: RuleName = ""
    """Names the rule in sessions, logs and metrics."""
    server: Host
    """The server's address inside."""
    proto: Annotated[tuple[Vpn, ...], Field(min_length=1)]
    """pptp = tcp/1723 and GRE; ipsec = udp/500, udp/4500 and ESP."""
    allow: tuple[AnyNetwork, ...] = ()
    """Who may reach it; empty = nobody, and "any" must be written out."""
    source: Literal["keep", "gateway"] = "keep"
    """"keep": the server sees the peer's address; "gateway": it sees ours."""
    fastpath: StrictBool = True
    """Whether the kernel may carry its flows (see [fastpath])."""


class Forward(Table):
    """Anything else that goes to a server inside."""

    name: RuleName = ""
    """Names the rule in sessions, logs and metrics."""
    listen: Annotated[str, BeforeValidator(values.listen), _TEXT]
    """tcp/PORT, udp/PORT or ip/PROTOCOL."""
    server: Annotated[str, BeforeValidator(values.endpoint), _TEXT]
    """The server's address inside, with :PORT for tcp and udp when it is another one."""
    allow: tuple[AnyNetwork, ...] = ()
    """Who may reach it; empty = nobody, and "any" must be written out."""
    source: Literal["keep", "gateway"] = "keep"
    """"keep": the server sees the peer's address; "gateway": it sees ours."""
    fastpath: StrictBool = True
    """Whether the kernel may carry its flows (see [fastpath])."""


class Ddns(Table):
    """A DNS name that follows the public address."""

    name: RuleName = ""
    """Names the entry in logs."""
    provider: Literal["dyndns2", "rfc2136", "url", "exec"]
    """How the name is updated."""
    host: HostName
    """The name that shall point at the public address."""
    server: NameServer | None = None
    """dyndns2, rfc2136: the server to update, when it is not the provider's or the zone's usual one."""
    zone: HostName | None = None
    """The zone that the name is in; found by asking when it is not given."""
    url: str = ""
    """url: what to fetch; {host} and {address} are filled in. dyndns2: instead of https://SERVER/nic/update."""
    command: tuple[str, ...] = ()
    """exec: the program and its arguments; {host} and {address} are filled in."""
    username: str = ""
    """The account, or the name of the TSIG key."""
    password: SecretStr | None = None
    """The password, or the TSIG key."""
    password_file: Path = ""
    """A file that holds the password; it is read for each update."""
    algorithm: Literal["hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"] = (
        "hmac-sha256"
    )
    """rfc2136: the algorithm of the TSIG key."""
    ttl: Duration = 60.0
    """rfc2136: how long resolvers may remember the address."""
    verify: bool = True
    """Whether an update counts only when the zone's own servers answer with our address."""
    nameservers: tuple[NameServer, ...] = ()
    """Servers to ask for that in the place of those that the zone names."""
    interval: Duration = 600.0
    """How often the name is looked at while all is well."""


class Ipsec(Table):
    """How ESP flows find their owners."""

    pairing: Literal["fanout", "serialize", "refuse"] = "fanout"
    """What to do while two clients wait for the first ESP packet of one peer."""
    lifetime: Duration = 1800.0
    """Idle lifetime of ESP and ISAKMP entries."""
    change_port: tuple[AnyNetwork, ...] = ()
    """Peers before which the source port 500 is changed like any other; the rest sees 500."""
    mapping: Duration = 300.0
    """Idle lifetime of a UDP port that stands for one of an inside host (RFC 4787 REQ-5)."""
    ports: PortRange = "61000-65095"
    """UDP ports of ours that may stand for those of inside hosts; 4500 is used, too, while it is free."""
    most_candidates: Annotated[StrictInt, Field(ge=1, le=1024)] = 32
    """fanout: copies of one ESP packet, at most, while it is not known whose it is."""
    copies_per_second: Annotated[StrictInt, Field(ge=1, le=1 << 24)] = 20000
    """fanout: copies for one peer in a second, at most; the likeliest owner always gets one."""
    spis_per_second: Annotated[StrictInt, Field(ge=1, le=1 << 20)] = 200
    """New SPIs that a peer may show in a second."""
    most_spis: Annotated[StrictInt, Field(ge=1, le=1 << 20)] = 1024
    """SPIs that a peer may have at once."""
    most_outbound: Annotated[StrictInt, Field(ge=1, le=1024)] = 32
    """SPIs that an inside host may use with a peer at once."""
    most_associations: Annotated[StrictInt, Field(ge=1, le=1024)] = 32
    """IKE SAs of an inside host and a peer that are known at once."""
    most_unanswered: Annotated[StrictInt, Field(ge=1, le=1024)] = 8
    """Of these, such as the peer began and the host has not answered."""
    most_held: Annotated[StrictInt, Field(ge=0, le=65536)] = 64
    """First IKE messages that wait because another host began with the same cookie."""
    most_outstanding: Annotated[StrictInt, Field(ge=0, le=65536)] = 1024
    """First messages without an answer that are kept, to be sent again from another public address."""
    most_endpoints: Annotated[StrictInt, Field(ge=1, le=65535)] = 16
    """Ports of one peer, behind a NAT of its own, that an inside host talks to at once."""
    most_remembered: Annotated[StrictInt, Field(ge=0, le=1 << 22)] = 65536
    """Tunnels that were silent for longer than their lifetime and are remembered for a day."""
    most_told: Annotated[StrictInt, Field(ge=0, le=1 << 20)] = 4096
    """Pairs that may be told (vpnmasq pair add)."""


class Pptp(Table):
    """Times of PPTP control connections and calls."""

    echo_after: Duration = 60.0
    """Silence after which an Echo-Request is sent (RFC 2637 §3.1.4)."""
    echo_timeout: Duration = 60.0
    """How long its answer may take."""
    handshake_timeout: Duration = 30.0
    """From the connection to a finished Start-Control-Connection exchange."""
    message_timeout: Duration = 30.0
    """From the first octet of a control message to its last."""
    call_setup_timeout: Duration = 120.0
    """From a call request to its answer."""
    closing_timeout: Duration = 10.0
    """From the end of one side of a control connection to the end of both."""
    ghost: Duration = 240.0
    """How long the Call ID of an ended call rests before it is given out again."""


class Forwarding(Table):
    """How long generic forwards are remembered without traffic."""

    tcp: Duration = 7440.0
    """A TCP connection of which an end does not answer (RFC 5382 REQ-5: at least 2h4m)."""
    tcp_transitory: Duration = 240.0
    """One that is not answered yet, or half closed (RFC 5382 REQ-5: at least 4m)."""
    udp: Duration = 300.0
    """What a peer and a server exchange by UDP (RFC 4787 REQ-5: at least 2m)."""
    ip: Duration = 600.0
    """What they exchange by another IP protocol."""
    most_endpoints: Annotated[StrictInt, Field(ge=1, le=65535)] = 64
    """UDP: ports of one peer that are remembered; if the server sees our address, no others get an answer."""


class Dynamic(Table):
    """A public address that changes (HOWTO §3.7)."""

    on_change: Literal["close", "keep"] = "close"
    """Whether sessions end with the address they were opened on."""
    up_commands: tuple[Command, ...] = ()
    """Commands to run when an address is served; their arguments are those of pppd's ip-up."""
    down_commands: tuple[Command, ...] = ()
    """Commands to run when it is gone, with the same arguments."""
    command_timeout: Duration = 30.0
    """How long one of them may take."""


class FastPath(Table):
    """Forwarding established flows in the kernel."""

    mode: Literal["auto", "off", "require"] = "auto"
    """"auto" = where the kernel can; "require" = do not start without it."""
    xdp: bool = False
    """Whether drivers of network cards carry flows, too (XDP); attaching resets the rings of some."""


class Interception(Table):
    """The policy routing that brings the LAN's VPN packets to us."""

    priority: Annotated[StrictInt, Field(ge=1, le=32765)] = 118
    """Priority of our rules (ip rule); before the main table's 32766."""
    mark: Mark = 0x76706E01
    """Packet mark of the ICMP errors that we translate; change it if your own rules use it."""


class Sockets(Table):
    """Our sockets."""

    receive_buffer: Size = 4 << 20
    """Receive buffer of a raw socket, in octets."""
    batch: Annotated[StrictInt, Field(ge=1, le=256)] = 64
    """Packets read from one socket before the others have their turn."""


class Api(Table):
    """The control API."""

    socket: Annotated[str, BeforeValidator(values.socket_path), _TEXT] = "/run/vpnmasq/control.sock"
    """The Unix socket."""
    http: Annotated[str, BeforeValidator(values.http_address), _TEXT] = ""
    """A TCP address besides, such as "127.0.0.1:9470"; not loopback requires a token."""
    token: SecretStr | None = None
    """The token that gives access by TCP."""
    token_file: Path = ""
    """A file that holds the token."""
    read_group: str = ""
    """The group whose members may read by the Unix socket."""
    admin_group: str = ""
    """The group whose members may do everything by the Unix socket."""


class State(Table):
    """What survives a restart."""

    directory: Path = "/var/lib/vpnmasq"
    """Where sessions are kept; "" = keep nothing across restarts."""
    descriptors: Annotated[StrictInt, Field(ge=0, le=4096)] = 4096
    """Sockets of control connections that systemd keeps open for us in case of a crash, two for each."""


class Limits(Table):
    """Bounds of every table."""

    sessions: Annotated[StrictInt, Field(ge=1, le=1 << 22)] = 65536
    """Sessions at once."""
    sessions_per_client: Annotated[StrictInt, Field(ge=1, le=1 << 22)] = 64
    """Sessions at once of one client or peer."""
    new_per_second: Annotated[StrictInt, Field(ge=1, le=1 << 20)] = 200
    """New sessions a second."""
    icmp_per_second: Annotated[StrictInt, Field(ge=1, le=1 << 20)] = 100
    """ICMP errors a second that we make ourselves."""


class Log(Table):
    """The log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    format: Literal["auto", "console", "json"] = "auto"
    """"auto" = console on a terminal, JSON lines elsewhere."""


class Config(Table):
    """A whole configuration."""

    version: Literal[1] = 1
    """Version of this schema."""
    name: Annotated[str, BeforeValidator(values.instance_name), _TEXT] = "vpnmasq"
    """Name of this instance: our table in nft and our routing table derive from it."""
    refuse: Literal["reset", "silent"] = "reset"
    """What a connection that no rule allows gets: a TCP reset, or nothing."""
    wan: Wan = Wan()
    lan: Lan = Lan()
    masquerade: tuple[Masquerade, ...] = ()
    expose: tuple[Expose, ...] = ()
    forward: tuple[Forward, ...] = ()
    ddns: tuple[Ddns, ...] = ()
    ipsec: Ipsec = Ipsec()
    pptp: Pptp = Pptp()
    forwarding: Forwarding = Forwarding()
    dynamic: Dynamic = Dynamic()
    fastpath: FastPath = FastPath()
    interception: Interception = Interception()
    sockets: Sockets = Sockets()
    api: Api = Api()
    state: State = State()
    limits: Limits = Limits()
    log: Log = Log()


#: The tables that are written with double brackets, once per rule.
RULE_KINDS = ("masquerade", "expose", "forward", "ddns")
