"""IPsec in UDP to servers inside: exposed, hidden behind us, and dialled by their neighbours."""

from dataclasses import replace

import pytest

from protocols.addr import Network
from protocols.drops import Reason
from protocols.ike.natt import KEEPALIVE
from protocols.policy import Ipsec, Limits, Masquerade, Source
from protocols.sessions import Role
from tests.scenarios.udpworld import (
    ANY,
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    PEER_2,
    SERVER,
    SERVER_2,
    STAFF,
    WAN,
    WAN_2,
    A,
    B,
    Got,
    UdpWorld,
    X,
    Y,
    assert_nothing_left,
    esp,
    expose,
    ike,
    marked,
    out,
    policy,
    staffed,
)

HAIRPIN = expose(SERVER, "10.0.0.0/8", "199.0.0.1")


# -- exposed servers -----------------------------------------------------------------------------------


def test_an_exposed_server_has_4500_and_a_client_another_port() -> None:
    lab = UdpWorld(policy(STAFF, expose(SERVER, "199.0.0.2")))
    port = lab.float(CLIENT, PEER, A, X)
    assert port != 4500
    message = marked(ike(B, 0))
    assert lab.wan(PEER_2, 1024, 4500, message) == Got(PEER_2, 1024, SERVER, 4500, message)
    assert lab.lan(SERVER, 4500, PEER_2, 1024, esp(1)) == Got(WAN, 4500, PEER_2, 1024, esp(1))
    assert lab.wan(PEER_2, 1024, 4500, esp(1)) == Got(PEER_2, 1024, SERVER, 4500, esp(1))
    assert lab.fast()
    assert lab.wan(PEER, 4500, 4500, esp(1)) is Reason.UDP_STRANGER
    assert [(s.role, s.inside) for s in lab.sessions()] == [
        (Role.MASQUERADE, CLIENT),
        (Role.EXPOSE, SERVER),
    ]


def test_servers_share_4500_by_their_peers() -> None:
    lab = UdpWorld(policy(STAFF, expose(SERVER, "199.0.0.1"), expose(SERVER_2, "199.0.0.2")))
    assert lab.wan(PEER, 4500, 4500, esp(1)) == Got(PEER, 4500, SERVER, 4500, esp(1))
    assert lab.wan(PEER_2, 4500, 4500, esp(1)) == Got(PEER_2, 4500, SERVER_2, 4500, esp(1))
    assert out(lab.lan(SERVER_2, 4500, PEER_2, 4500, esp(1))) == 4500
    # A server that is a client of a peer that is not its own has no claim on 4500 there.
    assert out(lab.lan(SERVER_2, 4500, PEER, 4500, esp(1))) != 4500
    lab.wait(300.0)
    assert_nothing_left(lab)


def test_a_client_has_to_give_4500_up_for_a_server() -> None:
    lab = staffed()
    lab.float(CLIENT, PEER, A, X)
    lab.reload(policy(STAFF, expose(SERVER, "199.0.0.2")))
    assert lab.log[-1] == "closed 10.0.0.2: port 4500 is an exposed server's now"
    assert out(lab.lan(CLIENT, 4500, PEER, 4500, esp(1))) != 4500


def test_limits_hold_for_peers_of_servers() -> None:
    lab = UdpWorld(policy(expose(), limits=Limits(sessions=1)))
    assert isinstance(lab.wan(PEER, 4500, 4500, esp(1)), Got)
    assert lab.wan(PEER_2, 4500, 4500, esp(1)) is Reason.LIMIT_SESSIONS


def hidden() -> UdpWorld:
    ipsec = Ipsec(ports=(61000, 61001), most_endpoints=2, port_rest=10.0)
    return UdpWorld(policy(STAFF, expose(SERVER, "199.0.0.0/24", source=Source.GATEWAY), ipsec=ipsec))


def test_a_server_that_shall_see_us_tells_peers_apart_by_the_port() -> None:
    lab = hidden()
    assert lab.wan(PEER, 4500, 4500, esp(1)) == Got(LAN, 4500, SERVER, 4500, esp(1))
    second = lab.wan(PEER_2, 4500, 4500, esp(1))
    assert isinstance(second, Got)
    assert second.src == LAN
    assert lab.lan(SERVER, 4500, LAN, 4500, esp(2)) == Got(WAN, 4500, PEER, 4500, esp(2))
    back = lab.lan(SERVER, 4500, LAN, second.src_port, esp(2))
    assert back == Got(WAN, 4500, PEER_2, 4500, esp(2))
    assert lab.lan(SERVER, 4500, LAN, second.src_port, esp(2)) == back
    assert lab.fast()
    assert lab.wan(PEER_2, 4500, 4500, esp(1)) == second
    assert lab.fast()
    lab.wait(300.0)
    lab.wait(10.0)
    assert_nothing_left(lab)


