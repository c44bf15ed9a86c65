"""``vpnmasq demo``: the main job on a network of its own, beside what the plain kernel makes of it."""

import json
import os
import sys
import time
from pathlib import Path

import click

from relay.cli.client import Failure
from relay.cli.exits import Exit


@click.command("demo", short_help="Show the main job on a network of its own.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to standard error."
)
@click.option(
    "--clients",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    metavar="N",
    help="Clients on the LAN, all with the same Call ID.",
)
@click.option(
    "--keep-logs",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Copy configuration, rules and logs there.",
)
@click.option("--plain", is_flag=True, help="Print plain lines, as when the output is no terminal.")
@click.pass_context
def command(ctx: click.Context, *, as_json: bool, clients: int, keep_logs: Path | None, plain: bool) -> None:
    """Show the main job on a network of its own.

    In network namespaces that it makes and removes, several PPTP clients with the same Call ID talk to one
    outside server while an outside caller reaches a private server, all through one public address: first
    through vpnmasq, then through the kernel's own masquerading without and with its PPTP helper. About 20
    seconds.

    Exit status 0 when everything went right with vpnmasq; 77 without the privileges to make namespaces.
    """
    from relay.demo import needs

    if lacking := needs.lacking_privileges(needs.effective_capabilities()):
        raise Failure(lacking, Exit.NO_PRIVILEGE)
    if lacking := needs.lacking_programs():
        raise Failure(lacking)
    ctx.exit(_run(clients=clients, as_json=as_json, plain=plain, keep_logs=keep_logs))


def _run(*, clients: int, as_json: bool, plain: bool, keep_logs: Path | None) -> int:
    # Here and not above: help must not wait for rich.
    from relay.demo import show, story
    from relay.demo.hosts import HostError
    from relay.demo.network import NetworkError

    console = show.console(stderr=as_json)
    start = time.monotonic()
    try:
        with show.screen(console, clients, plain=plain) as screen:
            columns = story.tell(clients, screen, keep_logs)
    except story.Interrupted as signal:
        return 128 + signal.number
    except BrokenPipeError:
        # Nobody reads on, so nobody learns whether all went right. What is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except (NetworkError, HostError) as failure:
        raise Failure(str(failure)) from failure
    seconds = time.monotonic() - start
    if as_json:
        click.echo(json.dumps(show.document(columns, clients, seconds), indent=2))
    else:
        show.conclude(console, columns, clients, seconds)
    return Exit.DONE if show.passed(columns) else Exit.FAILED
