"""Which flows the kernel carries: offers, withdrawals, rules that opt out, and counters read back."""

import pytest

from protocols.actions import Kind, Offload, Shortcut, Side, Unload
from protocols.addr import Ip4
from protocols.esp import flows as esp
from protocols.gre import flows as gre
from protocols.natt import flows as natt
from protocols.offload import Carried, Offloads
from protocols.sessions import Role, Session, State, Traffic

HOST, PUBLIC, PEER = Ip4(1), Ip4(2), Ip4(3)


class House:
    """Offers as a tracker makes them, and a kernel that counts."""

    def __init__(self) -> None:
        self.kernel: dict[int, Carried] = {}
        self.kept_out: set[str] = set()
        self.offloads = Offloads(self.kernel.get, self.kept_out.__contains__)

    def session(self) -> Session:
        return Session(
            "e1",
            "esp",
            Role.MASQUERADE,
            "staff",
            State.ESTABLISHED,
            HOST,
            PUBLIC,
            PEER,
            opened=0,
            last_seen=0,
        )

    def flow(self, spi: int = 7) -> esp.Flow:
        return esp.Flow(
            source=PUBLIC, target=PEER, spi=spi, side=Side.LAN, sender=HOST, addressed=PEER, out=Side.WAN
        )


@pytest.fixture
def house() -> House:
    return House()


def is_pending(house: House) -> bool:
    return house.offloads.pending


def carried_of(session: Session) -> int:
    return session.offloaded


def test_an_offered_flow_is_carried_until_it_is_withdrawn(house: House) -> None:
    flow, session = house.flow(), house.session()
    house.offloads.offer(flow, session)
    assert is_pending(house)
    assert house.offloads.take() == [Offload(1, flow.shortcut)]
    assert not is_pending(house)
    assert carried_of(session) == 1
    house.offloads.offer(flow, session)
    assert house.offloads.take() == []
    house.offloads.withdraw(flow)
    assert house.offloads.take() == [Unload(1)]
    assert carried_of(session) == 0
    house.offloads.withdraw(flow)
    assert house.offloads.take() == []


def test_what_is_withdrawn_and_offered_in_one_call_stays_where_it_is(house: House) -> None:
    flow, session = house.flow(), house.session()
    house.offloads.offer(flow, session)
    house.offloads.take()
    house.offloads.withdraw(flow)
    house.offloads.offer(flow, session)
    assert house.offloads.take() == []


def test_withdrawals_come_first(house: House) -> None:
    old, new, session = house.flow(), house.flow(), house.session()
    house.offloads.offer(old, session)
    house.offloads.take()
    house.offloads.offer(new, session)
    house.offloads.withdraw(old)
    assert house.offloads.take() == [Unload(1), Offload(2, new.shortcut)]


def test_an_offer_taken_back_at_once_was_none(house: House) -> None:
    flow = house.flow()
    house.offloads.offer(flow, house.session())
    house.offloads.withdraw(flow)
    assert house.offloads.take() == []


def test_counters_are_added_as_they_grow_and_read_at_the_end(house: House) -> None:
    flow = house.flow()
    flow.packets, flow.octets, flow.last_seen = 10, 1000, 5.0
    house.offloads.offer(flow, house.session())
    house.offloads.take()
    house.offloads.seen([(1, (3, 300, 7.0, 40))])
    house.offloads.seen([(1, (3, 300, 7.0, 40))])
    assert (flow.packets, flow.octets, flow.last_seen, flow.sequence) == (13, 1300, 7.0, 40)
    house.kernel[1] = (5, 500, 9.0, 42)
    house.offloads.refresh(flow)
    assert (flow.packets, flow.sequence) == (15, 42)
    house.kernel[1] = (6, 600, 6.0, 43)
    house.offloads.withdraw(flow)
    assert (flow.packets, flow.octets, flow.last_seen, flow.sequence) == (16, 1600, 9.0, 43)
    house.offloads.take()
    house.offloads.seen([(1, (9, 900, 9.0, 44))])
    house.offloads.refresh(flow)
    assert flow.packets == 16


def test_counters_that_nobody_has_are_none(house: House) -> None:
    flow = house.flow()
    house.offloads.offer(flow, house.session())
    house.offloads.take()
    house.offloads.refresh(flow)
    assert flow.packets == 0


def test_a_flow_without_room_stays_ours(house: House) -> None:
    flow, session = house.flow(), house.session()
    house.offloads.offer(flow, session)
    house.offloads.take()
    house.offloads.refused(1)
    house.offloads.refused(1)
    assert session.offloaded == 0
    house.offloads.withdraw(flow)
    assert house.offloads.take() == []


def test_a_rule_keeps_its_flows_out_and_lets_them_in_again(house: House) -> None:
    flow, session = house.flow(), house.session()
    house.kept_out.add("staff")
    house.offloads.offer(flow, session)
    assert house.offloads.take() == []
    house.kept_out.clear()
    house.offloads.reconsider()
    assert house.offloads.take() == [Offload(1, flow.shortcut)]
    house.kernel[1] = (3, 300, 7.0, 40)
    house.kept_out.add("staff")
    house.offloads.reconsider()
    assert house.offloads.take() == [Unload(1)]
    assert (flow.packets, flow.octets) == (3, 300)


def test_where_there_is_no_fast_path_nothing_is_offered(house: House) -> None:
    nowhere = Offloads(None, house.kept_out.__contains__)
    flow = house.flow()
    nowhere.offer(flow, house.session())
    nowhere.withdraw(flow)
    nowhere.refresh(flow)
    assert not nowhere.pending


def test_shortcuts_say_what_arrives_and_what_leaves() -> None:
    call = gre.Flow(
        source=PUBLIC,
        target=PEER,
        call_id=9,
        side=Side.LAN,
        sender=HOST,
        addressed=PEER,
        shown_id=8,
        out=Side.WAN,
    )
    assert call.shortcut == Shortcut(Kind.GRE, 47, Side.LAN, HOST, PEER, 8, PUBLIC, PEER, 9)
    call.add(2, 200, 3.0)
    assert (call.packets, call.octets, call.last_seen) == (2, 200, 3.0)
    traffic = Traffic()
    datagrams = natt.Flow(
        side=Side.WAN,
        sender=(PEER, 4500),
        addressed=(PUBLIC, 61000),
        source=(PEER, 4500),
        target=(HOST, 4501),
        traffic=traffic,
    )
    label, new_label = 4500 << 16 | 61000, 4500 << 16 | 4501
    assert datagrams.shortcut == Shortcut(Kind.NATT, 17, Side.WAN, PEER, PUBLIC, label, PEER, HOST, new_label)
    datagrams.add(1, 100, 4.0)
    assert (traffic.packets, traffic.last_seen) == (1, 4.0)


def test_all_that_the_kernel_has_carried_is_counted_at_once(house: House) -> None:
    flows = [house.flow(spi) for spi in (7, 8)]
    for flow in flows:
        house.offloads.offer(flow, house.session())
    for number, action in enumerate(house.offloads.take(), 1):
        assert isinstance(action, Offload)
        house.kernel[action.flow] = (number, 100 * number, 5.0, 9)
    house.offloads.refresh_all()
    assert [(flow.packets, flow.octets) for flow in flows] == [(1, 100), (2, 200)]
    house.offloads.refresh_all()
    assert [(flow.packets, flow.octets) for flow in flows] == [(1, 100), (2, 200)]
