"""PPTP control messages (RFC 2637 §2).

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
  0 |             Length            |       PPTP Message Type       |
  4 |                         Magic Cookie                          |
  8 |     Control Message Type      |           Reserved0           |
 12 |   fields of the control message, of fixed length by its type  |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

The messages are dataclasses that hold the RFC's fields in its order; one table, ``_FORMATS``, says
how they lie on the wire. Codes are plain integers, so that values the RFC does not have survive a round
trip; ``codes`` names those it has. Text is bytes without the NULs that fill its field up.

``call_id`` is always the sender's own Call ID and ``peer_call_id`` the receiver's.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final

from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.pptp.codes import (
    Channel,
    DisconnectResult,
    EchoResult,
    GeneralError,
    IncomingCallResult,
    OutgoingCallResult,
    StartResult,
    StopReason,
    StopResult,
)

MAGIC: Final = 0x1A2B3C4D  # RFC 2637 §2
CONTROL_MESSAGE: Final = 1  # RFC 2637 §2, PPTP Message Type
VERSION: Final = 0x0100  # RFC 2637 §2.1, Protocol Version 1.0
PHONE_NUMBER_SIZE: Final = 64  # RFC 2637 §2.7, §2.9


class ControlType(IntEnum):
    """Control Message Type (RFC 2637 §2)."""

    START_REQUEST = 1
    START_REPLY = 2
    STOP_REQUEST = 3
    STOP_REPLY = 4
    ECHO_REQUEST = 5
    ECHO_REPLY = 6
    OUTGOING_CALL_REQUEST = 7
    OUTGOING_CALL_REPLY = 8
    INCOMING_CALL_REQUEST = 9
    INCOMING_CALL_REPLY = 10
    INCOMING_CALL_CONNECTED = 11
    CALL_CLEAR_REQUEST = 12
    CALL_DISCONNECT_NOTIFY = 13
    WAN_ERROR_NOTIFY = 14
    SET_LINK_INFO = 15


class _OnTheWire:
    """What all messages can do."""

    __slots__ = ()

    def to_bytes(self) -> bytes:
        """Encode the message, with its header.

        Raises:
            ValueError: a field's value does not fit.
        """
        layout = _LAYOUT_OF[type(self)]
        values = [getattr(self, name) for name in layout.names]
        for name, size in layout.texts:
            if len(getattr(self, name)) > size:
                raise ValueError(f"{name} is longer than {size} bytes")
        try:
            return layout.wire.pack(layout.wire.size, CONTROL_MESSAGE, MAGIC, layout.control, *values)
        except struct.error as error:
            raise ValueError(f"{self!r} does not fit: {error}") from error


@dataclass(frozen=True, slots=True)
class StartRequest(_OnTheWire):
    """Start-Control-Connection-Request (RFC 2637 §2.1)."""

    protocol_version: int = VERSION
    framing_capabilities: int = Channel.EITHER
    bearer_capabilities: int = Channel.EITHER
    maximum_channels: int = 0
    firmware_revision: int = 0
    host_name: bytes = b""
    vendor_string: bytes = b""


@dataclass(frozen=True, slots=True)
class StartReply(_OnTheWire):
    """Start-Control-Connection-Reply (RFC 2637 §2.2)."""

    protocol_version: int = VERSION
    result: int = StartResult.OK
    error: int = GeneralError.NONE
    framing_capabilities: int = Channel.EITHER
    bearer_capabilities: int = Channel.EITHER
    maximum_channels: int = 0
    firmware_revision: int = 0
    host_name: bytes = b""
    vendor_string: bytes = b""


@dataclass(frozen=True, slots=True)
class StopRequest(_OnTheWire):
    """Stop-Control-Connection-Request (RFC 2637 §2.3)."""

    reason: int = StopReason.NONE


@dataclass(frozen=True, slots=True)
class StopReply(_OnTheWire):
    """Stop-Control-Connection-Reply (RFC 2637 §2.4)."""

    result: int = StopResult.OK
    error: int = GeneralError.NONE


@dataclass(frozen=True, slots=True)
class EchoRequest(_OnTheWire):
    """Echo-Request (RFC 2637 §2.5)."""

    identifier: int = 0


@dataclass(frozen=True, slots=True)
class EchoReply(_OnTheWire):
    """Echo-Reply (RFC 2637 §2.6)."""

    identifier: int = 0
    result: int = EchoResult.OK
    error: int = GeneralError.NONE


@dataclass(frozen=True, slots=True)
class OutgoingCallRequest(_OnTheWire):
    """Outgoing-Call-Request, from a PNS (RFC 2637 §2.7)."""

    call_id: int = 0
    call_serial_number: int = 0
    minimum_bps: int = 300
    maximum_bps: int = 100_000_000
    bearer_type: int = Channel.EITHER
    framing_type: int = Channel.EITHER
    receive_window: int = 64
    processing_delay: int = 0
    phone_number_length: int = 0
    phone_number: bytes = b""
    subaddress: bytes = b""


@dataclass(frozen=True, slots=True)
class OutgoingCallReply(_OnTheWire):
    """Outgoing-Call-Reply, from a PAC (RFC 2637 §2.8)."""

    call_id: int = 0
    peer_call_id: int = 0
    result: int = OutgoingCallResult.CONNECTED
    error: int = GeneralError.NONE
    cause_code: int = 0
    connect_speed: int = 100_000_000
    receive_window: int = 64
    processing_delay: int = 0
    physical_channel_id: int = 0


@dataclass(frozen=True, slots=True)
class IncomingCallRequest(_OnTheWire):
    """Incoming-Call-Request, from a PAC (RFC 2637 §2.9)."""

    call_id: int = 0
    call_serial_number: int = 0
    bearer_type: int = Channel.EITHER
    physical_channel_id: int = 0
    dialed_number_length: int = 0
    dialing_number_length: int = 0
    dialed_number: bytes = b""
    dialing_number: bytes = b""
    subaddress: bytes = b""


@dataclass(frozen=True, slots=True)
class IncomingCallReply(_OnTheWire):
    """Incoming-Call-Reply, from a PNS (RFC 2637 §2.10)."""

    call_id: int = 0
    peer_call_id: int = 0
    result: int = IncomingCallResult.CONNECT
    error: int = GeneralError.NONE
    receive_window: int = 64
    transmit_delay: int = 0


@dataclass(frozen=True, slots=True)
class IncomingCallConnected(_OnTheWire):
    """Incoming-Call-Connected, from a PAC (RFC 2637 §2.11)."""

    peer_call_id: int = 0
    connect_speed: int = 100_000_000
    receive_window: int = 64
    transmit_delay: int = 0
    framing_type: int = Channel.FIRST


@dataclass(frozen=True, slots=True)
class CallClearRequest(_OnTheWire):
    """Call-Clear-Request, from a PNS (RFC 2637 §2.12)."""

    call_id: int = 0


@dataclass(frozen=True, slots=True)
class CallDisconnectNotify(_OnTheWire):
    """Call-Disconnect-Notify, from a PAC (RFC 2637 §2.13)."""

    call_id: int = 0
    result: int = DisconnectResult.REQUEST
    error: int = GeneralError.NONE
    cause_code: int = 0
    call_statistics: bytes = b""


@dataclass(frozen=True, slots=True)
class WanErrorNotify(_OnTheWire):
    """WAN-Error-Notify, from a PAC (RFC 2637 §2.14). Counts since the start of the call."""

    peer_call_id: int = 0
    crc_errors: int = 0
    framing_errors: int = 0
    hardware_overruns: int = 0
    buffer_overruns: int = 0
    time_out_errors: int = 0
    alignment_errors: int = 0


@dataclass(frozen=True, slots=True)
class SetLinkInfo(_OnTheWire):
    """Set-Link-Info, from a PNS (RFC 2637 §2.15). The maps say which characters are escaped (RFC 1662)."""

    peer_call_id: int = 0
    send_accm: int = 0xFFFFFFFF
    receive_accm: int = 0xFFFFFFFF


Message = (
    StartRequest
    | StartReply
    | StopRequest
    | StopReply
    | EchoRequest
    | EchoReply
    | OutgoingCallRequest
    | OutgoingCallReply
    | IncomingCallRequest
    | IncomingCallReply
    | IncomingCallConnected
    | CallClearRequest
    | CallDisconnectNotify
    | WanErrorNotify
    | SetLinkInfo
)


def decode(data: bytes) -> Message:
    """Read one whole message, as ``Framer`` cuts it. ``decode(data).to_bytes() == data``.

    Raises:
        DecodeError: PPTP_LENGTH, PPTP_TYPE, PPTP_MAGIC, PPTP_CONTROL_TYPE, PPTP_RESERVED, PPTP_VALUE.
    """
    if len(data) < _HEADER.size:
        raise DecodeError(Reason.PPTP_LENGTH, f"{len(data)} bytes")
    length, message_type, magic, control = _HEADER.unpack_from(data)
    if message_type != CONTROL_MESSAGE:
        raise DecodeError(Reason.PPTP_TYPE, f"message type {message_type}")
    if magic != MAGIC:
        raise DecodeError(Reason.PPTP_MAGIC, f"0x{magic:08x}")
    layout = _LAYOUTS.get(control)
    if layout is None:
        raise DecodeError(Reason.PPTP_CONTROL_TYPE, f"control type {control}")
    if not length == len(data) == layout.wire.size:
        detail = f"{layout.control.name}: {len(data)} bytes, says {length}, should be {layout.wire.size}"
        raise DecodeError(Reason.PPTP_LENGTH, detail)
    values = layout.wire.unpack(data)
    # Packing writes zeros where the format skips, so a difference can only be in a reserved field.
    if layout.wire.pack(*values) != data:
        raise DecodeError(Reason.PPTP_RESERVED, layout.control.name)
    message = layout.make(*[v.rstrip(b"\0") if v.__class__ is bytes else v for v in values[_HEADER_VALUES:]])
    for name in layout.lengths:
        if getattr(message, name) > PHONE_NUMBER_SIZE:
            raise DecodeError(Reason.PPTP_VALUE, f"{layout.control.name}: {name} {getattr(message, name)}")
    return message


_HEADER = struct.Struct("!HHIH2x")
_HEADER_VALUES = 4

#: One code a field, in the order of its dataclass; x is reserved and must be zero.
_FORMATS: Final[dict[ControlType, tuple[type[Message], str]]] = {
    ControlType.START_REQUEST: (StartRequest, "H 2x I I H H 64s 64s"),
    ControlType.START_REPLY: (StartReply, "H B B I I H H 64s 64s"),
    ControlType.STOP_REQUEST: (StopRequest, "B 3x"),
    ControlType.STOP_REPLY: (StopReply, "B B 2x"),
    ControlType.ECHO_REQUEST: (EchoRequest, "I"),
    ControlType.ECHO_REPLY: (EchoReply, "I B B 2x"),
    ControlType.OUTGOING_CALL_REQUEST: (OutgoingCallRequest, "H H I I I I H H H 2x 64s 64s"),
    ControlType.OUTGOING_CALL_REPLY: (OutgoingCallReply, "H H B B H I H H I"),
    ControlType.INCOMING_CALL_REQUEST: (IncomingCallRequest, "H H I I H H 64s 64s 64s"),
    ControlType.INCOMING_CALL_REPLY: (IncomingCallReply, "H H B B H H 2x"),
    ControlType.INCOMING_CALL_CONNECTED: (IncomingCallConnected, "H 2x I H H I"),
    ControlType.CALL_CLEAR_REQUEST: (CallClearRequest, "H 2x"),
    ControlType.CALL_DISCONNECT_NOTIFY: (CallDisconnectNotify, "H B B H 2x 128s"),
    ControlType.WAN_ERROR_NOTIFY: (WanErrorNotify, "H 2x I I I I I I"),
    ControlType.SET_LINK_INFO: (SetLinkInfo, "H 2x I I"),
}


class _Layout:
    """How one type of message lies on the wire, worked out once from its format."""

    def __init__(self, control: ControlType, message: type[Message], form: str) -> None:
        codes = [code for code in form.split() if not code.endswith("x")]
        self.control = control
        self.make: Callable[..., Message] = message
        self.wire = struct.Struct(_HEADER.format + form)
        self.names = tuple(field.name for field in fields(message))
        self.texts = [(n, int(c[:-1])) for n, c in zip(self.names, codes, strict=True) if c.endswith("s")]
        self.lengths = [name for name in self.names if name.endswith("_length")]


_LAYOUTS: Final = {int(control): _Layout(control, *entry) for control, entry in _FORMATS.items()}
_LAYOUT_OF: Final[dict[type, _Layout]] = {_FORMATS[layout.control][0]: layout for layout in _LAYOUTS.values()}

#: Length of the shortest and the longest message (RFC 2637 §2.3, §2.9).
SHORTEST: Final = min(layout.wire.size for layout in _LAYOUTS.values())
LONGEST: Final = max(layout.wire.size for layout in _LAYOUTS.values())
