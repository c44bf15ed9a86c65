"""Odd Call IDs: zero, the highest, and the same number in several places."""

from collections.abc import Callable

import pytest

from protocols.pptp import messages
from tests.scenarios.arrangements import (
    ROUTER,
    Arrangement,
    Call,
    in_every_arrangement,
    incoming,
    outgoing,
)
from tests.scenarios.world import assert_nothing_left


@in_every_arrangement
@pytest.mark.parametrize("begin", [outgoing, incoming])
@pytest.mark.parametrize(("pns_id", "pac_id"), [(0, 0), (0xFFFF, 0xFFFF), (5, 5), (0, 0xFFFF)])
def test_any_call_id_will_do(
    arrangement: Arrangement, begin: Callable[..., Call], pns_id: int, pac_id: int
) -> None:
    call = begin(*arrangement.connect(), pns_id=pns_id, pac_id=pac_id)
    assert call.flows()
    call.pns.says(messages.CallClearRequest(call_id=pns_id))
    call.pac.says(messages.CallDisconnectNotify(call_id=pac_id))
    assert call.pns.hears() == [messages.CallDisconnectNotify(call_id=call.pac_shown)]
    call.pns.hangs_up()
    assert_nothing_left(call.world)


@in_every_arrangement
def test_calls_in_opposite_roles_may_have_the_same_ids_where_their_owners_differ(
    arrangement: Arrangement,
) -> None:
    dialler, answerer = arrangement.connect()
    there = outgoing(dialler, answerer, pns_id=1, pac_id=2)
    back = outgoing(answerer, dialler, pns_id=1, pac_id=2)
    assert there.flows()
    assert back.flows()
    there.pac.says(messages.CallDisconnectNotify(call_id=2))
    assert not there.flows()
    assert back.flows()


def test_a_session_shows_the_ids_of_its_call_whichever_way_it_began() -> None:
    call = incoming(*ROUTER.connect(), pns_id=1, pac_id=100)
    (session,) = call.world.sessions()
    assert session.call_ids == {"client": 1, "gateway": call.pns_shown, "peer": 100}
    dialler, answerer = ROUTER.connect()
    call = outgoing(answerer, dialler, pns_id=100, pac_id=1)
    (session,) = call.world.sessions()
    assert session.call_ids == {"client": 1, "gateway": call.pac_shown, "peer": 100}
