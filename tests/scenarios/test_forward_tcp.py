"""Forwarded TCP: who is let in, whom the server sees, how long a connection may say nothing (RFC 5382)."""

import random
from dataclasses import replace

import pytest

from protocols.actions import (
    Action,
    Cut,
    Drop,
    Examine,
    SessionChanged,
    SessionClosed,
    SessionOpened,
    Side,
    Splice,
)
from protocols.addr import UNSPECIFIED, Ip4, Network
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.events import (
    ForwardAccepted,
    ForwardAlive,
    ForwardConnected,
    ForwardEnded,
    ForwardFailed,
    ForwardHalfClosed,
)
from protocols.forward.session import ForwardSession
from protocols.gateway import Gateway
from protocols.policy import Forward, ForwardTimers, Limits, OnChange, Policy, Source
from protocols.sessions import Role, State
from tests.scenarios.world import CLIENT, LAN, LAN_NETWORK, PEER, PEER_2, SERVER, STRANGER, WAN

HOUR, MINUTE = 3600.0, 60.0
WEB = Forward("web", 6, 80, SERVER, 8080, (Network(PEER, 0xFFFFFFFF), Network.parse("10.0.0.0/24")))
POLICY = Policy(lan_networks=(LAN_NETWORK,), forward=(WEB,))
OURS = Addresses(WAN, frozenset({WAN, LAN}))


