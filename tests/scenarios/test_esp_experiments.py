"""Downloads without a pause, in step with each other: the gateway finds their owners out by experiments."""

import pytest

from protocols.actions import Action, Drop, Send
from protocols.addr import Ip4
from protocols.drops import Reason
from protocols.esp import codec
from protocols.esp.contacts import PairState
from protocols.esp.trial import HELD
from protocols.ipv4 import Header
from tests.protocols.esp.house import ALICE, BOB, PEER, WAN, House

LANES = ("user-space",)
#: Seconds between two packets of a download.
GAP = 0.02


class Line(House):
    """A house of which every packet that leaves is written down: when, to whom, its SPI and number."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[tuple[float, Ip4, int, int]] = []

    def perform(self, actions: list[Action]) -> list[bytes]:
        for action in actions:
            if isinstance(action, Send):
                header = Header.from_bytes(action.packet, verify=False)
                spi, number = codec.words_of(action.packet, header.length)
                self.left.append((self.now, Ip4(action.destination), spi, number))
        return super().perform(actions)

    def comes(self, spi: int) -> None:
        """A packet of the peer, which may be held."""
        self.through(self.packet(PEER, WAN, spi), inside=False)

    def delay(self, spi: int, number: int, came: float, host: Ip4) -> float | None:
        """How long after it came a host was given a packet."""
        return next((t - came for t, h, s, n in self.left if (h, s, n) == (host, spi, number)), None)


def two_that_begin(house: Line) -> None:
    for host, out in ((ALICE, 0xA1), (BOB, 0xB1)):
        house.agree(host)
        house.out(host, out)
        house.wait(0.001)


def download(house: Line, times: int, spis: "tuple[int, ...]" = (0xA2, 0xB2)) -> None:
    """Packets in step; each host answers every second of its own, a millisecond after it was given it."""
    owners = {0xA2: (ALICE, 0xA1), 0xB2: (BOB, 0xB1)}
    answered: set[tuple[int, int]] = set()
    for _ in range(times):
        for spi in spis:
            house.comes(spi)
        for _ in range(20):
            house.wait(GAP / 20)
            for _, host, spi, number in list(house.left[-40:]):
                if spi in owners and host == owners[spi][0] and number % 2 and (spi, number) not in answered:
                    answered.add((spi, number))
                    house.out(host, owners[spi][1])


def test_downloads_in_step_are_told_apart_and_nothing_is_lost() -> None:
    house = Line()
    two_that_begin(house)
    download(house, 200)
    assert {house.pairing(ALICE), house.pairing(BOB)} == {PairState.CONFIRMED}
    for host, spi in ((ALICE, 0xA2), (BOB, 0xB2)):
        numbers = [n for _, h, s, n in house.left if (h, s) == (host, spi)]
        # What takes the short lane is not written down.
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 16
        assert house.fast(PEER, WAN, spi)


def test_a_packet_waits_no_longer_than_a_moment() -> None:
    house = Line()
    two_that_begin(house)
    waited: set[float] = set()
    for number in range(1, 60):
        came = house.now
        house.comes(0xA2)
        house.wait(GAP)
        delays = [house.delay(0xA2, number, came, host) for host in (ALICE, BOB)]
        assert delays[0] == delays[1]
        assert delays[0] is not None
        waited.add(round(delays[0], 6))
    assert waited == {0.0, HELD}


def test_who_pauses_never_waits() -> None:
    house = Line()
    two_that_begin(house)
    for number in range(1, 200):
        came = house.now
        house.comes(0xA2)
        assert house.delay(0xA2, number, came, ALICE) == 0.0
        house.wait(GAP if number % 15 else 0.1)


def until_held(house: Line) -> int:
    """Packets of Alice's, until one is held; its number."""
    for number in range(1, 200):
        house.comes(0xA2)
        if house.delay(0xA2, number, house.now, ALICE) is None:
            return number
        house.wait(GAP)
    raise AssertionError("nothing is held")


def test_no_more_wait_than_there_is_room_for() -> None:
    house = Line()
    two_that_begin(house)
    first = until_held(house)
    for _ in range(100):
        house.comes(0xA2)
    assert house.left[-1][3] in range(first + 68, first + 101)
    house.wait(HELD)
    numbers = [n for _, h, s, n in house.left if (h, s) == (ALICE, 0xA2)]
    assert numbers == list(range(1, first + 101))


def test_what_waits_leaves_at_once_when_the_owner_is_told() -> None:
    house = Line()
    two_that_begin(house)
    first = until_held(house)
    told = house.tracker.tell(PEER, 0xB2, BOB, lifetime=60, now=house.now)
    assert not isinstance(told, Reason)
    house.perform(told)
    assert house.pairing(ALICE) is PairState.CONFIRMED
    assert house.left[-1] == (house.now, ALICE, 0xA2, first)


def test_what_waits_for_nobody_any_more_is_counted() -> None:
    house = Line()
    two_that_begin(house)
    until_held(house)
    for host in (ALICE, BOB):
        session = house.session(host)
        assert session is not None
        house.perform(house.tracker.kill(session, "killed", now=house.now))
    experiments = house.tracker.ledger.experiments
    assert experiments.due(1.0, now=house.now + HELD / 2) == []
    assert experiments.due(1.0, now=house.now + HELD) == [Drop(Reason.ESP_UNKNOWN, "199.0.0.1 0x000000a2")]
    assert experiments.next_deadline() is None


@pytest.mark.parametrize("next_packet", [True, False])
def test_what_waits_outlives_a_restart(next_packet: bool) -> None:
    house = Line()
    two_that_begin(house)
    first = until_held(house)
    records = list(house.tracker.survival.records())
    again = Line()
    again.now = house.now + 1
    again.left = house.left
    for kind, *record in records:
        again.tracker.survival.adopt(kind, *record)
    again.sequences = house.sequences
    if next_packet:
        again.comes(0xA2)
    again.wait(HELD)
    numbers = [n for _, h, s, n in again.left if (h, s) == (ALICE, 0xA2)]
    assert numbers == list(range(1, first + 1 + next_packet))
