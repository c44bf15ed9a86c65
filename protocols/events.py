"""What happens to TCP streams, as the shell tells the core.

A stream is an accepted or dialled TCP connection, named by a number from ``Gateway.new_stream()``.
After Lost, Failed, or a StreamClose action, the number means nothing any more.
"""

from dataclasses import dataclass

from protocols.actions import Side
from protocols.addr import Ip4


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    """Somebody dialled ``local`` (ours, or on the LAN side any address) from ``remote``."""

    stream: int
    side: Side
    local: Ip4
    remote: Ip4


@dataclass(frozen=True, slots=True)
class StreamConnected:
    """The connection asked for with Connect stands; ``local`` is the address it was made from."""

    stream: int
    local: Ip4


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The connection asked for with Connect could not be made; ``error`` is for people."""

    stream: int
    error: str


@dataclass(frozen=True, slots=True)
class StreamData:
    """Bytes arrived, cut anywhere."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The far end finished sending (FIN)."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamLost:
    """The connection is gone without a FIN (RST, timeout); ``error`` is for people."""

    stream: int
    error: str


@dataclass(frozen=True, slots=True)
class StreamStalled:
    """The far end does not read: what we hold for it exceeds the limit."""

    stream: int


StreamEvent = (
    StreamAccepted | StreamConnected | StreamFailed | StreamData | StreamEnded | StreamLost | StreamStalled
)
