"""IKE on port 500: exposed servers."""

from dataclasses import replace

from protocols.addr import Network
from protocols.drops import Reason
from protocols.policy import Ipsec, Masquerade, Source
from protocols.sessions import Role, State
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
    STRANGER,
    WAN,
    A,
    B,
    Got,
    UdpWorld,
    X,
    Y,
    assert_nothing_left,
    expose,
    ike,
    policy,
)


def test_an_exposed_server_is_reached_and_answers() -> None:
    lab = UdpWorld(policy(STAFF, expose(SERVER, "199.0.0.1")))
    assert lab.wan(PEER, 500, 500, ike(A)) == Got(PEER, 500, SERVER, 500, ike(A))
    back = ike(A, X, answer=True)
    assert lab.lan(SERVER, 500, PEER, 500, back) == Got(WAN, 500, PEER, 500, back)
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, SERVER, 500, ike(A, X))
    (session,) = lab.sessions()
    assert (session.role, session.inside, session.state) == (Role.EXPOSE, SERVER, State.ESTABLISHED)
    assert lab.wan(PEER_2, 500, 500, ike(A)) is Reason.IKE_UNKNOWN


def test_a_server_may_begin_too() -> None:
    lab = UdpWorld(policy(expose(SERVER, "199.0.0.1")))
    assert lab.lan(SERVER, 500, PEER, 500, ike(A)) == Got(WAN, 500, PEER, 500, ike(A))
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, SERVER, 500, ike(A, X))
    assert lab.lan(SERVER, 500, PEER_2, 500, ike(A)) is Reason.NO_RULE
    assert lab.lan(SERVER_2, 500, PEER, 500, ike(A)) is Reason.NO_RULE


def test_a_peer_behind_a_nat_talks_from_any_port_and_may_change_it() -> None:
    lab = UdpWorld(policy(expose()))
    assert lab.wan(PEER, 1024, 500, ike(A)) == Got(PEER, 1024, SERVER, 500, ike(A))
    assert lab.wan(PEER, 1025, 500, ike(B)) == Got(PEER, 1025, SERVER, 500, ike(B))
    assert lab.lan(SERVER, 500, PEER, 1024, ike(A, X)) == Got(WAN, 500, PEER, 1024, ike(A, X))
    assert lab.lan(SERVER, 500, PEER, 1025, ike(B, Y)) == Got(WAN, 500, PEER, 1025, ike(B, Y))
    assert lab.wan(PEER, 2000, 500, ike(A, X)) == Got(PEER, 2000, SERVER, 500, ike(A, X))


def test_servers_are_chosen_by_the_peer() -> None:
    lab = UdpWorld(policy(expose(SERVER, "199.0.0.1"), expose(SERVER_2, "199.0.0.2")))
    assert lab.wan(PEER, 500, 500, ike(A)) == Got(PEER, 500, SERVER, 500, ike(A))
    assert lab.wan(PEER_2, 500, 500, ike(A)) == Got(PEER_2, 500, SERVER_2, 500, ike(A))


def test_several_rules_share_port_500() -> None:
    staff = Masquerade("staff", (Network.parse("10.0.0.2"),), (Network.parse("199.0.0.1"),), ipsec=True)
    guests = Masquerade("guests", (Network.parse("10.0.0.3"),), (ANY,), ipsec=True)
    lab = UdpWorld(policy(staff, guests, expose(SERVER, "199.0.0.2")))
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    lab.talk(CLIENT_2, STRANGER, A, X)
    assert lab.lan(CLIENT, 500, STRANGER, 500, ike(A)) is Reason.NO_RULE
    assert lab.wan(PEER_2, 500, 500, ike(B)) == Got(PEER_2, 500, SERVER, 500, ike(B))
    rules = [(session.rule, session.inside) for session in lab.sessions()]
    assert rules == [("staff", CLIENT), ("guests", CLIENT_2), ("guests", CLIENT_2), ("office", SERVER)]


