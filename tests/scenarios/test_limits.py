"""Bounds of tables and rates; what is over them is refused and counted."""

import pytest

from protocols.actions import Side
from protocols.addr import Ip4
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.policy import Limits
from protocols.pptp import messages
from tests.scenarios.arrangements import KEEP, ROUTER, Arrangement, incoming, outgoing
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    PEER_2,
    STAFF,
    STRANGER,
    WAN,
    World,
    assert_nothing_left,
    expose,
    policy,
)


def test_connections_over_the_limit_are_refused_until_one_ends() -> None:
    world = World(policy(STAFF, limits=Limits(sessions=2)))
    first = world.dial(CLIENT, PEER)
    world.dial(CLIENT_2, PEER)
    late = world.dial(Ip4(CLIENT + 7), PEER)
    assert late.closed == "rst"
    assert world.drops[-1].reason is Reason.LIMIT_SESSIONS
    assert world.gateway.refused("staff") == 1
    first.hangs_up()
    assert world.dial(Ip4(CLIENT + 7), PEER).closed is None


def test_connections_that_would_take_too_many_files_are_refused_until_one_ends() -> None:
    world = World(policy(STAFF, limits=Limits(streams=5)))
    first = world.dial(CLIENT, PEER)
    world.dial(CLIENT_2, PEER)
    late = world.dial(Ip4(CLIENT + 7), PEER)
    assert late.closed == "rst"
    assert world.drops[-1].reason is Reason.LIMIT_FILES
    first.hangs_up()
    assert world.dial(Ip4(CLIENT + 7), PEER).closed is None


@pytest.mark.parametrize(("host", "to", "side"), [(CLIENT, PEER, Side.LAN), (PEER, WAN, Side.WAN)])
def test_one_host_has_a_share_and_leaves_the_rest_to_others(host: Ip4, to: Ip4, side: Side) -> None:
    world = World(policy(STAFF, expose(), limits=Limits(sessions_per_client=2)))
    lines = [world.dial(host, to, side=side) for _ in range(3)]
    assert [line.closed for line in lines] == [None, None, "rst"]
    assert world.drops[-1].reason is Reason.LIMIT_PER_HOST
    other = CLIENT_2 if side is Side.LAN else PEER_2
    assert world.dial(other, to, side=side).closed is None


def test_new_connections_come_at_a_limited_rate() -> None:
    world = World(policy(STAFF, limits=Limits(new_per_second=3)))
    lines = [world.dial(Ip4(CLIENT + n), PEER) for n in range(5)]
    assert [line.closed for line in lines] == [None] * 3 + ["rst"] * 2
    assert world.drops[-1].reason is Reason.LIMIT_RATE
    world.now += 1 / 3
    assert world.dial(CLIENT, PEER).closed is None


def test_those_whom_no_rule_admits_use_up_no_rate() -> None:
    world = World(policy(expose(Ip4(CLIENT + 7), "199.0.0.1"), limits=Limits(new_per_second=1)))
    for _ in range(5):
        assert world.dial(STRANGER, WAN, side=Side.WAN).closed == "rst"
    assert world.gateway.drops[Reason.NO_RULE] == 5
    assert world.gateway.refused("office") == 0
    assert world.dial(PEER, WAN, side=Side.WAN).closed is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param(Limits(sessions=2), Reason.LIMIT_SESSIONS, id="sessions"),
        pytest.param(Limits(sessions_per_client=2), Reason.LIMIT_PER_HOST, id="per-host"),
        pytest.param(Limits(new_per_second=2), Reason.LIMIT_RATE, id="rate"),
    ],
)
def test_further_calls_of_a_connection_count(limits: Limits, reason: Reason) -> None:
    world = ROUTER.world(limits)
    dialler, answerer = ROUTER.connect(world)
    first = outgoing(dialler, answerer)
    second = outgoing(dialler, answerer, pns_id=2, pac_id=101)
    dialler.says(messages.OutgoingCallRequest(call_id=3))
    (no,) = dialler.hears()
    assert isinstance(no, messages.OutgoingCallReply)
    assert (no.peer_call_id, no.result, no.error) == (3, 2, 4)
    answerer.says(messages.IncomingCallRequest(call_id=102))
    (sorry,) = answerer.hears()
    assert isinstance(sorry, messages.IncomingCallReply)
    assert (sorry.peer_call_id, sorry.result, sorry.error) == (102, 2, 4)
    assert [d.reason for d in world.drops] == [reason] * 2
    assert first.flows()
    assert second.flows()
    dialler.hangs_up()
    assert_nothing_left(world)


def test_a_client_that_calls_and_clears_in_haste_does_not_use_up_the_ids() -> None:
    world = ROUTER.world(Limits(new_per_second=20))
    dialler, answerer = ROUTER.connect(world)
    for _ in range(100):
        dialler.says(messages.OutgoingCallRequest(call_id=1), messages.CallClearRequest(call_id=1))
    assert len(world.gateway._pptp.ids) <= 20
    assert {d.reason for d in world.drops} == {Reason.LIMIT_RATE, Reason.PPTP_UNKNOWN_CALL}
    world.wait(1.0)
    answerer.receives()
    dialler.receives()
    assert outgoing(dialler, answerer).flows()


@pytest.mark.parametrize("arrangement", [ROUTER, KEEP], ids=lambda a: a.name)
def test_an_answer_that_keeps_changing_its_call_id_ends_its_call(arrangement: Arrangement) -> None:
    world = arrangement.world(Limits(new_per_second=20))
    call = (incoming if arrangement is ROUTER else outgoing)(*arrangement.connect(world))
    for number in range(200, 300):
        if arrangement is ROUTER:
            again = messages.IncomingCallReply(call_id=number, peer_call_id=call.pac_shown)
            call.pns.says(again)
        else:
            call.pac.says(messages.OutgoingCallReply(call_id=number, peer_call_id=call.pns_shown))
    assert len(world.gateway._pptp.ids) <= 20
    assert world.gateway.drops[Reason.NO_CALL_ID] == 1
    assert len(world.gateway._flows) == 0
    call.pns.hangs_up()
    assert_nothing_left(world)


def test_a_lower_limit_of_a_reload_ends_nobody() -> None:
    world = World(policy(STAFF))
    lines = [world.dial(Ip4(CLIENT + n), PEER) for n in range(3)]
    world.perform(world.gateway.reload(policy(STAFF, limits=Limits(sessions=1)), now=world.now))
    assert [line.closed for line in lines] == [None] * 3
    assert world.dial(CLIENT, PEER).closed == "rst"


def test_nobody_is_admitted_without_a_public_address() -> None:
    world = World(policy(STAFF))
    world.gateway.address_changed(Addresses(None, frozenset({LAN})), now=world.now)
    assert world.dial(CLIENT, PEER).closed == "rst"
    assert world.drops[-1].reason is Reason.NO_ADDRESS
