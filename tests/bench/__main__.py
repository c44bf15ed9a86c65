"""``python -m tests.bench``: see README.md beside this file."""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench import contenders, core, lanes, latency, scale, throughput
from tests.bench.callers import Call, Callers, callers
from tests.bench.contenders import GATEWAY_CORE, GENERATOR_CORE, Contender, Placement
from tests.bench.generator import Generator, generator
from tests.bench.lanes import Direction, Lane
from tests.bench.packets import Flow
from tests.bench.precedence import be_urgent
from tests.bench.report import Report, Section, machine
from tests.bench.topology import GATEWAY_WAN, PEERS

_FEW: Final = 10
_FIRST_CLIENT: Final = "10.1.0.1"
_SIZES: Final = (64, 1400)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look: rounds and seconds of a sample, sessions, set-ups."""

    rounds: int
    seconds: float
    many: int
    setups: int
    probes: float
    placements: bool


FULL: Final = Effort(rounds=3, seconds=0.4, many=10_000, setups=1_500, probes=3.0, placements=True)
QUICK: Final = Effort(rounds=1, seconds=0.3, many=1_000, setups=300, probes=1.0, placements=False)


def main() -> int:
    """Measure and print; 0 even where a target is missed, which is for people to judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("protocol", nargs="?", choices=["pptp"], default="pptp")
    parser.add_argument("--quick", action="store_true", help="under a minute, fewer sessions, rougher")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--profile", action="store_true", help="only say where the daemon's time goes")
    parser.add_argument("--urgent", action="store_true", help="take precedence over other programs")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("the bench makes network namespaces: run it as root", file=sys.stderr)
        return 77
    if GENERATOR_CORE == GATEWAY_CORE:
        print("the bench needs two cores", file=sys.stderr)
        return 1
    if arguments.urgent:
        be_urgent()
    effort = QUICK if arguments.quick else FULL
    report = Report(machine())
    # The processes fork from here, before anything is open.
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(generator(GENERATOR_CORE))
        ends = stack.enter_context(callers(GENERATOR_CORE))
        os.sched_setaffinity(0, {GENERATOR_CORE})
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vpnmasq-bench-")))
        bench = Bench(effort, load, ends, stack, directory)
        if arguments.profile:
            print(bench.profile())
            return 0
        bench.run(report)
    report.machine["samples"] = "{samples}, {disturbed} of them disturbed by other programs".format(
        **lanes.TALLY
    )
    report.print()
    if arguments.json:
        report.write(arguments.json)
    return 0


