"""The ISAKMP and IKE header."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.ike.header import LENGTH, IkeHeader, forwardable, show_cookie

cookies = st.integers(0, 2**64 - 1)
octets = st.integers(0, 255)
headers = st.builds(
    IkeHeader,
    initiator_cookie=cookies,
    responder_cookie=cookies,
    exchange=octets,
    message_id=st.integers(0, 2**32 - 1),
    length=st.integers(LENGTH, LENGTH + 40),
    version=st.sampled_from([1, 2]),
    minor=st.integers(0, 15),
    next_payload=octets,
    flags=octets,
)

FIRST = IkeHeader(0x1122334455667788, 0, 34, 0, 28, next_payload=33, flags=8)
WIRE = bytes.fromhex("1122334455667788 0000000000000000 21 20 22 08 00000000 0000001c")


def test_the_first_message_of_ikev2_is_read() -> None:
    assert IkeHeader.from_bytes(WIRE) == FIRST
    assert FIRST.to_bytes() == WIRE


@given(headers)
def test_what_is_written_is_read_again(header: IkeHeader) -> None:
    wire = header.to_bytes() + bytes(header.length - LENGTH)
    assert IkeHeader.from_bytes(wire) == header
    assert IkeHeader.from_bytes(memoryview(wire + b"more")) == header


@given(st.binary(max_size=60))
def test_any_octets_are_read_or_refused(data: bytes) -> None:
    reason = None
    try:
        header = IkeHeader.from_bytes(data)
    except DecodeError as error:
        reason = error.reason
    else:
        assert data.startswith(header.to_bytes())
    assert reason in (None, Reason.IKE_LENGTH, Reason.IKE_VERSION)


REFUSALS = [
    pytest.param(WIRE[:27], Reason.IKE_LENGTH, id="27 octets"),
    pytest.param(b"", Reason.IKE_LENGTH, id="nothing"),
    pytest.param(WIRE[:27] + b"\x1b", Reason.IKE_LENGTH, id="length below that of the header"),
    pytest.param(WIRE[:27] + b"\x1d", Reason.IKE_LENGTH, id="length beyond the datagram"),
    pytest.param(WIRE[:17] + b"\x00" + WIRE[18:], Reason.IKE_VERSION, id="version 0"),
    pytest.param(WIRE[:17] + b"\x30" + WIRE[18:], Reason.IKE_VERSION, id="version 3"),
]


@pytest.mark.parametrize(("wire", "reason"), REFUSALS)
def test_refused(wire: bytes, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        IkeHeader.from_bytes(wire)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(replace(FIRST, version=3), id="version"),
        pytest.param(replace(FIRST, minor=16), id="minor version"),
        pytest.param(replace(FIRST, length=27), id="length"),
        pytest.param(replace(FIRST, initiator_cookie=2**64), id="cookie"),
    ],
)
def test_what_does_not_fit_cannot_be_written(header: IkeHeader) -> None:
    with pytest.raises(ValueError, match="IkeHeader"):
        header.to_bytes()


@pytest.mark.parametrize(
    ("header", "encrypted"),
    [
        pytest.param(FIRST, False, id="IKE_SA_INIT"),
        pytest.param(replace(FIRST, next_payload=46), True, id="encrypted payload"),
        pytest.param(replace(FIRST, next_payload=53), True, id="encrypted fragment"),
        pytest.param(replace(FIRST, version=1, flags=0, next_payload=46), False, id="IKEv1 in clear"),
        pytest.param(replace(FIRST, version=1, flags=1), True, id="IKEv1 encrypted"),
    ],
)
def test_encryption_is_seen(header: IkeHeader, encrypted: bool) -> None:
    assert header.encrypted is encrypted


def test_a_zero_initiator_cookie_is_nobodys() -> None:
    assert forwardable(WIRE) == FIRST
    with pytest.raises(DecodeError, match="responder cookie 0000000000000007") as caught:
        forwardable(replace(FIRST, initiator_cookie=0, responder_cookie=7).to_bytes())
    assert caught.value.reason is Reason.IKE_ZERO_COOKIE


def test_cookies_are_shown_in_full() -> None:
    assert show_cookie(0xABC) == "0000000000000abc"
