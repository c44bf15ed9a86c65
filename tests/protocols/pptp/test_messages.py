import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.pptp import messages
from protocols.pptp.codes import (
    DisconnectResult,
    GeneralError,
    IncomingCallResult,
    OutgoingCallResult,
    StartResult,
    StopReason,
    StopResult,
)
from protocols.pptp.messages import ControlType, Message, decode
from tests.protocols.pptp import strategies

PPTP_REASONS = {
    Reason.PPTP_LENGTH,
    Reason.PPTP_TYPE,
    Reason.PPTP_MAGIC,
    Reason.PPTP_CONTROL_TYPE,
    Reason.PPTP_RESERVED,
    Reason.PPTP_VALUE,
}


def outcome(data: bytes) -> Message | Reason:
    try:
        return decode(data)
    except DecodeError as error:
        return error.reason


def text(content: bytes, size: int) -> str:
    return content.ljust(size, b"\0").hex()


#: (message, bytes), the bytes as RFC 2637 draws them.
WIRE = [
    pytest.param(
        messages.StartRequest(
            maximum_channels=5, firmware_revision=6, host_name=b"alice", vendor_string=b"vpn"
        ),
        "009c 0001 1a2b3c4d 0001 0000  0100 0000 00000003 00000003 0005 0006"
        + text(b"alice", 64)
        + text(b"vpn", 64),
        id="start-request",
    ),
    pytest.param(
        messages.StartReply(
            result=StartResult.NOT_AUTHORIZED,
            error=GeneralError.PAC_ERROR,
            framing_capabilities=1,
            bearer_capabilities=2,
            maximum_channels=7,
            firmware_revision=8,
            host_name=b"local",
            vendor_string=b"linux",
        ),
        "009c 0001 1a2b3c4d 0002 0000  0100 04 06 00000001 00000002 0007 0008"
        + text(b"local", 64)
        + text(b"linux", 64),
        id="start-reply",
    ),
    pytest.param(
        messages.StopRequest(reason=StopReason.SHUTDOWN),
        "0010 0001 1a2b3c4d 0003 0000  03 00 0000",
        id="stop-request",
    ),
    pytest.param(
        messages.StopReply(result=StopResult.GENERAL_ERROR, error=GeneralError.BAD_FORMAT),
        "0010 0001 1a2b3c4d 0004 0000  02 02 0000",
        id="stop-reply",
    ),
    pytest.param(
        messages.EchoRequest(identifier=7), "0010 0001 1a2b3c4d 0005 0000  00000007", id="echo-request"
    ),
    pytest.param(
        messages.EchoReply(identifier=0xDEADBEEF),
        "0014 0001 1a2b3c4d 0006 0000  deadbeef 01 00 0000",
        id="echo-reply",
    ),
    pytest.param(
        messages.OutgoingCallRequest(
            call_id=0x1111,
            call_serial_number=0x2222,
            minimum_bps=2400,
            maximum_bps=10_000_000,
            bearer_type=1,
            framing_type=2,
            receive_window=3,
            processing_delay=4,
            phone_number_length=5,
            phone_number=b"12345",
            subaddress=b"sub",
        ),
        "00a8 0001 1a2b3c4d 0007 0000  1111 2222 00000960 00989680 00000001 00000002 0003 0004 0005 0000"
        + text(b"12345", 64)
        + text(b"sub", 64),
        id="outgoing-call-request",
    ),
    pytest.param(
        messages.OutgoingCallReply(
            call_id=0x3333,
            peer_call_id=0x1111,
            result=OutgoingCallResult.BUSY,
            error=GeneralError.NO_RESOURCE,
            cause_code=9,
            connect_speed=64000,
            receive_window=10,
            processing_delay=11,
            physical_channel_id=12,
        ),
        "0020 0001 1a2b3c4d 0008 0000  3333 1111 04 04 0009 0000fa00 000a 000b 0000000c",
        id="outgoing-call-reply",
    ),
    pytest.param(
        messages.IncomingCallRequest(
            call_id=0x4444,
            call_serial_number=1,
            bearer_type=2,
            physical_channel_id=3,
            dialed_number_length=4,
            dialing_number_length=2,
            dialed_number=b"5551",
            dialing_number=b"42",
            subaddress=b"x",
        ),
        "00dc 0001 1a2b3c4d 0009 0000  4444 0001 00000002 00000003 0004 0002"
        + text(b"5551", 64)
        + text(b"42", 64)
        + text(b"x", 64),
        id="incoming-call-request",
    ),
    pytest.param(
        messages.IncomingCallReply(
            call_id=0x5555,
            peer_call_id=0x4444,
            result=IncomingCallResult.DO_NOT_ACCEPT,
            error=0,
            receive_window=6,
            transmit_delay=7,
        ),
        "0018 0001 1a2b3c4d 000a 0000  5555 4444 03 00 0006 0007 0000",
        id="incoming-call-reply",
    ),
    pytest.param(
        messages.IncomingCallConnected(
            peer_call_id=0x5555, connect_speed=64000, receive_window=8, transmit_delay=9, framing_type=2
        ),
        "001c 0001 1a2b3c4d 000b 0000  5555 0000 0000fa00 0008 0009 00000002",
        id="incoming-call-connected",
    ),
    pytest.param(
        messages.CallClearRequest(call_id=0x1111),
        "0010 0001 1a2b3c4d 000c 0000  1111 0000",
        id="call-clear-request",
    ),
    pytest.param(
        messages.CallDisconnectNotify(
            call_id=0x3333,
            result=DisconnectResult.ADMIN_SHUTDOWN,
            error=GeneralError.NONE,
            cause_code=16,
            call_statistics=b"in 1 out 2",
        ),
        "0094 0001 1a2b3c4d 000d 0000  3333 03 00 0010 0000" + text(b"in 1 out 2", 128),
        id="call-disconnect-notify",
    ),
    pytest.param(
        messages.WanErrorNotify(
            peer_call_id=0x1111,
            crc_errors=1,
            framing_errors=2,
            hardware_overruns=3,
            buffer_overruns=4,
            time_out_errors=5,
            alignment_errors=6,
        ),
        "0028 0001 1a2b3c4d 000e 0000  1111 0000 00000001 00000002 00000003 00000004 00000005 00000006",
        id="wan-error-notify",
    ),
    pytest.param(
        messages.SetLinkInfo(peer_call_id=0x3333, send_accm=0, receive_accm=0x000A0000),
        "0018 0001 1a2b3c4d 000f 0000  3333 0000 00000000 000a0000",
        id="set-link-info",
    ),
]


