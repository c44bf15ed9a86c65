"""The packet path of confirmed pairs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import ipv4
from protocols.actions import Side
from protocols.addr import Ip4
from protocols.esp.codec import Esp
from protocols.esp.flows import Flow, FlowTable, forward, restore, rewritten
from tests.protocols.esp.house import ALICE, BOB, PEER, WAN

SPI = 0xC0DE0002


def inbound(spi: int = SPI, target: Ip4 = ALICE) -> Flow:
    return Flow(source=PEER, target=target, spi=spi, side=Side.WAN, sender=PEER, addressed=WAN, out=Side.LAN)


def packet(spi: int = SPI, sequence: int = 77, *, ttl: int = 64) -> bytes:
    payload = Esp(spi, sequence, b"secret!").to_bytes()
    return ipv4.build(src=PEER, dst=WAN, protocol=ipv4.ESP, payload=payload, ttl=ttl, tos=0x10)


def test_a_packet_of_a_flow_leaves_with_its_addresses_and_one_hop_less() -> None:
    table, flow = FlowTable(), inbound()
    table.add(flow)
    buffer = bytearray(packet()) + bytearray(100)
    assert forward(table.wan, buffer, len(packet()), 5.0) == ALICE
    expected = bytearray(ipv4.build(src=PEER, dst=ALICE, protocol=50, payload=packet()[20:], ttl=63, tos=16))
    expected[10:12] = b"\0\0"
    assert buffer[: len(expected)] == expected
    assert (flow.packets, flow.octets, flow.last_seen, flow.sequence) == (1, len(expected), 5.0, 77)
    assert bytes(expected) == rewritten(packet(), ipv4.validate(packet()), PEER, ALICE)


def test_a_packet_as_its_sender_sent_it_can_be_restored() -> None:
    table, flow = FlowTable(), inbound()
    table.add(flow)
    buffer = bytearray(packet())
    forward(table.wan, buffer, len(buffer), 5.0)
    assert restore(flow, bytes(buffer)) == packet()


UNUSUAL = [
    pytest.param(packet()[:27], id="short"),
    pytest.param(packet(SPI + 1), id="another-spi"),
    pytest.param(b"\x46" + packet()[1:], id="options"),
    pytest.param(packet()[:9] + b"\x33" + packet()[10:], id="ah"),
    pytest.param(packet() + b"x", id="trailing"),
    pytest.param(packet(ttl=1), id="last-hop"),
    pytest.param(packet()[:6] + b"\x20\0" + packet()[8:], id="fragment"),
    pytest.param(packet(sequence=3), id="one-of-the-first-few"),
]


@pytest.mark.parametrize("wire", UNUSUAL)
def test_the_unusual_is_left_untouched(wire: bytes) -> None:
    table, flow = FlowTable(), inbound()
    table.add(flow)
    buffer = bytearray(wire)
    assert forward(table.wan, buffer, len(wire), 5.0) is None
    assert buffer == wire
    assert flow.packets == 0


@given(st.binary(max_size=60), st.binary(max_size=8))
def test_any_bytes_pass_or_stay_as_they_are(head: bytes, tail: bytes) -> None:
    table = FlowTable()
    table.add(inbound())
    wire = head + packet()[len(head) :] + tail
    buffer = bytearray(wire)
    if forward(table.wan, buffer, len(wire), 0.0) is None:
        assert buffer == wire


def test_a_flow_replaced_by_another_takes_nothing_of_it_along() -> None:
    table, old, new = FlowTable(), inbound(), inbound(target=BOB)
    table.add(old)
    table.add(old)
    table.add(new)
    assert len(table) == 1
    table.hold(old)
    assert table.wan == {new.key: new}
    table.hold(new)
    table.hold(new)
    assert len(table) == 0


def test_a_packet_counts_on_the_slow_lane_too() -> None:
    flow = inbound()
    header = ipv4.validate(packet())
    assert flow.carry(packet() + b"padding", replace(header), now=9.0) == rewritten(
        packet(), header, PEER, ALICE
    )
    assert (flow.packets, flow.octets, flow.last_seen) == (1, header.total_length, 9.0)
