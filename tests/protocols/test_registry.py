"""The registry: bounds, ids and accounts."""

import random

import pytest

from protocols.addr import Ip4
from protocols.drops import Reason
from protocols.policy import Limits
from protocols.registry import SessionRegistry
from protocols.sessions import Role, Session, State

ALICE, BOB = Ip4(1), Ip4(2)


def registry(**limits: int) -> SessionRegistry:
    return SessionRegistry(Limits(**limits), random.Random(1).randrange)


def session(session_id: str) -> Session:
    return Session(session_id, "pptp", Role.MASQUERADE, "r", State.CONTROL, ALICE, Ip4(8), Ip4(9), 0.0, 0.0)


def test_sessions_are_found_by_id_and_listed() -> None:
    table = registry()
    first, second = session("p1"), session("p2")
    table.add(first, ALICE)
    table.add(second, BOB)
    assert table.get("p1") is first
    assert table.get("p3") is None
    assert list(table) == [first, second]
    assert len(table) == 2
    table.remove(first)
    assert table.get("p1") is None
    assert list(table) == [second]


@pytest.mark.parametrize(
    ("limits", "host", "refusal"),
    [
        pytest.param({}, ALICE, None, id="room-for-more"),
        pytest.param({"sessions": 2}, BOB, Reason.LIMIT_SESSIONS, id="all-together"),
        pytest.param({"sessions_per_client": 2}, ALICE, Reason.LIMIT_PER_HOST, id="one-host"),
        pytest.param({"sessions_per_client": 2}, BOB, None, id="another-host"),
        pytest.param({"new_per_second": 0}, BOB, Reason.LIMIT_RATE, id="rate"),
    ],
)
def test_limits_refuse(limits: dict[str, int], host: Ip4, refusal: Reason | None) -> None:
    table = registry(**limits)
    table.add(session("p1"), ALICE)
    table.add(session("p2"), ALICE)
    assert table.refusal(host, now=1000.0) is refusal


def test_a_host_gets_its_place_back_when_a_session_ends() -> None:
    table = registry(sessions_per_client=1)
    only = session("p1")
    table.add(only, ALICE)
    assert table.refusal(ALICE, now=1000.0) is Reason.LIMIT_PER_HOST
    table.remove(only)
    assert table.refusal(ALICE, now=1000.0) is None
    assert not table._hosts
    assert not table._initiators


def test_refused_for_the_tables_size_uses_up_no_rate() -> None:
    table = registry(sessions=1, new_per_second=1)
    only = session("p1")
    table.add(only, ALICE)
    assert table.refusal(BOB, now=1000.0) is Reason.LIMIT_SESSIONS
    table.remove(only)
    assert table.refusal(BOB, now=1000.0) is None
    assert table.refusal(BOB, now=1000.0) is Reason.LIMIT_RATE
    assert table.refusal(BOB, now=1001.0) is None


def test_other_limits_hold_from_now_on_and_end_nothing() -> None:
    table = registry()
    table.add(session("p1"), ALICE)
    table.add(session("p2"), ALICE)
    table.relimit(Limits(sessions=1))
    assert len(table) == 2
    assert table.refusal(BOB, now=1000.0) is Reason.LIMIT_SESSIONS


def test_an_id_is_a_letter_and_hex_digits_that_nobody_has() -> None:
    table = SessionRegistry(Limits(), lambda n: 0xBEEF if n == 16**4 else 0xBEEF5)
    assert table.new_id("p") == "pbeef"
    table.add(session("pbeef"), ALICE)
    assert table.new_id("p") == "pbeef5"


def test_what_an_ended_session_carried_is_kept() -> None:
    table = registry()
    for name in ("p1", "p2"):
        ended = session(name)
        ended.outbound.packets, ended.outbound.octets = 3, 300
        ended.inbound.packets, ended.inbound.octets = 4, 400
        table.add(ended, ALICE)
        table.remove(ended)
    assert (table.carried_outbound.packets, table.carried_outbound.octets) == (6, 600)
    assert (table.carried_inbound.packets, table.carried_inbound.octets) == (8, 800)


def test_what_sessions_have_carried_since_a_snapshot_is_taken_over() -> None:
    table, later = registry(), registry()
    for one in (table, later):
        one.add(session("p1"), ALICE)
    table.add(session("p2"), ALICE)
    first = table.get("p1")
    assert first is not None
    first.outbound.add(3, 300, 7.0)
    first.inbound.add(1, 50, 6.0)
    later.recount(table.counts())
    again = later.get("p1")
    assert again is not None
    assert (again.outbound, again.inbound) == (first.outbound, first.inbound)
    assert len(later) == 1
