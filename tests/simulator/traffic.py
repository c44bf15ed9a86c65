"""What tunnels carry: every kind of traffic that a gateway may be misled by."""

import random
from collections.abc import Callable
from typing import ClassVar

from tests.simulator.tunnel import Tunnel


class Traffic:
    """Something that goes on in one tunnel, from ``begin`` to the tunnel's end."""

    name: ClassVar[str]

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel, self.client, self.network = tunnel, tunnel.client, tunnel.network
        self.clock, self.chance = tunnel.clock, tunnel.chance

    def begin(self) -> None:
        """Begin."""
        raise NotImplementedError

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do it then, unless the tunnel is gone at both ends."""
        self.clock.after(seconds, lambda: None if self.tunnel.over else what())

    def exponential(self, mean: float) -> float:
        """A time drawn at random."""
        return self.chance.expovariate(1 / mean)


class Interactive(Traffic):
    """Connections, requests and their answers, with thought in between; perhaps pushes and keepalives."""

    name = "interactive"

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(tunnel)
        chance = self.chance
        low, high = self.network.conditions.think
        self.think = low * (high / low) ** chance.random()
        self.response = chance.choice([1, 3, 10])
        self.server_thinks = 10 ** chance.uniform(-3, -1.5)
        self.idle_start = chance.random() < 0.1
        self.pushes = chance.choice([0.0, 0.02, 0.1])
        self.turn = 0
        self.left = 0

    def begin(self) -> None:
        """Connect soon, or listen only."""
        if not self.client.listens:
            self.after(self.exponential(5.0 if self.idle_start else 0.02), self.connect)
        Keepalive(self.tunnel).begin()
        if self.pushes or self.client.listens:
            self.after(self.exponential(1 / (self.pushes or 5.0)), self.push)

    def connect(self) -> None:
        """One packet there, one back, then the first request."""
        self.turn += 1
        turn = self.turn
        self.tunnel.send(lambda: self.tunnel.serve(1, lambda: self.connected(turn)))
        self.after(1.0, lambda: self.repeat(turn, self.connect))

    def connected(self, turn: int) -> None:
        """The peer has answered: acknowledge, and ask at once."""
        if turn != self.turn:
            return
        self.tunnel.send()
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
        for _ in range(self.chance.choice([0, 0, 1])):
            self.tunnel.send()
        self.tunnel.send(lambda: self.after(self.exponential(self.server_thinks), lambda: self.respond(turn)))
        self.after(1.0 + 4 * self.server_thinks, lambda: self.repeat(turn, self.request))

    def respond(self, turn: int) -> None:
        """The server's answer."""
        packets = 1 + int(self.exponential(self.response))
        self.tunnel.serve(packets, lambda: self.done(turn), self.acknowledge)

    def acknowledge(self, number: int) -> None:
        """TCP acknowledges every second packet at once, a single one after 40 ms."""
        if number % 2:
            self.tunnel.send()
        else:
            self.after(0.04, lambda: self.tunnel.answer(0.3))

    def done(self, turn: int) -> None:
        """The answer is complete: think, then ask again, or begin something new."""
        if turn != self.turn:
            return
        self.turn += 1
        self.left -= 1
        thinks = self.exponential(self.think)
        idle = self.network.conditions.idle
        if idle and self.chance.random() < 0.1:
            thinks = self.exponential(idle)
        self.after(thinks, self.request if self.left > 0 else self.connect)

    def push(self) -> None:
        """The peer speaks first."""
        packets = self.chance.choice([1, 1, 3])
        self.tunnel.serve(packets, lambda: self.tunnel.answer(0.0 if self.client.listens else 0.7))
        self.after(self.exponential(1 / (self.pushes or 5.0)), self.push)


