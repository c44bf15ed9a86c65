"""``vpnmasq wan``: what a hook of pppd, NetworkManager or a DHCP client calls."""

import click

from relay.cli.client import Client, as_json, asks, decode
from relay.cli.text import plain


@click.group("wan", short_help="Entry points for hooks: the link is up, or down.")
def command() -> None:
    """Tell the gateway what has become of a link.

    It watches the kernel and needs no hook; with one, a script that dials knows when the new address is
    served, and up_commands get the tty, the speed and ipparam.
    """


def _entry(name: str, event: str, text: str) -> None:
    @command.command(name, help=text, short_help=text.split(":")[0])
    @click.argument("interface")
    @click.argument("tty", default="")
    @click.argument("speed", default="")
    @click.argument("local", default="")
    @click.argument("remote", default="")
    @click.argument("ipparam", default="")
    @as_json
    @asks
    def entry(client: Client, *, as_json: bool, **link: str) -> None:
        status, text = client.ask("POST", f"/v1/wan/{event}", link)
        document = decode(status, text)
        if as_json:
            click.echo(text, nl=False)
        elif document["served"]:
            click.echo(f"{plain(document['interface'])}: {plain(document['address'] or 'no address')}")
        else:
            click.echo(f"{plain(link['interface'])}: not the public link, or not up yet")


_ARGUMENTS = (
    "the arguments are those that pppd gives its {0}; all but the interface may be left out or empty. "
    "Returns when the gateway has followed, after 3 s at most; a link that is not the public one is no error."
)
_entry("ip-up", "up", "The link is up: " + _ARGUMENTS.format("ip-up"))
_entry("ip-down", "down", "The link is down: " + _ARGUMENTS.format("ip-down"))
