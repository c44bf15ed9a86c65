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
from tests.bench import contenders, latency
from tests.bench.callers import Callers
from tests.bench.contenders import GATEWAY_CORE, KERNEL, Contender
from tests.bench.lanes import Direction, Ends, Lane, Sample
from tests.bench.means import means, shortcut, wire
from tests.bench.netns import inside
from tests.bench.report import Report, Result, Section, thousands
from tests.bench.setting import FIRST_CLIENT, SIZES, Setting
from tests.bench.topology import PEERS
from tests.bench.tunnels import Both, Tunnel, pairs
from tests.bpf.kernel import Program

#: The fast path's packets per second as multiples of nft's, with small packets, and of plain forwarding.
OF_NFT: Final = 1.5
OF_PLAIN: Final = 1.0
#: Flows of the throughput tables, and of the one of many flows: with the last a packet may cost so much more.
FLOWS: Final = 64
CROWD: Final = (1, 64, 4096, 65536)
COST: Final = 1.15
#: Flows that the daemon's table has room for by default: both ways of 65,536 sessions.
ROOM: Final = 2 * 65536
#: The contenders, in order.
_NAMES: Final = ("fast path", "user space", "nft", "plain")
#: Of the load while delays are measured.
_LIGHT: Final = 0.2
#: Packets of different flows that the program is run on by itself.
_RUNS: Final = 2000
#: Flows handed over in a second, at least.
OFFLOADS: Final = 10_000
#: What is measured of each protocol, what the targets are about first.
_LOADS: Final = (
    *((Direction.OUTBOUND, size) for size in SIZES),
    (Direction.INBOUND, SIZES[0]),
)
#: Seconds until everything that was set up has been handed over.
_SETTLE: Final = 0.5
_NATT_CLIENTS: Final = tuple(f"10.1.1.{n}" for n in range(1, FLOWS + 1))


