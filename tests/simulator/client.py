"""An inside host: its IKE, its tunnels, and when it comes and goes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocols.addr import Ip4
from protocols.ike.observation import IkeObserved
from tests.simulator.gateways import PEER
from tests.simulator.traffic import TRAFFIC, Interactive
from tests.simulator.tunnel import Pair, Tunnel

if TYPE_CHECKING:
    from tests.simulator.network import Network

#: (exchange, message ID, whether outbound, whether an answer).
Step = tuple[int, int, bool, bool]

#: Seconds for which the peer goes on sending to a client that is gone.
_PATIENCE = (5.0, 60.0)


class Client:
    """An inside host with its habits."""

    def __init__(self, network: "Network", address: Ip4) -> None:
        self.network, self.address = network, address
        self.clock, self.chance = network.clock, network.chance
        chance, conditions = network.chance, network.conditions
        self.distance = 10 ** chance.uniform(-3.7, -2.7)  # 0.2 to 2 ms to the gateway
        self.version = chance.choice([1, 2])
        self.seen = chance.random() >= conditions.unseen
        self.listens = chance.random() < conditions.listeners
        #: Mean seconds in which it answers what needs no thought.
        self.thinks = 10 ** chance.uniform(-4, -2.3)
        self.tunnels: list[Tunnel] = []
        self.spoke_at: float | None = None
        self.answered_at: float | None = None
        self._life = 0
        self._message_id = 2
        self._server_message_id = 0
        if chance.random() < conditions.leavers:
            self.clock.after(chance.uniform(0, conditions.seconds), self.leave)
        if conditions.reboots:
            self.clock.after(chance.expovariate(1 / conditions.reboots), self.reboot)

    def lan(self) -> float:
        """Seconds to the gateway, this time."""
        return self.distance * (1 + self.chance.random())

    # -- coming and going ------------------------------------------------------------------------------

    def dial(self) -> None:
        """Bring the first tunnel up: phase 1, then the first pair; further pairs may follow."""
        if self.version == 2:
            steps = [(34, 0, True, False), (34, 0, False, True), (35, 1, True, False), (35, 1, False, True)]
        else:
            steps = [(2, 0, i % 2 == 0, i % 2 == 1) for i in range(6)] + self.quick_mode(mine=True)
        more = self.chance.randrange(self.network.conditions.children)
        self.converse(steps, lambda: self.up(more))
        if self.chance.random() < 0.5:
            self.after(self.chance.uniform(8, 12), self.probe)

    def up(self, more: int) -> None:
        """A pair is agreed on; ``more``: so many are wanted yet."""
        self.open(fresh=True)
        if more:
            self.converse(self.quick_mode(mine=True), lambda: self.up(more - 1))

    def be_there(self) -> None:
        """Be up already, for a long time."""
        self.open(fresh=False)

    def open(self, *, fresh: bool) -> None:
        """Both ends have a pair, and something to say."""
        tunnel = Tunnel(self, self.new_pair(fresh=fresh))
        self.tunnels.append(tunnel)
        kind = self.chance.choice(self.network.conditions.traffic)
        TRAFFIC[kind](tunnel).begin()
        if kind != Interactive.name and self.chance.random() < self.network.conditions.mixed:
            Interactive(tunnel).begin()
        if self.network.conditions.rekey:
            self.after(self.chance.expovariate(1 / self.network.conditions.rekey), lambda: self.rekey(tunnel))

    def new_pair(self, *, fresh: bool) -> Pair:
        """A pair of Security Associations, new or long in use."""
        network = self.network
        pair = Pair(self, network.new_spi(), network.new_spi())
        if not fresh:
            pair.sent_in, pair.sent_out = (self.chance.randrange(1000, 1 << 30) for _ in range(2))
        network.pairs[pair.spi_in] = pair
        return pair

    def leave(self) -> None:
        """Be switched off without a word; the peer notices after a while."""
        self._life += 1
        for tunnel in self.tunnels:
            tunnel.dead = True
            self.clock.after(self.chance.uniform(*_PATIENCE), lambda t=tunnel: setattr(t, "over", True))  # type: ignore[misc]
        self.tunnels = []

    def reboot(self) -> None:
        """Be away for a while, and come back."""
        self.leave()
        self._message_id, self._server_message_id = 2, 0
        self.after(self.chance.expovariate(0.3), self.dial)
        self.after(self.chance.expovariate(1 / self.network.conditions.reboots), self.reboot)

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do it then, unless it is switched off first."""
        life = self._life
        self.clock.after(seconds, lambda: what() if self._life == life else None)

    # -- IKE -------------------------------------------------------------------------------------------

    def rekey(self, tunnel: Tunnel) -> None:
        """Agree on a new pair, or on new keys for IKE itself; either end may begin."""
        steps = self.quick_mode(mine=self.chance.random() < 0.5)
        if self.version == 2 and self.chance.random() < 0.2:
            self.converse(steps, lambda: None)
        else:
            self.converse(steps, lambda: tunnel.replace(self.new_pair(fresh=True)))
        self.after(self.chance.expovariate(1 / self.network.conditions.rekey), lambda: self.rekey(tunnel))

    def probe(self) -> None:
        """Ask whether the peer is alive (RFC 3706, RFC 7296 §1.4)."""
        number = self._next(mine=True)
        exchange = 37 if self.version == 2 else 5
        self.converse([(exchange, number, True, False), (exchange, number, False, True)], lambda: None)
        self.after(self.chance.uniform(8, 12), self.probe)

    def quick_mode(self, *, mine: bool) -> list[Step]:
        """An exchange that agrees on a pair, begun by the client or by the peer."""
        number = self._next(mine=mine)
        if self.version == 2:
            return [(36, number, mine, False), (36, number, not mine, True)]
        return [(32, number, mine, False), (32, number, not mine, True), (32, number, mine, False)]

    def _next(self, *, mine: bool) -> int:
        if self.version == 1:
            return self.chance.randrange(1, 1 << 32)
        number = self._message_id if mine else self._server_message_id
        self._message_id += mine
        self._server_message_id += not mine
        return number

    def converse(self, steps: list[Step], then: Callable[[], None]) -> None:
        """IKE messages, each the answer to the one before."""
        if not steps:
            then()
            return
        thinks = 0.001 + self.chance.expovariate(500)
        self.after(thinks, lambda: self.message(steps[0], lambda: self.converse(steps[1:], then)))

    def message(self, step: Step, then: Callable[[], None]) -> None:
        """One IKE message on its way from end to end; lost ones are sent again after a second."""
        network, outbound = self.network, step[2]
        lan = self.lan()
        across = network.delay + self.chance.expovariate(1 / network.jitter)
        if self.chance.random() < network.conditions.loss:
            if outbound:
                self.after(lan, lambda: self._pass_gateway(step))
            self.after(1.0, lambda: self.message(step, then))
            return
        self.after(lan if outbound else across, lambda: self._pass_gateway(step))
        self.after(lan + across, then)

    def _pass_gateway(self, step: Step) -> None:
        exchange, message_id, outbound, response = step
        if self.seen:
            self.network.observe(
                IkeObserved(
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
            )
