"""``serialize`` as the HOWTO tells it (§6.2), ``refuse`` as the 2.2 kernel did, and changing between them."""

import pytest

from protocols.drops import Reason
from protocols.esp.contacts import PairState
from protocols.policy import Ipsec, Limits, Pairing
from tests.protocols.esp.house import ALICE, BOB, CAROL, PEER, PEER_2, WAN, House, rules


def serialized(**settings: float) -> House:
    return House(rules(ipsec=Ipsec(pairing=Pairing.SERIALIZE, **settings)))  # type: ignore[arg-type]


def test_who_is_not_answered_yet_blocks_the_others_and_is_named() -> None:
    house = serialized()
    assert house.out(ALICE, 0xA1) is True
    assert house.out(BOB, 0xB1) is Reason.ESP_BLOCKED
    assert house.drops[-1].detail == (
        "10.0.0.3 0x000000b1 to 199.0.0.1, temporarily blocked by pending 10.0.0.2 0x000000a1, "
        "for 5.0 s at most"
    )
    assert house.out(ALICE, 0xA3) is Reason.ESP_BLOCKED
    assert house.out(BOB, 0xB1, PEER_2) is True
    assert house.back(0xA2) == [ALICE]
    assert house.out(BOB, 0xB1) is True
    assert house.back(0xB2) == [BOB]


def test_nobody_waits_for_an_answered_pair() -> None:
    house = serialized()
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2), (CAROL, 0xC1, 0xC2)):
        assert house.out(host, out) is True
        house.wait(0.05)
        assert house.back(back) == [host]
        assert house.fast(host, PEER, out)
    assert house.out(ALICE, 0xA1, seq=1) is True


def test_an_init_may_take_its_time_while_nobody_waits() -> None:
    house = serialized()
    house.out(ALICE, 0xA1)
    for _ in range(8):
        house.wait(100)
        assert house.out(ALICE, 0xA1) is True
    assert house.back(0xA2) == [ALICE]


@pytest.mark.parametrize(
    ("trip", "bound"), [(0.02, 1.0), (0.5, 4.0), (30.0, 120.0)], ids=["near", "far", "unheard-of"]
)
def test_the_block_is_bounded_by_the_measured_round_trip(trip: float, bound: float) -> None:
    house = serialized()
    house.agree(ALICE, trip=trip)
    house.out(ALICE, 0xA1)
    assert house.out(BOB, 0xB1) is Reason.ESP_BLOCKED
    house.wait(bound - 0.01)
    assert house.out(BOB, 0xB1) is Reason.ESP_BLOCKED
    house.wait(0.02)
    assert house.out(BOB, 0xB1) is True


def test_retries_count_while_others_wait_and_end_in_silence() -> None:
    house = serialized()
    house.out(ALICE, 0xA1)
    house.out(BOB, 0xB1)
    for _ in range(5):
        house.wait(1)
        assert house.out(ALICE, 0xA1) is True
    assert house.out(ALICE, 0xA1) is Reason.ESP_SQUELCHED
    assert house.out(ALICE, 0xA1) is Reason.ESP_SQUELCHED
    assert house.out(BOB, 0xB1) is True
    assert house.back(0xB2) == [BOB]
    house.wait(30)
    assert house.out(ALICE, 0xA1) is True
    assert house.out(CAROL, 0xC1) is Reason.ESP_BLOCKED
    for _ in range(6):
        house.out(ALICE, 0xA1)
    assert list(house.tracker.contacts()[0].peer.squelched) == [(ALICE, 0xA1)]
    house.wait(31)
    house.out(CAROL, 0xC1)
    house.out(BOB, 0xB9)
    for _ in range(6):
        house.out(CAROL, 0xC1)
    assert list(house.tracker.contacts()[0].peer.squelched) == [(CAROL, 0xC1)]


def test_what_nobody_waits_for_goes_to_who_rekeyed_last_and_is_not_remembered() -> None:
    house = serialized(guesses=2)
    for host in (ALICE, BOB, CAROL):
        house.agree(host)
        house.wait(1)
    assert house.back(0x900) == [CAROL, BOB]
    assert house.back(0x900) == [CAROL, BOB]
    assert not house.tracker.contacts()[0].peer.inbound
    house.wait(1600)
    assert house.back(0x900) is Reason.ESP_UNKNOWN


