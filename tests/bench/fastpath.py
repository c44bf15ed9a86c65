"""The fast path beside user space, nft and plain forwarding; and alone, with more and more flows."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from protocols.actions import Side
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.table import LOOKS
from tests.bench import contenders, latency
from tests.bench.callers import callers
from tests.bench.contenders import GATEWAY_CORE, GENERATOR_CORE, KERNEL, Contender
from tests.bench.lanes import Direction, Lane, Sample
from tests.bench.means import means, shortcut, wire
from tests.bench.netns import inside
from tests.bench.paths import NAMES, Best, throughput
from tests.bench.report import Report, Result, Section, thousands
from tests.bench.setting import SIZES, Setting
from tests.bench.standing import FEW, Standing
from tests.bench.tunnels import Both, Tunnel
from tests.bpf.kernel import Program

#: Flows of the table of many; with the last a packet may cost so much more.
CROWD: Final = (1, 64, 4096, 65536)
COST: Final = 1.15
#: Flows that the daemon's table has room for by default: both ways of 65,536 sessions.
ROOM: Final = 2 * 65536
#: Of the load while delays are measured.
_LIGHT: Final = 0.2
#: Seconds of a sample of many flows: all of them have their turn several times.
_LONG: Final = 1.0
#: Packets of different flows that the program is run on by itself.
_RUNS: Final = 2000
#: Flows handed over in a second, at least.
OFFLOADS: Final = 10_000
#: Seconds until everything that was set up has been handed over.
_SETTLE: Final = 0.5


@dataclass(slots=True)
class FastPath:
    """The contenders with their sessions, and a fast path without a daemon."""

    setting: Setting

    def run(self, report: Report) -> None:
        """All measures."""
        standing = self._standing()
        for one in standing:
            one.set_up()
        time.sleep(_SETTLE)
        tables, few = throughput(self.setting, standing)
        report.sections += tables
        if len(few) == len(NAMES):
            report.sections.append(self._latency(standing, few))
        report.sections.append(means(self.setting, FEW))
        report.sections.append(self._crowd())

    def _standing(self) -> Sequence[Standing]:
        enter, directory = self.setting.stack.enter_context, self.setting.directory
        # processes fork before anything else is open
        ends = [enter(callers(GENERATOR_CORE)) for _ in NAMES]
        made = (
            enter(_fast(directory)),
            enter(contenders.vpnmasq("user", directory, core=GATEWAY_CORE)),
            enter(contenders.nft("nft")),
            enter(contenders.plain("plain")),
        )
        sides = [enter(contextlib.closing(Both(contender.row))) for contender in made]
        return [Standing(*each) for each in zip(NAMES, made, ends, sides, strict=True)]

    def _latency(self, standing: Sequence[Standing], peaks: Best) -> Section:
        """Delays of GRE at a load that the kernel's ways hardly notice; for user space it is none such."""
        load, seconds = self.setting.load, self.setting.effort.probes
        kernels = [one for one in standing if one.contender.placement is KERNEL]
        rate = min(peaks[one.name].received for one in kernels) * _LIGHT
        measured = [
            (one.name, latency.delay(load, one.contender, one.sessions["GRE"][:FEW], rate, seconds))
            for one in kernels
        ]
        section = latency.latency_section(measured, rate)
        section.title = section.title.replace("vpnmasq's peak", "the lowest peak of these")
        (_, fast), (_, nft), _ = measured
        met = fast.median <= nft.median and fast.p99 <= nft.p99
        section.results[0] = replace(section.results[0], met=met)
        section.notes.append("target: neither is more than nft's")
        return section

    def _crowd(self) -> Section:
        """One direction of ESP for more and more flows, with no daemon; and how fast they are handed over."""
        section = Section(
            "flows",
            "The fast path alone: ESP, 64 octets",
            [
                "flows",
                "packets/s",
                "core idle",
                "ns per packet",
                "of 64 flows'",
                "program alone, ns",
                "handed over, per second",
                "counters, ms",
            ],
        )
        crowds = [self._many(number) for number in CROWD]
        found: list[list[Sample]] = [[] for _ in crowds]
        for _ in range(max(3, self.setting.effort.rounds)):
            for crowd, samples in zip(crowds, found, strict=True):
                samples.append(crowd.lane.sample(None, _LONG))
        middles = [Sample.middle(samples) for samples in found]
        few = _cost(middles[CROWD.index(FEW)])
        section.results += [crowd.row(one, few) for crowd, one in zip(crowds, middles, strict=True)]
        section.notes.append(
            f"targets: at most {COST} × the cost of {FEW} flows, {OFFLOADS} handed over a second; "
            "program alone: BPF_PROG_TEST_RUN, each packet of another flow, the measuring included"
        )
        section.notes.append(
            "flat out, receive work and its cache on the gateway's core, whose busy time is what a packet "
            "costs; counters: all that changed"
        )
        return section

    def _many(self, number: int) -> "_Crowd":
        """A row of its own with so many flows handed over."""
        row = self.setting.stack.enter_context(contenders.plain(f"crowd{number}"))
        with inside(row.row.gateway):
            carrier = KernelFastPath(ROOM, instance=f"bench{number}")
        self.setting.stack.callback(functools.partial(_in, row.row.gateway, carrier.close))
        with inside(row.row.gateway):
            carrier.attach("eth0", Side.LAN)
        began = time.perf_counter()
        for index in range(number):
            carrier.prepare(index, shortcut(index))
            carrier.offload(index)
        speed = number / (time.perf_counter() - began)
        tunnels = [Tunnel(wire(index), wire(index)) for index in range(number)]
        lane = self.setting.lane(row, tunnels, Direction.OUTBOUND, SIZES[0])
        lane.sample(None, 0.1)
        began = time.perf_counter()
        for _ in range(LOOKS):
            list(carrier.changes())
        look = time.perf_counter() - began
        with inside(row.row.gateway):
            return _Crowd(number, lane, speed, look, _alone(carrier, number))


