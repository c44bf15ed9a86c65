"""The three policies of pairing: what becomes of a new SPI (HOWTO §6.2)."""

from typing import Final, Protocol

from protocols.actions import Action, Drop
from protocols.addr import show_ip
from protocols.drops import Reason
from protocols.esp import posterior
from protocols.esp.codec import show_spi
from protocols.esp.contacts import Contact, Inbound, Peer, Pending
from protocols.esp.flows import Flow
from protocols.esp.ledger import Ledger

#: A session with less than this left of its lifetime is no guess any more (LINEAGE: 5 minutes) …
_GUESS_LEFT: Final = 300.0


class Strategy(Protocol):
    """A policy of pairing."""

    def admit(self, contact: Contact, spi: int, *, now: float) -> Drop | None:
        """Why the contact's first packet with an outbound SPI may not pass; None when it may."""

    def again(self, contact: Contact, flow: Flow, *, now: float) -> Drop | None:
        """The same for a further packet of an outbound SPI that has not been answered."""

    def began(self, contact: Contact, flow: Flow, *, now: float) -> None:
        """A new outbound SPI was let through."""

    def unknown(
        self, peer: Peer, spi: int, *, fresh: bool, now: float
    ) -> tuple[Inbound | None, list[Contact], list[Action]]:
        """An inbound SPI that nobody has: its entry, or whom this packet may go to without one."""


class Fanout:
    """Nobody waits; copies go to all candidates until one of them is surely the owner."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def admit(self, contact: Contact, spi: int, *, now: float) -> Drop | None:  # noqa: ARG002
        """Let everybody pass."""
        return None

    def again(self, contact: Contact, flow: Flow, *, now: float) -> Drop | None:  # noqa: ARG002
        """Let everybody pass."""
        return None

    def began(self, contact: Contact, flow: Flow, *, now: float) -> None:
        """Nothing is to be noted."""

    def unknown(
        self, peer: Peer, spi: int, *, fresh: bool, now: float
    ) -> tuple[Inbound | None, list[Contact], list[Action]]:
        """Open the question; the only host that can be the owner of a new SPI is."""
        ledger = self._ledger
        inbound = ledger.add_inbound(peer, spi, fresh=fresh, now=now)
        actions: list[Action] = []
        verdict = posterior.judge(inbound, ledger.settings.error, together=False)
        if verdict.owner is not None:
            actions = ledger.confirm(inbound, verdict.owner, verdict.confidence, now=now)
        else:
            inbound.ranking, inbound.likeliest = verdict.ranking, verdict.confidence
            for contact in verdict.ranking:
                actions += ledger.refresh(contact)
        return inbound, [], actions


class Serialize:
    """One unanswered host per peer; it blocks the others for a bounded time (HOWTO §6.2)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def _block(self, peer: Peer) -> float:
        settings = self._ledger.settings
        trip = peer.round_trip
        if trip is None:
            return settings.usual_block
        return min(max(settings.block_round_trips * trip, settings.shortest_block), settings.outstanding)

    def _pending(self, peer: Peer, now: float) -> Pending | None:
        """Whom everybody waits for; the one whose time is up is forgotten, as if it had never begun."""
        pending = peer.pending
        if pending is None:
            return None
        opening = pending.opening
        answered = opening.inbound is not None or opening.silent or opening not in pending.contact.openings
        if not answered and now < pending.until:
            return pending
        peer.pending = None
        flow = opening.outbound
        if not answered and flow is not None:
            self._ledger.drop_outbound(pending.contact, flow, now=now)
        return None

    def admit(self, contact: Contact, spi: int, *, now: float) -> Drop | None:
        """Block whoever is not the one that everybody waits for."""
        peer = contact.peer
        if peer.squelched.get((contact.host, spi), now) > now:
            return Drop(Reason.ESP_SQUELCHED, f"{show_ip(contact.host)} to {show_ip(peer.address)}")
        peer.squelched.pop((contact.host, spi), None)
        pending = self._pending(peer, now)
        if pending is None:
            return None
        if pending.blocking_since is None:
            pending.blocking_since = now
            pending.until = min(pending.until, now + self._block(peer))
        holder = pending.contact.host
        outstanding = pending.opening.outbound
        detail = (
            f"{show_ip(contact.host)} {show_spi(spi)} to {show_ip(peer.address)}, temporarily blocked by "
            f"pending {show_ip(holder)} {show_spi(outstanding.spi if outstanding else 0)}, "
            f"for {pending.until - now:.1f} s at most"
        )
        return Drop(Reason.ESP_BLOCKED, detail)

    def again(self, contact: Contact, flow: Flow, *, now: float) -> Drop | None:
        """Count its retries while others wait; with too many of them it has to be silent for a while."""
        peer, settings = contact.peer, self._ledger.settings
        pending = self._pending(peer, now)
        if pending is None or pending.opening.outbound is not flow:
            return None
        if pending.blocking_since is None:
            pending.until = now + settings.outstanding
            return None
        pending.retries += 1
        if pending.retries <= settings.retries:
            pending.until = now + self._block(peer)
            return None
        peer.pending = None
        self._ledger.drop_outbound(contact, flow, now=now)
        for key in [k for k, until in peer.squelched.items() if until <= now]:
            del peer.squelched[key]
        peer.squelch(contact.host, flow.spi, now + settings.squelch)
        return Drop(Reason.ESP_SQUELCHED, f"{show_ip(contact.host)} to {show_ip(peer.address)}")

    def began(self, contact: Contact, flow: Flow, *, now: float) -> None:
        """Wait for its answer."""
        opening = next(o for o in contact.openings if o.outbound is flow)
        if opening.inbound is None:
            until = now + self._ledger.settings.outstanding
            contact.peer.pending = Pending(contact, opening, until)

    def unknown(
        self, peer: Peer, spi: int, *, fresh: bool, now: float
    ) -> tuple[Inbound | None, list[Contact], list[Action]]:
        """Take it for the answer that is waited for; with none, guess, and enter nothing."""
        pending = self._pending(peer, now)
        ledger = self._ledger
        if pending is None:
            return None, self._guess(peer, now), []
        inbound = Inbound(spi, peer, now, fresh, arrived=now)
        peer.inbound[spi] = inbound
        flow = pending.opening.outbound
        if flow is not None and not pending.retries:
            peer.measured(now - flow.last_seen)
        actions = ledger.confirm(inbound, pending.contact, 0.5, now=now, opening=pending.opening)
        peer.pending = None
        return inbound, [], actions

    def _guess(self, peer: Peer, now: float) -> list[Contact]:
        settings = self._ledger.settings
        rekeyed = [c for c in peer.contacts.values() if c.ike_seen + settings.lifetime - _GUESS_LEFT >= now]
        rekeyed.sort(key=lambda c: (-c.ike_seen, c.host))
        return rekeyed[: settings.guesses]


