"""What a policy implies for sockets and kernel tables: who may dial in where, and what is intercepted."""

from dataclasses import dataclass

from protocols.addr import Ip4, Network, show_ip
from protocols.policy import Policy, Source
from relay.sockets.gatekeeper import Opening


@dataclass(frozen=True, slots=True)
class IpsecPlan:
    """What IPsec needs of sockets and kernel tables."""

    #: As in Plan.
    intercept_clients: bool
    keep_servers: tuple[str, ...]
    #: UDP ports of ours that stand for those of inside hosts, first and last.
    ports: tuple[int, int]

    @classmethod
    def of(cls, policy: Policy) -> "IpsecPlan | None":
        """The plan for a policy; None when no rule is for IPsec."""
        masquerade = [rule for rule in policy.masquerade if rule.ipsec]
        expose = [rule for rule in policy.expose if rule.ipsec]
        if not masquerade and not expose:
            return None
        keep = {show_ip(rule.server): None for rule in expose if rule.source is Source.KEEP}
        intercept = any(rule.listen is None for rule in masquerade)
        return cls(intercept, tuple(keep), policy.ipsec.ports)


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

    @property
    def transparent(self) -> bool:
        """Whether anything needs foreign addresses on our sockets (CAP_NET_ADMIN)."""
        return self.intercept_clients or bool(self.keep_servers)

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
            pptp=bool(masquerade or expose) or ipsec is None,
            ipsec=ipsec,
        )


def _host(address: Ip4) -> Network:
    return Network(address, 0xFFFFFFFF)
