"""Objects that refer to each other, as rows of plain data, and back.

A record is a value and the rows of all objects that can be reached from it: ``[value, row, row, …]``, and a
row is ``[number of the class, column, column, …]``. A column is a number, a text or None as it is, and
anything else a list that begins with what it is:

    ["o", 3]             the object of the third row      ["l" | "t" | "s" | "q", …]   list, tuple, set, deque
    ["b", "00ff"]        bytes in hex                     ["d", key, value, …]         dict, in its order
    ["e", 2, "lan"]      member of the second enum

So what is one object before is one object after, and circles do no harm; objects that are equal by their
values become one. Which classes there are, and their
columns, stands once beside the records: a column that a class no longer has is passed over, a new one gets
its default. JSON takes all of it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from operator import attrgetter
from typing import Any, Final

#: What stands for itself.
_PLAIN: Final = frozenset({int, float, str, bool, type(None)})
_CONTAINERS: Final[dict[type, str]] = {list: "l", tuple: "t", set: "s", deque: "q"}
_MADE: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {tag: kind for kind, tag in _CONTAINERS.items()}

#: One record, as above.
Record = list[Any]


class SnapshotError(Exception):
    """The data is not a snapshot, or not one that this program can read; the text is for people."""


@dataclass(frozen=True, slots=True)
class _Class:
    """How objects of a class become rows."""

    number: int
    columns: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]
    #: Whether equal ones are as good as one.
    by_value: bool


class Schema:
    """The classes and enums that records may hold; nothing else becomes data, or comes out of it."""

    def __init__(self, classes: Sequence[type], enums: Sequence[type[Enum]]) -> None:
        self._named: dict[str, type] = {_name(kind): kind for kind in classes}
        self._enums: dict[str, type[Enum]] = {_name(kind): kind for kind in enums}
        self._classes = {kind: _described(number, kind) for number, kind in enumerate(classes)}
        self._members = {
            member: ["e", number, member.value] for number, kind in enumerate(enums) for member in kind
        }

    def header(self) -> dict[str, Any]:
        """What a reader has to know of the classes, as plain data."""
        classes = [[name, list(self._classes[kind].columns)] for name, kind in self._named.items()]
        return {"classes": classes, "enums": list(self._enums)}

    def record(self, value: object) -> Record:
        """A value, with all that can be reached from it, as plain data.

        Raises:
            TypeError: something in it is of a class that is not ours to keep.
        """
        return _Writer(self._classes, self._members).record(value)

    def reader(self, header: Any) -> "Reader":
        """Something to read the records with that stand beside a header.

        Raises:
            SnapshotError: it is not one, or names classes that we do not have.
        """
        try:
            classes = [_Filler(self._named[name], columns) for name, columns in header["classes"]]
            enums = [self._enums[name] for name in header["enums"]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"written by another version ({error})") from error
        return Reader(classes, enums)


class _Writer:
    """Writes one record."""

    def __init__(self, classes: dict[type, _Class], members: dict[Enum, list[Any]]) -> None:
        self._classes = classes
        self._members = members
        self._numbers: dict[object, int] = {}
        self._objects: list[object] = []

    def record(self, value: object) -> Record:
        record: Record = [self._value(value)]
        for item in self._objects:  # which grows meanwhile
            kind = self._classes[type(item)]
            row: list[Any] = [kind.number]
            for column in kind.values(item):
                row.append(column if type(column) in _PLAIN else self._value(column))  # noqa: PERF401
            record.append(row)
        return record

    def _value(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in self._classes:
            key = value if self._classes[kind].by_value else id(value)
            number = self._numbers.get(key)
            if number is None:
                self._objects.append(value)
                number = self._numbers[key] = len(self._objects)
            return ["o", number]
        if kind is set:
            # Its order says nothing, and differs with the order it was filled in and from process to process.
            return ["s", *sorted(map(self._value, value), key=repr)]
        tag = _CONTAINERS.get(kind)
        if tag is not None:
            return [tag, *map(self._value, value)]
        if kind is dict:
            return ["d", *(self._value(part) for item in value.items() for part in item)]
        if kind is bytes:
            return ["b", value.hex()]
        if isinstance(value, Enum):
            return self._members[value]
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not kept in snapshots")


class Reader:
    """Reads records; made by ``Schema.reader``."""

    def __init__(self, classes: "list[_Filler]", enums: list[type[Enum]]) -> None:
        self._classes = classes
        self._enums = enums
        self._objects: list[object] = []

    def value(self, record: Record) -> Any:
        """The value that ``Schema.record`` was given, its objects made anew.

        Raises:
            SnapshotError: it is not a record.
        """
        try:
            rows = record[1:]
            self._objects = [self._classes[row[0]].made() for row in rows]
            for item, row in zip(self._objects, rows, strict=True):
                self._classes[row[0]].fill(item, row, self._value)
            return self._value(record[0])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"a record cannot be read ({error})") from error
        finally:
            self._objects = []

    def _value(self, value: Any) -> Any:
        if type(value) is not list:
            return value
        tag = value[0]
        if tag == "o":
            return self._objects[value[1] - 1]
        if tag == "e":
            return self._enums[value[1]](value[2])
        if tag == "b":
            return bytes.fromhex(value[1])
        parts = map(self._value, value[1:])
        if tag == "d":
            return dict(zip(parts, parts, strict=True))
        return _MADE[tag](parts)


class _Filler:
    """Makes objects of a class out of rows with these columns."""

    def __init__(self, kind: type, columns: Sequence[str]) -> None:
        known = _defaults(kind)
        self._kind = kind
        # The slots' own descriptors, because frozen classes have no other way in.
        self._setters = [
            (at, getattr(kind, name).__set__) for at, name in enumerate(columns, 1) if name in known
        ]
        self._length = len(columns) + 1
        self._missing = [
            (getattr(kind, name).__set__, default) for name, default in known.items() if name not in columns
        ]
        lost = [name for name, default in known.items() if default is None and name not in columns]
        if lost:
            raise AttributeError(f"{_name(kind)} without {', '.join(lost)}")

    def made(self) -> object:
        """An object with nothing in it yet."""
        item: object = object.__new__(self._kind)
        return item

    def fill(self, item: object, row: list[Any], value: Callable[[Any], Any]) -> None:
        """Put a row's columns into an object."""
        if len(row) != self._length:
            raise ValueError(f"a row of {_name(self._kind)} has {len(row)} columns")
        for at, put in self._setters:
            column = row[at]
            put(item, value(column) if type(column) is list else column)
        for put, default in self._missing:
            assert default is not None
            put(item, default())


def _name(kind: type) -> str:
    return f"{kind.__module__.removeprefix('protocols.')}.{kind.__qualname__}"


def _described(number: int, kind: type) -> _Class:
    columns = tuple(_defaults(kind))
    # Each class here has two columns or more; of one, attrgetter would make no tuple.
    made: object = kind.__hash__
    by_value = made is not None and made is not object.__hash__
    return _Class(number, columns, attrgetter(*columns), by_value)


def _same(default: object) -> object:
    return default


def _defaults(kind: type) -> dict[str, Callable[[], Any] | None]:
    """The columns of a class, and what makes the default of each that has one."""
    if not is_dataclass(kind):
        slots: Iterable[str] = getattr(kind, "__slots__", ())
        return dict.fromkeys(slots)
    made: dict[str, Callable[[], Any] | None] = {}
    for field in fields(kind):
        if field.default_factory is not MISSING:
            made[field.name] = field.default_factory
        elif field.default is not MISSING:
            made[field.name] = partial(_same, field.default)
        else:
            made[field.name] = None
    return made
