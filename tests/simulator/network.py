"""Hosts, links and a peer: what happens on a network, to the millisecond.

Every run draws its own round trip, jitter, loss, think times, response sizes, IKE version, rekey habits and
keepalives, so that no gateway can be tuned to one kind of traffic.
"""

import random
from collections.abc import Callable
from math import inf

from protocols.addr import Ip4, parse_ip
from protocols.ike.observation import IkeObserved
from tests.simulator.client import Client
from tests.simulator.clock import Clock
from tests.simulator.conditions import Conditions, Tally
from tests.simulator.gateways import PEER, Gateway
from tests.simulator.tunnel import Pair, Tunnel

_FIRST_CLIENT = parse_ip("10.0.1.1")


class Network:
    """Clients, the gateway, and one peer."""

    def __init__(self, gateway: Gateway, conditions: Conditions, seed: int) -> None:
        self.gateway = gateway
        self.conditions = conditions
        self.chance = chance = random.Random(seed)
        self.clock = Clock()
        self.begun = self.clock.now
        self.tally = Tally(clients=conditions.clients)
        self.pairs: dict[int, Pair] = {}
        self.open_pairs: dict[int, Pair] = {}
        low, high = conditions.trip
        self.delay = 0.5 * low * (high / low) ** chance.random()
        self.jitter = chance.choice(conditions.jitter) * self.delay
        #: What regular traffic keeps step with.
        self.phase = chance.random()
        gateway.begin(self.clock.now + conditions.late - conditions.age)
        self._heard: dict[Ip4, float] = {}
        self._seen_from = self.clock.now + conditions.late
        self._away_until = 0.0
        #: Packets that the gateway holds, and when it wakes.
        self._held: dict[tuple[int, int], tuple[Pair, Callable[[], None]]] = {}
        self._wakes: float | None = None
        self.clients = [Client(self, Ip4(_FIRST_CLIENT + i)) for i in range(conditions.clients)]
        if conditions.broadcasts:
            self.clock.after(chance.expovariate(conditions.broadcasts), self.broadcast)
        if conditions.restart:
            self.clock.after(conditions.restart, self.go_away)

    def run(self) -> Tally:
        """From the first start to the end."""
        for client in self.clients:
            begin = client.be_there if self.conditions.established else client.dial
            self.clock.after(self.chance.uniform(0, self.conditions.starts), begin)
        self.clock.run(self.clock.now + self.conditions.seconds)
        self._release(self.clock.now + 1)
        self.tally.up = sum(client.answered_at is not None for client in self.clients)
        for client in self.clients:
            if client.answered_at is not None and client.spoke_at is not None:
                self.tally.two_way.append(client.answered_at - client.spoke_at)
        return self.tally

    def wan(self, what: Callable[[], None]) -> None:
        """Across the Internet, one way."""
        if self.chance.random() >= self.conditions.loss:
            self.clock.after(self.delay + self.chance.expovariate(1 / self.jitter), what)

    def new_spi(self) -> int:
        """An SPI that is not in use."""
        return self.chance.randrange(256, 1 << 32)

    # -- the gateway -----------------------------------------------------------------------------------

    @property
    def unwatched(self) -> bool:
        """Whether packets pass where the gateway does not see them."""
        return self.clock.now < max(self._seen_from, self._away_until)

    def go_away(self) -> None:
        """The gateway stops; something else carries the packets until it is back."""
        self._away_until = self.clock.now + self.conditions.away
        self.clock.after(self.conditions.away, self.come_back)

    def come_back(self) -> None:
        """It begins anew, perhaps without knowing what it knew."""
        self.gateway.restart(keeps=self.conditions.keeps, now=self.clock.now)
        if not self.conditions.keeps:
            self._heard.clear()
        for pair in self.pairs.values():
            if pair.first_inbound is not None and pair.believed is None:
                self.open_pairs[pair.spi_in] = pair

    def observe(self, seen: IkeObserved) -> None:
        """An IKE message is at the gateway."""
        if not self.unwatched:
            self._heard[seen.host] = self.clock.now
            self.gateway.ike(seen, self.clock.now)

    # -- ESP -------------------------------------------------------------------------------------------

    def outbound(self, pair: Pair, sequence: int, then: Callable[[], None]) -> None:
        """A client's packet is at the gateway; ``then``: it is at the peer."""
        if self.unwatched:
            self.wan(then)
            return
        self.tally.outbound += 1
        self._heard[pair.client.address] = self.clock.now
        if self.gateway.outbound(pair.client.address, PEER, pair.spi_out, sequence, self.clock.now):
            self.wan(then)
        else:
            self.tally.blocked += 1
        self._look()

    def inbound(self, pair: Pair, sequence: int, then: Callable[[], None]) -> None:
        """A packet of the peer is at the gateway; ``then``: its owner has it."""
        now, tally = self.clock.now, self.tally
        if self.unwatched:
            self.clock.after(pair.client.lan(), then)
            return
        if pair.first_inbound is None:
            pair.first_inbound = now
            tally.pairs += 1
            self.open_pairs[pair.spi_in] = pair
        got = self.gateway.inbound(PEER, pair.spi_in, sequence, now)
        tally.inbound += 1
        if got is None:
            self._held[pair.spi_in, sequence] = pair, then
        else:
            self._handed(pair, got, then)
        if pair.spi_in not in self.open_pairs:
            self._ask(pair)
        self._look()

    def _handed(self, pair: Pair, got: list[Ip4], then: Callable[[], None]) -> None:
        """The gateway has given a packet to these hosts."""
        tally, owner = self.tally, pair.client
        tally.copies += len(got)
        if owner.address in got:
            tally.delivered += 1
            self.clock.after(owner.lan(), then)
        elif self.clock.now - self._heard.get(owner.address, -inf) > self.conditions.memory:
            tally.unknowable += 1
        elif got:
            tally.misdelivered += 1

    def _release(self, now: float) -> None:
        """Give out what the gateway has held until now, and come back when it wakes next."""
        for words, hosts in self.gateway.released(now).items():
            pair, then = self._held.pop(words)
            self._handed(pair, hosts, then)
        when = self.gateway.next_release()
        if when is not None and (self._wakes is None or when < self._wakes):
            self._wakes = when
            self.clock.at(when, self._wake)

    def _wake(self) -> None:
        if self._wakes is not None and self._wakes <= self.clock.now:
            self._wakes = None
            self._release(self.clock.now)

    def _look(self) -> None:
        """Note which pairs the gateway is sure of by now."""
        self._release(self.clock.now)
        for pair in list(self.open_pairs.values()):
            self._ask(pair)

    def _ask(self, pair: Pair) -> None:
        """Note whom the gateway holds to be a pair's owner; it may have changed its mind."""
        owner = self.gateway.owner(PEER, pair.spi_in)
        if owner == pair.believed:
            return
        pair.believed = owner
        if owner is None:
            self.open_pairs[pair.spi_in] = pair
            return
        self.open_pairs.pop(pair.spi_in, None)
        if not pair.confirmed:
            assert pair.first_inbound is not None
            pair.confirmed = True
            self.tally.confirmed += 1
            self.tally.confirmation.append(self.clock.now - pair.first_inbound)
        if owner != pair.client.address and not pair.wrong:
            pair.wrong = True
            self.tally.wrong += 1

    # -- the peer --------------------------------------------------------------------------------------

    def broadcast(self) -> None:
        """The peer says something to all at once, as routing protocols do."""
        for tunnel in self.tunnels():
            tunnel.serve(1, lambda tunnel=tunnel: tunnel.answer(0.7))  # type: ignore[misc]
        self.clock.after(self.chance.expovariate(self.conditions.broadcasts), self.broadcast)

    def tunnels(self) -> list[Tunnel]:
        """All that are up."""
        return [tunnel for client in self.clients for tunnel in client.tunnels]
