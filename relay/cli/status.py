"""``vpnmasq status``: is it well, whom does it serve, and where are packets lost."""

from collections.abc import Iterator
from typing import Any

import click

from protocols.drops import HELP, Reason
from relay.cli.client import Client, as_json, asks
from relay.cli.text import field, octets, paragraph, plain, span, table

#: Colours of a terminal, by the daemon's state.
_COLOURS = {"ready": "green", "starting": "yellow", "waiting": "yellow", "draining": "yellow"}


@click.command("status", short_help="Show state, WAN address, rules, losses and what needs attention.")
@as_json
@asks
def command(client: Client, *, as_json: bool = False) -> None:
    """Show state, WAN address, rules, losses and what needs attention."""
    text, document = client.get("/v1/status")
    if as_json:
        click.echo(text, nl=False)
        return
    click.echo("\n".join(_page(document)))


def _page(status: dict[str, Any]) -> Iterator[str]:
    yield from _head(status)
    yield ""
    yield from _rules(status["rules"])
    for title, lines in (
        ("Refused, by reason", _drops(status["drops"])),
        ("Sockets", _sockets(status["sockets"])),
        ("Attention", _attention(status["attention"])),
    ):
        if lines:
            yield ""
            yield click.style(title, bold=True)
            yield from lines


def _head(status: dict[str, Any]) -> Iterator[str]:
    state = plain(status["state"])
    since = span(status["uptime_seconds"])
    yield (
        f"{plain(status['instance'])} {plain(status['version'])} is "
        f"{click.style(state, fg=_COLOURS.get(state, 'red'), bold=True)}, running for {since}"
    )
    for title, text in _facts(status):
        yield from field(title, text, 11)


def _facts(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    wan = status["wan"]
    changes = f", changed {wan['changes']} times" if wan["changes"] else ""
    yield "WAN", f"{wan['address'] or 'no address'} on {wan['interface']} since {wan['since']}{changes}"
    # A daemon older than this command knows no names.
    for name in status.get("ddns", []):
        points = f", points at {', '.join(name['addresses'])}" if name["addresses"] else ""
        yield "Name", f"{name['host']} is {name['state']}{points}"
    sessions = ", ".join(f"{count} {name}" for name, count in status["sessions"].items() if count)
    yield "Sessions", sessions or "none"
    traffic = ", ".join(
        f"{direction} {counted['packets']} packets, {octets(counted['octets'])} octets"
        for direction, counted in status["traffic"].items()
    )
    if traffic:
        yield "Traffic", traffic
    fast = status["fastpath"]
    yield "Fast path", "active" if fast["active"] else f"not active: {fast['reason']}"
    for name, problem in fast.get("drivers", {}).items():
        yield "Driver", f"{name}: {f'not used, {problem}' if problem else 'carries flows'}"
    strangers = status.get("strangers")
    if strangers is not None and not strangers["kept_out"]:
        yield "Strangers", f"not kept out by the kernel: {strangers['reason']}"


def _rules(rules: list[dict[str, Any]]) -> list[str]:
    rows = [
        (rule["name"], rule["role"], "+".join(rule["protocols"]), rule["sessions"], rule["refused"])
        for rule in rules
    ]
    return table(("RULE", "ROLE", "PROTOCOLS", "SESSIONS", "REFUSED"), rows, right=("SESSIONS", "REFUSED"))


def _drops(drops: dict[str, int]) -> list[str]:
    """The most frequent first, each with what it means."""
    helped = {reason.value: text for reason, text in HELP.items()}
    assert len(helped) == len(Reason)
    lines = []
    for reason, count in sorted(drops.items(), key=lambda item: -item[1]):
        lines += paragraph(
            # A daemon newer than this command may know reasons that we do not.
            f"{reason}: {helped[reason]}" if reason in helped else reason,
            first=f"{count:>9}  ",
            indent=" " * 11,
        )
    return lines


def _sockets(sockets: list[dict[str, Any]]) -> list[str]:
    """Where packets are lost: those the kernel dropped never reached the gateway."""
    rows = [
        (
            one["name"],
            one["packets"],
            one["kernel_drops"],
            one.get("send_failures", 0),
            octets(one["receive_buffer"]),
        )
        for one in sockets
    ]
    header = ("SOCKET", "READ", "LOST", "NOT SENT", "BUFFER")
    return table(header, rows, right=header[1:]) if rows else []


def _attention(texts: list[str]) -> list[str]:
    return [line for text in texts for line in paragraph(text, first="! ", indent="  ")]
