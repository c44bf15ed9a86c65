"""A random walk of neighbours who dial the public address: short lanes say what the long one says.

Clients and servers use few ports, and servers are each other's clients, so that they meet in every way. Of
each datagram that passes without a look, a twin is asked what it would have made of it.
"""

import random
from dataclasses import replace

import pytest

from protocols import ipv4
from protocols.actions import Send
from protocols.addr import Ip4
from protocols.ike.natt import KEEPALIVE
from protocols.natt.flows import flow_key
from protocols.policy import Ipsec
from protocols.sessions import Traffic
from protocols.udp import PROTOCOL, Datagram, Endpoint
from tests.scenarios import restarts
from tests.scenarios.udpworld import (
    CLIENT,
    CLIENT_2,
    SERVER,
    SERVER_2,
    STAFF,
    WAN,
    WAN_2,
    A,
    Got,
    UdpWorld,
    X,
    assert_nothing_left,
    esp,
    expose,
    ike,
    marked,
    policy,
)

DATA = (esp(7), esp(8), esp(9))
HOSTS = (CLIENT, CLIENT_2, SERVER, SERVER_2)
SETTINGS = Ipsec(lifetime=300.0, mapping=120.0, ports=(61000, 61015), port_rest=30.0)
#: Both servers for all neighbours, for some, and none of them.
RULES = [
    policy(STAFF, *exposed, ipsec=SETTINGS)
    for exposed in (
        (expose(SERVER, "10.0.0.0/30", "10.0.0.10"), expose(SERVER_2, "10.0.0.9", name="annex")),
        (expose(SERVER, "10.0.0.0/24"),),
        (expose(SERVER_2, "10.0.0.0/24"),),
        (),
    )
]


#: Who gets what, and what all sessions have carried by then.
Said = tuple[Got, dict[str, tuple[Traffic, Traffic]]]


class Walk:
    """Hosts that send at random to ports of ours that they know, and an operator who changes his mind."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = UdpWorld(RULES[0], seed=seed)
        self.public = WAN
        self.known: dict[Ip4, list[Endpoint]] = {host: [] for host in HOSTS}
        self.fast = 0

    def act(self) -> None:
        rare = self.chance.random()
        if rare < 0.94:
            self.send()
        elif rare < 0.97:
            self.world.wait(self.chance.choice([1.0, 40.0, 130.0]))
        elif rare < 0.985:
            sessions = self.world.sessions()
            if sessions:
                session = self.chance.choice(sessions)
                self.world.perform(self.world.udp.kill(session, "over", now=self.world.now))
        elif rare < 0.995:
            self.world.reload(self.chance.choice([RULES[0], *RULES]))
        else:
            self.public = self.chance.choice([WAN, WAN_2])
            self.world.move(self.public)

    def send(self) -> None:
        """One host says something, to whom has spoken to it more often than not."""
        host = self.chance.choice(HOSTS)
        port, target = self.chance.choice([4500, 4500, 4500, 5000]), (self.public, 4500)
        if self.known[host] and self.chance.random() < 0.7:
            target = self.chance.choice(self.known[host][-4:])
        content = self.chance.choice([*DATA, marked(ike(A, X)), KEEPALIVE])
        said = self.long_way((host, port), target, content)
        got = self.world.lan(host, port, *target, content)
        assert self.world.fast() == (said is not None)
        if said is not None:
            assert (got, counts(self.world)) == said
            self.fast += 1
        if isinstance(got, Got) and got.src == self.public:
            self.known.setdefault(got.dst, []).append((got.src, got.src_port))

    def long_way(self, source: Endpoint, target: Endpoint, content: bytes) -> Said | None:
        """What a twin makes of a datagram that is going to take the short lane here."""
        if flow_key(source, target) not in self.world.udp.natt.flows.lan or content not in DATA:
            return None
        world, twin = self.world, UdpWorld(RULES[0])
        twin.now, twin.udp = world.now, restarts.udp_again(world.udp, world.now)
        twin.registry = twin.udp.natt._registry
        datagram = Datagram(source, target, content).summed()
        packet = ipv4.build(src=source[0], dst=target[0], protocol=PROTOCOL, payload=datagram.to_bytes())
        (sent,) = twin.udp.from_lan(ipv4.Header.from_bytes(packet), packet, now=world.now)
        assert isinstance(sent, Send)
        return twin.arrive(sent.packet, sent.destination, 1), counts(twin)


def counts(world: UdpWorld) -> dict[str, tuple[Traffic, Traffic]]:
    """What all sessions have carried."""
    return {s.id: (replace(s.outbound), replace(s.inbound)) for s in world.sessions()}


@pytest.mark.parametrize("seed", range(4))
def test_short_lanes_of_neighbours_say_what_the_long_one_says(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(600):
        walk.act()
    assert walk.fast > 20
    walk.world.wait(1000.0)
    assert_nothing_left(walk.world)
