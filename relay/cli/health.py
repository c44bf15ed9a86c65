"""``vpnmasq health``: one bit, as an exit status."""

import click

from relay.cli.client import Client, as_json, asks, decode, parse
from relay.cli.exits import Exit
from relay.cli.text import plain


@click.command("health", short_help="Exit 0 when the gateway is ready: for scripts and containers.")
@as_json
@click.pass_context
@asks
def command(ctx: click.Context, client: Client, *, as_json: bool) -> None:
    """Exit 0 when the gateway is ready, 1 when it is not yet or no longer, 3 when there is none."""
    status, text = client.ask("GET", "/v1/health")
    document = parse(text) if status == 503 else decode(status, text)
    reason = document.get("reason")
    line = f"{document['state']}: {reason}" if reason else document["state"]
    click.echo(text if as_json else plain(line), nl=not as_json)
    ctx.exit(Exit.DONE if document["ready"] else Exit.FAILED)
