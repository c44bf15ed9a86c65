"""LCP echoes with names in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.demo.ppp import LcpEcho


@given(st.builds(LcpEcho, st.text(st.characters(codec="ascii"), max_size=200), st.booleans()))
def test_an_echo_survives_the_wire(echo: LcpEcho) -> None:
    assert LcpEcho.from_bytes(echo.to_bytes()) == echo


@given(st.binary(max_size=40))
def test_any_bytes_are_an_echo_or_refused(data: bytes) -> None:
    try:
        echo = LcpEcho.from_bytes(data)
    except ValueError:
        return
    assert echo.to_bytes() == data


def test_a_request_looks_as_in_rfc_1661() -> None:
    assert LcpEcho("me").to_bytes() == bytes.fromhex("ff03 c021 09 00 000a 00000000") + b"me"
    assert LcpEcho("me", reply=True).to_bytes()[4] == 10


REFUSED = [
    pytest.param("", id="empty"),
    pytest.param("ff03 c021 09 00 0008", id="short"),
    pytest.param("ff03 0021 09 00 0008 00000000", id="not-lcp"),
    pytest.param("ff03 c021 01 00 0008 00000000", id="not-an-echo"),
    pytest.param("ff03 c021 09 00 0009 00000000", id="says-a-wrong-length"),
    pytest.param("ff03 c021 09 00 0009 00000000 e4", id="not-ascii"),
    pytest.param("ff03 c021 09 00 0008 00000001", id="another-magic-number"),
]


@pytest.mark.parametrize("wire", REFUSED)
def test_refused(wire: str) -> None:
    with pytest.raises(ValueError, match=r"LCP|ascii"):
        LcpEcho.from_bytes(bytes.fromhex(wire))
