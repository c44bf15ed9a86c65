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


@dataclass(frozen=True, slots=True)
class ForwardAccepted:
    """Somebody dialled a forwarded ``port`` of ``local`` from ``remote``; Splice or Cut is the answer."""

    stream: int
    side: Side
    local: Ip4
    port: int
    remote: Ip4
    remote_port: int


@dataclass(frozen=True, slots=True)
class ForwardConnected:
    """The server answered: bytes go both ways."""

    stream: int


@dataclass(frozen=True, slots=True)
class ForwardFailed:
    """The server could not be reached, and who had dialled was reset; ``error`` is for people."""

    stream: int
    error: str


@dataclass(frozen=True, slots=True)
class ForwardHalfClosed:
    """One end finished sending, and the other was told."""

    stream: int


@dataclass(frozen=True, slots=True)
class ForwardEnded:
    """Both ends are closed; ``why`` is for people."""

    stream: int
    why: str


@dataclass(frozen=True, slots=True)
class ForwardAlive:
    """Both ends answer (see Examine)."""

    stream: int


ForwardEvent = (
    ForwardAccepted | ForwardConnected | ForwardFailed | ForwardHalfClosed | ForwardEnded | ForwardAlive
)
StreamEvent = (
    StreamAccepted | StreamConnected | StreamFailed | StreamData | StreamEnded | StreamLost | StreamStalled
)
