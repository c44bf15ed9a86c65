"""What ``vpnmasq run`` was asked to do, and where its configuration file is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CONFIG = Path("/etc/vpnmasq/vpnmasq.toml")
DEFAULT_SOCKET = "/run/vpnmasq/control.sock"
#: Seconds that SIGTERM lets sessions live on at most.
DEFAULT_DRAIN = 10.0

#: Environment variables that hold whole rules: with one of them set, no file is needed.
RULE_VARIABLES = ("VPNMASQ_MASQUERADE", "VPNMASQ_EXPOSE", "VPNMASQ_FORWARD")


#: The control socket for every command, and for the daemon if nothing else names one.
SOCKET_VARIABLE = "VPNMASQ_SOCKET"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line of ``vpnmasq run``."""

    #: The configuration file, or None: everything comes from the environment and ``sets``.
    config: Path | None
    #: ``--set`` arguments as given, "wan.interface=ppp0".
    sets: tuple[str, ...] = ()
    #: Seconds to drain on SIGTERM.
    drain: float = DEFAULT_DRAIN
    #: Whether to take over from the process that serves, instead of beginning anew.
    takeover: bool = False
    #: The control socket, when the command line or VPNMASQ_SOCKET names one.
    socket: str | None = None


def find_config(given: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file to read, or None when the environment holds rules instead.

    Raises:
        FileNotFoundError: the file that was named does not exist, or none was named, the default
            does not exist and the environment has no rules. The text says what to do.
    """
    if given is not None:
        if not given.exists():
            raise FileNotFoundError(f"{given}: no such configuration file")
        return given
    if DEFAULT_CONFIG.exists():
        return DEFAULT_CONFIG
    if any(environ.get(name) or environ.get(f"{name}_FILE") for name in RULE_VARIABLES):
        return None
    raise FileNotFoundError(
        f"{DEFAULT_CONFIG}: no such configuration file; name one with -c FILE, "
        f"or give rules in {RULE_VARIABLES[0]} or {RULE_VARIABLES[1]}"
    )


def with_socket(sets: tuple[str, ...], socket: str | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ``--set`` arguments with the control socket that --socket or the environment names.

    As everywhere, what stands on the command line holds before the environment.
    """
    if socket is None:
        return sets
    named = f"api.socket={socket}"
    return (named, *sets) if socket == environ.get(SOCKET_VARIABLE) else (*sets, named)
