"""Hosts, links and a peer: what happens on a network, to the millisecond.

Every run draws its own round trip, jitter, loss, think times, response sizes, IKE version, rekey habits and
keepalives, so that no gateway can be tuned to one kind of traffic.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from protocols.addr import Ip4, parse_ip
from protocols.ike.observation import IkeObserved
from tests.simulator.clock import Clock
from tests.simulator.gateways import Gateway

PEER = parse_ip("199.0.0.1")
_FIRST_CLIENT = parse_ip("10.0.1.1")


@dataclass
class Conditions:
    """How one run goes."""

    clients: int = 2
    seconds: float = 60.0
    #: All clients begin within this time.
    starts: float = 2.0
    bulk: bool = False
    #: Mean seconds between rekeys; 0 = never.
    rekey: float = 0.0
    loss: float = 0.0
    #: Whether the gateway sees IKE, and tunnels from their beginning.
    ike: bool = True
    established: bool = False
    #: Seconds from the first bulk packet to the last; 0 = to the end.
    think: tuple[float, float] = (0.2, 3.0)
    #: The peer's broadcasts to all tunnels at once, a second.
    broadcasts: float = 0.0
    #: Clients that only listen, as a share of all.
    listeners: float = 0.0


@dataclass
class Tally:
    """What came of it."""

    #: Inbound packets that reached the gateway; those their owner got; those only others got.
    inbound: int = 0
    delivered: int = 0
    misdelivered: int = 0
    copies: int = 0
    outbound: int = 0
    blocked: int = 0
    pairs: int = 0
    confirmed: int = 0
    wrong: int = 0
    #: Seconds from a pair's first inbound packet to its confirmation.
    confirmation: list[float] = field(default_factory=list)
    #: Seconds from a client's first packet to its first answer.
    two_way: list[float] = field(default_factory=list)
    up: int = 0
    clients: int = 0

    def add(self, other: "Tally") -> None:
        """Count another run too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(eq=False)
class Pair:
    """A pair of Security Associations."""

    client: "Client"
    spi_in: int
    spi_out: int
    sent_in: int = 0
    sent_out: int = 0
    first_inbound: float | None = None
    confirmed: bool = False


class Network:
    """Clients, the gateway, and one peer."""

    def __init__(self, gateway: Gateway, conditions: Conditions, seed: int) -> None:
        self.gateway = gateway
        self.conditions = conditions
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.tally = Tally(clients=conditions.clients)
        self.pairs: dict[int, Pair] = {}
        self.open_pairs: set[int] = set()
        chance = self.chance
        self.delay = 0.5 * 10 ** chance.uniform(-2, -0.6)  # round trips of 10 to 250 ms
        self.jitter = chance.choice([0.01, 0.05, 0.2]) * self.delay
        self.loss = conditions.loss
        self.client_by_address: dict[Ip4, Client] = {}
        self.clients = [Client(self, Ip4(_FIRST_CLIENT + i)) for i in range(conditions.clients)]
        self.copies_by_state: Counter[str] = Counter()
        if conditions.broadcasts:
            self.clock.after(chance.expovariate(conditions.broadcasts), self.broadcast)

    def run(self) -> Tally:
        """From the first start to the end."""
        for client in self.clients:
            begin = client.established if self.conditions.established else client.dial
            self.clock.after(self.chance.uniform(0, self.conditions.starts), begin)
        self.clock.run(self.clock.now + self.conditions.seconds)
        self.tally.up = sum(client.answered_at is not None for client in self.clients)
        for client in self.clients:
            if client.answered_at is not None and client.spoke_at is not None:
                self.tally.two_way.append(client.answered_at - client.spoke_at)
        return self.tally

    def wan(self, what: Callable[[], None]) -> None:
        """Across the Internet, one way."""
        if self.chance.random() >= self.loss:
            self.clock.after(self.delay + self.chance.expovariate(1 / self.jitter), what)

    def new_spi(self) -> int:
        """An SPI that is not in use."""
        return self.chance.randrange(256, 1 << 32)

    # -- ESP -------------------------------------------------------------------------------------------

    def outbound(self, pair: Pair, then: Callable[[], None]) -> None:
        """A client's packet is at the gateway; ``then``: it is at the peer."""
        self.tally.outbound += 1
        if self.gateway.outbound(pair.client.address, PEER, pair.spi_out, pair.sent_out, self.clock.now):
            self.wan(then)
        else:
            self.tally.blocked += 1
        self._look()

    def inbound(self, pair: Pair, sequence: int, then: Callable[[], None]) -> None:
        """A packet of the peer is at the gateway; ``then``: its owner has it."""
        now, tally, owner = self.clock.now, self.tally, pair.client
        if pair.first_inbound is None:
            pair.first_inbound = now
            tally.pairs += 1
            self.open_pairs.add(pair.spi_in)
        got = self.gateway.inbound(PEER, pair.spi_in, sequence, now)
        tally.inbound += 1
        tally.copies += len(got)
        if owner.address in got:
            tally.delivered += 1
            self.clock.after(owner.lan(), then)
        elif got:
            tally.misdelivered += 1
        self._look()

    def _look(self) -> None:
        """Note which pairs the gateway is sure of by now."""
        for spi in list(self.open_pairs):
            owner = self.gateway.owner(PEER, spi)
            if owner is None:
                continue
            pair = self.pairs[spi]
            assert pair.first_inbound is not None
            self.open_pairs.discard(spi)
            self.tally.confirmed += 1
            self.tally.wrong += owner != pair.client.address
            self.tally.confirmation.append(self.clock.now - pair.first_inbound)

    def broadcast(self) -> None:
        """The peer says something to all at once, as routing protocols do."""
        for client in self.clients:
            if client.pair is not None:
                client.serve(1, lambda client=client: client.answer(0.7))  # type: ignore[misc]
        self.clock.after(self.chance.expovariate(self.conditions.broadcasts), self.broadcast)


