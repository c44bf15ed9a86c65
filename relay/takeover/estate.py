"""What goes from one process to the next, as records and back."""

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from protocols.registry import Counts
from protocols.snapshot import Snapshot
from relay.sockets.joints import HalfPart, JointPart
from relay.sockets.pipes import Pipe
from relay.sockets.streams import StreamPart
from relay.takeover.channel import MOST_DESCRIPTORS, ChannelError, Record, TakingEnd

#: Descriptors of a forwarded connection: two sockets, and a pipe each way.
_OF_A_JOINT: Final = 6

#: A row of a record, and the descriptors that belong to it.
_Row = tuple[list[Any], list[int]]


@dataclass(slots=True)
class Estate:
    """All that the old process had open, and what it knew."""

    sockets: dict[str, socket.socket] = field(default_factory=dict)
    #: By UDP port, what holds it.
    holds: dict[int, socket.socket] = field(default_factory=dict)
    #: By interface, what holds the fast path's program in its driver.
    drivers: dict[int, int] = field(default_factory=dict)
    streams: list[StreamPart] = field(default_factory=list)
    joints: list[JointPart] = field(default_factory=list)
    snapshot: Snapshot = field(init=False)

    @property
    def numbers(self) -> frozenset[int]:
        """The core's numbers of all TCP connections."""
        streams = {part.number for part in self.streams if not part.done}
        return frozenset(streams | {part.number for part in self.joints})


@dataclass(frozen=True, slots=True)
class Last:
    """What has come since the snapshot."""

    counts: dict[str, Counts]
    packets: list[tuple[str, bytes]]


# -- what the old process says --------------------------------------------------------------------------


def described(estate: Estate) -> Iterator[tuple[Record, list[int]]]:
    """All of an estate but for the snapshot, as records with their descriptors."""
    sockets: Iterator[_Row] = (([name], [sock.fileno()]) for name, sock in estate.sockets.items())
    holds: Iterator[_Row] = (([port], [sock.fileno()]) for port, sock in estate.holds.items())
    streams: Iterator[_Row] = (
        ([part.number, part.partner, part.unsent.hex(), part.done], [part.sock.fileno()])
        for part in estate.streams
    )
    drivers: Iterator[_Row] = (([interface], [link]) for interface, link in estate.drivers.items())
    each = ("sockets", sockets), ("holds", holds), ("streams", streams), ("drivers", drivers)
    for kind, rows in each:
        yield from _records(kind, rows, MOST_DESCRIPTORS)
    yield from _records("joints", map(_joint_row, estate.joints), MOST_DESCRIPTORS // _OF_A_JOINT)


def _records(kind: str, rows: Iterable[_Row], at_once: int) -> Iterator[tuple[Record, list[int]]]:
    left = iter(rows)
    while some := list(islice(left, at_once)):
        descriptors = [number for _, numbers in some for number in numbers]
        yield {"kind": kind, "rows": [row for row, _ in some]}, descriptors


def _joint_row(part: JointPart) -> _Row:
    descriptors = [sock.fileno() for sock in part.sockets]
    halves = []
    for half in part.halves:
        halves.append([half.done, half.held, half.pipe is not None])
        if half.pipe is not None:
            descriptors += [half.pipe.outlet, half.pipe.inlet]
    return [part.number, len(part.sockets), halves], descriptors


def last(counts: dict[str, Counts], packets: Iterable[tuple[str, bytes]]) -> Record:
    """The record that ends it all."""
    return {"kind": "last", "counts": counts, "packets": [[name, data.hex()] for name, data in packets]}


# -- what the new one hears -----------------------------------------------------------------------------


def received(channel: TakingEnd) -> Estate:
    """Read an estate.

    Raises:
        ChannelError: it does not come, or is not one.
    """
    estate, header, records = Estate(), {}, []
    readers: dict[str, Callable[[list[Any], Iterator[int]], None]] = {
        "sockets": lambda row, fds: estate.sockets.update({row[0]: _socket(fds)}),
        "holds": lambda row, fds: estate.holds.update({row[0]: _socket(fds)}),
        "streams": lambda row, fds: estate.streams.append(
            StreamPart(row[0], row[1], _socket(fds), bytes.fromhex(row[2]), row[3])
        ),
        "joints": lambda row, fds: estate.joints.append(_joint(row, fds)),
        "drivers": lambda row, fds: estate.drivers.update({row[0]: next(fds)}),
    }
    try:
        while True:
            record, descriptors = channel.expect(*readers, "snapshot", "records", "end")
            kind = record["kind"]
            if kind == "end":
                break
            if kind == "snapshot":
                header = record
            elif kind == "records":
                records += record["rows"]
            else:
                numbers = iter(descriptors)
                for row in record["rows"]:
                    readers[kind](row, numbers)
        schema = header["schema"]
        estate.snapshot = Snapshot(header["version"], header["now"], schema, tuple(records))
    except (IndexError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise ChannelError(f"what is handed over cannot be read ({error!r})") from error
    return estate


def read_last(record: Record) -> Last:
    """Read what ``last`` has made.

    Raises:
        ChannelError: it is not that.
    """
    try:
        counts = {name: (tuple(out), tuple(back)) for name, (out, back) in record["counts"].items()}
        return Last(counts, [(name, bytes.fromhex(data)) for name, data in record["packets"]])
    except (KeyError, TypeError, ValueError) as error:
        raise ChannelError(f"the last record cannot be read ({error!r})") from error


def _socket(descriptors: Iterator[int]) -> socket.socket:
    return socket.socket(fileno=next(descriptors))


def _joint(row: list[Any], descriptors: Iterator[int]) -> JointPart:
    number, count, halves = row
    sockets = tuple(_socket(descriptors) for _ in range(count))
    parts = tuple(
        HalfPart(done, held, Pipe(next(descriptors), next(descriptors)) if has_pipe else None)
        for done, held, has_pipe in halves
    )
    return JointPart(number, sockets, parts)
