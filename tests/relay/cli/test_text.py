"""Tables and spans for people."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.cli.text import WIDTH, field, octets, paragraph, plain, span, table, terminal

SPANS = [(0, "0s"), (59.9, "59s"), (60, "1m 0s"), (134.2, "2m 14s"), (3600, "1h 0m"), (90061, "1d 1h")]
OCTETS = [
    (0, "0"),
    (999, "999"),
    (1000, "1.0k"),
    (12000, "12k"),
    (999_600, "1.0M"),
    (2**40, "1.1T"),
    (10**18, "1000P"),
]


@pytest.mark.parametrize(("seconds", "text"), SPANS)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("count", "text"), OCTETS)
def test_octets(count: int, text: str) -> None:
    assert octets(count) == text


@given(st.integers(0, 10**18))
def test_octets_are_short(count: int) -> None:
    assert len(octets(count)) <= 5


@pytest.fixture(params=[40, WIDTH, 200])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal of so many columns."""
    number: int = request.param
    monkeypatch.setenv("COLUMNS", str(number))
    return number


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No terminal, and nobody who says how wide one would be."""
    monkeypatch.delenv("COLUMNS", raising=False)
    with Path(os.devnull).open("w") as nowhere:
        monkeypatch.setattr("sys.stdout", nowhere)
        monkeypatch.setattr("sys.__stdout__", nowhere)
        yield


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(st.text(max_size=200), min_size=5, max_size=5), max_size=5))
def test_a_table_fits_and_cannot_steer_the_terminal(columns: int, rows: list[list[str]]) -> None:
    for line in table(("ID", "RULE", "PEER", "STATE", "COUNT"), rows, right=("COUNT",))[1:]:
        assert len(line) <= columns
        assert line.isprintable()


def test_a_long_cell_is_cut_and_the_short_ones_are_not(columns: int) -> None:
    line = table(("ID", "RULE"), [("p1", "x" * 300)])[1]
    assert line.startswith("p1  xxx")
    assert line.endswith("…")
    assert len(line) == columns


@pytest.mark.usefixtures("pipe")
def test_where_there_is_no_terminal_nothing_is_cut() -> None:
    assert terminal() is None
    assert table(("ID", "RULE"), [("p1", "x" * 300)])[1] == "p1  " + "x" * 300
    assert field("peer", "word " * 60, 8) == ["peer    " + ("word " * 60).rstrip()]
    assert max(map(len, paragraph("word " * 60))) <= WIDTH


def test_a_terminal_that_does_not_know_its_size_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = os.openpty()  # as a serial line: 0 rows, 0 columns
    with os.fdopen(ours), os.fdopen(theirs, "w") as line:
        monkeypatch.setattr("sys.stdout", line)
        monkeypatch.setattr("sys.__stdout__", line)
        assert terminal() == WIDTH


def test_a_paragraph_hangs(columns: int) -> None:
    lines = paragraph("word " * 60, first="! ", indent="  ")
    assert lines[0].startswith("! word")
    assert all(line.startswith("  word") and len(line) <= columns for line in lines[1:])


def test_a_field_wraps_beside_its_name(columns: int) -> None:
    lines = field("peers", "10.0.0.1, " * 60, 8)
    assert lines[0].startswith("peers   10.0.0.1, ")
    assert all(line.startswith("        10.0.0.1,") and len(line) <= columns for line in lines[1:])


def test_what_could_steer_a_terminal_is_not_printed() -> None:
    assert plain("a\x1b[2Jb\n") == "a?[2Jb?"
