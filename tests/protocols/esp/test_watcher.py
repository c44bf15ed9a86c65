"""What IKE headers say of SPIs to come."""

from protocols.esp import watcher
from tests.protocols.esp.house import ALICE, BOB, CAROL, PEER, SERVER, House, office, rules


def contact_of(house: House, host: int = ALICE):  # type: ignore[no-untyped-def]
    return next(c for c in house.tracker.contacts() if c.host == host)


def test_an_exchange_that_is_repeated_or_takes_rounds_is_one_agreement() -> None:
    house = House()
    for number in (1, 2, 3):
        house.ike(ALICE, 35, number=number)
        house.ike(ALICE, 35, number=number)
    house.ike(ALICE, 36, number=4)
    house.ike(ALICE, 36, number=4)
    house.ike(ALICE, 36, number=5)
    house.ike(ALICE, 32, number=77, version=1)
    house.ike(ALICE, 32, number=77, version=1)
    assert len(contact_of(house).awaiting(house.now)) == 4


def test_an_exchange_of_another_ike_sa_is_another_agreement() -> None:
    house = House()
    for _ in range(2):
        house.agree(ALICE)
        house.ike(ALICE, 36, number=2)
    assert len(contact_of(house).awaiting(house.now)) == 4


def test_what_does_not_agree_on_a_pair_is_no_agreement() -> None:
    house = House()
    for exchange, version in ((34, 2), (37, 2), (2, 1), (4, 1), (5, 1)):
        house.ike(ALICE, exchange, version=version)
    house.ike(ALICE, 36, outbound=False)
    assert contact_of(house).openings == []
    assert contact_of(house).watched


def test_an_answer_gives_the_round_trip_unless_the_question_was_repeated() -> None:
    house = House()
    house.agree(ALICE, trip=0.07)
    house.ike(ALICE, 36, number=2)
    house.ike(ALICE, 36, number=2)
    house.now += 9
    house.ike(ALICE, 36, number=2, outbound=False, response=True)
    trips = contact_of(house).peer.round_trips
    assert [round(trip, 3) for trip in trips] == [0.07, 0.07]
    for number in range(30):
        house.ike(ALICE, 37, number=100 + number)
        house.now += 1 + number
        house.ike(ALICE, 37, number=100 + number, outbound=False, response=True)
    assert len(contact_of(house).peer.round_trips) <= 16


def test_agreements_of_a_host_have_a_bound() -> None:
    house = House()
    for number in range(20):
        house.ike(ALICE, 36, number=number)
    assert len(contact_of(house).openings) == watcher.MOST_OPENINGS
    for number in range(80):
        assert house.out(ALICE, 0x1000 + number) is True
    assert len(contact_of(house).openings) <= 32
    assert len(contact_of(house).outbound) <= 32


def test_ike_of_an_exposed_server_is_its_own() -> None:
    house = House(rules(office()))
    house.ike(SERVER, 36, outbound=True)
    assert len(contact_of(house, SERVER).openings) == 1
    house.ike(ALICE, 36)
    assert len(house.tracker.contacts()) == 1


def test_regular_streams_say_nothing() -> None:
    house = House()
    for host in (ALICE, BOB):
        house.agree(host)
        house.out(host, host & 0xFF)
    for _ in range(300):
        house.out(ALICE, 2)
        house.wait(0.002)
        got = house.back(0x900)
        assert isinstance(got, list)
        assert set(got) == {ALICE, BOB}
        house.wait(0.098)


def test_an_answered_packet_asks_for_no_other_answer() -> None:
    house = House()
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        house.agree(host)
        house.out(host, out)
        assert house.back(back) == [host]
    house.rekey(ALICE)
    house.rekey(CAROL)
    house.out(ALICE, 0xA1)
    house.wait(0.02)
    assert house.back(0xA2) == [ALICE]
    got = house.back(0xC2)
    assert isinstance(got, list)
    inbound = contact_of(house).peer.inbound[0xC2]
    assert inbound.evidence[contact_of(house)].log == 0


def test_the_fast_lane_is_sampled() -> None:
    house = House()
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        house.agree(host)
        house.out(host, out)
        assert house.back(back) == [host]
    for _ in range(100):
        house.wait(0.01)
        assert house.fast(ALICE, PEER, 0xA1)
        house.out(ALICE, 0xA1, seq=100)
    house.rekey(ALICE)
    house.rekey(BOB)
    house.back(0x900)
    assert contact_of(house).activity.chance(0, house.now) > 0.15
    assert contact_of(house, BOB).activity.chance(0, house.now) < 0.05
