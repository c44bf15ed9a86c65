"""Dates and spans of the documents."""

from relay.control.schema import DRIFT, Dates


class Clocks:
    def __init__(self) -> None:
        self.loop = 1000.0
        self.wall = 1_767_225_600.0  # 2026-01-01T00:00:00Z

    def dates(self) -> Dates:
        return Dates(lambda: self.loop, lambda: self.wall)


def test_a_moment_is_written_in_utc() -> None:
    assert Clocks().dates().show(1000.0) == "2026-01-01T00:00:00Z"
    assert Clocks().dates().show(1000.25, digits=True) == "2026-01-01T00:00:00.250Z"


def test_a_moment_keeps_its_date_while_the_clocks_drift_a_little() -> None:
    clocks = Clocks()
    dates = clocks.dates()
    clocks.loop += 10
    clocks.wall += 10 + DRIFT / 2
    assert dates.show(1000.0) == "2026-01-01T00:00:00Z"


def test_dates_follow_a_wall_clock_that_was_set() -> None:
    clocks = Clocks()
    dates = clocks.dates()
    clocks.wall += 3600
    assert dates.show(1000.0) == "2026-01-01T01:00:00Z"
