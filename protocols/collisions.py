"""Transport-mode IPsec of two clients to one peer: the collision of HOWTO §6.1, as far as it can be seen.

Both clients come from our one address, and in transport mode (L2TP/IPsec) that address and the port inside
are all that a peer's policy goes by: the newer client's SA takes over, and the older one's session goes dead.
Encrypted as it is, the mode cannot be seen. What can: a client goes on sending to a peer that has answered it
before, and hears nothing more since about when another client's session with the same peer began, which does
get answers. So what is said is "likely", and why.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from protocols.addr import Ip4, show_ip
from protocols.sessions import Session

#: Seconds without an answer that are suspicious; tunnels that are alive answer sooner (dead peer detection).
_SILENCE = 60.0
#: Packets sent meanwhile: fewer may be keepalives that nobody answers.
_SENT = 10
#: Seconds between the last answer to one and the first to the other that count as "about when".
_ABOUT = 60.0
#: Peers that are told about.
_MOST = 64


@dataclass(slots=True)
class _Mark:
    """How things stood when a session was last answered."""

    heard: float
    sent: int


class Collisions:
    """Looks for collisions now and then."""

    def __init__(self) -> None:
        self._marks: dict[str, _Mark] = {}
        #: What an operator should know, by peer.
        self.warnings: dict[Ip4, str] = {}

    def look(self, sessions: Iterable[Session], *, now: float) -> list[str]:
        """Look at all sessions; what has been found out since the last time."""
        by_peer: dict[Ip4, list[Session]] = defaultdict(list)
        for session in sessions:
            if session.protocol in ("esp", "natt"):
                by_peer[session.peer].append(session)
        marks, found = {}, []
        for peer, some in by_peer.items():
            if len({session.inside for session in some}) < 2:
                continue
            for session in some:
                mark = marks[session.id] = self._mark(session)
                rival = _rival(session, mark, some, now)
                if rival is not None and peer not in self.warnings and len(self.warnings) < _MOST:
                    self.warnings[peer] = _text(session, rival, now - mark.heard)
                    found.append(self.warnings[peer])
        self._marks = marks
        return found

    def _mark(self, session: Session) -> _Mark:
        heard = _heard(session)
        mark = self._marks.get(session.id)
        if mark is None or heard > mark.heard:
            return _Mark(heard, session.outbound.packets)
        return mark


def _heard(session: Session) -> float:
    # While it is not known whose a packet is, copies count for the session as a whole.
    return max(session.inbound.last_seen, session.last_seen)


def _rival(session: Session, mark: _Mark, others: list[Session], now: float) -> Session | None:
    """The session that may have taken over what was this one's."""
    sent = session.outbound.packets - mark.sent
    if not session.inbound.packets or now - mark.heard < _SILENCE or sent < _SENT:
        return None
    for other in others:
        began = abs(other.opened - mark.heard) <= _ABOUT
        if other.inside != session.inside and began and other.inbound.last_seen > mark.heard:
            return other
    return None


def _text(session: Session, rival: Session, silence: float) -> str:
    older, newer, peer = (show_ip(address) for address in (session.inside, rival.inside, session.peer))
    return (
        f"{older} and {newer} likely use IPsec in transport mode (L2TP/IPsec) with {peer}, which cannot tell "
        f"two clients behind one address apart (HOWTO §6.1): {older} sends and has had no answer for "
        f"{silence:.0f} s, since about when the session of {newer} began. Use tunnel mode (IKEv2), or one "
        "client at a time"
    )
