"""IKE on port 500: what silence, reloads and another public address do."""

from dataclasses import replace

import pytest

from protocols.addr import Network
from protocols.drops import Reason
from protocols.ike.association import IkeSession
from protocols.policy import Ipsec
from tests.scenarios.udpworld import (
    CLIENT,
    CLIENT_2,
    PEER,
    STAFF,
    WAN,
    WAN_2,
    A,
    B,
    Got,
    X,
    Y,
    assert_nothing_left,
    ike,
    policy,
    staffed,
)

# -- time ----------------------------------------------------------------------------------------------


def test_a_session_ends_after_its_lifetime() -> None:
    lab = staffed(lifetime=1800.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(1799.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(A, X))
    lab.wait(1799.0)
    assert len(lab.sessions()) == 1
    lab.wait(1.0)
    assert lab.log[-1] == "closed 10.0.0.2: idle"
    assert_nothing_left(lab)


def test_a_peer_that_speaks_in_a_silent_association_finds_its_host_again() -> None:
    lab = staffed(lifetime=60.0, memory=3600.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    lab.wait(60.0)
    assert lab.sessions() == []
    lab.talk(CLIENT_2, PEER, 0xC, 0xD)
    rekey = ike(A, X, exchange=36)
    assert lab.wan(PEER, 500, 500, rekey) == Got(PEER, 500, CLIENT, 500, rekey)
    assert lab.lan(CLIENT, 500, PEER, 500, ike(A, X)) == Got(WAN, 500, PEER, 500, ike(A, X))
    assert lab.wan(PEER, 500, 500, ike(B, Y)) == Got(PEER, 500, CLIENT_2, 500, ike(B, Y))


def test_a_silent_association_is_not_remembered_for_ever() -> None:
    lab = staffed(lifetime=60.0, memory=3600.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(60.0 + 3600.0)
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN


@pytest.mark.parametrize("most", [0, 1])
def test_so_many_silent_associations_are_remembered(most: int) -> None:
    lab = staffed(lifetime=60.0, most_remembered=most)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(60.0)
    assert (lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN) == (most == 0)


def test_what_an_operator_ends_is_not_remembered() -> None:
    lab = staffed(lifetime=60.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(60.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(B))
    (session,) = lab.sessions()
    lab.perform(lab.udp.kill(session, "ended", now=lab.now))
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN


def test_a_silent_association_comes_back_only_as_the_rules_and_limits_of_now_allow() -> None:
    lab = staffed(lifetime=60.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    lab.wait(60.0)
    lab.registry.draining = True
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.DRAINING
    lab.registry.draining = False
    lab.reload(policy(replace(STAFF, clients=(Network.parse("10.0.0.2"),))))
    assert lab.wan(PEER, 500, 500, ike(B, Y)) is Reason.IKE_UNKNOWN


def test_data_keeps_the_newest_association_alive() -> None:
    lab = staffed(lifetime=1800.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT, PEER, B, Y)
    for _ in range(10):
        lab.wait(1000.0)
        lab.esp[(CLIENT, PEER)] = lab.now
    (session,) = lab.sessions()
    assert isinstance(session, IkeSession)
    assert [a.initiator for a in session.associations] == [B]
    assert lab.wan(PEER, 500, 500, ike(B, Y)) == Got(PEER, 500, CLIENT, 500, ike(B, Y))
    assert lab.udp.alive(CLIENT, PEER) == lab.now
    assert lab.udp.alive(CLIENT_2, PEER) is None
    lab.wait(1800.0)
    assert_nothing_left(lab)


def test_esp_in_udp_keeps_ike_alive_too() -> None:
    lab = staffed(lifetime=400.0, mapping=300.0)
    lab.talk(CLIENT, PEER, A, X)
    port = lab.float(CLIENT, PEER, A, X)
    for _ in range(10):
        lab.wait(200.0)
        lab.wan(PEER, 4500, port, b"\xff")
    assert len(lab.udp.tunnel(CLIENT, PEER)) == 2
    lab.wait(1000.0)
    assert lab.udp.tunnel(CLIENT, PEER) == []
    assert_nothing_left(lab)


# -- the policy and the address change -----------------------------------------------------------------


def test_a_reload_ends_what_is_no_longer_allowed() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    narrower = replace(STAFF, name="one", clients=(Network.parse("10.0.0.3"),))
    lab.reload(policy(narrower))
    (session,) = lab.sessions()
    assert (session.inside, session.rule) == (CLIENT_2, "one")
    assert lab.log[-1] == "closed 10.0.0.2: no longer allowed"
    assert lab.wan(PEER, 500, 500, ike(B, Y)) == Got(PEER, 500, CLIENT_2, 500, ike(B, Y))


def test_a_shorter_lifetime_counts_at_once() -> None:
    lab = staffed(lifetime=1800.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.reload(policy(STAFF, ipsec=Ipsec(lifetime=100.0)))
    lab.wait(100.0)
    assert_nothing_left(lab)


def test_a_new_public_address_is_taken_over() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.move(None)
    assert lab.lan(CLIENT, 500, PEER, 500, ike(A, X)) is Reason.NO_ADDRESS
    lab.move(WAN_2)
    assert lab.lan(CLIENT, 500, PEER, 500, ike(A, X)) == Got(WAN_2, 500, PEER, 500, ike(A, X))
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))
    assert lab.sessions()[0].gateway == WAN_2
