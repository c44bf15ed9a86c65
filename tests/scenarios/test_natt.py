"""IPsec in UDP: translation by ports (RFC 3948, RFC 4787)."""

from dataclasses import replace

import pytest

from protocols.addr import Ip4, Network
from protocols.drops import Reason
from protocols.natt.mapping import NattSession
from protocols.policy import Ipsec, Masquerade
from protocols.sessions import State
from tests.scenarios.udpworld import (
    ANY,
    CLIENT,
    CLIENT_2,
    CLIENT_3,
    LAN,
    PEER,
    PEER_2,
    STAFF,
    STRANGER,
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
    ike,
    marked,
    out,
    policy,
    staffed,
)

# -- mappings ------------------------------------------------------------------------------------------


def test_the_first_client_keeps_4500_and_the_others_get_ports_of_ours() -> None:
    lab = staffed()
    ports = []
    for client, mine, theirs in ((CLIENT, A, X), (CLIENT_2, B, Y), (CLIENT_3, 5, 6)):
        lab.talk(client, PEER, mine, theirs)
        ports.append(lab.float(client, PEER, mine, theirs))
    assert ports[0] == 4500
    assert len(set(ports)) == 3
    assert all(61000 <= port <= 65095 for port in ports[1:])
    for client, port in zip((CLIENT, CLIENT_2, CLIENT_3), ports, strict=True):
        assert lab.wan(PEER, 4500, port, esp(9)) == Got(PEER, 4500, client, 4500, esp(9))
        assert lab.lan(client, 4500, PEER, 4500, esp(8)) == Got(WAN, port, PEER, 4500, esp(8))


def test_a_port_stands_for_a_host_before_all_peers() -> None:
    # RFC 4787 REQ-1.
    lab = staffed()
    assert out(lab.lan(CLIENT, 4500, PEER, 4500, esp(1))) == 4500
    port = out(lab.lan(CLIENT_2, 4500, PEER, 4500, esp(1)))
    assert out(lab.lan(CLIENT_2, 4500, PEER_2, 4500, esp(1))) == port
    assert out(lab.lan(CLIENT_2, 4501, PEER_2, 4500, esp(1))) != port


def test_a_port_of_the_range_is_preserved_too() -> None:
    lab = staffed()
    assert out(lab.lan(CLIENT, 62000, PEER, 4500, esp(1))) == 62000
    assert out(lab.lan(CLIENT_2, 62000, PEER, 4500, esp(1))) != 62000
    assert 61000 <= out(lab.lan(CLIENT, 40000, PEER, 4500, esp(1))) <= 65095


def test_what_comes_from_a_peer_without_being_asked_is_refused() -> None:
    # RFC 4787 REQ-8.
    lab = staffed()
    lab.lan(CLIENT, 4500, PEER, 4500, esp(1))
    for content in (esp(1), marked(ike(A)), b"\xff"):
        assert lab.wan(STRANGER, 4500, 4500, content) is Reason.UDP_STRANGER
        assert lab.wan(PEER, 4500, 62000, content) is Reason.UDP_STRANGER
    assert isinstance(lab.wan(PEER, 4500, 4500, esp(1)), Got)


def test_a_peer_may_change_its_port() -> None:
    # It is behind a NAT of its own, which has forgotten it (RFC 7296 §2.23).
    lab = staffed()
    lab.float(CLIENT, PEER, A, X)
    assert lab.wan(PEER, 7777, 4500, esp(1)) == Got(PEER, 7777, CLIENT, 4500, esp(1))
    assert lab.lan(CLIENT, 4500, PEER, 7777, esp(2)) == Got(WAN, 4500, PEER, 7777, esp(2))
    assert lab.fast()


def test_a_client_may_go_on_with_another_peer_from_the_same_port() -> None:
    # MOBIKE (RFC 4555): the peer's address changed, and the client was told so under encryption.
    lab = staffed()
    lab.float(CLIENT, PEER, A, X)
    assert out(lab.lan(CLIENT, 4500, PEER_2, 4500, marked(ike(A, X, exchange=37)))) == 4500
    assert isinstance(lab.wan(PEER_2, 4500, 4500, esp(1)), Got)
    assert isinstance(lab.wan(PEER, 4500, 4500, esp(1)), Got)


