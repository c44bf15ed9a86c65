from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import ipv4
from protocols.addr import parse_ip
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.ipv4 import Header, build, fragment, validate

CLIENT = parse_ip("10.0.0.2")
PEER = parse_ip("199.0.0.1")
HEADER = Header(src=CLIENT, dst=PEER, protocol=ipv4.GRE, total_length=20)

WIRE = [
    pytest.param(HEADER, "4500 0014 0000 0000 402f a9b8 0a000002 c7000001", id="plain"),
    pytest.param(
        replace(HEADER, tos=0xB8, identification=0x1234, dont_fragment=True, ttl=1),
        "45b8 0014 1234 4000 012f 95cc 0a000002 c7000001",
        id="dont-fragment",
    ),
    pytest.param(
        replace(HEADER, more_fragments=True, fragment_offset=8 * 0x1FFF, total_length=0xFFFF),
        "4500 ffff 0000 3fff 402f 69cd 0a000002 c7000001",
        id="fragment",
    ),
    pytest.param(
        replace(HEADER, reserved_flag=True, options=bytes.fromhex("94040000"), total_length=24),
        "4600 0018 0000 8000 402f 94af 0a000002 c7000001 94040000",
        id="options-and-reserved-flag",
    ),
]


@pytest.mark.parametrize(("header", "wire"), WIRE)
def test_headers_are_as_the_rfc_draws_them(header: Header, wire: str) -> None:
    assert header.to_bytes() == bytes.fromhex(wire)
    assert Header.from_bytes(bytes.fromhex(wire)) == header


REFUSALS = [
    pytest.param("", Reason.BAD_HEADER, id="empty"),
    pytest.param("4500 0014 0000 0000 402f a9b8 0a000002 c70000", Reason.BAD_HEADER, id="short"),
    pytest.param("6500 0014 0000 0000 402f 89b8 0a000002 c7000001", Reason.BAD_HEADER, id="version-6"),
    pytest.param("4400 0014 0000 0000 402f aab8 0a000002 c7000001", Reason.BAD_HEADER, id="header-of-16"),
    pytest.param("4600 0018 0000 0000 402f a8b4 0a000002 c7000001", Reason.BAD_HEADER, id="options-cut-off"),
    pytest.param(
        "4500 0013 0000 0000 402f a9b9 0a000002 c7000001", Reason.BAD_HEADER, id="total-below-header"
    ),
    pytest.param("4500 0014 0000 0000 402f a9b9 0a000002 c7000001", Reason.CHECKSUM, id="checksum"),
    pytest.param("4500 0014 0000 0000 3f2f a9b8 0a000002 c7000001", Reason.CHECKSUM, id="ttl-changed"),
]


