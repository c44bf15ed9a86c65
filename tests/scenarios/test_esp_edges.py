"""Seldom things: what is forgotten, replaced or limited at an awkward moment."""

from protocols.actions import Side
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.esp.flows import Flow, FlowTable
from protocols.esp.memory import Memory, Remembered
from protocols.policy import Ipsec, Pairing
from tests.protocols.esp.house import ALICE, BOB, CAROL, PEER, PEER_2, SERVER, WAN, House, office, rules


def test_a_flow_that_was_replaced_by_its_like_takes_nothing_along() -> None:
    table = FlowTable()
    flows = [
        Flow(source=PEER, target=ALICE, spi=9, side=Side.WAN, sender=PEER, addressed=WAN, out=Side.LAN)
        for _ in range(2)
    ]
    for flow in flows:
        table.add(flow)
    table.hold(flows[0])
    assert list(table.wan.values()) == [flows[1]]


def test_memory_keeps_what_is_not_due() -> None:
    memory = Memory()
    memory.keep(PEER, 1, Remembered(ALICE, 0.9, 10.0), most=9)
    memory.keep(PEER, 2, Remembered(BOB, 0.9, 20.0), most=9)
    memory.expire(now=15.0)
    assert len(memory) == 1
    assert memory.recall(PEER, 2, now=25.0) is None


def test_who_comes_when_an_open_spi_has_candidates_enough_is_counted() -> None:
    house = House(rules(ipsec=Ipsec(most_candidates=2)))
    house.agree(ALICE)
    house.agree(BOB)
    house.back(0x900)
    house.out(CAROL, 0xC1, seq=7000)
    house.back(0x900)
    assert house.drops[-1].detail == "1 of 3 for 0x00000900"


def test_a_new_contact_may_own_an_spi_that_was_open_before_it_came() -> None:
    house = House()
    house.out(ALICE, 0xA1, seq=7000)
    assert house.back(0x900, seq=9000) == [ALICE]
    house.out(BOB, 0xB1, seq=7000)
    got = house.back(0x900, seq=9001)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]


def test_the_last_candidate_that_is_forgotten_takes_the_open_spi_along() -> None:
    house = House(rules(ipsec=Ipsec(most_remembered=1)))
    house.agree(ALICE)
    house.back(0x900, seq=9000)
    house.agree(BOB)
    assert [c.host for c in house.tracker.contacts()] == [BOB]
    assert house.tracker.contacts()[0].peer.inbound.keys() <= {0x900}
    house.wait(200)
    assert house.tracker.contacts()[0].peer.inbound == {}


def test_an_open_spi_goes_with_the_session_of_its_only_candidate() -> None:
    house = House()
    house.agree(ALICE)
    house.out(ALICE, 0xA1, seq=7000)
    house.back(0x900, seq=9000)
    (contact,) = house.tracker.contacts()
    assert list(contact.peer.open) == [0x900]
    session = house.session(ALICE)
    assert session is not None
    house.perform(house.tracker.kill(session, "ended by the operator", now=house.now))
    assert contact.peer.open == {}
    assert house.back(0x900, seq=9001) is Reason.ESP_STRANGER


def test_who_is_no_candidate_leaves_an_open_spi_as_it_is() -> None:
    house = House()
    house.agree(CAROL)
    house.out(CAROL, 0xC1)
    house.back(0xC2)
    house.agree(ALICE)
    house.agree(BOB)
    got = house.back(0x900)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]
    session = house.session(CAROL)
    assert session is not None
    house.perform(house.tracker.kill(session, "ended by the operator", now=house.now))
    again = house.back(0x900)
    assert isinstance(again, list)
    assert sorted(again) == [ALICE, BOB]


def test_nothing_can_be_told_while_there_is_no_address() -> None:
    house = House()
    house.admission.addresses = Addresses(None, frozenset())
    assert house.tracker.tell(PEER, 0x900, ALICE, lifetime=60, now=house.now) is Reason.NO_ADDRESS


def test_memory_forgets_a_host_and_no_other() -> None:
    memory = Memory()
    memory.keep(PEER, 1, Remembered(ALICE, 0.9, 10.0), most=9)
    memory.keep(PEER, 2, Remembered(BOB, 0.9, 10.0), most=9)
    memory.forget(PEER, ALICE)
    assert memory.recall(PEER, 1, now=1.0) is None
    assert memory.recall(PEER, 2, now=1.0) is not None


