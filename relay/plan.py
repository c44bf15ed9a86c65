"""What a policy implies for sockets and kernel tables: who may dial in where, and what is intercepted."""

from dataclasses import dataclass

from protocols.addr import Ip4, Network, show_ip
from protocols.policy import UDP, Forward, Policy, Source
from relay.rules.interception import Traffic
from relay.sockets.gatekeeper import Opening


@dataclass(frozen=True, slots=True)
class IpsecPlan:
    """What IPsec needs of sockets and kernel tables."""

    #: As in Plan.
    intercept_clients: bool
    keep_servers: tuple[str, ...]
    #: UDP ports of ours that stand for those of inside hosts, first and last.
    ports: tuple[int, int]
    #: Peers that may begin with ESP, before anybody here has heard of them. A rule for everybody names
    #: nobody: IKE comes first then.
    named: tuple[Network, ...] = ()

    @classmethod
    def of(cls, policy: Policy) -> "IpsecPlan | None":
        """The plan for a policy; None when no rule is for IPsec."""
        masquerade = [rule for rule in policy.masquerade if rule.ipsec]
        expose = [rule for rule in policy.expose if rule.ipsec]
        if not masquerade and not expose:
            return None
        keep = {show_ip(rule.server): None for rule in expose if rule.source is Source.KEEP}
        intercept = any(rule.listen is None for rule in masquerade)
        named = {peer: None for rule in expose for peer in rule.allow if not peer.is_any}
        return cls(intercept, tuple(keep), policy.ipsec.ports, tuple(named))


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """What a generic forward needs."""

    name: str
    #: IP protocol, and the port at our public address; 0 without one.
    protocol: int
    address: Ip4
    port: int
    server: Ip4
    server_port: int
    #: Who may come, and as far as they are inside.
    openings: tuple[Opening, ...]
    neighbours: tuple[Opening, ...]
    #: Whether the server sees its peers' own addresses, so that its answers have to be brought to us.
    keep: bool

    @classmethod
    def of(cls, policy: Policy, rule: Forward, wan: Ip4) -> "ForwardPlan":
        """The plan for a rule at a public address."""
        openings = tuple(Opening(peer, _host(wan)) for peer in rule.allow)
        inside = (
            Opening(shared, _host(wan))
            for peer in rule.allow
            for network in policy.lan_networks
            if (shared := _shared(peer, network)) is not None
        )
        return cls(
            name=rule.name,
            protocol=rule.protocol,
            address=wan,
            port=rule.port,
            server=rule.server,
            server_port=rule.server_port,
            openings=openings,
            neighbours=tuple(inside),
            keep=rule.source is Source.KEEP,
        )

    @property
    def part(self) -> str:
        """Names its sockets: another name, other sockets."""
        ours, theirs = f"{show_ip(self.address)}:{self.port}", f"{show_ip(self.server)}:{self.server_port}"
        return f"{self.protocol} {ours} {theirs}{' inside' if self.neighbours else ''}"

    @property
    def answers(self) -> tuple[Traffic, ...]:
        """What is to be brought to us: to these peers only, what else the server says stays the kernel's."""
        if not self.keep:
            return ()
        return tuple(
            Traffic(
                self.protocol,
                source=_host(self.server),
                source_port=self.server_port or None,
                destination=None if opening.source.is_any else opening.source,
            )
            for opening in self.openings
        )


def _shared(one: Network, other: Network) -> Network | None:
    """The smaller of two networks if the other one holds it."""
    small, large = (one, other) if one.mask >= other.mask else (other, one)
    return small if small.address in large else None


@dataclass(frozen=True, slots=True)
class Plan:
    """The shell's part of a policy; two plans compare equal when there is nothing to change."""

    #: Who may open control connections, as seen on each side.
    lan_openings: tuple[Opening, ...]
    wan_openings: tuple[Opening, ...]
    #: Whether traffic that LAN hosts send to addresses outside has to be brought to us.
    intercept_clients: bool
    #: Exposed servers that see their peers' own addresses, so that their answers have to be brought to us.
    keep_servers: tuple[str, ...]
    #: Whether any rule is for PPTP; also without any rule, so that who dials is refused by us.
    pptp: bool
    #: What IPsec needs of the same; None when no rule is for it.
    ipsec: "IpsecPlan | None"
    #: Generic forwards; none while there is no public address.
    forwards: tuple[ForwardPlan, ...] = ()

    @property
    def transparent(self) -> bool:
        """Whether anything needs foreign addresses on our sockets (CAP_NET_ADMIN)."""
        return self.intercept_clients or bool(self.keep_servers)

    @property
    def forwarded_udp(self) -> tuple[ForwardPlan, ...]:
        """Generic forwards of UDP, whose servers' answers the kernel must not call unreachable."""
        return tuple(forward for forward in self.forwards if forward.protocol == UDP)

    @property
    def answers(self) -> tuple[Traffic, ...]:
        """What servers of generic forwards answer to peers whose own addresses they see."""
        return tuple(traffic for forward in self.forwards for traffic in forward.answers)

    @classmethod
    def of(cls, policy: Policy, wan: Ip4 | None) -> "Plan":
        """The plan for a policy at a public address (absent while the link is down)."""
        masquerade = [rule for rule in policy.masquerade if rule.pptp]
        expose = [rule for rule in policy.expose if rule.pptp]
        inward = (
            () if wan is None else tuple(Opening(peer, _host(wan)) for rule in expose for peer in rule.allow)
        )
        outward = tuple(
            Opening(client, server)
            for rule in masquerade
            for client in rule.clients
            for server in ((_host(rule.listen),) if rule.listen is not None else rule.servers)
        )
        keep = {show_ip(rule.server): None for rule in expose if rule.source is Source.KEEP}
        ipsec = IpsecPlan.of(policy)
        return cls(
            lan_openings=outward + inward,
            wan_openings=inward,
            intercept_clients=any(rule.listen is None for rule in masquerade),
            keep_servers=tuple(keep),
            pptp=bool(masquerade or expose) or (ipsec is None and not policy.forward),
            ipsec=ipsec,
            forwards=()
            if wan is None
            else tuple(ForwardPlan.of(policy, rule, wan) for rule in policy.forward),
        )


def _host(address: Ip4) -> Network:
    return Network(address, 0xFFFFFFFF)
