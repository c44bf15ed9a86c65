"""IKE SAs as a gateway sees them: a pair of cookies, the host they belong to, and who has spoken."""

from dataclasses import dataclass, field

from protocols.addr import Ip4
from protocols.few import Few
from protocols.ike.exchanges import Exchanges
from protocols.ike.header import show_cookie
from protocols.ike.rules import Relation
from protocols.sessions import Session


@dataclass(slots=True, eq=False)
class IkeSession(Session):
    """All IKE of one inside host with one peer on port 500."""

    #: Its SAs, the most recently used last.
    associations: "Few[Association, None]" = field(default_factory=Few, repr=False)

    @property
    def cookies(self) -> list[tuple[str, str]]:
        """(initiator's, responder's) cookie of each SA in hex; the responder's is zero until it is known."""
        return [(show_cookie(a.initiator), show_cookie(a.responder)) for a in self.associations]


@dataclass(slots=True, eq=False)
class Conversation:
    """An inside host and a peer that talk IKE."""

    relation: Relation
    session: IkeSession
    #: When the host last said something; minus infinity if never.
    host_spoke: float = float("-inf")
    #: The ports of the peer that the host sees us stand for, oldest first.
    endpoints: Few[tuple[Ip4, int], None] = field(default_factory=Few)
    #: Initiator's cookies of first messages of the host that are held back.
    holding: tuple[int, ...] = ()
    exchanges: Exchanges = field(default_factory=Exchanges)


@dataclass(slots=True, eq=False)
class Association:
    """One IKE SA, set up or being set up."""

    conversation: Conversation
    #: How the host addressed the peer in this SA.
    relation: Relation
    initiator: int
    #: Zero until the responder has answered.
    responder: int
    #: Whether the inside host began it.
    by_host: bool
    last_seen: float
    heard_host: bool = False
    heard_peer: bool = False

    @property
    def mutual(self) -> bool:
        """Whether both sides have spoken."""
        return self.heard_host and self.heard_peer

    @property
    def guessed(self) -> bool:
        """Whether nothing but our choice says that it is this host's."""
        return not self.by_host and not self.heard_host
