"""The session registry: every VPN session of every protocol, within bounds.

One registry serves all trackers, so that the limits hold for all protocols together and an operator
finds everything in one table.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from protocols.addr import Ip4
from protocols.allocator import Random
from protocols.bucket import TokenBucket
from protocols.drops import Reason
from protocols.policy import Limits
from protocols.sessions import Session, Traffic

#: Packets, octets and when the last packet came: outbound, inbound.
Counted = tuple[int, int, float]
Counts = tuple[Counted, Counted]


class SessionRegistry:
    """Sessions by id, counted per initiating host."""

    def __init__(self, limits: Limits, random: Random) -> None:
        self._random = random
        self._sessions: dict[str, Session] = {}
        self._hosts: Counter[Ip4] = Counter()
        self._initiators: dict[str, Ip4] = {}
        self.limits = limits
        #: Whether no more sessions are to be taken.
        self.draining = False
        self._rate = TokenBucket(limits.new_per_second, limits.new_per_second)
        #: What ended sessions have carried.
        self.carried_outbound = Traffic()
        self.carried_inbound = Traffic()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def get(self, session_id: str) -> Session | None:
        """The session with this id."""
        return self._sessions.get(session_id)

    def relimit(self, limits: Limits) -> None:
        """Use other limits from now on; sessions above a new limit stay."""
        self.limits = limits
        self._rate = TokenBucket(limits.new_per_second, limits.new_per_second)

    def refusal(self, initiator: Ip4, *, now: float) -> Reason | None:
        """Why the host may not have one more session; None when it may (and a rate token is used)."""
        if self.draining:
            return Reason.DRAINING
        if len(self._sessions) >= self.limits.sessions:
            return Reason.LIMIT_SESSIONS
        if self._hosts[initiator] >= self.limits.sessions_per_client:
            return Reason.LIMIT_PER_HOST
        return self.haste(now=now)

    def haste(self, *, now: float) -> Reason | None:
        """Why nothing may begin right now; None when it may (and a rate token is used)."""
        return None if self._rate.take(now=now) else Reason.LIMIT_RATE

    def new_id(self, letter: str) -> str:
        """An id that no session has: a letter for the protocol and four or more hex digits."""
        digits = 4
        while True:
            session_id = f"{letter}{self._random(16**digits):0{digits}x}"
            if session_id not in self._sessions:
                return session_id
            digits += 1

    def add(self, session: Session, initiator: Ip4) -> None:
        """Enter a session, on the account of the host that began it."""
        self._sessions[session.id] = session
        self._initiators[session.id] = initiator
        self._hosts[initiator] += 1

    # -- across a restart ------------------------------------------------------------------------------

    def accounts(self, sessions: Iterable[Session]) -> dict[str, Ip4]:
        """On whose account each of these sessions is, by its id."""
        return {session.id: self._initiators[session.id] for session in sessions}

    def readmit(self, session: Session, initiator: Ip4) -> None:
        """Enter a session that was there before a restart, whatever the limits are now."""
        if session.id in self._sessions:  # two that never were at the same time
            session.id = self.new_id(session.id[0])
        session.offloaded = 0
        self.add(session, initiator)

    def counts(self) -> dict[str, Counts]:
        """What each session has carried, by its id."""
        return {s.id: (_counted(s.outbound), _counted(s.inbound)) for s in self._sessions.values()}

    def recount(self, counts: dict[str, Counts]) -> None:
        """Take over what sessions have carried since the snapshot that they are from."""
        for session_id, (outbound, inbound) in counts.items():
            session = self._sessions.get(session_id)
            if session is not None:
                for traffic, counted in ((session.outbound, outbound), (session.inbound, inbound)):
                    traffic.packets, traffic.octets, traffic.last_seen = counted

    def in_order(self) -> None:
        """Put the oldest first again."""
        self._sessions = {s.id: s for s in sorted(self._sessions.values(), key=lambda s: s.opened)}

    # -- endings ---------------------------------------------------------------------------------------

    def remove(self, session: Session) -> None:
        """Take a session out."""
        del self._sessions[session.id]
        for carried, traffic in (
            (self.carried_outbound, session.outbound),
            (self.carried_inbound, session.inbound),
        ):
            carried.packets += traffic.packets
            carried.octets += traffic.octets
        initiator = self._initiators.pop(session.id)
        self._hosts[initiator] -= 1
        if not self._hosts[initiator]:
            del self._hosts[initiator]


def _counted(traffic: Traffic) -> Counted:
    return traffic.packets, traffic.octets, traffic.last_seen
