"""Peers as an exposed server sees them when its rule has ``source = "gateway"``.

The server sees our LAN address in the place of every peer's, so it tells peers apart by the port: the
first keeps its own where that is 500 or 4500, the others get one of ours.
"""

from collections.abc import Callable
from typing import Any

from protocols.actions import Drop
from protocols.addr import Ip4, show_ip
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.deadlines import earliest
from protocols.drops import Reason
from protocols.ike import rules
from protocols.ike.rules import Relation
from protocols.natt.ports import Ports
from protocols.policy import Ipsec
from protocols.udp import Datagram, Endpoint


class Disguises:
    """Which endpoint of ours stands for which endpoint of a peer, for each server and port of the server."""

    def __init__(self, random: Random, ipsec: Callable[[], Ipsec]) -> None:
        self._random = random
        self._ipsec = ipsec
        self._ports: dict[Ip4, Ports] = {}
        self._shown: dict[tuple[Endpoint, Endpoint], Endpoint] = {}
        self._behind: dict[tuple[Endpoint, Endpoint], Endpoint] = {}

    def __len__(self) -> int:
        return len(self._shown)

    def show(self, server: Endpoint, peer: Endpoint, own: Ip4) -> Endpoint | None:
        """The endpoint at ``own`` that the server is to see for the peer; None when no port is free."""
        shown = self._shown.get((server, peer))
        if shown is not None:
            return shown
        port = self._ports_of(server[0]).take(peer[0], peer[1], also=server[1])
        if port is None:
            return None
        shown = (own, port)
        self._shown[(server, peer)] = shown
        self._behind[(server, shown)] = peer
        return shown

    def behind(self, server: Endpoint, shown: Endpoint) -> Endpoint | None:
        """The peer whom the server means by an endpoint of ours."""
        return self._behind.get((server, shown))

    def forget(self, server: Endpoint, peer: Endpoint, *, now: float) -> None:
        """Let a peer's disguise go, if it has one."""
        shown = self._shown.pop((server, peer), None)
        if shown is not None:
            del self._behind[(server, shown)]
            self._ports_of(server[0]).free(shown[1], now=now)

    def records(self) -> list[tuple[Any, ...]]:
        """What is to survive a restart."""
        ports = {server: taken.held() for server, taken in self._ports.items()}
        return [(ports, dict(self._shown))] if ports else []

    def adopt(
        self, ports: dict[Ip4, tuple[dict[int, Ip4], dict[int, float]]], shown: dict[Any, Endpoint]
    ) -> None:
        """Take in a record of before a restart."""
        for server, (owners, resting) in ports.items():
            self._ports_of(server).hold(owners, resting)
        self._shown = shown
        self._behind = {(server, as_): peer for (server, peer), as_ in shown.items()}

    def _ports_of(self, server: Ip4) -> Ports:
        (first, last), rest = self._ipsec().ports, self._ipsec().port_rest
        ports = self._ports.get(server)
        if ports is None:
            ports = self._ports[server] = Ports(self._random, first=first, last=last, rest=rest)
        ports.first, ports.last, ports.rest = first, last, rest
        return ports

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest(ports.next_deadline() for ports in self._ports.values())

    def expire(self, *, now: float) -> None:
        """Make available the ports that have rested long enough."""
        for server, ports in list(self._ports.items()):
            ports.expire(now=now)
            if not ports:
                del self._ports[server]


def addressee(
    admission: Admission, disguises: Disguises, datagram: Datagram, neighbour: Ip4 | None
) -> tuple[Relation, Endpoint] | None:
    """Whom an inside host's datagram is for: the relation that allows it, and the endpoint on the wire.

    ``neighbour`` is the inside host meant by a datagram for our public address. None when no rule allows it.
    """
    host, target = datagram.source, datagram.target
    if neighbour is not None:
        relation = rules.from_peer(admission, neighbour)
        return (relation, target) if relation and relation.host == host[0] else None
    meant = disguises.behind(host, target)
    if meant is not None:
        relation = rules.from_peer(admission, meant[0])
        return (relation, meant) if relation and relation.host == host[0] and relation.hidden else None
    relation = rules.from_host(admission, host[0], target[0])
    return (relation, (relation.peer, target[1])) if relation else None


def shown(disguises: Disguises, relation: Relation, datagram: Datagram, server_port: int) -> Endpoint | None:
    """As whom the inside host sees the sender of a peer's datagram; None when no port is free for that."""
    if not relation.hidden:
        return relation.seen, datagram.source[1]
    return disguises.show((relation.host, server_port), datagram.source, relation.seen)


def forgotten(host: Ip4, peer: Endpoint) -> Drop:
    """What is said when a peer's endpoint has no disguise any more: the host has too many of one peer."""
    return Drop(Reason.UDP_FORGOTTEN, f"{show_ip(peer[0])}:{peer[1]} with {show_ip(host)}")
