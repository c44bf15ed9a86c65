"""Whose is this SPI? A sequential test on who sends when.

Two habits give an owner away. An inbound packet tends to answer what its owner sent a moment ago (the echo),
and the owner tends to answer what it was given (the reply). Every other host does either only by chance, and
how often chance does it can be measured: it is the share of time that lies within W seconds of one of that
host's packets. So each observation multiplies a host's *evidence* by

    p / q            if the host did what an owner would do,
    (1-p) / (1-q)    if it did not,

where q is that host's own chance, and p what is expected of an owner. Under the hypothesis "this host sends
without regard to this SPI" each factor has mean 1, whatever p is: the product is a test martingale, and by
Ville's inequality it ever exceeds 1/ε with probability at most ε. A wrong p costs time, not correctness.

Nobody knows the round trip and the think time beforehand. So there is one product for each of several W,
and their mean counts, which is a test martingale too: whichever W fits carries it.

A silent owner is not ruled out by its silence (tunnels that only receive exist): against a rival's evidence
an owner's counts as 1 at least.
"""

from itertools import pairwise
from math import exp, log
from operator import add
from typing import Final

#: Seconds within which an inbound packet follows what it answers: from a LAN to a satellite.
ECHO: Final = (0.02, 0.06, 0.2, 0.6)
#: Seconds within which a host answers: it is next door.
REPLY: Final = (0.003, 0.01, 0.03, 0.1)
_WINDOWS: Final = (*ECHO, *REPLY)
_REPLY_AT: Final = len(ECHO)
#: What each window's product counts for in the mean, as logarithms: where the round trip is known, that one
#: as much as the others together.
_ECHO_SHARES: Final = (*(log(0.5 / len(ECHO)) for _ in ECHO), log(0.5))
_REPLY_SHARE: Final = log(len(REPLY))

#: What an owner does: how likely an inbound packet is an answer, and how likely it is answered at once.
_ECHOED: Final = 0.8
_REPLIED: Final = 0.5
_ROUND_TRIP: Final = 0.6

#: Seconds of its past that a host's chance is measured over …
_MEMORY: Final = 8.0
#: … beginning with this much of a past as a host that sends this often a second.
_ASSUMED: Final = 0.5
_ASSUMED_RATE: Final = 2.0
#: Nothing is so rare that one coincidence would prove much.
_LEAST_CHANCE: Final = 0.01
_MOST_CHANCE: Final = 0.995

#: A long stretch of misses is forgotten down to this: a tunnel may begin to talk after it only listened.
_FLOOR: Final = -3.0
#: What echoes may say on top of what the replies do: who talks to another host by way of the peer is
#: echoed by that host's SPI, but has no reason to answer it.
_ECHO_ALONE: Final = 4.0
#: Seconds, and the share of its pauses, by which even a regular sender is early or late.
_UNPUNCTUAL: Final = 0.002
_UNSTEADY: Final = 0.005
#: Packets remembered one by one.
_REMEMBERED: Final = 16
#: Of these so many tell how a host behaves lately.
_ENOUGH: Final = 8


class Activity:
    """When a host sent to a peer, and how likely it is to have done so by chance.

    Packets that take the fast lane are not seen one by one; ``sampled`` adds what they amount to.
    """

    __slots__ = ("_cover", "_span", "last", "recent")

    def __init__(self) -> None:
        #: Of the last packet; before the first one, long ago.
        self.last = float("-inf")
        self.recent: tuple[float, ...] = ()
        self._span = _ASSUMED
        self._cover = [min(_ASSUMED, w * _ASSUMED * _ASSUMED_RATE) for w in _WINDOWS]

    def sent(self, now: float) -> None:
        """The host sent a packet."""
        gap = now - self.last
        self.last = now
        self.recent = (*self.recent[1 - _REMEMBERED :], now)
        if gap > _MEMORY:
            # The first packet, or the first for long: the past says nothing any more.
            gap = _MEMORY
        self._pass(gap, [min(w, gap) for w in _WINDOWS])

    def sampled(self, packets: int, since: float, now: float, last: float) -> None:
        """It sent so many more packets since then; the last of them at ``last``."""
        span = min(now - since, _MEMORY)
        self._pass(span, [min(span, packets * w) for w in _WINDOWS])
        self.last = max(self.last, last)

    def _pass(self, span: float, cover: list[float]) -> None:
        fade = exp(-span / _MEMORY)
        self._span = self._span * fade + span
        self._cover = [old * fade + new for old, new in zip(self._cover, cover, strict=True)]

    def chance(self, window: int, now: float) -> float:
        """How likely a moment picked at random follows one of its packets within the window."""
        age = min(now - self.last, _MEMORY)
        width = _WINDOWS[window]
        share = (self._cover[window] + min(age, width)) / (self._span + age)
        return min(max(share, self._lately(width, now), _LEAST_CHANCE), _MOST_CHANCE)

    def _lately(self, width: float, now: float) -> float:
        """The same by its last packets alone: a host that has just begun to send a lot has no past of it."""
        recent = self.recent
        if len(recent) < _ENOUGH:
            return 0.0
        covered = min(now - recent[-1], width)
        for before, after in pairwise(recent):
            covered += min(after - before, width)
        span = now - recent[0]
        return covered / span if span > 0 else 1.0

    def in_step(self, now: float) -> bool:
        """Whether a packet now is no surprise: two earlier ones are as far apart as it is from the later one.

        Two regular senders may keep step with each other for hours. Then what follows the one once follows it
        always, and tells no more than that once.
        """
        recent = self.recent
        for place in range(len(recent) - 1, 0, -1):
            since = now - recent[place]
            slack = max(_UNPUNCTUAL, since * _UNSTEADY)
            earliest, latest = recent[place] - since - slack, recent[place] - since + slack
            if since > slack and any(earliest <= sent <= latest for sent in recent[:place]):
                return True
        return False

    def chance_within(self, width: float, now: float) -> float:
        """The same for any width, by the nearest window's measure."""
        window = next((i for i, w in enumerate(ECHO) if w >= width), len(ECHO) - 1)
        scaled = self.chance(window, now) * min(1.0, width / ECHO[window])
        return max(scaled, _LEAST_CHANCE)


