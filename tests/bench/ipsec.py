"""IPsec: tunnels through the contenders, and the measures made on them, in turn."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench import contenders, core, scale, spray, throughput
from tests.bench.contenders import GATEWAY_CORE, Contender
from tests.bench.lanes import Direction, Ends
from tests.bench.report import Report, Result, Section
from tests.bench.setting import FEW, FIRST_CLIENT, SIZES, Setting
from tests.bench.topology import PEERS
from tests.bench.tunnels import Both, Pair, pairs

#: New pairs per second.
SETUPS: Final = 3000
#: Octets per pair of SPIs.
MEMORY: Final = 2048
#: Clients of the tunnels of ESP in UDP: others than those of raw ESP, and of one peer.
_NATT_CLIENTS: Final = tuple(f"10.1.1.{n}" for n in range(1, FEW + 1))


@dataclass(slots=True)
class Standing:
    """A contender with its tunnels."""

    contender: Contender
    sides: Both
    esp: Sequence[Pair]
    natt: Sequence[Ends]


@dataclass(slots=True)
class Ipsec:
    """The contenders that stand, by name."""

    setting: Setting
    standing: dict[str, Standing] = field(default_factory=dict)

    def run(self, report: Report) -> None:
        """All measures. Setting up comes last: it leaves tunnels behind."""
        enter = self.setting.stack.enter_context
        vpnmasq = enter(contenders.vpnmasq("few", self.setting.directory, core=GATEWAY_CORE))
        for contender in (vpnmasq, enter(contenders.nft("nft")), enter(contenders.plain("plain"))):
            self.standing[contender.name] = self._stand(contender)
        groups = self._throughput(report)
        report.sections += self._many(groups[0][0].best().received)
        report.sections.append(self._spray(groups[1][0]))
        report.sections.append(self._setups())

    def profile(self) -> str:
        """Where the daemon's time goes under full load, raw ESP and in UDP, line by line."""
        out = self.setting.directory / "profile.txt"
        with contenders.vpnmasq("prof", self.setting.directory, core=GATEWAY_CORE, profile=out) as contender:
            stood = self._stand(contender)
            assert contender.pid is not None
            os.kill(contender.pid, signal.SIGUSR2)
            for ends in (stood.esp, stood.natt):
                for direction in Direction:
                    self.setting.lane(contender, ends, direction, SIZES[0]).sample(None, 2.0)
        return out.read_text()

    def _stand(self, contender: Contender) -> Standing:
        sides = Both(contender.row)
        self.setting.stack.callback(sides.close)
        esp = pairs(FIRST_CLIENT, FEW, seen=contender.name == "plain")
        sides.establish(esp)
        return Standing(contender, sides, esp, sides.natt(_NATT_CLIENTS, PEERS[0]))

    def _throughput(self, report: Report) -> list[list[throughput.Peak]]:
        found = []
        esp = [(one.contender, one.esp) for one in self.standing.values()]
        natt = [(one.contender, one.natt) for one in self.standing.values()]
        for key, title, through, sizes in (
            ("esp", "ESP packets per second at the peak, 10 tunnels", esp, SIZES),
            ("natt", "ESP in UDP: packets per second at the peak, 10 tunnels of one peer", natt, SIZES[1:]),
        ):
            groups = [self.setting.peaks(through, side, size) for size in sizes for side in Direction]
            report.sections.append(throughput.throughput_section(groups, key, title, rate=0))
            found += groups
        return found

    def _many(self, peak: float) -> list[Section]:
        many, effort = self.setting.effort.many, self.setting.effort
        crowd = pairs(scale.MANY_CLIENTS, many)
        context = contenders.vpnmasq("many", self.setting.directory, core=GATEWAY_CORE)
        crowded = self.setting.stack.enter_context(context)
        stood = self._stand(crowded)  # what is loaded at the first tunnel is no cost of the next
        before = crowded.resident()
        stood.sides.establish(crowd)
        resident = (crowded.resident() - before) / many
        few = self.standing["vpnmasq"]
        sections = []
        lanes = (
            self.setting.lane(few.contender, few.esp, Direction.OUTBOUND, SIZES[0]),
            self.setting.lane(crowded, crowd, Direction.OUTBOUND, SIZES[0]),
        )
        daemon = scale.costs(*lanes, peak, effort.rounds, effort.seconds)
        cores = [core.ipsec(pairs(FIRST_CLIENT, FEW)), core.ipsec(crowd)]
        sections.append(scale.cost_section((FEW, many), daemon, core.seconds_per_packet(cores)))
        return [*sections, _memory(crowd, resident)]

    def _spray(self, inbound: throughput.Peak) -> Section:
        one = self.standing["vpnmasq"]
        return spray.section(self.setting, one.contender, one.esp, inbound)

    def _setups(self) -> Section:
        section = Section(
            "setups",
            "Set-ups per second: pairs by a packet of ESP each way; tunnels by four of IKE before",
            ["contender", "what", "how many", "per second"],
        )
        count = self.setting.effort.setups
        for name in ("vpnmasq", "plain"):
            one = self.standing[name]
            for what, first in (("pairs", scale.SETUP_CLIENTS), ("tunnels", scale.MANY_CLIENTS)):
                wanted = pairs(first, count, seen=name == "plain")
                rate = count / one.sides.establish(wanted, ike=what == "tunnels")
                section.results.append(
                    Result(
                        [name, what, str(count), f"{rate:.0f}"],
                        {"contender": name, "what": what, "count": count, "per_second": rate},
                        rate >= SETUPS if (name, what) == ("vpnmasq", "pairs") else None,
                    )
                )
        section.notes.append(
            f"target for vpnmasq: at least {SETUPS} pairs; both ends share a core, so plain is the ceiling"
        )
        return section


def _memory(crowd: Sequence[Pair], resident: float) -> Section:
    def octets(*, ike: bool) -> float:
        return core.octets_each(lambda count: core.ipsec(crowd[:count], ike=ike), len(crowd))

    memory = scale.memory_section("pair", len(crowd), resident, octets(ike=False), MEMORY)
    tunnel = octets(ike=True)
    memory.results.insert(
        1,
        Result(
            ["the same with the IKE that agreed on it", f"{tunnel:.0f}"],
            {"what": "core, with IKE", "octets": tunnel, "count": len(crowd)},
        ),
    )
    memory.notes.append(
        "the daemon's have IKE; a pair is a session and two flows, here each with a peer of its own"
    )
    return memory
