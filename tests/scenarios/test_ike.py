"""IKE on port 500: many hosts, one address, one port."""

import pytest

from protocols.actions import Side
from protocols.addr import Network
from protocols.drops import Reason
from protocols.ike.association import IkeSession
from protocols.policy import Limits, Masquerade
from protocols.sessions import Role
from protocols.udp import Datagram
from tests.scenarios.udpworld import (
    ANY,
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    PEER_2,
    SERVER,
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
    expose,
    ike,
    policy,
    staffed,
)


def quick(initiator: int, responder: int, number: int, text: bytes = b"") -> bytes:
    """A message of IKEv1's Quick Mode."""
    return ike(initiator, responder, exchange=32, message_id=number, version=1, text=text)


# -- clients -------------------------------------------------------------------------------------------


def test_two_clients_keep_port_500_and_get_their_own_answers() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    for client, mine, theirs in ((CLIENT, A, X), (CLIENT_2, B, Y)):
        later = ike(mine, theirs, exchange=36, message_id=7)
        assert lab.wan(PEER, 500, 500, later) == Got(PEER, 500, client, 500, later)
        back = ike(mine, theirs, exchange=36, message_id=7, answer=True)
        assert lab.lan(client, 500, PEER, 500, back) == Got(WAN, 500, PEER, 500, back)


def test_a_session_shows_its_cookies_and_what_it_carried() -> None:
    lab = staffed()
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    (session,) = lab.sessions()
    assert isinstance(session, IkeSession)
    assert session.cookies == [("aaaaaaaa00000001", "0000000000000000")]
    lab.wan(PEER, 500, 500, ike(A, X))
    assert session.cookies == [("aaaaaaaa00000001", "1111111111111111")]
    assert (session.protocol, session.role, session.rule) == ("isakmp", Role.MASQUERADE, "staff")
    assert (session.inside, session.gateway, session.peer) == (CLIENT, WAN, PEER)
    assert (session.outbound.packets, session.inbound.packets) == (1, 1)
    assert session.outbound.octets == 20 + 8 + 28
    assert lab.log == ["opened isakmp 10.0.0.2", "established 10.0.0.2"]


@pytest.mark.parametrize("version", [1, 2])
def test_retransmissions_go_where_the_first_went(version: int) -> None:
    lab = staffed()
    first, answer = ike(A, version=version), ike(A, X, version=version)
    for _ in range(3):
        assert isinstance(lab.lan(CLIENT, 500, PEER, 500, first), Got)
    for _ in range(3):
        assert lab.wan(PEER, 500, 500, answer) == Got(PEER, 500, CLIENT, 500, answer)
    assert isinstance(lab.lan(CLIENT, 500, PEER, 500, first), Got)
    assert lab.wan(PEER, 500, 500, answer) == Got(PEER, 500, CLIENT, 500, answer)
    assert len(lab.sessions()) == 1


def test_an_answer_without_a_responder_cookie_leaves_the_client_waiting() -> None:
    # RFC 7296 §2.6: the responder wants a cookie repeated, and has no SPI yet.
    lab = staffed()
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    challenge = ike(A, answer=True, text=b"cookie")
    for _ in range(2):
        assert lab.wan(PEER, 500, 500, challenge) == Got(PEER, 500, CLIENT, 500, challenge)
        lab.lan(CLIENT, 500, PEER, 500, ike(A, text=b"cookie"))
    assert lab.wan(PEER, 500, 500, ike(A, X, answer=True)) == Got(
        PEER, 500, CLIENT, 500, ike(A, X, answer=True)
    )


def test_a_second_answer_with_another_cookie_is_the_clients_too() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    assert lab.wan(PEER, 500, 500, ike(A, Y)) == Got(PEER, 500, CLIENT, 500, ike(A, Y))
    (session,) = lab.sessions()
    assert isinstance(session, IkeSession)
    assert len(session.cookies) == 2


