"""The three ways of HOWTO §6.2 in which serialized pairing goes wrong, as stories for any gateway."""

from collections.abc import Callable
from dataclasses import dataclass, field

from protocols.addr import Ip4, parse_ip
from protocols.ike.observation import IkeObserved
from tests.simulator.gateways import PEER, Gateway

ALICE = parse_ip("10.0.1.1")
BOB = parse_ip("10.0.1.2")


@dataclass
class Story:
    """Two clients, a peer and a clock that only moves by hand."""

    gateway: Gateway
    now: float = 1000.0
    inbound: int = 0
    delivered: int = 0
    misdelivered: int = 0
    copies: int = 0
    blocked: int = 0
    sequences: dict[int, int] = field(default_factory=dict)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def agree(self, host: Ip4, message_id: int = 1) -> None:
        """Phase 1 and the exchange that agrees on a pair, begun by the client."""
        steps = [(34, 0, True), (34, 0, False), (35, message_id, True), (35, message_id, False)]
        for exchange, number, outbound in steps:
            self.ike(host, exchange, number, outbound=outbound, response=not outbound)
            self.wait(0.02)

    def rekey(self, host: Ip4, *, mine: bool, message_id: int = 7) -> None:
        """A CREATE_CHILD_SA exchange."""
        self.ike(host, 36, message_id, outbound=mine, response=False)
        self.wait(0.02)
        self.ike(host, 36, message_id, outbound=not mine, response=True)

    def ike(self, host: Ip4, exchange: int, message_id: int, *, outbound: bool, response: bool) -> None:
        """An IKE message passes."""
        seen = IkeObserved(host, PEER, outbound, 2, exchange, message_id, outbound, response, 200, True)
        self.gateway.ike(seen, self.now)

    def out(self, host: Ip4, spi: int) -> None:
        """A client's packet; nobody sends two within a millisecond here."""
        self.wait(0.001)
        if not self.gateway.outbound(host, PEER, spi, self._next(spi), self.now):
            self.blocked += 1

    def back(self, owner: Ip4, spi: int) -> None:
        """A packet of the peer for ``owner``."""
        self.wait(0.001)
        got = self.gateway.inbound(PEER, spi, self._next(spi), self.now)
        assert got is not None  # it comes too seldom to be held
        self.inbound += 1
        self.copies += len(got)
        self.delivered += owner in got
        self.misdelivered += bool(got) and owner not in got

    def talk(self, owner: Ip4, out: int, back: int, times: int = 1) -> None:
        """Questions and answers, a fiftieth of a second apart."""
        for _ in range(times):
            self.out(owner, out)
            self.wait(0.04)
            self.back(owner, back)
            self.out(owner, out)
            self.wait(1.37)

    def _next(self, spi: int) -> int:
        self.sequences[spi] = self.sequences.get(spi, 0) + 1
        return self.sequences[spi]


def late_answer(story: Story) -> None:
    """The answer to Alice's first packet comes when her init has expired and Bob has begun."""
    story.agree(ALICE)
    story.agree(BOB)
    story.out(ALICE, 0xA1)
    story.out(BOB, 0xB1)  # where others wait, from here on
    story.wait(150)
    story.out(BOB, 0xB1)
    story.wait(0.01)
    story.back(ALICE, 0xA2)
    story.wait(0.03)
    story.back(BOB, 0xB2)
    for _ in range(4):
        story.talk(ALICE, 0xA1, 0xA2)
        story.talk(BOB, 0xB1, 0xB2)


def idle_beyond_the_lifetime(story: Story) -> None:
    """The peer speaks to Alice after hours of silence, just when Bob has begun."""
    story.agree(ALICE)
    for _ in range(40):
        story.talk(ALICE, 0xA1, 0xA2)
    story.wait(3 * 3600)
    story.agree(BOB)
    story.out(BOB, 0xB1)
    story.back(ALICE, 0xA2)
    story.wait(0.03)
    story.back(BOB, 0xB2)
    for _ in range(4):
        story.back(ALICE, 0xA2)
        story.talk(ALICE, 0xA1, 0xA2)
        story.talk(BOB, 0xB1, 0xB2)


def inbound_first_after_a_rekey(story: Story) -> None:
    """Alice's tunnel is rekeyed; the peer uses the new pair first, just when Bob has begun."""
    story.agree(ALICE)
    story.talk(ALICE, 0xA1, 0xA2, 5)
    story.agree(BOB)
    story.out(BOB, 0xB1)
    story.rekey(ALICE, mine=False)
    story.back(ALICE, 0xA4)
    story.wait(0.03)
    story.back(BOB, 0xB2)
    for _ in range(4):
        story.back(ALICE, 0xA4)
        story.talk(ALICE, 0xA3, 0xA4)
        story.talk(BOB, 0xB1, 0xB2)


CASES: dict[str, Callable[[Story], None]] = {
    "late answer": late_answer,
    "idle beyond the lifetime": idle_beyond_the_lifetime,
    "inbound first after a rekey": inbound_first_after_a_rekey,
}
