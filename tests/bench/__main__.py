"""``python -m tests.bench``: see README.md beside this file."""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tests.bench import lanes, peers
from tests.bench.address import Address
from tests.bench.callers import callers
from tests.bench.contenders import GATEWAY_CORE, GENERATOR_CORE
from tests.bench.fastpath import FastPath
from tests.bench.forward import Forward
from tests.bench.generator import generator
from tests.bench.ipsec import Ipsec
from tests.bench.native import Native
from tests.bench.pptp import Pptp
from tests.bench.precedence import be_urgent, in_front
from tests.bench.report import Report, machine
from tests.bench.restart import Restart
from tests.bench.setting import FULL, QUICK, Setting
from tests.bpf.kernel import built


def main() -> int:
    """Measure and print; 0 even where a target is missed, which is for people to judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "protocol",
        nargs="?",
        choices=["pptp", "ipsec", "forward", "fastpath", "address", "restart", "peers", "xdp"],
        default="pptp",
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, fewer sessions, rougher")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--profile", action="store_true", help="only say where the daemon's time goes")
    parser.add_argument("--urgent", action="store_true", help="take precedence over other programs")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("the bench makes network namespaces: run it as root", file=sys.stderr)
        return 77
    needs = {"peers": peers.unavailable, "fastpath": built, "xdp": built}
    if why := needs.get(arguments.protocol, lambda: None)():
        print(why, file=sys.stderr)
        return 77
    if GENERATOR_CORE == GATEWAY_CORE:
        print("the bench needs two cores", file=sys.stderr)
        return 1
    if arguments.urgent:
        be_urgent()
        return in_front(lambda: _measure(arguments))
    return _measure(arguments)


def _measure(arguments: argparse.Namespace) -> int:
    effort = QUICK if arguments.quick else FULL
    report = Report(machine())
    # The processes fork from here, before anything is open.
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(generator(GENERATOR_CORE))
        ends = stack.enter_context(callers(GENERATOR_CORE))
        os.sched_setaffinity(0, {GENERATOR_CORE})
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vpnmasq-bench-")))
        setting = Setting(effort, load, stack, directory, live=arguments.protocol == "fastpath")
        if arguments.protocol == "forward":
            Forward(setting).run(report)
        elif arguments.protocol == "address":
            Address(setting, ends).run(report)
        elif arguments.protocol == "fastpath":
            FastPath(setting).run(report)
        elif arguments.protocol == "xdp":
            Native(setting, ends).run(report)
        elif arguments.protocol == "restart":
            Restart(setting, ends).run(report)
        elif arguments.protocol == "peers":
            peers.Peers(setting).run(report)
        else:
            bench = Ipsec(setting) if arguments.protocol == "ipsec" else Pptp(setting, ends)
            if arguments.profile:
                print(bench.profile())
                return 0
            bench.run(report)
    if lanes.TALLY["samples"]:
        report.machine["samples"] = "{samples}, {disturbed} of them disturbed by other programs".format(
            **lanes.TALLY
        )
    return _show(report, arguments.json)


def _show(report: Report, file: Path | None) -> int:
    report.print()
    if file is not None:
        report.write(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
