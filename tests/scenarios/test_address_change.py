"""The public address changes (HOWTO §3.7, ip_dynaddr): what ends, what goes on, and what is sent again."""

from dataclasses import replace

import pytest

from protocols import ipv4
from protocols.actions import Side
from protocols.addr import Ip4
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.esp.contacts import PairState
from protocols.policy import Ipsec, OnChange, Policy, Source
from protocols.pptp import messages
from protocols.pptp.messages import StartRequest
from protocols.sessions import State
from protocols.udp import Datagram
from tests.protocols.esp import house as esp
from tests.scenarios import udpworld as udp
from tests.scenarios.arrangements import HAIRPIN, KEEP, RELAYED, ROUTER, Arrangement, outgoing
from tests.scenarios.world import (
    CLIENT,
    LAN,
    PEER,
    SERVER,
    STAFF,
    WAN,
    World,
    assert_nothing_left,
    expose,
    policy,
    shown,
)

WAN_2, WAN_3 = Ip4(WAN + 1), Ip4(WAN + 2)
BYE = messages.StopRequest(reason=3)


def keeping(rules: Policy) -> Policy:
    return replace(rules, on_change=OnChange.KEEP)


# -- PPTP: a connection that stands ------------------------------------------------------------------------


def test_with_keep_a_call_waits_for_its_address_and_goes_on() -> None:
    world = World(keeping(policy(STAFF)))
    client, server, pns_id, pac_id = world.tunnel(CLIENT, PEER)
    assert client.got(server.sends(pns_id), 1)
    assert world.move(None) == []
    # Nothing may leave under an address that may be somebody else's by now.
    assert client.sends(pac_id) is Reason.NO_ADDRESS
    assert server.sends(pns_id) is Reason.NO_ADDRESS
    assert world.move(WAN) == []
    assert client.got(server.sends(pns_id), 1)
    assert server.got(client.sends(pac_id), 100)
    world.gateway.close("over", now=world.now)


def test_with_keep_another_address_ends_it() -> None:
    world = World(keeping(policy(STAFF)))
    client, server, _, _ = world.tunnel(CLIENT, PEER)
    world.move(None)
    world.move(WAN_2)
    assert (client.hears(), client.closed) == ([BYE], "fin")
    assert (server.hears(), server.closed) == ([], "rst")
    assert world.closed[0].why == "the public address has changed"
    assert_nothing_left(world)


def test_with_keep_what_is_agreed_meanwhile_counts_when_the_address_is_back() -> None:
    world = World(keeping(policy(expose())))
    client = world.dial(PEER, WAN, side=Side.WAN)
    server = world.answer()
    world.start(client, server)
    client.says(messages.OutgoingCallRequest(call_id=7))
    (request,) = server.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    world.move(None)
    server.says(messages.OutgoingCallReply(call_id=9, peer_call_id=request.call_id, result=1))
    (reply,) = client.hears()
    assert isinstance(reply, messages.OutgoingCallReply)
    assert client.sends(reply.call_id) is Reason.NO_ADDRESS
    world.move(WAN)
    assert shown(client.sends(reply.call_id))[2] == 9


def test_with_keep_calls_may_end_while_there_is_no_address() -> None:
    world = World(keeping(policy(STAFF)))
    client, _, _, _ = world.tunnel(CLIENT, PEER)
    world.move(None)
    client.says(messages.CallClearRequest(call_id=1))
    client.hangs_up()
    world.move(WAN)
    assert_nothing_left(world)


def test_with_keep_the_rules_still_count() -> None:
    world = World(keeping(policy(STAFF)))
    world.tunnel(CLIENT, PEER)
    world.move(None)
    world.perform(world.gateway.reload(keeping(policy()), now=world.now))
    assert world.closed[0].why == "no longer allowed: no-rule"
    assert_nothing_left(world)


def test_the_old_address_that_comes_back_serves_new_calls() -> None:
    world = World(policy(STAFF, expose()))
    world.tunnel(CLIENT, PEER)
    for wan in (None, WAN, WAN_2, WAN):
        world.move(wan)
        assert not world.sessions()
    _, server, _, _ = world.tunnel(CLIENT, PEER)
    assert server.correspondent == WAN
    world.tunnel(PEER, WAN, side=Side.WAN)
    assert {session.gateway for session in world.sessions()} == {WAN}


def test_a_call_that_was_only_asked_for_ends_with_its_connection() -> None:
    call = outgoing(*ROUTER.connect())
    call.pns.says(messages.OutgoingCallRequest(call_id=2))
    call.world.move(WAN_2)
    assert call.pns.hears() == [BYE]
    assert_nothing_left(call.world)


