"""Nobody waits: copies go to all who may own an SPI, until it is sure who does."""

from dataclasses import replace

import pytest

from protocols.actions import Drop, Send, SessionChanged, SessionOpened
from protocols.drops import Reason
from protocols.esp.contacts import PairState
from protocols.policy import Ipsec
from tests.protocols.esp.house import ALICE, BOB, CAROL, PEER, PEER_2, STRANGER, WAN, House, rules


def test_the_only_host_that_talks_to_a_peer_owns_the_answer() -> None:
    house = House()
    assert house.out(ALICE, 0xA1) is True
    assert [type(a) for a in house.log] == [Send, SessionOpened]
    session = house.session(ALICE)
    assert session is not None
    assert house.pairing(ALICE) is PairState.OUTSTANDING
    house.wait(0.05)
    assert house.back(0xA2) == [ALICE]
    assert [type(a) for a in house.log] == [Send, SessionChanged]
    assert house.pairing(ALICE) is PairState.CONFIRMED
    assert (session.spi_outbound, session.spi_inbound, session.candidates) == (0xA1, 0xA2, (ALICE,))
    assert session.confidence >= 1 - 1e-6
    assert house.fast(ALICE, PEER, 0xA1)
    assert house.fast(PEER, WAN, 0xA2)


def test_two_who_begin_at_once_both_get_copies_until_it_is_clear() -> None:
    house = House()
    house.agree(ALICE)
    house.agree(BOB)
    house.out(ALICE, 0xA1)
    house.wait(0.03)
    house.out(BOB, 0xB1)
    house.wait(0.02)
    got = house.back(0xA2)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]
    assert not house.flows.wan
    for host in (ALICE, BOB):
        session = house.session(host)
        assert session is not None
        assert session.pairing is PairState.AMBIGUOUS
        assert sorted(session.candidates) == [ALICE, BOB]
    house.converse(ALICE, 0xA1, 0xA2, 6)
    assert house.back(0xA2) == [ALICE]
    alice, bob = house.session(ALICE), house.session(BOB)
    assert alice is not None
    assert bob is not None
    assert (alice.pairing, bob.pairing) == (PairState.CONFIRMED, PairState.OUTSTANDING)
    # Bob's is the only agreement left without an SPI; that he has just asked for something is the last doubt.
    assert house.back(0xB2) == [BOB]
    house.out(BOB, 0xB1)
    house.wait(0.02)
    assert house.back(0xB2) == [BOB]
    assert bob.pairing is PairState.CONFIRMED


def test_ike_in_progress_makes_a_second_candidate_of_a_host_that_has_sent_no_esp() -> None:
    house = House()
    house.agree(ALICE)
    house.ike(BOB, 34)
    house.ike(BOB, 35, number=1)
    house.out(ALICE, 0xA1)
    got = house.back(0xA2)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]


def test_a_host_whose_agreements_are_used_up_is_no_candidate() -> None:
    house = House()
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        house.agree(host)
        house.out(host, out)
        assert house.back(back) == [host]
    house.rekey(BOB)
    assert house.back(0xB4) == [BOB]
    assert house.out(BOB, 0xB3) is True
    assert house.fast(BOB, PEER, 0xB3)


def test_a_rekey_that_the_peer_begins_is_known_by_the_hosts_answer() -> None:
    house = House()
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        house.agree(host)
        house.out(host, out)
        assert house.back(back) == [host]
    house.rekey(ALICE, mine=False, number=0)
    assert house.back(0xA4) == [ALICE]
    house.wait(0.001)
    house.out(ALICE, 0xA3)
    assert house.back(0xA2) == [ALICE]
    session = house.session(ALICE)
    assert session is not None
    assert session.spi_inbound == 0xA4
    assert len(house.registry) == 2


def test_rekeys_add_up_in_one_session_and_old_pairs_drain() -> None:
    house = House()
    house.agree(ALICE)
    for number in range(5):
        if number:
            house.rekey(ALICE, number=number)
        for _ in range(10):
            house.out(ALICE, 0xA00 + number)
            assert house.back(0xB00 + number) == [ALICE]
        house.wait(1000)
    session = house.session(ALICE)
    assert session is not None
    assert len(house.registry) == 1
    assert (session.outbound.packets, session.inbound.packets) == (50, 50)
    house.out(ALICE, 0xA04)
    house.wait(1000)
    contact = house.tracker.contacts()[0]
    assert len(contact.inbound) < 5
    assert (session.outbound.packets, session.inbound.packets) == (51, 50)