def test_a_mapping_lives_five_minutes_after_the_last_packet_of_either_side() -> None:
    # RFC 4787 REQ-5, REQ-6.
    lab = staffed()
    lab.float(CLIENT, PEER, A, X)
    for _ in range(3):
        lab.wait(299.0)
        lab.lan(CLIENT, 4500, PEER, 4500, b"\xff")
        lab.wait(299.0)
        lab.wan(PEER, 4500, 4500, esp(1))
    lab.wait(299.0)
    assert len(lab.udp.natt.sessions(CLIENT, PEER)) == 1
    lab.wait(1.0)
    assert lab.log[-1] == "closed 10.0.0.2: idle"
    assert lab.wan(PEER, 4500, 4500, esp(1)) is Reason.UDP_STRANGER
    assert_nothing_left(lab)


def test_the_port_of_a_host_that_has_gone_rests_but_not_for_that_host() -> None:
    lab = staffed(port_rest=120.0)
    lab.float(CLIENT, PEER, A, X)
    (session,) = lab.sessions()
    lab.perform(lab.udp.kill(session, "killed", now=lab.now))
    assert out(lab.lan(CLIENT_2, 4500, PEER, 4500, esp(1))) != 4500
    assert out(lab.lan(CLIENT, 4500, PEER, 4500, esp(1))) == 4500


def test_a_host_that_was_silent_gets_the_port_back_at_which_its_peer_knows_it() -> None:
    lab = staffed(port_rest=120.0)
    lab.float(CLIENT, PEER, A, X)
    port = lab.float(CLIENT_2, PEER, B, Y)
    assert port != 4500
    lab.wait(1000.0)
    assert lab.sessions() == []
    # The peer still answers there; whoever comes in the meantime has another.
    assert out(lab.lan(CLIENT_3, 4500, PEER_2, 4500, esp(1))) == 4500
    assert out(lab.lan(CLIENT_2, 4500, PEER, 4500, esp(1))) == port
    assert isinstance(lab.wan(PEER, 4500, port, esp(1)), Got)
    # Of one that another has, there is nothing to have back; and only its last owner wants it.
    assert out(lab.lan(CLIENT, 4500, PEER, 4500, esp(1))) not in (4500, port)
    lab.wait(1000.0)
    assert out(lab.lan(CLIENT_3, 4500, PEER, 4500, esp(1))) == 4500


def test_when_all_ports_are_taken_a_host_is_refused() -> None:
    lab = staffed(ports=(61000, 61001))
    for number in range(3):
        assert isinstance(lab.lan(Ip4(CLIENT + number), 4500, PEER, 4500, esp(1)), Got)
    assert lab.lan(Ip4(CLIENT + 3), 4500, PEER, 4500, esp(1)) is Reason.NO_PORT


# -- what it carries -----------------------------------------------------------------------------------


def test_keepalives_and_ike_are_counted_as_what_they_are() -> None:
    lab = staffed()
    lab.float(CLIENT, PEER, A, X)
    for _ in range(3):
        assert lab.lan(CLIENT, 4500, PEER, 4500, b"\xff") == Got(WAN, 4500, PEER, 4500, b"\xff")
        assert lab.wan(PEER, 4500, 4500, esp(1)) == Got(PEER, 4500, CLIENT, 4500, esp(1))
    (session,) = lab.sessions()
    assert isinstance(session, NattSession)
    assert (session.keepalives, session.messages) == (3, 2)
    assert (lab.udp.natt.keepalives, lab.udp.natt.messages) == (3, 2)
    assert (session.outbound.packets, session.inbound.packets) == (4, 4)
    assert (session.protocol, session.state) == ("natt", State.ESTABLISHED)
    assert (session.host_port, session.public_port) == (4500, 4500)


