"""From a state file to a gateway that goes on where the one before it was."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Final

import structlog

from protocols.actions import Action, StreamClose
from protocols.gateway import Gateway
from protocols.snapshot import Snapshot
from protocols.snapshot.graph import SnapshotError
from relay.state.file import OutdatedError, StateFile, UnusableError

_log = structlog.get_logger("vpnmasq.state")

_NOBODY: Final = frozenset[int]()


@dataclass(slots=True)
class Revived:
    """A gateway, and what is to be done first."""

    gateway: Gateway
    actions: list[Action] = field(default_factory=list)
    #: What to tell the operator.
    attention: list[str] = field(default_factory=list)


def revived(
    make: Callable[[], Gateway], file: StateFile | None, *, streams: Set[int] = _NOBODY, now: float
) -> Revived:
    """A gateway that goes on from the state in a file, as far as that can be used; what cannot is set aside.

    ``make`` makes a gateway without any sessions; ``streams``: which TCP connections are still there. What
    was just being read from them when the process before us ended is lost.
    """
    taken, why = _read(file, now)
    if taken is not None:
        try:
            return restored(make(), taken, streams, now, in_step=False)
        except SnapshotError as error:
            why = str(error)
    found = Revived(make(), [StreamClose(stream, abort=True) for stream in streams])
    if file is not None and why:
        found.attention.append(_set_aside(file, why))
    return found


def restored(
    gateway: Gateway, taken: Snapshot, streams: Set[int], now: float, *, in_step: bool = True
) -> Revived:
    """A new gateway that goes on from a snapshot; as Gateway.restore.

    Raises:
        SnapshotError: it cannot be read; the gateway is of no use any more.
    """
    actions = gateway.restore(taken, streams=streams, in_step=in_step, now=now)
    _log.info("restored", sessions=len(gateway.registry), seconds_old=round(now - taken.now, 3))
    return Revived(gateway, actions)


def _read(file: StateFile | None, now: float) -> tuple[Snapshot | None, str]:
    """What a file holds, or why it is of no use."""
    if file is None:
        return None, ""
    try:
        return file.read(now=now), ""
    except UnusableError as error:
        return None, str(error)
    except OutdatedError:
        _log.info("state not used", path=str(file.path), reason="the machine has been started since")
        return None, ""
    except OSError as error:
        return None, error.strerror or str(error)


def _set_aside(file: StateFile, why: str) -> str:
    try:
        place = f"kept as {file.set_aside()}"
    except OSError as error:
        place = f"still there: {error.strerror}"
    _log.warning("state cannot be used", path=str(file.path), reason=why, place=place)
    return f"no sessions were taken over from {file.path}: {why}; it is {place}"
