from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import icmp, ipv4
from protocols.addr import parse_ip
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.icmp import IcmpError, may_answer

CLIENT = parse_ip("10.0.0.2")
PEER = parse_ip("199.0.0.1")
PACKET = ipv4.build(
    src=CLIENT, dst=PEER, protocol=ipv4.GRE, payload=bytes.fromhex("3001880b00000001 00000000")
)

WIRE = [
    pytest.param(
        IcmpError(3, 4, 1400, b"quoted"), "0304 b135 00000578 71756f746564", id="fragmentation-needed"
    ),
    pytest.param(IcmpError(11, 0), "0b00 f4ff 00000000", id="time-exceeded-without-quote"),
    pytest.param(IcmpError(5, 1, CLIENT, b"\1"), "0501 effc 0a000002 01", id="redirect-of-odd-length"),
]


@pytest.mark.parametrize(("error", "wire"), WIRE)
def test_errors_are_as_the_rfc_draws_them(error: IcmpError, wire: str) -> None:
    assert error.to_bytes() == bytes.fromhex(wire)
    assert IcmpError.from_bytes(bytes.fromhex(wire)) == error


REFUSALS = [
    pytest.param("", id="empty"),
    pytest.param("0304 b135 000005", id="short"),
    pytest.param("0304 b136 00000578 71756f746564", id="checksum"),
    pytest.param("0304 b135 00000578 71756f7465", id="quote-cut-short"),
    pytest.param("0800 f7ff 00000000", id="echo-request"),
    pytest.param("0000 ffff 00000000", id="echo-reply"),
]


@pytest.mark.parametrize("wire", REFUSALS)
def test_what_is_no_error_is_malformed(wire: str) -> None:
    with pytest.raises(DecodeError) as caught:
        IcmpError.from_bytes(bytes.fromhex(wire))
    assert caught.value.reason is Reason.ICMP_MALFORMED


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(IcmpError(256, 0), id="type"),
        pytest.param(IcmpError(3, -1), id="code"),
        pytest.param(IcmpError(3, 4, 1 << 32), id="rest"),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_mistake(error: IcmpError) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        error.to_bytes()


def test_fragmentation_needed_tells_the_mtu() -> None:
    error = icmp.fragmentation_needed(1400, PACKET)
    assert error == IcmpError(3, 4, 1400, PACKET)
    assert error.next_hop_mtu == 1400


def test_time_exceeded_is_about_the_time_to_live() -> None:
    assert icmp.time_exceeded(PACKET) == IcmpError(11, 0, 0, PACKET)


def test_admin_prohibited_is_unreachable_code_13() -> None:
    assert icmp.admin_prohibited(PACKET) == IcmpError(3, 13, 0, PACKET)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(icmp.fragmentation_needed(1400, bytes(1500)), id="fragmentation-needed"),
        pytest.param(icmp.time_exceeded(bytes(1500)), id="time-exceeded"),
        pytest.param(icmp.admin_prohibited(bytes(1500)), id="admin-prohibited"),
    ],
)
def test_an_error_fits_what_every_host_takes(error: IcmpError) -> None:
    """RFC 1812 §4.3.2.3."""
    packet = ipv4.build(src=PEER, dst=CLIENT, protocol=ipv4.ICMP, payload=error.to_bytes())
    assert len(error.quote) == icmp.MOST_QUOTED == 548
    assert len(packet) == 576


def packet_between(src: str, dst: str) -> bytes:
    return ipv4.build(src=parse_ip(src), dst=parse_ip(dst), protocol=ipv4.GRE, payload=bytes(8))


def piece(**changes: object) -> bytes:
    header = ipv4.Header(src=CLIENT, dst=PEER, protocol=ipv4.GRE, total_length=28)
    return replace(header, **changes).to_bytes() + bytes(8)  # type: ignore[arg-type]


def carrying_icmp(payload: bytes) -> bytes:
    return ipv4.build(src=CLIENT, dst=PEER, protocol=ipv4.ICMP, payload=payload)


ANSWERS = [
    pytest.param(PACKET, True, id="gre"),
    pytest.param(PACKET[:28], True, id="quoted-gre"),
    pytest.param(piece(more_fragments=True), True, id="first-fragment"),
    pytest.param(carrying_icmp(b"\x08"), True, id="ping"),
    pytest.param(carrying_icmp(icmp.time_exceeded(PACKET).to_bytes()), False, id="time-exceeded"),
    pytest.param(carrying_icmp(b"\x03"), False, id="unreachable"),
    pytest.param(carrying_icmp(b"\x04"), False, id="source-quench"),
    pytest.param(carrying_icmp(b"\x05"), False, id="redirect"),
    pytest.param(carrying_icmp(b"\x0c"), False, id="parameter-problem"),
    pytest.param(carrying_icmp(b""), False, id="icmp-of-no-type"),
    pytest.param(piece(fragment_offset=8), False, id="further-fragment"),
    pytest.param(packet_between("10.0.0.2", "224.0.0.1"), False, id="to-multicast"),
    pytest.param(packet_between("10.0.0.2", "255.255.255.255"), False, id="to-broadcast"),
    pytest.param(packet_between("0.0.0.0", "199.0.0.1"), False, id="from-nobody"),
    pytest.param(packet_between("127.0.0.1", "199.0.0.1"), False, id="from-loopback"),
    pytest.param(packet_between("224.0.0.1", "199.0.0.1"), False, id="from-multicast"),
    pytest.param(packet_between("255.255.255.255", "199.0.0.1"), False, id="from-broadcast"),
    pytest.param(b"", False, id="nothing"),
    pytest.param(b"\x60" + bytes(39), False, id="ipv6"),
]


@pytest.mark.parametrize(("packet", "answer"), ANSWERS)
def test_errors_are_sent_only_about_what_the_rfc_lets(packet: bytes, *, answer: bool) -> None:
    """RFC 1812 §4.3.2.7."""
    assert may_answer(packet) is answer


@pytest.mark.parametrize("address", ["10.0.0.2", "199.0.0.1"])
def test_no_error_is_sent_about_what_is_for_or_from_all_hosts_of_a_network(address: str) -> None:
    assert may_answer(PACKET, {parse_ip("199.0.0.255")})
    assert not may_answer(PACKET, {parse_ip(address)})


errors = st.builds(
    IcmpError,
    type=st.sampled_from(sorted(icmp.ERRORS)),
    code=st.integers(0, 255),
    rest=st.integers(0, 0xFFFFFFFF),
    quote=st.binary(max_size=64),
)


@given(errors)
def test_any_error_comes_back_as_it_was(error: IcmpError) -> None:
    assert checksum(error.to_bytes()) == 0
    assert IcmpError.from_bytes(error.to_bytes()) == error


def outcome(data: bytes) -> IcmpError | Reason:
    try:
        return IcmpError.from_bytes(data)
    except DecodeError as error:
        return error.reason


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_an_error_or_malformed(data: bytes, mend: bool) -> None:
    if mend and len(data) >= 4:
        data = data[:2] + checksum(data[:2] + b"\0\0" + data[4:]).to_bytes(2) + data[4:]
    found = outcome(data)
    if isinstance(found, IcmpError):
        assert found.type in icmp.ERRORS
        assert found.quote == data[8:]
    else:
        assert found is Reason.ICMP_MALFORMED


@given(st.binary(max_size=60))
def test_any_bytes_may_be_answered_or_not(data: bytes) -> None:
    assert may_answer(b"\x45" + data) in {True, False}
