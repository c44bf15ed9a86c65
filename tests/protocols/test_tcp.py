import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import ipv4, tcp
from protocols.addr import parse_ip
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.tcp import ACK, FIN, RST, SYN, Segment

CLIENT = parse_ip("10.0.0.2")
PEER = parse_ip("199.0.0.1")
PUSH = 0x08
ECN = 0xC0  # ECE and CWR, which a SYN may carry (RFC 3168 §6.1.1)


def packet_with(
    flags: int, *, seq: int = 1000, ack: int = 0, options: bytes = b"", data: bytes = b""
) -> bytes:
    offset = 5 + len(options) // 4 << 4
    segment = struct.pack("!HHIIBBHHH", 4321, 1723, seq, ack, offset, flags, 0xFFFF, 0, 0) + options + data
    return ipv4.build(src=CLIENT, dst=PEER, protocol=ipv4.TCP, payload=segment)


def test_a_segment_is_read_as_the_rfc_draws_it() -> None:
    wire = bytes.fromhex("10e1 06bb 000003e8 00000007 60 12 ffff 0000 0000 020405b4 6869")
    assert Segment.from_bytes(wire) == Segment(4321, 1723, 1000, 7, SYN | ACK, 2)


REFUSALS = [
    pytest.param("", id="empty"),
    pytest.param("10e1 06bb 000003e8 00000000 50 02 ffff 0000 00", id="short"),
    pytest.param("10e1 06bb 000003e8 00000000 40 02 ffff 0000 0000", id="header-of-16"),
    pytest.param("10e1 06bb 000003e8 00000000 60 02 ffff 0000 0000", id="options-cut-off"),
]


@pytest.mark.parametrize("wire", REFUSALS)
def test_bad_segments_are_refused(wire: str) -> None:
    data = bytes.fromhex(wire)
    with pytest.raises(DecodeError) as caught:
        Segment.from_bytes(data)
    assert caught.value.reason is Reason.BAD_HEADER
    assert not tcp.is_syn(ipv4.build(src=CLIENT, dst=PEER, protocol=ipv4.TCP, payload=data))


@pytest.mark.parametrize(
    ("flags", "asks"),
    [
        pytest.param(SYN, True, id="syn"),
        pytest.param(SYN | ECN, True, id="syn-with-ecn"),
        pytest.param(SYN | ACK, False, id="syn-ack"),
        pytest.param(SYN | FIN, False, id="syn-fin"),
        pytest.param(SYN | RST, False, id="syn-rst"),
        pytest.param(ACK, False, id="ack"),
        pytest.param(FIN | ACK, False, id="fin-ack"),
        pytest.param(0, False, id="none"),
    ],
)
def test_only_a_syn_asks_for_a_connection(flags: int, *, asks: bool) -> None:
    assert tcp.is_syn(packet_with(flags)) is asks


def test_what_is_no_tcp_packet_asks_for_nothing() -> None:
    udp = ipv4.build(src=CLIENT, dst=PEER, protocol=17, payload=packet_with(SYN)[20:])
    assert not tcp.is_syn(udp)
    assert not tcp.is_syn(b"")


RESETS = [
    # (packet, sequence number, acknowledgment number, flags) by RFC 9293 §3.10.7.1
    pytest.param(packet_with(SYN), 0, 1001, RST | ACK, id="syn"),
    pytest.param(packet_with(SYN, seq=0xFFFFFFFF), 0, 0, RST | ACK, id="syn-at-the-end-of-the-sequence"),
    pytest.param(
        packet_with(SYN, options=bytes.fromhex("020405b4")), 0, 1001, RST | ACK, id="syn-with-options"
    ),
    pytest.param(packet_with(SYN, data=b"fast open"), 0, 1010, RST | ACK, id="syn-with-data"),
    pytest.param(packet_with(FIN), 0, 1001, RST | ACK, id="fin"),
    pytest.param(packet_with(ACK | PUSH, ack=77, data=b"late"), 77, 0, RST, id="data"),
    pytest.param(packet_with(SYN | ACK, ack=77), 77, 0, RST, id="syn-ack"),
]


@pytest.mark.parametrize(("packet", "seq", "ack", "flags"), RESETS)
def test_a_reset_says_what_it_resets(packet: bytes, seq: int, ack: int, flags: int) -> None:
    reset = tcp.reset_for(packet)
    header = ipv4.validate(reset)
    assert (header.src, header.dst, header.protocol) == (PEER, CLIENT, ipv4.TCP)
    assert Segment.from_bytes(reset[20:]) == Segment(1723, 4321, seq, ack, flags, 0)


@pytest.mark.parametrize(("packet", "seq", "ack", "flags"), RESETS)
def test_a_reset_has_the_right_checksum(packet: bytes, seq: int, ack: int, flags: int) -> None:
    reset = tcp.reset_for(packet)
    pseudo_header = struct.pack("!IIHH", PEER, CLIENT, ipv4.TCP, len(reset) - 20)
    assert checksum(pseudo_header, reset[20:]) == 0


def test_a_reset_is_not_reset() -> None:
    with pytest.raises(ValueError, match="not answered"):
        tcp.reset_for(packet_with(RST))


def test_only_tcp_is_reset() -> None:
    with pytest.raises(DecodeError):
        tcp.reset_for(ipv4.build(src=CLIENT, dst=PEER, protocol=ipv4.GRE, payload=bytes(20)))


@given(st.binary(max_size=60))
def test_any_bytes_ask_for_a_connection_or_do_not(data: bytes) -> None:
    packet = ipv4.build(src=CLIENT, dst=PEER, protocol=ipv4.TCP, payload=data)
    if tcp.is_syn(packet):
        assert Segment.from_bytes(tcp.reset_for(packet)[20:]).flags == RST | ACK
