"""What an operator does to sessions: kills them, reloads other rules, drains and stops the gateway."""

import pytest

from protocols.actions import Side
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.policy import PptpTimers
from protocols.pptp import messages
from tests.scenarios.arrangements import (
    GATEWAY,
    HAIRPIN,
    KEEP,
    RELAYED,
    ROUTER,
    Arrangement,
    in_every_arrangement,
    incoming,
    outgoing,
)
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    SERVER_2,
    STAFF,
    WAN,
    World,
    assert_nothing_left,
    expose,
    policy,
)

BYE = messages.StopRequest(reason=3)


def test_killing_a_further_call_leaves_the_others() -> None:
    other, other_server = ROUTER.connect()
    world = other.world
    elsewhere = outgoing(other, other_server, pns_id=1, pac_id=99)
    dialler, answerer = ROUTER.connect(world)
    first = outgoing(dialler, answerer)
    second = outgoing(dialler, answerer, pns_id=2, pac_id=101)
    third = incoming(dialler, answerer, pns_id=3, pac_id=102)
    session = world.sessions()[2]
    world.perform(world.gateway.kill([session.id], now=world.now))
    assert answerer.hears() == [messages.CallClearRequest(call_id=second.pns_shown)]
    assert dialler.hears() == [messages.CallDisconnectNotify(call_id=101, result=3)]
    assert [call.flows() for call in (elsewhere, first, second, third)] == [True, True, False, True]
    # The PAC's answer to our request is for us.
    answerer.says(messages.CallDisconnectNotify(call_id=101))
    assert dialler.hears() == []
    assert world.closed[0].why == "ended by the operator"


def test_killing_a_session_before_it_is_up_ends_it_without_a_word() -> None:
    world = World(policy(STAFF))
    line = world.dial(CLIENT, PEER)
    (session,) = world.sessions()
    world.perform(world.gateway.kill([session.id], now=world.now))
    assert line.hears() == []
    assert line.closed == "fin"
    assert_nothing_left(world)


def test_a_session_that_is_not_in_any_connection_is_passed_over() -> None:
    call = outgoing(*ROUTER.connect())
    (session,) = call.world.sessions()
    call.pns.hangs_up()
    assert call.world.gateway._pptp.kill(session, "gone already", now=call.world.now) == []


@in_every_arrangement
def test_a_reload_that_still_allows_it_disturbs_nothing(arrangement: Arrangement) -> None:
    call = outgoing(*arrangement.connect())
    world = call.world
    assert world.perform(world.gateway.reload(arrangement.rules, now=world.now)) == []
    addresses = Addresses(WAN, frozenset({WAN, LAN}))
    assert world.perform(world.gateway.address_changed(addresses, now=world.now)) == []
    assert call.flows()


def test_a_reload_under_another_name_renames_the_rule() -> None:
    call = outgoing(*KEEP.connect())
    call.world.gateway.reload(policy(expose(name="headquarters")), now=call.world.now)
    assert call.world.sessions()[0].rule == "headquarters"
    assert call.flows()


def test_a_reload_that_points_elsewhere_ends_the_session() -> None:
    call = outgoing(*KEEP.connect())
    world = call.world
    world.perform(world.gateway.reload(policy(expose(SERVER_2)), now=world.now))
    assert world.closed[0].why == "the rules have changed"
    assert_nothing_left(world)


def test_a_reload_ends_only_what_it_forbids() -> None:
    world = World(policy(STAFF, expose()))
    client, server, shown, _ = world.tunnel(CLIENT, PEER)
    world.tunnel(PEER, WAN, side=Side.WAN)
    world.perform(world.gateway.reload(policy(STAFF), now=world.now))
    assert [s.rule for s in world.sessions()] == ["staff"]
    assert client.got(server.sends(shown), 1)
    assert world.closed[0].why == "no longer allowed: no-rule"


def test_shorter_times_of_a_reload_hold_at_once() -> None:
    call = outgoing(*ROUTER.connect())
    call.world.gateway.reload(policy(STAFF, pptp=PptpTimers(echo_after=20.0)), now=call.world.now)
    call.world.wait(20.0)
    assert len(call.pac.hears()) == 1


def test_draining_takes_no_new_sessions_and_keeps_the_old() -> None:
    call = outgoing(*ROUTER.connect())
    world = call.world
    world.gateway.drain()
    late = world.dial(CLIENT_2, PEER)
    assert late.closed == "rst"
    assert world.drops[-1].reason is Reason.DRAINING
    call.pns.says(messages.OutgoingCallRequest(call_id=2))
    (no,) = call.pns.hears()
    assert isinstance(no, messages.OutgoingCallReply)
    assert no.result == 2
    assert call.flows()
    world.perform(world.gateway.close("the gateway stops", now=world.now))
    assert_nothing_left(world)


@pytest.mark.parametrize("arrangement", [KEEP, GATEWAY, HAIRPIN, RELAYED], ids=lambda a: a.name)
def test_closing_a_busy_gateway_leaves_nothing(arrangement: Arrangement) -> None:
    world = arrangement.world()
    dialler, answerer = arrangement.connect(world)
    outgoing(dialler, answerer)
    outgoing(answerer, dialler, pns_id=9, pac_id=9)
    incoming(dialler, answerer, pns_id=10, pac_id=10)
    arrangement.connect(world)
    arrangement.dial(world)
    world.perform(world.gateway.close("the gateway stops", now=world.now))
    assert len(world.closed) == 5
    assert_nothing_left(world)
