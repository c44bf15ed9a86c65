"""``vpnmasq check``: is the configuration right, what is in force, and what does it need of this host."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from relay import addresses, privileges
from relay.cli.everywhere import named_socket
from relay.cli.exits import Exit
from relay.config import ConfigError, Problem, Settings, load
from relay.config.capabilities import Way, needed_capabilities, ways
from relay.config.cautions import address_cautions, cautions
from relay.config.firewall import Advice, firewall_lines
from relay.config.interfaces import lan_interfaces
from relay.kernel import KernelError
from relay.options import DEFAULT_CONFIG, find_config, with_socket

SCHEMA = "vpnmasq.check/1"
#: Stand for interfaces that "auto" does not find now.
_WAN, _LAN = "WAN", "LAN"


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say about a configuration that may be used."""

    settings: Settings
    warnings: tuple[str, ...]
    #: Capability, and why it is needed.
    needed: dict[str, str]
    missing: tuple[str, ...]
    #: What can be done with the privileges of this process, and of what is lacking for it.
    ways: tuple[tuple[Way, tuple[str, ...]], ...]
    firewall: Advice


@click.command("check", short_help="Validate the configuration and print what is in effect.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Configuration file.  [default: {DEFAULT_CONFIG}]",
)
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key, like wan.interface=ppp0."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, config: Path | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Validate the configuration and print what is in effect, with where each setting comes from.

    It also names the privileges needed, and the lines that a firewall which drops by default must have.
    Nothing is changed, and no daemon need run. Exit status 78: wrong configuration, every problem printed.
    """
    for one in sets:
        if "=" not in one:
            raise click.BadParameter(f"{one!r} is not KEY=VALUE", ctx, param_hint="--set")
    settings: Settings | None = None
    try:
        sets = with_socket(sets, named_socket(), os.environ)
        settings = load(find_config(config, os.environ), sets, os.environ)
        problems: list[Problem] = []
    except FileNotFoundError as missing:
        problems = [Problem("", "", str(missing))]
    except ConfigError as error:
        problems = list(error.problems)
    report = examine(settings) if settings is not None and not problems else None
    if as_json:
        click.echo(json.dumps(document(settings, problems, report), indent=2))
    elif report is not None:
        show(report)
    else:
        show_problems(problems)
    ctx.exit(Exit.DONE if report is not None else Exit.BAD_CONFIGURATION)


def examine(settings: Settings) -> Report:
    """Look at what the configuration needs of this host."""
    warnings = list(cautions(settings.config))
    wan = settings.config.wan.interface
    if wan == "auto":
        try:
            wan = addresses.default_interface()
        except KernelError as error:
            warnings.append(f'wan.interface is "auto": {error}')
            wan = _WAN
    lan = lan_interfaces(settings.config, addresses.all_addresses(), wan)
    if not lan:
        warnings.append('lan.interfaces is "auto", and no interface has an address in lan.networks now')
        lan = (_LAN,)
    named = [name for name in (wan, *lan) if name not in (_WAN, _LAN)]
    absent = [name for name in named if not addresses.interface(name).exists]
    warnings += [f"there is no interface {name} on this host now; see: ip -brief link" for name in absent]
    if wan not in (_WAN, *absent) and settings.config.wan.address == "auto":
        warnings += address_cautions(settings.config, addresses.interface(wan).address)
    needed = needed_capabilities(settings.config)
    return Report(
        settings=settings,
        warnings=tuple(warnings),
        needed=needed,
        missing=_missing(needed),
        ways=tuple((way, _missing(way.takes)) for way in ways()),
        firewall=firewall_lines(settings.config, wan, lan),
    )


def _missing(names: Iterable[str]) -> tuple[str, ...]:
    lacking = privileges.missing(privileges.Capability[name] for name in names)
    return tuple(capability.name for capability in lacking)


def document(settings: Settings | None, problems: Iterable[Problem], report: Report | None) -> dict[str, Any]:
    """Return the JSON document; what could not be found out is empty."""
    effective = [] if settings is None else list(settings.effective())
    return {
        "schema": SCHEMA,
        "valid": report is not None,
        "problems": [asdict(problem) for problem in problems],
        "warnings": list(report.warnings) if report else [],
        "settings": [
            {
                "key": setting.key,
                "value": setting.value,
                "origin": setting.origin.layer.value,
                "where": setting.origin.where,
            }
            for setting in effective
        ],
        "privileges": [
            {"capability": name, "reason": reason, "present": name not in report.missing}
            for name, reason in report.needed.items()
        ]
        if report
        else [],
        "allowed": [
            {"way": way.name, "meaning": way.meaning, "allowed": not lacking, "missing": list(lacking)}
            for way, lacking in report.ways
        ]
        if report
        else [],
        "firewall": {
            "input": list(report.firewall.inward) if report else [],
            "output": list(report.firewall.outward) if report else [],
        },
    }


def show_problems(problems: list[Problem]) -> None:
    """Print every problem, as compilers do: place, key, message; below it what to do."""
    for problem in problems:
        place = ": ".join(part for part in (problem.where, problem.key, problem.message) if part)
        click.echo(place, err=True)
        if problem.advice:
            click.echo(f"    {problem.advice}", err=True)
    click.echo(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}: not usable", err=True)


def show(report: Report) -> None:
    """Print the report for people: a table on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        _table(report.settings)
    else:
        for setting in report.settings.effective():
            click.echo(f"{setting.key} = {setting.text}  # {setting.origin.where}")
    click.echo("\nPrivileges needed:")
    for name, reason in report.needed.items():
        have = "MISSING HERE" if name in report.missing else "present"
        click.echo(f"  {name}: {reason} ({have})")
    if report.missing:
        click.echo("  Run the daemon as root, or give it these capabilities; check itself needs none.")
    click.echo("\nWith the privileges of this process:")
    for way, lacking in report.ways:
        can = f"no, it takes {' and '.join(lacking)}" if lacking else "yes"
        click.echo(f"  {way.name} ({way.meaning}): {can}")
    _show_firewall(report.firewall)
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("\nThe configuration is right.")


def _show_firewall(advice: Advice) -> None:
    if not advice.inward:
        return
    click.echo("\nA firewall that drops by default needs these nft lines, above what drops:")
    click.echo("\n# input chain (the forward chain never sees VPN packets)")
    for line in advice.inward:
        click.echo(line)
    click.echo("\n# output chain, if that one drops by default too")
    for line in advice.outward:
        click.echo(line)


def _table(settings: Settings) -> None:
    # Here and not above: half of all uses are scripts.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Key", overflow="fold", ratio=3)
    table.add_column("Value", overflow="fold", ratio=4)
    table.add_column("From", overflow="fold", ratio=3)
    for setting in settings.effective():
        style = "dim" if setting.origin.where == "default" else ""
        table.add_row(Text(setting.key), Text(setting.text), Text(setting.origin.where), style=style)
    Console().print(table)