def test_a_client_may_go_on_with_cookies_that_we_have_never_seen() -> None:
    # A rekeyed IKE SA: its cookies were agreed on under encryption (RFC 7296 §2.18). Or we were restarted.
    lab = staffed()
    assert isinstance(lab.lan(CLIENT, 500, PEER, 500, ike(B, Y, exchange=37)), Got)
    back = ike(B, Y, exchange=37, answer=True)
    assert lab.wan(PEER, 500, 500, back) == Got(PEER, 500, CLIENT, 500, back)


def test_the_checksum_stays_zero_where_it_was() -> None:
    lab = staffed()
    assert isinstance(lab.lan(CLIENT, 500, PEER, 500, ike(A), summed=0), Got)
    assert isinstance(lab.wan(PEER, 500, 500, ike(A, X), summed=0), Got)


def test_a_client_of_a_relay_knows_the_peer_by_our_address() -> None:
    relay = Masquerade("relay", (ANY,), (Network.parse("199.0.0.1"),), pptp=False, ipsec=True, listen=LAN)
    lab = UdpWorld(policy(relay))
    assert lab.lan(CLIENT, 500, LAN, 500, ike(A)) == Got(WAN, 500, PEER, 500, ike(A))
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(LAN, 500, CLIENT, 500, ike(A, X))
    assert lab.lan(CLIENT, 500, PEER, 500, ike(A)) is Reason.NO_RULE
    lab.reload(policy(relay))
    assert len(lab.sessions()) == 1
    lab.perform(lab.udp.close_all("the end", now=lab.now))
    assert_nothing_left(lab)


# -- the peer begins -----------------------------------------------------------------------------------


def test_a_peers_rekey_goes_to_the_only_client() -> None:
    # RFC 3715 §2.3a, HOWTO §5.7.
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    assert lab.wan(PEER, 500, 500, ike(B)) == Got(PEER, 500, CLIENT, 500, ike(B))
    assert lab.wan(PEER, 500, 500, ike(B)) == Got(PEER, 500, CLIENT, 500, ike(B))
    assert lab.lan(CLIENT, 500, PEER, 500, ike(B, answer=True)) == Got(
        WAN, 500, PEER, 500, ike(B, answer=True)
    )
    assert lab.lan(CLIENT, 500, PEER, 500, ike(B, Y, answer=True)) == Got(
        WAN, 500, PEER, 500, ike(B, Y, answer=True)
    )
    assert lab.wan(PEER, 500, 500, ike(B, Y)) == Got(PEER, 500, CLIENT, 500, ike(B, Y))


def test_a_peers_rekey_goes_to_the_client_that_last_talked_to_it_and_stays_there() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(1.0)
    lab.talk(CLIENT_2, PEER, B, Y)
    lab.wait(1.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(A, X))
    lab.wait(1.0)
    lab.wan(PEER, 500, 500, ike(B, Y))
    assert lab.wan(PEER, 500, 500, ike(5)) == Got(PEER, 500, CLIENT, 500, ike(5))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(B, Y))
    assert lab.wan(PEER, 500, 500, ike(5)) == Got(PEER, 500, CLIENT, 500, ike(5))


def test_a_wrong_guess_is_put_right_by_the_owner() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(1.0)
    lab.talk(CLIENT_2, PEER, B, Y)
    assert lab.wan(PEER, 500, 500, ike(5, 6)) == Got(PEER, 500, CLIENT_2, 500, ike(5, 6))
    assert lab.lan(CLIENT, 500, PEER, 500, ike(5, 6)) == Got(WAN, 500, PEER, 500, ike(5, 6))
    assert lab.wan(PEER, 500, 500, ike(5, 6)) == Got(PEER, 500, CLIENT, 500, ike(5, 6))
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(5, 6)) is Reason.IKE_COLLISION


def test_a_late_answer_goes_to_who_still_talks_to_the_peer_or_to_nobody() -> None:
    lab = staffed(unanswered=60.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.wait(60.0)
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))