class Keepalive(Traffic):
    """A ping through the tunnel now and then, or none at all."""

    name = "keepalive"

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(tunnel)
        self.every = self.chance.choice([0.0, 5.0, 20.0])

    def begin(self) -> None:
        """Begin at any time."""
        if self.every:
            self.after(self.chance.uniform(0, self.every), self.stay_alive)

    def stay_alive(self) -> None:
        """From the client to the peer and back."""
        self.tunnel.send(self.tunnel.serve_one)
        self.after(self.every * self.chance.uniform(0.9, 1.1), self.stay_alive)


class Quiet(Keepalive):
    """Keepalives only."""

    name = "quiet"

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(tunnel)
        self.every = self.chance.choice([2.0, 5.0, 20.0])


class Bulk(Traffic):
    """A download that begins at once: the window doubles until the line is full (slow start)."""

    name = "bulk"

    def begin(self) -> None:
        """Connect."""
        tunnel = self.tunnel
        self.after(
            self.chance.uniform(0, 0.01),
            lambda: tunnel.send(
                lambda: tunnel.serve(1, lambda: tunnel.send(lambda: self.window(2))),
            ),
        )

    def window(self, packets: int) -> None:
        """A round trip's worth of packets, clocked by the acknowledgements."""
        trip = 2 * self.network.delay
        packets = min(packets, max(2, int(60 * trip)))
        for number in range(packets):
            self.after(number * trip / packets, lambda n=number: self.segment(n))  # type: ignore[misc]
        self.after(trip, lambda: self.window(packets * 2))

    def segment(self, number: int) -> None:
        """One packet; every second one is acknowledged."""
        self.tunnel.serve(1, lambda: self.tunnel.send() if number % 2 else None)


class Upload(Bulk):
    """The same from the client to the peer."""

    name = "upload"

    def segment(self, number: int) -> None:
        """One packet; every second one is acknowledged."""
        self.tunnel.send(lambda: self.tunnel.serve_one() if number % 2 else None)


class Regular(Traffic):
    """Something that comes by the clock, and perhaps in step with that of all others."""

    #: Seconds between two of them: one of these for the whole network.
    periods: ClassVar[tuple[float, ...]]

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(tunnel)
        network, chance = self.network, self.chance
        choices = self.periods
        self.period = choices[int(network.phase * 1000) % len(choices)]
        #: Of its own clock, which is never quite right.
        self.drift = 1 + chance.gauss(0, 3e-5)
        self.wobble = chance.choice([0.0002, 0.002]) * min(1.0, self.period * 10)
        #: In step with everybody, a little apart from everybody, or anywhere.
        together = network.phase * self.period
        apart = chance.choice([0.0, chance.gauss(0, network.delay), chance.uniform(0, self.period)])
        self.offset = (together + apart) % self.period
        self.turn = 0
        self.origin = 0.0

    def begin(self) -> None:
        """At the next full period."""
        ahead = (self.offset - self.clock.now) % self.period
        self.origin = self.clock.now + ahead
        self.after(ahead, self.tick)

    def tick(self) -> None:
        """One of them, and the next one later."""
        self.turn += 1
        when = self.origin + self.turn * self.period * self.drift
        self.act()
        self.after(max(0.0, when - self.clock.now) + self.chance.random() * self.wobble, self.tick)

    def act(self) -> None:
        """What happens."""
        raise NotImplementedError


class Ping(Regular):
    """An echo every second."""

    name = "ping"
    periods = (1.0, 1.0, 0.2, 5.0)

    def act(self) -> None:
        """From the client to the peer and back."""
        self.tunnel.send(self.tunnel.serve_one)


class Polled(Regular):
    """The peer's monitor asks all of them, one after the other, and gets their answers."""

    name = "polled"
    periods = (1.0, 5.0, 10.0)

    def act(self) -> None:
        """From the peer to the client and back; now and then a second question follows the answer."""
        tunnel = self.tunnel

        def more() -> None:
            if self.chance.random() < 0.3:
                tunnel.serve(1, lambda: tunnel.answer(0.95))

        tunnel.serve(1, lambda: tunnel.answer(0.95, more))


