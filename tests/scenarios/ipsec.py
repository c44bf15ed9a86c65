"""IPsec in the world of scenarios: rules, packets, and tunnels that are established."""

from typing import Any

from protocols import ipv4
from protocols.actions import Side
from protocols.addr import Ip4, Network
from protocols.drops import Reason
from protocols.esp.codec import Esp
from protocols.natt.mapping import NattSession
from protocols.policy import Expose, Masquerade, Policy
from protocols.udp import PROTOCOL, Datagram
from tests.scenarios.udpworld import ike
from tests.scenarios.world import CLIENT, LAN_NETWORK, PEER, SERVER, WAN, World

STAFF = Masquerade("staff", (Network.parse("10.0.0.0/24"),), (Network.parse("any"),), ipsec=True)
OFFICE = Expose("office", SERVER, (Network.parse("199.0.0.2"),), ipsec=True)
RULES = Policy((LAN_NETWORK,), (STAFF,), (OFFICE,))


def udp(
    world: World, side: Side, source: tuple[Ip4, int], target: tuple[Ip4, int], payload: bytes, **ip: Any
) -> bytes | Reason:
    """Send a datagram; the packet that leaves the gateway, or why none does."""
    return world.packet(side, udp_packet(source, target, payload, **ip))


def udp_packet(source: tuple[Ip4, int], target: tuple[Ip4, int], payload: bytes, **ip: Any) -> bytes:
    inner = Datagram(source, target, payload).summed().to_bytes()
    return ipv4.build(src=source[0], dst=target[0], protocol=PROTOCOL, payload=inner, identification=1, **ip)


def read(packet: bytes | Reason) -> Datagram:
    assert isinstance(packet, bytes), packet
    return Datagram.from_packet(ipv4.Header.from_bytes(packet, verify=False), packet)


def esp_packet(src: Ip4, dst: Ip4, spi: int, sequence: int, **ip: Any) -> bytes:
    inner = Esp(spi, sequence, bytes(40)).to_bytes()
    return ipv4.build(src=src, dst=dst, protocol=ipv4.ESP, payload=inner, identification=1, **ip)


def ends(packet: bytes | Reason) -> tuple[int, int]:
    assert isinstance(packet, bytes), packet
    header = ipv4.Header.from_bytes(packet, verify=False)
    return header.src, header.dst


def tunnel(world: World, host: Ip4, cookie: int, spi: int) -> None:
    """IKE and then ESP, both ways, until it is sure whose the inbound SPI is."""
    there = udp(world, Side.LAN, (host, 500), (PEER, 500), ike(cookie))
    assert read(there).source == (WAN, 500)
    back = udp(world, Side.WAN, (PEER, 500), (WAN, 500), ike(cookie, cookie + 1, answer=True))
    assert read(back).target == (host, 500)
    for sequence in range(1, 30):
        assert ends(world.packet(Side.LAN, esp_packet(host, PEER, spi, sequence))) == (WAN, PEER)
        world.now += 0.05
        sent = len(world.sent)
        got = world.packet(Side.WAN, esp_packet(PEER, WAN, spi + 1, sequence))
        owners = {ends(p)[1] for p in world.sent[sent:]} if len(world.sent) > sent else {ends(got)[1]}
        assert host in owners
        world.now += 1.0


def natt(world: World, host: Ip4 = CLIENT) -> NattSession:
    """ESP in UDP both ways."""
    data = Esp(0x3000, 1, b"data").to_bytes()
    port = read(udp(world, Side.LAN, (host, 4500), (PEER, 4500), data)).source[1]
    assert read(udp(world, Side.WAN, (PEER, 4500), (WAN, port), data)).target == (host, 4500)
    session = next(s for s in world.sessions() if isinstance(s, NattSession) and s.inside == host)
    assert session.public_port == port
    return session