def test_a_stranger_gets_one_look_and_leaves_no_trace() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    for cookie in range(1, 50):
        assert lab.wan(STRANGER, 500, 500, ike(cookie, 7)) is Reason.IKE_UNKNOWN
    assert len(lab.sessions()) == 1
    assert len(lab.udp.ike._cookies) == 1
    assert lab.wan(STRANGER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN


def test_who_pretends_to_be_the_peer_cannot_push_out_what_the_client_takes_part_in() -> None:
    lab = staffed(most_unanswered=4)
    lab.talk(CLIENT, PEER, A, X)
    for cookie in range(1, 50):
        assert isinstance(lab.wan(PEER, 500, 500, ike(cookie, 7)), Got)
    (session,) = lab.sessions()
    assert isinstance(session, IkeSession)
    assert len(session.associations) == 5
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))


def test_a_client_with_too_many_associations_loses_the_one_it_used_least() -> None:
    lab = staffed(most_associations=3)
    for number in range(1, 4):
        lab.talk(CLIENT, PEER, number, 100 + number)
    lab.lan(CLIENT, 500, PEER, 500, ike(1, 101))
    lab.wan(PEER, 500, 500, ike(9))
    (session,) = lab.sessions()
    assert isinstance(session, IkeSession)
    assert [a.initiator for a in session.associations] == [3, 1, 9]
    lab.talk(CLIENT, PEER, 4, 104)
    assert [a.initiator for a in session.associations] == [3, 1, 4]


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(ike(0, X), Reason.IKE_ZERO_COOKIE, id="zero cookie"),
        pytest.param(ike(A)[:27], Reason.IKE_LENGTH, id="short"),
        pytest.param(b"", Reason.IKE_LENGTH, id="empty"),
        pytest.param(b"\xff", Reason.IKE_LENGTH, id="a keepalive of port 4500"),
        pytest.param(bytes(4) + ike(A), Reason.IKE_VERSION, id="a message of port 4500"),
    ],
)
def test_a_bad_message_is_refused_from_either_side(payload: bytes, reason: Reason) -> None:
    lab = staffed()
    assert lab.lan(CLIENT, 500, PEER, 500, payload) is reason
    assert lab.wan(PEER, 500, 500, payload) is reason
    assert lab.sessions() == []


def test_a_zero_cookie_is_named_in_full() -> None:
    lab = staffed()
    lab.wan(PEER, 500, 500, ike(0, X))
    assert lab.drops[0].detail == (
        "199.0.0.1 to 200.200.200.200: zero initiator cookie, responder cookie 1111111111111111"
    )


@pytest.mark.parametrize("lan", [True, False], ids=["lan", "wan"])
@pytest.mark.parametrize(
    ("src", "ttl", "reason"),
    [
        pytest.param(0x7F000001, 64, Reason.MARTIAN, id="loopback"),
        pytest.param(WAN, 64, Reason.OWN_ADDRESS, id="our own"),
        pytest.param(None, 1, Reason.TTL_EXPIRED, id="last hop"),
        pytest.param(0, 64, Reason.SPOOFED, id="wrong side"),
    ],
)
def test_an_impossible_packet_is_refused(lan: bool, src: int | None, ttl: int, reason: Reason) -> None:
    lab = staffed()
    inside, outside = (CLIENT, PEER) if src != 0 else (PEER, CLIENT)
    if lan:
        assert lab.lan(src or inside, 500, PEER_2, 500, ike(A), ttl=ttl) is reason  # type: ignore[arg-type]
    else:
        assert lab.wan(src or outside, 500, 500, ike(A), ttl=ttl) is reason  # type: ignore[arg-type]