class Voice(Regular):
    """A call: packets by the clock in both directions, in step with nothing but themselves."""

    name = "voice"
    periods = (0.02, 0.02, 0.03)

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(tunnel)
        #: Whether it sends nothing while nobody speaks.
        self.spurts = self.chance.random() < 0.5
        self.speaks = [True, self.chance.random() < 0.5]
        self.starts_late = self.chance.uniform(0, self.period)

    def begin(self) -> None:
        """Ring, and talk."""
        self.tunnel.send(lambda: self.tunnel.serve(1, super(Voice, self).begin))
        self.after(1.0, lambda: None if self.turn else self.begin())
        for side in (0, 1):
            self.after(self.exponential(1.0), lambda side=side: self.change(side))  # type: ignore[misc]

    def change(self, side: int) -> None:
        """One of the two begins or ceases to speak."""
        self.speaks[side] = not self.speaks[side]
        self.after(self.exponential(1.2), lambda: self.change(side))

    def act(self) -> None:
        """A packet each way."""
        if self.speaks[0] or not self.spurts:
            self.tunnel.send()
        if self.speaks[1] or not self.spurts:
            self.after(self.starts_late, self.tunnel.serve_one)


class Stream(Regular):
    """One way only, from the peer."""

    name = "stream"
    periods = (0.02, 0.1, 0.033)

    def act(self) -> None:
        """A packet, and a report of the listener now and then."""
        self.tunnel.serve(1)
        if self.chance.random() < self.period / 5:
            self.tunnel.send()


class Sensor(Regular):
    """One way only, to the peer, which says something seldom."""

    name = "sensor"
    periods = (0.1, 1.0, 2.0)

    def act(self) -> None:
        """A packet; an answer once in a while."""
        self.tunnel.send(lambda: self.tunnel.serve_one() if self.chance.random() < 0.05 else None)


class Hub(Traffic):
    """Clients that talk to each other by way of the peer: what one sends, the other is given."""

    name = "hub"

    def begin(self) -> None:
        """Find somebody."""
        self.after(self.exponential(0.5), self.call)

    def call(self) -> None:
        """Say something to another client, and wait for the answer."""
        others = [t for t in self.network.tunnels() if t is not self.tunnel]
        if others:
            other = self.chance.choice(others)
            self.turns(other, self.chance.randrange(1, 12))
        self.after(self.exponential(4.0), self.call)

    def turns(self, other: Tunnel, left: int) -> None:
        """Questions and answers."""

        def answered() -> None:
            if left:
                self.after(self.exponential(0.2), lambda: self.turns(other, left - 1))

        def asked() -> None:
            other.answer(1.0, lambda: self.tunnel.serve(1, answered))

        self.tunnel.send(lambda: other.serve(1, asked))


class Alarm(Interactive):
    """The peer wakes all clients at once, at any time, and each of them asks something of its own."""

    name = "alarm"
    every: ClassVar[float] = 3.0

    def begin(self) -> None:
        """Wait for the next alarm."""
        self.connect()
        self.wait(int((self.clock.now - self.network.begun) / self.every) + 1)

    def wait(self, number: int) -> None:
        """For the alarm of this number, which is at the same time for all."""
        somewhere = random.Random(f"{self.network.phase} {number}").random()
        when = self.network.begun + (number + somewhere) * self.every
        self.after(when - self.clock.now, lambda: self.ring(number))

    def ring(self, number: int) -> None:
        """Everybody hears it, and asks."""
        self.left = 2
        self.tunnel.serve(1, lambda: self.after(self.exponential(self.client.thinks), self.request))
        self.wait(number + 1)

    def done(self, turn: int) -> None:
        """One answer, perhaps one more question, and silence."""
        self.turn += 1
        self.left -= 1
        if self.left > 0:
            self.after(self.exponential(0.1), self.request)


TRAFFIC: dict[str, type[Traffic]] = {
    kind.name: kind
    for kind in (Interactive, Quiet, Bulk, Upload, Ping, Polled, Voice, Stream, Sensor, Hub, Alarm)
}
