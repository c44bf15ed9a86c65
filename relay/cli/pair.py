"""``vpnmasq pair``: telling the gateway whose an inbound SPI of ESP is (HOWTO §6.2).

What the hosts agreed on can be read on them: ``ip xfrm state``, ``ipsec trafficstatus``, ``swanctl -l``.
"""

from typing import Any

import click

from relay.cli.client import COMPLETION_TIMEOUT, Client, Failure, as_json, asks, decode
from relay.cli.text import plain, span, table
from relay.options import DEFAULT_SOCKET


@click.group("pair", short_help="Tell whose an inbound SPI of ESP is; list or take back what was told.")
def command() -> None:
    """Tell the gateway whose an inbound SPI of ESP is.

    It finds that out by itself; a pair that it is told is right from the first packet on.
    """


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    try:
        client = Client(ctx.find_root().obj or DEFAULT_SOCKET, COMPLETION_TIMEOUT)
        pairs = client.get("/v1/pairs")[1]["pairs"]
    except Failure:
        return []
    peer, name = ctx.params.get("peer"), parameter.name or ""
    found = {one[name] for one in pairs if peer in (None, one["peer"]) or name == "peer"}
    return sorted(text for text in found if text.startswith(incomplete))


@command.command("list")
@as_json
@asks
def list_(client: Client, *, as_json: bool) -> None:
    """List the pairs that were told."""
    text, document = client.get("/v1/pairs")
    if as_json:
        click.echo(text, nl=False)
        return
    rows = [_row(one) for one in document["pairs"]]
    if not rows:
        click.echo("no pairs")
        return
    click.echo("\n".join(table(("PEER", "SPI", "CLIENT", "FOR"), rows)))


@command.command("add")
@click.argument("peer")
@click.argument("spi")
@click.argument("client", metavar="CLIENT")
@click.option("--lifetime", metavar="TIME", help="How long to believe it, like 30m or 1h30m.  [default: 8h]")
@as_json
@asks
def add(daemon: Client, peer: str, spi: str, client: str, *, lifetime: str | None, as_json: bool) -> None:
    """Tell that ESP of PEER with this SPI is for CLIENT, an inside host.

    Example: vpnmasq pair add 199.0.0.1 0xc0de0002 10.0.0.3 --lifetime 1h
    """
    body = {"peer": peer, "spi": spi, "client": client}
    text, document = _post(daemon, "/v1/pairs/add", body | ({"lifetime": lifetime} if lifetime else {}))
    if as_json:
        click.echo(text, nl=False)
        return
    (one,) = document["pairs"]
    click.echo(f"{plain(one['spi'])} of {plain(one['peer'])} is {plain(one['client'])}'s for {_left(one)}")


@command.command("del")
@click.argument("peer", shell_complete=_complete)
@click.argument("spi", shell_complete=_complete)
@as_json
@asks
def delete(client: Client, peer: str, spi: str, *, as_json: bool) -> None:
    """Take back what was told of an SPI of PEER.

    Exit status: 5 when nothing was.
    """
    text, _ = _post(client, "/v1/pairs/delete", {"peer": peer, "spi": spi})
    click.echo(text if as_json else f"{plain(spi)} of {plain(peer)} is no longer told", nl=not as_json)


def _post(client: Client, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    status, text = client.ask("POST", path, body)
    return text, decode(status, text)


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    return one["peer"], one["spi"], one["client"], _left(one)


def _left(one: dict[str, Any]) -> str:
    return span(one["remaining_seconds"])