def test_clients_and_a_server_share_the_address_and_the_peer() -> None:
    lab = UdpWorld(policy(STAFF, expose(SERVER, "199.0.0.1")))
    lab.talk(CLIENT, PEER, A, X)
    assert lab.wan(PEER, 500, 500, ike(B)) == Got(PEER, 500, SERVER, 500, ike(B))
    assert lab.lan(SERVER, 500, PEER, 500, ike(B, Y)) == Got(WAN, 500, PEER, 500, ike(B, Y))
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))
    assert lab.wan(PEER, 500, 500, ike(B, Y)) == Got(PEER, 500, SERVER, 500, ike(B, Y))


def hidden() -> UdpWorld:
    return UdpWorld(
        policy(
            expose(SERVER, "199.0.0.0/24", source=Source.GATEWAY),
            ipsec=Ipsec(ports=(61000, 61003), most_endpoints=2, port_rest=10.0),
        )
    )


def test_a_server_that_shall_see_us_tells_peers_apart_by_the_port() -> None:
    lab = hidden()
    first = lab.wan(PEER, 500, 500, ike(A))
    assert first == Got(LAN, 500, SERVER, 500, ike(A))
    second = lab.wan(PEER_2, 500, 500, ike(A))
    assert isinstance(second, Got)
    assert (second.src, second.dst) == (LAN, SERVER)
    assert 61000 <= second.src_port <= 61003
    assert lab.lan(SERVER, 500, LAN, 500, ike(A, X)) == Got(WAN, 500, PEER, 500, ike(A, X))
    back = lab.lan(SERVER, 500, LAN, second.src_port, ike(A, Y))
    assert back == Got(WAN, 500, PEER_2, 500, ike(A, Y))
    # A rekey that the server begins, and an endpoint of ours that stands for nobody.
    assert lab.lan(SERVER, 500, LAN, 500, ike(B)) == Got(WAN, 500, PEER, 500, ike(B))
    assert lab.lan(SERVER, 500, LAN, 501, ike(B)) is Reason.NO_RULE
    assert lab.lan(SERVER_2, 500, LAN, 500, ike(B)) is Reason.NO_RULE
    lab.reload(lab.admission.policy)
    assert len(lab.sessions()) == 2
    lab.wait(2000.0)
    assert_nothing_left(lab)


def test_only_so_many_ports_of_a_peer_are_shown() -> None:
    lab = hidden()
    lab.wan(PEER, 500, 500, ike(A))
    lab.wan(PEER, 1001, 500, ike(A))
    last = lab.wan(PEER, 1002, 500, ike(A))
    assert isinstance(last, Got)
    assert lab.lan(SERVER, 500, LAN, last.src_port, ike(A, X)) == Got(WAN, 500, PEER, 1002, ike(A, X))
    assert lab.lan(SERVER, 500, LAN, 500, ike(A, X)) is Reason.NO_RULE


def test_when_all_ports_are_taken_a_peer_is_refused() -> None:
    lab = hidden()
    lab.wan(PEER, 500, 500, ike(A))
    for number in range(4):
        assert isinstance(lab.wan(PEER + 10 + number, 500, 500, ike(A)), Got)  # type: ignore[arg-type]
    assert lab.wan(PEER_2, 500, 500, ike(A)) is Reason.NO_PORT


def test_a_server_cannot_be_shown_us_while_no_address_of_ours_faces_it() -> None:
    lab = hidden()
    lab.admission.addresses = replace(lab.addresses, own=frozenset({WAN}))
    assert lab.wan(PEER, 500, 500, ike(A)) is Reason.IKE_UNKNOWN


def test_a_rule_that_changes_what_the_server_sees_ends_the_session() -> None:
    lab = hidden()
    lab.wan(PEER, 500, 500, ike(A))
    lab.reload(policy(expose(SERVER, "199.0.0.0/24")))
    assert lab.log[-1] == "closed 10.0.0.9: no longer allowed"
    lab.wait(10.0)
    assert_nothing_left(lab)
