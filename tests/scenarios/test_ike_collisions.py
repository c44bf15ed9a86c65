"""IKE on port 500: clients that chose the same initiator cookie take turns (RFC 2408 §2.5.3)."""

from protocols.drops import Reason
from tests.scenarios.udpworld import (
    CLIENT,
    CLIENT_2,
    CLIENT_3,
    PEER,
    PEER_2,
    WAN,
    WAN_2,
    A,
    Got,
    X,
    Y,
    assert_nothing_left,
    ike,
    staffed,
)


def test_a_client_with_the_cookie_of_another_waits_until_that_is_answered() -> None:
    lab = staffed()
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
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A, X)) is Reason.IKE_COLLISION
    assert lab.wan(PEER, 500, 500, ike(A, X)) == Got(PEER, 500, CLIENT, 500, ike(A, X))
    assert len(lab.sessions()) == 2
    lab.wait(60.0)
    assert len(lab.sessions()) == 1


def test_the_same_cookie_to_another_peer_is_no_collision() -> None:
    lab = staffed()
    lab.talk(CLIENT, PEER, A, X)
    lab.talk(CLIENT_2, PEER_2, A, X)


def test_three_clients_with_one_cookie_come_one_after_the_other() -> None:
    lab = staffed()
    for client in (CLIENT, CLIENT_2, CLIENT_3):
        lab.lan(client, 500, PEER, 500, ike(A))
    for client, theirs in ((CLIENT, 11), (CLIENT_2, 12), (CLIENT_3, 13)):
        assert lab.wan(PEER, 500, 500, ike(A, theirs)) == Got(PEER, 500, client, 500, ike(A, theirs))


def test_who_waits_too_long_is_told_off_and_may_ask_again() -> None:
    lab = staffed(hold=100.0, unanswered=300.0)
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
    lab = staffed(hold=100.0, unanswered=60.0)
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
    lab = staffed(most_held=1)
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    assert lab.lan(CLIENT_2, 500, PEER, 500, ike(A)) is None
    assert lab.lan(CLIENT_3, 500, PEER, 500, ike(A)) is Reason.IKE_COLLISION


def test_a_held_message_goes_with_its_session() -> None:
    lab = staffed()
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
    lab = staffed()
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
    lab = staffed()
    for client in (CLIENT, CLIENT_2, CLIENT_3):
        lab.lan(client, 500, PEER, 500, ike(A))
    lab.got.clear()
    lab.perform(lab.udp.close_all("the end", now=lab.now))
    assert lab.got == []
    assert_nothing_left(lab)


def test_a_held_message_leaves_under_the_address_of_its_time() -> None:
    lab = staffed()
    lab.lan(CLIENT, 500, PEER, 500, ike(A))
    lab.lan(CLIENT_2, 500, PEER, 500, ike(A))
    lab.move(WAN_2)
    lab.got.clear()
    lab.wan(PEER, 500, 500, ike(A, X))
    assert lab.got[1] == Got(WAN_2, 500, PEER, 500, ike(A))
