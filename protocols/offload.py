"""Which data flows the kernel is to carry, and what it has carried.

Trackers offer flows that are sure, and withdraw them when they are not any more. What that amounts to is
said in actions once for each call of the gateway: a flow that is withdrawn and offered again meanwhile stays
where it is. Rules may keep their flows from it; a flow for which the kernel has no room stays ours.

The kernel's counters are read when a flow is withdrawn, and told to us from time to time (``seen``), so that
idle times and sessions are right whoever carries the packets.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from protocols.actions import Offload, Shortcut, Unload
from protocols.sessions import Session, Traffic

#: What the kernel has carried of a flow since it was handed over: packets, octets, when the last of them
#: came, and its sequence number (ESP).
Carried = tuple[int, int, float, int]

#: Asks the kernel what a flow has carried; None if it does not carry it.
Read = Callable[[int], Carried | None]


class Offered(Protocol):
    """A flow of any protocol, told from others by identity."""

    @property
    def shortcut(self) -> Shortcut:
        """What its packets arrive with and leave with."""

    def add(self, packets: int, octets: int, last_seen: float, sequence: int) -> None:
        """Count packets that passed elsewhere; ``sequence`` is the last one's number (ESP)."""


@dataclass(slots=True, eq=False)
class _Offer:
    """A flow that is sure, or was until a moment ago."""

    flow: Offered
    sessions: tuple[Session, ...]
    #: What all flows of its direction have carried in the kernel, for each of the sessions.
    totals: tuple[Traffic, ...]
    wanted: bool = True
    #: While the kernel carries it.
    number: int | None = None
    #: What was counted of it so far.
    packets: int = 0
    octets: int = 0


class Offloads:
    """All offers. ``read`` is None where there is no fast path: then nothing is ever offered.

    ``kept_out``: whether a rule, by its name, keeps its flows from the kernel.
    """

    def __init__(
        self, read: Read | None = None, kept_out: Callable[[str], bool] = lambda _rule: False
    ) -> None:
        self._read = read
        self._kept_out = kept_out
        #: What the kernel has carried, as far as it is counted by now.
        self.outbound = Traffic()
        self.inbound = Traffic()
        #: By the identity of the flow, which the offer keeps alive.
        self._offers: dict[int, _Offer] = {}
        self._carried: dict[int, _Offer] = {}
        self._open: dict[_Offer, None] = {}
        self._numbers = itertools.count(1)

    def offer(self, flow: Offered, *sessions: Session) -> None:
        """The flow is sure, and counts for these sessions: one, or both of a hairpin's."""
        if self._read is None:
            return
        found = self._offers.get(id(flow))
        if found is None:
            sender = flow.shortcut.sender
            totals = tuple(self.outbound if sender == s.inside else self.inbound for s in sessions)
            found = self._offers[id(flow)] = _Offer(flow, sessions, totals)
        found.wanted = True
        self._open[found] = None

    def withdraw(self, flow: Offered) -> None:
        """It is not, or is no more. What the kernel has carried of it is counted now."""
        found = self._offers.get(id(flow))
        if found is None or not found.wanted:
            return
        self._refresh(found)
        found.wanted = False
        self._open[found] = None

    def refresh(self, flow: Offered) -> None:
        """Count what the kernel has carried of a flow up to now."""
        found = self._offers.get(id(flow))
        if found is not None:
            self._refresh(found)

    def refresh_all(self) -> None:
        """Count what the kernel has carried of all flows up to now."""
        for offer in self._carried.values():
            self._refresh(offer)

    def _refresh(self, offer: _Offer) -> None:
        if offer.number is not None and self._read is not None:
            carried = self._read(offer.number)
            if carried is not None:
                self._count(offer, carried)

    def reconsider(self) -> None:
        """The rules have changed: so may have what they let the kernel carry."""
        self._open.update(dict.fromkeys(self._offers.values()))

    def take(self) -> Iterable[Offload | Unload]:
        """What has changed since this was asked last, withdrawals first."""
        opened, self._open = self._open, {}
        new: list[Offload | Unload] = []
        gone: list[Offload | Unload] = []
        for offer in opened:
            carry = offer.wanted and not any(self._kept_out(session.rule) for session in offer.sessions)
            if not carry and offer.number is not None:
                self._refresh(offer)
                gone.append(Unload(offer.number))
                self._drop(offer)
            elif carry and offer.number is None:
                offer.number = next(self._numbers)
                offer.packets = offer.octets = 0
                for session in offer.sessions:
                    session.offloaded += 1
                self._carried[offer.number] = offer
                new.append(Offload(offer.number, offer.flow.shortcut))
            if not offer.wanted:
                del self._offers[id(offer.flow)]
        return gone + new

    @property
    def pending(self) -> bool:
        """Whether ``take`` has something to look at."""
        return bool(self._open)

    def refused(self, number: int) -> None:
        """The kernel has no room for a flow: it stays ours."""
        offer = self._carried.get(number)
        if offer is not None:
            self._drop(offer)

    def seen(self, changes: Iterable[tuple[int, Carried]]) -> None:
        """Take what the kernel has carried of flows so far."""
        offers = self._carried
        for number, carried in changes:
            offer = offers.get(number)
            if offer is not None:
                self._count(offer, carried)

    def _drop(self, offer: _Offer) -> None:
        assert offer.number is not None
        del self._carried[offer.number]
        offer.number = None
        for session in offer.sessions:
            session.offloaded -= 1

    @staticmethod
    def _count(offer: _Offer, carried: Carried) -> None:
        packets, octets, last_seen, sequence = carried
        if packets == offer.packets:
            return
        more, longer = packets - offer.packets, octets - offer.octets
        offer.flow.add(more, longer, last_seen, sequence)
        for total in offer.totals:
            total.add(more, longer, last_seen)
        offer.packets, offer.octets = packets, octets
