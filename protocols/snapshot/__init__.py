"""The gateway's state as plain data, and back.

A snapshot is a header and records. Each record holds what belongs together, such as a control connection
with its calls, and is coherent in itself; between two of them the gateway may go on. So a big one is taken
bit by bit, beside the packets.
"""

from dataclasses import dataclass
from typing import Any

from protocols.snapshot.classes import SCHEMA, VERSION
from protocols.snapshot.graph import Record, SnapshotError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Plain data that JSON takes. ``now`` is the gateway's clock; it has to go on from there."""

    version: int
    now: float
    schema: dict[str, Any]
    records: tuple[Record, ...]


def snapshot(records: tuple[Record, ...], *, now: float) -> Snapshot:
    """A snapshot of these records in the form of today."""
    return Snapshot(VERSION, now, SCHEMA.header(), records)


def values(taken: Snapshot) -> list[tuple[str, tuple[Any, ...]]]:
    """What the records hold, each with the name of the part it is for.

    Raises:
        SnapshotError: it is of another version, or not what it says.
    """
    if taken.version != VERSION:
        raise SnapshotError(f"version {taken.version}; this program reads version {VERSION}")
    reader = SCHEMA.reader(taken.schema)
    found = []
    for record in taken.records:
        value = reader.value(record)
        if not isinstance(value, tuple) or not value or not isinstance(value[0], str):
            raise SnapshotError("a record is for nobody")
        found.append((value[0], value[1:]))
    return found
