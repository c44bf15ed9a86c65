"""IKE on port 500: many hosts, one address, one port."""

from dataclasses import replace

import pytest

from protocols.actions import Side
from protocols.addr import Network
from protocols.drops import Reason
from protocols.ike.association import IkeSession
from protocols.policy import Ipsec, Limits, Masquerade, Source
from protocols.sessions import Role, State
from protocols.udp import Datagram
from tests.scenarios.udpworld import (
    ANY,
    CLIENT,
    CLIENT_2,
    CLIENT_3,
    LAN,
    PEER,
    PEER_2,
    SERVER,
    SERVER_2,
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
)


def world(**changes: float) -> UdpWorld:
    return UdpWorld(policy(STAFF, ipsec=replace(Ipsec(), **changes)))  # type: ignore[arg-type]


def quick(initiator: int, responder: int, number: int, text: bytes = b"") -> bytes:
    """A message of IKEv1's Quick Mode."""
    return ike(initiator, responder, exchange=32, message_id=number, version=1, text=text)


# -- clients -------------------------------------------------------------------------------------------


def test_two_clients_keep_port_500_and_get_their_own_answers() -> None:
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    for client, mine, theirs in ((CLIENT, A, X), (CLIENT_2, B, Y)):
        later = ike(mine, theirs, exchange=36, message_id=7)
        assert lab.wan(PEER, 500, 500, later) == Got(PEER, 500, client, 500, later)
        back = ike(mine, theirs, exchange=36, message_id=7, answer=True)
        assert lab.lan(client, 500, PEER, 500, back) == Got(WAN, 500, PEER, 500, back)


def test_a_session_shows_its_cookies_and_what_it_carried() -> None:
    lab = world()
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
    lab = world()
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
    lab = world()
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    challenge = ike(A, answer=True, text=b"cookie")
    for _ in range(2):
        assert lab.wan(PEER, 500, 500, challenge) == Got(PEER, 500, CLIENT, 500, challenge)
        lab.lan(CLIENT, 500, PEER, 500, ike(A, text=b"cookie"))
    assert lab.wan(PEER, 500, 500, ike(A, X, answer=True)) == Got(
        PEER, 500, CLIENT, 500, ike(A, X, answer=True)
    )


def test_a_second_answer_with_another_cookie_is_the_clients_too() -> None:
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    assert lab.wan(PEER, 500, 500, ike(A, Y)) == Got(PEER, 500, CLIENT, 500, ike(A, Y))
    (session,) = lab.sessions()
    assert isinstance(session, IkeSession)
    assert len(session.cookies) == 2


def test_a_client_may_go_on_with_cookies_that_we_have_never_seen() -> None:
    # A rekeyed IKE SA: its cookies were agreed on under encryption (RFC 7296 §2.18). Or we were restarted.
    lab = world()
    assert isinstance(lab.lan(CLIENT, 500, PEER, 500, ike(B, Y, exchange=37)), Got)
    back = ike(B, Y, exchange=37, answer=True)
    assert lab.wan(PEER, 500, 500, back) == Got(PEER, 500, CLIENT, 500, back)


def test_the_checksum_stays_zero_where_it_was() -> None:
    lab = world()
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


# -- the same cookie -----------------------------------------------------------------------------------


