"""The experiments with SPIs whose owner is open: when they are made, and the packets that wait for them."""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final

from protocols import ipv4
from protocols.actions import Action, Drop
from protocols.addr import show_ip
from protocols.allocator import Random
from protocols.drops import Reason
from protocols.esp import codec, copies
from protocols.esp.contacts import Contact, Inbound
from protocols.esp.trial import HELD, Trial

#: Packets without a pause before the first: who pauses is found out by that, and nothing of it is held.
_AFTER: Final = 16


class Experiments:
    """Holds packets, and passes them on. Those held are few: a moment's worth of open SPIs."""

    def __init__(self, random: Random) -> None:
        self._random = random
        #: SPIs whose packets wait, and until when. All wait equally long, so the first is the next.
        self._waiting: deque[tuple[float, Inbound]] = deque()

    def pass_on(
        self, inbound: Inbound, header: ipv4.Header, packet: bytes, *, rate: float, now: float
    ) -> tuple[list[Action], bool]:
        """Copy a packet to all who may own its SPI, now or a moment later; whether somebody is likely to."""
        pauses = inbound.unbroken < _AFTER or inbound.shared
        if inbound.trial is None and pauses:
            return copies.of(inbound, inbound.receivers, header, packet, rate=rate, now=now), False
        trial = inbound.trial = inbound.trial or Trial(-inf)
        likely = False
        actions = [] if trial.holding(now) else self._release(inbound, trial, rate, now)
        if trial.over(now):
            likely = trial.conclude()
            if not pauses and trial.begin(inbound.peer.round_trip, holds=self._random(2) == 1, now=now):
                inbound.looks += 1
        if not trial.holding(now):
            actions += copies.of(inbound, inbound.receivers, header, packet, rate=rate, now=now)
        else:
            if not trial.held:
                self._waiting.append((trial.began + HELD, inbound))
            trial.held.append((header, packet))
        return actions, likely

    def end(self, inbound: Inbound, to: Sequence[Contact], *, now: float) -> list[Action]:
        """Make no more of them with an SPI, of which it is known now whose it is."""
        trial, inbound.trial = inbound.trial, None
        if trial is None or not trial.held:
            return []
        inbound.arrived = now
        return [copies.copy(header, packet, contact) for header, packet in trial.held for contact in to]

    def resume(self, inbound: Inbound) -> None:
        """Go on with those of before a restart."""
        if inbound.trial is not None and inbound.trial.held:
            self._waiting.append((inbound.trial.began + HELD, inbound))

    def next_deadline(self) -> float | None:
        """When ``due`` is next to be called."""
        return self._waiting[0][0] if self._waiting else None

    def due(self, rate: float, *, now: float) -> list[Action]:
        """Pass on what has waited long enough."""
        actions: list[Action] = []
        while self._waiting and self._waiting[0][0] <= now:
            _, inbound = self._waiting.popleft()
            trial = inbound.trial
            if trial is not None and not trial.holding(now):
                actions += self._release(inbound, trial, rate, now)
        return actions

    def _release(self, inbound: Inbound, trial: Trial, rate: float, now: float) -> list[Action]:
        held, trial.held = trial.held, []
        if not held:
            return []
        if inbound.peer.inbound.get(inbound.spi) is not inbound:
            where = f"{show_ip(inbound.peer.address)} {codec.show_spi(inbound.spi)}"
            return [Drop(Reason.ESP_UNKNOWN, where)] * len(held)
        actions: list[Action] = []
        for header, packet in held:
            actions += copies.of(inbound, inbound.receivers, header, packet, rate=rate, now=now)
        for evidence in inbound.evidence.values():
            evidence.asked_last = now
        return actions
