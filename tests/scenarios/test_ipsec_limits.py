"""Every bound of IPsec and of forwards, reached on purpose: counted, fit to be logged, and others unhurt."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from protocols.actions import Side
from protocols.addr import Ip4, Network
from protocols.drops import Reason
from protocols.esp.codec import Esp
from protocols.ike.natt import NON_ESP_MARKER
from protocols.policy import (
    UDP,
    Expose,
    Forward,
    ForwardTimers,
    Ipsec,
    Limits,
    Pairing,
    Policy,
    Source,
)
from tests.scenarios.ipsec import STAFF, ends, esp_packet, read, tunnel, udp, udp_packet
from tests.scenarios.udpworld import ike
from tests.scenarios.world import CLIENT, LAN_NETWORK, PEER, PEER_2, SERVER, WAN, World

#: The bystander's: cookie and outbound SPI; what comes back has the next numbers.
COOKIE, SPI = 0xC0, 0x1000
OTHERS = [Ip4(CLIENT + n) for n in range(1, 5)]
#: The server sees us, and knows its peers by ports.
OFFICE = Expose("office", SERVER, (Network.parse("199.0.0.2"),), ipsec=True, source=Source.GATEWAY)
GAME = Forward("game", UDP, 7000, SERVER, 7000, (Network.parse("199.0.0.2"),), source=Source.GATEWAY)

Flood = Callable[[World], None]


def new_spis(world: World, *, pause: float = 0.0) -> None:
    """The peer shows one SPI after the other."""
    for spi in range(0x9000, 0x9020):
        world.packet(Side.WAN, esp_packet(PEER, WAN, spi, 9000))
        world.now += pause


def slowly(world: World) -> None:
    new_spis(world, pause=1.0)


def doubtful(world: World) -> None:
    """Nobody knows whose an SPI is."""
    for number, host in enumerate(OTHERS):
        begin(world, host, 0xD0 + number)
        world.packet(Side.LAN, esp_packet(host, PEER, 0x5000 + number, 1))
    for sequence in range(1, 10):
        world.packet(Side.WAN, esp_packet(PEER, WAN, 0x9000, sequence))


def outbound(world: World) -> None:
    """One host begins one pair after the other."""
    for spi in range(0x5000, 0x5010):
        world.packet(Side.LAN, esp_packet(OTHERS[0], PEER, spi, 1))
        world.now += 0.1


def pending(world: World) -> None:
    """Two want to begin, and nobody is answered."""
    for spi, host in ((0x5000, OTHERS[0]), (0x5001, OTHERS[1])):
        world.packet(Side.LAN, esp_packet(host, PEER, spi, 1))


def retried(world: World) -> None:
    """One of the two tries again and again."""
    pending(world)
    for sequence in range(2, 10):
        world.now += 0.5
        world.packet(Side.LAN, esp_packet(OTHERS[0], PEER, 0x5000, sequence))


def begin(world: World, host: Ip4, cookie: int) -> None:
    """IKE and its answer."""
    udp(world, Side.LAN, (host, 500), (PEER, 500), ike(cookie))
    udp(world, Side.WAN, (PEER, 500), (WAN, 500), ike(cookie, cookie + 1, answer=True))


def associations(world: World) -> None:
    """One host has one IKE SA after the other."""
    for cookie in range(0xD0, 0xE0, 2):
        begin(world, OTHERS[0], cookie)


def claims(world: World) -> None:
    """Somebody with the peer's address has one after the other."""
    for cookie in range(0xD0, 0xE0):
        udp(world, Side.WAN, (PEER, 500), (WAN, 500), ike(cookie, 7))


def same_cookie(world: World) -> None:
    """Several begin with the same cookie."""
    for host in OTHERS:
        packet = udp_packet((host, 500), (PEER, 500), ike(0xD0))
        verdict = world.gateway.from_lan(bytearray(packet), len(packet), now=world.now)
        assert isinstance(verdict, list)
        world.perform(verdict)


def many_ports(world: World, listen: int = 500) -> None:
    """A peer behind a NAT of its own comes from one port after the other."""
    payload = {500: ike(0xD0), 4500: Esp(0x9000, 1, b"data").to_bytes(), 7000: b"data"}[listen]
    for port in range(1024, 1032):
        udp(world, Side.WAN, (PEER_2, port), (WAN, listen), payload)


def many_ports_in_udp(world: World) -> None:
    many_ports(world, 4500)


def many_ports_forwarded(world: World) -> None:
    many_ports(world, 7000)


def in_udp(world: World) -> None:
    """One host after the other begins ESP in UDP."""
    for host in OTHERS:
        udp(world, Side.LAN, (host, 4500), (PEER, 4500), NON_ESP_MARKER + ike(0xD0))


def one_host_everywhere(world: World) -> None:
    for number in range(8):
        udp(world, Side.LAN, (OTHERS[0], 500), (Ip4(PEER + 50 + number), 500), ike(0xD0))


def traceroute(world: World) -> None:
    """Packets whose time ends here, each of which wants an answer."""
    for sequence in range(1, 9):
        world.packet(Side.LAN, esp_packet(OTHERS[0], PEER, 0x5000, sequence, ttl=1))