def test_a_client_with_the_cookie_of_another_waits_until_that_is_answered() -> None:
    lab = world()
    assert isinstance(lab.lan(CLIENT, 500, PEER, 500, ike(A, text=b"one")), Got)
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A, text=b"two")) is None
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A, text=b"two again")) is None
    lab.got.clear()
    lab.wan(PEER, 500, 500, ike(A, X))
    assert lab.got == [
        Got(PEER, 500, CLIENT, 500, ike(A, X)),
        Got(WAN, 500, PEER, 500, ike(A, text=b"two again")),
    ]
    assert lab.wan(PEER, 500, 500, ike(A, Y)) == Got(PEER, 500, CLIENT_2, 500, ike(A, Y))
    for client, theirs in ((CLIENT, X), (CLIENT_2, Y)):
        message = ike(A, theirs, exchange=37)
        assert lab.wan(PEER, 500, 500, message) == Got(PEER, 500, client, 500, message)
        assert lab.lan(client, 500, PEER, 500, message) == Got(WAN, 500, PEER, 500, message)
    # Whose it is cannot be told any more.
    assert lab.wan(PEER, 500, 500, ike(A, 3)) is Reason.IKE_COLLISION
    assert lab.wan(PEER, 500, 500, ike(A)) is Reason.IKE_COLLISION


def test_a_client_cannot_speak_in_another_ones_association() -> None:
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A, X)) is Reason.IKE_COLLISION
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))
    assert len(lab.sessions()) == 2
    lab.wait(60.0)
    assert len(lab.sessions()) == 1


def test_the_same_cookie_to_another_peer_is_no_collision() -> None:
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER_2, A, X)


def test_three_clients_with_one_cookie_come_one_after_the_other() -> None:
    lab = world()
    for client in (CLIENT, CLIENT_2, CLIENT_3):
        lab.lan(client, 500, PEER, 500, ike(A))
    for client, theirs in ((CLIENT, 11), (CLIENT_2, 12), (CLIENT_3, 13)):
        assert lab.wan(PEER, 500, 500, ike(A, theirs)) == Got(PEER, 500, client, 500, ike(A, theirs))


def test_who_waits_too_long_is_told_off_and_may_ask_again() -> None:
    lab = world(hold=100.0, unanswered=300.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A)) is None
    lab.wait(50.0)
    assert lab.lan(CLIENT_3, 500, PEER, 500, ike(A)) is None
    lab.wait(50.0)
    assert [d.reason for d in lab.drops] == [Reason.IKE_COLLISION]
    assert lab.drops[0].detail == "10.0.0.3 to 199.0.0.1, cookie aaaaaaaa00000001"
    lab.wait(50.0)
    assert [d.reason for d in lab.drops] == [Reason.IKE_COLLISION] * 2
    assert lab.log[-2:] == ["closed 10.0.0.3: idle", "closed 10.0.0.4: idle"]
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A)) is None


def test_when_the_first_gives_up_the_next_one_has_its_turn() -> None:
    lab = world(hold=100.0, unanswered=60.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(A))
    lab.got.clear()
    lab.wait(60.0)
    assert lab.got == [Got(WAN, 500, PEER, 500, ike(A))]
    assert lab.log[-1] == "closed 10.0.0.2: idle"
    assert lab.wan(PEER, 500, 500, ike(A, Y)) == Got(PEER, 500, CLIENT_2, 500, ike(A, Y))
    lab.wait(100.0)
    assert lab.drops == []


def test_no_more_messages_are_held_than_the_policy_says() -> None:
    lab = world(most_held=1)
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A)) is None
    assert lab.lan(CLIENT_3, 500, PEER, 500, ike(A)) is Reason.IKE_COLLISION


def test_a_held_message_goes_with_its_session() -> None:
    lab = world()
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(A))
    second = lab.udp.ike.session(CLIENT_2, PEER)
    assert second is not None
    lab.perform(lab.udp.kill(second, "killed", now=lab.now))
    lab.got.clear()
    lab.wan(PEER, 500, 500, ike(A, X))
    assert len(lab.got) == 1
    lab.perform(lab.udp.close_all("the end", now=lab.now))
    assert_nothing_left(lab)


def test_killing_who_waits_lets_the_next_one_go() -> None:
    lab = world()
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(A))
    lab.got.clear()
    first = lab.udp.ike.session(CLIENT, PEER)
    assert first is not None
    lab.perform(lab.udp.kill(first, "killed", now=lab.now))
    assert lab.got == [Got(WAN, 500, PEER, 500, ike(A))]
    lab.perform(lab.udp.close_all("the end", now=lab.now))
    assert_nothing_left(lab)