def test_an_old_spi_never_uses_up_the_agreement_of_a_host_that_has_just_begun() -> None:
    house = House()
    house.agree(BOB)
    house.out(BOB, 0xB1)
    house.agree(ALICE)
    got = house.back(0xA2, seq=90_000)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]
    contact = next(c for c in house.tracker.contacts() if c.host == BOB)
    assert len(contact.awaiting(house.now)) == 1
    # Bob's own is found as if nothing had been.
    house.converse(BOB, 0xB1, 0xB2, 5)
    assert house.back(0xB2) == [BOB]


def test_equal_spis_in_both_directions_are_two_different_ones() -> None:
    house = House()
    house.out(ALICE, 0x777)
    assert house.back(0x777) == [ALICE]
    assert house.fast(ALICE, PEER, 0x777)
    assert house.fast(PEER, WAN, 0x777)


def test_two_hosts_with_the_same_outbound_spi_do_not_disturb_each_other() -> None:
    house = House()
    house.agree(ALICE)
    house.out(ALICE, 0x777)
    assert house.back(0xA2) == [ALICE]
    house.agree(BOB)
    house.out(BOB, 0x777)
    assert house.back(0xB2) == [BOB]
    assert house.fast(ALICE, PEER, 0x777)
    assert house.fast(BOB, PEER, 0x777)


def test_two_hosts_that_chose_the_same_inbound_spi_both_get_everything() -> None:
    house = House()
    house.agree(ALICE)
    house.out(ALICE, 0xA1)
    for _ in range(50):
        assert house.back(0x999) == [ALICE]
    house.agree(BOB)
    house.out(BOB, 0xB1)
    house.wait(0.02)
    house.sequences[PEER, WAN, 0x999] = 0
    got = house.back(0x999)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]
    assert not house.fast(PEER, WAN, 0x999)
    house.converse(BOB, 0xB1, 0x999, 9)
    both = house.back(0x999, seq=51)
    assert isinstance(both, list)
    assert sorted(both) == [ALICE, BOB]
    house.converse(BOB, 0xB1, 0x999, 9)
    both = house.back(0x999, seq=52)
    assert isinstance(both, list)
    assert sorted(both) == [ALICE, BOB]


def test_a_host_that_begins_anew_with_the_spi_it_had_is_found_again() -> None:
    house = House()
    house.agree(ALICE)
    house.out(ALICE, 0xA1)
    house.agree(BOB)
    house.out(BOB, 0xB1)
    house.converse(ALICE, 0xA1, 0x999, 6)
    house.converse(BOB, 0xB1, 0xB2, 2)
    for _ in range(40):
        house.back(0x999)
    house.agree(ALICE)
    house.sequences[PEER, WAN, 0x999] = 0
    assert house.back(0x999) == [ALICE]
    house.converse(ALICE, 0xA3, 0x999, 6)
    assert house.fast(PEER, WAN, 0x999)


def test_extended_sequence_numbers_go_round_without_a_doubt() -> None:
    house = House()
    house.out(ALICE, 0xA1)
    assert house.back(0xA2) == [ALICE]
    house.back(0xA2, seq=0xFFFFFFFF)
    assert house.back(0xA2, seq=0) == [ALICE]
    assert house.fast(PEER, WAN, 0xA2)


def test_a_wrong_confirmation_is_taken_back_when_it_leaves_somebody_without_answers() -> None:
    house = House()
    house.agree(ALICE)
    house.out(ALICE, 0xA1)
    # What Carol has agreed on could not be seen: her IKE went another way.
    house.out(CAROL, 0xC1)
    contact = next(c for c in house.tracker.contacts() if c.host == ALICE)
    house.wait(0.05)
    house.back(0xC2)
    inbound = contact.peer.inbound[0xC2]
    house.perform(house.tracker.ledger.confirm(inbound, contact, 0.9, now=house.now))
    assert house.fast(PEER, WAN, 0xC2)
    for _ in range(6):
        house.out(CAROL, 0xC1)
        house.wait(0.05)
        house.back(0xC2)
        house.wait(1.0)
    house.out(CAROL, 0xC1)
    got = house.back(0xC2)
    assert isinstance(got, list)
    assert CAROL in got
    house.converse(CAROL, 0xC1, 0xC2, 6)
    assert house.back(0xC2) == [CAROL]


def test_a_stranger_gets_one_look_and_leaves_no_trace() -> None:
    house = House()
    house.out(ALICE, 0xA1)
    for spi in range(300, 400):
        assert house.back(spi, STRANGER) is Reason.ESP_STRANGER
    assert list(house.tracker.ledger.peers) == [PEER]


