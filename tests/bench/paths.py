"""Packets per second of fast path, user space, nft and plain forwarding, with one and with many flows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tests.bench.contenders import KERNEL
from tests.bench.lanes import Direction, Sample
from tests.bench.report import Result, Section
from tests.bench.setting import SIZES, Setting
from tests.bench.standing import FEW, FLOWS, PROTOCOLS, Standing

#: The contenders, in order.
NAMES: Final = ("fast path", "user space", "nft", "plain")
#: The fast path's packets per second as multiples of nft's, with small packets, and of plain forwarding.
OF_NFT: Final = 1.5
OF_PLAIN: Final = 1.0
#: Of the length of other samples: there are many.
_SHORT: Final = 0.5
#: What passed of one protocol and load at each contender's peak, by its name; of those that could do it.
Best = dict[str, Sample]


def throughput(setting: Setting, standing: Sequence[Standing]) -> tuple[list[Section], Best]:
    """A table for each number of flows; and the peaks of few flows of GRE outbound, with small packets."""
    short = replace(setting, effort=replace(setting.effort, seconds=setting.effort.seconds * _SHORT))
    tables, first = [], Best()
    for flows in FLOWS:
        table = _table(flows)
        for protocol in PROTOCOLS:
            asked = [(one, one.ready(protocol, flows)) for one in standing]
            through = [(one, sessions) for one, sessions in asked if sessions]
            table.notes += [f"{one.name}: {one.reasons[protocol]}" for one, sessions in asked if not sessions]
            for direction, size in _loads(flows):
                ways = [(one.contender, sessions) for one, sessions in through]
                peaks = short.peaks(ways, direction, size)
                best = {one.name: peak.best() for (one, _), peak in zip(through, peaks, strict=True)}
                table.results.append(row(protocol, direction, size, flows, best))
                if flows == FEW and not first:
                    first = best
        tables.append(table)
    return tables, first


def _loads(flows: int) -> list[tuple[Direction, int]]:
    """What is measured with so many flows, what the targets are about first."""
    loads = [(Direction.OUTBOUND, size) for size in SIZES]
    return [*loads, (Direction.INBOUND, SIZES[0])] if flows == FEW else loads


def _table(flows: int) -> Section:
    section = Section(
        f"fastpath-{flows}",
        f"Thousand packets per second at the peak: {flows} flow{'s' * (flows > 1)}",
        ["protocol, octets", *NAMES, "/ nft", "/ plain", "daemon"],
    )
    section.notes.append(f"targets: {OF_NFT} × nft at {SIZES[0]} octets, {OF_PLAIN} × plain")
    section.notes.append(f"fast path, nft, plain: {KERNEL}; daemon: the fast path's, of a core")
    return section


def row(protocol: str, direction: Direction, size: int, flows: int, best: Best) -> Result:
    """A line of the table; who is missing in ``best`` gets a dash, and is named in a note."""
    fast, _, nft, plain = (best.get(name) for name in NAMES)
    of_nft, of_plain = _ratio(fast, nft), _ratio(fast, plain)
    busy = fast.cost * fast.received if fast else None
    cells = [f"{protocol} {'out' if direction is Direction.OUTBOUND else 'in'}, {size}"]
    cells += [f"{best[name].received / 1000:.0f}" if name in best else "–" for name in NAMES]
    cells += [f"{ratio:.2f}" if ratio is not None else "–" for ratio in (of_nft, of_plain)]
    cells.append(f"{busy:.1%}" if busy is not None else "–")
    values: dict[str, float | str | None] = {"protocol": protocol, "direction": direction.value}
    values |= {"octets": size, "flows": flows}
    values |= {name: best[name].received if name in best else None for name in NAMES}
    values |= {"of_nft": of_nft, "of_plain": of_plain, "daemon": busy}
    wanted = [(of_plain, OF_PLAIN), *([(of_nft, OF_NFT)] if size == SIZES[0] else [])]
    return Result(cells, values, _met(fast, wanted))


def _ratio(ours: Sample | None, theirs: Sample | None) -> float | None:
    return ours.received / theirs.received if ours and theirs else None


def _met(fast: Sample | None, wanted: Sequence[tuple[float | None, float]]) -> bool | None:
    """Whether every ratio is what it should be; None where a ratio that nothing else decides is missing.

    Where the fast path itself is missing, nothing was met.
    """
    if fast is None or any(ratio is not None and ratio < least for ratio, least in wanted):
        return False
    return None if any(ratio is None for ratio, _ in wanted) else True