@pytest.mark.parametrize(("wire", "reason"), REFUSALS)
def test_bad_headers_are_refused_with_their_reason(wire: str, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        Header.from_bytes(bytes.fromhex(wire))
    assert caught.value.reason is reason


def test_the_checksum_may_be_anything_if_nobody_asks() -> None:
    wire = bytes.fromhex("4500 0014 0000 0000 402f 0000 0a000002 c7000001")
    assert Header.from_bytes(wire, verify=False) == HEADER
    assert validate(wire, verify=False) == HEADER


def test_a_quoted_header_may_announce_more_than_is_quoted() -> None:
    quoted = replace(HEADER, total_length=1500).to_bytes() + bytes(8)
    assert Header.from_bytes(quoted).total_length == 1500


INVALID = [
    pytest.param(replace(HEADER, total_length=21), Reason.BAD_HEADER, id="cut-short"),
    pytest.param(replace(HEADER, total_length=24, options=bytes(4)), Reason.IP_OPTIONS, id="options"),
    pytest.param(replace(HEADER, more_fragments=True), Reason.FRAGMENT, id="first-fragment"),
    pytest.param(replace(HEADER, fragment_offset=8), Reason.FRAGMENT, id="last-fragment"),
]


@pytest.mark.parametrize(("header", "reason"), INVALID)
def test_packets_that_are_not_whole_and_plain_are_not_forwarded(header: Header, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        validate(header.to_bytes())
    assert caught.value.reason is reason


def test_a_reserved_flag_is_nothing_to_drop_a_packet_for() -> None:
    """RFC 1812 §4.2.2.3."""
    header = replace(HEADER, reserved_flag=True)
    assert validate(header.to_bytes()) == header


def test_padding_behind_the_packet_is_allowed() -> None:
    assert validate(HEADER.to_bytes() + bytes(26)) == HEADER


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(replace(HEADER, options=b"\1"), id="half-a-word-of-options"),
        pytest.param(replace(HEADER, options=bytes(44)), id="eleven-words-of-options"),
        pytest.param(replace(HEADER, fragment_offset=4), id="offset-no-multiple-of-8"),
        pytest.param(replace(HEADER, fragment_offset=0x10000), id="offset-too-far"),
        pytest.param(replace(HEADER, fragment_offset=-8), id="offset-negative"),
        pytest.param(replace(HEADER, total_length=0x10000), id="too-long"),
        pytest.param(replace(HEADER, src=-1), id="no-address"),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_mistake(header: Header) -> None:
    with pytest.raises(ValueError, match=r"options|fragment|fit"):
        header.to_bytes()


def test_build_makes_a_whole_packet() -> None:
    packet = build(src=CLIENT, dst=PEER, protocol=ipv4.ICMP, payload=b"hello", ttl=9, tos=1, identification=7)
    header = validate(packet)
    assert header == Header(
        src=CLIENT, dst=PEER, protocol=ipv4.ICMP, total_length=25, tos=1, identification=7, ttl=9
    )
    assert packet[header.length :] == b"hello"
    assert not header.dont_fragment
    assert validate(
        build(src=CLIENT, dst=PEER, protocol=ipv4.ICMP, payload=b"", dont_fragment=True)
    ).dont_fragment


def test_build_refuses_what_no_packet_can_hold() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        build(src=CLIENT, dst=PEER, protocol=ipv4.GRE, payload=bytes(0xFFFF - 19))


def packet_of(size: int, **changes: object) -> bytes:
    """A packet of ``size`` octets of payload that count up."""
    header = replace(HEADER, total_length=20 + size, identification=0xABCD, **changes)  # type: ignore[arg-type]
    header = replace(header, total_length=header.length + size)
    return header.to_bytes() + bytes(i & 0xFF for i in range(size))


def test_a_packet_that_fits_stays_in_one_piece() -> None:
    packet = packet_of(80)
    assert fragment(packet, 100) == [packet]
    assert fragment(packet + b"padding", 100) == [packet]


def test_pieces_are_cut_at_multiples_of_eight() -> None:
    pieces = [Header.from_bytes(piece) for piece in fragment(packet_of(200), 100)]
    assert [(p.fragment_offset, p.total_length, p.more_fragments) for p in pieces] == [
        (0, 100, True),
        (80, 100, True),
        (160, 60, False),
    ]


def test_the_last_piece_may_use_all_of_the_mtu() -> None:
    assert [len(piece) for piece in fragment(packet_of(72 + 77), 97)] == [92, 97]


def test_a_piece_of_a_piece_says_that_more_follow() -> None:
    middle = packet_of(160, more_fragments=True, fragment_offset=800)
    pieces = [Header.from_bytes(piece) for piece in fragment(middle, 100)]
    assert [(p.fragment_offset, p.more_fragments) for p in pieces] == [(800, True), (880, True)]


def test_a_packet_that_must_not_be_fragmented_is_not() -> None:
    with pytest.raises(ValueError, match="must not be fragmented"):
        fragment(packet_of(200, dont_fragment=True), 100)


def test_no_link_is_smaller_than_68() -> None:
    assert len(fragment(packet_of(100), 68)) == 3
    with pytest.raises(ValueError, match="no link"):
        fragment(packet_of(100), 67)


def test_what_is_no_whole_packet_is_not_fragmented() -> None:
    with pytest.raises(DecodeError) as caught:
        fragment(packet_of(200)[:-1], 100)
    assert caught.value.reason is Reason.BAD_HEADER


OPTIONS = [
    # Security (copied), no-operation (not), record route (not), stream identifier (copied)
    pytest.param(
        "820b0102030405060708ff 01 0704040a 88040102", "820b0102030405060708ff 88040102 00", id="some"
    ),
    pytest.param("01010101", "", id="none"),
    pytest.param("88040102 00 ffffff", "88040102", id="end-of-list"),
    pytest.param("88040102", "88040102", id="all"),
    pytest.param("07000700", "", id="length-too-small"),
    pytest.param("010101 88", "88000000", id="length-cut-off"),
]


@pytest.mark.parametrize(("options", "copied"), OPTIONS)
def test_only_options_to_be_copied_are_in_further_pieces(options: str, copied: str) -> None:
    """RFC 791 §3.1."""
    pieces = [
        Header.from_bytes(piece) for piece in fragment(packet_of(200, options=bytes.fromhex(options)), 100)
    ]
    assert pieces[0].options == bytes.fromhex(options)
    assert {piece.options for piece in pieces[1:]} == {bytes.fromhex(copied)}


@given(
    st.integers(1, 3000), st.integers(68, 1500), st.binary(max_size=40).map(lambda o: o[: len(o) // 4 * 4])
)
def test_pieces_fit_and_put_together_are_the_packet(size: int, mtu: int, options: bytes) -> None:
    packet = packet_of(size, options=options, tos=3, ttl=17)
    whole = Header.from_bytes(packet)
    pieces = fragment(packet, mtu)
    payload = b""
    for piece in pieces:
        header = Header.from_bytes(piece)
        assert len(piece) == header.total_length <= mtu
        assert header.fragment_offset == len(payload)
        assert header.more_fragments is (piece is not pieces[-1])
        assert (header.identification, header.tos, header.ttl) == (0xABCD, 3, 17)
        assert (header.src, header.dst, header.protocol) == (whole.src, whole.dst, whole.protocol)
        payload += piece[header.length :]
    assert payload == packet[whole.length :]


words = st.integers(0, 0xFFFF)
octets = st.integers(0, 0xFF)
addresses = st.integers(0, 0xFFFFFFFF)
headers = st.builds(
    Header,
    src=addresses,
    dst=addresses,
    protocol=octets,
    total_length=st.integers(60, 0xFFFF),
    tos=octets,
    identification=words,
    reserved_flag=st.booleans(),
    dont_fragment=st.booleans(),
    more_fragments=st.booleans(),
    fragment_offset=st.integers(0, 0x1FFF).map(lambda units: units * 8),
    ttl=octets,
    options=st.integers(0, 10).flatmap(lambda count: st.binary(min_size=count * 4, max_size=count * 4)),
)


@given(headers)
def test_any_header_comes_back_as_it_was(header: Header) -> None:
    wire = header.to_bytes()
    assert len(wire) == header.length
    assert checksum(wire) == 0
    assert Header.from_bytes(wire) == header
    assert Header.from_bytes(wire + b"payload") == header


def outcome(data: bytes, *, verify: bool) -> Header | Reason:
    try:
        return Header.from_bytes(data, verify=verify)
    except DecodeError as error:
        return error.reason


@given(octets, st.binary(max_size=70), st.booleans())
def test_any_bytes_are_a_header_or_a_reason(first: int, rest: bytes, verify: bool) -> None:
    data = bytes([first]) + rest
    found = outcome(data, verify=verify)
    if isinstance(found, Header):
        wire = found.to_bytes()
        assert data[:10] + data[12 : len(wire)] == wire[:10] + wire[12:]
    else:
        assert found in {Reason.BAD_HEADER, Reason.CHECKSUM}
