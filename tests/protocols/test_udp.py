"""UDP headers: lengths, the four kinds of checksum, and translation that keeps them right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import ipv4
from protocols.addr import Ip4, parse_ip
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.udp import PROTOCOL, Datagram, pseudo_sum

HOST, PEER, WAN = parse_ip("10.0.0.2"), parse_ip("199.0.0.1"), parse_ip("200.200.200.200")

endpoints = st.tuples(st.integers(0, 0xFFFFFFFF).map(Ip4), st.integers(0, 0xFFFF))
datagrams = st.builds(Datagram, endpoints, endpoints, st.binary(max_size=50))


def read(packet: bytes) -> Datagram:
    return Datagram.from_packet(ipv4.Header.from_bytes(packet, verify=False), packet)


def packed(datagram: Datagram, *, padding: bytes = b"") -> bytes:
    segment = datagram.to_bytes() + padding
    return ipv4.build(src=datagram.source[0], dst=datagram.target[0], protocol=PROTOCOL, payload=segment)


def is_right(packet: bytes) -> bool:
    """Whether the checksum is, by the definition of RFC 768."""
    segment = packet[20:]
    pseudo = packet[12:20] + bytes([0, PROTOCOL]) + len(segment).to_bytes(2)
    return checksum(pseudo, segment) == 0


EXAMPLE = Datagram((HOST, 500), (PEER, 500), b"some payload").summed()


def test_a_datagram_is_read_with_its_endpoints() -> None:
    assert read(packed(EXAMPLE)) == EXAMPLE
    assert str(EXAMPLE) == "10.0.0.2:500 to 199.0.0.1:500"
    assert "payload" not in repr(EXAMPLE)


@given(datagrams)
def test_what_is_written_is_read_again(datagram: Datagram) -> None:
    assert read(packed(datagram)) == datagram
    summed = datagram.summed()
    assert summed.checksum != 0
    assert is_right(packed(summed))
    assert read(packed(summed)) == summed


@given(datagrams, endpoints, endpoints, st.booleans())
def test_a_translated_checksum_is_as_right_as_a_computed_one(
    datagram: Datagram, source: tuple[Ip4, int], target: tuple[Ip4, int], has_sum: bool
) -> None:
    before = datagram.summed() if has_sum else datagram
    after = before.between(source, target)
    assert (after.source, after.target, after.payload) == (source, target, datagram.payload)
    assert after.checksum == (after.summed().checksum if has_sum else 0)


@given(datagrams)
def test_an_unfinished_checksum_is_finished(datagram: Datagram) -> None:
    packet = bytearray(packed(datagram))
    found = pseudo_sum(datagram.source[0], datagram.target[0], len(packet) - 20)
    packet[26:28] = found.to_bytes(2)
    if found:
        assert read(bytes(packet)) == datagram.summed()


@given(datagrams, st.integers(1, 0xFFFF))
def test_a_checksum_is_right_or_unfinished_or_refused(datagram: Datagram, found: int) -> None:
    packet = bytearray(packed(datagram))
    packet[26:28] = found.to_bytes(2)
    reason = None
    try:
        assert read(bytes(packet)) == datagram.summed()
    except DecodeError as error:
        reason = error.reason
    assert reason in (None, Reason.CHECKSUM)
    assert reason is None or not is_right(bytes(packet))


def test_octets_after_the_datagram_are_padding() -> None:
    assert read(packed(EXAMPLE, padding=b"\0\0\0")) == EXAMPLE


@pytest.mark.parametrize(
    "segment",
    [
        pytest.param("", id="nothing"),
        pytest.param("01f401f4000800", id="seven octets"),
        pytest.param("01f401f400070000", id="length below that of the header"),
        pytest.param("01f401f400090000", id="length beyond the packet"),
    ],
)
def test_a_wrong_length_is_refused(segment: str) -> None:
    packet = ipv4.build(src=HOST, dst=PEER, protocol=PROTOCOL, payload=bytes.fromhex(segment))
    with pytest.raises(DecodeError) as caught:
        read(packet)
    assert caught.value.reason is Reason.UDP_LENGTH


@given(st.binary(max_size=40))
def test_any_octets_are_read_or_refused(segment: bytes) -> None:
    packet = ipv4.build(src=HOST, dst=PEER, protocol=PROTOCOL, payload=segment)
    reason = None
    try:
        read(packet)
    except DecodeError as error:
        reason = error.reason
    assert reason in (None, Reason.UDP_LENGTH, Reason.CHECKSUM)


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(Datagram((HOST, 65536), (PEER, 1)), id="port"),
        pytest.param(Datagram((HOST, 1), (PEER, 1), bytes(65508)), id="length"),
    ],
)
def test_what_does_not_fit_cannot_be_written(datagram: Datagram) -> None:
    with pytest.raises(ValueError, match="fit"):
        datagram.to_bytes()


def test_a_forwarded_packet_keeps_all_but_addresses_ports_and_one_hop() -> None:
    header = ipv4.Header(HOST, PEER, PROTOCOL, 0, tos=0xB8, identification=77, dont_fragment=True, ttl=10)
    send = EXAMPLE.between((WAN, 500), (PEER, 500)).forwarded(header)
    assert send.destination == PEER
    after = ipv4.Header.from_bytes(send.packet)
    assert (after.src, after.dst, after.ttl) == (WAN, PEER, 9)
    assert (after.tos, after.identification, after.dont_fragment) == (0xB8, 77, True)
    assert is_right(send.packet)
    assert send.packet[28:] == b"some payload"
