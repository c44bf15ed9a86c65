"""Who may talk IPsec to whom: the rules applied to an inside host and a peer.

One rule covers IKE, NAT-T and ESP of the two together, in both directions: either end of a tunnel may begin
a rekey, so an exposed server may also speak first to a peer that its rule allows.
"""

from dataclasses import dataclass

from protocols.addr import Ip4, contains
from protocols.admission import Admission
from protocols.policy import Source
from protocols.sessions import Role


@dataclass(frozen=True, slots=True)
class Relation:
    """An inside host and a peer that may talk to each other."""

    rule: str
    role: Role
    host: Ip4
    peer: Ip4
    #: By which address the host knows the peer. With ``hidden`` it is ours, one port for each peer.
    seen: Ip4
    hidden: bool = False


def from_host(admission: Admission, host: Ip4, addressed: Ip4) -> Relation | None:
    """What lets an inside host send to ``addressed``: a peer, or our address in its place."""
    return _answering(admission, host, addressed) or _client(admission, host, addressed)


def from_peer(admission: Admission, peer: Ip4) -> Relation | None:
    """The exposed server that the peer may reach; ``peer`` may be an inside host, by way of our address.

    None also while we have no address that the server could see in the place of the peer's.
    """
    inside = contains(admission.policy.lan_networks, peer)
    for rule in admission.policy.expose:
        if not rule.ipsec or rule.server == peer or not contains(rule.allow, peer):
            continue
        hidden = rule.source is Source.GATEWAY and not inside
        # RFC 4787 REQ-9: a neighbour is shown to the server under the public address.
        seen = admission.addresses.wan if inside else facing(admission, rule.server) if hidden else peer
        return None if seen is None else Relation(rule.name, Role.EXPOSE, rule.server, peer, seen, hidden)
    return None


def between(admission: Admission, host: Ip4, peer: Ip4) -> Relation | None:
    """What lets an inside host and a peer talk, whichever of the two began."""
    relation = from_host(admission, host, peer) or from_peer(admission, peer)
    return relation if relation is not None and relation.host == host else None


def anybody(admission: Admission, peer: Ip4) -> bool:
    """Whether clients may talk to the peer, as far as their own addresses allow."""
    return any(rule.ipsec and contains(rule.servers, peer) for rule in admission.policy.masquerade)


def neighbourly(admission: Admission, client: Ip4) -> Relation | None:
    """What lets an inside host reach an exposed server by our public address (RFC 4787 REQ-9).

    Its peer, as far as it knows, is that address.
    """
    wan, relation = admission.addresses.wan, from_peer(admission, client)
    if wan is None or relation is None or not contains(admission.policy.lan_networks, client):
        return None
    return Relation(relation.rule, Role.MASQUERADE, client, wan, wan)


def renewed(admission: Admission, relation: Relation) -> Relation | None:
    """The relation as the rules of now have it; None when they do not allow it as it is."""
    if relation.peer == admission.addresses.wan:
        again = neighbourly(admission, relation.host)
    elif relation.role is Role.EXPOSE:
        again = from_peer(admission, relation.peer)
    else:
        again = _client(admission, relation.host, relation.seen)
    if again is None:
        return None
    same = (again.host, again.peer, again.hidden) == (relation.host, relation.peer, relation.hidden)
    return again if same else None


def serves(admission: Admission) -> bool:
    """Whether any server is exposed."""
    return any(rule.ipsec for rule in admission.policy.expose)


def facing(admission: Admission, host: Ip4) -> Ip4 | None:
    """Our address that is nearest to an inside host: the one that shares the longest prefix with it."""
    networks = admission.policy.lan_networks
    ours = (own for own in admission.addresses.own if contains(networks, own))
    return min((Ip4(own) for own in ours), key=lambda own: (own ^ host, own), default=None)


def _client(admission: Admission, host: Ip4, addressed: Ip4) -> Relation | None:
    outside = admission.is_outside(addressed)
    for rule in admission.policy.masquerade:
        if not rule.ipsec:
            continue
        peer = addressed
        if rule.listen is not None:
            peer = Ip4(rule.servers[0].address)
        if (outside if rule.listen is None else addressed == rule.listen) and rule.allows(host, peer):
            return Relation(rule.name, Role.MASQUERADE, host, peer, addressed)
    return None


def _answering(admission: Admission, host: Ip4, addressed: Ip4) -> Relation | None:
    if not admission.is_outside(addressed):
        return None
    relation = from_peer(admission, addressed)
    return relation if relation and relation.host == host and not relation.hidden else None