class Evidence:
    """What speaks for one host as the owner of one SPI."""

    __slots__ = ("_echo", "_known", "_open", "_reply", "asked_last")

    def __init__(self) -> None:
        # The last of the echoes is the one at the peer's known round trip.
        self._echo = [0.0] * (len(ECHO) + 1)
        self._reply = [0.0] * len(REPLY)
        #: Bit j: whether within REPLY[j] of the SPI's last question it did, is still open.
        self._open = 0
        self._known: float | None = 0.0
        self.asked_last = float("-inf")

    @property
    def log(self) -> float:
        """The natural logarithm of the evidence."""
        if self._known is None:
            echo = log_sum([*map(add, self._echo, _ECHO_SHARES)])
            reply = log_sum([score - _REPLY_SHARE for score in self._reply])
            self._known = reply + min(echo, max(reply, 0.0) + _ECHO_ALONE)
        return self._known

    def echo(self, window: int, activity: Activity, now: float) -> bool:
        """A packet came in: whether the host had sent one within the window before."""
        hit = now - activity.last <= ECHO[window]
        chance = activity.chance(window, now)
        self._known = None
        _observe(self._echo, window, hit, _ECHOED, chance)
        return hit

    def echo_at(self, earliest: float, latest: float, activity: Activity, now: float) -> bool:
        """A packet came in: whether the host had sent one just a round trip before."""
        hit = any(earliest <= now - sent <= latest for sent in activity.recent)
        chance = activity.chance_within(latest - earliest, now)
        self._known = None
        _observe(self._echo, len(ECHO), hit, _ROUND_TRIP, chance)
        return hit

    def ask(self, window: int, activity: Activity, now: float) -> None:
        """A packet was passed on to the host: will it answer within the window?

        Not asked of a host that was sending anyway: it would tell nothing.
        """
        bit = 1 << window
        if self._open & bit:
            self._known = None
            _observe(self._reply, window, False, _REPLIED, activity.chance(_REPLY_AT + window, now))  # noqa: FBT003
        if now - activity.last <= REPLY[window]:
            self._open &= ~bit
        else:
            self._open |= bit

    def reply(self, asked: list[float], contested: float, activity: Activity, now: float) -> bool:
        """The host sends a packet: an answer? Whether it speaks for the host.

        ``asked``: when each window was opened. ``contested``: when it was last given a packet of another
        SPI, which may be what it answers.
        """
        if not self._open:
            return False
        speaks, in_step = False, activity.in_step(now)
        for window, width in enumerate(REPLY):
            if self._open >> window & 1:
                hit = now - asked[window] <= width
                if not (hit and (in_step or now - contested <= width)):
                    chance = activity.chance(_REPLY_AT + window, asked[window])
                    _observe(self._reply, window, hit, _REPLIED, chance)
                    speaks |= hit
        self._open = 0
        self._known = None
        return speaks


def _observe(scores: list[float], index: int, hit: bool, expected: float, chance: float) -> None:
    factor = expected / chance if hit else (1 - expected) / (1 - chance)
    if hit and factor < 1:
        # An owner is never less likely than chance to do it.
        factor = 1.0
    elif not hit and expected < chance:
        factor = 1.0
    score = scores[index] + log(factor)
    scores[index] = max(_FLOOR, score)


def log_sum(terms: list[float]) -> float:
    """The logarithm of the sum of numbers given by their logarithms, of which there is at least one."""
    top = max(terms)
    return top + log(sum(exp(term - top) for term in terms))
