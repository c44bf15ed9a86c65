"""Packets per second: peak of each contender, and what is left of it at twice the load."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.lanes import Lane, Sample
from tests.bench.report import Result, Section, thousands

#: Share of nft's packets per second that the user-space path reaches at least …
RATIO: Final = 0.25
#: … and packets per second, where the machine allows.
RATE: Final = 100_000
#: Share of its peak that is still forwarded when a multiple of it is offered.
OVERLOAD: Final = 0.70
#: Of that multiple, what must have been offered: a paced generator is never quite exact, and a slow one does
#: not get there at all, so that the target is then not shown.
OFFERED: Final = 0.95
#: The first load after flat out, as a multiple of what passes flat out: overloaded gateways are past their
#: peak, and so are we when the generator takes all of the core that receives.
_FIRST: Final = 1.1
#: The next load, as a multiple of one that passed almost whole.
_NEXT: Final = 1.25
_WHOLE: Final = 0.96
_LOADS: Final = 5
#: Where the search begins for one that passes next to nothing flat out (receive livelock).
_FLOOR: Final = 40_000.0


@dataclass(slots=True)
class Peak:
    """The samples of one lane: of each round the one that got most through, and the one flat out."""

    lane: Lane
    best_of: list[Sample] = field(default_factory=list)
    flat_out_of: list[Sample] = field(default_factory=list)

    def best(self) -> Sample:
        """The peak, as the median over the rounds."""
        return Sample.middle(self.best_of)

    def flat_out(self) -> Sample:
        """What passes when the generator gives all it can, as the median over the rounds."""
        return Sample.middle(self.flat_out_of)

    def look(self, seconds: float) -> None:
        """One round: flat out, then loads from just above what passed until one does not pass."""
        flat_out = self.lane.sample(None, seconds)
        best = flat_out
        rate = max(flat_out.received, _FLOOR) * _FIRST
        for _ in range(_LOADS):
            sample = self.lane.sample(rate, seconds)
            best = max(best, sample, key=lambda one: one.received)
            if sample.received < _WHOLE * rate:
                break
            rate *= _NEXT
        self.flat_out_of.append(flat_out)
        self.best_of.append(best)


def peaks(lanes: Sequence[Lane], rounds: int, seconds: float) -> list[Peak]:
    """Find each lane's peak; contenders take turns within every round, and begin in turns."""
    found = [Peak(lane) for lane in lanes]
    for turn in range(rounds):
        at = turn % len(found)
        for peak in found[at:] + found[:at]:
            peak.look(seconds)
    return found


@dataclass(frozen=True, slots=True)
class Overload:
    """What a lane forwards at its peak, and at so many times that."""

    title: str
    lane: Lane
    times: int
    at_peak: Sample
    beyond: Sample

    @property
    def load(self) -> float:
        """What was offered, as a multiple of the peak. Both loads saw the same machine."""
        return self.beyond.offered / self.at_peak.received

    @property
    def share(self) -> float:
        """What was forwarded of it, as a multiple of the peak."""
        return self.beyond.received / self.at_peak.received


def overload(title: str, peak: Peak, times: int, rounds: int, seconds: float) -> Overload:
    """Offer the peak and a multiple of it, in turns."""
    rate = peak.best().received
    at_peak, beyond = [], []
    for _ in range(rounds):
        at_peak.append(peak.lane.sample(rate, seconds))
        beyond.append(peak.lane.sample(times * rate, seconds))
    return Overload(title, peak.lane, times, Sample.middle(at_peak), Sample.middle(beyond))


