"""Whose data packets the gateway wants to see. (That nobody else's are ever of use: see World.packet.)"""

from protocols import ipv4
from protocols.actions import Side
from protocols.drops import Reason
from tests.scenarios.ipsec import RULES as IPSEC
from tests.scenarios.ipsec import ends, esp_packet, tunnel, udp
from tests.scenarios.test_restart import restart
from tests.scenarios.udpworld import ike
from tests.scenarios.world import CLIENT, CLIENT_2, PEER, PEER_2, STAFF, WAN, World, policy


def test_a_server_is_heeded_from_its_first_call_to_the_end_of_its_last() -> None:
    world = World(policy(STAFF))
    first, _, _, _ = world.tunnel(CLIENT, PEER)
    second, _, _, _ = world.tunnel(CLIENT_2, PEER, pac_id=101)
    assert world.heeded == {(ipv4.GRE, PEER)}
    first.resets()
    assert world.heeded == {(ipv4.GRE, PEER)}
    second.resets()
    assert world.heeded == set()


def test_a_peer_of_esp_is_heeded_before_the_first_packet_to_it_leaves() -> None:
    world = World(IPSEC)
    left = world.packet(Side.LAN, esp_packet(CLIENT, PEER, 0x1000, 1))
    assert ends(left) == (WAN, PEER)
    assert world.heeded == {(ipv4.ESP, PEER)}
    assert world.packet(Side.WAN, esp_packet(PEER_2, WAN, 0x2000, 7)) is not Reason.ESP_STRANGER  # a rule's
    assert world.packet(Side.WAN, esp_packet(PEER, WAN, 0x2000, 1)) == world.sent[-1]


def test_ike_makes_a_peer_known_and_time_forgotten() -> None:
    world = World(IPSEC)
    udp(world, Side.LAN, (CLIENT, 500), (PEER, 500), ike(0xA1))
    assert world.heeded == {(ipv4.ESP, PEER)}
    settings = IPSEC.ipsec
    world.wait(settings.lifetime + settings.memory + 1)
    assert world.heeded == set()
    assert world.packet(Side.WAN, esp_packet(PEER, WAN, 0x2000, 1)) is Reason.ESP_STRANGER


def test_who_is_heeded_is_again_after_a_restart() -> None:
    world = World(IPSEC)
    tunnel(world, CLIENT, 0xA1, 0x1000)
    restart(world)
    assert world.heeded == {(ipv4.ESP, PEER)}


def test_a_shell_that_hears_everybody_is_told_nothing() -> None:
    world = World(IPSEC)
    world.gateway.heeded._listen = False
    world.packet(Side.LAN, esp_packet(CLIENT, PEER, 0x1000, 1))
    assert world.heeded == set()