def test_all_that_wait_end_with_everything_else() -> None:
    lab = world()
    for client in (CLIENT, CLIENT_2, CLIENT_3):
        lab.lan(client, 500, PEER, 500, ike(A))
    lab.got.clear()
    lab.perform(lab.udp.close_all("the end", now=lab.now))
    assert lab.got == []
    assert_nothing_left(lab)


def test_a_held_message_leaves_under_the_address_of_its_time() -> None:
    lab = world()
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(A))
    lab.move(WAN_2)
    lab.got.clear()
    lab.wan(PEER, 500, 500, ike(A, X))
    assert lab.got[1] == Got(WAN_2, 500, PEER, 500, ike(A))


# -- the peer begins -----------------------------------------------------------------------------------


def test_a_peers_rekey_goes_to_the_only_client() -> None:
    # RFC 3715 §2.3a, HOWTO §5.7.
    lab = world()
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
    lab = world()
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
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(1.0)
    lab.talk(CLIENT_2, PEER, B, Y)
    assert lab.wan(PEER, 500, 500, ike(5, 6)) == Got(PEER, 500, CLIENT_2, 500, ike(5, 6))
    assert lab.lan(CLIENT, 500, PEER, 500, ike(5, 6)) == Got(WAN, 500, PEER, 500, ike(5, 6))
    assert lab.wan(PEER, 500, 500, ike(5, 6)) == Got(PEER, 500, CLIENT, 500, ike(5, 6))
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(5, 6)) is Reason.IKE_COLLISION


def test_a_late_answer_goes_to_who_still_talks_to_the_peer_or_to_nobody() -> None:
    lab = world(unanswered=60.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.wait(60.0)
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))


def test_a_stranger_gets_one_look_and_leaves_no_trace() -> None:
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    for cookie in range(1, 50):
        assert lab.wan(STRANGER, 500, 500, ike(cookie, 7)) is Reason.IKE_UNKNOWN
    assert len(lab.sessions()) == 1
    assert len(lab.udp.ike._cookies) == 1
    assert lab.wan(STRANGER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN


def test_who_pretends_to_be_the_peer_cannot_push_out_what_the_client_takes_part_in() -> None:
    lab = world(most_unanswered=4)
    lab.talk(CLIENT, PEER, A, X)
    for cookie in range(1, 50):
        assert isinstance(lab.wan(PEER, 500, 500, ike(cookie, 7)), Got)
    (session,) = lab.sessions()
    assert isinstance(session, IkeSession)
    assert len(session.associations) == 5
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))


def test_a_client_with_too_many_associations_loses_the_one_it_used_least() -> None:
    lab = world(most_associations=3)
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
    lab = world()
    assert lab.lan(CLIENT, 500, PEER, 500, payload) is reason
    assert lab.wan(PEER, 500, 500, payload) is reason
    assert lab.sessions() == []


def test_a_zero_cookie_is_named_in_full() -> None:
    lab = world()
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
    lab = world()
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


# -- time ----------------------------------------------------------------------------------------------