def test_a_change_while_draining_ends_the_last_calls() -> None:
    call = outgoing(*ROUTER.connect())
    call.world.gateway.drain()
    call.world.move(WAN_2)
    assert_nothing_left(call.world)
    call.world.dial(CLIENT, PEER)
    assert call.world.drops[-1].reason is Reason.DRAINING


# -- PPTP: a connection that is being made -----------------------------------------------------------------


@pytest.mark.parametrize("arrangement", [ROUTER, RELAYED], ids=lambda a: a.name)
def test_what_nobody_has_answered_yet_is_dialled_again_from_the_new_address(arrangement: Arrangement) -> None:
    world = arrangement.world()
    client = arrangement.dial(world)
    client.says(StartRequest())
    (before,) = world.dialled
    assert world.gateway.awaited() is None
    world.move(None)
    world.move(WAN_2, way=False)
    # Without a route the kernel would refuse; so it is left to the shell when.
    assert world.dialled == [before]
    assert world.gateway.awaited() == PEER
    world.perform(world.gateway.resend(now=world.now))
    (again,) = world.dialled
    assert (again.source, again.destination) == (WAN_2, PEER)
    server = world.answer()
    assert server.hears() == [StartRequest()]
    server.says(messages.StartReply(result=1))
    assert client.hears() == [messages.StartReply(result=1)]
    assert world.gateway.awaited() is None
    assert world.sessions()[0].gateway == WAN_2


def test_of_two_changes_in_a_row_the_last_one_counts_also_while_draining() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    world.gateway.drain()
    world.move(WAN_2, way=False)
    world.move(WAN_3)
    server = world.answer()
    assert server.correspondent == WAN_3
    world.move(WAN_3)
    world.start(client, server)


def test_the_address_it_was_dialled_from_may_come_back() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    world.move(None)
    assert world.move(WAN) == []
    world.start(client, world.answer())


def test_a_client_that_is_not_served_while_there_is_no_address_is_forgotten_in_time() -> None:
    world = World(policy(STAFF))
    world.dial(CLIENT, PEER)
    world.move(None)
    world.wait(31)
    assert_nothing_left(world)


@pytest.mark.parametrize("arrangement", [KEEP, HAIRPIN], ids=lambda a: a.name)
def test_who_dialled_the_old_address_has_to_dial_again(arrangement: Arrangement) -> None:
    world = arrangement.world()
    arrangement.dial(world)
    world.move(WAN_2)
    assert_nothing_left(world)


def test_a_connection_that_the_new_address_does_not_allow_ends() -> None:
    world = World(policy(STAFF, expose(SERVER)))
    world.dial(CLIENT, WAN_2)  # which was somebody else's
    world.move(WAN_2)
    assert world.closed[0].why == "no longer allowed: no-rule"
    assert_nothing_left(world)
    world = RELAYED.world()
    RELAYED.dial(world)
    world.move(LAN)  # a link that gives out what is in use inside
    assert world.closed[0].why == "the public address has changed"
    assert_nothing_left(world)


# -- IPsec -------------------------------------------------------------------------------------------------


def test_ikes_first_message_is_sent_again_and_its_answer_arrives() -> None:
    lab = udp.UdpWorld(udp.policy(udp.STAFF))
    lab.lan(CLIENT, 500, PEER, 500, udp.ike(udp.A))
    lab.move(None)
    assert lab.resend() == []
    lab.move(udp.WAN_2)
    assert lab.udp.awaited() == PEER
    assert lab.resend() == [udp.Got(udp.WAN_2, 500, PEER, 500, udp.ike(udp.A))]
    assert lab.resend() == []
    back = udp.ike(udp.A, udp.X, answer=True)
    assert lab.wan(PEER, 500, 500, back) == udp.Got(PEER, 500, CLIENT, 500, back)
    lab.move(WAN)
    assert lab.udp.awaited() is None
    assert lab.resend() == []


def test_so_is_the_first_message_that_floats_to_port_4500() -> None:
    lab = udp.UdpWorld(udp.policy(udp.STAFF))
    auth = udp.marked(udp.ike(udp.A, udp.X, exchange=35, message_id=1))
    out = lab.lan(CLIENT, 4500, PEER, 4500, auth)
    assert isinstance(out, udp.Got)
    lab.move(udp.WAN_2)
    assert lab.udp.awaited() == PEER
    assert lab.resend() == [udp.Got(udp.WAN_2, out.src_port, PEER, 4500, auth)]
    assert lab.resend() == []
    lab.wan(PEER, 4500, out.src_port, udp.marked(udp.ike(udp.A, udp.X, exchange=35, answer=True)))
    lab.move(WAN)
    assert lab.resend() == []