class Refuse:
    """One host per peer: the first."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def admit(self, contact: Contact, spi: int, *, now: float) -> Drop | None:
        """Refuse all hosts but the one that has a session."""
        holder = self._holder(contact.peer)
        if holder is None or holder is contact:
            return None
        left = holder.esp_seen() + self._ledger.settings.lifetime - now
        session = holder.session
        assert session is not None
        detail = (
            f"{show_ip(contact.host)} {show_spi(spi)} to {show_ip(contact.peer.address)}, which "
            f"{show_ip(holder.host)} holds (session {session.id}), for {left:.0f} s more if it is silent"
        )
        return Drop(Reason.ESP_REFUSED, detail)

    def again(self, contact: Contact, flow: Flow, *, now: float) -> Drop | None:  # noqa: ARG002
        """Let it pass: it was admitted."""
        return None

    def began(self, contact: Contact, flow: Flow, *, now: float) -> None:
        """Nothing is to be noted."""

    def unknown(
        self, peer: Peer, spi: int, *, fresh: bool, now: float
    ) -> tuple[Inbound | None, list[Contact], list[Action]]:
        """Give it to the host that has the session, else to the last that spoke to the peer."""
        owner = self._holder(peer) or max(peer.contacts.values(), key=lambda c: (c.ike_seen, -c.host))
        inbound = self._ledger.add_inbound(peer, spi, fresh=fresh, now=now)
        confidence = 1 - self._ledger.settings.error
        return inbound, [], self._ledger.confirm(inbound, owner, confidence, now=now)

    def _holder(self, peer: Peer) -> Contact | None:
        """The contact whose session is the oldest."""
        held = [c for c in peer.contacts.values() if c.session is not None]
        return min(held, key=_opened, default=None)


def _opened(contact: Contact) -> float:
    return contact.session.opened if contact.session is not None else 0.0
