"""How long ESP is known: lifetimes, memory, what is told, and what the operator does."""

from dataclasses import replace

import pytest

from protocols.addr import Network, parse_ip
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.esp.contacts import PairState
from protocols.policy import Ipsec, Limits, Masquerade, Source
from tests.protocols.esp.house import (
    ALICE,
    ANY,
    BOB,
    CAROL,
    LAN,
    PEER,
    PEER_2,
    SERVER,
    STAFF,
    WAN,
    House,
    office,
    rules,
)


def paired(house: House) -> House:
    """Alice and Bob with their tunnels."""
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        house.agree(host)
        house.out(host, out)
        assert house.back(back) == [host]
    return house


def test_a_silent_session_ends_and_its_spi_is_remembered() -> None:
    house = paired(House())
    for _ in range(40):
        house.back(0xA2)
    house.wait(1801)
    assert house.closed == ["silent for its lifetime"] * 2
    assert len(house.flows) == 0
    assert len(house.registry) == 0
    house.agree(BOB)
    house.out(BOB, 0xB3)
    assert house.back(0xA2) == [ALICE]
    session = house.session(ALICE)
    assert session is not None
    assert session.pairing is PairState.CONFIRMED
    assert house.back(0xB4) == [BOB]
    assert house.out(ALICE, 0xA1, seq=5000) is True
    assert house.fast(ALICE, PEER, 0xA1)


def test_a_remembered_spi_that_begins_anew_is_a_new_one() -> None:
    house = paired(House())
    house.wait(1801)
    house.agree(BOB)
    assert house.back(0xA2, seq=1) == [BOB]


def test_memory_ends_after_a_day() -> None:
    house = paired(House())
    house.wait(1801 + 86400 + 10)
    assert house.tracker.contacts() == []
    assert house.tracker.ledger.peers == {}
    assert len(house.tracker.ledger.memory) == 0
    assert house.tracker.next_deadline() is None
    assert house.back(0xA2, seq=5000) is Reason.ESP_STRANGER


@pytest.mark.parametrize("number", [7, 5000])
def test_a_forgotten_spi_is_still_delivered_to_its_owner(number: int) -> None:
    house = paired(House(rules(ipsec=Ipsec(memory=60))))
    assert house.back(0xA2, seq=number - 1) == [ALICE]
    house.wait(1790)
    for _ in range(30):  # IKE goes on, so that the hosts themselves are not forgotten
        house.ike(ALICE, 37)
        house.ike(BOB, 37)
        house.wait(10)
    house.agree(BOB)
    house.out(BOB, 0xB3)
    got = house.back(0xA2, seq=number)
    assert isinstance(got, list)
    assert set(got) == {ALICE, BOB}


def test_memory_has_a_bound() -> None:
    house = paired(House(rules(ipsec=Ipsec(most_remembered=1))))
    house.agree(ALICE, PEER_2)
    house.wait(1801)
    assert len(house.tracker.ledger.memory) == 1
    assert len(house.tracker.contacts()) <= 2


def test_a_contact_that_is_forgotten_is_no_candidate_any_more() -> None:
    house = House(rules(ipsec=Ipsec(most_remembered=2)))
    house.agree(ALICE)
    house.agree(BOB)
    assert len(house.back(0x900)) == 2  # type: ignore[arg-type]
    house.agree(CAROL, PEER_2)
    assert house.back(0x900) == [BOB]
    house.agree(CAROL)
    assert house.back(0x900) is Reason.ESP_UNKNOWN or house.back(0x900) == [CAROL]


def test_ike_keeps_esp_alive() -> None:
    house = paired(House())
    for _ in range(5):
        house.wait(1000)
        house.ike_alive[ALICE, PEER] = house.now
    assert house.session(ALICE) is not None
    assert house.session(BOB) is None
    assert house.tracker.alive(ALICE, PEER) is not None
    assert house.tracker.alive(BOB, PEER) is None
    assert house.tracker.alive(BOB, PEER_2) is None


