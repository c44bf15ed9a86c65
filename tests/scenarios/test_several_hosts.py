"""Several clients, several servers, one public address."""

import pytest

from protocols.actions import Connect, Side
from protocols.addr import Ip4, Network
from protocols.drops import Reason
from protocols.policy import Masquerade, Source
from tests.scenarios.arrangements import KEEP, RELAY, ROUTER, Arrangement, in_every_arrangement, outgoing
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    PEER_2,
    SERVER,
    SERVER_2,
    STAFF,
    STRANGER,
    WAN,
    World,
    assert_nothing_left,
    expose,
    policy,
    shown,
)


def test_clients_that_all_choose_call_id_1_reach_one_server() -> None:
    world = World(policy(STAFF))
    clients = [Ip4(CLIENT + n) for n in range(5)]
    tunnels = [world.tunnel(host, PEER, pns_id=1, pac_id=100 + n) for n, host in enumerate(clients)]

    assert len({shown_id for _, _, shown_id, _ in tunnels}) == 5
    assert [pac_shown for *_, pac_shown in tunnels] == [100, 101, 102, 103, 104]
    for host, (_, _, pns_shown, pac_shown) in zip(clients, tunnels, strict=True):
        out = world.gre(Side.LAN, host, PEER, pac_shown)
        assert shown(out) == ("200.200.200.200", "199.0.0.1", pac_shown)
        back = world.gre(Side.WAN, PEER, WAN, pns_shown)
        assert shown(back) == ("199.0.0.1", f"10.0.0.{host & 255}", 1)

    for client, *_ in tunnels:
        client.hangs_up()
    assert_nothing_left(world)


@in_every_arrangement
def test_data_reaches_its_owner_both_ways_and_is_counted(arrangement: Arrangement) -> None:
    dialler, answerer = arrangement.connect()
    call = outgoing(dialler, answerer)
    assert (call.pns_shown != 1) is arrangement.dialler_hidden
    assert (call.pac_shown != 100) is arrangement.answerer_hidden
    call.world.now += 5
    assert call.flows()
    assert call.flows()

    (session,) = call.world.sessions()
    assert (session.outbound.packets, session.inbound.packets) == (2, 2)
    assert (session.outbound.octets, session.inbound.octets) == (72, 72)
    assert session.idle_since() == call.world.now
    dialler.hangs_up()
    assert_nothing_left(call.world)


def test_a_server_that_keeps_the_source_is_dialled_from_the_peers_address() -> None:
    world = World(policy(expose()))
    world.dial(PEER, WAN, side=Side.WAN)
    (connect,) = world.dialled
    assert connect == Connect(2, Side.LAN, PEER, SERVER, 1723, transparent=True, caller=1)


def test_a_server_behind_the_gateways_address_is_dialled_from_wherever_faces_it() -> None:
    world = World(policy(expose(source=Source.GATEWAY)))
    world.dial(PEER, WAN, side=Side.WAN)
    (connect,) = world.dialled
    assert connect == Connect(2, Side.LAN, Ip4(0), SERVER, 1723, transparent=False, caller=1)


def test_several_servers_are_told_apart_by_who_may_reach_them() -> None:
    world = World(policy(expose(SERVER, "199.0.0.1"), expose(SERVER_2, "199.0.0.2", name="branch")))
    _, first, _, first_id = world.tunnel(PEER, WAN, side=Side.WAN)
    _, second, _, second_id = world.tunnel(PEER_2, WAN, side=Side.WAN)
    assert (first.host, second.host) == (SERVER, SERVER_2)
    assert shown(world.gre(Side.WAN, PEER, WAN, first_id))[1:] == ("10.0.0.9", 100)
    assert shown(world.gre(Side.WAN, PEER_2, WAN, second_id))[1:] == ("10.0.0.10", 100)

    third = world.dial(STRANGER, WAN, side=Side.WAN)
    assert third.closed == "rst"
    assert world.drops[-1].reason is Reason.NO_RULE
    assert [s.rule for s in world.sessions()] == ["office", "branch"]


@pytest.mark.parametrize("source", Source)
def test_two_servers_may_choose_the_same_call_id_towards_one_peer(source: Source) -> None:
    # Behind a NAT of its own the same peer address may be allowed for one server only, but a second
    # connection from it must get an ID of its own all the same.
    world = World(policy(expose(source=source)))
    _, _, _, first = world.tunnel(PEER, WAN, side=Side.WAN, pns_id=1, pac_id=7)
    _, _, _, second = world.tunnel(PEER, WAN, side=Side.WAN, pns_id=2, pac_id=8)
    assert first != second
    assert shown(world.gre(Side.WAN, PEER, WAN, first))[2] == 7
    assert shown(world.gre(Side.WAN, PEER, WAN, second))[2] == 8