@pytest.mark.parametrize(("message", "wire"), WIRE)
def test_messages_are_encoded_as_the_rfc_draws_them(message: Message, wire: str) -> None:
    assert message.to_bytes() == bytes.fromhex(wire)


@pytest.mark.parametrize(("message", "wire"), WIRE)
def test_messages_are_decoded_as_the_rfc_draws_them(message: Message, wire: str) -> None:
    assert decode(bytes.fromhex(wire)) == message


def test_there_is_one_message_for_each_control_type() -> None:
    kinds = [decode(kind().to_bytes()) for kind in strategies.MESSAGES]
    assert [kind.to_bytes()[9] for kind in kinds] == list(ControlType)


#: Offsets of the octets that RFC 2637 reserves, besides Reserved0.
RESERVED = [
    pytest.param(messages.StartRequest(), (14, 15), id="start-request"),
    pytest.param(messages.StopRequest(), (13, 14, 15), id="stop-request"),
    pytest.param(messages.StopReply(), (14, 15), id="stop-reply"),
    pytest.param(messages.EchoReply(), (18, 19), id="echo-reply"),
    pytest.param(messages.OutgoingCallRequest(), (38, 39), id="outgoing-call-request"),
    pytest.param(messages.IncomingCallReply(), (22, 23), id="incoming-call-reply"),
    pytest.param(messages.IncomingCallConnected(), (14, 15), id="incoming-call-connected"),
    pytest.param(messages.CallClearRequest(), (14, 15), id="call-clear-request"),
    pytest.param(messages.CallDisconnectNotify(), (18, 19), id="call-disconnect-notify"),
    pytest.param(messages.WanErrorNotify(), (14, 15), id="wan-error-notify"),
    pytest.param(messages.SetLinkInfo(), (14, 15), id="set-link-info"),
    pytest.param(messages.StartReply(), (), id="start-reply"),
    pytest.param(messages.EchoRequest(), (), id="echo-request"),
    pytest.param(messages.OutgoingCallReply(), (), id="outgoing-call-reply"),
    pytest.param(messages.IncomingCallRequest(), (), id="incoming-call-request"),
]


@pytest.mark.parametrize(("message", "reserved"), RESERVED)
def test_only_what_is_reserved_must_be_zero(message: Message, reserved: tuple[int, ...]) -> None:
    refused = []
    for offset in range(10, len(message.to_bytes())):
        wire = bytearray(message.to_bytes())
        wire[offset] ^= 1
        if outcome(bytes(wire)) is Reason.PPTP_RESERVED:
            refused.append(offset)
    assert tuple(refused) == (10, 11, *reserved)


