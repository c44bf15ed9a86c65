"""The command line: ``vpnmasq COMMAND``.

A command is the ``command`` of relay/cli/NAME.py and a line in COMMANDS. It is imported only when it runs or
its own help is asked for, so that ``status`` never waits for the daemon's modules.
"""

import importlib
import os
import sys
from typing import Any

import click

from relay.cli.everywhere import SOCKET, take_everywhere
from relay.cli.exits import Exit

#: Every command with its line in ``vpnmasq --help``.
COMMANDS = {
    "run": "Run the gateway in the foreground.",
    "check": "Validate the configuration and print what is in effect.",
    "status": "Show state, WAN address, rules, losses and what needs attention.",
    "sessions": "List, show or end sessions.",
    "pair": "Tell whose an inbound SPI of ESP is.",
    "events": "Follow what happens to sessions and the address.",
    "wan": "Entry points for hooks: the link is up, or down.",
    "reload": "Read the configuration file again.",
    "health": "Exit 0 when the gateway is ready: for scripts and containers.",
    "demo": "Show the main job on a network of its own.",
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports them when needed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of the command, or return None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"relay.cli.{cmd_name}")
        command: click.Command = module.command
        return take_everywhere(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and name the nearest one when there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table as it is: help must not import every command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run, and leave quietly on Ctrl-C or when the reader of our output left."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)
        except BrokenPipeError:
            # The interpreter flushes standard output once more at its end; that must not fail loudly.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(Exit.DONE)
        return result


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"vpnmasq {version('vpnmasq')}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    params=[SOCKET],
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """A VPN gateway in user space: PPTP and IPsec behind one public address.

    Without a command it shows the status.

    Exit status: 0 done or ready, 1 failed or not ready, 2 bad arguments, 3 daemon not reachable, 4 timed out,
    5 nothing matched, 77 missing privilege, 78 bad configuration.
    """
    if ctx.invoked_subcommand is None:
        status = ctx.command.get_command(ctx, "status")  # type: ignore[attr-defined]
        ctx.invoke(status)