def throughput_section(
    groups: Sequence[Sequence[Peak]],
    key: str = "throughput",
    title: str = "GRE packets per second at the peak, 10 calls",
    rate: float = RATE,
) -> Section:
    """The table of peaks: a group holds the contenders of one direction and size.

    ``rate``: packets per second that ours must reach besides; 0 for none.
    """
    names = [peak.lane.contender.name for peak in groups[0]]
    beside = ["nft", *(["bare"] if "bare" in names else [])]
    ratios = [f"vpnmasq / {name}" for name in beside]
    section = Section(key, title, ["direction, octets", *names, *ratios, "µs per packet"])
    for group in groups:
        best = {peak.lane.contender.name: peak.best() for peak in group}
        lane = group[0].lane
        values: dict[str, float | str | None] = {"direction": lane.direction.value, "octets": lane.size}
        values.update({name: round(sample.received) for name, sample in best.items()})
        cells = [f"{lane.direction.value}, {lane.size}"]
        cells += [thousands(best[name].received) for name in names]
        met = None
        if "vpnmasq" in best:
            ours = best["vpnmasq"]
            ratio = ours.received / best["nft"].received
            values.update({"ratio_nft": ratio, "cost_us": ours.cost * 1e6})
            cells += [f"{ours.received / best[name].received:.2f}" for name in beside]
            cells.append(f"{ours.cost * 1e6:.1f}")
            met = ratio >= RATIO and ours.received >= rate
        section.results.append(Result(cells, values, met))
    placements = {peak.lane.contender.name: str(peak.lane.contender.placement) for peak in groups[0]}
    section.notes.append("; ".join(f"{name}: {place}" for name, place in placements.items()))
    least = f" and {thousands(rate)} packets/s" if rate else ""
    section.notes.append(f"target: at least {RATIO} × nft{least}")
    return section


def overload_section(results: Sequence[Overload]) -> Section:
    """The table of what happens beyond the peak, with the places of loss; rows begin with their titles."""
    section = Section(
        "overload",
        "Multiples of the peak offered",
        [
            "direction, octets",
            "at its peak",
            "offered",
            "offered / peak",
            "reached gateway",
            "lost at sockets",
            "forwarded",
            "share",
        ],
    )
    for one in results:
        lane, beyond = one.lane, one.beyond
        section.results.append(
            Result(
                [
                    f"{one.title}: {lane.direction.value}, {lane.size}",
                    thousands(one.at_peak.received),
                    thousands(beyond.offered),
                    f"{one.load:.2f}",
                    thousands(beyond.arrived),
                    thousands(beyond.socket_lost),
                    thousands(beyond.received),
                    f"{one.share:.0%}",
                ],
                {
                    "contender": one.title,
                    "direction": lane.direction.value,
                    "octets": lane.size,
                    "peak": one.at_peak.received,
                    "times": one.times,
                    "offered": beyond.offered,
                    "load": one.load,
                    "arrived": beyond.arrived,
                    "socket_lost": beyond.socket_lost,
                    "forwarded": beyond.received,
                    "share": one.share,
                },
                overload_met(one.load, one.share, one.times),
            )
        )
    section.notes.append(
        f"target: at least {OVERLOAD:.0%} of the peak; not judged where the generator offered less than "
        f"{OFFERED} of the multiple that was wanted"
    )
    return section


def overload_met(load: float, share: float, times: int) -> bool | None:
    """Whether enough was forwarded under a load, both as multiples of the peak.

    None: the load was less than the ``times`` that were wanted, and so nothing is shown.
    """
    if share < OVERLOAD:
        return False
    return True if load >= OFFERED * times else None


def placements_section(found: Sequence[Peak]) -> Section:
    """The table of how much the choice of cores for receive work matters; the first row is vpnmasq's own."""
    section = Section(
        "placements",
        "The same with receive work on other cores",
        ["contender, placement", "peak", "flat out offered", "flat out forwarded"],
    )
    for peak in found:
        best, flat_out = peak.best(), peak.flat_out()
        contender = peak.lane.contender
        section.results.append(
            Result(
                [
                    f"{contender.name}: {contender.placement}",
                    thousands(best.received),
                    thousands(flat_out.offered),
                    thousands(flat_out.received),
                ],
                {
                    "contender": contender.name,
                    "placement": str(contender.placement),
                    "peak": best.received,
                    "flat_out_offered": flat_out.offered,
                    "flat_out_forwarded": flat_out.received,
                },
            )
        )
    section.notes.append(f"{found[0].lane.direction.value}, {found[0].lane.size} octets")
    return section
