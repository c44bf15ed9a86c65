"""Logs: form, level, and the bound on what strangers can cause."""

import io
import json
import os
import pty
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from relay.logs import WINDOW, Throttle, configure


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_elsewhere_than_on_a_terminal_a_line_is_an_object() -> None:
    out = io.StringIO()
    configure("info", "auto", out)
    structlog.get_logger().info("session opened", session="p1", rule="staff")
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "session opened", "level": "info", "session": "p1", "rule": "staff"}


def test_on_a_terminal_a_line_is_for_people() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as screen, os.fdopen(theirs, "w") as out:
        configure("info", "auto", out)
        structlog.get_logger().info("ready", rules=2)
        out.flush()
        line = screen.read(1000).decode()
    assert "ready" in line
    assert "{" not in line


def test_console_can_be_asked_for_and_has_no_colours_in_a_file() -> None:
    out = io.StringIO()
    configure("info", "console", out)
    structlog.get_logger().info("ready", rules=2)
    assert "rules=2" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_an_exception_stays_one_line_of_json() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        structlog.get_logger().exception("request failed")
    assert "boom" in json.loads(out.getvalue())["exception"]


def test_a_logger_made_before_follows_a_changed_level() -> None:
    out = io.StringIO()
    log = structlog.get_logger()
    configure("warning", "json", out)
    log.info("quiet")
    configure("debug", "json", out)
    log.debug("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"log\.level is one of"):
        configure("loud")
    with pytest.raises(ValueError, match=r"log\.format is one of"):
        configure("info", "xml")


def test_a_throttle_lets_some_through_and_counts_the_others() -> None:
    clock = Clock()
    throttle = Throttle(clock, per_minute=3)
    assert [throttle.allows("martian") for _ in range(5)] == [True, True, True, False, False]
    assert throttle.allows("spoofed-source")
    clock.now = WINDOW
    assert throttle.allows("martian")
    assert throttle.held("martian") == 2
    assert throttle.held("martian") == 0
    assert throttle.held("never-seen") == 0


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 30)), max_size=300))
def test_a_throttle_is_bounded_whatever_comes(events: list[tuple[int, float]]) -> None:
    clock = Clock()
    throttle = Throttle(clock, per_minute=2, keys=8)
    for key, step in events:
        clock.now += step
        throttle.allows(str(key))
        assert len(throttle) <= 8


@given(st.lists(st.floats(0, 20), max_size=200))
def test_no_window_has_more_lines_than_allowed(steps: list[float]) -> None:
    clock = Clock()
    throttle = Throttle(clock, per_minute=4)
    allowed = []
    for step in steps:
        clock.now += step
        if throttle.allows("key"):
            allowed.append(clock.now)
    # A fixed window lets at most two windows' worth through around its edge.
    for at in allowed:
        assert sum(at <= other < at + WINDOW for other in allowed) <= 8