@dataclass(slots=True)
class Bench:
    """The contenders that stand, and the measures made on them, in turn."""

    effort: Effort
    load: Generator
    ends: Callers
    stack: contextlib.ExitStack
    directory: Path
    standing: dict[str, tuple[Contender, list[Call]]] = field(default_factory=dict)

    def run(self, report: Report) -> None:
        """All measures. Setting up comes last: it leaves calls behind."""
        self._stand("vpnmasq", contenders.vpnmasq("few", self.directory, core=GATEWAY_CORE))
        self._stand("bare", contenders.bare("bare", core=GATEWAY_CORE))
        self._stand("nft", contenders.nft("nft"))
        self._stand("plain", contenders.plain("plain"))
        groups = self._throughput(report)
        report.sections.append(self._overload(groups))
        if self.effort.placements:
            report.sections.append(self._placements(groups[0][0]))
        report.sections.append(self._latency(groups[0][0].best().received * 0.2))
        report.sections += self._many(groups[0][0].best().received)
        report.sections.append(self._setups())

    def profile(self) -> str:
        """Where the daemon's time goes under full load, outbound and inbound, line by line."""
        out = self.directory / "profile.txt"
        with contenders.vpnmasq("prof", self.directory, core=GATEWAY_CORE, profile=out) as contender:
            calls = self._calls(contender)
            assert contender.pid is not None
            os.kill(contender.pid, signal.SIGUSR2)
            for direction in Direction:
                lane = Lane(self.load, contender, calls, direction, _SIZES[0])
                lane.sample(None, 3.0)
                lane.close()
        return out.read_text()

    def _stand(self, key: str, context: contextlib.AbstractContextManager[Contender]) -> None:
        contender = self.stack.enter_context(context)
        self.standing[key] = (contender, self._calls(contender))

    def _calls(self, contender: Contender) -> list[Call]:
        """A few calls through a contender, one for each client."""
        if contender.name == "bare":  # it knows of no control connections, and asks for none
            return [
                Call(Flow(f"10.1.0.{n}", PEERS[0], n), Flow(PEERS[0], GATEWAY_WAN, n))
                for n in range(1, _FEW + 1)
            ]
        done = self.ends.establish(contender.row, _FIRST_CLIENT, _FEW)
        if len(done.calls) < _FEW:
            raise RuntimeError(f"{contender.name}: {len(done.calls)} of {_FEW} calls: {done.errors[:3]}")
        return done.calls

    def _lane(self, key: str, direction: Direction, size: int) -> Lane:
        contender, calls = self.standing[key]
        lane = Lane(self.load, contender, calls, direction, size)
        self.stack.callback(lane.close)
        return lane

    def _peaks(self, keys: Sequence[str], direction: Direction, size: int) -> list[throughput.Peak]:
        ways = [self._lane(key, direction, size) for key in keys]
        return throughput.peaks(ways, self.effort.rounds, self.effort.seconds)

    def _throughput(self, report: Report) -> list[list[throughput.Peak]]:
        keys = ("vpnmasq", "bare", "nft", "plain")
        groups = [self._peaks(keys, direction, size) for size in _SIZES for direction in Direction]
        report.sections.append(throughput.throughput_section(groups))
        return groups

    def _overload(self, groups: Sequence[Sequence[throughput.Peak]]) -> Section:
        results = []
        for group in groups:
            ours = group[0]
            results.append((ours, *throughput.overload(ours, self.effort.rounds, self.effort.seconds)))
        return throughput.overload_section(results)

    def _placements(self, ours: throughput.Peak) -> Section:
        """What becomes of the figures when receive work moves to another core."""
        one_core = Placement(steer_gateway=True)
        self._stand("one", contenders.vpnmasq("one", self.directory, one_core, core=GATEWAY_CORE))
        self._stand("bareone", contenders.bare("bareone", one_core, core=GATEWAY_CORE))
        self._stand("nftgen", contenders.nft("nftgen", Placement(steer_gateway=False)))
        self._stand("nftsink", contenders.nft("nftsink", Placement(steer_gateway=True, steer_hosts=True)))
        keys = ("one", "bareone", "nftgen", "nftsink")
        found = self._peaks(keys, Direction.OUTBOUND, _SIZES[0])
        return throughput.placements_section([ours, *found])

    def _latency(self, rate: float) -> Section:
        measured = []
        for key in ("vpnmasq", "bare", "nft", "plain"):
            contender, calls = self.standing[key]
            measured.append((contender, latency.delay(self.load, contender, calls, rate, self.effort.probes)))
        return latency.latency_section(measured, rate)

    def _many(self, peak: float) -> list[Section]:
        many = self.effort.many
        context = contenders.vpnmasq("many", self.directory, core=GATEWAY_CORE)
        crowded = self.stack.enter_context(context)
        self._calls(crowded)  # what is loaded at the first call is no cost of the next
        done, resident = scale.fill(self.ends, crowded, many)
        if len(done.calls) < many:
            raise RuntimeError(f"{len(done.calls)} of {many} calls: {done.errors[:3]}")
        lane = Lane(self.load, crowded, done.calls, Direction.OUTBOUND, _SIZES[0])
        self.stack.callback(lane.close)
        few = self._lane("vpnmasq", Direction.OUTBOUND, _SIZES[0])
        daemon = scale.costs(few, lane, peak, self.effort.rounds, self.effort.seconds)
        return [
            scale.cost_section((_FEW, many), daemon),
            scale.memory_section(many, resident, core.octets_per_call(min(many, 2000))),
        ]

    def _setups(self) -> Section:
        measured = []
        for key in ("vpnmasq", "nft", "plain"):
            contender, _ = self.standing[key]
            measured.append((contender, scale.setups(self.ends, contender, self.effort.setups)))
        return scale.setups_section(measured)


if __name__ == "__main__":
    sys.exit(main())
