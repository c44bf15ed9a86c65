"""Names for the values in PPTP control messages: results, reasons, errors (RFC 2637 §2)."""

from enum import IntEnum
from typing import Final

#: RFC 2637 §4: the port control connections are made to.
PORT: Final = 1723


class GeneralError(IntEnum):
    """Error Code, meaningful where the result is "general error" (RFC 2637 §2.16)."""

    NONE = 0
    NOT_CONNECTED = 1
    BAD_FORMAT = 2
    BAD_VALUE = 3
    NO_RESOURCE = 4
    BAD_CALL_ID = 5
    PAC_ERROR = 6


class StartResult(IntEnum):
    """Result of a Start-Control-Connection-Reply (RFC 2637 §2.2)."""

    OK = 1
    GENERAL_ERROR = 2
    CHANNEL_EXISTS = 3
    NOT_AUTHORIZED = 4
    UNSUPPORTED_VERSION = 5


class StopReason(IntEnum):
    """Reason of a Stop-Control-Connection-Request (RFC 2637 §2.3)."""

    NONE = 1
    PROTOCOL = 2
    SHUTDOWN = 3


class StopResult(IntEnum):
    """Result of a Stop-Control-Connection-Reply (RFC 2637 §2.4)."""

    OK = 1
    GENERAL_ERROR = 2


class EchoResult(IntEnum):
    """Result of an Echo-Reply (RFC 2637 §2.6)."""

    OK = 1
    GENERAL_ERROR = 2


class OutgoingCallResult(IntEnum):
    """Result of an Outgoing-Call-Reply (RFC 2637 §2.8)."""

    CONNECTED = 1
    GENERAL_ERROR = 2
    NO_CARRIER = 3
    BUSY = 4
    NO_DIAL_TONE = 5
    TIME_OUT = 6
    DO_NOT_ACCEPT = 7


class IncomingCallResult(IntEnum):
    """Result of an Incoming-Call-Reply (RFC 2637 §2.10)."""

    CONNECT = 1
    GENERAL_ERROR = 2
    DO_NOT_ACCEPT = 3


class DisconnectResult(IntEnum):
    """Result of a Call-Disconnect-Notify (RFC 2637 §2.13)."""

    LOST_CARRIER = 1
    GENERAL_ERROR = 2
    ADMIN_SHUTDOWN = 3
    REQUEST = 4


class Channel(IntEnum):
    """Bits of the framing (asynchronous, synchronous) and bearer (analog, digital) fields (RFC 2637 §2.1)."""

    FIRST = 1
    SECOND = 2
    EITHER = 3
