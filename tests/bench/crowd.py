"""More and more flows, with no daemon: what a packet costs among them, and what it takes to have them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from protocols.actions import Side
from relay.fastpath.abi import Means
from relay.fastpath.kernel import KernelFastPath
from tests.bench import contenders
from tests.bench.lanes import Direction, Ends, Lane, Sample
from tests.bench.means import carrier, shortcut, wire
from tests.bench.netns import inside
from tests.bench.report import Result, Section, thousands
from tests.bench.setting import FIRST_CLIENT, SIZES, Setting
from tests.bench.standing import FEW
from tests.bench.tunnels import Tunnel, pairs
from tests.bpf.kernel import Program

#: Flows of the table; with the last a packet may cost so much more than with few.
CROWD: Final = (1, FEW, 4096, 65536)
COST: Final = 1.15
#: How packets get to the next hop if nothing else is said; by a header it is as at a network card.
BEST: Final = Means.PEER
#: Flows of the kernel's own ways: each has a client and a peer of its own, of which there are not more.
OTHERS: Final = (FEW, 65_000)
#: Flows that the daemon's table has room for by default: both ways of 65,536 sessions.
ROOM: Final = 2 * 65536
#: Seconds of a sample: all flows have their turn several times.
_LONG: Final = 1.0
#: Packets of different flows that the program is run on by itself.
_RUNS: Final = 2000
#: Flows handed over in a second, at least.
OFFLOADS: Final = 10_000
#: Rounds at least: what a packet costs among many flows is up to the host's memory, which others use as well.
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class _Crowd:
    """So many flows that the kernel carries, and what was measured while they were set up.

    ``speed``: handed over in a second; ``look``: seconds to read all back; ``alone``: nanoseconds of the
    program by itself.
    """

    number: int
    speed: float
    look: float
    alone: float


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the first table: a load of some flows, each of which has its turn packet by packet.

    ``frames``: so many lie ready, and the flows' are repeated if they are fewer.
    """

    crowd: _Crowd
    means: Means
    frames: int
    lane: Lane

    @property
    def title(self) -> str:
        """What it is of."""
        number = str(self.crowd.number)
        if self.means is not BEST:
            return f"{number}, header"
        return f"{number}, repeated" if self.is_repeated else number

    @property
    def is_repeated(self) -> bool:
        """Whether it says what the frames cost, and not the flows."""
        return self.frames > self.crowd.number

    def result(self, sample: Sample, few: float) -> Result:
        """What it says; ``few``: nanoseconds of a packet beside few flows that go the same way."""
        ratio, crowd = cost(sample) / few, self.crowd
        cells = [self.title, thousands(sample.received), f"{sample.idle:.0%}", f"{cost(sample):.0f}"]
        cells.append(f"{ratio:.2f}")
        values: dict[str, float | str | None] = {"flows": crowd.number, "frames": self.frames}
        values |= {"means": self.means.name.lower(), "received": sample.received, "idle": sample.idle}
        values |= {"ns": cost(sample), "ratio": ratio}
        if self.is_repeated or self.means is not BEST:
            return Result([*cells, "", "", ""], values)
        cells += [f"{crowd.alone:.0f}", f"{crowd.speed:.0f}", f"{crowd.look * 1e3:.1f}"]
        values |= {"alone": crowd.alone, "offloads": crowd.speed, "look": crowd.look}
        slow = crowd.number == CROWD[-1] and crowd.speed < OFFLOADS
        return Result(cells, values, ratio <= COST and not slow)


def cost(sample: Sample) -> float:
    """Nanoseconds of the gateway's core for a packet."""
    return (1 - sample.idle) * 1e9 / sample.received


def crowd(setting: Setting) -> list[Section]:
    """One direction of ESP for more and more flows: of the fast path, and of the kernel's own ways."""
    ours = [line for number in CROWD for line in _lines(setting, number, BEST)]
    ours += [line for number in (FEW, CROWD[-1]) for line in _lines(setting, number, Means.HEADER)]
    made = [
        setting.stack.enter_context(contenders.nft("crowdnft")),
        setting.stack.enter_context(contenders.plain("crowdplain")),
    ]
    ends = pairs(FIRST_CLIENT, max(OTHERS))
    theirs = [[_lane(setting, one, ends[:number]) for number in OTHERS] for one in made]
    lanes = [line.lane for line in ours] + [lane for ways in theirs for lane in ways]
    taken: list[list[Sample]] = [[] for _ in lanes]
    for _ in range(max(_ROUNDS, setting.effort.rounds)):
        for lane, samples in zip(lanes, taken, strict=True):
            samples.append(lane.sample(None, _LONG))
    found = {id(lane): Sample.middle(samples) for lane, samples in zip(lanes, taken, strict=True)}
    others = [(one.name, [found[id(lane)] for lane in ways]) for one, ways in zip(made, theirs, strict=True)]
    return [_table([(line, found[id(line.lane)]) for line in ours]), _beside(others)]