def test_a_dormant_contact_lives_as_long_as_its_ike() -> None:
    house = House()
    house.agree(ALICE)
    house.wait(86000)
    house.ike(ALICE, 37)
    house.wait(86000)
    assert len(house.tracker.contacts()) == 1
    house.wait(1000)
    assert house.tracker.contacts() == []


def test_an_open_spi_is_forgotten_when_it_is_silent() -> None:
    house = House()
    house.agree(ALICE)
    house.agree(BOB)
    house.out(ALICE, 0xA1)
    house.back(0x900)
    house.wait(50)
    house.back(0x900)
    house.wait(50)
    assert house.pairing(ALICE) is PairState.AMBIGUOUS
    house.wait(20)
    assert house.pairing(ALICE) is PairState.OUTSTANDING
    assert house.tracker.contacts()[0].peer.inbound == {}


def test_an_open_spi_that_comes_back_belongs_to_nobody_who_came_since() -> None:
    house = House()
    house.agree(ALICE)
    house.agree(BOB)
    house.back(0x900)
    house.wait(70)
    house.agree(CAROL)
    got = house.back(0x900)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]


def test_open_spis_that_went_silent_are_remembered_within_bounds() -> None:
    house = House()
    house.agree(ALICE)
    house.agree(BOB)
    for spi in range(0x1000, 0x1000 + 300):
        house.back(spi, seq=9000)
        house.wait(0.1)
    house.wait(100)
    (peer,) = house.tracker.ledger.peers.values()
    assert peer.inbound == {}
    assert list(peer.shelved) == list(range(0x1000 + 44, 0x1000 + 300))


def test_an_agreement_outlives_the_silence_of_its_outbound_spi() -> None:
    house = House()
    house.agree(ALICE)
    house.out(ALICE, 0xA1)
    house.wait(1801)
    assert house.session(ALICE) is None
    house.agree(BOB)
    house.wait(0.02)
    # The peer has had something to say to Alice at last.
    got = house.back(0xA2)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]
    # Another outbound SPI of hers is another agreement.
    house.out(ALICE, 0xA3)
    contact = next(c for c in house.tracker.contacts() if c.host == ALICE)
    assert [o.silent for o in contact.openings] == [True, False]


# -- told --------------------------------------------------------------------------------------------------


def test_a_told_pair_is_believed_at_once_and_over_what_was_found_out() -> None:
    house = paired(House())
    assert not isinstance(house.tracker.tell(PEER, 0xA2, BOB, lifetime=60, now=house.now), Reason)
    assert house.back(0xA2) == [BOB]
    assert house.fast(PEER, WAN, 0xA2)
    (told,) = house.tracker.told()
    assert (told.peer, told.spi, told.host, told.until) == (PEER, 0xA2, BOB, house.now + 60)
    house.wait(61)
    assert house.tracker.told() == []
    assert not house.fast(PEER, WAN, 0xA2)


def test_a_told_pair_brings_a_session_about_and_outlives_it() -> None:
    house = House()
    told = house.tracker.tell(PEER, 0x900, ALICE, lifetime=9000, now=house.now)
    assert not isinstance(told, Reason)
    session = house.session(ALICE)
    assert session is not None
    assert (session.pairing, session.confidence) == (PairState.CONFIRMED, 1.0)
    assert house.back(0x900) == [ALICE]
    house.sequences[PEER, WAN, 0x900] = 5000
    house.back(0x900)
    assert house.back(0x900, seq=1) == [ALICE]
    house.wait(2000)
    assert house.session(ALICE) is None
    assert house.back(0x900) == [ALICE]
    assert house.tracker.untell(PEER, 0x900) is True
    assert house.tracker.untell(PEER, 0x900) is False
    assert not house.fast(PEER, WAN, 0x900)
    house.wait(86400 * 2)
    assert house.tracker.contacts() == []


