"""Many sessions: how fast they are set up, what they weigh, and what a packet costs among them."""

from collections.abc import Sequence
from typing import Final

from tests.bench.callers import Callers, Established
from tests.bench.contenders import Contender
from tests.bench.lanes import Lane, Sample
from tests.bench.limits import calls_per_connection
from tests.bench.report import Result, Section

#: Complete call set-ups per second.
SETUPS: Final = 500
#: Octets per established call beyond the sockets.
MEMORY: Final = 4096
#: Cost per packet among many sessions, as a multiple of the cost among few.
COST: Final = 1.2
#: Where the clients of each batch of calls begin, so that no two batches share one.
SETUP_CLIENTS: Final = "10.1.8.0"
MANY_CLIENTS: Final = "10.1.64.0"


def setups(ends: Callers, contender: Contender, count: int) -> Established:
    """Set up ``count`` calls, each with a control connection of its own."""
    return ends.establish(contender.row, SETUP_CLIENTS, count)


def setups_section(measured: Sequence[tuple[Contender, Established]]) -> Section:
    """The table of call set-ups."""
    section = Section(
        "setups",
        "Complete call set-ups per second (TCP, Start-Control-Connection, Outgoing-Call)",
        ["contender", "calls", "failed", "per second"],
    )
    for contender, done in measured:
        ours = contender.name == "vpnmasq"
        section.results.append(
            Result(
                [contender.name, str(len(done.calls)), str(len(done.errors)), f"{done.rate:.0f}"],
                {
                    "contender": contender.name,
                    "calls": len(done.calls),
                    "failed": len(done.errors),
                    "per_second": done.rate,
                },
                (done.rate >= SETUPS and not done.errors) if ours else None,
            )
        )
        section.notes += [f"{contender.name}: {error}" for error in done.errors[:3]]
    section.notes.append(
        f"target for vpnmasq: at least {SETUPS}; both ends of all calls share a core, so plain is the ceiling"
    )
    return section


def fill(ends: Callers, contender: Contender, calls: int) -> tuple[Established, float]:
    """Set up ``calls`` calls; return them and the octets the daemon grew for each.

    Where the machine limits open files, each control connection carries several calls.
    """
    each = calls_per_connection(calls)
    before = contender.resident()
    done = ends.establish(contender.row, MANY_CLIENTS, calls // each, each)
    return done, (contender.resident() - before) / max(len(done.calls), 1)


def memory_section(what: str, count: int, resident: float, in_core: float, most: int) -> Section:
    """The table of memory for each ``what``, of which there are ``count``; ``most``: octets it may take."""
    section = Section("memory", f"Memory per established {what}, {count} of them", ["what", "octets each"])
    section.results.append(
        Result(
            ["the core: sessions, flows, connections (tracemalloc)", f"{in_core:.0f}"],
            {"what": "core", "octets": in_core, "count": count},
            in_core <= most,
        )
    )
    section.results.append(
        Result(
            ["the daemon (resident)", f"{resident:.0f}"],
            {"what": "daemon", "octets": resident, "count": count},
        )
    )
    section.notes.append(f"target: at most {most} in the core")
    return section


def costs(few: Lane, many: Lane, rate: float, rounds: int, seconds: float) -> tuple[Sample, Sample]:
    """The same load through few calls and through many, in turns."""
    through_few, through_many = [], []
    for _ in range(rounds):
        through_few.append(few.sample(rate, seconds))
        through_many.append(many.sample(rate, seconds))
    return Sample.middle(through_few), Sample.middle(through_many)


def cost_section(sessions: tuple[int, int], daemon: tuple[Sample, Sample], alone: Sequence[float]) -> Section:
    """The table of costs per packet: of the whole daemon, and of the core alone."""
    few, many = sessions
    section = Section(
        "sessions",
        "Cost per packet among many sessions",
        ["what", f"{few} sessions, µs", f"{many} sessions, µs", "ratio"],
    )
    for what, costs_of in (
        ("daemon", [sample.cost for sample in daemon]),
        ("core", alone),
    ):
        ratio = costs_of[1] / costs_of[0]
        section.results.append(
            Result(
                [
                    {"daemon": "the daemon's processor time", "core": "from_lan() alone"}[what],
                    f"{costs_of[0] * 1e6:.2f}",
                    f"{costs_of[1] * 1e6:.2f}",
                    f"{ratio:.2f}",
                ],
                {
                    "what": what,
                    "few_us": costs_of[0] * 1e6,
                    "many_us": costs_of[1] * 1e6,
                    "ratio": ratio,
                    "few": few,
                    "many": many,
                },
                ratio <= COST if what == "daemon" else None,
            )
        )
    section.notes.append(f"target: at most {COST}; the load is spread evenly over all sessions")
    return section
