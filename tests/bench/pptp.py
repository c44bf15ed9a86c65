"""PPTP: calls through the contenders, and the measures made on them, in turn."""

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench import contenders, core, latency, scale, throughput
from tests.bench.callers import Call, Callers
from tests.bench.contenders import GATEWAY_CORE, Contender, Placement
from tests.bench.lanes import Direction, Lane
from tests.bench.limits import calls_per_connection
from tests.bench.packets import Flow
from tests.bench.quota import controller
from tests.bench.report import Report, Section
from tests.bench.setting import FEW, FIRST_CLIENT, SIZES, Setting
from tests.bench.topology import GATEWAY_WAN, PEERS

TWICE: Final = 2
#: Parts of a core, and how many times the peak that each forwards is then offered.
PARTS: Final = ((0.5, TWICE), (0.2, 5))


@dataclass(slots=True)
class Pptp:
    """The contenders that stand, by name, each with its calls."""

    setting: Setting
    ends: Callers
    standing: dict[str, tuple[Contender, list[Call]]] = field(default_factory=dict)

    def run(self, report: Report) -> None:
        """All measures. Setting up comes last: it leaves calls behind."""
        self._stand("vpnmasq", contenders.vpnmasq("few", self.setting.directory, core=GATEWAY_CORE))
        self._stand("bare", contenders.bare("bare", core=GATEWAY_CORE))
        self._stand("nft", contenders.nft("nft"))
        self._stand("plain", contenders.plain("plain"))
        groups = self._throughput(report)
        report.sections.append(self._overload(groups))
        if self.setting.effort.placements:
            report.sections.append(self._placements(groups[0][0]))
        report.sections.append(self._latency(groups[0][0].best().received * 0.2))
        report.sections += self._many(groups[0][0].best().received)
        report.sections.append(self._setups())

    def profile(self) -> str:
        """Where the daemon's time goes under full load, outbound and inbound, line by line."""
        out = self.setting.directory / "profile.txt"
        with contenders.vpnmasq("prof", self.setting.directory, core=GATEWAY_CORE, profile=out) as contender:
            calls = self._calls(contender)
            assert contender.pid is not None
            os.kill(contender.pid, signal.SIGUSR2)
            for direction in Direction:
                self.setting.lane(contender, calls, direction, SIZES[0]).sample(None, 3.0)
        return out.read_text()

    def _stand(self, key: str, context: contextlib.AbstractContextManager[Contender]) -> None:
        contender = self.setting.stack.enter_context(context)
        self.standing[key] = (contender, self._calls(contender))

    def _calls(self, contender: Contender) -> list[Call]:
        """A few calls through a contender, one for each client."""
        if contender.name == "bare":  # it knows of no control connections, and asks for none
            return [
                Call(Flow(f"10.1.0.{n}", PEERS[0], n), Flow(PEERS[0], GATEWAY_WAN, n))
                for n in range(1, FEW + 1)
            ]
        done = self.ends.establish(contender.row, FIRST_CLIENT, FEW)
        if len(done.calls) < FEW:
            raise RuntimeError(f"{contender.name}: {len(done.calls)} of {FEW} calls: {done.errors[:3]}")
        return done.calls

    def _lane(self, key: str, direction: Direction, size: int) -> Lane:
        return self.setting.lane(*self.standing[key], direction, size)

    def _peaks(self, keys: Sequence[str], direction: Direction, size: int) -> list[throughput.Peak]:
        return self.setting.peaks([self.standing[key] for key in keys], direction, size)

    def _throughput(self, report: Report) -> list[list[throughput.Peak]]:
        keys = ("vpnmasq", "bare", "nft", "plain")
        groups = [self._peaks(keys, direction, size) for size in SIZES for direction in Direction]
        report.sections.append(throughput.throughput_section(groups))
        return groups

    def _overload(self, groups: Sequence[Sequence[throughput.Peak]]) -> Section:
        results = [self._overloaded("vpnmasq", group[0], TWICE) for group in groups]
        # a generator that cannot offer twice what a whole core forwards can do so for a part of it
        contender, _ = self.standing["vpnmasq"]
        assert contender.pid is not None
        quota = controller()
        for share, times in PARTS:
            if quota is None:
                break
            with quota.part_of_a_core(contender.pid, share):
                for size in SIZES:
                    (ours,) = self._peaks(["vpnmasq"], Direction.OUTBOUND, size)
                    results.append(self._overloaded(f"vpnmasq, {share} of a core", ours, times))
        section = throughput.overload_section(results)
        if quota is None:
            section.notes.append(
                "no cgroup here can leave a daemon a part of a core, of which more could be offered"
            )
        return section

    def _overloaded(self, title: str, peak: throughput.Peak, times: int) -> throughput.Overload:
        effort = self.setting.effort
        return throughput.overload(title, peak, times, effort.rounds, effort.seconds)

    def _placements(self, ours: throughput.Peak) -> Section:
        """What becomes of the figures when receive work moves to another core."""
        one_core = Placement(steer_gateway=True)
        self._stand("one", contenders.vpnmasq("one", self.setting.directory, one_core, core=GATEWAY_CORE))
        self._stand("bareone", contenders.bare("bareone", one_core, core=GATEWAY_CORE))
        self._stand("nftgen", contenders.nft("nftgen", Placement(steer_gateway=False)))
        self._stand("nftsink", contenders.nft("nftsink", Placement(steer_gateway=True, steer_hosts=True)))
        keys = ("one", "bareone", "nftgen", "nftsink")
        found = self._peaks(keys, Direction.OUTBOUND, SIZES[0])
        return throughput.placements_section([ours, *found])

    def _latency(self, rate: float) -> Section:
        measured = []
        for key in ("vpnmasq", "bare", "nft", "plain"):
            contender, calls = self.standing[key]
            measured.append(
                (
                    contender.name,
                    latency.delay(self.setting.load, contender, calls, rate, self.setting.effort.probes),
                )
            )
        return latency.latency_section(measured, rate)

    def _many(self, peak: float) -> list[Section]:
        many = self.setting.effort.many
        context = contenders.vpnmasq("many", self.setting.directory, core=GATEWAY_CORE)
        crowded = self.setting.stack.enter_context(context)
        self._calls(crowded)  # what is loaded at the first call is no cost of the next
        done, resident = scale.fill(self.ends, crowded, many)
        if len(done.calls) < many:
            raise RuntimeError(f"{len(done.calls)} of {many} calls: {done.errors[:3]}")
        lane = self.setting.lane(crowded, done.calls, Direction.OUTBOUND, SIZES[0])
        few = self._lane("vpnmasq", Direction.OUTBOUND, SIZES[0])
        daemon = scale.costs(few, lane, peak, self.setting.effort.rounds, self.setting.effort.seconds)
        alone = core.seconds_per_packet([core.core(FEW), core.core(many)])
        memory = scale.memory_section("call", many, resident, core.octets_each(core.core, many), scale.MEMORY)
        if (each := calls_per_connection(many)) > 1:
            memory.notes.append(
                f"open files are limited here: each control connection of the daemon carries {each} calls"
            )
        return [scale.cost_section((FEW, many), daemon, alone), memory]

    def _setups(self) -> Section:
        measured = []
        for key in ("vpnmasq", "nft", "plain"):
            contender, _ = self.standing[key]
            measured.append((contender, scale.setups(self.ends, contender, self.setting.effort.setups)))
        return scale.setups_section(measured)
