"""Who may talk to whom: the rules applied to a new connection.

Default deny. Direction is decided by the side a connection came in on, never by its addresses; the
addresses then have to fit the side (RFC 1812 §5.3.7/8).
"""

from dataclasses import dataclass, replace
from typing import Self

from protocols.actions import Side
from protocols.addr import UNSPECIFIED, Ip4, contains, is_martian
from protocols.drops import Reason
from protocols.policy import Policy, Source
from protocols.sessions import Role


@dataclass(frozen=True, slots=True)
class Route:
    """Where an admitted connection goes on to."""

    rule: str
    role: Role
    side: Side
    destination: Ip4
    #: The address the destination shall see; 0 = whichever of ours faces it.
    source: Ip4
    #: Who is named in the registry.
    inside: Ip4
    peer: Ip4
    #: Whether ``source`` is somebody else's address.
    transparent: bool = False


@dataclass(frozen=True, slots=True)
class Addresses:
    """Our own addresses: the public one (absent while the link is down), and all of them."""

    wan: Ip4 | None
    own: frozenset[int]
    #: What stands for all hosts of the networks we are in.
    broadcasts: frozenset[int] = frozenset()


class Admission:
    """The rules, and the addresses they apply to."""

    def __init__(self, policy: Policy, addresses: Addresses) -> None:
        self.policy = policy
        self.addresses = addresses

    def at(self, wan: Ip4) -> Self:
        """The same rules, as if this were the public address."""
        return type(self)(self.policy, replace(self.addresses, wan=wan))

    def source_fault(self, side: Side, source: int) -> Reason | None:
        """Why nothing may come from ``source`` on this side; None when it may."""
        if is_martian(source) or source in self.addresses.broadcasts:
            return Reason.MARTIAN
        if source in self.addresses.own:
            return Reason.OWN_ADDRESS
        if contains(self.policy.lan_networks, source) != (side is Side.LAN):
            return Reason.SPOOFED
        return None

    def admit(self, side: Side, local: Ip4, remote: Ip4) -> Route | Reason:
        """Where a PPTP control connection that ``remote`` made to ``local`` is to go, or why nowhere."""
        fault = self.source_fault(side, remote)
        if fault is not None:
            return fault
        if self.addresses.wan is None:
            return Reason.NO_ADDRESS
        route = self._from_wan(local, remote) if side is Side.WAN else self._from_lan(local, remote)
        return route or Reason.NO_RULE

    def _from_lan(self, local: Ip4, client: Ip4) -> Route | None:
        wan = self.addresses.wan
        assert wan is not None
        if local == wan:
            return self._hairpin(wan, client)
        for rule in self.policy.masquerade:
            if not rule.pptp:
                continue
            if rule.listen is None:
                server = local
                if not self.is_outside(server) or not rule.allows(client, server):
                    continue
            else:
                server = Ip4(rule.servers[0].address)
                if local != rule.listen or not rule.allows(client, server):
                    continue
            return Route(rule.name, Role.MASQUERADE, Side.WAN, server, wan, client, server)
        return None

    def is_outside(self, server: Ip4) -> bool:
        """Whether "any" server means this one: neither ourselves, nor a neighbour, nor what is no host's."""
        inside = server in self.addresses.own or contains(self.policy.lan_networks, server)
        return not inside and not is_martian(server) and server not in self.addresses.broadcasts

    def _hairpin(self, wan: Ip4, client: Ip4) -> Route | None:
        # RFC 4787 REQ-9: the server sees the public address, so that its answers come back through us
        # although the client is its neighbour.
        for rule in self.policy.expose:
            if rule.pptp and rule.server != client and contains(rule.allow, client):
                return Route(rule.name, Role.EXPOSE, Side.LAN, rule.server, wan, rule.server, client)
        return None

    def _from_wan(self, local: Ip4, peer: Ip4) -> Route | None:
        if local != self.addresses.wan:
            return None
        for rule in self.policy.expose:
            if rule.pptp and contains(rule.allow, peer):
                keep = rule.source is Source.KEEP
                source = peer if keep else UNSPECIFIED
                return Route(rule.name, Role.EXPOSE, Side.LAN, rule.server, source, rule.server, peer, keep)
        return None
