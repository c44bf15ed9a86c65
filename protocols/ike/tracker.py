"""IKE on port 500, translated by its cookies and never by its port (HOWTO §6.1, RFC 3715 §2.3).

Many hosts talk from port 500 to the same peer's, and all of them keep it, since old peers insist on it. What
comes back is told apart by the cookies. A message with cookies that nobody knows, by which a peer begins
a rekey, goes to one host and never to several: the exposed server that the peer may reach, or else
the host that last talked to the peer.

    (new) --one side speaks--> CONNECTING --the other answers--> ESTABLISHED
    CONNECTING  --unanswered--> (gone)
    ESTABLISHED --lifetime without a message, and without ESP of the same two--> (gone)

No payload is read, changed or shown.
"""

from collections.abc import Callable, Iterator
from typing import Any

from protocols import ipv4
from protocols.actions import Action, Drop
from protocols.addr import Ip4, contains
from protocols.admission import Admission
from protocols.deadlines import earliest
from protocols.drops import Reason
from protocols.ike import rules
from protocols.ike.association import Association, Conversation
from protocols.ike.conversations import Alive, Conversations
from protocols.ike.cookies import Claim, Cookies, Held
from protocols.ike.header import IkeHeader
from protocols.ike.holds import Holds
from protocols.ike.observation import IkeObserved
from protocols.natt.disguise import Disguises, addressee, forgotten, shown
from protocols.outstanding import Outstanding
from protocols.policy import Ipsec
from protocols.registry import SessionRegistry
from protocols.sessions import Role, Session, Traffic
from protocols.udp import Datagram, Endpoint

#: RFC 2408 §2.5.1, RFC 7296 §2.
PORT = 500

#: Takes a datagram on to where it is addressed: the wire, or an exposed server behind the same address.
Onward = Callable[[ipv4.Header, Datagram, float], list[Action]]
Observe = Callable[[IkeObserved], None]


