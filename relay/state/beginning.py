"""Where a gateway goes on from: a process that it takes over from, a file, or nowhere."""

from collections.abc import Callable, Sequence
from pathlib import Path

from protocols.gateway import Gateway
from protocols.snapshot.graph import SnapshotError
from relay import systemd
from relay.config.models import Config
from relay.sockets.streams import StreamPart
from relay.state.file import StateFile
from relay.state.revival import Revived, restored, revived
from relay.state.store import DescriptorStore
from relay.takeover.estate import Estate
from relay.takeover.taking import TakeoverError


def begun(
    make: Callable[[], Gateway],
    state: StateFile | None,
    kept: Sequence[StreamPart],
    estate: Estate | None,
    *,
    now: float,
) -> Revived:
    """A gateway that goes on from an estate, if there is one, or from a file and the streams ``kept``.

    Raises:
        TakeoverError: the estate cannot be read.
    """
    if estate is None:
        return revived(make, state, streams={part.number for part in kept}, now=now)
    try:
        return restored(make(), estate.snapshot, estate.numbers, now)
    except SnapshotError as error:
        raise TakeoverError(f"the sessions of the running gateway cannot be read: {error}") from error


def state_file(settings: Config) -> StateFile | None:
    """Where sessions are written down; None when they are not."""
    return StateFile(Path(settings.state.directory), settings.name) if settings.state.directory else None


def store(settings: Config) -> tuple[DescriptorStore | None, list[StreamPart]]:
    """What keeps control connections in case of a crash, and what it has kept; None without systemd."""
    if not systemd.is_there():
        return None, []
    # Without the state nobody would know whose they are.
    keeping = DescriptorStore(settings.state.descriptors if settings.state.directory else 0)
    return keeping, keeping.kept(systemd.kept())
