import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.checksum import checksum, update


def slow_checksum(data: bytes) -> int:
    """RFC 1071 §1, word by word."""
    total = 0
    for word in range(0, len(data), 2):
        total += int.from_bytes(data[word : word + 2].ljust(2, b"\0"))
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


CASES = [
    pytest.param("", 0xFFFF, id="nothing"),
    pytest.param("0000", 0xFFFF, id="zeros"),
    pytest.param("ffff", 0, id="ones"),
    pytest.param("0001 f203 f4f5 f6f7", 0x220D, id="rfc-1071-section-3"),
    pytest.param("01", 0xFEFF, id="odd"),
    pytest.param("8000 8000", 0xFFFE, id="carry"),
    pytest.param("4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7", 0xB861, id="ipv4-header"),
    pytest.param("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7", 0, id="ipv4-header-verified"),
]


@pytest.mark.parametrize(("data", "value"), CASES)
def test_checksums_of_known_data(data: str, value: int) -> None:
    assert checksum(bytes.fromhex(data)) == value


@given(st.binary(max_size=200))
def test_the_fast_sum_equals_the_slow_one(data: bytes) -> None:
    assert checksum(data) == slow_checksum(data)
    assert checksum(memoryview(bytearray(data))) == slow_checksum(data)


@pytest.mark.parametrize("octet", [0, 1, 0x80, 0xFF])
def test_the_largest_packets_are_summed(octet: int) -> None:
    data = bytes([octet]) * 0xFFFF
    assert checksum(data) == slow_checksum(data)


@given(st.lists(st.binary(max_size=20).map(lambda part: part + part), max_size=4), st.binary(max_size=21))
def test_parts_are_summed_as_one(parts: list[bytes], last: bytes) -> None:
    assert checksum(*parts, last) == slow_checksum(b"".join([*parts, last]))


def test_no_parts_are_as_nothing() -> None:
    assert checksum() == checksum(b"")


def test_the_example_of_rfc_1624_is_right() -> None:
    """RFC 1624 §4."""
    assert update(0xDD2F, bytes.fromhex("5555"), bytes.fromhex("3285")) == 0x0000


@given(st.binary(min_size=20, max_size=60), st.integers(1, 5), st.binary(min_size=8, max_size=8))
def test_an_update_equals_summing_again(data: bytes, word: int, new: bytes) -> None:
    before = bytearray(b"\x45" + data)
    after = bytearray(before)
    after[2 * word : 2 * word + 8] = new
    old = before[2 * word : 2 * word + 8]
    assert update(checksum(before), old, new) == checksum(after)


@given(st.binary(min_size=20, max_size=20), st.integers(0, 0xFFFF), st.binary(min_size=4, max_size=4))
def test_a_wrong_checksum_stays_wrong(data: bytes, wrong: int, new: bytes) -> None:
    before = b"\x45" + data[1:]
    after = before[:12] + new + before[16:]
    right = checksum(before)
    error = (wrong - right) % 0xFFFF
    assert (update(wrong, before[12:16], new) - checksum(after)) % 0xFFFF == error
