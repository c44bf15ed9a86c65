"""Calls that do not come about: refused by an end, or by us because there is no Call ID left."""

import pytest

from protocols.addr import Ip4
from protocols.drops import Reason
from protocols.policy import Limits
from protocols.pptp import messages
from protocols.pptp.codes import GeneralError, OutgoingCallResult
from protocols.sessions import State
from tests.scenarios.arrangements import (
    GATEWAY,
    KEEP,
    ROUTER,
    Arrangement,
    in_every_arrangement,
    incoming,
    outgoing,
)
from tests.scenarios.world import PEER, STAFF, World, assert_nothing_left, policy

OCRQ = messages.OutgoingCallRequest(call_id=1)
ICRQ = messages.IncomingCallRequest(call_id=100)
NO_OUTGOING = messages.OutgoingCallReply(
    peer_call_id=1, result=OutgoingCallResult.GENERAL_ERROR, error=GeneralError.NO_RESOURCE
)
NO_INCOMING = messages.IncomingCallReply(peer_call_id=100, result=2, error=GeneralError.NO_RESOURCE)


def ids_in_use(world: World) -> int:
    return len(world.gateway._pptp.ids)


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [2, 3, 4, 5, 6, 7, 0, 99])
@in_every_arrangement
def test_a_refused_call_frees_its_id_at_once(arrangement: Arrangement, result: int) -> None:
    pns, pac = arrangement.connect()
    before = ids_in_use(pns.world)
    pns.says(OCRQ)
    (request,) = pac.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    no = messages.OutgoingCallReply(call_id=0, peer_call_id=request.call_id, result=result, cause_code=17)
    pac.says(no)
    assert pns.hears() == [
        messages.OutgoingCallReply(call_id=0, peer_call_id=1, result=result, cause_code=17)
    ]
    assert ids_in_use(pns.world) == before
    assert len(pns.world.gateway._flows) == 0
    assert pns.world.sessions()[0].state is State.CONTROL
    assert pac.sends(request.call_id) is Reason.STRANGER
    assert outgoing(pns, pac).flows()


@pytest.mark.parametrize("result", [2, 3])
@in_every_arrangement
def test_a_refused_incoming_call_frees_its_id_at_once(arrangement: Arrangement, result: int) -> None:
    pns, pac = arrangement.connect()
    pac.says(ICRQ)
    (request,) = pns.hears()
    assert isinstance(request, messages.IncomingCallRequest)
    pns.says(messages.IncomingCallReply(call_id=0, peer_call_id=request.call_id, result=result))
    assert pac.hears() == [messages.IncomingCallReply(call_id=0, peer_call_id=100, result=result)]
    assert ids_in_use(pns.world) == 0
    assert incoming(pns, pac).flows()


def test_an_id_freed_by_a_refusal_can_be_given_out_again_at_once() -> None:
    pns, pac = ROUTER.connect()
    ids = pns.world.gateway._pptp.ids
    ids._random = lambda n: 7
    pns.says(OCRQ)
    assert pac.hears() == [messages.OutgoingCallRequest(call_id=8)]
    pac.says(messages.OutgoingCallReply(peer_call_id=8, result=4))
    pns.says(messages.OutgoingCallRequest(call_id=2))
    assert pac.hears() == [messages.OutgoingCallRequest(call_id=8)]


def test_a_call_that_is_refused_after_it_was_answered_rests() -> None:
    call = outgoing(*GATEWAY.connect())
    call.pac.says(messages.OutgoingCallReply(peer_call_id=call.pns_shown, result=2))
    assert not call.flows()
    assert ids_in_use(call.world) == 2
    assert call.pac.sends(call.pns_shown) is Reason.CALL_ENDED
    call.pns.hangs_up()
    assert_nothing_left(call.world)


# -- no more room ------------------------------------------------------------------------------------------


def exhausted(arrangement: Arrangement, *, towards: Ip4, seen: Ip4) -> World:
    """A world whose whole ID space towards one receiver is taken."""
    world = arrangement.world(Limits(sessions=100_000))
    while world.gateway._pptp.ids.take(towards, seen) is not None:
        pass
    return world


def test_without_a_free_id_an_outgoing_call_is_refused() -> None:
    world = exhausted(ROUTER, towards=PEER, seen=Ip4(0xC8C8C8C8))
    pns, pac = ROUTER.connect(world)
    pns.says(OCRQ)
    assert pns.hears() == [NO_OUTGOING]
    assert pac.hears() == []
    assert world.drops[-1].reason is Reason.NO_CALL_ID
    assert len(world.gateway._flows) == 0
    assert world.sessions()[0].state is State.CONTROL


def test_without_a_free_id_an_incoming_call_is_refused() -> None:
    world = exhausted(KEEP, towards=PEER, seen=Ip4(0xC8C8C8C8))
    pns, pac = KEEP.connect(world)
    pac.says(ICRQ)
    assert pac.hears() == [NO_INCOMING]
    assert pns.hears() == []
    assert world.drops[-1].reason is Reason.NO_CALL_ID


def test_without_a_free_id_for_the_reply_both_ends_are_told() -> None:
    world = exhausted(KEEP, towards=PEER, seen=Ip4(0xC8C8C8C8))
    pns, pac = KEEP.connect(world)
    pns.says(OCRQ)
    assert pac.hears() == [OCRQ]
    pac.says(messages.OutgoingCallReply(call_id=100, peer_call_id=1))
    assert pac.hears() == [messages.CallClearRequest(call_id=1)]
    assert pns.hears() == [NO_OUTGOING]
    assert world.drops[-1].reason is Reason.NO_CALL_ID
    assert len(world.gateway._flows) == 0


def test_without_a_free_id_for_the_reply_to_an_incoming_call_both_ends_are_told() -> None:
    world = exhausted(ROUTER, towards=PEER, seen=Ip4(0xC8C8C8C8))
    pns, pac = ROUTER.connect(world)
    pac.says(ICRQ)
    assert pns.hears() == [ICRQ]
    pns.says(messages.IncomingCallReply(call_id=1, peer_call_id=100))
    assert pns.hears() == [messages.CallDisconnectNotify(call_id=100, result=3)]
    assert pac.hears() == [NO_INCOMING]
    assert len(world.gateway._flows) == 0


def test_capacity_follows_the_limit_of_sessions() -> None:
    world = ROUTER.world(Limits(sessions=1))
    assert world.gateway._pptp.ids.capacity == 2
    world.gateway.reload(policy(STAFF, limits=Limits(sessions=5)), now=world.now)
    assert world.gateway._pptp.ids.capacity == 10
