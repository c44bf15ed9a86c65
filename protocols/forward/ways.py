"""Who may come through a forward, and as whom the server sees them."""

from dataclasses import dataclass

from protocols.addr import UNSPECIFIED, Ip4, contains
from protocols.admission import Admission
from protocols.ike.rules import facing
from protocols.policy import Forward, OnChange, Source
from protocols.udp import Endpoint


@dataclass(frozen=True, slots=True)
class Way:
    """A peer's way to the server."""

    rule: Forward
    peer: Ip4
    #: By which address the server knows the peer.
    seen: Ip4
    #: Whether that is one of ours; 0 then stands for the one that faces the server, if none is known to.
    hidden: bool

    @property
    def server(self) -> Endpoint:
        """Where it leads; without ports, to port 0."""
        return self.rule.server, self.rule.server_port


def rule_at(admission: Admission, protocol: int, port: int) -> Forward | None:
    """The rule that listens there."""
    for rule in admission.policy.forward:
        if rule.protocol == protocol and rule.port == port:
            return rule
    return None


def way(admission: Admission, rule: Forward, peer: Ip4) -> Way | None:
    """How the peer, an inside host for one, reaches the rule's server by our public address; None if not."""
    wan = admission.addresses.wan
    if wan is None or peer == rule.server or not contains(rule.allow, peer):
        return None
    if contains(admission.policy.lan_networks, peer):
        # RFC 4787 REQ-9, RFC 5382 REQ-8: the server sees the public address, so that its answers come back
        # through us although the two are neighbours.
        return Way(rule, peer, wan, hidden=True)
    if rule.source is Source.GATEWAY:
        return Way(rule, peer, facing(admission, rule.server) or UNSPECIFIED, hidden=True)
    return Way(rule, peer, peer, hidden=False)


def waits(admission: Admission) -> bool:
    """Whether the public address is away, and what was bound to it waits for it to come back (HOWTO §3.7)."""
    return admission.addresses.wan is None and admission.policy.on_change is OnChange.KEEP


def renewed(admission: Admission, old: Way) -> Way | None:
    """The same way by the rules and addresses of now; None when they do not allow it as it is."""
    rule = rule_at(admission, old.rule.protocol, old.rule.port)
    if rule is None:
        return None
    new = way(admission, rule, old.peer)
    if new is None:
        return None
    return new if (new.server, new.seen, new.hidden) == (old.server, old.seen, old.hidden) else None
