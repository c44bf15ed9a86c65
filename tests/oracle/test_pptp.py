"""Our PPTP messages against scapy's."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import pptp

from protocols.pptp.messages import ControlType, Message, decode
from tests.protocols.pptp import strategies

#: For each of the fifteen messages; scapy is slow.
a_few = settings(max_examples=20)

_HEADER = {"len", "type", "magic_cookie", "ctrl_msg_type"}


def of_scapy(wire: bytes) -> tuple[str, list[int | bytes]]:
    """What scapy reads: the name of the message and the values of its fields, in their order."""
    packet = pptp.PPTP(wire)
    values: list[int | bytes] = []
    for field in packet.fields_desc:
        if field.name in _HEADER or field.name.startswith("reserved"):
            continue
        value = packet.getfieldval(field.name)
        values.append(value.rstrip(b"\0") if isinstance(value, bytes) else int(value))
    return packet.name, values


def by_scapy(message: Message) -> bytes:
    """The message as scapy writes it."""
    wire = message.to_bytes()
    kind = pptp.PPTP.registered_options[wire[9]]
    names = [
        field.name
        for field in kind.fields_desc
        if field.name not in _HEADER and not field.name.startswith("reserved")
    ]
    # Scapy takes the Incoming-Call-Reply for 148 octets long; RFC 2637 §2.10 says 24.
    values = {"len": len(wire), **dict(zip(names, dataclasses.astuple(message), strict=True))}
    return bytes(kind(**values))


@pytest.mark.parametrize("kind", strategies.MESSAGES)
@a_few
@given(data=st.data())
def test_scapy_reads_the_fields_we_wrote(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(strategies.messages_of(kind))
    assert of_scapy(message.to_bytes())[1] == list(dataclasses.astuple(message))


@pytest.mark.parametrize("kind", strategies.MESSAGES)
@a_few
@given(data=st.data())
def test_we_read_the_fields_scapy_wrote(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(strategies.messages_of(kind))
    assert decode(by_scapy(message)) == message


@pytest.mark.parametrize("kind", strategies.MESSAGES)
def test_scapy_calls_the_messages_as_we_do(kind: type[Message]) -> None:
    wire = kind().to_bytes()
    ours = ControlType(wire[9]).name.replace("_", " ")
    theirs = of_scapy(wire)[0].removeprefix("PPTP ").replace(" Control Connection", "")
    assert theirs.upper() == ours
