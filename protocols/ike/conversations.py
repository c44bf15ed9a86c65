"""Which inside hosts talk IKE to which peers, from the first message until long after the last."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from protocols.actions import Action, Drop, SessionChanged, SessionClosed, SessionOpened
from protocols.addr import Ip4, show_ip
from protocols.admission import Admission
from protocols.deadlines import Deadlines
from protocols.drops import Reason
from protocols.esp.memory import Memory, Remembered
from protocols.few import Few
from protocols.ike.association import Association, Conversation, IkeSession
from protocols.ike.cookies import Claim, Cookies
from protocols.ike.header import IkeHeader
from protocols.ike.rules import Relation
from protocols.policy import Ipsec
from protocols.registry import SessionRegistry
from protocols.sessions import State

#: When data between a host and a peer was last seen; None if they have none.
Alive = Callable[[Ip4, Ip4], float | None]

#: Hosts of a peer that nobody talks to; never changed.
_NOBODY: Final[Few[Ip4, Conversation]] = Few()


class Conversations:
    """Conversations by peer and host, and their SAs."""

    def __init__(
        self, admission: Admission, registry: SessionRegistry, cookies: Cookies, companion: Alive
    ) -> None:
        self._admission = admission
        self._registry = registry
        self._cookies = cookies
        self._companion = companion
        self._hosts: dict[Ip4, Few[Ip4, Conversation]] = {}
        self._deadlines: Deadlines[Conversation] = Deadlines()
        #: Hosts of SAs that went silent: whose peer may yet speak in them, to rekey or to ask for life.
        self._memory = Memory()
        #: Claims for whose first answer nobody waits any more.
        self.freed: list[Claim] = []
        #: What was forgotten because there was too much of it.
        self.given_up: list[Drop] = []

    def __iter__(self) -> Iterator[Conversation]:
        return (conversation for hosts in list(self._hosts.values()) for conversation in list(hosts.values()))

    @property
    def _ipsec(self) -> Ipsec:
        return self._admission.policy.ipsec

    def find(self, host: Ip4, peer: Ip4) -> Conversation | None:
        """The conversation of the two."""
        hosts = self._hosts.get(peer)
        return None if hosts is None else hosts.get(host)

    def last_talker(self, peer: Ip4) -> Conversation | None:
        """The conversation of the host that last said something to the peer."""
        return max(self._hosts.get(peer, _NOBODY).values(), key=lambda c: c.host_spoke, default=None)

    def open(
        self, relation: Relation, initiator: Ip4, actions: list[Action], *, now: float
    ) -> Conversation | Reason:
        """The conversation of the two, begun if need be on the account of ``initiator``."""
        conversation = self.find(relation.host, relation.peer)
        if conversation is not None:
            conversation.relation = relation
            return conversation
        refusal = self._registry.refusal(initiator, now=now)
        if refusal is not None:
            return refusal
        wan = self._admission.addresses.wan
        assert wan is not None
        session = IkeSession(
            id=self._registry.new_id("k"),
            protocol="isakmp",
            role=relation.role,
            rule=relation.rule,
            state=State.CONNECTING,
            inside=relation.host,
            gateway=wan,
            peer=relation.peer,
            opened=now,
            last_seen=now,
        )
        self._registry.add(session, initiator)
        conversation = Conversation(relation, session)
        self._enter(conversation)
        self.look_again(conversation, now + self._ipsec.unanswered)
        actions.append(SessionOpened(session))
        return conversation

    def _enter(self, conversation: Conversation) -> None:
        relation = conversation.relation
        if relation.peer not in self._hosts:
            self._hosts[relation.peer] = Few()
        self._hosts[relation.peer][relation.host] = conversation

    def begin(
        self, conversation: Conversation, message: IkeHeader, *, by_host: bool, now: float
    ) -> Association:
        """Enter a new SA, at the cost of the least recently used one if there are too many."""
        associations = conversation.session.associations
        guessed = [a for a in associations if a.guessed]
        # Whoever pretends to be the peer must not push out what the host itself takes part in.
        if not by_host and len(guessed) >= self._ipsec.most_unanswered:
            self._give_up(guessed[0])
        elif len(associations) >= self._ipsec.most_associations:
            self._give_up((guessed or list(associations))[0])
        association = Association(
            conversation,
            conversation.relation,
            message.initiator_cookie,
            message.responder_cookie,
            by_host,
            now,
        )
        self._cookies.add(association)
        self._file(conversation)
        return association

    def _give_up(self, association: Association) -> None:
        relation = association.conversation.relation
        detail = f"{show_ip(relation.host)} with {show_ip(relation.peer)}"
        self.given_up.append(Drop(Reason.IKE_FORGOTTEN, detail))
        self.forget(association)

    def forget(self, association: Association) -> None:
        """Forget an SA; its cookies are free for others."""
        self.freed.append(self._cookies.remove(association))

    def recall(self, peer: Ip4, message: IkeHeader, *, now: float) -> Ip4 | None:
        """The host of an SA that went silent; it is in use again."""
        remembered = self._memory.recall(peer, _pair(message), now=now)
        return remembered.host if remembered else None

    def disown(self, conversation: Conversation) -> None:
        """Remember none of its SAs."""
        self._memory.forget(conversation.relation.peer, conversation.relation.host)

    def heard(self, association: Association, *, now: float) -> list[Action]:
        """Somebody spoke in an SA."""
        conversation, session = association.conversation, association.conversation.session
        association.last_seen = session.last_seen = now
        session.associations.pop(association)
        session.associations[association] = None
        self._file(conversation)
        if not association.mutual or session.state is not State.CONNECTING:
            return []
        session.state = State.ESTABLISHED
        return [SessionChanged(session)]

    def end(self, conversation: Conversation, why: str) -> list[Action]:
        """Forget a conversation that has nothing held back, and its SAs."""
        relation, session = conversation.relation, conversation.session
        for association in list(session.associations):
            self.forget(association)
        hosts = self._hosts[relation.peer]
        del hosts[relation.host]
        if not hosts:
            del self._hosts[relation.peer]
        self._deadlines.discard(conversation)
        session.state = State.CLOSING
        self._registry.remove(session)
        return [SessionClosed(session, why)]

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart: for each peer all conversations, and its cookies; silent SAs."""
        for peer in list(self._hosts):
            conversations = list(self._hosts.get(peer, _NOBODY).values())
            accounts = self._registry.accounts(c.session for c in conversations)
            yield "peer", peer, conversations, self._cookies.claims(peer, conversations), accounts
        for portion in self._memory.portions():
            yield "silent", portion

    def remember(self, portion: list[tuple[tuple[Ip4, int], Remembered]]) -> None:
        """Take in a record of silent SAs of before a restart."""
        self._memory.take_in(portion, most=self._ipsec.most_remembered)

    def adopt(
        self, peer: Ip4, conversations: list[Conversation], claims: dict[int, Claim], accounts: dict[str, Ip4]
    ) -> None:
        """Take in a record of before a restart."""
        self._cookies.adopt(peer, claims)
        for conversation in conversations:
            self._enter(conversation)
            session = conversation.session
            self._registry.readmit(session, accounts[session.id])
            self._file(conversation)
            if not session.associations:
                self.look_again(conversation, session.opened + self._ipsec.unanswered)

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``overdue`` is next to be called."""
        return self._deadlines.next()

    def overdue(self, *, now: float) -> list[Conversation]:
        """Forget the SAs whose time has come; the conversations in which nothing is left."""
        empty = []
        self._memory.expire(now=now)
        for conversation in self._deadlines.due(now):
            for association in list(conversation.session.associations):
                if self._deadline(association) <= now:
                    self._remember(association, now)
                    self.forget(association)
            self._file(conversation)
            # One with something held back is looked at again when that is settled.
            if not conversation.session.associations and not conversation.holding:
                empty.append(conversation)
        return empty

    def _remember(self, association: Association, now: float) -> None:
        if association.mutual:
            ipsec, relation = self._ipsec, association.conversation.relation
            remembered = Remembered(relation.host, 1.0, now + ipsec.memory)
            self._memory.keep(relation.peer, _pair(association), remembered, most=ipsec.most_remembered)

    def _deadline(self, association: Association) -> float:
        """When an SA is to be forgotten. Data keeps the newest alive: the peer will rekey in that one."""
        ipsec = self._ipsec
        until = association.last_seen + (ipsec.lifetime if association.mutual else ipsec.unanswered)
        session = association.conversation.session
        if not association.mutual or next(reversed(session.associations)) is not association:
            return until
        data = self._companion(session.inside, session.peer)
        return until if data is None else max(until, data + ipsec.lifetime)

    def refile(self) -> None:
        """The times of a new policy may be shorter."""
        for conversation in self:
            self._file(conversation)

    def _file(self, conversation: Conversation) -> None:
        associations = conversation.session.associations
        if associations:
            self._deadlines.file(conversation, min(map(self._deadline, associations)))

    def look_again(self, conversation: Conversation, when: float) -> None:
        """Look by then whether anything is left of a conversation."""
        self._deadlines.file(conversation, when)


def _pair(of: IkeHeader | Association) -> int:
    """Both cookies as one number."""
    if isinstance(of, Association):
        return of.initiator << 64 | of.responder
    return of.initiator_cookie << 64 | of.responder_cookie