@dataclass(slots=True)
class FastPath:
    """The contenders with their sessions, and a fast path without a daemon."""

    setting: Setting
    ends: Callers

    def run(self, report: Report) -> None:
        """All measures."""
        enter, directory = self.setting.stack.enter_context, self.setting.directory
        standing = (
            enter(_fast(directory)),
            enter(contenders.vpnmasq("user", directory, core=GATEWAY_CORE)),
            enter(contenders.nft("nft")),
            enter(contenders.plain("plain")),
        )
        groups: dict[str, list[tuple[Contender, Sequence[Ends]]]] = {"GRE": [], "ESP": [], "UDP 4500": []}
        for contender in standing:
            groups["GRE"].append((contender, self._calls(contender)))
            sides = Both(contender.row)
            self.setting.stack.callback(sides.close)
            esp = pairs(FIRST_CLIENT, FLOWS, seen=contender.name == "plain")
            sides.establish(esp)
            groups["ESP"].append((contender, esp))
            groups["UDP 4500"].append((contender, sides.natt(_NATT_CLIENTS, PEERS[0])))
        time.sleep(_SETTLE)
        throughput, least = self._throughput(groups)
        report.sections.append(throughput)
        report.sections.append(self._latency(groups["GRE"], least * _LIGHT))
        report.sections.append(means(self.setting, FLOWS))
        report.sections.append(self._crowd())

    def _calls(self, contender: Contender) -> Sequence[Ends]:
        done = self.ends.establish(contender.row, FIRST_CLIENT, FLOWS)
        if len(done.calls) < FLOWS:
            raise RuntimeError(f"{contender.name}: {len(done.calls)} of {FLOWS} calls: {done.errors[:3]}")
        return done.calls

    def _throughput(self, groups: dict[str, list[tuple[Contender, Sequence[Ends]]]]) -> tuple[Section, float]:
        """The table, and the kernel's lowest peak with GRE's small packets outbound."""
        section = Section(
            "fastpath",
            f"Packets per second at the peak, {FLOWS} flows",
            [
                "protocol, octets",
                *_NAMES,
                "/ nft",
                "/ plain",
                "daemon's CPU",
            ],
        )
        best: dict[str, Sequence[Sample]] = {}
        for name, through in groups.items():
            for direction, size in _LOADS:
                peaks = self.setting.peaks(through, direction, size)
                found = [peak.best() for peak in peaks]
                best.setdefault(name, found)
                section.results.append(_row(f"{name} {direction.value}", size, found))
        section.notes.append(f"targets: {OF_NFT} × nft at {SIZES[0]} octets, {OF_PLAIN} × plain")
        section.notes.append(f"fast path, nft, plain: {KERNEL}")
        fast, _, nft, plain = best["GRE"]
        return section, min(one.received for one in (fast, nft, plain))

    def _latency(self, through: Sequence[tuple[Contender, Sequence[Ends]]], rate: float) -> Section:
        """Delays at a load that none of the kernel's ways notices much."""
        load, seconds = self.setting.load, self.setting.effort.probes
        measured = [
            (name, latency.delay(load, contender, ends, rate, seconds))
            for name, (contender, ends) in zip(_NAMES, through, strict=True)
            if name != _NAMES[1]  # for which that is no light load
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
                samples.append(crowd.lane.sample(None, self.setting.effort.seconds))
        costs = [1e9 / median(sample.received for sample in samples) for samples in found]
        few = costs[CROWD.index(FLOWS)]
        section.results += [crowd.row(cost, cost / few) for crowd, cost in zip(crowds, costs, strict=True)]
        section.notes.append(
            f"targets: at most {COST} × the cost of {FLOWS} flows, {OFFLOADS} handed over a second; "
            "program alone: BPF_PROG_TEST_RUN, each packet of another flow, the measuring included"
        )
        section.notes.append(
            "flat out, receive work and its cache on the gateway's core; counters: all that changed"
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
            carrier.offload(index, shortcut(index))
        speed = number / (time.perf_counter() - began)
        tunnels = [Tunnel(wire(index), wire(index)) for index in range(number)]
        lane = self.setting.lane(row, tunnels, Direction.OUTBOUND, SIZES[0])
        lane.sample(None, 0.1)
        began = time.perf_counter()
        for _ in range(-(-number // 16384)):
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

    def row(self, cost: float, ratio: float) -> Result:
        """Its line; ``cost``: nanoseconds of a packet, ``ratio``: that beside few flows."""
        return Result(
            [
                str(self.number),
                thousands(1e9 / cost),
                f"{cost:.0f}",
                f"{ratio:.2f}",
                f"{self.alone:.0f}",
                f"{self.speed:.0f}",
                f"{self.look * 1e3:.1f}",
            ],
            {
                "flows": self.number,
                "ns": cost,
                "ratio": ratio,
                "alone": self.alone,
                "offloads": self.speed,
                "look": self.look,
            },
            ratio <= COST and (self.number < CROWD[-1] or self.speed >= OFFLOADS),
        )


def _alone(carrier: KernelFastPath, number: int) -> float:
    """Nanoseconds that the program takes for a packet, by itself; the median over packets of many flows."""
    program = Program(carrier)
    packets = [wire(index * 7919 % number).packet(SIZES[0]) for index in range(_RUNS)]
    return median(program.run(Side.LAN, packet).duration for packet in packets)


def _row(name: str, size: int, best: Sequence[Sample]) -> Result:
    fast, user, nft, plain = best
    of_nft, of_plain = fast.received / nft.received, fast.received / plain.received
    busy = fast.cost * fast.received
    cells = [f"{name}, {size}", *(thousands(one.received) for one in best)]
    cells += [f"{of_nft:.2f}", f"{of_plain:.2f}", f"{busy:.1%}"]
    values: dict[str, float | str | None] = {"protocol": name, "octets": size}
    values |= {"fast": fast.received, "user": user.received, "nft": nft.received, "plain": plain.received}
    met = of_plain >= OF_PLAIN and (size > SIZES[0] or of_nft >= OF_NFT)
    return Result(cells, values | {"of_nft": of_nft, "of_plain": of_plain, "daemon": busy}, met)


@contextlib.contextmanager
def _fast(directory: Path) -> Iterator[Contender]:
    """The daemon with its fast path; the kernel's work is placed as the other kernel contenders' is."""
    with contenders.vpnmasq("fast", directory, KERNEL, core=GATEWAY_CORE, mode="require") as contender:
        yield contender


def _in(namespace: str, call: Callable[[], None]) -> None:
    with inside(namespace):
        call()
