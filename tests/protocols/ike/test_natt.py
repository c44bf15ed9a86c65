"""What goes over UDP 4500."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.ike.header import LENGTH, IkeHeader
from protocols.ike.natt import EspInUdp, Keepalive, MarkedIke, Natt, decode

MESSAGE = IkeHeader(7, 0, 34, 0, LENGTH)

CONTENTS = [
    pytest.param(Keepalive(), "ff", id="keepalive"),
    pytest.param(EspInUdp(0x100, 1), "00000100 00000001", id="esp"),
    pytest.param(EspInUdp(0xFF000000, 1), "ff000000 00000001", id="esp that begins like a keepalive"),
    pytest.param(EspInUdp(1, 2), "00000001 00000002", id="esp with a reserved SPI"),
    pytest.param(MarkedIke(MESSAGE), "00000000" + MESSAGE.to_bytes().hex(), id="ike after the marker"),
]


@pytest.mark.parametrize(("content", "wire"), CONTENTS)
def test_contents_are_told_apart(content: Natt, wire: str) -> None:
    assert decode(bytes.fromhex(wire)) == content
    assert content.to_bytes() == bytes.fromhex(wire)


REFUSALS = [
    pytest.param(b"", Reason.NATT_LENGTH, id="nothing"),
    pytest.param(b"\xfe", Reason.NATT_LENGTH, id="one octet that is no keepalive"),
    pytest.param(b"\xff\xff", Reason.NATT_LENGTH, id="two keepalives in one"),
    pytest.param(b"\0\0\1\0\0\0\0", Reason.NATT_LENGTH, id="half a sequence number"),
    pytest.param(b"\0\0\0\0", Reason.IKE_LENGTH, id="a marker and nothing"),
    pytest.param(MESSAGE.to_bytes()[8:], Reason.IKE_LENGTH, id="no whole message"),
    pytest.param(
        bytes(4) + replace(MESSAGE, initiator_cookie=0).to_bytes(), Reason.IKE_ZERO_COOKIE, id="zero cookie"
    ),
]


@pytest.mark.parametrize(("wire", "reason"), REFUSALS)
def test_refused(wire: bytes, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(wire)
    assert caught.value.reason is reason


@given(st.binary(max_size=60))
def test_any_octets_are_read_or_refused(data: bytes) -> None:
    reason = None
    try:
        content = decode(data)
    except DecodeError as error:
        reason = error.reason
    else:
        assert data.startswith(content.to_bytes())
    assert reason in {p.values[1] for p in REFUSALS} | {None, Reason.IKE_VERSION}


@pytest.mark.parametrize("esp", [EspInUdp(0, 1), EspInUdp(2**32, 1)])
def test_what_does_not_fit_cannot_be_written(esp: EspInUdp) -> None:
    with pytest.raises(ValueError, match=r"SPI|fit"):
        esp.to_bytes()
