"""New keys of a tunnel, with and without a time in which both pairs live; and answers that come late."""

import pytest

from protocols.drops import Reason
from tests.protocols.esp.house import ALICE, BOB, House

#: A pair before a rekey and one after it, of each of two hosts: SPIs out and back.
OLD = {ALICE: (0xA1, 0xA2), BOB: (0xB1, 0xB2)}
NEW = {ALICE: (0xA3, 0xA4), BOB: (0xB3, 0xB4)}


def two_tunnels() -> House:
    house = House()
    for host, (out, back) in OLD.items():
        house.agree(host)
        house.converse(host, out, back, 5)
        assert house.back(back) == [host]
    return house


def received(house: House, spi: int) -> set[int]:
    got = house.back(spi)
    assert isinstance(got, list), got
    return set(got)


@pytest.mark.parametrize("mine", [True, False], ids=["the host", "the peer"])
def test_both_pairs_are_delivered_while_both_live(mine: bool) -> None:
    house = two_tunnels()
    house.rekey(ALICE, mine=mine)
    (out, back), (new_out, new_back) = OLD[ALICE], NEW[ALICE]
    for _ in range(5):
        # Either end changes over when it likes.
        assert house.out(ALICE, out) is True
        assert ALICE in received(house, new_back)
        assert house.out(ALICE, new_out) is True
        assert house.back(back) == [ALICE]
        house.wait(0.3)
    assert house.back(OLD[BOB][1]) == [BOB]
    session = house.session(ALICE)
    assert session is not None
    assert (session.spi_outbound, session.spi_inbound) == (new_out, new_back)
    assert len(house.registry) == 2


@pytest.mark.parametrize("mine", [True, False], ids=["the host", "the peer"])
def test_a_new_pair_may_come_after_the_old_one_is_deleted(mine: bool) -> None:
    house = two_tunnels()
    # An INFORMATIONAL exchange deletes the old pair (RFC 7296 §1.4.1), and only then they agree again.
    house.ike(ALICE, 37, number=2, outbound=mine)
    house.ike(ALICE, 37, number=2, outbound=not mine, response=True)
    house.wait(5)
    house.rekey(ALICE, mine=mine, number=3)
    out, back = NEW[ALICE]
    assert house.out(ALICE, out) is True
    assert ALICE in received(house, back)
    house.converse(ALICE, out, back, 5)
    assert house.back(back) == [ALICE]
    assert house.back(OLD[BOB][1]) == [BOB]
    # One packet of the old pair was still on its way.
    assert house.back(OLD[ALICE][1]) == [ALICE]
    assert len(house.registry) == 2


def test_both_hosts_have_new_keys_at_once_and_the_peer_speaks_first() -> None:
    house = two_tunnels()
    for host in (ALICE, BOB):
        house.rekey(host, mine=False)
    for host, (out, back) in NEW.items():
        assert host in received(house, back)
        assert house.out(host, out) is True
    for host, (out, back) in NEW.items():
        house.converse(host, out, back, 8)
        assert house.back(back) == [host]
    assert len(house.registry) == 2


@pytest.mark.parametrize("late", [100, 1799, 1801, 80_000])
def test_an_answer_finds_its_host_however_late_it_comes(late: float) -> None:
    house = House()
    house.agree(ALICE)
    assert house.out(ALICE, 0xA1) is True
    house.wait(late)
    assert (house.session(ALICE) is None) == (late > 1800)
    assert house.back(0xA2) == [ALICE]


def test_after_a_day_nobody_is_known() -> None:
    house = House()
    house.agree(ALICE)
    assert house.out(ALICE, 0xA1) is True
    house.wait(1800 + 86_401)
    assert house.back(0xA2) is Reason.ESP_STRANGER


def test_what_was_agreed_on_before_a_host_was_switched_off_is_no_part_of_what_it_agrees_on_now() -> None:
    house = House()
    house.agree(ALICE)
    # Before a packet could pass she is off and on again, and numbers her messages from the beginning.
    house.wait(4)
    house.agree(ALICE)
    house.agree(BOB)
    house.converse(ALICE, 0xA3, 0xA4, 5)
    assert house.back(0xA4) == [ALICE]
    # The peer still has both of her pairs, and knows best which one it uses.
    assert received(house, 0xA2) == {ALICE, BOB}


def test_what_was_agreed_on_and_is_used_up_makes_nobody_a_candidate() -> None:
    house = two_tunnels()
    house.rekey(ALICE)
    house.converse(ALICE, *NEW[ALICE], 5)
    # Her old SPIs fall silent, the peer's first; she still has the new ones.
    assert house.out(ALICE, OLD[ALICE][0]) is True
    for _ in range(21):
        house.wait(100)
        for host, (out, back) in ((ALICE, NEW[ALICE]), (BOB, OLD[BOB])):
            assert house.out(host, out) is True
            assert house.back(back) == [host]
    house.rekey(BOB, mine=False)
    assert house.back(NEW[BOB][1]) == [BOB]
    # What she was given hours ago is hers.
    assert house.back(OLD[ALICE][1], seq=5000) == [ALICE]
    assert house.out(ALICE, OLD[ALICE][0]) is True
