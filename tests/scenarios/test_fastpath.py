"""When flows go to the kernel, and when they come back."""

from dataclasses import replace

import pytest

from protocols.actions import Side
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.esp.codec import Esp
from protocols.ike.natt import KEEPALIVE
from protocols.policy import Forward, Policy
from protocols.pptp import messages
from tests.scenarios.arrangements import Arrangement, in_every_arrangement
from tests.scenarios.forwardworld import ForwardWorld, Got
from tests.scenarios.forwardworld import policy as forwarding
from tests.scenarios.ipsec import RULES as IPSEC
from tests.scenarios.ipsec import ends, esp_packet, natt, read, tunnel, udp
from tests.scenarios.test_forward_ip import FWZ, GRE
from tests.scenarios.test_forward_udp import DNS
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    SERVER,
    STAFF,
    WAN,
    World,
    assert_nothing_left,
    expose,
    policy,
)

LANES = ("kernel",)

#: ESP in UDP.
ESP = Esp(0x3000, 2, b"data").to_bytes()

#: A server that its neighbours reach by the public address.
NEIGHBOURS = policy(replace(expose(SERVER, "10.0.0.0/24"), ipsec=True))


@in_every_arrangement
def test_both_ways_of_a_call_are_the_kernels_once_it_stands(arrangement: Arrangement) -> None:
    pns, pac = arrangement.connect()
    world = pns.world
    pns.says(messages.OutgoingCallRequest(call_id=1))
    assert len(world.kernel) == 0
    (request,) = pac.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    pac.says(messages.OutgoingCallReply(call_id=100, peer_call_id=request.call_id, result=1))
    (session,) = world.sessions()
    assert (len(world.kernel), session.offloaded) == (2, 2)
    (reply,) = pns.hears()
    assert isinstance(reply, messages.OutgoingCallReply)
    assert pac.got(pns.sends(reply.call_id), 100)
    assert pns.got(pac.sends(request.call_id), 1)
    assert world.kernel.packets == 2
    assert (session.outbound.packets, session.inbound.packets) == (1, 1)
    pns.hangs_up()
    assert len(world.kernel) == 0
    assert (session.outbound.packets, session.inbound.packets) == (1, 1)
    world.wait(world.gateway._pptp._timers.closing)
    world.lines = {stream: line for stream, line in world.lines.items() if line is not pns}
    assert_nothing_left(world)


def established(rules: Policy | None = None) -> tuple[World, int]:
    world = World(rules or policy(STAFF))
    client, _, _, server_id = world.tunnel(CLIENT, PEER)
    assert isinstance(client.sends(server_id), bytes)
    return world, server_id


def test_a_rule_keeps_its_flows_in_user_space_and_may_change_its_mind() -> None:
    kept = policy(replace(STAFF, fastpath=False))
    world, _ = established(kept)
    assert len(world.kernel) == 0
    world.perform(world.gateway.reload(policy(STAFF), now=world.now))
    assert len(world.kernel) == 2
    world.perform(world.gateway.reload(kept, now=world.now))
    assert len(world.kernel) == 0


def test_what_the_kernel_has_no_room_for_stays_ours() -> None:
    world, server_id = established()
    (session,) = world.sessions()
    world.gateway.offload_refused(1)
    world.gateway.offload_refused(2)
    assert session.offloaded == 0
    world.kernel.__init__()  # type: ignore[misc]
    assert isinstance(world.gre(world.lines[1].side, CLIENT, PEER, server_id), bytes)
    assert session.outbound.packets == 2


def test_what_is_counted_by_the_kernel_is_known_apart() -> None:
    world, server_id = established()
    carried = world.gateway.offloads
    assert (carried.outbound.packets, carried.inbound.packets) == (1, 0)
    world.gre(world.lines[1].side, CLIENT, PEER, server_id, ttl=1)
    assert (carried.outbound.packets, carried.inbound.packets) == (1, 0)


def test_no_call_is_the_kernels_while_there_is_no_address() -> None:
    world, server_id = established()
    world.move(None)
    assert len(world.kernel) == 0
    assert world.gre(world.lines[1].side, CLIENT, PEER, server_id) in (Reason.NO_ADDRESS, Reason.CALL_ENDED)
    world.move(WAN)
    assert len(world.kernel) == 0


