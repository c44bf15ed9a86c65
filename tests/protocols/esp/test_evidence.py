"""The sequential test: what chance alone can bring about, and what an owner does."""

import random
from math import exp, inf, log

import pytest

from protocols.esp.evidence import ECHO, REPLY, Activity, Evidence, log_sum


def by_chance(chance: random.Random, rate: float, seconds: float) -> Evidence:
    """The evidence for a host that sends without regard to the inbound packets."""
    activity, evidence = Activity(), Evidence()
    asked = [-inf] * len(REPLY)
    now, sends, comes = 0.0, chance.expovariate(rate), 10 + chance.expovariate(1.0)
    highest = 0.0
    while now < seconds:
        now = min(sends, comes)
        if now == sends:
            evidence.reply(asked, -inf, activity, now)
            activity.sent(now)
            sends = now + chance.expovariate(rate)
        else:
            for window in range(len(ECHO)):
                evidence.echo(window, activity, now)
            evidence.echo_at(0.04, 0.07, activity, now)
            for window in range(len(REPLY)):
                evidence.ask(window, activity, now)
                asked[window] = now
            comes = now + 0.7 + chance.expovariate(1.0)
        highest = max(highest, evidence.log)
    return evidence


@pytest.mark.parametrize("rate", [0.2, 2.0, 20.0], ids=lambda r: f"{r}-a-second")
def test_chance_alone_seldom_looks_like_an_owner(rate: float) -> None:
    chance = random.Random(int(rate * 10))
    found = sorted(by_chance(chance, rate, 60.0).log for _ in range(200))
    assert sum(value > log(1000) for value in found) <= 1
    assert found[len(found) // 2] < 0.5


def test_an_owner_is_found_in_a_few_exchanges() -> None:
    activity, evidence = Activity(), Evidence()
    asked = [-inf] * len(REPLY)
    now = 100.0
    for turn in range(6):
        activity.sent(now)
        now += 0.05
        for window in range(len(ECHO)):
            evidence.echo(window, activity, now)
        evidence.echo_at(0.04, 0.07, activity, now)
        for window in range(len(REPLY)):
            evidence.ask(window, activity, now)
            asked[window] = now
        now += 0.001
        assert evidence.reply(asked, -inf, activity, now)
        activity.sent(now)
        now += 2.3 + 0.17 * turn
    assert evidence.log > log(1e6)


def test_an_answer_that_may_be_to_somebody_else_tells_nothing() -> None:
    activity, evidence = Activity(), Evidence()
    for window in range(len(REPLY)):
        evidence.ask(window, activity, 50.0)
    assert not evidence.reply([50.0] * len(REPLY), 50.0005, activity, 50.001)
    assert evidence.log == 0
    assert not evidence.reply([50.0] * len(REPLY), -inf, activity, 50.002)


def test_a_host_that_sends_all_the_time_is_not_asked() -> None:
    activity, evidence = Activity(), Evidence()
    now = 50.0
    for _ in range(500):
        now += 0.001
        activity.sent(now)
    assert activity.chance(0, now) > 0.9
    for window in range(len(ECHO)):
        assert evidence.echo(window, activity, now + 0.0005)
    assert evidence.log == pytest.approx(0, abs=0.1)
    evidence.ask(0, activity, now)
    assert not evidence.reply([now] * len(REPLY), -inf, activity, now + 0.001)


def test_who_keeps_step_says_nothing_new() -> None:
    activity, evidence = Activity(), Evidence()
    asked = [-inf] * len(REPLY)
    now = 100.0
    spoke: list[bool] = []
    for turn in range(12):
        # Each packet follows one of the SPI by a millisecond, once a second, and others come in between.
        for window in range(len(REPLY)):
            evidence.ask(window, activity, now)
            asked[window] = now
        spoke.append(evidence.reply(asked, -inf, activity, now + 0.001))
        activity.sent(now + 0.001)
        activity.sent(now + 0.3 + 0.037 * turn)
        now += 1.0
    assert spoke == [True] * 2 + [False] * 10
    assert evidence.log < log(1e6)


def test_echoes_alone_say_only_so_much() -> None:
    activity, evidence = Activity(), Evidence()
    now = 100.0
    for turn in range(20):
        activity.sent(now)
        for window in range(len(ECHO)):
            evidence.echo(window, activity, now + 0.01)
        now += 2.0 + 0.3 * turn
    assert evidence.log == pytest.approx(4.0)


def test_many_packets_at_once_are_no_past() -> None:
    activity = Activity()
    for _ in range(8):
        activity.sent(50.0)
    assert activity.chance(0, 50.0) > 0.9


def test_what_the_fast_lane_carried_counts_as_chance() -> None:
    quiet, busy = Activity(), Activity()
    for activity in (quiet, busy):
        activity.sent(50.0)
    busy.sampled(500, 50.0, 55.0, 54.9)
    assert busy.chance(0, 55.0) > 10 * quiet.chance(0, 55.0)
    assert busy.last == 54.9


def test_silence_is_forgotten_down_to_a_floor() -> None:
    activity, evidence = Activity(), Evidence()
    for second in range(1000):
        for window in range(len(ECHO)):
            evidence.echo(window, activity, float(second))
    assert -4 < evidence.log < 0


def test_sums_of_large_logarithms_do_not_overflow() -> None:
    assert log_sum([1000.0, 1000.0]) == pytest.approx(1000 + log(2))
    assert exp(log_sum([log(2), log(3)])) == pytest.approx(5)