def test_what_cannot_be_told() -> None:
    house = House(rules(STAFF, ipsec=Ipsec(most_told=1), limits=Limits(sessions=1)))
    tell = house.tracker.tell
    assert tell(PEER, 0, ALICE, lifetime=60, now=house.now) is Reason.ESP_NO_SPI
    assert tell(PEER, 1, parse_ip("10.9.9.9"), lifetime=60, now=house.now) is Reason.NO_RULE
    assert tell(PEER, 0x900, ALICE, lifetime=60, now=house.now) != Reason.ESP_SPIS
    assert tell(PEER, 0x900, ALICE, lifetime=90, now=house.now) != Reason.ESP_SPIS
    assert tell(PEER, 0x901, ALICE, lifetime=60, now=house.now) is Reason.ESP_SPIS
    house.tracker.untell(PEER, 0x900)
    assert tell(PEER, 0x902, BOB, lifetime=60, now=house.now) is Reason.LIMIT_SESSIONS


def test_a_told_pair_whose_session_a_limit_refuses_waits_for_a_better_time() -> None:
    house = House(rules(limits=Limits(sessions=1)))
    house.tracker.tell(PEER, 0x900, ALICE, lifetime=9000, now=house.now)
    house.wait(2000)
    house.out(BOB, 0xB1)
    assert house.back(0x900) is Reason.LIMIT_SESSIONS


def test_a_pair_can_be_told_of_an_exposed_server() -> None:
    house = House(rules(office()))
    assert not isinstance(house.tracker.tell(PEER, 0x900, SERVER, lifetime=60, now=house.now), Reason)
    assert house.tracker.tell(PEER, 0x901, ALICE, lifetime=60, now=house.now) is Reason.NO_RULE
    assert house.back(0x900) == [SERVER]


# -- the operator ------------------------------------------------------------------------------------------


def test_killing_a_session_forgets_all_about_it() -> None:
    house = paired(House())
    house.tracker.tell(PEER, 0x900, ALICE, lifetime=60, now=house.now)
    house.tracker.tell(PEER, 0x901, BOB, lifetime=60, now=house.now)
    session = house.session(ALICE)
    assert session is not None
    house.perform(house.tracker.kill(session, "ended by the operator", now=house.now))
    assert house.session(ALICE) is None
    assert [t.host for t in house.tracker.told()] == [BOB]
    assert house.tracker.kill(session, "again", now=house.now) == []
    house.perform(house.tracker.close_all("shutting down", now=house.now))
    assert house.closed == ["ended by the operator", "shutting down"]
    assert house.tracker.kill(session, "again", now=house.now) == []
    assert len(house.flows) == 0
    assert house.tracker.ledger.behind == {}
    assert house.tracker.next_deadline() is None


def test_what_the_rules_no_longer_allow_ends() -> None:
    house = paired(House())
    house.agree(CAROL)
    only_bob = Masquerade("bob", (Network.parse("10.0.0.3"),), ANY, pptp=False, ipsec=True)
    house.admission.policy = replace(house.admission.policy, masquerade=(only_bob,))
    house.perform(house.tracker.reconsider(now=house.now))
    # Bob is let in by another rule, which is another session.
    assert house.closed == ["no longer allowed"] * 2
    assert house.tracker.contacts() == []


def test_a_new_address_ends_what_was_bound_to_the_old_one() -> None:
    house = paired(House())
    new = parse_ip("200.200.200.201")
    house.admission.addresses = Addresses(new, frozenset({LAN, new}))
    house.perform(house.tracker.reconsider(now=house.now))
    assert house.closed == ["our address has changed"] * 2


# -- exposed servers ---------------------------------------------------------------------------------------


