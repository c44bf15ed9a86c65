"""``vpnmasq events``: what happens, as it happens."""

from datetime import datetime
from typing import Any

import click

from relay.cli.client import Client, Failure, as_json, asks, parse
from relay.cli.exits import Exit
from relay.cli.text import plain

#: Fields with a place of their own in a line for people.
_PLACED = {"schema", "event", "at", "session"}


@click.command("events", short_help="Follow what happens to sessions and the address.")
@as_json
@asks
def command(client: Client, *, as_json: bool) -> None:
    """Follow what happens to sessions and the address, until Ctrl-C.

    With --json every line is a document. The first line, "following", says that nothing is missed from there
    on. Ends with status 1 when the daemon cut us off because we read too slowly, and 3 when it stopped.
    """
    event: dict[str, Any] = {}
    for line in client.lines("/v1/events"):
        event = parse(line)
        click.echo(line if as_json else _readable(event), nl=not as_json)
    if event.get("event") == "cut-off":
        why = plain(event.get("why", ""))
        raise Failure(
            f"the daemon ended the stream: {why}", Exit.FAILED if "slow" in why else Exit.NOT_REACHABLE
        )
    raise Failure("the daemon ended the connection; is it stopping?", Exit.NOT_REACHABLE)


def _readable(event: dict[str, Any]) -> str:
    at = datetime.fromisoformat(event["at"]).astimezone()
    parts = [at.strftime("%H:%M:%S"), f"{plain(event['event']):<15}"]
    session = event.get("session")
    if session is not None:
        inside = session.get("client") or session.get("server")
        parts += [session["id"], session["state"], session["rule"], f"{inside} - {session['peer']}"]
    parts += [f"{name}={value}" for name, value in event.items() if name not in _PLACED]
    return "  ".join(plain(part) for part in parts)