REFUSALS = [
    pytest.param("", Reason.PPTP_LENGTH, id="empty"),
    pytest.param("0010 0001 1a2b3c4d 0005 00", Reason.PPTP_LENGTH, id="shorter-than-a-header"),
    pytest.param("000c 0001 1a2b3c4d 0005 0000", Reason.PPTP_LENGTH, id="header-only"),
    pytest.param("0010 0001 1a2b3c4d 0005 0000 0000", Reason.PPTP_LENGTH, id="less-than-it-says"),
    pytest.param("0010 0001 1a2b3c4d 0005 0000 00000001 00", Reason.PPTP_LENGTH, id="more-than-it-says"),
    pytest.param("0014 0001 1a2b3c4d 0005 0000 00000001 00000000", Reason.PPTP_LENGTH, id="of-another-type"),
    pytest.param("0010 0002 1a2b3c4d 0005 0000 00000001", Reason.PPTP_TYPE, id="management-message"),
    pytest.param("0010 0000 1a2b3c4d 0005 0000 00000001", Reason.PPTP_TYPE, id="type-0"),
    pytest.param("0010 0001 1a2b3c4e 0005 0000 00000001", Reason.PPTP_MAGIC, id="bad-magic"),
    pytest.param("0010 0001 4d3c2b1a 0005 0000 00000001", Reason.PPTP_MAGIC, id="magic-backwards"),
    pytest.param("0010 0001 1a2b3c4d 0000 0000 00000001", Reason.PPTP_CONTROL_TYPE, id="control-type-0"),
    pytest.param("0010 0001 1a2b3c4d 0010 0000 00000001", Reason.PPTP_CONTROL_TYPE, id="control-type-16"),
    pytest.param(
        "0010 0001 1a2b3c4d 0500 0000 00000001", Reason.PPTP_CONTROL_TYPE, id="control-type-swapped"
    ),
    pytest.param("0010 0001 1a2b3c4d 0005 0001 00000001", Reason.PPTP_RESERVED, id="reserved0"),
]


@pytest.mark.parametrize(("wire", "reason"), REFUSALS)
def test_what_is_no_message_is_refused_with_its_reason(wire: str, reason: Reason) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(bytes.fromhex(wire))
    assert caught.value.reason is reason
    assert caught.value.detail


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(messages.OutgoingCallRequest(phone_number_length=65), id="phone"),
        pytest.param(messages.IncomingCallRequest(dialed_number_length=65), id="dialed"),
        pytest.param(messages.IncomingCallRequest(dialing_number_length=0xFFFF), id="dialing"),
    ],
)
def test_a_number_cannot_be_longer_than_its_field(message: Message) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(message.to_bytes())
    assert caught.value.reason is Reason.PPTP_VALUE


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(messages.EchoRequest(identifier=1 << 32), id="word"),
        pytest.param(messages.OutgoingCallReply(call_id=0x10000), id="call-id"),
        pytest.param(messages.StopReply(result=-1), id="negative"),
        pytest.param(messages.StartRequest(host_name=bytes(65)), id="name"),
        pytest.param(messages.CallDisconnectNotify(call_statistics=bytes(129)), id="statistics"),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_mistake(message: Message) -> None:
    with pytest.raises(ValueError, match=r"fit|longer"):
        message.to_bytes()


def test_text_behind_a_nul_survives() -> None:
    wire = bytes.fromhex("009c 0001 1a2b3c4d 0001 0000 0100 0000") + bytes(12) + b"a\0b".ljust(128, b"\0")
    message = decode(wire)
    assert isinstance(message, messages.StartRequest)
    assert message.host_name == b"a\0b"
    assert message.to_bytes() == wire


def test_codes_the_rfc_does_not_have_survive() -> None:
    message = messages.OutgoingCallReply(call_id=1, peer_call_id=2, result=200, error=201)
    assert decode(message.to_bytes()) == message


@given(strategies.messages())
def test_any_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(message.to_bytes()) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_reason(data: bytes) -> None:
    found = outcome(data)
    assert found in PPTP_REASONS if isinstance(found, Reason) else found.to_bytes() == data


@given(strategies.messages(), st.data())
def test_a_message_with_a_few_octets_changed_is_a_message_or_a_reason(
    message: Message, data: st.DataObject
) -> None:
    wire = bytearray(message.to_bytes())
    for offset in data.draw(st.lists(st.integers(0, len(wire) - 1), min_size=1, max_size=4)):
        wire[offset] = data.draw(st.integers(0, 255))
    found = outcome(bytes(wire))
    assert found in PPTP_REASONS if isinstance(found, Reason) else found.to_bytes() == wire