def test_inbound_first_from_an_allowed_peer_goes_to_the_server() -> None:
    house = House(rules(office(Source.KEEP, "199.0.0.1")))
    assert house.back(0x900) == [SERVER]
    assert house.session(SERVER) is not None
    assert house.back(0x901, PEER_2) is Reason.ESP_STRANGER
    assert house.out(SERVER, 0x51) is True
    assert house.fast(SERVER, PEER, 0x51)
    assert house.fast(PEER, WAN, 0x900)
    assert house.out(SERVER, 0x52, PEER_2) is Reason.NO_RULE


def test_a_client_and_the_server_with_the_same_peer_are_told_apart() -> None:
    house = House(rules(STAFF, office()))
    house.agree(ALICE)
    house.ike(SERVER, 34, outbound=False)
    house.ike(SERVER, 35, outbound=False, number=1)
    house.ike(SERVER, 35, response=True, number=1)
    house.out(ALICE, 0xA1)
    got = house.back(0x900)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, SERVER]
    house.converse(SERVER, 0x51, 0x900, 6)
    assert house.back(0x900) == [SERVER]
    assert house.back(0xA2) == [ALICE]


def test_a_limit_on_the_peer_leaves_the_server_the_packet_but_no_fast_lane() -> None:
    house = House(rules(office(), limits=Limits(sessions=0)))
    assert house.back(0x900) == [SERVER]
    assert house.session(SERVER) is None
    assert len(house.flows) == 0
    house.wait(61)
    assert house.back(0x900, seq=60) == [SERVER]


def test_a_server_that_sees_only_us_answers_the_peer_that_waits() -> None:
    house = House(rules(office(Source.GATEWAY)))
    assert house.back(0x900) == [SERVER]
    assert house.out(SERVER, 0x51, LAN) is True
    assert house.back(0x901, PEER_2) == [SERVER]
    assert house.out(SERVER, 0x61, LAN) is True
    first, second = house.session(SERVER), house.session(SERVER, PEER_2)
    assert first is not None
    assert second is not None
    assert (first.spi_outbound, second.spi_outbound) == (0x51, 0x61)
    assert house.out(SERVER, 0x51, LAN, seq=1) is True
    assert first.outbound.packets == 2
    house.perform(house.tracker.reconsider(now=house.now))
    assert house.closed == []
    house.perform(house.tracker.close_all("over", now=house.now))
    assert house.tracker.ledger.behind == {}


def test_a_neighbour_reaches_the_server_by_our_public_address() -> None:
    house = House(rules(office()))
    packet = house.packet(ALICE, WAN, 0x900)
    (sent,) = house.through(packet, inside=True)
    assert sent[12:20] == WAN.to_bytes(4) + SERVER.to_bytes(4)
    (answer,) = house.through(house.packet(SERVER, WAN, 0xA2), inside=True)
    assert answer[12:20] == WAN.to_bytes(4) + ALICE.to_bytes(4)
    (again,) = house.through(house.packet(ALICE, WAN, 0x900, seq=77), inside=True)
    assert again[12:20] == WAN.to_bytes(4) + SERVER.to_bytes(4)


def test_a_told_pair_whose_peer_was_forgotten_can_still_be_taken_back() -> None:
    house = House()
    house.tracker.tell(PEER, 0x900, ALICE, lifetime=9e9, now=house.now)
    house.wait(86400 * 2)
    assert house.tracker.contacts() == []
    assert house.tracker.untell(PEER, 0x900) is True


def test_closing_passes_over_hosts_without_a_session() -> None:
    house = paired(House())
    house.agree(CAROL)
    assert len(house.tracker.close_all("over", now=house.now)) == 2
    assert [c.host for c in house.tracker.contacts()] == [CAROL]


def test_a_session_that_ike_keeps_alive_is_looked_at_again() -> None:
    house = paired(House())
    house.ike_alive[ALICE, PEER] = house.now + 1700
    house.wait(1900)
    assert house.session(ALICE) is not None
    assert house.session(BOB) is None
    house.wait(1700)
    assert house.session(ALICE) is None
