"""``vpnmasq sessions``: the registry."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from relay.cli.client import COMPLETION_TIMEOUT, Client, Failure, as_json, asks, decode, parse
from relay.cli.exits import Exit
from relay.cli.text import field, octets, plain, span, table
from relay.options import DEFAULT_SOCKET


@click.group("sessions", invoke_without_command=True, short_help="List, show or end sessions.")
@as_json
@click.pass_context
@asks
def command(ctx: click.Context, client: Client, *, as_json: bool = False) -> None:
    """List the sessions; show or end some."""
    if ctx.invoked_subcommand is not None:
        return
    text, document = client.get("/v1/sessions")
    if as_json:
        click.echo(text, nl=False)
        return
    rows = [_row(one) for one in document["sessions"]]
    if not rows:
        click.echo("no sessions")
        return
    header = ("ID", "PROTO", "STATE", "INSIDE", "PEER", "AGE", "OUT", "IN")
    click.echo("\n".join(table(header, rows, right=("OUT", "IN"))))


def _complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    try:
        client = Client(ctx.find_root().obj or DEFAULT_SOCKET, COMPLETION_TIMEOUT)
        document = client.get("/v1/sessions")[1]
    except Failure:
        return []
    return [one["id"] for one in document["sessions"] if one["id"].startswith(incomplete)]


@command.command("show")
@click.argument("session", metavar="ID", shell_complete=_complete)
@as_json
@asks
def show(client: Client, session: str, *, as_json: bool) -> None:
    """Show all there is to know about one session."""
    text, document = client.get(f"/v1/sessions/{quote(session, safe='')}")
    if as_json:
        click.echo(text, nl=False)
        return
    click.echo("\n".join(_details(document["sessions"][0])))


@command.command("kill")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=_complete)
@as_json
@asks
def kill(client: Client, ids: tuple[str, ...], *, as_json: bool) -> None:
    """End sessions: both sides are told, data no longer flows.

    Exit status: 0 all were ended, 1 some of the IDs are unknown, 5 all of them are.
    """
    status, text = client.ask("POST", "/v1/sessions/kill", {"ids": list(ids)})
    document = parse(text) if status == 404 else decode(status, text)
    if "killed" not in document:
        decode(status, text)
    if as_json:
        click.echo(text, nl=False)
    else:
        for one in document["killed"]:
            click.echo(f"ended {plain(one)}")
    unknown = document["unknown"]
    if unknown:
        names = ", ".join(plain(one) for one in unknown)
        noun = "session" if len(unknown) == 1 else "sessions"
        raise Failure(f"no {noun} {names}", Exit.FAILED if document["killed"] else Exit.NOTHING_MATCHED)


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    volume = one.get("octets", {})
    return (
        one["id"],
        one["protocol"],
        one["state"],
        _inside(one),
        one["peer"],
        span(one.get("age_seconds", 0)),
        octets(volume.get("outbound", 0)),
        octets(volume.get("inbound", 0)),
    )


def _inside(one: dict[str, Any]) -> str:
    return plain(one.get("client") or one.get("server") or "?")


def _details(one: dict[str, Any]) -> Iterator[str]:
    """Every field, in the document's order: what a later daemon adds is shown, too."""
    for name, value in one.items():
        yield from field(name.replace("_", " "), _value(name, value), 16)


def _value(name: str, value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{plain(key)} {plain(part)}" for key, part in value.items()) or "none yet"
        case list():
            return ", ".join(plain(part) for part in value)
        case bool():
            return "yes" if value else "no"
        case float() | int() if name.endswith("_seconds"):
            return f"{value:g} ({span(value)})"
        case _:
            return plain(value)
