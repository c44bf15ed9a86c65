"""``vpnmasq run``: the daemon. This file finds out what is wanted; relay.app does it."""

import os
from pathlib import Path

import click

from relay.cli.background import detached
from relay.cli.client import Failure
from relay.cli.everywhere import named_socket
from relay.cli.exits import Exit
from relay.options import DEFAULT_CONFIG, DEFAULT_DRAIN, RunOptions, find_config


@click.command("run", short_help="Run the gateway in the foreground.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"Configuration file.  [default: {DEFAULT_CONFIG}]",
)
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key, like wan.interface=ppp0."
)
@click.option(
    "--timeout",
    "drain",
    type=click.FloatRange(min=0),
    default=DEFAULT_DRAIN,
    show_default=True,
    metavar="SECONDS",
    help="How long SIGTERM waits for sessions to end.",
)
@click.option(
    "--takeover", is_flag=True, help="Replace the gateway that runs, and have all its sessions go on."
)
@click.option("--detach", is_flag=True, help="With --takeover: go on in the background, and return then.")
@click.pass_context
def command(
    ctx: click.Context, config: Path | None, sets: tuple[str, ...], drain: float, takeover: bool, detach: bool
) -> None:
    """Run the gateway in the foreground.

    It says "ready" when it serves. SIGHUP reads the configuration again; SIGTERM takes no new sessions, waits
    for those there are, and leaves.

    With --takeover it replaces a running gateway of the same name. That one goes on until the new one is
    ready, hands its sockets and sessions over, and leaves; if the new one cannot start, nothing has happened.
    With --detach the command ends when the new one serves, with status 0, or has failed, with its status.

    The file may be absent when VPNMASQ_MASQUERADE or VPNMASQ_EXPOSE hold the rules.
    """
    for one in sets:
        if "=" not in one:
            raise click.BadParameter(f"{one!r} is not KEY=VALUE", ctx, param_hint="--set")
    if detach and not takeover:
        raise click.UsageError("--detach goes with --takeover: whoever starts a gateway looks after it", ctx)
    try:
        found = find_config(config, os.environ)
    except FileNotFoundError as missing:
        raise Failure(str(missing), Exit.BAD_CONFIGURATION) from missing
    options = RunOptions(config=found, sets=sets, drain=drain, takeover=takeover, socket=named_socket())
    tell = detached() if detach else _nobody
    # Here and not above: the daemon's modules take longer to import than ``run --help`` to print.
    import relay.app

    status = relay.app.main(options, serving=lambda: tell(Exit.DONE))
    tell(status)
    ctx.exit(status)


def _nobody(_status: int) -> None:
    """Nobody waits to be told."""
