"""The fast path beside user space, nft and plain forwarding."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.bench import contenders, latency
from tests.bench.callers import callers
from tests.bench.contenders import GATEWAY_CORE, GENERATOR_CORE, KERNEL, Contender
from tests.bench.crowd import crowd
from tests.bench.means import means
from tests.bench.paths import NAMES, Best, throughput
from tests.bench.report import Report, Section
from tests.bench.setting import Setting
from tests.bench.standing import FEW, Standing
from tests.bench.tunnels import Both

#: Of the load while delays are measured.
_LIGHT: Final = 0.2
#: Seconds until everything that was set up has been handed over.
_SETTLE: Final = 0.5


@dataclass(slots=True)
class FastPath:
    """The contenders with their sessions; and what is measured without a daemon."""

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
        report.sections += crowd(self.setting)

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


@contextlib.contextmanager
def _fast(directory: Path) -> Iterator[Contender]:
    """The daemon with its fast path; the kernel's work is placed as the other kernel contenders' is."""
    with contenders.vpnmasq("fast", directory, KERNEL, core=GATEWAY_CORE, mode="require") as contender:
        yield contender