#: One of each kind; GRE and ESP are those of forwards here, not of calls and pairs.
WHOLE = [
    pytest.param(FWZ, id="protocol"),
    pytest.param(GRE, id="gre"),
    pytest.param(replace(FWZ, protocol=50), id="esp"),
]
every_forward = pytest.mark.parametrize("rule", [pytest.param(DNS, id="udp"), *WHOLE])


@every_forward
def test_what_is_forwarded_is_the_kernels_after_the_first_packet_each_way(rule: Forward) -> None:
    house = ForwardWorld(forwarding(rule))
    for packets in (1, 2):
        if rule is DNS:
            out = house.udp(Side.WAN, (PEER, 40000), (WAN, 53), b"four")
            back = house.udp(Side.LAN, (SERVER, 5353), (PEER, 40000), b"four")
        else:
            out = house.ip(Side.WAN, PEER, WAN, b"some data", protocol=rule.protocol)
            back = house.ip(Side.LAN, SERVER, PEER, b"some data", protocol=rule.protocol)
        assert isinstance(out, Got)
        assert isinstance(back, Got)
        (session,) = house.sessions
        assert (session.inbound.packets, session.outbound.packets) == (packets, packets)
    assert (len(house.kernel), house.kernel.packets) == (2, 2)
    house.note(house.gateway.kill([session.id], now=house.now))
    assert len(house.kernel) == 0


@every_forward
def test_what_is_forwarded_to_a_neighbour_is_the_kernels_both_ways(rule: Forward) -> None:
    """RFC 4787 REQ-9: all of it comes in on one side."""
    house = ForwardWorld(forwarding(rule))
    for packets in (1, 2, 3):
        if rule is DNS:
            out = house.udp(Side.LAN, (CLIENT, 40000), (WAN, 53))
            assert isinstance(out, Got)
            back = house.udp(Side.LAN, (SERVER, 5353), out.source)
        else:
            out = house.ip(Side.LAN, CLIENT, WAN, b"some data", protocol=rule.protocol)
            back = house.ip(Side.LAN, SERVER, WAN, b"some data", protocol=rule.protocol)
        assert isinstance(out, Got)
        assert isinstance(back, Got)
        assert (out.source[0], out.target[0]) == (WAN, SERVER)
        assert (back.source[0], back.target[0]) == (WAN, CLIENT)
        assert house.kernel.packets == 2 * (packets - 1)
        (session,) = house.sessions
        assert (session.inbound.packets, session.outbound.packets, session.offloaded) == (packets, packets, 2)
    kept = forwarding(replace(rule, fastpath=False))
    house.note(house.gateway.reload(kept, now=house.now))
    assert (len(house.kernel), session.offloaded) == (0, 0)
    house.note(house.gateway.reload(forwarding(rule), now=house.now))
    assert len(house.kernel) == 2
    away = Addresses(PEER, frozenset({PEER, LAN}))
    house.note(house.gateway.address_changed(away, now=house.now))
    assert (len(house.kernel), house.sessions) == (0, [])


def test_esp_in_udp_of_neighbours_is_the_kernels_and_counts_for_both_sessions() -> None:
    world = World(NEIGHBOURS)
    for packets in (1, 2, 3):
        there = read(udp(world, Side.LAN, (CLIENT, 4500), (WAN, 4500), ESP))
        assert there == replace(there, target=(SERVER, 4500), payload=ESP)
        back = read(udp(world, Side.LAN, (SERVER, 4500), there.source, ESP))
        assert (back.source, back.target, back.payload) == ((WAN, 4500), (CLIENT, 4500), ESP)
        assert world.kernel.packets == 2 * (packets - 1)
    client, server = world.sessions()
    assert (client.inside, server.inside) == (CLIENT, SERVER)
    for session in (client, server):
        assert (session.outbound.packets, session.inbound.packets, session.offloaded) == (3, 3, 2)
    carried = world.gateway.offloads
    assert (carried.outbound.packets, carried.inbound.packets) == (4, 4)
    kept = replace(NEIGHBOURS, expose=(replace(NEIGHBOURS.expose[0], fastpath=False),))
    for rules, flows in ((kept, 0), (NEIGHBOURS, 2)):
        world.perform(world.gateway.reload(rules, now=world.now))
        assert (len(world.kernel), client.offloaded, server.offloaded) == (flows, flows, flows)
    world.move(PEER)
    assert (len(world.kernel), world.sessions()) == (0, [])