def _table(lines: Sequence[tuple[_Line, Sample]]) -> Section:
    section = Section(
        "flows",
        f"The fast path alone: ESP, {SIZES[0]} octets",
        [
            "flows",
            "packets/s",
            "core idle",
            "ns per packet",
            f"of {FEW} flows'",
            "program alone, ns",
            "handed over, per second",
            "counters, ms",
        ],
    )
    few = {
        line.means: cost(sample)
        for line, sample in lines
        if line.crowd.number == FEW and not line.is_repeated
    }
    section.results += [line.result(sample, few[line.means]) for line, sample in lines]
    section.notes.append(
        f"targets: at most {COST} × the cost of {FEW} flows, {OFFLOADS} handed over a second; "
        "program alone: BPF_PROG_TEST_RUN, each packet of another flow, the measuring included"
    )
    section.notes.append(
        "flat out, receive work and its cache on the gateway's core, whose busy time is what a packet "
        "costs; counters: all that changed"
    )
    section.notes.append(
        f"flows have their turns packet by packet; 'repeated': by as many frames as {CROWD[-1]} flows have, "
        "so that what the bench's own memory takes is seen"
    )
    section.notes.append("packets go into the other end of a veth; 'header': as to a network card")
    return section


def _beside(others: Sequence[tuple[str, Sequence[Sample]]]) -> Section:
    section = Section(
        "crowd",
        "The same of the kernel's own ways, packet by packet",
        ["", *(f"{number} flows, ns per packet" for number in OTHERS), f"of {FEW} flows'"],
    )
    for name, samples in others:
        few, many = map(cost, samples)
        values: dict[str, float | str | None] = {"name": name, "few": few, "many": many, "ratio": many / few}
        section.results.append(Result([name, f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}"], values))
    return section


def _lines(setting: Setting, number: int, most: Means) -> list[_Line]:
    """A row of its own with so many flows handed over; few also with as many frames as the most have."""
    row = setting.stack.enter_context(contenders.plain(f"crowd{most}n{number}"))
    fastpath = setting.stack.enter_context(carrier(row.row, most, ROOM))
    with inside(row.row.gateway):
        fastpath.attach("eth0", Side.LAN)
    began = time.perf_counter()
    for index in range(number):
        fastpath.prepare(index, shortcut(index))
        fastpath.offload(index)
    speed = number / (time.perf_counter() - began)
    frames = [number] if number != FEW or most is not BEST else [number, CROWD[-1]]
    wires = [wire(index) for index in range(number)]
    tunnels = [Tunnel(each, each) for each in wires]
    lanes = {many: _lane(setting, row, tunnels * (many // number)) for many in frames}
    began = time.perf_counter()
    share = 0.0
    while share < 1:
        share += fastpath.look().share
    look = time.perf_counter() - began
    with inside(row.row.gateway):
        found = _Crowd(number, speed, look, _alone(fastpath, number))
    return [_Line(found, most, many, lane) for many, lane in lanes.items()]


def _lane(setting: Setting, contender: contenders.Contender, ends: Sequence[Ends]) -> Lane:
    """A load of these, each of which has passed once: then the kernel knows them, too."""
    lane = setting.lane(contender, ends, Direction.OUTBOUND, SIZES[0])
    lane.sample(None, _LONG / 2)
    return lane


def _alone(fastpath: KernelFastPath, number: int) -> float:
    """Nanoseconds that the program takes for a packet, by itself; the median over packets of many flows."""
    program = Program(fastpath)
    packets = [wire(index * 7919 % number).packet(SIZES[0]) for index in range(_RUNS)]
    return median(program.run(Side.LAN, packet).duration for packet in packets)
