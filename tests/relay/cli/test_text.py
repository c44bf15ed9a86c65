"""Tables and spans for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.text import WIDTH, octets, paragraph, plain, span, table

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


@given(st.lists(st.lists(st.text(max_size=200), min_size=5, max_size=5), max_size=5))
def test_a_table_fits_and_cannot_steer_the_terminal(rows: list[list[str]]) -> None:
    for line in table(("ID", "RULE", "PEER", "STATE", "COUNT"), rows, right=("COUNT",))[1:]:
        assert len(line) <= WIDTH
        assert line.isprintable()


def test_a_long_cell_is_cut_and_the_short_ones_are_not() -> None:
    line = table(("ID", "RULE"), [("p1", "x" * 100)])[1]
    assert line.startswith("p1  xxx")
    assert line.endswith("…")


def test_a_paragraph_hangs() -> None:
    lines = paragraph("word " * 40, first="! ", indent="  ")
    assert lines[0].startswith("! word")
    assert all(line.startswith("  word") and len(line) <= WIDTH for line in lines[1:])


def test_what_could_steer_a_terminal_is_not_printed() -> None:
    assert plain("a\x1b[2Jb\n") == "a?[2Jb?"
