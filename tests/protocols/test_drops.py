"""Each reason has its own word and its help."""

import re

import pytest

from protocols.drops import HELP, Reason
from protocols.errors import DecodeError


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.value)
def test_every_reason_is_a_slug_and_explained(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", reason.value)
    assert len(HELP[reason]) > 20


def test_nothing_else_is_explained() -> None:
    assert set(HELP) == set(Reason)


@pytest.mark.parametrize(
    ("detail", "text"), [("", "bad-header"), ("19 bytes", "bad-header: 19 bytes")], ids=["bare", "detailed"]
)
def test_a_decode_error_reads_as_reason_and_detail(detail: str, text: str) -> None:
    error = DecodeError(Reason.BAD_HEADER, detail)
    assert (str(error), error.reason, error.detail) == (text, Reason.BAD_HEADER, detail)
