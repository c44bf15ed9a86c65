"""Mappings of ports, and who talks through them."""

from dataclasses import dataclass, field

from protocols.addr import Ip4
from protocols.ike.exchanges import Exchanges
from protocols.ike.rules import Relation
from protocols.natt.flows import Flow
from protocols.sessions import Session
from protocols.udp import Endpoint


@dataclass(slots=True, eq=False)
class NattSession(Session):
    """All IPsec in UDP of one port of an inside host with one peer."""

    host_port: int = 0
    public_port: int = 0
    #: What else than ESP was carried: keepalives (RFC 3948 §2.3) and IKE messages.
    keepalives: int = 0
    messages: int = 0


@dataclass(slots=True, eq=False)
class Mapping:
    """A port of an inside host, and the public port that stands for it before all peers (RFC 4787 REQ-1)."""

    host: Endpoint
    public_port: int
    #: Whether it is an exposed server's 4500, which servers share by the peers they are exposed to.
    fixed: bool = False
    talks: "dict[Ip4, Talk]" = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Talk:
    """A mapping's exchange with one peer: what comes from a peer without one is not let in (REQ-8)."""

    mapping: Mapping
    relation: Relation
    session: NattSession
    #: The peer is an inside host, or the host reaches a server by our own address (REQ-9).
    hairpin: bool
    heard_host: bool = False
    heard_peer: bool = False
    #: The peer's endpoints, the least recently new one first, and the flows to and from each.
    endpoints: dict[Endpoint, tuple[Flow, ...]] = field(default_factory=dict)
    exchanges: Exchanges = field(default_factory=Exchanges)

    @property
    def mutual(self) -> bool:
        """Whether both sides have spoken."""
        return self.heard_host and self.heard_peer