@dataclass(frozen=True, slots=True)
class _Crowd:
    """So many flows that the kernel carries: the load of them, and what else was measured.

    ``speed``: handed over in a second; ``look``: seconds to read all back; ``alone``: nanoseconds of the
    program by itself.
    """

    number: int
    lane: Lane
    speed: float
    look: float
    alone: float

    def row(self, sample: Sample, few: float) -> Result:
        """Its line; ``few``: nanoseconds of a packet beside few flows."""
        cost = _cost(sample)
        ratio = cost / few
        return Result(
            [
                str(self.number),
                thousands(sample.received),
                f"{sample.idle:.0%}",
                f"{cost:.0f}",
                f"{ratio:.2f}",
                f"{self.alone:.0f}",
                f"{self.speed:.0f}",
                f"{self.look * 1e3:.1f}",
            ],
            {
                "flows": self.number,
                "received": sample.received,
                "idle": sample.idle,
                "ns": cost,
                "ratio": ratio,
                "alone": self.alone,
                "offloads": self.speed,
                "look": self.look,
            },
            ratio <= COST and (self.number < CROWD[-1] or self.speed >= OFFLOADS),
        )


def _cost(sample: Sample) -> float:
    """Nanoseconds of the gateway's core for a packet."""
    return (1 - sample.idle) * 1e9 / sample.received


def _alone(carrier: KernelFastPath, number: int) -> float:
    """Nanoseconds that the program takes for a packet, by itself; the median over packets of many flows."""
    program = Program(carrier)
    packets = [wire(index * 7919 % number).packet(SIZES[0]) for index in range(_RUNS)]
    return median(program.run(Side.LAN, packet).duration for packet in packets)


@contextlib.contextmanager
def _fast(directory: Path) -> Iterator[Contender]:
    """The daemon with its fast path; the kernel's work is placed as the other kernel contenders' is."""
    with contenders.vpnmasq("fast", directory, KERNEL, core=GATEWAY_CORE, mode="require") as contender:
        yield contender


def _in(namespace: str, call: Callable[[], None]) -> None:
    with inside(namespace):
        call()