class Client:
    """An inside host, its tunnel, and the peer's end of it."""

    def __init__(self, network: Network, address: Ip4) -> None:
        self.network, self.address = network, address
        network.client_by_address[address] = self
        chance, conditions = network.chance, network.conditions
        self.clock, self.chance = network.clock, chance
        self.distance = 10 ** chance.uniform(-3.7, -2.7)  # 0.2 to 2 ms to the gateway
        self.version = chance.choice([1, 2])
        #: Seconds of thought between an answer and the next request.
        low, high = conditions.think
        self.think = low * (high / low) ** chance.random()
        self.response = chance.choice([1, 3, 10])
        self.server_thinks = 10 ** chance.uniform(-3, -1.5)
        self.host_thinks = 10 ** chance.uniform(-4, -2.3)
        self.pushes = chance.choice([0.0, 0.02, 0.1])
        self.keepalive = chance.choice([0.0, 5.0, 20.0])
        self.listens = chance.random() < conditions.listeners
        self.overlap = chance.choice([0.0, 5.0, 20.0])
        self.idle_start = chance.random() < 0.1
        self.pair: Pair | None = None
        self.sends_on: Pair | None = None
        self.peer_sends_on: Pair | None = None
        self.spoke_at: float | None = None
        self.answered_at: float | None = None
        self.turn = 0
        self.left = 0
        self.message_id = 2
        self.server_message_id = 0

    def lan(self) -> float:
        """Seconds to the gateway, this time."""
        return self.distance * (1 + self.chance.random())

    # -- IKE -------------------------------------------------------------------------------------------

    def message(
        self, exchange: int, message_id: int, *, outbound: bool, response: bool, then: Callable[[], None]
    ) -> None:
        """One IKE message on its way from end to end; lost ones are sent again after a second."""
        network = self.network

        def pass_gateway() -> None:
            if network.conditions.ike:
                seen = IkeObserved(
                    host=self.address,
                    peer=PEER,
                    outbound=outbound,
                    version=self.version,
                    exchange=exchange,
                    message_id=message_id,
                    initiator=outbound,
                    response=response,
                    length=300,
                    encrypted=message_id > 0,
                )
                network.gateway.ike(seen, self.clock.now)

        def arrive() -> None:
            then()

        across = network.delay + self.chance.expovariate(1 / network.jitter)
        if self.chance.random() < network.loss:
            if outbound:
                self.clock.after(self.lan(), pass_gateway)
            self.clock.after(
                1.0,
                lambda: self.message(exchange, message_id, outbound=outbound, response=response, then=then),
            )
            return
        if outbound:
            lan = self.lan()
            self.clock.after(lan, pass_gateway)
            self.clock.after(lan + across, arrive)
        else:
            lan = self.lan()
            self.clock.after(across, pass_gateway)
            self.clock.after(across + lan, arrive)

    def converse(self, steps: list[tuple[int, int, bool, bool]], then: Callable[[], None]) -> None:
        """IKE messages, each the answer to the one before: (exchange, id, outbound, response)."""
        if not steps:
            then()
            return
        exchange, message_id, outbound, response = steps[0]
        thinks = 0.001 + self.chance.expovariate(500)
        self.clock.after(
            thinks,
            lambda: self.message(
                exchange,
                message_id,
                outbound=outbound,
                response=response,
                then=lambda: self.converse(steps[1:], then),
            ),
        )

    def dial(self) -> None:
        """Bring the tunnel up: phase 1, then the first pair."""
        if self.version == 2:
            steps = [(34, 0, True, False), (34, 0, False, True), (35, 1, True, False), (35, 1, False, True)]
        else:
            steps = [(2, 0, i % 2 == 0, i % 2 == 1) for i in range(6)] + self.quick_mode(mine=True)
        self.converse(steps, lambda: self.established(fresh=True))

    def quick_mode(self, *, mine: bool) -> list[tuple[int, int, bool, bool]]:
        """An exchange that agrees on a pair, begun by the client or by the peer."""
        if self.version == 2:
            number = self.message_id if mine else self.server_message_id
            self.message_id += mine
            self.server_message_id += not mine
            return [(36, number, mine, False), (36, number, not mine, True)]
        number = self.chance.randrange(1, 1 << 32)
        return [(32, number, mine, False), (32, number, not mine, True), (32, number, mine, False)]

    def established(self, *, fresh: bool = False) -> None:
        """Both ends have a pair."""
        first = self.pair is None
        network = self.network
        pair = Pair(self, network.new_spi(), network.new_spi())
        if not fresh:
            pair.sent_in, pair.sent_out = (self.chance.randrange(1000, 1 << 30) for _ in range(2))
        network.pairs[pair.spi_in] = pair
        self.pair = self.sends_on = self.peer_sends_on = pair
        if not first:
            return
        self.begin()
        if network.conditions.rekey:
            self.clock.after(self.chance.expovariate(1 / network.conditions.rekey), self.rekey)

    def begin(self) -> None:
        """Begin to talk."""
        if self.network.conditions.bulk:
            self.clock.after(self.chance.uniform(0, 0.01), self.bulk)
        elif not self.listens:
            delay = self.chance.expovariate(0.2) if self.idle_start else self.chance.expovariate(50)
            self.clock.after(delay, self.connect)
        if self.pushes or self.listens:
            self.clock.after(self.chance.expovariate(self.pushes or 5.0), self.push)
        if self.keepalive:
            self.clock.after(self.chance.uniform(0, self.keepalive), self.stay_alive)

    def rekey(self) -> None:
        """Agree on a new pair; either end may begin, and either may be the first to use it."""
        mine = self.chance.random() < 0.5
        old_out, old_in = self.sends_on, self.peer_sends_on

        def agreed() -> None:
            self.established(fresh=True)
            # One end installs the new pair at once; the other may go on with the old one for a while.
            lag = self.chance.choice([0.0, self.network.delay, 0.5])
            if lag and old_out is not None and old_in is not None:
                if self.chance.random() < 0.5:
                    self.sends_on = old_out
                else:
                    self.peer_sends_on = old_in
                self.clock.after(lag, self.switch)

        self.converse(self.quick_mode(mine=mine), agreed)
        self.clock.after(self.chance.expovariate(1 / self.network.conditions.rekey), self.rekey)

    def switch(self) -> None:
        """Use the newest pair."""
        self.sends_on = self.peer_sends_on = self.pair

    # -- traffic ---------------------------------------------------------------------------------------

    def send(self, then: Callable[[], None] = lambda: None) -> None:
        """A packet to the peer."""
        pair = self.sends_on
        assert pair is not None
        pair.sent_out += 1
        if self.spoke_at is None:
            self.spoke_at = self.clock.now
        self.clock.after(self.lan(), lambda: self.network.outbound(pair, then))

    def serve(
        self, packets: int, then: Callable[[], None], each: Callable[[int], None] | None = None
    ) -> None:
        """Packets from the peer to the client, one close behind the other."""
        spread = 0.0
        for number in range(packets):
            spread += self.chance.expovariate(2000)
            last = number == packets - 1
            self.clock.after(spread, lambda n=number, last=last: self._serve_one(n, last, then, each))  # type: ignore[misc]

    def _serve_one(
        self, number: int, last: bool, then: Callable[[], None], each: Callable[[int], None] | None
    ) -> None:
        pair = self.peer_sends_on
        assert pair is not None
        pair.sent_in += 1
        sequence = pair.sent_in

        def received() -> None:
            if self.answered_at is None and self.spoke_at is not None:
                self.answered_at = self.clock.now
            if each is not None:
                each(number)
            if last:
                then()

        self.network.wan(lambda: self.network.inbound(pair, sequence, received))

    def answer(self, likely: float) -> None:
        """Say something in return, perhaps."""
        if self.chance.random() < likely:
            self.clock.after(self.chance.expovariate(1 / self.host_thinks), self.send)

    def connect(self) -> None:
        """A connection: one packet there, one back, then the first request."""
        self.turn += 1
        turn = self.turn
        self.send(lambda: self.serve(1, lambda: self.connected(turn)))
        self.clock.after(1.0, lambda: self.repeat(turn, self.connect))

    def connected(self, turn: int) -> None:
        """The peer has answered: acknowledge, and ask at once."""
        if turn != self.turn:
            return
        self.send()
        self.left = self.chance.randrange(1, 20)
        self.request()

    def repeat(self, turn: int, what: Callable[[], None]) -> None:
        """Nothing came of it in time: again."""
        if turn == self.turn:
            what()

    def request(self) -> None:
        """Ask for something; the answer is several packets, every second of which is acknowledged."""
        self.turn += 1
        turn = self.turn
        packets = self.chance.choice([1, 1, 2])
        for _ in range(packets - 1):
            self.send()
        self.send(
            lambda: self.clock.after(
                self.chance.expovariate(1 / self.server_thinks),
                lambda: self.serve(
                    1 + int(self.chance.expovariate(1 / self.response)),
                    lambda: self.done(turn),
                    self.acknowledge,
                ),
            )
        )
        self.clock.after(1.0 + 4 * self.server_thinks, lambda: self.repeat(turn, self.request))

    def acknowledge(self, number: int) -> None:
        """TCP acknowledges every second packet at once, a single one after 40 ms."""
        if number % 2:
            self.send()
        else:
            self.clock.after(0.04, lambda: self.answer(0.3))

    def done(self, turn: int) -> None:
        """The answer is complete: think, then ask again, or begin something new."""
        if turn != self.turn:
            return
        self.turn += 1
        self.left -= 1
        thinks = self.chance.expovariate(1 / self.think)
        self.clock.after(thinks, self.request if self.left > 0 else self.connect)

    def push(self) -> None:
        """The peer speaks first."""
        packets = self.chance.choice([1, 1, 3])
        self.serve(packets, lambda: self.answer(0.0 if self.listens else 0.7))
        self.clock.after(self.chance.expovariate(self.pushes or 5.0), self.push)

    def stay_alive(self) -> None:
        """A ping through the tunnel, from the client."""
        self.send(lambda: self.serve(1, lambda: None))
        self.clock.after(self.keepalive * self.chance.uniform(0.9, 1.1), self.stay_alive)

    def bulk(self) -> None:
        """A download that begins at once: the window doubles until the line is full (slow start)."""
        self.send(lambda: self.serve(1, lambda: self.send(lambda: self.window(2))))

    def window(self, packets: int) -> None:
        """A round trip's worth of packets, clocked by the acknowledgements."""
        most = max(2, int(60 * 2 * self.network.delay))
        packets = min(packets, most)
        trip = 2 * self.network.delay
        for number in range(packets):
            self.clock.after(
                number * trip / packets,
                lambda n=number: self.serve(1, lambda: None, lambda _: self.send() if n % 2 else None),  # type: ignore[misc]
            )
        self.clock.after(trip, lambda: self.window(packets * 2))
