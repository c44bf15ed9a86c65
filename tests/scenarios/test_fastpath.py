"""When flows go to the kernel, and when they come back."""

from dataclasses import replace

import pytest

from protocols.drops import Reason
from protocols.policy import Policy
from protocols.pptp import messages
from tests.scenarios.arrangements import Arrangement, in_every_arrangement
from tests.scenarios.world import CLIENT, PEER, STAFF, WAN, World, assert_nothing_left, policy


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "fast", True)


@in_every_arrangement
def test_both_ways_of_a_call_are_the_kernels_once_it_stands(arrangement: Arrangement) -> None:
    pns, pac = arrangement.connect()
    world = pns.world
    pns.says(messages.OutgoingCallRequest(call_id=1))
    assert len(world.kernel) == 0
    (request,) = pac.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    pac.says(messages.OutgoingCallReply(call_id=100, peer_call_id=request.call_id, result=1))
    (session,) = world.sessions()
    assert (len(world.kernel), session.offloaded) == (2, 2)
    (reply,) = pns.hears()
    assert isinstance(reply, messages.OutgoingCallReply)
    assert pac.got(pns.sends(reply.call_id), 100)
    assert pns.got(pac.sends(request.call_id), 1)
    assert world.kernel.packets == 2
    assert (session.outbound.packets, session.inbound.packets) == (1, 1)
    pns.hangs_up()
    assert len(world.kernel) == 0
    assert (session.outbound.packets, session.inbound.packets) == (1, 1)
    world.wait(world.gateway._pptp._timers.closing)
    world.lines = {stream: line for stream, line in world.lines.items() if line is not pns}
    assert_nothing_left(world)


def established(rules: Policy | None = None) -> tuple[World, int]:
    world = World(rules or policy(STAFF))
    client, _, _, server_id = world.tunnel(CLIENT, PEER)
    assert isinstance(client.sends(server_id), bytes)
    return world, server_id


def test_a_rule_keeps_its_flows_in_user_space_and_may_change_its_mind() -> None:
    kept = policy(replace(STAFF, fastpath=False))
    world, _ = established(kept)
    assert len(world.kernel) == 0
    world.perform(world.gateway.reload(policy(STAFF), now=world.now))
    assert len(world.kernel) == 2
    world.perform(world.gateway.reload(kept, now=world.now))
    assert len(world.kernel) == 0


def test_what_the_kernel_has_no_room_for_stays_ours() -> None:
    world, server_id = established()
    (session,) = world.sessions()
    world.gateway.offload_refused(1)
    world.gateway.offload_refused(2)
    assert session.offloaded == 0
    world.kernel.__init__()  # type: ignore[misc]
    assert isinstance(world.gre(world.lines[1].side, CLIENT, PEER, server_id), bytes)
    assert session.outbound.packets == 2


def test_what_is_counted_by_the_kernel_is_known_apart() -> None:
    world, server_id = established()
    carried = world.gateway.offloads
    assert (carried.outbound.packets, carried.inbound.packets) == (1, 0)
    world.gre(world.lines[1].side, CLIENT, PEER, server_id, ttl=1)
    assert (carried.outbound.packets, carried.inbound.packets) == (1, 0)


def test_no_call_is_the_kernels_while_there_is_no_address() -> None:
    world, server_id = established()
    world.move(None)
    assert len(world.kernel) == 0
    assert world.gre(world.lines[1].side, CLIENT, PEER, server_id) in (Reason.NO_ADDRESS, Reason.CALL_ENDED)
    world.move(WAN)
    assert len(world.kernel) == 0