def test_a_peers_port_that_is_500_by_chance_changes_nothing() -> None:
    lab = hidden()
    first = lab.wan(PEER, 500, 4500, marked(ike(A)))
    assert isinstance(first, Got)
    answer = lab.lan(SERVER, 4500, LAN, first.src_port, marked(ike(A, X)))
    assert answer == Got(WAN, 4500, PEER, 500, marked(ike(A, X)))


def test_a_disguise_that_is_forgotten_takes_its_flows_along() -> None:
    lab = hidden()
    first = lab.wan(PEER, 4500, 4500, esp(1))
    assert isinstance(first, Got)
    lab.lan(SERVER, 4500, LAN, first.src_port, esp(1))
    lab.wan(PEER, 1001, 4500, esp(1))
    lab.wan(PEER, 1002, 4500, esp(1))
    assert lab.lan(SERVER, 4500, LAN, first.src_port, esp(1)) is Reason.NO_RULE
    assert lab.wan(PEER, 1003, 4500, esp(1)) is Reason.NO_PORT
    lab.wait(10.0)
    assert isinstance(lab.wan(PEER, 4500, 4500, esp(1)), Got)


def test_a_client_of_a_relay_that_then_dials_directly_goes_on() -> None:
    relay = Masquerade("relay", (ANY,), (Network.parse("199.0.0.1"),), pptp=False, ipsec=True, listen=LAN)
    lab = UdpWorld(policy(relay, STAFF))
    assert lab.lan(CLIENT, 4500, LAN, 4500, esp(1)) == Got(WAN, 4500, PEER, 4500, esp(1))
    for _ in range(2):
        assert lab.wan(PEER, 4500, 4500, esp(2)) == Got(LAN, 4500, CLIENT, 4500, esp(2))
    assert lab.fast()
    assert lab.lan(CLIENT, 4500, PEER, 4500, esp(1)) == Got(WAN, 4500, PEER, 4500, esp(1))
    assert lab.wan(PEER, 4500, 4500, esp(2)) == Got(PEER, 4500, CLIENT, 4500, esp(2))
    assert lab.fast()


# -- hairpin (RFC 4787 REQ-9) --------------------------------------------------------------------------


def test_a_client_reaches_a_neighbour_by_the_public_address() -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    first = lab.lan(CLIENT, 500, WAN, 500, ike(A))
    assert isinstance(first, Got)
    port = first.src_port
    assert first == Got(WAN, port, SERVER, 500, ike(A))
    answer = ike(A, X, answer=True)
    assert lab.lan(SERVER, 500, WAN, port, answer) == Got(WAN, 500, CLIENT, 500, answer)

    data = lab.lan(CLIENT, 4500, WAN, 4500, esp(1))
    assert isinstance(data, Got)
    assert data == Got(WAN, data.src_port, SERVER, 4500, esp(1))
    for fast in (False, True):
        assert lab.lan(SERVER, 4500, WAN, data.src_port, esp(2)) == Got(WAN, 4500, CLIENT, 4500, esp(2))
        assert lab.fast() is fast
        assert lab.lan(CLIENT, 4500, WAN, 4500, esp(1)) == data
        assert lab.fast()
    lab.reload(lab.admission.policy)
    assert lab.lan(CLIENT, 4500, WAN, 4500, esp(1)) == data
    assert lab.fast()
    client, server = (s for s in lab.sessions() if s.protocol == "natt")
    assert (client.inside, server.inside) == (CLIENT, SERVER)
    assert (client.outbound.packets, client.inbound.packets) == (4, 2)
    assert (server.outbound.packets, server.inbound.packets) == (2, 4)
    lab.wait(2000.0)
    assert_nothing_left(lab)


@pytest.mark.parametrize("ended", [0, 1], ids=["the-clients", "the-servers"])
def test_either_session_of_a_hairpin_takes_its_short_lane_along(ended: int) -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    ports = {}
    for client in (CLIENT, CLIENT_2):
        data = lab.lan(client, 4500, WAN, 4500, esp(1))
        assert isinstance(data, Got)
        ports[client] = data.src_port
        assert lab.lan(SERVER, 4500, WAN, data.src_port, esp(2)) == Got(WAN, 4500, client, 4500, esp(2))
    sessions = [s for s in lab.sessions() if CLIENT in (s.inside, s.peer)]
    lab.perform(lab.udp.kill(sessions[ended], "over", now=lab.now))
    back = lab.lan(SERVER, 4500, WAN, ports[CLIENT], esp(2))
    assert not lab.fast()
    # The client's port is at rest when it has ended; the server may begin anew.
    assert back == (Reason.NO_RULE if not ended else Got(WAN, 4500, CLIENT, 4500, esp(2)))
    again = lab.lan(CLIENT, 4500, WAN, 4500, esp(1))
    assert isinstance(again, Got)
    assert not lab.fast()
    assert lab.lan(SERVER, 4500, WAN, again.src_port, esp(2)) == Got(WAN, 4500, CLIENT, 4500, esp(2))
    assert lab.lan(CLIENT, 4500, WAN, 4500, esp(1)) == again
    assert lab.fast()
    assert isinstance(lab.lan(CLIENT_2, 4500, WAN, 4500, esp(1)), Got)
    assert lab.fast()
    lab.wait(2000.0)
    assert_nothing_left(lab)