class IkeTracker:
    """All IKE that keeps port 500.

    ``companion`` says when the ESP of a host and a peer was last seen: it keeps their IKE alive.
    """

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        disguises: Disguises,
        *,
        onward: Onward,
        observe: Observe,
        companion: Alive,
    ) -> None:
        self._admission = admission
        self._disguises = disguises
        self._onward = onward
        self._observe = observe
        self._cookies = Cookies()
        self._conversations = Conversations(admission, registry, self._cookies, companion)
        self._holds = Holds(self._cookies, lambda: self._ipsec)
        self._outstanding: Outstanding[Association] = Outstanding(lambda: self._ipsec.most_outstanding)

    @property
    def _ipsec(self) -> Ipsec:
        return self._admission.policy.ipsec

    def alive(self, host: Ip4, peer: Ip4) -> float | None:
        """When the two last exchanged IKE; None if nothing of it is remembered."""
        session = self.session(host, peer)
        return session.last_seen if session else None

    def session(self, host: Ip4, peer: Ip4) -> Session | None:
        """The session of the two."""
        conversation = self._conversations.find(host, peer)
        return conversation.session if conversation else None

    # -- from inside -----------------------------------------------------------------------------------

    def outbound(
        self, header: ipv4.Header, datagram: Datagram, message: IkeHeader, neighbour: Ip4 | None, now: float
    ) -> list[Action]:
        """Take a message that an inside host sent from port 500; ``neighbour`` as in ``addressee``."""
        meant = addressee(self._admission, self._disguises, datagram, neighbour)
        wan = self._admission.addresses.wan
        assert wan is not None
        if meant is None:
            return [Drop(Reason.NO_RULE, str(datagram))]
        relation, target = meant
        actions: list[Action] = []
        conversation = self._conversations.open(relation, relation.host, actions, now=now)
        if isinstance(conversation, Reason):
            return [Drop(conversation, str(datagram))]
        wire = datagram.between((wan, PORT), target)
        ready = Held(conversation, message, header, wire, now + self._ipsec.hold)
        found = self._sender(conversation, message, now)
        if found is None:
            refused = self._holds.hold(ready)
            actions += [refused] if refused is not None else []
        elif isinstance(found, Reason):
            actions.append(Drop(found, str(datagram)))
        else:
            found.relation = relation
            actions += self._send_out(found, ready, now)
        return actions + self._release(now)

    def _sender(
        self, conversation: Conversation, message: IkeHeader, now: float
    ) -> Association | Reason | None:
        """The SA of a message from inside; None when it has to wait."""
        peer = conversation.relation.peer
        claim = self._cookies.claim(peer, message.initiator_cookie)
        mine = claim.of(conversation) if claim else None
        known = self._cookies.known(peer, message)
        if not message.responder_cookie:
            return self._first(conversation, message, claim, mine, now)
        if known is not None and known.conversation is not conversation:
            if not known.guessed:
                return Reason.IKE_COLLISION
            # It was only our guess that the peer's rekey was meant for the other host.
            self._conversations.forget(known)
        elif known is not None:
            return known
        elif mine is not None and not mine.by_host and not mine.responder:
            self._cookies.learn(mine, message.responder_cookie)
            return mine
        return self._conversations.begin(conversation, message, by_host=True, now=now)

    def _first(
        self,
        conversation: Conversation,
        message: IkeHeader,
        claim: Claim | None,
        mine: Association | None,
        now: float,
    ) -> Association | None:
        if mine is not None and not mine.by_host:
            # The peer began; a responder may answer without a cookie of its own (RFC 7296 §2.6).
            return mine
        if claim is not None and claim.waiting and claim.waiting.conversation is not conversation:
            return None
        association = mine or self._conversations.begin(conversation, message, by_host=True, now=now)
        self._cookies.wait(association)
        return association

    def _send_out(self, association: Association, ready: Held, now: float) -> list[Action]:
        conversation = association.conversation
        conversation.host_spoke = now
        association.heard_host = True
        _count(conversation.session.outbound, ready.header, now)
        self._note(conversation, ready.message, outbound=True)
        actions = self._conversations.heard(association, now=now)
        if not association.heard_peer:
            self._outstanding.keep(association, ready.header, ready.datagram, now=now)
        return actions + self._onward(ready.header, ready.datagram, now)

    def awaited(self) -> Ip4 | None:
        """A peer whose first answer somebody waits for."""
        return self._outstanding.target()

    def resend(self, *, now: float) -> list[Action]:
        """Send first messages that nobody has answered again, from the public address of now."""
        actions: list[Action] = []
        wan = self._admission.addresses.wan
        for association, sent in self._outstanding.since(now - self._ipsec.unanswered):
            if association not in association.conversation.session.associations:
                self._outstanding.answered(association)
            elif wan is not None and sent.datagram.source[0] != wan:
                datagram = sent.datagram.between((wan, PORT), sent.datagram.target)
                self._outstanding.keep(association, sent.header, datagram, now=now)
                actions += self._onward(sent.header, datagram, now)
        return actions

    def _note(self, conversation: Conversation, message: IkeHeader, *, outbound: bool) -> None:
        host, peer = conversation.relation.host, conversation.relation.peer
        self._observe(conversation.exchanges.observe(host, peer, message, outbound=outbound))

    def _release(self, now: float) -> list[Action]:
        """Let messages go that began with cookies whose first answers nobody waits for any more."""
        actions: list[Action] = []
        freed = self._conversations.freed
        while freed:
            claim = freed.pop()
            if claim.waiting is None and claim.held:
                held = claim.held[0]
                self._holds.take_back(claim, held)
                association = self._conversations.begin(
                    held.conversation, held.message, by_host=True, now=now
                )
                self._cookies.wait(association)
                # Our address may have changed in the meantime.
                source = (held.conversation.session.gateway, PORT)
                held.datagram = held.datagram.between(source, held.datagram.target)
                actions += self._send_out(association, held, now)
        given_up, self._conversations.given_up = self._conversations.given_up, []
        return [*actions, *given_up]

    # -- from outside ----------------------------------------------------------------------------------

    def inbound(
        self, header: ipv4.Header, datagram: Datagram, message: IkeHeader, peer: Ip4, now: float
    ) -> list[Action]:
        """Take a message for our port 500 from ``peer``: its address, or the inside host it stands for."""
        actions: list[Action] = []
        found = self._receiver(peer, message, actions, now)
        source = None if isinstance(found, Reason) else self._shown(found, datagram, now)
        if isinstance(found, Reason) or source is None:
            reason = found if isinstance(found, Reason) else Reason.NO_PORT
            return [*actions, Drop(reason, str(datagram)), *self._release(now)]
        conversation = found.conversation
        found.heard_peer = True
        self._outstanding.answered(found)
        _count(conversation.session.inbound, header, now)
        self._note(conversation, message, outbound=False)
        actions += self._conversations.heard(found, now=now)
        actions.append(datagram.between(source, (conversation.relation.host, PORT)).forwarded(header))
        if message.responder_cookie:
            self._conversations.freed += self._cookies.answered(found)
        return actions + self._release(now)

    def _receiver(
        self, peer: Ip4, message: IkeHeader, actions: list[Action], now: float
    ) -> Association | Reason:
        known = self._cookies.known(peer, message)
        if known is not None:
            return known
        remembered = self._remembered(peer, message, actions, now)
        if remembered is not None:
            return remembered
        claim = self._cookies.claim(peer, message.initiator_cookie)
        if claim is not None:
            match = claim.waiting or claim.sole()
            if match is None:
                return Reason.IKE_COLLISION
            if match.responder and message.responder_cookie:
                # Another answer to the same first message: the host will choose.
                return self._conversations.begin(match.conversation, message, by_host=match.by_host, now=now)
            if message.responder_cookie:
                self._cookies.learn(match, message.responder_cookie)
            return match
        conversation = self._fallback(peer, actions, now)
        if isinstance(conversation, Reason):
            return conversation
        return self._conversations.begin(conversation, message, by_host=False, now=now)

    def _remembered(
        self, peer: Ip4, message: IkeHeader, actions: list[Action], now: float
    ) -> Association | Reason | None:
        """An SA that was silent for its lifetime, and is spoken in again."""
        host = self._conversations.recall(peer, message, now=now)
        relation = None if host is None else rules.between(self._admission, host, peer)
        if relation is None:
            return None
        conversation = self._conversations.open(relation, peer, actions, now=now)
        if isinstance(conversation, Reason):
            return conversation
        # The host took part in it, whoever began it: it is no guess.
        return self._conversations.begin(conversation, message, by_host=True, now=now)

    def _fallback(self, peer: Ip4, actions: list[Action], now: float) -> Conversation | Reason:
        """The one host to get what nobody is known to own (RFC 3715 §2.3a)."""
        relation = rules.from_peer(self._admission, peer)
        if relation is not None:
            return self._conversations.open(relation, peer, actions, now=now)
        return self._conversations.last_talker(peer) or Reason.IKE_UNKNOWN

    def _shown(self, association: Association, datagram: Datagram, now: float) -> Endpoint | None:
        """As whom the host sees the peer."""
        relation = association.relation
        source = shown(self._disguises, relation, datagram, PORT)
        if source is not None and relation.hidden:
            endpoints = association.conversation.endpoints
            endpoints.pop(datagram.source, None)
            endpoints[datagram.source] = None
            if len(endpoints) > self._ipsec.most_endpoints:
                oldest = next(iter(endpoints))
                del endpoints[oldest]
                self._conversations.given_up.append(forgotten(relation.host, oldest))
                self._disguises.forget((relation.host, PORT), oldest, now=now)
        return source

    # -- endings ---------------------------------------------------------------------------------------

    def _end(self, conversation: Conversation, why: str, now: float) -> list[Action]:
        self._holds.end(conversation)
        for endpoint in conversation.endpoints:
            self._disguises.forget((conversation.relation.host, PORT), endpoint, now=now)
        return self._conversations.end(conversation, why)

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session, if it is one of ours. Nobody is told: there is no way to."""
        actions: list[Action] = []
        for conversation in self._conversations:
            if conversation.session is session:
                self._conversations.disown(conversation)
                actions += self._end(conversation, why, now)
        return actions + self._release(now)

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        actions: list[Action] = []
        for conversation in self._conversations:
            actions += self._end(conversation, why, now)
        self._conversations.freed.clear()
        return actions

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules of now do not allow; a new public address is taken over."""
        actions: list[Action] = []
        wan = self._admission.addresses.wan
        for conversation in self._conversations:
            relation = rules.renewed(self._admission, conversation.relation)
            changes_port = contains(self._ipsec.change_port, conversation.relation.peer)
            if relation is None or (changes_port and relation.role is Role.MASQUERADE):
                why = "no longer allowed" if relation is None else "its source port is to be changed"
                actions += self._end(conversation, why, now)
                continue
            conversation.relation = relation
            for association in conversation.session.associations:
                association.relation = rules.renewed(self._admission, association.relation) or relation
            conversation.session.rule = relation.rule
            conversation.session.gateway = wan or conversation.session.gateway
        self._conversations.refile()
        return actions + self._release(now)

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        return self._conversations.records()

    def adopt(self, kind: str, *record: Any) -> None:
        """Take in a record of before a restart."""
        if kind == "silent":
            self._conversations.remember(*record)
        else:
            self._adopt(*record)

    def _adopt(
        self, peer: Ip4, conversations: list[Conversation], claims: dict[int, Claim], accounts: dict[str, Ip4]
    ) -> None:
        self._conversations.adopt(peer, conversations, claims, accounts)
        self._holds.adopt(peer, claims)

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest((self._conversations.next_deadline(), self._holds.next_deadline()))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        for conversation, given_up in self._holds.overdue(now=now):
            self._conversations.look_again(conversation, now)
            actions.append(given_up)
        for conversation in self._conversations.overdue(now=now):
            actions += self._end(conversation, "idle", now)
        return actions + self._release(now)


def _count(traffic: Traffic, header: ipv4.Header, now: float) -> None:
    traffic.packets += 1
    traffic.octets += header.total_length
    traffic.last_seen = now
