import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.gre.codec import FIRST_WORDS, EnhancedGre, call_id_of, refusal

WIRE = [
    pytest.param(EnhancedGre(1, 0, None, b"ppp"), "3001 880b 0003 0001 00000000 707070", id="data"),
    pytest.param(
        EnhancedGre(1, 5, 4, b"ppp"), "3081 880b 0003 0001 00000005 00000004 707070", id="data-and-ack"
    ),
    pytest.param(EnhancedGre(0xFFFF, None, 9), "2081 880b 0000 ffff 00000009", id="ack-only"),
    pytest.param(EnhancedGre(0), "2001 880b 0000 0000", id="neither"),
    pytest.param(EnhancedGre(2, None, None, b"p"), "2001 880b 0001 0002 70", id="data-without-number"),
]


@pytest.mark.parametrize(("packet", "wire"), WIRE)
def test_packets_are_as_the_rfc_draws_them(packet: EnhancedGre, wire: str) -> None:
    assert packet.to_bytes() == bytes.fromhex(wire)
    assert EnhancedGre.from_bytes(bytes.fromhex(wire)) == packet


@pytest.mark.parametrize(("packet", "wire"), WIRE)
def test_first_words_know_the_header_length(packet: EnhancedGre, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert FIRST_WORDS[int.from_bytes(data[:4])] == len(data) - len(packet.payload)


def test_only_four_first_words_are_pptp() -> None:
    assert FIRST_WORDS == {0x2001880B: 8, 0x3001880B: 12, 0x2081880B: 12, 0x3081880B: 16}


REFUSALS = [
    pytest.param("", Reason.BAD_HEADER, id="empty"),
    pytest.param("3001 880b 0000 00", Reason.BAD_HEADER, id="short"),
    pytest.param("0000 0800 4500 0014", Reason.GRE_VERSION, id="plain-gre"),
    pytest.param("3000 880b 0000 0001", Reason.GRE_VERSION, id="version-0"),
    pytest.param("3002 880b 0000 0001", Reason.GRE_VERSION, id="version-2"),
    pytest.param("3001 0800 0000 0001 00000000", Reason.GRE_PROTOCOL, id="not-ppp"),
    pytest.param("1001 880b 0000 0001 00000000", Reason.GRE_FLAGS, id="no-key"),
    pytest.param("b001 880b 0000 0001 00000000", Reason.GRE_FLAGS, id="checksum"),
    pytest.param("7001 880b 0000 0001 00000000", Reason.GRE_FLAGS, id="routing"),
    pytest.param("3801 880b 0000 0001 00000000", Reason.GRE_FLAGS, id="strict-source-route"),
    pytest.param("3101 880b 0000 0001 00000000", Reason.GRE_FLAGS, id="recursion"),
    pytest.param("3009 880b 0000 0001 00000000", Reason.GRE_FLAGS, id="flags"),
    pytest.param("3001 880b 0000 0001", Reason.GRE_LENGTH, id="no-room-for-sequence-number"),
    pytest.param("3081 880b 0000 0001 00000000", Reason.GRE_LENGTH, id="no-room-for-acknowledgment"),
    pytest.param("3001 880b 0002 0001 00000000 70", Reason.GRE_LENGTH, id="payload-cut-short"),
]


@pytest.mark.parametrize(("wire", "reason"), REFUSALS)
def test_what_is_not_pptp_is_refused_with_its_reason(wire: str, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        EnhancedGre.from_bytes(bytes.fromhex(wire))
    assert caught.value.reason is reason


@pytest.mark.parametrize(("wire", "reason"), REFUSALS)
def test_a_refusal_is_the_same_inside_a_larger_buffer(wire: str, reason: Reason) -> None:
    data = bytes.fromhex(wire)
    buffer = bytearray(20) + data + bytes(100)
    assert refusal(buffer, 20, 20 + len(data)) is reason


def test_a_good_header_inside_a_larger_buffer_is_not_refused() -> None:
    data = EnhancedGre(0x1234, 1, 2, b"payload").to_bytes()
    buffer = memoryview(bytearray(20) + data + bytes(100))
    assert refusal(buffer, 20, 20 + len(data)) is None
    assert call_id_of(buffer, 20) == 0x1234


def test_padding_is_left_out() -> None:
    assert EnhancedGre.from_bytes(EnhancedGre(1, 2, 3, b"ppp").to_bytes() + bytes(9)) == EnhancedGre(
        1, 2, 3, b"ppp"
    )


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(EnhancedGre(0x10000), id="call-id"),
        pytest.param(EnhancedGre(1, -1), id="sequence"),
        pytest.param(EnhancedGre(1, 0, 1 << 32), id="acknowledgment"),
        pytest.param(EnhancedGre(1, 0, 0, bytes(0x10000)), id="payload"),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_mistake(packet: EnhancedGre) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        packet.to_bytes()


numbers = st.none() | st.integers(0, 0xFFFFFFFF)
packets = st.builds(EnhancedGre, st.integers(0, 0xFFFF), numbers, numbers, st.binary(max_size=64))


@given(packets)
def test_any_packet_comes_back_as_it_was(packet: EnhancedGre) -> None:
    assert EnhancedGre.from_bytes(packet.to_bytes()) == packet


starts = st.sampled_from(["3001880b", "3081880b", "2081880b", "2001880b", "", "3001", "0000"]).map(
    bytes.fromhex
)


@given(starts, st.binary(max_size=40))
def test_any_bytes_are_a_packet_or_a_reason(start: bytes, rest: bytes) -> None:
    data = start + rest
    found = outcome(data)
    if isinstance(found, EnhancedGre):
        assert refusal(data, 0, len(data)) is None
        assert data.startswith(found.to_bytes())
        assert call_id_of(data, 0) == found.call_id
    else:
        assert refusal(data, 0, len(data)) is found


def outcome(data: bytes) -> EnhancedGre | Reason:
    try:
        return EnhancedGre.from_bytes(data)
    except DecodeError as error:
        return error.reason
