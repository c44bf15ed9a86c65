"""The packet path, by itself: what is rewritten, what is left alone, and the two indexes."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from protocols import ipv4
from protocols.actions import Side
from protocols.addr import Ip4
from protocols.gre.codec import EnhancedGre
from protocols.gre.flows import Flow, FlowTable, forward, restore

CLIENT, WAN, PEER, PEER_2 = Ip4(0x0A000002), Ip4(0xC8C8C8C8), Ip4(0xC7000001), Ip4(0xC7000002)


def flow(call_id: int = 7, real: int = 1, *, source: Ip4 = PEER) -> Flow:
    """Data from a peer to a client."""
    return Flow(
        side=Side.WAN,
        sender=source,
        addressed=WAN,
        shown_id=call_id,
        out=Side.LAN,
        source=source,
        target=CLIENT,
        call_id=real,
    )


def packet(call_id: int = 7, *, src: Ip4 = PEER, seq: int | None = 1, payload: bytes = b"abc") -> bytes:
    inner = EnhancedGre(call_id, seq, None, payload).to_bytes()
    return ipv4.build(src=src, dst=WAN, protocol=47, payload=inner, identification=5)


def test_a_packet_of_a_flow_is_rewritten_where_it_lies() -> None:
    table = FlowTable()
    known = flow()
    table.add(known)
    buffer = bytearray(packet()) + b"rest of the buffer"
    length = len(packet())
    assert forward(table.wan, buffer, length, 5.0) == CLIENT
    assert buffer[8] == 63
    assert buffer[10:12] == b"\0\0"
    assert struct.unpack_from("!II", buffer, 12) == (PEER, CLIENT)
    assert buffer[26:28] == b"\0\x01"
    assert buffer[length:] == b"rest of the buffer"
    assert (known.packets, known.octets, known.last_seen) == (1, length, 5.0)


def test_restoring_undoes_forwarding() -> None:
    known = flow()
    table = FlowTable()
    table.add(known)
    buffer = bytearray(packet())
    forward(table.wan, buffer, len(buffer), 5.0)
    assert restore(known, bytes(buffer)) == packet()


def test_a_flow_is_found_on_its_own_side_only() -> None:
    table = FlowTable()
    table.add(flow())
    assert forward(table.lan, bytearray(packet()), len(packet()), 5.0) is None
    assert table.sends(PEER)
    assert not table.sends(CLIENT)


@given(junk=st.binary(max_size=80), cut=st.integers(0, 80), good=st.booleans())
def test_any_bytes_are_forwarded_or_left_alone(junk: bytes, cut: int, good: bool) -> None:
    table = FlowTable()
    known = flow()
    table.add(known)
    data = packet()[:cut] + junk if good else junk
    buffer = bytearray(data) + bytearray(40)
    before = bytes(buffer)
    destination = forward(table.wan, buffer, len(data), 1.0)
    if destination is None:
        assert buffer == before
        assert known.packets == 0
    else:
        assert destination == known.target
        assert struct.unpack_from("!II", buffer, 12) == (PEER, CLIENT)
        assert ipv4.Header.from_bytes(buffer, verify=False).total_length == len(data)


def test_a_newer_flow_replaces_an_older_one_and_outlives_it() -> None:
    table = FlowTable()
    older, newer = flow(real=1), flow(real=2)
    table.add(older)
    table.add(newer)
    assert table.wan[older.key] is newer
    table.remove(older)
    assert table.wan[newer.key] is newer
    assert table.departed(newer.sent_as) is newer
    assert table.departed(older.sent_as) is None
    assert table.sends(PEER)
    table.remove(newer)
    assert len(table) == 0
    assert not table.sends(PEER)
    assert not table._departed


def test_two_flows_that_leave_alike_are_both_kept_and_the_newer_is_told_of_errors() -> None:
    table = FlowTable()
    older, newer = flow(7), flow(8)
    table.add(older)
    table.add(newer)
    assert len(table) == 2
    assert table.departed(older.sent_as) is newer
    table.remove(older)
    assert table.departed(newer.sent_as) is newer


def test_senders_are_counted() -> None:
    table = FlowTable()
    first, second, other = flow(7), flow(8, 2), flow(7, 3, source=PEER_2)
    for one in (first, second, other):
        table.add(one)
    table.remove(first)
    assert table.sends(PEER)
    table.remove(second)
    assert not table.sends(PEER)
    assert table.sends(PEER_2)
