"""Objects as rows and back, and what is no such thing."""

import json
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.snapshot.graph import Schema, SnapshotError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(slots=True, eq=False)
class Node:
    name: str
    colour: Colour = Colour.RED
    other: "Node | None" = None
    parts: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Place:
    x: int
    y: int


class Pair:
    __slots__ = ("one", "two")
    one: Any
    two: Any


SCHEMA = Schema((Node, Place, Pair), (Colour,))
NODE = SCHEMA.header()["classes"][0][0]


def again(value: object, schema: Schema = SCHEMA) -> Any:
    header, record = json.loads(json.dumps([SCHEMA.header(), SCHEMA.record(value)]))
    return schema.reader(header).value(record)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS | st.sampled_from(Colour) | st.builds(Place, st.integers(), st.integers()),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.sets(st.integers())
        | st.dictionaries(SCALARS, inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    assert again(value) == value
    assert type(again(value)) is type(value)


def test_one_object_stays_one_and_circles_do_no_harm() -> None:
    one, two = Node("one", Colour.BLUE), Node("two")
    one.other, two.other, two.parts = two, one, [one, two]
    back, (also, _) = again((one, (one, two)))
    assert back is also
    assert back.colour is Colour.BLUE
    assert back.other.other is back
    assert back.other.parts == [back, back.other]


def test_equal_values_become_one_and_equal_objects_do_not() -> None:
    place, same, left, right = again((Place(1, 2), Place(1, 2), Node("a"), Node("a")))
    assert place is same
    assert left is not right


def test_equal_sets_are_written_alike_however_they_were_filled() -> None:
    one, other = {0}, {8}  # which share a slot of a small set: the first one comes first
    one.add(8)
    other.add(0)
    assert list(one) != list(other)
    assert SCHEMA.record(one) == SCHEMA.record(other)


def test_classes_without_dataclass_are_known_by_their_slots() -> None:
    pair = Pair()
    pair.one, pair.two = 1, [2]
    assert (again(pair).one, again(pair).two) == (1, [2])


def test_what_nobody_named_is_not_kept() -> None:
    with pytest.raises(TypeError, match="complex is not kept"):
        SCHEMA.record([1j])


def test_a_class_may_gain_and_lose_columns() -> None:
    header, record = SCHEMA.header(), SCHEMA.record(Node("a", Colour.BLUE))
    header["classes"][0][1] = ["name", "of old", "other", "parts"]
    back = SCHEMA.reader(header).value(record)
    assert (back.name, back.colour, back.parts) == ("a", Colour.RED, [])


HEADERS = [
    pytest.param({}, id="nothing"),
    pytest.param([], id="a list"),
    pytest.param({"classes": [["elsewhere.Node", ["name"]]], "enums": []}, id="unknown class"),
    pytest.param({"classes": [], "enums": ["elsewhere.Colour"]}, id="unknown enum"),
    pytest.param({"classes": [["a", "b", "c"]], "enums": []}, id="not a pair"),
    pytest.param(
        {"classes": [[SCHEMA.header()["classes"][0][0], ["colour"]]], "enums": []}, id="lost column"
    ),
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_of_others_is_refused(header: object) -> None:
    with pytest.raises(SnapshotError, match="written by another version"):
        SCHEMA.reader(header)


RECORDS = [
    pytest.param([], id="nothing"),
    pytest.param([["o", 1]], id="no such object"),
    pytest.param([["x", 1]], id="no such kind"),
    pytest.param([["e", 0, "green"]], id="no such member"),
    pytest.param([["e", 7, "red"]], id="no such enum"),
    pytest.param([["b", "0g"]], id="not hex"),
    pytest.param([["d", 1]], id="a key without a value"),
    pytest.param([["d", ["l"], 1]], id="a key that cannot be one"),
    pytest.param([[]], id="a kind is missing"),
    pytest.param([None, [9]], id="no such class"),
    pytest.param([None, [0, "a"]], id="too short"),
    pytest.param([None, 5], id="not a row"),
    pytest.param(None, id="not a list"),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_cannot_be_one_is_refused(record: Any) -> None:
    with pytest.raises(SnapshotError, match="a record cannot be read"):
        SCHEMA.reader(SCHEMA.header()).value(record)