def test_ike_on_4500_is_observed_and_grouped_with_ike_on_500() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.float(CLIENT, PEER, A, X)
    assert [seen.exchange for seen in lab.observed] == [34, 34, 35, 35]
    assert [s.protocol for s in lab.udp.tunnel(CLIENT, PEER)] == ["isakmp", "natt"]
    assert lab.udp.tunnel(CLIENT_2, PEER) == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b"", Reason.NATT_LENGTH, id="empty"),
        pytest.param(b"\xff\xff", Reason.NATT_LENGTH, id="short"),
        pytest.param(marked(ike(0, X)), Reason.IKE_ZERO_COOKIE, id="zero cookie"),
        pytest.param(marked(ike(A)[:20]), Reason.IKE_LENGTH, id="short message"),
    ],
)
def test_bad_content_is_refused_and_opens_nothing(payload: bytes, reason: Reason) -> None:
    lab = staffed()
    assert lab.lan(CLIENT, 4500, PEER, 4500, payload) is reason
    assert lab.sessions() == []
    lab.float(CLIENT, PEER, A, X)
    assert lab.lan(CLIENT, 4500, PEER, 4500, payload) is reason
    assert lab.wan(PEER, 4500, 4500, payload) is reason


def test_a_message_without_a_marker_on_4500_is_plain_data() -> None:
    lab = staffed()
    assert isinstance(lab.lan(CLIENT, 4500, PEER, 4500, ike(A)), Got)
    assert lab.observed == []


# -- the short lane ------------------------------------------------------------------------------------


@pytest.mark.parametrize("summed", [0, 1])
def test_data_takes_the_short_lane_once_both_sides_have_spoken(summed: int) -> None:
    lab = staffed()
    lab.lan(CLIENT, 4500, PEER, 4500, esp(1))
    assert not lab.fast()
    lab.lan(CLIENT, 4500, PEER, 4500, esp(1))
    assert not lab.fast()
    lab.wan(PEER, 4500, 4500, esp(2))
    assert not lab.fast()
    got = lab.wan(PEER, 4500, 4500, esp(2), summed=summed)
    assert lab.fast()
    assert got == Got(PEER, 4500, CLIENT, 4500, esp(2))
    assert lab.lan(CLIENT, 4500, PEER, 4500, esp(1), summed=summed) == Got(WAN, 4500, PEER, 4500, esp(1))
    assert lab.fast()
    lab.lan(CLIENT, 4500, PEER, 4500, marked(ike(A, X)))
    assert not lab.fast()
    (session,) = lab.sessions()
    assert (session.outbound.packets, session.inbound.packets) == (4, 2)


def test_only_so_many_endpoints_of_a_peer_are_remembered() -> None:
    lab = staffed(most_endpoints=2)
    lab.float(CLIENT, PEER, A, X)
    for port in range(1, 50):
        assert isinstance(lab.wan(PEER, 1000 + port, 4500, esp(1)), Got)
    assert len(lab.udp.natt.flows) == 4
    assert len(lab.sessions()) == 1
    lab.lan(CLIENT, 4500, PEER, 4500, esp(1))
    assert not lab.fast()
    lab.wan(PEER, 4500, 4500, esp(1))
    assert lab.fast()


def test_a_client_that_moves_takes_its_tunnel_along() -> None:
    # MOBIKE (RFC 4555 §3.5): the same cookies and SPIs, first from another address of the client, then to
    # another one of the peer.
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.float(CLIENT, PEER, A, X)
    assert isinstance(lab.lan(CLIENT, 4500, PEER, 4500, esp(1)), Got)
    update = marked(ike(A, X, exchange=37, message_id=2))
    answer = marked(ike(A, X, exchange=37, message_id=2, answer=True))
    for client, peer in ((CLIENT_2, PEER), (CLIENT_2, PEER_2)):
        port = out(lab.lan(client, 4500, peer, 4500, update))
        assert lab.wan(peer, 4500, port, answer) == Got(peer, 4500, client, 4500, answer)
        for _ in range(2):
            assert lab.lan(client, 4500, peer, 4500, esp(1)) == Got(WAN, port, peer, 4500, esp(1))
            assert lab.wan(peer, 4500, port, esp(2)) == Got(peer, 4500, client, 4500, esp(2))
        assert lab.fast()
    # What was under way to the old address arrives there.
    assert lab.wan(PEER, 4500, 4500, esp(2)) == Got(PEER, 4500, CLIENT, 4500, esp(2))
    assert lab.drops == []


# -- port 500, but not as it is kept -------------------------------------------------------------------