def test_a_session_ends_after_its_lifetime() -> None:
    lab = world(lifetime=1800.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(1799.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(A, X))
    lab.wait(1799.0)
    assert len(lab.sessions()) == 1
    lab.wait(1.0)
    assert lab.log[-1] == "closed 10.0.0.2: idle"
    assert_nothing_left(lab)


def test_a_peer_that_speaks_in_a_silent_association_finds_its_host_again() -> None:
    lab = world(lifetime=60.0, memory=3600.0)
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
    lab = world(lifetime=60.0, memory=3600.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(60.0 + 3600.0)
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN


@pytest.mark.parametrize("most", [0, 1])
def test_so_many_silent_associations_are_remembered(most: int) -> None:
    lab = world(lifetime=60.0, most_remembered=most)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(60.0)
    assert (lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN) == (most == 0)


def test_what_an_operator_ends_is_not_remembered() -> None:
    lab = world(lifetime=60.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.wait(60.0)
    lab.lan(CLIENT, 500, PEER, 500, ike(B))
    (session,) = lab.sessions()
    lab.perform(lab.udp.kill(session, "ended", now=lab.now))
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.IKE_UNKNOWN


def test_a_silent_association_comes_back_only_as_the_rules_and_limits_of_now_allow() -> None:
    lab = world(lifetime=60.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    lab.wait(60.0)
    lab.registry.draining = True
    assert lab.wan(PEER, 500, 500, ike(A, X)) is Reason.DRAINING
    lab.registry.draining = False
    lab.reload(policy(replace(STAFF, clients=(Network.parse("10.0.0.2"),))))
    assert lab.wan(PEER, 500, 500, ike(B, Y)) is Reason.IKE_UNKNOWN


def test_data_keeps_the_newest_association_alive() -> None:
    lab = world(lifetime=1800.0)
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
    lab = world(lifetime=400.0, mapping=300.0)
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
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER, B, Y)
    narrower = replace(STAFF, name="one", clients=(Network.parse("10.0.0.3"),))
    lab.reload(policy(narrower))
    (session,) = lab.sessions()
    assert (session.inside, session.rule) == (CLIENT_2, "one")
    assert lab.log[-1] == "closed 10.0.0.2: no longer allowed"
    assert lab.wan(PEER, 500, 500, ike(B, Y)) == Got(PEER, 500, CLIENT_2, 500, ike(B, Y))


def test_a_shorter_lifetime_counts_at_once() -> None:
    lab = world(lifetime=1800.0)
    lab.talk(CLIENT, PEER, A, X)
    lab.reload(policy(STAFF, ipsec=Ipsec(lifetime=100.0)))
    lab.wait(100.0)
    assert_nothing_left(lab)


def test_a_new_public_address_is_taken_over() -> None:
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    lab.move(None)
    assert lab.lan(CLIENT, 500, PEER, 500, ike(A, X)) is Reason.NO_ADDRESS
    lab.move(WAN_2)
    assert lab.lan(CLIENT, 500, PEER, 500, ike(A, X)) == Got(WAN_2, 500, PEER, 500, ike(A, X))
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))
    assert lab.sessions()[0].gateway == WAN_2


# -- exposed servers -----------------------------------------------------------------------------------


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


# -- what is told about ESP ----------------------------------------------------------------------------


def test_ikev2_is_observed_in_both_directions() -> None:
    lab = world()
    lab.talk(CLIENT, PEER, A, X)
    lab.wan(PEER, 500, 500, ike(A, X, exchange=36, message_id=2))
    out, back, child = lab.observed
    assert (out.host, out.peer, out.outbound, out.version, out.exchange) == (CLIENT, PEER, True, 2, 34)
    assert (out.initiator, out.response, out.length, out.encrypted) == (True, False, 28, False)
    assert (back.outbound, back.initiator, back.response) == (False, False, True)
    assert (child.exchange, child.message_id, child.outbound) == (36, 2, False)


def test_in_ikev1_it_is_remembered_who_began() -> None:
    lab = world()
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
    lab = world()
    lab.lan(CLIENT, 500, PEER, 500, ike(A, version=1, exchange=2))
    for number in range(1, 40):
        lab.wan(PEER, 500, 500, quick(A, X, number))
    lab.lan(CLIENT, 500, PEER, 500, quick(A, X, 1))
    assert not lab.observed[-1].response
    lab.lan(CLIENT, 500, PEER, 500, quick(A, X, 39))
    assert lab.observed[-1].response


def test_refused_messages_are_not_observed() -> None:
    lab = world()
    lab.wan(STRANGER, 500, 500, ike(A))
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(A))
    assert len(lab.observed) == 1