@dataclass(frozen=True)
class Case:
    reason: Reason
    flood: Flood
    ipsec: Ipsec = field(default_factory=Ipsec)
    limits: Limits = field(default_factory=Limits)
    forwarding: ForwardTimers = field(default_factory=ForwardTimers)


CASES = {
    "ipsec.spis_per_second": Case(Reason.ESP_SPI_RATE, new_spis, Ipsec(spis_per_second=5)),
    "ipsec.most_spis": Case(Reason.ESP_SPIS, slowly, Ipsec(most_spis=5)),
    "ipsec.copies_per_second": Case(Reason.ESP_COPIES, doubtful, Ipsec(copies_per_second=3)),
    "ipsec.most_candidates": Case(Reason.ESP_COPIES, doubtful, Ipsec(most_candidates=2)),
    "ipsec.most_outbound": Case(Reason.ESP_FORGOTTEN, outbound, Ipsec(most_outbound=4)),
    "ipsec.pairing": Case(Reason.ESP_BLOCKED, pending, Ipsec(pairing=Pairing.SERIALIZE)),
    "serialize: retries": Case(Reason.ESP_SQUELCHED, retried, Ipsec(pairing=Pairing.SERIALIZE, retries=2)),
    "refuse": Case(Reason.ESP_REFUSED, pending, Ipsec(pairing=Pairing.REFUSE)),
    "ipsec.most_associations": Case(Reason.IKE_FORGOTTEN, associations, Ipsec(most_associations=3)),
    "ipsec.most_unanswered": Case(Reason.IKE_FORGOTTEN, claims, Ipsec(most_unanswered=2)),
    "ipsec.most_held": Case(Reason.IKE_COLLISION, same_cookie, Ipsec(most_held=1)),
    "ipsec.most_endpoints": Case(Reason.UDP_FORGOTTEN, many_ports, Ipsec(most_endpoints=2)),
    "ipsec.most_endpoints, 4500": Case(Reason.UDP_FORGOTTEN, many_ports_in_udp, Ipsec(most_endpoints=2)),
    "ipsec.ports": Case(Reason.NO_PORT, in_udp, Ipsec(ports=(61000, 61001))),
    "ipsec.ports, of a server": Case(Reason.NO_PORT, many_ports, Ipsec(ports=(61000, 61001))),
    "forwarding.most_endpoints": Case(
        Reason.UDP_FORGOTTEN, many_ports_forwarded, forwarding=ForwardTimers(most_endpoints=2)
    ),
    "limits.sessions": Case(Reason.LIMIT_SESSIONS, same_cookie, limits=Limits(sessions=4)),
    "limits.sessions_per_client": Case(
        Reason.LIMIT_PER_HOST, one_host_everywhere, limits=Limits(sessions_per_client=2)
    ),
    "limits.new_per_second": Case(Reason.LIMIT_RATE, one_host_everywhere, limits=Limits(new_per_second=2)),
    "limits.icmp_per_second": Case(Reason.ICMP_RATE, traceroute, limits=Limits(icmp_per_second=3)),
}


@pytest.mark.parametrize("key", CASES)
def test_what_is_over_a_limit_is_counted_and_others_go_on(key: str) -> None:
    case = CASES[key]
    rules = Policy(
        (LAN_NETWORK,),
        (STAFF,),
        (OFFICE,),
        (GAME,),
        ipsec=case.ipsec,
        limits=case.limits,
        forwarding=case.forwarding,
    )
    world = World(rules)
    tunnel(world, CLIENT, COOKIE, SPI)
    before = world.gateway.drops[case.reason]
    case.flood(world)
    assert world.gateway.drops[case.reason] > before
    # What has no detail is not logged.
    over = [drop for drop in world.drops if drop.reason is case.reason]
    assert len(over) == world.gateway.drops[case.reason]
    assert all(drop.detail for drop in over)
    for sequence in range(100, 110):
        assert ends(world.packet(Side.LAN, esp_packet(CLIENT, PEER, SPI, sequence))) == (WAN, PEER)
        assert ends(world.packet(Side.WAN, esp_packet(PEER, WAN, SPI + 1, sequence))) == (PEER, CLIENT)
    message = ike(COOKIE, COOKIE + 1, exchange=37)
    assert read(udp(world, Side.LAN, (CLIENT, 500), (PEER, 500), message)).source == (WAN, 500)
    assert read(udp(world, Side.WAN, (PEER, 500), (WAN, 500), message)).target == (CLIENT, 500)


def test_every_bound_that_can_be_configured_has_its_case() -> None:
    """Those with a case elsewhere: nothing is refused there, or there is nothing but a command to answer."""
    elsewhere = {"most_outstanding", "most_remembered", "most_told"}
    bounds = {name for name in Ipsec.__dataclass_fields__ if name.startswith("most_")}
    bounds |= {name for name in Ipsec.__dataclass_fields__ if name.endswith("_per_second")}
    covered = {key.partition(",")[0].removeprefix("ipsec.") for key in CASES if key.startswith("ipsec.")}
    assert bounds - elsewhere <= covered
    limits = {key.removeprefix("limits.") for key in CASES if key.startswith("limits.")}
    assert set(Limits.__dataclass_fields__) - limits == {"streams"}
