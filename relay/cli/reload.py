"""``vpnmasq reload``: the file again, whole or not at all."""

import click

from relay.cli.client import Client, as_json, asks, decode
from relay.cli.text import plain


@click.command("reload", short_help="Read the configuration file again.")
@as_json
@asks
def command(client: Client, *, as_json: bool) -> None:
    """Read the configuration file again and change only what differs.

    A file that is wrong changes nothing: exit status 78, with every problem in it.
    """
    status, text = client.ask("POST", "/v1/reload")
    document = decode(status, text)
    if as_json:
        click.echo(text, nl=False)
    elif document["changed"]:
        click.echo("changed: " + ", ".join(plain(key) for key in document["changed"]))
    else:
        click.echo("nothing differs")