def test_a_peer_that_shows_new_spis_too_fast_is_held_back() -> None:
    house = House(rules(ipsec=Ipsec(spis_per_second=5)))
    house.agree(ALICE)
    house.agree(BOB)
    got = [house.back(spi) for spi in range(300, 310)]
    assert got[5:] == [Reason.ESP_SPI_RATE] * 5
    assert house.back(300, seq=2) != Reason.ESP_SPI_RATE


def test_a_peer_has_so_many_spis_and_no_more_until_they_are_forgotten() -> None:
    house = House(rules(ipsec=Ipsec(most_spis=3)))
    house.agree(ALICE)
    house.agree(BOB)
    got = [house.back(spi, seq=9000) for spi in range(300, 305)]
    assert got[3:] == [Reason.ESP_SPIS] * 2
    house.wait(61)
    assert house.back(400, seq=9000) != Reason.ESP_SPIS


def test_copies_have_a_budget_and_the_likeliest_host_is_never_left_out() -> None:
    house = House(rules(ipsec=Ipsec(copies_per_second=3)))
    for host in (ALICE, BOB, CAROL):
        house.agree(host)
        house.out(host, host & 0xFFFF)
        house.wait(0.001)
    first = house.back(0x900)
    assert isinstance(first, list)
    assert len(first) == 3
    second = house.back(0x900)
    assert isinstance(second, list)
    assert len(second) == 2
    third = house.back(0x900)
    assert isinstance(third, list)
    assert len(third) == 1
    assert [d.reason for d in house.drops] == [Reason.ESP_COPIES] * 2
    house.wait(2)
    fourth = house.back(0x900)
    assert isinstance(fourth, list)
    assert len(fourth) == 3


def test_more_candidates_than_are_allowed_get_no_copies() -> None:
    house = House(rules(ipsec=Ipsec(most_candidates=2)))
    for host in (ALICE, BOB, CAROL):
        house.agree(host)
    got = house.back(0x900)
    assert isinstance(got, list)
    assert len(got) == 2
    assert house.drops[-1] == Drop(Reason.ESP_COPIES, "1 of 3 for 0x00000900")


def test_reserved_spis_pass_and_are_told_about_once() -> None:
    house = House()
    assert house.out(ALICE, 255) is True
    assert house.out(ALICE, 255) is True
    assert house.back(1) == [ALICE]
    assert house.out(ALICE, 256) is True
    assert list(house.tracker.warnings.values()) == [
        "10.0.0.2 sends ESP with the reserved SPI 255 to 199.0.0.1",
        "199.0.0.1 sends ESP with the reserved SPI 1 to 200.200.200.200",
    ]


def test_spi_zero_goes_nowhere() -> None:
    house = House()
    assert house.out(ALICE, 0) is Reason.ESP_NO_SPI
    assert house.back(0) is Reason.ESP_NO_SPI


@pytest.mark.parametrize(
    ("source", "reason"),
    [(ALICE, Reason.SPOOFED), (WAN, Reason.OWN_ADDRESS), (0x7F000001, Reason.MARTIAN)],
    ids=["inside", "ours", "loopback"],
)
def test_false_sources_are_refused(source: int, reason: Reason) -> None:
    house = House()
    house.out(ALICE, 0xA1)
    packet = house.packet(source, WAN, 0x900)  # type: ignore[arg-type]
    assert house.through(packet, inside=False) == []
    assert house.drops[-1].reason is reason


def test_a_packet_to_another_address_of_ours_goes_nowhere() -> None:
    house = House()
    house.out(ALICE, 0xA1)
    packet = house.packet(PEER, PEER_2, 0x900)
    assert house.through(packet, inside=False) == []
    assert house.drops[-1].reason is Reason.NO_RULE


def test_a_packet_at_its_last_hop_goes_nowhere() -> None:
    house = House()
    house.through(house.packet(ALICE, PEER, 0xA1, ttl=1), inside=True)
    assert house.drops[-1].reason is Reason.TTL_EXPIRED


def test_without_an_address_nothing_passes() -> None:
    house = House(wan=None)
    assert house.out(ALICE, 0xA1) is Reason.NO_ADDRESS


def test_whom_no_rule_allows_is_told_so() -> None:
    house = House(replace(rules(), masquerade=()))
    assert house.out(ALICE, 0xA1) is Reason.NO_RULE
    assert [(e.type, e.code) for e in house.answers] == [(3, 13)]
    house.ike(ALICE, 34)
    assert house.tracker.contacts() == []
