"""Options that stand before a command or after it, as people type them.

``--socket`` is every command's; ``--json`` and ``--timeout`` of a group hold for its commands as well.
"""

from typing import Any

import click
from click.core import ParameterSource

from relay.options import DEFAULT_SOCKET, SOCKET_VARIABLE


def named_socket() -> str | None:
    """The control socket that the command line or the environment names, or None."""
    named: str | None = click.get_current_context().find_root().obj
    return named


def take_everywhere(command: click.Command) -> click.Command:
    """Let a command, and the commands of a group, take ``--socket`` too; return it."""
    if _SOCKET not in command.params:
        command.params.append(_SOCKET)
    if isinstance(command, click.Group):
        for one in command.commands.values():
            take_everywhere(one)
    return command


def inherited(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Use as an option's callback: what was given to a group holds where its command is given nothing."""
    name = parameter.name or ""
    given = ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    if given or ctx.parent is None or name not in ctx.parent.params:
        return value
    return ctx.parent.params[name]


def _remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:  # the last one on the line holds
        ctx.find_root().obj = value


def _option(**more: Any) -> click.Option:
    return click.Option(
        ["--socket"],
        metavar="PATH",
        expose_value=False,
        callback=_remember,
        help=f"Control socket of the daemon.  [default: {DEFAULT_SOCKET}; env: {SOCKET_VARIABLE}]",
        **more,
    )


#: After a command. Not from the environment: that must not go before what stands before the command.
_SOCKET = _option()
#: Before the command.
SOCKET = _option(envvar=SOCKET_VARIABLE)