class House:
    """A gateway with forwards, on a clock that is a number."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.now = 1000.0
        self.gateway = Gateway(policy, OURS, random=random.Random(1).randrange)

    def dial(
        self, peer: Ip4 = PEER, *, side: Side = Side.WAN, port: int = 80, local: Ip4 = WAN
    ) -> tuple[int, list[Action]]:
        """Somebody dials; the connection's number and what follows."""
        stream = self.gateway.new_stream()
        accepted = ForwardAccepted(stream, side, local, port, peer, 40000)
        return stream, self.gateway.forward_event(accepted, now=self.now)

    def stands(self) -> tuple[int, ForwardSession]:
        """A connection that the server has answered."""
        stream, _ = self.dial()
        (changed,) = self.gateway.forward_event(ForwardConnected(stream), now=self.now)
        assert isinstance(changed, SessionChanged)
        assert isinstance(changed.session, ForwardSession)
        return stream, changed.session

    def wait(self, seconds: float) -> list[Action]:
        """Let time go by, waking when asked to; all that follows."""
        end, actions = self.now + seconds, []
        while (due := self.gateway.next_deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            actions += self.gateway.expire(now=self.now)
        self.now = end
        return actions


def the_splice(actions: list[Action]) -> Splice:
    (splice,) = (action for action in actions if isinstance(action, Splice))
    return splice


def test_a_peer_reaches_the_server_which_sees_the_peers_own_address() -> None:
    house = House()
    stream, (opened, splice) = house.dial()
    assert isinstance(opened, SessionOpened)
    session = opened.session
    assert isinstance(session, ForwardSession)
    assert (session.role, session.rule, session.protocol) == (Role.FORWARD, "web", "tcp")
    assert (session.listen, session.peer_port, session.server_port) == ("tcp/80", 40000, 8080)
    assert (session.inside, session.gateway, session.peer) == (SERVER, WAN, PEER)
    assert session.state.value == "connecting"
    assert splice == Splice(
        stream, PEER, SERVER, 8080, transparent=True, toward=session.inbound, back=session.outbound
    )
    assert house.gateway.forward_event(ForwardConnected(stream), now=house.now) == [SessionChanged(session)]
    assert session.state.value == "established"


def test_a_server_may_be_shown_our_address_instead() -> None:
    hidden = replace(WEB, source=Source.GATEWAY)
    splice = the_splice(House(replace(POLICY, forward=(hidden,))).dial()[1])
    assert (splice.source, splice.transparent) == (LAN, False)
    house = House(replace(POLICY, forward=(hidden,)))
    house.gateway.address_changed(Addresses(WAN, frozenset({WAN})), now=house.now)
    assert the_splice(house.dial()[1]).source == UNSPECIFIED


def test_a_neighbour_dials_the_public_address_and_is_shown_under_it() -> None:
    """RFC 5382 REQ-8."""
    splice = the_splice(House().dial(CLIENT, side=Side.LAN)[1])
    assert (splice.source, splice.destination, splice.transparent) == (WAN, SERVER, False)


REFUSED = [
    pytest.param(STRANGER, Side.WAN, 80, WAN, Reason.NO_RULE, id="not-allowed"),
    pytest.param(PEER, Side.WAN, 81, WAN, Reason.NO_RULE, id="other-port"),
    pytest.param(PEER, Side.WAN, 80, LAN, Reason.NO_RULE, id="other-address-of-ours"),
    pytest.param(PEER, Side.LAN, 80, WAN, Reason.SPOOFED, id="outside-address-from-inside"),
    pytest.param(CLIENT, Side.WAN, 80, WAN, Reason.SPOOFED, id="inside-address-from-outside"),
    pytest.param(WAN, Side.WAN, 80, WAN, Reason.OWN_ADDRESS, id="ourselves"),
    pytest.param(SERVER, Side.LAN, 80, WAN, Reason.NO_RULE, id="the-server-itself"),
]


@pytest.mark.parametrize(("peer", "side", "port", "local", "reason"), REFUSED)
def test_who_is_not_let_in_is_cut_and_counted(
    peer: Ip4, side: Side, port: int, local: Ip4, reason: Reason
) -> None:
    house = House()
    stream, (cut, drop) = house.dial(peer, side=side, port=port, local=local)
    assert cut == Cut(stream)
    assert isinstance(drop, Drop)
    assert drop.reason is reason
    assert house.gateway.drops[reason] == 1
    assert list(house.gateway.sessions()) == []


def test_nobody_is_let_in_while_there_is_no_public_address() -> None:
    house = House()
    house.gateway.address_changed(Addresses(None, frozenset({LAN})), now=house.now)
    assert house.dial()[1][1] == Drop(Reason.NO_RULE, "199.0.0.1:40000 to tcp/80")


def test_limits_hold_for_forwards_and_are_told_by_rule() -> None:
    house = House(replace(POLICY, limits=Limits(sessions_per_client=1)))
    house.dial()
    _, (_, drop) = house.dial()
    assert isinstance(drop, Drop)
    assert drop.reason is Reason.LIMIT_PER_HOST
    assert house.gateway.refused("web") == 1


def test_a_server_that_cannot_be_reached_ends_the_session() -> None:
    house = House()
    stream, _ = house.dial()
    drop, closed = house.gateway.forward_event(ForwardFailed(stream, "no answer"), now=house.now)
    assert drop == Drop(Reason.UNREACHABLE, "tcp/80: no answer")
    assert isinstance(closed, SessionClosed)
    assert list(house.gateway.sessions()) == []
    assert house.gateway.next_deadline() is None


def test_a_fin_of_each_end_ends_it() -> None:
    house = House()
    stream, session = house.stands()
    assert house.gateway.forward_event(ForwardHalfClosed(stream), now=house.now) == [SessionChanged(session)]
    assert session.state is State.CLOSING
    (closed,) = house.gateway.forward_event(ForwardEnded(stream, "both have finished"), now=house.now)
    assert closed == SessionClosed(session, "both have finished")
    assert house.gateway.forward_event(ForwardEnded(stream, "late"), now=house.now) == []


# -- time (RFC 5382 REQ-5) -----------------------------------------------------------------------------


def test_an_unanswered_connection_is_given_four_minutes() -> None:
    house = House()
    stream, _ = house.dial()
    assert house.wait(4 * MINUTE - 1) == []
    assert house.wait(1)[0] == Cut(stream)


def test_an_idle_connection_with_a_dead_end_is_given_two_hours_and_four_minutes() -> None:
    house = House()
    stream, session = house.stands()
    assert house.wait(2 * HOUR + 4 * MINUTE - 1) == []
    assert house.wait(1) == [Examine(stream, 7440.0)]
    assert house.wait(10) == [Cut(stream), SessionClosed(session, "idle")]


def test_an_idle_connection_whose_ends_answer_is_never_ended() -> None:
    house = House()
    stream, _ = house.stands()
    for _ in range(12):
        assert house.wait(2 * HOUR + 4 * MINUTE) == [Examine(stream, 7440.0)]
        assert house.gateway.forward_event(ForwardAlive(stream), now=house.now) == []


def test_data_in_either_direction_keeps_it() -> None:
    house = House()
    stream, session = house.stands()
    house.wait(2 * HOUR)
    session.inbound.last_seen = house.now
    assert house.wait(2 * HOUR) == []
    session.outbound.last_seen = house.now
    assert house.wait(2 * HOUR + 4 * MINUTE - 1) == []
    assert house.wait(1) == [Examine(stream, 7440.0)]


def test_a_half_closed_connection_is_kept_while_the_other_half_has_something_to_say() -> None:
    """A client that has said all may wait for a long answer."""
    house = House()
    stream, session = house.stands()
    house.gateway.forward_event(ForwardHalfClosed(stream), now=house.now)
    for _ in range(10):
        assert house.wait(3 * MINUTE) == []
        session.outbound.last_seen = house.now
    assert house.wait(4 * MINUTE) == [Cut(stream), SessionClosed(session, "idle")]


# -- the operator --------------------------------------------------------------------------------------


def test_a_killed_session_is_cut() -> None:
    house = House()
    stream, session = house.stands()
    other, _ = house.dial()
    killed = house.gateway.kill([session.id], now=house.now)
    assert killed == [Cut(stream), SessionClosed(session, "ended by the operator")]
    assert house.gateway.close("the gateway stops", now=house.now)[0] == Cut(other)


def test_a_reload_ends_what_is_no_longer_allowed_and_nothing_else() -> None:
    house = House()
    stream, session = house.stands()
    renamed = replace(WEB, name="www", allow=(Network(PEER, 0xFFFFFFFF), Network(PEER_2, 0xFFFFFFFF)))
    assert house.gateway.reload(replace(POLICY, forward=(renamed,)), now=house.now) == []
    assert session.rule == "www"
    patient = replace(POLICY, forward=(renamed,), forwarding=ForwardTimers(tcp=10.0))
    assert house.gateway.reload(patient, now=house.now) == []
    assert house.wait(10) == [Examine(stream, 10.0)]
    elsewhere = replace(WEB, server=CLIENT)
    gone = house.gateway.reload(replace(POLICY, forward=(elsewhere,)), now=house.now)
    assert gone == [Cut(stream), SessionClosed(session, "no longer allowed")]


@pytest.mark.parametrize("forward", [(), (replace(WEB, allow=()),)], ids=["no-rule", "nobody"])
def test_a_reload_without_the_rule_or_the_peer_ends_it(forward: tuple[Forward, ...]) -> None:
    house = House()
    _, session = house.stands()
    assert house.gateway.reload(replace(POLICY, forward=forward), now=house.now)[1:] == [
        SessionClosed(session, "no longer allowed")
    ]


def test_a_connection_ends_with_the_address_it_was_made_to() -> None:
    house = House()
    stream, session = house.stands()
    moved = Addresses(PEER_2, frozenset({PEER_2, LAN}))
    changed = house.gateway.address_changed(moved, now=house.now)
    assert changed == [Cut(stream), SessionClosed(session, "our address has changed")]


@pytest.mark.parametrize(("on_change", "left"), [(OnChange.CLOSE, 0), (OnChange.KEEP, 1)])
def test_without_an_address_it_ends_or_waits_for_it_as_the_policy_says(
    on_change: OnChange, left: int
) -> None:
    house = House(replace(POLICY, on_change=on_change))
    house.stands()
    house.gateway.address_changed(Addresses(None, frozenset({LAN})), now=house.now)
    house.gateway.address_changed(OURS, now=house.now)
    assert len(list(house.gateway.sessions())) == left