def test_pairs_of_a_contact_are_bounded() -> None:
    house = House()
    house.agree(ALICE)
    (contact,) = house.tracker.contacts()
    for number in range(100):
        house.out(ALICE, 0xA000 + number)
    for number in range(2, 10):
        house.rekey(ALICE, number=number)
    assert len(contact.openings) == 32


def test_forgetting_twice_and_looking_at_the_forgotten_does_no_harm() -> None:
    house = House()
    house.agree(ALICE)
    house.agree(BOB)
    (alice, _) = house.tracker.contacts()
    house.back(0x900)
    inbound = alice.peer.inbound[0x900]
    house.tracker.ledger.forget(alice, now=house.now)
    house.tracker.ledger.forget(alice, now=house.now)
    house.tracker.ledger.drop_inbound(inbound)
    house.tracker.ledger.deadlines.file(alice, house.now)
    house.tracker.ledger.deadlines.file(inbound, house.now)
    assert house.tracker.expire(now=house.now) == []


def test_a_session_that_stands_is_not_opened_again() -> None:
    house = House()
    house.out(ALICE, 0xA1)
    (contact,) = house.tracker.contacts()
    assert house.tracker.ledger.open_session(contact, ALICE, now=house.now) == []


def test_hosts_that_are_out_of_the_question_get_no_more_copies() -> None:
    house = House()
    for host in (ALICE, BOB, CAROL):
        house.agree(host)
    for host in (ALICE, BOB):
        house.out(host, host & 0xFF)
    for turn in range(14):
        house.out(ALICE, 2)
        house.out(BOB, 3)
        house.wait(0.02)
        house.back(0x900)
        house.wait(0.001)
        house.out(ALICE, 2)
        house.out(BOB, 3)
        house.wait(1.3 + 0.21 * turn)
    got = house.back(0x900)
    assert isinstance(got, list)
    assert sorted(got) == [ALICE, BOB]


def test_nobody_doubts_what_was_told_or_is_answered() -> None:
    house = House()
    house.agree(CAROL)
    house.out(CAROL, 0xC1)
    house.tracker.tell(PEER, 0x900, ALICE, lifetime=900, now=house.now)
    house.tracker.tell(PEER, 0x901, BOB, lifetime=900, now=house.now)
    for _ in range(8):
        house.wait(1)
        house.back(0x900)
        house.out(CAROL, 0xC1)
    assert house.back(0x900) == [ALICE]


def test_an_answered_pair_blocks_nobody_even_when_its_outbound_spi_is_new() -> None:
    house = House(rules(ipsec=Ipsec(pairing=Pairing.SERIALIZE)))
    house.tracker.tell(PEER, 0x900, ALICE, lifetime=900, now=house.now)
    assert house.out(ALICE, 0xA1) is True
    assert house.out(BOB, 0xB1) is True


def test_a_retried_init_says_nothing_of_the_round_trip() -> None:
    house = House(rules(ipsec=Ipsec(pairing=Pairing.SERIALIZE)))
    house.out(ALICE, 0xA1)
    house.out(BOB, 0xB1)
    house.out(ALICE, 0xA1)
    assert house.back(0xA2) == [ALICE]
    assert house.tracker.contacts()[0].peer.round_trip is None


def test_an_exposed_servers_peer_is_known_by_its_rule() -> None:
    house = House(rules(office()))
    house.ike(SERVER, 36, PEER_2)
    house.tracker.tell(PEER_2, 0x900, SERVER, lifetime=60, now=house.now)
    assert house.back(0x900, PEER_2) == [SERVER]
    assert house.back(0, PEER_2) is Reason.ESP_NO_SPI


def test_packets_at_once_measure_no_second_round_trip() -> None:
    house = House()
    house.agree(ALICE, trip=0.2)
    house.agree(BOB, trip=0.2)
    house.out(ALICE, 0xA1)
    for wait in (0.21, 0.03, 0.05, 0.09):
        house.wait(wait)
        got = house.back(0x900)
        assert isinstance(got, list)
        assert ALICE in got