def test_what_no_rule_allows_is_refused() -> None:
    lab = UdpWorld(
        policy(
            Masquerade("pptp only", (ANY,), (ANY,)),
            Masquerade("one peer", (ANY,), (Network.parse("199.0.0.1"),), pptp=False, ipsec=True),
        )
    )
    assert isinstance(lab.lan(CLIENT, 500, PEER, 500, ike(A)), Got)
    assert lab.lan(CLIENT, 500, PEER_2, 500, ike(A)) is Reason.NO_RULE
    assert lab.lan(CLIENT, 500, CLIENT_2, 500, ike(A)) is Reason.NO_RULE
    assert lab.lan(CLIENT, 500, WAN, 500, ike(A)) is Reason.NO_RULE
    assert lab.lan(CLIENT, 500, LAN, 500, ike(A)) is Reason.NO_RULE
    assert lab.lan(CLIENT, 1, PEER, 2, ike(A)) is Reason.NOT_SERVED


def test_limits_hold() -> None:
    lab = UdpWorld(policy(STAFF, expose(SERVER, "199.0.0.1"), limits=Limits(sessions_per_client=1)))
    lab.talk(CLIENT, PEER_2, A, X)
    assert lab.lan(CLIENT, 500, STRANGER, 500, ike(B)) is Reason.LIMIT_PER_HOST
    lab.talk(CLIENT_2, PEER_2, B, Y)
    lab.registry.draining = True
    assert lab.wan(PEER, 500, 500, ike(B)) is Reason.DRAINING


def test_without_an_address_nothing_passes() -> None:
    lab = UdpWorld(policy(STAFF), wan=None)
    assert lab.lan(CLIENT, 500, PEER, 500, ike(A)) is Reason.NO_ADDRESS
    assert lab.wan(PEER, 500, 500, ike(A)) is Reason.NO_ADDRESS


def test_what_is_not_for_the_public_address_is_not_for_us() -> None:
    lab = UdpWorld(policy(expose()))
    datagram = Datagram((PEER, 500), (WAN_2, 500), ike(A))
    assert lab.send(Side.WAN, datagram) is Reason.NOT_SERVED


# -- what is told about ESP ----------------------------------------------------------------------------


def test_ikev2_is_observed_in_both_directions() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.wan(PEER, 500, 500, ike(A, X, exchange=36, message_id=2))
    out, back, child = lab.observed
    assert (out.host, out.peer, out.outbound, out.version, out.exchange) == (CLIENT, PEER, True, 2, 34)
    assert (out.initiator, out.response, out.length, out.encrypted) == (True, False, 28, False)
    assert (back.outbound, back.initiator, back.response) == (False, False, True)
    assert (child.exchange, child.message_id, child.outbound) == (36, 2, False)


def test_in_ikev1_it_is_remembered_who_began() -> None:
    lab = staffed()
    lab.lan(CLIENT, 500, PEER, 500, ike(A, version=1, exchange=2))
    lab.wan(PEER, 500, 500, ike(A, X, version=1, exchange=2))
    lab.wan(PEER, 500, 500, quick(A, X, 77))
    lab.lan(CLIENT, 500, PEER, 500, quick(A, X, 77))
    lab.wan(PEER, 500, 500, quick(A, X, 77))
    told = [(seen.outbound, seen.initiator, seen.response) for seen in lab.observed]
    assert told == [
        (True, True, False),
        (False, False, True),
        (False, False, False),
        (True, True, True),
        (False, False, False),
    ]
    assert {seen.version for seen in lab.observed} == {1}


def test_who_began_is_remembered_of_few_exchanges_only() -> None:
    lab = staffed()
    lab.lan(CLIENT, 500, PEER, 500, ike(A, version=1, exchange=2))
    for number in range(1, 40):
        lab.wan(PEER, 500, 500, quick(A, X, number))
    lab.lan(CLIENT, 500, PEER, 500, quick(A, X, 1))
    assert not lab.observed[-1].response
    lab.lan(CLIENT, 500, PEER, 500, quick(A, X, 39))
    assert lab.observed[-1].response


def test_refused_messages_are_not_observed() -> None:
    lab = staffed()
    lab.wan(STRANGER, 500, 500, ike(A))
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(A))
    assert len(lab.observed) == 1
