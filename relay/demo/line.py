"""The data of a host's calls: enhanced GRE over one raw socket (RFC 2637 §4)."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocols.errors import DecodeError
from protocols.gre.codec import EnhancedGre

_GRE: Final = 47  # IANA protocol number
#: Packets taken per wake-up, so that control messages have their turn.
_BATCH: Final = 64


@dataclass(slots=True, eq=False)
class Call:
    """One call as one of its ends knows it."""

    #: The ID that this end chose, and that the far end puts into its packets (RFC 2637 §4.1).
    call_id: int
    peer: str
    peer_call_id: int
    take: Callable[[bytes], None] = field(default=lambda _payload: None, repr=False)
    sent: int = 0
    #: Highest sequence number received, which the next packet acknowledges.
    received: int | None = None
    acked: int | None = None


class Line:
    """All GRE of a host, sorted by Call ID.

    ``strays`` counts packets that belong to no call of ours, by the address they came from: what a
    gateway delivers wrongly ends here.
    """

    def __init__(self) -> None:
        self.strays: Counter[str] = Counter()
        self._calls: dict[int, Call] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, _GRE)
        self._socket.setblocking(False)  # noqa: FBT003 - its name says it
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    @property
    def calls(self) -> list[Call]:
        """The calls that stand, in the order they were made."""
        return list(self._calls.values())

    def attach(self, call: Call) -> None:
        """Deliver to a call what comes for its ID, from its peer."""
        self._calls[call.call_id] = call

    def detach(self, call: Call) -> None:
        """Deliver nothing to a call any more."""
        if self._calls.get(call.call_id) is call:
            del self._calls[call.call_id]

    def free_id(self, start: int) -> int:
        """Return the first ID from ``start`` on that no call has."""
        return next(call_id for call_id in range(start, 0x10000) if call_id not in self._calls)

    def send(self, call: Call, payload: bytes) -> None:
        """Send data, and acknowledge what was received since the last packet (RFC 2637 §4.2)."""
        ack = call.received if call.received != call.acked else None
        self.send_raw(call.peer, EnhancedGre(call.peer_call_id, seq=call.sent, ack=ack, payload=payload))
        call.sent += 1
        call.acked = call.received

    def acknowledge(self, call: Call) -> None:
        """Send an acknowledgment without data, if one is due (RFC 2637 §4.2)."""
        if call.received != call.acked:
            self.send_raw(call.peer, EnhancedGre(call.peer_call_id, ack=call.received))
            call.acked = call.received

    def send_raw(self, peer: str, packet: EnhancedGre) -> None:
        """Send a packet of no call of ours: what a stranger does."""
        self._socket.sendto(packet.to_bytes(), (peer, 0))

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                packet, (source, _port) = self._socket.recvfrom(0xFFFF)
            except BlockingIOError:
                return
            # A raw socket delivers the IP header too; its length is in its first byte, in words.
            self._take(packet[(packet[0] & 0x0F) * 4 :], source)

    def _take(self, data: bytes, source: str) -> None:
        try:
            packet = EnhancedGre.from_bytes(data)
        except DecodeError:
            self.strays[source] += 1
            return
        call = self._calls.get(packet.call_id)
        if call is None or call.peer != source:
            self.strays[source] += 1
            return
        if packet.seq is not None:
            call.received = packet.seq
            call.take(packet.payload)
