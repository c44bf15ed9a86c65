"""The packet path of ESP in UDP, by itself."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import ipv4
from protocols.actions import Offload, Side, Unload
from protocols.addr import Ip4
from protocols.ike.natt import EspInUdp
from protocols.natt.flows import Flow, FlowTable, flow_key, forward, restore
from protocols.offload import Offloads
from protocols.sessions import Role, Session, State, Traffic
from protocols.udp import PROTOCOL, Datagram, Endpoint, pseudo_sum

CLIENT, WAN, PEER = Ip4(0x0A000002), Ip4(0xC8C8C8C8), Ip4(0xC7000001)
HOST, PUBLIC, FAR = (CLIENT, 4500), (WAN, 61000), (PEER, 4500)

endpoints = st.tuples(st.integers(1, 0xFFFFFFFF).map(Ip4), st.integers(0, 0xFFFF))


def flow(
    sender: Endpoint = FAR, addressed: Endpoint = PUBLIC, source: Endpoint = FAR, target: Endpoint = HOST
) -> Flow:
    """Data from a peer to a client."""
    return Flow(
        side=Side.WAN,
        sender=sender,
        addressed=addressed,
        source=source,
        target=target,
        traffic=Traffic(),
    )


def packet(datagram: Datagram, *, ttl: int = 64) -> bytes:
    (src, _), (dst, _) = datagram.source, datagram.target
    payload = datagram.to_bytes()
    return ipv4.build(src=src, dst=dst, protocol=PROTOCOL, payload=payload, ttl=ttl, identification=5)


def data(text: bytes = b"secret", spi: int = 9) -> Datagram:
    return Datagram(FAR, PUBLIC, EspInUdp(spi, 1).to_bytes() + text)


def table(*flows: Flow) -> FlowTable:
    full = FlowTable()
    for one in flows:
        full.add(one)
    return full


@given(endpoints, endpoints, endpoints, endpoints, st.binary(max_size=40), st.booleans())
def test_a_packet_is_rewritten_where_it_lies_and_its_checksum_stays_right(
    sender: Endpoint, addressed: Endpoint, source: Endpoint, target: Endpoint, text: bytes, summed: bool
) -> None:
    known = flow(sender, addressed, source, target)
    datagram = Datagram(sender, addressed, EspInUdp(9, 1).to_bytes() + text)
    datagram = datagram.summed() if summed else datagram
    before = packet(datagram)
    buffer = bytearray(before) + b"rest of the buffer"
    destination = forward(table(known).wan, buffer, len(before), 5.0)
    if destination is None:
        # As rare as it is harmless: a sum that might be an unfinished one.
        assert datagram.checksum % 0xFFFF == pseudo_sum(sender[0], addressed[0], 16 + len(text)) % 0xFFFF
        assert buffer == before + b"rest of the buffer"
        return
    assert destination == target[0]
    after = bytes(buffer[: len(before)])
    expected = datagram.between(source, target)
    assert after[20:] == expected.to_bytes()
    assert struct.unpack_from("!BBHII", after, 8) == (63, PROTOCOL, 0, source[0], target[0])
    assert buffer[len(before) :] == b"rest of the buffer"
    assert (known.traffic.packets, known.traffic.octets) == (1, len(before))
    assert known.traffic.last_seen == 5.0
    assert restore(known, after) == before


@given(st.binary(max_size=40))
def test_an_unfinished_checksum_goes_the_long_way(text: bytes) -> None:
    whole = bytearray(packet(data(text)))
    whole[26:28] = pseudo_sum(PEER, WAN, len(whole) - 20).to_bytes(2)
    before = bytes(whole)
    assert forward(table(flow()).wan, whole, len(whole), 5.0) is None
    assert whole == before


@given(st.integers(1, 0xFFFF))
def test_a_wrong_checksum_stays_wrong(found: int) -> None:
    whole = bytearray(packet(data()))
    whole[26:28] = found.to_bytes(2)
    if forward(table(flow()).wan, whole, len(whole), 5.0) is not None:
        right = data().summed()
        after = int.from_bytes(whole[26:28])
        assert (after == right.between(FAR, HOST).checksum) == (found == right.checksum)


def changed(at: int, value: int) -> bytes:
    whole = bytearray(packet(data()))
    whole[at] = value
    return bytes(whole)


LONG_WAY = [
    pytest.param(packet(data())[:35], id="short"),
    pytest.param(packet(data()) + b"\0", id="longer than it says"),
    pytest.param(changed(0, 0x46), id="options"),
    pytest.param(changed(6, 0x20), id="more fragments"),
    pytest.param(changed(7, 0x01), id="later fragment"),
    pytest.param(changed(8, 1), id="last hop"),
    pytest.param(changed(9, 6), id="tcp"),
    pytest.param(changed(25, 8), id="padding after the datagram"),
    pytest.param(changed(31, 0), id="ike after a marker"),
    pytest.param(changed(23, 1), id="another port"),
    pytest.param(changed(15, 77), id="another peer"),
]


@pytest.mark.parametrize("whole", LONG_WAY)
def test_what_is_not_plain_data_goes_the_long_way(whole: bytes) -> None:
    buffer = bytearray(whole)
    assert forward(table(flow()).wan, buffer, len(whole), 1.0) is None
    assert buffer == whole


@given(junk=st.binary(max_size=80), cut=st.integers(0, 80))
def test_any_octets_are_forwarded_or_left_alone(junk: bytes, cut: int) -> None:
    whole = packet(data())[:cut] + junk
    buffer = bytearray(whole) + bytearray(40)
    before = bytes(buffer)
    known = flow()
    if forward(table(known).wan, buffer, len(whole), 1.0) is None:
        assert buffer == before
        assert known.traffic.packets == 0
    else:
        assert struct.unpack_from("!II", buffer, 12) == (PEER, CLIENT)


def test_a_newer_flow_that_carries_the_same_replaces_an_older_one() -> None:
    offloads = Offloads(lambda _number: None)
    session = Session(
        "n1", "natt", Role.MASQUERADE, "staff", State.ESTABLISHED, CLIENT, WAN, PEER, opened=0, last_seen=0
    )
    full, older, newer = FlowTable(offloads), flow(), flow(target=(CLIENT, 4501))
    for one in (older, newer):
        full.add(one)
        full.offer(one, session)
    assert list(offloads.take()) == [Offload(1, newer.shortcut)]
    full.remove(older)
    assert full.wan == {newer.key: newer}
    assert full.departed(older.sent_as) is None
    full.remove(newer)
    assert list(offloads.take()) == [Unload(1)]
    assert len(full) == 0


def test_flows_are_found_on_their_side_and_by_what_they_send() -> None:
    inwards = flow()
    outwards = Flow(side=Side.LAN, sender=HOST, addressed=FAR, source=PUBLIC, target=FAR, traffic=Traffic())
    both = table(inwards, outwards)
    assert len(both) == 2
    assert both.wan == {flow_key(FAR, PUBLIC): inwards}
    assert both.lan == {flow_key(HOST, FAR): outwards}
    assert both.departed(flow_key(PUBLIC, FAR)) is outwards
    assert both.departed(flow_key(FAR, HOST)) is inwards
    both.remove(inwards)
    both.remove(outwards)
    assert len(both) == 0
    assert both.departed(flow_key(PUBLIC, FAR)) is None
