"""The locator against tomli: the same keys, whatever way they are written."""

from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from relay.config.locator import KeyPath, locate, nearest


def paths(value: Any, start: KeyPath = ()) -> set[KeyPath]:
    found = {start} if start else set()
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        found |= paths(child, (*start, key))
    return found


DOCUMENT = (
    r'''# a comment = [
version = 1
[wan]   # [not.this]
interface = "eth1 # no comment" # yes
"quoted key" = 'C:\'
'a.b' . "c\u0041" = """
[no.table]
x = 1 \""" still ""\
"""
[lan]
networks = [  # first
  "10.0.0.0/8", [ 1,
  2 ],

  { a = 1, b = { c = [ "]" ] } }, # last
]
dotted.key.path = 1979-05-27 07:32:00
literal = '''
    "'''\nline 'two' ''''"
    r"""
empty = []
none = {}
[[expose]]
server = "10.0.0.2"
[[expose]]
[expose.more]
server = "10.0.0.3"
[[expose.deep]]
x = 0x1F
[[expose.deep]]
x = 1e3
[top.middle.bottom]
"""
)


def test_a_document_with_everything_is_located() -> None:
    lines = locate(DOCUMENT)
    assert set(lines) == paths(tomli.loads(DOCUMENT))
    expected: dict[KeyPath, int] = {
        ("version",): 2,
        ("wan",): 3,
        ("wan", "interface"): 4,
        ("wan", "quoted key"): 5,
        ("wan", "a.b", "cA"): 6,
        ("lan",): 10,
        ("lan", "networks"): 11,
        ("lan", "networks", 0): 12,
        ("lan", "networks", 1, 1): 13,
        ("lan", "networks", 2): 15,
        ("lan", "networks", 2, "b", "c", 0): 15,
        ("lan", "dotted", "key"): 17,
        ("lan", "empty"): 20,
        ("expose",): 22,
        ("expose", 0): 22,
        ("expose", 0, "server"): 23,
        ("expose", 1): 24,
        ("expose", 1, "more", "server"): 26,
        ("expose", 1, "deep", 1, "x"): 30,
        ("top", "middle"): 31,
    }
    assert {path: lines[path] for path in expected} == expected


SMALL = [
    pytest.param("", {}, id="empty"),
    pytest.param("# only a comment", {}, id="comment-without-an-end"),
    pytest.param("a=1", {("a",): 1}, id="no-line-end"),
    pytest.param("\r\n\r\na=1\r\n", {("a",): 3}, id="windows"),
    pytest.param('a = "\\\\"\nb = 1', {("a",): 1, ("b",): 2}, id="escaped-backslash"),
    pytest.param('a = """"""\nb = 1', {("a",): 1, ("b",): 2}, id="empty-long-text"),
    pytest.param('a = """x"""""\nb = 1', {("a",): 1, ("b",): 2}, id="quotes-before-the-end"),
    pytest.param('a = ""\nb = 1', {("a",): 1, ("b",): 2}, id="empty-text"),
    pytest.param("a.b = 1\na.c = 2", {("a",): 1, ("a", "b"): 1, ("a", "c"): 2}, id="dotted"),
    pytest.param("[a.b]\n[a]\nx=1", {("a",): 1, ("a", "b"): 1, ("a", "x"): 3}, id="table-after-its-child"),
]


@pytest.mark.parametrize(("text", "lines"), SMALL)
def test_lines_of(text: str, lines: dict[KeyPath, int]) -> None:
    assert locate(text) == lines


def test_the_nearest_line_is_that_of_the_table_around() -> None:
    lines = locate("[wan]\n[[expose]]\n[[expose]]\n")
    assert nearest(lines, ("expose", 1, "server")) == 3
    assert nearest(lines, ("lan", "networks")) is None


KEYS = st.sampled_from(["a", "b", "long-key", '"q.k"', "'l]k'", '"\\u00e9="'])
SCALARS = st.sampled_from(
    [
        "1",
        "-2.5",
        "true",
        '"x # ] }"',
        "'l\"'",
        '"""m\n\\"""\n"""',
        "'''\nl\n'''",
        "1979-05-27T07:32:00Z",
        "07:32:00",
    ]
)
SPACES = st.sampled_from(["", " ", "\n", " # c ]\n\t"])


@st.composite
def values(draw: st.DrawFn, depth: int = 0) -> str:
    kind = draw(st.sampled_from(["scalar", "list", "table"] if depth < 3 else ["scalar"]))
    if kind == "list":
        items = draw(st.lists(values(depth + 1), max_size=3))
        gap = [draw(SPACES) for _ in items]
        end = draw(SPACES)
        return "[" + ",".join(g + item + g for g, item in zip(gap, items, strict=True)) + end + "]"
    if kind == "table":
        names = draw(st.lists(KEYS, unique=True, max_size=3))
        return "{" + ", ".join(f"{name} = {draw(values(depth + 1))}" for name in names) + "}"
    return draw(SCALARS)


@st.composite
def documents(draw: st.DrawFn) -> str:
    lines = []
    for number in range(draw(st.integers(0, 5))):
        header = draw(st.sampled_from(["", "[t{}]", "[t{}.u]", "[[list]]", "[list.sub{}]", '["x".t{}]']))
        lines.append(header.format(number) + draw(st.sampled_from(["", " # c"])))
        names = draw(st.lists(KEYS, unique=True, max_size=3))
        lines += [f"{name}{draw(st.sampled_from(['', '.z']))} = {draw(values())}" for name in names]
    return "\n".join(lines)


@given(documents())
def test_the_locator_finds_exactly_the_keys_that_tomli_finds(text: str) -> None:
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    lines = locate(text)
    assert set(lines) == paths(document)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