def test_two_ports_of_a_client_have_a_short_lane_each() -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    for port in (4500, 4501):
        data = lab.lan(CLIENT, port, WAN, 4500, esp(1))
        assert isinstance(data, Got)
        assert lab.lan(SERVER, 4500, WAN, data.src_port, esp(2)) == Got(WAN, 4500, CLIENT, port, esp(2))
    first, server, _ = lab.sessions()
    assert (first.inside, server.inside, len(lab.udp.natt.flows)) == (CLIENT, SERVER, 4)
    lab.perform(lab.udp.kill(first, "over", now=lab.now))
    for port, fast in ((4501, True), (4500, False)):
        assert isinstance(lab.lan(CLIENT, port, WAN, 4500, esp(1)), Got)
        assert lab.fast() is fast
    assert server.inbound.packets == 4
    lab.perform(lab.udp.kill(server, "over", now=lab.now))
    assert len(lab.udp.natt.flows) == 0


def test_ike_and_keepalives_of_a_hairpin_go_the_long_way() -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    data = lab.lan(CLIENT, 4500, WAN, 4500, marked(ike(A)))
    assert isinstance(data, Got)
    assert isinstance(lab.lan(SERVER, 4500, WAN, data.src_port, marked(ike(A, X, answer=True))), Got)
    assert len(lab.udp.natt.flows) == 0
    assert isinstance(lab.lan(CLIENT, 4500, WAN, 4500, esp(1)), Got)
    assert len(lab.udp.natt.flows) == 2
    for payload in (marked(ike(A, X)), KEEPALIVE):
        assert lab.lan(CLIENT, 4500, WAN, 4500, payload) == replace(data, payload=payload)
        assert not lab.fast()


def test_two_neighbours_are_told_apart_by_a_server() -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    ports = {}
    for client in (CLIENT, CLIENT_2):
        got = lab.lan(client, 500, WAN, 500, ike(A))
        assert isinstance(got, Got)
        ports[client] = got.src_port
    for client, theirs in ((CLIENT, X), (CLIENT_2, Y)):
        answer = ike(A, theirs, answer=True)
        assert lab.lan(SERVER, 500, WAN, ports[client], answer) == Got(WAN, 500, client, 500, answer)


def test_a_hairpin_needs_a_rule_and_only_the_server_gets_back() -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    got = lab.lan(CLIENT, 4500, WAN, 4500, esp(1))
    assert isinstance(got, Got)
    assert lab.lan(CLIENT_2, 4500, WAN, got.src_port, esp(1)) is Reason.NO_RULE
    assert lab.lan(SERVER, 4500, WAN, 61000, esp(1)) is Reason.NO_RULE
    assert lab.lan(SERVER, 4500, WAN, 4500, esp(1)) is Reason.NO_RULE
    assert lab.wan(PEER, 4500, got.src_port, esp(1)) is Reason.UDP_STRANGER
    closed = UdpWorld(policy(STAFF, expose(SERVER, "199.0.0.1")))
    assert closed.lan(CLIENT, 4500, WAN, 4500, esp(1)) is Reason.NO_RULE


def test_a_hairpin_ends_with_the_address_it_went_by() -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    data = lab.lan(CLIENT, 4500, WAN, 4500, esp(1))
    assert isinstance(data, Got)
    lab.lan(SERVER, 4500, WAN, data.src_port, esp(2))
    assert len(lab.udp.natt.flows) == 2
    lab.move(WAN_2)
    assert lab.sessions() == []
    assert len(lab.udp.natt.flows) == 0
    lab.lan(CLIENT, 4500, WAN_2, 4500, esp(1))
    lab.move(None)
    assert lab.sessions() == []


def test_a_talk_with_whoever_had_the_address_that_is_ours_now_ends() -> None:
    lab = UdpWorld(policy(STAFF, HAIRPIN))
    assert out(lab.lan(CLIENT, 4500, WAN_2, 4500, esp(1))) != 4500
    lab.move(WAN_2)
    assert lab.log[-1] == "closed 10.0.0.2: its peer is on another side now"
    for fast in (False, True):
        data = lab.lan(CLIENT, 4500, WAN_2, 4500, esp(1))
        assert isinstance(data, Got)
        assert data == Got(WAN_2, data.src_port, SERVER, 4500, esp(1))
        assert lab.fast() is fast
        assert lab.lan(SERVER, 4500, WAN_2, data.src_port, esp(2)) == Got(WAN_2, 4500, CLIENT, 4500, esp(2))
