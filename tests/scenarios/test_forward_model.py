"""A random walk of GRE or ESP that is forwarded, beside calls of PPTP: a kernel that carries changes nothing.

Two gateways live the same days, one of them with a kernel. What leaves them, why something does not, and what
their sessions have carried is the same at every step.
"""

import random
from dataclasses import replace
from typing import Any, Final

import pytest

from protocols import ipv4
from protocols.actions import Side
from protocols.addr import Ip4, Network
from protocols.policy import Forward, Policy
from tests.scenarios.world import CLIENT, PEER, PEER_2, SERVER, SERVER_2, STAFF, WAN, World, policy

LANES = ("kernel",)

WAN_2: Final = Ip4(WAN + 1)
ANY: Final = (Network.parse("any"),)
GRE: Final = Forward("gre", 47, 0, SERVER, 0, ANY)
ESP: Final = Forward("esp", 50, 0, SERVER, 0, ANY)


def rules(*forward: Forward, pptp: bool = True) -> Policy:
    return replace(policy(*([STAFF] if pptp else [])), forward=forward)


#: Forwards that come and go, are for somebody else, and those of the kernel or not.
RULES: Final = (
    rules(GRE, ESP),
    rules(replace(GRE, server=SERVER_2), ESP, pptp=False),
    rules(replace(GRE, allow=(Network(PEER, 0xFFFFFFFF),)), replace(ESP, fastpath=False)),
    rules(replace(GRE, allow=()), ESP),
    rules(replace(GRE, fastpath=False), replace(ESP, allow=())),
)
#: Who sends to whom, if it is not a call: peers, inside hosts, and neighbours by the public address.
ENDS: Final = (
    (Side.WAN, PEER, WAN),
    (Side.WAN, PEER_2, WAN),
    (Side.LAN, SERVER, PEER),
    (Side.LAN, SERVER, PEER_2),
    (Side.LAN, CLIENT, PEER),
    (Side.LAN, CLIENT, WAN),
    (Side.LAN, SERVER, WAN),
    (Side.LAN, SERVER_2, PEER),
)
#: First words, of GRE of all kinds and so of SPIs.
WORDS: Final = (0x00000800, 0x20006558, 0x3001880B, 0x2081880B, 0x3001880C, 0x2000880B, 0xB001880B, 0)


class Plain(World):
    """A gateway without a kernel."""

    in_kernel = False


class Twins:
    """Both gateways, and what happens to both."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.worlds: tuple[World, World] = World(RULES[0], seed=seed), Plain(RULES[0], seed=seed)
        self.calls = 0
        #: By who sends to whom: the Call IDs of its calls, and some that nobody has.
        self.ids: dict[Ip4, list[int]] = {source: [0, 7] for _, source, _ in ENDS}

    def both(self, do: Any) -> Any:
        """What happens to both, and is the same."""
        one, other = (do(world) for world in self.worlds)
        assert one == other
        return one

    def act(self) -> None:
        rare = self.chance.random()
        if rare < 0.94:
            self.send()
        elif rare < 0.96:
            self.call()
        elif rare < 0.97:
            seconds = self.chance.choice([1.0, 100.0, 700.0])
            self.both(lambda world: len(world.wait(seconds)))
        elif rare < 0.98:
            self.kill()
        elif rare < 0.99:
            rules = self.chance.choice([RULES[0], *RULES])
            self.both(lambda world: len(world.perform(world.gateway.reload(rules, now=world.now))))
        else:
            wan = self.chance.choice([WAN, WAN, WAN_2])
            self.both(lambda world: len(world.move(wan)))
        self.both(carried)

    def call(self) -> None:
        """A client calls the peer, if it may."""
        if self.worlds[0].gateway._admission.policy.masquerade:
            self.calls += 1
            number = self.calls

            def dial(world: World) -> tuple[int, int]:
                _, _, shown, server_id = world.tunnel(CLIENT, PEER, pns_id=number, pac_id=100 + number)
                return shown, server_id

            for host, shown in zip((PEER, CLIENT), self.both(dial), strict=True):
                self.ids[host].append(shown)

    def send(self) -> None:
        """One host sends something of GRE or ESP."""
        side, source, target = self.chance.choice(ENDS)
        protocol, word = self.chance.choice((47, 47, 50)), self.chance.choice(WORDS)
        call_id = self.chance.choice(self.ids[source][-4:])
        data = (
            word.to_bytes(4) + (4).to_bytes(2) + call_id.to_bytes(2) + bytes(self.chance.choice((0, 16, 16)))
        )
        packet = ipv4.build(src=source, dst=target, protocol=protocol, payload=data)
        self.both(lambda world: world.packet(side, packet))

    def kill(self) -> None:
        sessions = self.worlds[0].sessions()
        if sessions:
            which = self.chance.choice(sessions).id
            self.both(lambda world: len(world.perform(world.gateway.kill([which], now=world.now))))


def carried(world: World) -> dict[str, tuple[int, int, int, int]]:
    """What all sessions have carried."""
    return {
        one.id: (one.outbound.packets, one.outbound.octets, one.inbound.packets, one.inbound.octets)
        for one in world.sessions()
    }


@pytest.mark.parametrize("seed", range(4))
def test_with_a_kernel_and_without_the_same_happens(seed: int) -> None:
    twins = Twins(seed)
    for _ in range(1500):
        twins.act()
    assert twins.worlds[0].kernel.packets > 100
    assert twins.worlds[1].kernel.packets == 0