def test_the_late_answer_goes_wrong_as_the_howto_says() -> None:
    house = serialized()
    house.out(ALICE, 0xA1)
    house.out(BOB, 0xB1)
    house.wait(6)
    assert house.out(BOB, 0xB1) is True
    assert house.back(0xA2) == [BOB]


def test_killing_the_session_that_blocks_frees_the_peer_at_once() -> None:
    house = serialized()
    house.out(ALICE, 0xA1)
    assert house.out(BOB, 0xB1) is Reason.ESP_BLOCKED
    session = house.session(ALICE)
    assert session is not None
    house.perform(house.tracker.kill(session, "ended by the operator", now=house.now))
    assert house.out(BOB, 0xB1) is True


def test_an_answer_that_a_limit_refuses_a_session_waits_no_longer() -> None:
    house = serialized()
    house.agree(ALICE)
    house.out(ALICE, 0xA1)
    house.back(0xA2)
    assert house.out(ALICE, 0xA3) is True
    assert house.back(0xA4) == [ALICE]
    assert house.out(ALICE, 0xA1) is True


# -- refuse ------------------------------------------------------------------------------------------------


def refusing() -> House:
    return House(rules(ipsec=Ipsec(pairing=Pairing.REFUSE)))


def test_a_second_host_is_refused_and_told_and_the_log_says_who_holds_the_peer() -> None:
    house = refusing()
    assert house.out(ALICE, 0xA1) is True
    assert house.out(ALICE, 0xA1) is True
    house.wait(10)
    assert house.out(BOB, 0xB1) is Reason.ESP_REFUSED
    session = house.session(ALICE)
    assert session is not None
    assert house.drops[-1].detail == (
        f"10.0.0.3 0x000000b1 to 199.0.0.1, which 10.0.0.2 holds (session {session.id}), "
        "for 1790 s more if it is silent"
    )
    assert [(e.type, e.code) for e in house.answers] == [(3, 13)]
    assert house.out(ALICE, 0xA3) is True
    assert house.back(0xA2) == [ALICE]
    assert house.back(0xA4) == [ALICE]


def test_killing_the_holder_frees_the_peer_at_once() -> None:
    house = refusing()
    house.out(ALICE, 0xA1)
    session = house.session(ALICE)
    assert session is not None
    house.perform(house.tracker.kill(session, "ended by the operator", now=house.now))
    assert house.closed == ["ended by the operator"]
    assert house.out(BOB, 0xB1) is True
    assert house.back(0xB2) == [BOB]


def test_inbound_first_goes_to_who_spoke_to_the_peer_last() -> None:
    house = refusing()
    house.agree(ALICE)
    house.agree(BOB)
    assert house.back(0xB2) == [BOB]
    assert house.out(ALICE, 0xA1) is Reason.ESP_REFUSED


# -- from one to another -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", list(Pairing), ids=lambda p: p.value)
def test_confirmed_pairs_survive_a_change_of_policy(pairing: Pairing) -> None:
    house = House()
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        house.agree(host)
        house.out(host, out)
        assert house.back(back) == [host]
    house.use(pairing)
    assert house.tracker.reconsider(now=house.now) == []
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        assert house.fast(host, PEER, out)
        assert house.fast(PEER, WAN, back)
        session = house.session(host)
        assert session is not None
        assert session.pairing is PairState.CONFIRMED


def test_what_is_open_when_the_policy_changes_is_found_out_all_the_same() -> None:
    house = House()
    house.agree(ALICE)
    house.agree(BOB)
    house.out(ALICE, 0xA1)
    house.out(BOB, 0xB1)
    assert len(house.back(0xA2)) == 2  # type: ignore[arg-type]
    house.use(Pairing.SERIALIZE)
    house.converse(ALICE, 0xA1, 0xA2, 7)
    assert house.back(0xA2) == [ALICE]


def test_limits_hold_for_esp_as_for_all() -> None:
    house = House(rules(limits=Limits(sessions_per_client=1)))
    assert house.out(ALICE, 0xA1) is True
    assert house.out(ALICE, 0xA1, PEER_2) is Reason.LIMIT_PER_HOST
    assert house.out(BOB, 0xB1, PEER_2) is True
