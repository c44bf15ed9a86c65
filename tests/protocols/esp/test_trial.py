"""The experiment: what a coin can bring about, and what an owner does."""

import random
from math import inf, log
from typing import cast

import pytest

from protocols.esp.contacts import Contact
from protocols.esp.trial import HELD, SPANS, Trial

#: Who sends is nothing but a key here.
HOST = cast("Contact", "host")
OTHER = cast("Contact", "other")


def trials(chance: random.Random, count: int, answers: "list[float]", *, heeds: bool) -> Trial:
    """Experiments, in each of which the host sends so many seconds after the SPI's packet.

    ``heeds``: after it was passed on; else after it came, whatever became of it.
    """
    trial, now = Trial(-inf), 100.0
    for _ in range(count):
        holds = chance.random() < 0.5
        assert trial.begin(0.05, holds=holds, now=now)
        for after in answers:
            trial.sent(HOST, now + after + (HELD if heeds and holds else 0.0))
        now += HELD + 2 * SPANS[-1]
        assert trial.over(now)
        trial.conclude()
    return trial


def test_an_owner_is_found_by_some_dozens_of_trials() -> None:
    trial = trials(random.Random(1), 40, [0.001], heeds=True)
    assert trial.log(HOST) > log(1e6)
    assert trial.log(OTHER) == 0.0


@pytest.mark.parametrize("answers", [[0.001], [0.0005, HELD + 0.0055], [HELD + 0.001]])
def test_who_follows_every_packet_and_heeds_no_coin_is_no_owner(answers: list[float]) -> None:
    found = sorted(trials(random.Random(s), 250, answers, heeds=False).log(HOST) for s in range(200))
    assert sum(value > log(1000) for value in found) <= 1
    assert found[100] < 0.5


def test_who_answers_at_another_time_says_nothing() -> None:
    trial = trials(random.Random(1), 40, [0.5], heeds=True)
    assert trial.log(HOST) == 0.0


def test_who_sends_in_both_spans_says_nothing() -> None:
    trial = Trial(-inf)
    assert trial.begin(0.05, holds=True, now=100.0)
    for after in (0.001, HELD + 0.001):
        trial.sent(HOST, 100.0 + after)
    assert not trial.conclude()
    assert trial.log(HOST) == 0.0


def test_a_long_time_of_another_host_is_forgotten_down_to_a_floor() -> None:
    trial = Trial(-inf)
    for turn in range(200):
        assert trial.begin(0.05, holds=True, now=100.0 + turn)
        trial.sent(HOST, 100.001 + turn)
        assert not trial.conclude()
    assert -4 < trial.log(HOST) < -2


@pytest.mark.parametrize(("trip", "spans"), [(None, 0), (0.002, 0), (0.0031, 1), (0.007, 2), (0.02, 3)])
def test_spans_are_shorter_than_the_peer_can_be_heard_in(trip: float | None, spans: int) -> None:
    trial = Trial(-inf)
    assert trial.begin(trip, holds=True, now=100.0) == (spans > 0)
    assert trial.spans == spans
    assert trial.holding(100.0 + HELD / 2) == (spans > 0)
    assert not trial.holding(100.0 + HELD)


def test_trials_have_an_end() -> None:
    trial, made = Trial(-inf), 0
    while trial.begin(0.05, holds=False, now=100.0 + made):
        made += 1
    assert made == 300
    assert trial.over(1000.0)
    assert not trial.conclude()
