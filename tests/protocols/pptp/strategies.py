"""Hypothesis strategies for PPTP messages: every value of every field."""

import dataclasses
from typing import get_args

from hypothesis import strategies as st

from protocols.pptp.messages import Message

MESSAGES: tuple[type[Message], ...] = get_args(Message)

_OCTETS = {"reason", "result", "error"}
_WORDS = {
    "framing_capabilities",
    "bearer_capabilities",
    "identifier",
    "minimum_bps",
    "maximum_bps",
    "bearer_type",
    "framing_type",
    "connect_speed",
    "physical_channel_id",
    "crc_errors",
    "framing_errors",
    "hardware_overruns",
    "buffer_overruns",
    "time_out_errors",
    "alignment_errors",
    "send_accm",
    "receive_accm",
}


def values(field: dataclasses.Field[int | bytes]) -> st.SearchStrategy[int | bytes]:
    """What a field can hold."""
    if field.type is bytes:
        size = 128 if field.name == "call_statistics" else 64
        return st.binary(max_size=size).map(lambda text: text.rstrip(b"\0"))
    if field.name.endswith("_length"):
        return st.integers(0, 64)
    bits = 8 if field.name in _OCTETS else 32 if field.name in _WORDS else 16
    return st.integers(0, (1 << bits) - 1)


def messages_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    """All messages of one type."""
    return st.builds(kind, **{field.name: values(field) for field in dataclasses.fields(kind)})


def messages() -> st.SearchStrategy[Message]:
    """All messages."""
    return st.one_of([messages_of(kind) for kind in MESSAGES])
