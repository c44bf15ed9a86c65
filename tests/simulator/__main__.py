"""Print how well each policy pairs ESP: networks of 2 to 32 clients, HOWTO §6.2's cases, wrong confirmations.

python -m tests.simulator [--policy P] [--only TABLE] [--seeds K] [--pairs N] [--jobs J] [--quick] [--json]
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Any

from tests.simulator.cases import CASES, Story
from tests.simulator.conditions import Conditions, Tally
from tests.simulator.gateways import POLICIES, gateway
from tests.simulator.kinds import KINDS
from tests.simulator.network import Network

SIZES = (2, 4, 8, 16, 32)
#: Copies per inbound packet that fanout may make in the first minute of interactive traffic, and in an hour.
MINUTE = {2: 1.02, 4: 1.02, 8: 1.05, 16: 1.2, 32: 1.5}
HOUR = 1.02
#: Of bulk traffic that begins at once.
BULK = 1.5

TABLES = ("minute", "bulk", "hour", "howto", "wrong")
_TITLES = {
    "minute": "first minute, interactive",
    "bulk": "first minute, bulk at once",
    "hour": "an hour, rekeys every 20 minutes",
    "howto": "HOWTO 6.2",
    "wrong": "wrong confirmations",
}


def run(policy: str, seed: int, **conditions: Any) -> Tally:
    """One network from its start to its end."""
    given = Conditions(**conditions)
    box = gateway(policy, seed, lifetime=given.lifetime, memory=given.memory)
    return Network(box, given, seed).run()


def many(policy: str, seeds: range, pool: ProcessPoolExecutor, **conditions: Any) -> Tally:
    """The same conditions with several seeds, added up."""
    total = Tally(clients=0)
    for tally in pool.map(partial(run, policy, **conditions), seeds, chunksize=4 if len(seeds) > 32 else 1):
        total.add(tally)
    return total


def row(policy: str, label: str, tally: Tally) -> dict[str, Any]:
    """What is printed of a tally."""
    inbound = max(1, tally.inbound)
    return {
        "policy": policy,
        "case": label,
        "up": f"{tally.up}/{tally.clients}",
        "delivered": tally.delivered / max(1, tally.inbound - tally.unknowable),
        "only to others": tally.misdelivered,
        "blocked": tally.blocked,
        "copies": tally.copies / inbound,
        "two-way": _median(tally.two_way),
        "confirmed in": _median(tally.confirmation),
        "confirmed": f"{tally.confirmed}/{tally.pairs}",
        "wrong": tally.wrong,
    }


def case_row(policy: str, name: str) -> dict[str, Any]:
    """What is printed of a failure case."""
    story = Story(gateway(policy, 1))
    CASES[name](story)
    return {
        "policy": policy,
        "case": name,
        "inbound": story.inbound,
        "delivered": story.delivered / story.inbound,
        "only to others": story.misdelivered,
        "blocked": story.blocked,
        "copies": story.copies / story.inbound,
    }


class Bench:
    """The tables that are asked for."""

    def __init__(self, options: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
        self.options, self.pool = options, pool
        self.policies = [options.policy] if options.policy else list(POLICIES)
        self.sizes = SIZES[:3] if options.quick else SIZES
        self.seeds = options.seeds or (2 if options.quick else 12)

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of one of them."""
        rows: list[dict[str, Any]] = getattr(self, name)()
        return rows

    def _sized(self, seeds: int, sizes: tuple[int, ...], **conditions: Any) -> list[dict[str, Any]]:
        return [
            row(p, f"{n} clients", many(p, range(seeds), self.pool, clients=n, **conditions))
            for p in self.policies
            for n in sizes
        ]

    def minute(self) -> list[dict[str, Any]]:
        """Clients that begin within two seconds, and are used by people."""
        return self._sized(self.seeds, self.sizes)

    def bulk(self) -> list[dict[str, Any]]:
        """Downloads that all begin at once."""
        return self._sized(4, self.sizes, traffic=("bulk",), seconds=10.0 if self.options.quick else 60.0)

    def hour(self) -> list[dict[str, Any]]:
        """A long time, with new pairs from either end."""
        return [] if self.options.quick else self._sized(4, self.sizes, seconds=3600.0, rekey=1200.0)

    def howto(self) -> list[dict[str, Any]]:
        """The three cases in which serialized pairing goes wrong."""
        return [case_row(p, name) for p in self.policies for name in CASES]

    def wrong(self) -> list[dict[str, Any]]:
        """Every kind of network, so often that there are enough pairs of all together."""
        if "fanout" not in self.policies:
            return []
        each = (600 if self.options.quick else self.options.pairs) / len(KINDS)
        rows: list[dict[str, Any]] = []
        for label, kind in KINDS.items():
            total = Tally(clients=0)
            for n in (2, 5, 9):
                seeds = range(1 + int(each * _PER_CLIENT / 3 / n))
                total.add(many("fanout", seeds, self.pool, clients=n, **kind))
            rows.append(row("fanout", label, total))
        return rows


#: Clients for each pair: there is about one and a half, as some are rekeyed.
_PER_CLIENT = 0.62


def faults(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What fanout does not do though it is required of it."""
    said: list[str] = []
    for name, rows in found.items():
        for line in rows:
            if line["policy"] != "fanout":
                continue
            where = f"{_TITLES[name]}, {line['case']}"
            if line["delivered"] < 1 or line["blocked"]:
                said.append(f"{where}: {line['delivered']:.6f} delivered, {line['blocked']} blocked")
            clients = int(line["case"].split()[0]) if line["case"].endswith(" clients") else 0
            most = {"minute": MINUTE.get(clients), "bulk": BULK, "hour": HOUR}.get(name)
            if most is not None and line["copies"] > most:
                said.append(f"{where}: {line['copies']:.4f} copies, {most} at most")
    wrong, pairs = judged(found.get("wrong", []))
    if wrong * 10_000 > pairs:
        said.append(f"{wrong} of {pairs} pairs confirmed wrongly")
    return said


def judged(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """How many pairs were confirmed wrongly, and how many there were."""
    return sum(line["wrong"] for line in rows), sum(int(line["confirmed"].split("/")[1]) for line in rows)


def _median(values: list[float]) -> float | None:
    return round(median(values), 4) if values else None


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table for people."""
    print(f"\n{title}")
    if not rows:
        return
    columns = list(rows[0])
    cells = [columns, *([_cell(r[c]) for c in columns] for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        texts = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(("  " + "  ".join(texts)).rstrip(), flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else str(value)


def main() -> int:
    """Print the tables; 1 if fanout does not do what is required of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--policy", choices=POLICIES)
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--seeds", type=int, help="runs for each row of the first table")
    parser.add_argument(
        "--pairs", type=int, default=100_000, help="in which wrong confirmations are looked for"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        bench = Bench(options, pool)
        for name in (options.only,) if options.only else TABLES:
            found[name] = bench.table(name)
            if not options.json:
                show(_TITLES[name], found[name])
    said = faults(found)
    if options.json:
        json.dump({_TITLES[name]: rows for name, rows in found.items()}, sys.stdout, indent=1)
    else:
        wrong, pairs = judged(found.get("wrong", []))
        print(f"\n{wrong} of {pairs} pairs confirmed wrongly" if pairs else "")
        print("\n".join(said) or "all that is required of fanout holds")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
