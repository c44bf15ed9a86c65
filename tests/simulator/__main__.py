"""Print how well each policy pairs ESP: PAIRING's table, and the failure cases of HOWTO §6.2.

python -m tests.simulator [--policy P] [--seeds K] [--quick] [--json]
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Any

from tests.simulator.cases import CASES, Story
from tests.simulator.gateways import POLICIES, gateway
from tests.simulator.network import Conditions, Network, Tally

SIZES = (2, 4, 8, 16, 32)

#: Every kind of network that wrong confirmations are looked for in: name, and its conditions.
MIXTURE: dict[str, dict[str, Any]] = {
    "starting": {"seconds": 10.0},
    "lossy": {"seconds": 10.0, "loss": 0.02},
    "at once": {"seconds": 10.0, "starts": 0.1},
    "busy": {"seconds": 10.0, "think": (0.05, 0.5)},
    "rekeys": {"seconds": 20.0, "rekey": 8.0, "loss": 0.01},
    "broadcasts": {"seconds": 10.0, "broadcasts": 1.0, "listeners": 0.2},
    "IKE unseen": {"seconds": 15.0, "ike": False},
    "already up": {"seconds": 20.0, "ike": False, "established": True},
    "bulk": {"seconds": 4.0, "bulk": True},
}


def run(policy: str, seed: int, **conditions: Any) -> Tally:
    """One network from its start to its end."""
    return Network(gateway(policy, seed), Conditions(**conditions), seed).run()


def many(policy: str, seeds: range, pool: ProcessPoolExecutor, **conditions: Any) -> Tally:
    """The same conditions with several seeds, added up."""
    total = Tally(clients=0)
    for tally in pool.map(partial(run, policy, **conditions), seeds, chunksize=4):
        total.add(tally)
    return total


def row(policy: str, label: str, tally: Tally) -> dict[str, Any]:
    """What is printed of a tally."""
    inbound = max(1, tally.inbound)
    return {
        "policy": policy,
        "case": label,
        "up": f"{tally.up}/{tally.clients}",
        "delivered": tally.delivered / inbound,
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


def tables(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All that is asked for, by the title of its table."""
    policies = [options.policy] if options.policy else list(POLICIES)
    sizes = SIZES[:3] if options.quick else SIZES
    seeds = range(options.seeds or (2 if options.quick else 8))
    found: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(2) as pool:
        found["first minute, interactive"] = [
            row(p, f"{n} clients", many(p, seeds, pool, clients=n)) for p in policies for n in sizes
        ]
        found["first minute, bulk at once"] = [
            row(p, f"{n} clients", many(p, range(2), pool, clients=n, bulk=True, seconds=_minute(options, n)))
            for p in policies
            for n in sizes[:3]
        ]
        if not options.quick:
            found["an hour, rekeys every 20 minutes"] = [
                row(p, f"{n} clients", many(p, range(2), pool, clients=n, seconds=3600.0, rekey=1200.0))
                for p in policies
                for n in sizes
            ]
        found["HOWTO 6.2"] = [case_row(p, name) for p in policies for name in CASES]
        found["wrong confirmations"] = [
            row(p, f"{label}, {n} clients", many(p, range(_enough(options, n)), pool, clients=n, **kind))
            for p in policies
            if p == "fanout"
            for label, kind in MIXTURE.items()
            for n in (2, 5, 9)
        ]
    return found


def _minute(options: argparse.Namespace, clients: int) -> float:
    # A steady stream is the same after a while; the slow models of many clients need not see all of it.
    return 10.0 if options.quick or clients > 4 else 60.0


def _enough(options: argparse.Namespace, clients: int) -> int:
    """Runs for each kind: 100,000 pairs of all together in a full run, 500 in a quick one."""
    return max(1, (20 if options.quick else 3800) // clients)


def _median(values: list[float]) -> float | None:
    return round(median(values), 4) if values else None


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print tables for people."""
    for title, rows in found.items():
        print(f"\n{title}")
        if not rows:
            continue
        columns = list(rows[0])
        cells = [columns, *([_cell(r[c]) for c in columns] for r in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else str(value)


def main() -> int:
    """Print the tables; 1 if fanout does not do what is required of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--policy", choices=POLICIES)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = tables(options)
    if options.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        show(found)
    wrong = sum(r["wrong"] for r in found["wrong confirmations"])
    pairs = sum(int(r["confirmed"].split("/")[0]) for r in found["wrong confirmations"])
    if not options.json and pairs:
        print(f"\n{wrong} of {pairs} pairs confirmed wrongly")
    return int(wrong * 10_000 > pairs)


if __name__ == "__main__":
    sys.exit(main())
