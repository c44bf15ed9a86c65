"""One tunnel of a client: its pairs of Security Associations, and both ends of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocols.addr import Ip4

if TYPE_CHECKING:
    from tests.simulator.client import Client


def _nothing() -> None:
    pass


@dataclass(eq=False)
class Pair:
    """A pair of Security Associations."""

    client: "Client"
    spi_in: int
    spi_out: int
    sent_in: int = 0
    sent_out: int = 0
    first_inbound: float | None = None
    #: Whom the gateway believed to be the owner when it was last asked, and whether that was ever wrong.
    believed: Ip4 | None = None
    confirmed: bool = False
    wrong: bool = False


class Tunnel:
    """What a client and the peer send each other by one pair, and by those that follow it."""

    def __init__(self, client: "Client", pair: Pair) -> None:
        self.client, self.network = client, client.network
        self.clock, self.chance = client.clock, client.chance
        #: Which pair the client sends by, and which one the peer.
        self.sends_on = self.peer_sends_on = self.newest = pair
        #: The client was switched off: its end is silent, the peer does not know it yet.
        self.dead = False
        #: The peer knows it.
        self.over = False

    def replace(self, pair: Pair) -> None:
        """A new pair is agreed on; one end may go on with the old one for a while."""
        self.newest = pair
        lag = self.chance.choice([0.0, self.network.delay, 0.5])
        if not lag:
            self.switch()
            return
        if self.chance.random() < 0.5:
            self.peer_sends_on = pair
        else:
            self.sends_on = pair
        self.clock.after(lag, self.switch)

    def switch(self) -> None:
        """Use the newest pair."""
        self.sends_on = self.peer_sends_on = self.newest

    def send(self, then: Callable[[], None] = _nothing) -> None:
        """A packet to the peer."""
        if self.dead:
            return
        pair, client = self.sends_on, self.client
        pair.sent_out += 1
        sequence = pair.sent_out
        if client.spoke_at is None:
            client.spoke_at = self.clock.now
        self.clock.after(client.lan(), lambda: self.network.outbound(pair, sequence, then))

    def serve_one(self) -> None:
        """A packet from the peer."""
        self.serve(1)

    def serve(
        self, packets: int, then: Callable[[], None] = _nothing, each: Callable[[int], None] | None = None
    ) -> None:
        """Packets from the peer to the client, one close behind the other."""
        if packets == 1:
            self._serve_one(0, then, each)
            return
        spread = 0.0
        for number in range(packets):
            spread += self.chance.expovariate(2000)
            last = then if number == packets - 1 else _nothing
            self.clock.after(spread, lambda n=number, last=last: self._serve_one(n, last, each))  # type: ignore[misc]

    def _serve_one(self, number: int, then: Callable[[], None], each: Callable[[int], None] | None) -> None:
        if self.over:
            return
        pair = self.peer_sends_on
        pair.sent_in += 1
        sequence = pair.sent_in

        def received() -> None:
            client = self.client
            if self.dead:
                return
            if client.answered_at is None and client.spoke_at is not None:
                client.answered_at = self.clock.now
            if each is not None:
                each(number)
            then()

        self.network.wan(lambda: self.network.inbound(pair, sequence, received))

    def answer(self, likely: float, then: Callable[[], None] = _nothing) -> None:
        """Say something in return, perhaps."""
        if self.chance.random() < likely:
            self.clock.after(self.chance.expovariate(1 / self.client.thinks), lambda: self.send(then))