def test_neighbours_meet_through_the_public_address() -> None:
    world = World(policy(expose()))
    client, server, pns_shown, pac_shown = world.tunnel(CLIENT, WAN)
    assert (server.host, server.correspondent) == (SERVER, WAN)
    assert pns_shown != 1
    assert pac_shown != 100
    assert shown(client.sends(pac_shown)) == ("200.200.200.200", "10.0.0.9", 100)
    assert shown(server.sends(pns_shown)) == ("200.200.200.200", "10.0.0.2", 1)
    (session,) = world.sessions()
    assert (session.inside, session.peer) == (SERVER, CLIENT)
    assert (session.outbound.packets, session.inbound.packets) == (1, 1)


def test_a_relay_stands_for_the_peer_under_its_own_address() -> None:
    world = World(policy(RELAY))
    client, server, pns_shown, pac_shown = world.tunnel(CLIENT, LAN)
    assert (server.host, server.correspondent) == (PEER, WAN)
    assert shown(client.sends(pac_shown)) == ("200.200.200.200", "199.0.0.1", 100)
    assert shown(server.sends(pns_shown)) == ("10.0.0.1", "10.0.0.2", 1)


def test_clients_and_servers_share_one_peer() -> None:
    """The same host outside is a server to our clients and a client of our servers."""
    world = World(policy(STAFF, RELAY, expose()))
    first = world.tunnel(CLIENT, PEER, pns_id=1, pac_id=100)
    second = world.tunnel(CLIENT_2, PEER, pns_id=1, pac_id=101)
    third = world.tunnel(PEER, WAN, side=Side.WAN, pns_id=1, pac_id=1)
    towards_peer = {first[2], second[2], third[3]}
    assert len(towards_peer) == 3
    arrivals = [shown(world.gre(Side.WAN, PEER, WAN, i)) for i in (first[2], second[2], third[3])]
    assert arrivals == [
        ("199.0.0.1", "10.0.0.2", 1),
        ("199.0.0.1", "10.0.0.3", 1),
        ("199.0.0.1", "10.0.0.9", 1),
    ]
    assert shown(first[0].sends(100)) == ("200.200.200.200", "199.0.0.1", 100)
    assert shown(second[0].sends(101)) == ("200.200.200.200", "199.0.0.1", 101)
    assert shown(third[1].sends(1)) == ("200.200.200.200", "199.0.0.1", 1)


def test_one_host_is_client_and_server_at_once() -> None:
    world = World(
        policy(Masquerade("all", (Network.parse("10.0.0.0/8"),), (Network.parse("any"),)), expose())
    )
    out = world.tunnel(SERVER, PEER, pns_id=1, pac_id=100)
    back = world.tunnel(PEER, WAN, side=Side.WAN, pns_id=55, pac_id=1)
    assert shown(world.gre(Side.WAN, PEER, WAN, out[2])) == ("199.0.0.1", "10.0.0.9", 1)
    assert shown(world.gre(Side.WAN, PEER, WAN, back[3])) == ("199.0.0.1", "10.0.0.9", 1)
    assert shown(out[0].sends(100))[2] == 100
    assert shown(back[1].sends(55))[2] == 55
    roles = {s.id: s.role.value for s in world.sessions()}
    assert sorted(roles.values()) == ["expose", "masquerade"]


def test_the_registry_says_who_talks_to_whom() -> None:
    call = outgoing(*ROUTER.connect())
    (session,) = call.world.sessions()
    assert (session.rule, session.role.value, session.state.value) == ("staff", "masquerade", "established")
    assert (session.inside, session.gateway, session.peer) == (CLIENT, WAN, PEER)
    assert session.call_ids == {"client": 1, "gateway": call.pns_shown, "peer": 100}

    call = outgoing(*KEEP.connect())
    (session,) = call.world.sessions()
    assert (session.rule, session.role.value, session.state.value) == ("office", "expose", "established")
    assert (session.inside, session.gateway, session.peer) == (SERVER, WAN, PEER)
    assert session.call_ids == {"server": 100, "gateway": call.pac_shown, "peer": 1}


def test_people_can_follow_a_session_from_start_to_end() -> None:
    call = outgoing(*ROUTER.connect())
    (session,) = call.world.sessions()
    call.pns.hangs_up()
    assert call.world.log == [
        f"opened {session.id}",
        f"{session.id} control",
        f"{session.id} established",
        f"closed {session.id}: closed by 10.0.0.2",
    ]
    assert session.call_ids == {"client": 1, "gateway": call.pns_shown, "peer": 100}