def test_ike_from_another_port_than_500_passes_by_its_port() -> None:
    # RFC 3715 §2.3b.
    lab = staffed()
    port = out(lab.lan(CLIENT, 5500, PEER, 500, ike(A)))
    other = out(lab.lan(CLIENT_2, 5500, PEER, 500, ike(A)))
    assert port != other
    assert lab.wan(PEER, 500, port, ike(A, X)) == Got(PEER, 500, CLIENT, 5500, ike(A, X))
    assert lab.wan(PEER, 500, other, ike(A, Y)) == Got(PEER, 500, CLIENT_2, 5500, ike(A, Y))
    assert lab.wan(PEER, 500, port, ike(0, X)) is Reason.IKE_ZERO_COOKIE
    assert len(lab.observed) == 4


def test_the_source_port_is_changed_before_a_peer_that_wants_it_so() -> None:
    lab = staffed(change_port=(Network.parse("199.0.0.1"),))
    port = out(lab.lan(CLIENT, 500, PEER, 500, ike(A)))
    assert port != 500
    assert lab.wan(PEER, 500, port, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))
    assert lab.sessions()[0].protocol == "isakmp"
    assert out(lab.lan(CLIENT, 500, PEER_2, 500, ike(A))) == 500


def test_a_reload_may_change_whose_port_is_kept() -> None:
    lab = staffed(change_port=(Network.parse("199.0.0.1"),))
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT, 500, PEER_2, 500, ike(A))
    lab.reload(policy(STAFF, ipsec=Ipsec(change_port=(Network.parse("199.0.0.2"),))))
    assert lab.log[-2:] == [
        "closed 10.0.0.2: its source port is to be changed",
        "closed 10.0.0.2: its source port is to be kept",
    ]
    assert out(lab.lan(CLIENT, 500, PEER, 500, ike(A))) == 500


# -- the policy and the address change -----------------------------------------------------------------


def test_a_new_public_address_is_taken_over_with_the_old_ports() -> None:
    lab = staffed()
    lab.float(CLIENT, PEER, A, X)
    port = lab.float(CLIENT_2, PEER, B, Y)
    lab.wan(PEER, 4500, port, esp(1))
    lab.move(None)
    assert lab.lan(CLIENT_2, 4500, PEER, 4500, esp(1)) is Reason.NO_ADDRESS
    lab.move(WAN_2)
    assert lab.lan(CLIENT_2, 4500, PEER, 4500, esp(1)) == Got(WAN_2, port, PEER, 4500, esp(1))
    assert lab.wan(PEER, 4500, port, esp(1)) == Got(PEER, 4500, CLIENT_2, 4500, esp(1))
    assert {session.gateway for session in lab.sessions()} == {WAN_2}


def test_a_reload_leaves_alone_what_it_still_allows() -> None:
    lab = staffed()
    lab.float(CLIENT, PEER, A, X)
    lab.wan(PEER, 4500, 4500, esp(1))
    lab.float(CLIENT_2, PEER, B, Y)
    lab.reload(policy(replace(STAFF, clients=(Network.parse("10.0.0.2"),))))
    assert lab.log[-1] == "closed 10.0.0.3: no longer allowed"
    lab.wan(PEER, 4500, 4500, esp(1))
    assert lab.fast()
    lab.reload(policy(replace(STAFF, name="renamed")))
    assert lab.sessions()[0].rule == "renamed"
    lab.perform(lab.udp.close_all("the end", now=lab.now))
    assert_nothing_left(lab)


def test_what_no_rule_allows_is_refused() -> None:
    lab = UdpWorld(policy(Masquerade("one", (ANY,), (Network.parse("199.0.0.1"),), pptp=False, ipsec=True)))
    assert lab.lan(CLIENT, 4500, PEER_2, 4500, esp(1)) is Reason.NO_RULE
    assert lab.lan(CLIENT, 4500, LAN, 4500, esp(1)) is Reason.NO_RULE
    lab.registry.draining = True
    assert lab.lan(CLIENT, 4500, PEER, 4500, esp(1)) is Reason.DRAINING


def test_killing_a_session_of_another_protocol_kills_nothing() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    (session,) = lab.sessions()
    assert lab.udp.natt.kill(session, "killed", now=lab.now) == []
    assert lab.udp.natt.alive(CLIENT, PEER) is None