def test_what_is_over_or_old_is_not_sent_again() -> None:
    lab = udp.UdpWorld(udp.policy(udp.STAFF))
    lab.lan(CLIENT, 500, PEER, 500, udp.ike(udp.A))
    lab.lan(CLIENT, 4500, PEER, 4500, udp.marked(udp.ike(udp.A)))
    lab.perform(lab.udp.close_all("over", now=lab.now))
    lab.move(udp.WAN_2)
    assert lab.resend() == []
    lab.lan(CLIENT, 500, PEER, 500, udp.ike(udp.B))
    lab.now += Ipsec().unanswered
    lab.move(WAN)
    assert lab.resend() == []
    assert len(lab.udp.ike._outstanding) == 0


def test_of_too_many_first_messages_the_newest_are_kept() -> None:
    lab = udp.UdpWorld(udp.policy(udp.STAFF, ipsec=Ipsec(most_outstanding=2)))
    for number in range(3):
        lab.lan(CLIENT, 500, PEER, 500, udp.ike(udp.A + number))
    lab.move(udp.WAN_2)
    assert [got.payload for got in lab.resend()] == [udp.ike(udp.A + 1), udp.ike(udp.A + 2)]


def at(house: esp.House, wan: Ip4 | None) -> None:
    house.admission.addresses = Addresses(wan, frozenset({esp.LAN} | ({wan} if wan else set())))
    house.perform(house.tracker.reconsider(now=house.now))


@pytest.mark.parametrize("on_change", OnChange)
def test_esp_that_nothing_has_answered_goes_on_from_the_new_address(on_change: OnChange) -> None:
    house = esp.House(replace(esp.rules(), on_change=on_change))
    house.agree(esp.ALICE)
    house.out(esp.ALICE, 0xA1)
    at(house, None)
    assert house.out(esp.ALICE, 0xA1) is Reason.NO_ADDRESS
    at(house, WAN_2)
    (packet,) = house.through(house.packet(esp.ALICE, esp.PEER, 0xA1), inside=True)
    assert packet[12:16] == WAN_2.to_bytes(4)
    assert house.closed == []


def test_with_keep_a_tunnel_goes_on_from_the_new_address_on_the_fast_lane() -> None:
    house = esp.House(replace(esp.rules(), on_change=OnChange.KEEP))
    house.agree(esp.ALICE)
    house.out(esp.ALICE, 0xA1)
    assert house.back(0xA2) == [esp.ALICE]
    house.out(esp.ALICE, 0xA1, seq=10)
    assert house.fast(esp.ALICE, esp.PEER, 0xA1)
    for wan in (None, WAN, None, WAN_2):
        at(house, wan)
        assert house.fast(esp.ALICE, esp.PEER, 0xA1) is (wan is not None)
    session = house.session(esp.ALICE)
    assert session is not None
    assert (session.gateway, session.pairing) == (WAN_2, PairState.CONFIRMED)
    (out,) = house.through(house.packet(esp.ALICE, esp.PEER, 0xA1), inside=True)
    assert out[12:16] == WAN_2.to_bytes(4)
    back = bytearray(house.packet(esp.PEER, WAN, 0xA2, 20))
    back[16:20] = WAN_2.to_bytes(4)
    back[10:12] = b"\0\0"
    assert int.from_bytes(back[16:20]) << 32 | 0xA2 in {key & (1 << 64) - 1 for key in house.flows.wan}
    house.perform(house.tracker.close_all("over", now=house.now))
    assert len(house.flows) == 0


def test_a_server_shown_by_our_lan_address_keeps_its_tunnel() -> None:
    house = esp.House(replace(esp.rules(esp.office(Source.GATEWAY)), on_change=OnChange.KEEP))
    house.back(0x900)
    house.out(esp.SERVER, 0x51, esp.LAN)
    at(house, WAN_2)
    assert house.closed == []
    (packet,) = house.through(house.packet(esp.SERVER, esp.LAN, 0x51), inside=True)
    assert packet[12:20] == WAN_2.to_bytes(4) + esp.PEER.to_bytes(4)


# -- all together ------------------------------------------------------------------------------------------


def test_the_gateway_sends_again_what_waits_of_every_protocol() -> None:
    ipsec = replace(STAFF, name="ipsec", pptp=False, ipsec=True)
    world = World(policy(STAFF, ipsec))
    assert world.gateway.awaited() is None
    message = Datagram((CLIENT, 500), (PEER, 500), udp.ike(udp.A)).summed().to_bytes()
    world.packet(Side.LAN, ipv4.build(src=CLIENT, dst=PEER, protocol=17, payload=message))
    world.dial(CLIENT, PEER)
    sent = len(world.sent)
    world.move(WAN_2)
    assert [packet[12:16] for packet in world.sent[sent:]] == [WAN_2.to_bytes(4)]
    assert [connect.source for connect in world.dialled] == [WAN_2]
    assert {s.state for s in world.sessions()} == {State.CONNECTING}
    assert LAN not in {s.gateway for s in world.sessions()}
