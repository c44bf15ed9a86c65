"""ESP headers: read, written, refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.esp import codec
from protocols.esp.codec import Esp

packets = st.builds(Esp, st.integers(1, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=64))

REFUSALS = [
    pytest.param("", Reason.ESP_LENGTH, id="empty"),
    pytest.param("00000100000000", Reason.ESP_LENGTH, id="seven-octets"),
    pytest.param("0000000000000001", Reason.ESP_NO_SPI, id="spi-zero"),
]


@given(packets)
def test_what_is_written_is_read_again(packet: Esp) -> None:
    assert Esp.from_bytes(packet.to_bytes()) == packet


@given(st.binary(max_size=40))
def test_any_bytes_are_a_packet_or_refused(data: bytes) -> None:
    reason = codec.refusal(data, 0, len(data))
    if reason is None:
        assert Esp.from_bytes(data).to_bytes() == data
    else:
        with pytest.raises(DecodeError) as caught:
            Esp.from_bytes(data)
        assert caught.value.reason is reason


@pytest.mark.parametrize(("wire", "reason"), REFUSALS)
def test_what_is_no_esp_is_refused(wire: str, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        Esp.from_bytes(bytes.fromhex(wire))
    assert caught.value.reason is reason


@pytest.mark.parametrize("spi", [1, 255, 256, 0xFFFFFFFF])
def test_all_other_spis_are_read(spi: int) -> None:
    assert Esp.from_bytes(spi.to_bytes(4) + bytes(4)).spi == spi
    assert codec.spi_of(b"xx" + spi.to_bytes(4), 2) == spi
    assert codec.words_of(b"xx" + spi.to_bytes(4) + b"\0\0\0\7", 2) == (spi, 7)


@pytest.mark.parametrize(
    "packet", [Esp(0, 1), Esp(1 << 32, 1), Esp(1, -1)], ids=["no-spi", "large-spi", "negative-number"]
)
def test_what_does_not_fit_is_not_written(packet: Esp) -> None:
    with pytest.raises(ValueError, match=r"SPI|fit"):
        packet.to_bytes()


def test_spis_are_shown_as_eight_digits() -> None:
    assert codec.show_spi(0xC0DE) == "0x0000c0de"
