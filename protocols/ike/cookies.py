"""Whose an IKE message is, by its cookies (RFC 2408 §2.5.3, RFC 7296 §2.6).

An SA has a pair of 64-bit cookies, of which the responder's is zero in the first message. The initiator's
alone need not be unique: two hosts may choose the same one. So an SA is known by the peer and the full
pair, and as long as the responder's cookie is not known only one host at a time may wait for an answer that
begins with a certain initiator's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from protocols import ipv4
from protocols.addr import Ip4
from protocols.few import Few
from protocols.ike.association import Association, Conversation
from protocols.ike.header import IkeHeader
from protocols.udp import Datagram


@dataclass(slots=True, eq=False)
class Held:
    """A first message that waits until another host's with the same cookie is answered."""

    conversation: Conversation
    message: IkeHeader
    #: Its IP header as it came, and the datagram as it shall leave.
    header: ipv4.Header
    datagram: Datagram
    until: float


@dataclass(slots=True, eq=False)
class Claim:
    """All SAs with one peer that begin with one initiator's cookie."""

    associations: Few[Association, None] = field(default_factory=Few)
    #: The one whose host waits for the first answer.
    waiting: Association | None = None
    held: tuple[Held, ...] = ()

    def of(self, conversation: Conversation) -> Association | None:
        """The newest SA of a conversation."""
        return next((a for a in reversed(self.associations) if a.conversation is conversation), None)

    def sole(self) -> Association | None:
        """The newest SA, if all are of one conversation."""
        newest = next(reversed(self.associations), None)
        if newest is None or any(a.conversation is not newest.conversation for a in self.associations):
            return None
        return newest

    def held_for(self, conversation: Conversation) -> Held | None:
        """The message of a conversation that waits."""
        return next((held for held in self.held if held.conversation is conversation), None)


class Cookies:
    """All SAs by peer and cookies."""

    def __init__(self) -> None:
        self._known: dict[tuple[Ip4, int, int], Association] = {}
        self._claims: dict[tuple[Ip4, int], Claim] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def known(self, peer: Ip4, message: IkeHeader) -> Association | None:
        """The SA with this full pair of cookies."""
        return self._known.get((peer, message.initiator_cookie, message.responder_cookie))

    def claim(self, peer: Ip4, initiator: int) -> Claim | None:
        """The SAs with this initiator's cookie."""
        return self._claims.get((peer, initiator))

    def add(self, association: Association) -> Claim:
        """Enter an SA."""
        peer = association.conversation.relation.peer
        claim = self._claims.get((peer, association.initiator))
        if claim is None:
            claim = self._claims[peer, association.initiator] = Claim()
        claim.associations[association] = None
        association.conversation.session.associations[association] = None
        if association.responder:
            self._known[(peer, association.initiator, association.responder)] = association
        return claim

    def learn(self, association: Association, responder: int) -> None:
        """The responder has answered, and has this cookie."""
        association.responder = responder
        peer = association.conversation.relation.peer
        self._known[(peer, association.initiator, responder)] = association

    def wait(self, association: Association) -> None:
        """The host of this SA waits for its first answer."""
        self._claims[(association.conversation.relation.peer, association.initiator)].waiting = association

    def answered(self, association: Association) -> list[Claim]:
        """The host of this SA waits no longer; the claim that is free now, if it was not."""
        claim = self._claims[(association.conversation.relation.peer, association.initiator)]
        if claim.waiting is None or claim.waiting.conversation is not association.conversation:
            return []
        claim.waiting = None
        return [claim]

    def remove(self, association: Association) -> Claim:
        """Forget an SA. Its claim may have messages that now need wait no longer."""
        peer = association.conversation.relation.peer
        self._known.pop((peer, association.initiator, association.responder), None)
        claim = self._claims[(peer, association.initiator)]
        del claim.associations[association]
        del association.conversation.session.associations[association]
        if claim.waiting is association:
            claim.waiting = None
        self.tidy(peer, association.initiator)
        return claim

    def claims(self, peer: Ip4, conversations: Iterable[Conversation]) -> dict[int, Claim]:
        """All claims of a peer's conversations, by the initiator's cookie."""
        cookies: dict[int, None] = {}
        for conversation in conversations:
            cookies.update((a.initiator, None) for a in conversation.session.associations)
            cookies.update(dict.fromkeys(conversation.holding))
        return {cookie: self._claims[peer, cookie] for cookie in cookies}

    def adopt(self, peer: Ip4, claims: dict[int, Claim]) -> None:
        """Take in the claims of a peer of before a restart."""
        for cookie, claim in claims.items():
            self._claims[peer, cookie] = claim
            for association in claim.associations:
                if association.responder:
                    self._known[peer, cookie, association.responder] = association

    def tidy(self, peer: Ip4, initiator: int) -> None:
        """Forget a claim that nobody has any more."""
        claim = self._claims[(peer, initiator)]
        if not claim.associations and not claim.held:
            del self._claims[(peer, initiator)]
