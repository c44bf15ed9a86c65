"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624)."""

Bytes = bytes | bytearray | memoryview


def checksum(*parts: Bytes) -> int:
    """The value for a checksum field over the parts put end to end, the field being zero (RFC 1071 §1).

    Over data with its checksum in place it is 0. All parts but the last are of even length.
    """
    return ~_fold(sum(map(_sum, parts))) & 0xFFFF


def update(old_checksum: int, old: Bytes, new: Bytes) -> int:
    """The checksum after ``old``, at an even offset, became ``new`` (RFC 1624 §3, equation 3).

    Both are of the same, even length. What was a wrong checksum stays wrong by as much. The data must not
    become all zeros, which an IP header never is.
    """
    return ~_fold((~old_checksum & 0xFFFF) + (~_sum(old) & 0xFFFF) + _sum(new)) & 0xFFFF


def _sum(data: Bytes) -> int:
    """The ones' complement sum of the 16-bit words: 0 for zeros only, else 1 to 0xFFFF."""
    # 0x10000 is 1 modulo 0xFFFF, so the data as one big number leaves the remainder that the sum of its
    # words would: one division in C in place of a loop.
    number = int.from_bytes(data) << (8 if len(data) % 2 else 0)
    return (number - 1) % 0xFFFF + 1 if number else 0


def _fold(total: int) -> int:
    """Add the carries back in (RFC 1071 §2, example B)."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
