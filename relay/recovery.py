"""How long it takes from the kernel's word of a change of address to the first packet that passes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocols.offload import Carried


@dataclass(slots=True)
class Recovery:
    """The last change of the public address. Times are seconds from the kernel's message."""

    clock: Callable[[], float]
    #: Until sockets, filters and the core used the new address; None before.
    served: float | None = None
    #: Until the first packet was forwarded after that; None while nobody has sent one.
    first_packet: float | None = None
    _since: float = 0.0
    _pending: bool = False

    def changed(self, since: float, *, usable: bool) -> None:
        """The core lives by a change that the kernel told at ``since`` (loop's clock)."""
        self._since, self._pending = since, usable
        self.served = self.first_packet = None

    def done(self) -> None:
        """All is done that follows from the change."""
        self.served = self.clock() - self._since

    def sent(self, packets: int) -> None:
        """So many packets were forwarded; called once for a batch."""
        if self._pending and packets:
            self._pending = False
            self.first_packet = self.clock() - self._since

    def carried(self, flows: Iterable[Carried]) -> None:
        """The kernel has forwarded packets of these flows (its times are the loop's clock)."""
        if not self._pending:
            return
        since = [last_seen for _, _, last_seen, _ in flows if last_seen > self._since]
        if since:
            self._pending = False
            self.first_packet = min(since) - self._since
