"""First messages that nobody has answered yet, kept to be sent again when the public address changes.

What Linux does with ip_dynaddr for connections in SYN_SENT: the sender would repeat itself only seconds
later, and need not notice that the link was dialled in between.
"""

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from protocols import ipv4
from protocols.addr import Ip4
from protocols.udp import Datagram

K = TypeVar("K")


class Sent(NamedTuple):
    """A datagram as it left, and the IP header it had come with."""

    header: ipv4.Header
    datagram: Datagram
    at: float


class Outstanding(Generic[K]):
    """The last unanswered message of each conversation; of too many, the oldest are not kept."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._sent: dict[K, Sent] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def keep(self, key: K, header: ipv4.Header, datagram: Datagram, *, now: float) -> None:
        """Remember what was sent, in the place of what was sent before."""
        self._sent.pop(key, None)
        self._sent[key] = Sent(header, datagram, now)
        while len(self._sent) > self._most():
            del self._sent[next(iter(self._sent))]

    def answered(self, key: K) -> None:
        """Somebody has answered, or it is over."""
        self._sent.pop(key, None)

    def target(self) -> Ip4 | None:
        """Where the last of them was sent to."""
        last = next(reversed(self._sent.values()), None)
        return None if last is None else last.datagram.target[0]

    def since(self, when: float) -> Iterator[tuple[K, Sent]]:
        """All that was sent after ``when``, oldest first; what is older is forgotten."""
        for key in [key for key, sent in self._sent.items() if sent.at <= when]:
            del self._sent[key]
        return iter(list(self._sent.items()))
