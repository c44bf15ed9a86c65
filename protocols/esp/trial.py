"""Whose is this SPI? An experiment: hold its packets for a moment, or not, and see who follows.

Who downloads without a pause has always just sent, and several downloads that are clocked by one round trip
may keep step with each other for ever: whoever owns an SPI, its packets are followed by everybody's. So a
coin is tossed. By it the SPI's packets are passed on at once, or some milliseconds later; then its owner,
who answers what it gets, sends early or late. To all others the coin means nothing. Whatever moves them, and
whatever they keep step with, of those that send in one of the two spans and not in the other, half send in
the one that the coin names. That is the null hypothesis, and what makes it true is the coin, not a model
of anybody's traffic. Each such observation multiplies a host's evidence by

    p / ½          if it sent when an owner would have,
    (1-p) / ½      if it sent when an owner would not have,

which has mean 1 for all but the owner (see ``evidence``).

The one way by which the coin may reach another host is the peer: the owner's answer makes the peer send
something to that host, which answers. It takes a round trip, so the spans are shorter than one.

    began                        began + HELD
      |<--- early: ≤ SPAN --->|    |<--- late: ≤ SPAN --->|
"""

from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Final

from protocols import ipv4
from protocols.esp.evidence import REPLY, log_sum

if TYPE_CHECKING:
    from protocols.esp.contacts import Contact

#: Seconds that packets are held: less than voice notices …
HELD: Final = 0.006
#: … and within which a host answers; no later than HELD, or early were late.
SPANS: Final = (0.0015, 0.003, 0.006)
#: The longest span is at most this share of the peer's round trip.
_OF_ROUND_TRIP: Final = 0.5
#: Packets held at once, of an SPI: fewer than an anti-replay window has room for (RFC 4303 §3.4.3: 64).
_MOST_HELD: Final = 32
#: Trials of an SPI: who has not been found out by them never answers.
_MOST_TRIALS: Final = 300
#: How likely an owner that sends in one span only does so in the one that the coin names.
_FOLLOWS: Final = 0.88
_FOR: Final = log(_FOLLOWS / 0.5)
_AGAINST: Final = log((1 - _FOLLOWS) / 0.5)
#: What speaks against a host is forgotten down to this: it may begin to answer later.
_FLOOR: Final = -3.0
#: Of whom less is said the SPI is not judged anew: that takes its time.
_LIKELY: Final = 6.0
_SHARE: Final = log(len(SPANS))


@dataclass(slots=True, eq=False)
class Trial:
    """The experiments with one SPI whose owner is open."""

    began: float
    #: As the coin fell.
    holds: bool = False
    number: int = 0
    #: How many of the spans are short enough.
    spans: int = 0
    #: Bit i: whether the host has sent within the early SPANS[i]; bit len(SPANS) + i: within the late one.
    seen: "dict[Contact, int]" = field(default_factory=dict)
    #: What all of them have said for each host, by span, as logarithms.
    scores: "dict[Contact, list[float]]" = field(default_factory=dict)
    held: list[tuple[ipv4.Header, bytes]] = field(default_factory=list)

    def begin(self, round_trip: float | None, *, holds: bool, now: float) -> bool:
        """Begin the next one, unless it would tell nothing."""
        longest = _OF_ROUND_TRIP * (round_trip or 0.0)
        spans = sum(span <= longest for span in SPANS)
        if not spans or self.number >= _MOST_TRIALS:
            return False
        self.began, self.holds, self.spans = now, holds, spans
        self.number += 1
        return True

    def holding(self, now: float) -> bool:
        """Whether packets of now are to be held."""
        return self.holds and now < self.began + HELD and len(self.held) < _MOST_HELD

    def stirs(self, now: float) -> bool:
        """Whether hosts may answer now what was held."""
        return self.holds and now <= self.began + HELD + REPLY[-1]

    def over(self, now: float) -> bool:
        """Whether the last one has been seen to its end."""
        return not self.spans or now > self.began + HELD + SPANS[self.spans - 1]

    def sent(self, contact: "Contact", now: float) -> None:
        """A host has sent something."""
        bits, since = self.seen.get(contact, 0), now - self.began
        for place in range(self.spans):
            if since <= SPANS[place]:
                bits |= 1 << place
            elif HELD < since <= HELD + SPANS[place]:
                bits |= 1 << len(SPANS) + place
        if bits:
            self.seen[contact] = bits

    def conclude(self) -> bool:
        """Take what was seen for evidence. Whether somebody is likely to be the owner by it."""
        likely = False
        for contact, bits in self.seen.items():
            scores = self.scores.setdefault(contact, [0.0] * len(SPANS))
            for place in range(self.spans):
                early, late = bits >> place & 1, bits >> len(SPANS) + place & 1
                if early != late:
                    follows = bool(late) is self.holds
                    scores[place] = max(_FLOOR, scores[place] + (_FOR if follows else _AGAINST))
                    likely |= follows and scores[place] > _LIKELY
        self.seen.clear()
        self.spans = 0
        return likely

    def log(self, contact: "Contact") -> float:
        """What speaks for a host, as a logarithm."""
        scores = self.scores.get(contact)
        return 0.0 if scores is None else log_sum([score - _SHARE for score in scores])