def test_esp_of_neighbours_is_the_kernels_both_ways() -> None:
    world = World(NEIGHBOURS)
    for sequence in range(1, 8):
        there = world.packet(Side.LAN, esp_packet(CLIENT, WAN, 0x1000, sequence))
        assert ends(there) == (WAN, SERVER)
        back = world.packet(Side.LAN, esp_packet(SERVER, WAN, 0x2000, sequence))
        assert ends(back) == (WAN, CLIENT)
    # The first few of a Security Association are always ours.
    assert world.kernel.packets == 8
    (session,) = world.sessions()
    assert (session.inside, session.peer, session.offloaded) == (SERVER, CLIENT, 2)
    assert (session.outbound.packets, session.inbound.packets) == (7, 7)
    world.move(PEER)
    assert (len(world.kernel), world.sessions()) == (0, [])


def test_neighbours_whom_the_rules_name_no_more_are_taken_from_the_kernel() -> None:
    world = World(NEIGHBOURS)
    shown = read(udp(world, Side.LAN, (CLIENT, 4500), (WAN, 4500), ESP)).source
    udp(world, Side.LAN, (SERVER, 4500), shown, ESP)
    world.packet(Side.LAN, esp_packet(CLIENT, WAN, 0x1000, 1))
    world.packet(Side.LAN, esp_packet(SERVER, WAN, 0x2000, 1))
    assert (len(world.kernel), len(world.sessions())) == (4, 3)
    nobody = replace(NEIGHBOURS, expose=(replace(NEIGHBOURS.expose[0], allow=()),))
    world.perform(world.gateway.reload(nobody, now=world.now))
    assert (len(world.kernel), world.sessions()) == (0, [])
    assert udp(world, Side.LAN, (CLIENT, 4500), (WAN, 4500), ESP) is Reason.NO_RULE

    house = ForwardWorld(forwarding(DNS, FWZ))
    house.udp(Side.LAN, (CLIENT, 40000), (WAN, 53))
    house.ip(Side.LAN, CLIENT, WAN)
    assert len(house.kernel) == 2
    house.note(
        house.gateway.reload(forwarding(replace(DNS, allow=()), replace(FWZ, allow=())), now=house.now)
    )
    assert (len(house.kernel), house.sessions) == (0, [])


def test_esp_in_udp_is_the_kernels_and_ike_beside_it_is_not() -> None:
    world = World(IPSEC)
    session = natt(world)
    assert (len(world.kernel), session.offloaded) == (2, 2)
    assert isinstance(udp(world, Side.LAN, (CLIENT, 4500), (PEER, 4500), ESP), bytes)
    assert world.kernel.packets == 1
    before = session.outbound.packets
    assert isinstance(udp(world, Side.LAN, (CLIENT, 4500), (PEER, 4500), KEEPALIVE), bytes)
    assert (world.kernel.packets, session.outbound.packets) == (1, before + 1)


def test_confirmed_esp_is_the_kernels_both_ways() -> None:
    world = World(IPSEC)
    tunnel(world, CLIENT, 0xA1, 0x1000)
    tunnel(world, CLIENT_2, 0xB1, 0x2000)
    assert len(world.kernel) == 4
    before = world.kernel.packets
    for host, spi in ((CLIENT, 0x1000), (CLIENT_2, 0x2000)):
        assert ends(world.packet(Side.LAN, esp_packet(host, PEER, spi, 50))) == (WAN, PEER)
        assert ends(world.packet(Side.WAN, esp_packet(PEER, WAN, spi + 1, 50))) == (PEER, host)
    assert world.kernel.packets == before + 4


def test_an_owner_that_we_are_told_of_is_the_kernels_at_once() -> None:
    world = World(IPSEC)
    assert ends(world.packet(Side.LAN, esp_packet(CLIENT, PEER, 0x1000, 1))) == (WAN, PEER)
    told = world.gateway.esp.tell(PEER, 0x1001, CLIENT, lifetime=60.0, now=world.now)
    assert isinstance(told, list)
    world.perform(world.gateway.settled(told))
    assert ends(world.packet(Side.WAN, esp_packet(PEER, WAN, 0x1001, 9))) == (PEER, CLIENT)
    assert world.kernel.packets == 1
