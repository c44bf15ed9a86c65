"""First messages that begin with another host's cookie: they wait until that one is answered.

A peer's first answer shows nothing but the initiator's cookie. So of hosts that chose the same one, one at a
time may wait for it.
"""

from collections.abc import Callable

from protocols.actions import Drop
from protocols.addr import Ip4, show_ip
from protocols.deadlines import Deadlines
from protocols.drops import Reason
from protocols.ike.association import Conversation
from protocols.ike.cookies import Claim, Cookies, Held
from protocols.ike.header import show_cookie
from protocols.policy import Ipsec


class Holds:
    """All that wait. ``policy``: the policy of now, which says how many may."""

    def __init__(self, cookies: Cookies, policy: Callable[[], Ipsec]) -> None:
        self._cookies = cookies
        self._policy = policy
        #: By (peer, initiator's cookie): the claims with messages held back.
        self._deadlines: Deadlines[tuple[Ip4, int]] = Deadlines()
        self._count = 0

    def hold(self, held: Held) -> Drop | None:
        """Keep a first message until another host's with the same cookie is answered, if there is room."""
        peer, cookie = held.conversation.relation.peer, held.message.initiator_cookie
        claim = self._cookies.claim(peer, cookie)
        assert claim is not None
        earlier = claim.held_for(held.conversation)
        if earlier is not None:
            earlier.message, earlier.header, earlier.datagram = held.message, held.header, held.datagram
            return None
        if self._count >= self._policy().most_held:
            return _collision(held)
        claim.held += (held,)
        held.conversation.holding += (cookie,)
        self._count += 1
        self._deadlines.file((peer, cookie), held.until)
        return None

    def take_back(self, claim: Claim, held: Held) -> None:
        """Hold a message no longer."""
        conversation, cookie = held.conversation, held.message.initiator_cookie
        claim.held = tuple(other for other in claim.held if other is not held)
        conversation.holding = tuple(other for other in conversation.holding if other != cookie)
        self._count -= 1

    def end(self, conversation: Conversation) -> None:
        """Hold nothing more of a conversation that is over."""
        peer = conversation.relation.peer
        for cookie in conversation.holding:
            claim = self._cookies.claim(peer, cookie)
            assert claim is not None
            held = claim.held_for(conversation)
            assert held is not None
            self.take_back(claim, held)
            self._cookies.tidy(peer, cookie)

    def adopt(self, peer: Ip4, claims: dict[int, Claim]) -> None:
        """Go on with what was held before a restart."""
        for cookie, claim in claims.items():
            for held in claim.held:
                self._count += 1
                self._deadlines.file((peer, cookie), held.until)

    def next_deadline(self) -> float | None:
        """When ``overdue`` is next to be called."""
        return self._deadlines.next()

    def overdue(self, *, now: float) -> list[tuple[Conversation, Drop]]:
        """Give up what has waited too long: whose it was, and what is to be said of it."""
        given_up: list[tuple[Conversation, Drop]] = []
        for peer, cookie in self._deadlines.due(now):
            claim = self._cookies.claim(peer, cookie)
            for held in claim.held if claim else ():
                if held.until <= now:
                    assert claim is not None
                    self.take_back(claim, held)
                    given_up.append((held.conversation, _collision(held)))
                else:
                    self._deadlines.file((peer, cookie), held.until)
        return given_up


def _collision(held: Held) -> Drop:
    relation = held.conversation.relation
    ends = f"{show_ip(relation.host)} to {show_ip(relation.peer)}"
    return Drop(Reason.IKE_COLLISION, f"{ends}, cookie {show_cookie(held.message.initiator_cookie)}")
