"""What survives a restart of calls, and what becomes of the rest.

That every story goes on: see ``restarts``.
"""

import random
from dataclasses import replace
from typing import Any

import pytest

from protocols import ipv4
from protocols.actions import Action, SessionClosed, Side, StreamClose, StreamWrite
from protocols.addr import Ip4, parse_ip
from protocols.admission import Addresses
from protocols.allocator import CallIds
from protocols.drops import Reason
from protocols.gateway import Gateway
from protocols.gre.codec import EnhancedGre
from protocols.policy import Policy, PptpTimers
from protocols.pptp import messages
from protocols.sessions import State
from protocols.snapshot import Snapshot, snapshot
from protocols.snapshot.graph import SnapshotError
from tests.scenarios.carrier import Carrier
from tests.scenarios.restarts import written
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    PEER,
    STAFF,
    WAN,
    Line,
    World,
    assert_nothing_left,
    policy,
    shown,
)


def restart(
    world: World, *lines: Line, rules: Policy | None = None, wan: int | None = WAN, in_step: bool = True
) -> list[Action]:
    """Another gateway takes the place of the world's; of the TCP connections only these are left."""
    taken = written(world.gateway.snapshot(now=world.now))
    admission = world.gateway._admission
    addresses = admission.addresses if wan == WAN else Addresses(wan, frozenset({wan}))  # type: ignore[arg-type]
    world.kernel = Carrier()
    world.heeded.clear()
    world.gateway = Gateway(
        rules or admission.policy,
        addresses,
        random=world.random.randrange,
        carried=world.read,
        selective=True,
    )
    for line in world.lines.values():
        if line not in lines and line.closed is None:
            line.closed = "lost"
    world.dialled.clear()
    streams = {line.stream for line in lines}
    actions = world.gateway.restore(taken, streams=streams, in_step=in_step, now=world.now)
    return world.perform(actions)


def test_data_of_a_call_whose_connection_is_gone_flows_for_two_minutes() -> None:
    world = World(policy(STAFF))
    client, server, _, pac = world.tunnel(CLIENT, PEER)
    restart(world)
    assert [s.state for s in world.sessions()] == [State.ESTABLISHED]
    (session,) = world.sessions()
    assert shown(client.sends(pac)) == ("200.200.200.200", "199.0.0.1", 100)
    assert server.got(client.sends(pac), 100)
    world.wait(119)
    assert server.got(client.sends(pac), 100)
    world.wait(2)
    assert client.sends(pac) is Reason.STRANGER
    assert world.closed == [SessionClosed(session, "its control connection is gone")]
    assert_nothing_left(world)


def test_a_second_restart_gives_no_second_respite() -> None:
    world = World(policy(STAFF))
    client, _, _, pac = world.tunnel(CLIENT, PEER)
    restart(world)
    world.wait(100)
    restart(world)
    world.wait(19)
    assert isinstance(client.sends(pac), bytes)
    world.wait(2)
    assert client.sends(pac) is Reason.STRANGER
    assert_nothing_left(world)


def test_the_id_of_an_orphan_is_not_given_to_another_call() -> None:
    world = World(policy(STAFF))
    _, _, pns, _ = world.tunnel(CLIENT, PEER)
    restart(world)
    world.gateway._pptp.ids._random = lambda _: pns - 1
    *_, other, _ = world.tunnel(CLIENT_2, PEER, pac_id=101)
    assert other == pns + 1


def test_what_has_no_established_call_does_not_become_an_orphan() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    restart(world)
    assert world.sessions() == []
    client = world.dial(CLIENT, PEER)
    server = world.answer()
    world.start(client, server)
    client.says(messages.OutgoingCallRequest(call_id=1))
    restart(world)
    assert_nothing_left(world)


def test_calls_end_as_orphans_one_by_one() -> None:
    world = World(policy(STAFF))
    client, server, _, _ = world.tunnel(CLIENT, PEER)
    _, second = world.call(client, server, pns_id=2, pac_id=200)
    restart(world)
    one, two = world.sessions()
    world.perform(world.gateway.kill([two.id], now=world.now))
    assert client.sends(second) is Reason.UNKNOWN_CALL
    assert world.sessions() == [one]
    world.perform(world.gateway.kill(["pffff", one.id], now=world.now))
    assert_nothing_left(world)


def test_killing_something_else_leaves_an_orphan_alone() -> None:
    world = World(policy(STAFF))
    world.tunnel(CLIENT, PEER)
    restart(world)
    (orphan,) = world.sessions()
    world.dial(CLIENT_2, PEER)
    other = next(s for s in world.sessions() if s is not orphan)
    world.perform(world.gateway.kill([other.id], now=world.now))
    assert world.sessions() == [orphan]
    world.perform(world.gateway.close("the gateway stops", now=world.now))
    assert_nothing_left(world)


def test_an_orphan_lives_by_the_rules_and_the_address_of_now() -> None:
    world = World(policy(STAFF))
    client, _, _, pac = world.tunnel(CLIENT, PEER)
    restart(world)
    renamed = replace(STAFF, name="crew")
    world.perform(world.gateway.reload(policy(renamed), now=world.now))
    assert [s.rule for s in world.sessions()] == ["crew"]
    longer = policy(renamed, pptp=PptpTimers(orphan=300))
    world.perform(world.gateway.reload(longer, now=world.now))
    world.wait(200)
    assert isinstance(client.sends(pac), bytes)
    restart(world, rules=policy())
    assert world.sessions() == []
    assert_nothing_left(world)


def test_a_connection_of_which_half_is_left_ends_politely() -> None:
    world = World(policy(STAFF))
    client, *_ = world.tunnel(CLIENT, PEER)
    actions = restart(world, client)
    farewell = messages.StopRequest(reason=1).to_bytes()
    assert StreamWrite(client.stream, farewell) in actions
    assert client.closed == "fin"
    assert_nothing_left(world)


def test_a_connection_that_was_being_made_is_made_again() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    client.says(messages.StartRequest())
    (before,) = world.dialled
    restart(world, client)
    assert world.dialled == [before]
    assert world.answer().hears() == [messages.StartRequest()]


def test_connections_that_nobody_remembers_are_reset() -> None:
    world = World(policy(STAFF))
    taken = world.gateway.snapshot(now=world.now)
    line = world.dial(CLIENT, PEER)
    world.gateway = Gateway(policy(STAFF), world.gateway._admission.addresses, random=world.random.randrange)
    assert world.gateway.restore(taken, streams={line.stream}, now=world.now) == [
        StreamClose(line.stream, abort=True)
    ]


def test_half_a_message_waits_for_its_other_half() -> None:
    world = World(policy(STAFF))
    client, server, _, _ = world.tunnel(CLIENT, PEER)
    echo = messages.EchoRequest(identifier=7).to_bytes()
    client.says(echo[:9])
    restart(world, client, server)
    client.says(echo[9:])
    assert server.hears() == [messages.EchoRequest(identifier=7)]


def test_a_restart_with_another_address_ends_what_was_bound_to_the_old_one() -> None:
    world = World(policy(STAFF))
    client, server, _, _ = world.tunnel(CLIENT, PEER)
    restart(world, client, server, wan=parse_ip("200.200.200.201"))
    assert (client.closed, server.closed) == ("fin", "rst")
    assert_nothing_left(world)


def test_what_sessions_have_carried_is_not_forgotten() -> None:
    world = World(policy(STAFF))
    client, _server, _, pac = world.tunnel(CLIENT, PEER)
    client.sends(pac)
    world.perform(world.gateway.kill([world.sessions()[0].id], now=world.now))
    restart(world)
    assert world.gateway.registry.carried_outbound.packets == 1


def test_records_that_contradict_each_other_do_no_harm() -> None:
    """Between two records the gateway goes on: what has ended may be there, and its successor as well."""
    world = World(policy(STAFF))
    world.tunnel(CLIENT, PEER)
    taken = world.gateway.snapshot(now=world.now)
    twice = replace(taken, records=taken.records * 2)
    gateway = Gateway(policy(STAFF), world.gateway._admission.addresses, random=random.Random(1).randrange)
    gateway.restore(twice, now=world.now)
    assert len(list(gateway.sessions())) == 1
    assert len(gateway._flows) == 2


def test_sessions_that_had_the_same_id_one_after_the_other_are_told_apart() -> None:
    world = World(policy(STAFF))
    world.tunnel(CLIENT, PEER)
    other = World(policy(STAFF))
    other.tunnel(CLIENT_2, parse_ip("199.0.0.2"))
    both = [w.gateway.snapshot(now=1000.0) for w in (world, other)]
    gateway = Gateway(policy(STAFF), world.gateway._admission.addresses, random=random.Random(1).randrange)
    gateway.restore(replace(both[0], records=both[0].records + both[1].records), now=1000.0)
    assert len({session.id for session in gateway.sessions()}) == 2


def fresh() -> tuple[Gateway, Snapshot]:
    world = World(policy(STAFF))
    world.tunnel(CLIENT, PEER)
    world.dial(CLIENT_2, PEER, side=Side.LAN)
    gateway = Gateway(policy(STAFF), world.gateway._admission.addresses, random=world.random.randrange)
    return gateway, written(world.gateway.snapshot(now=world.now))


def record(value: Any) -> list[Any]:
    return [["t", *value]]


WRONG = [
    pytest.param({"version": 2}, "version 2; this program reads version 1", id="a version to come"),
    pytest.param({"schema": {}}, "another version", id="no schema"),
    pytest.param({"records": ([],)}, "cannot be read", id="no record"),
    pytest.param({"records": (["pptp"],)}, "for nobody", id="not a tuple"),
    pytest.param({"records": (record([]),)}, "for nobody", id="an empty one"),
    pytest.param({"records": (record([7]),)}, "for nobody", id="no name"),
    pytest.param({"records": (record(["moon", "dust"]),)}, "not what it says", id="an unknown part"),
    pytest.param({"records": (record(["udp", "moon"]),)}, "not what it says", id="an unknown kind"),
    pytest.param({"records": (record(["pptp", "connection", 1, 2]),)}, "not what it says", id="other things"),
    pytest.param({"records": (record(["carried", 1]),)}, "not what it says", id="too few"),
]


@pytest.mark.parametrize(("change", "why"), WRONG)
def test_what_is_no_snapshot_of_ours_is_refused(change: dict[str, Any], why: str) -> None:
    gateway, taken = fresh()
    with pytest.raises(SnapshotError, match=why):
        gateway.restore(replace(taken, **change), now=1000.0)


# -- between two records the gateway goes on ---------------------------------------------------------------


def taken_while(world: World, happens: Any) -> Snapshot:
    """A snapshot behind whose first connection something happens."""
    records = world.gateway.records()
    carried, resting, connection = (next(records) for _ in range(3))
    happens()
    return written(snapshot((carried, resting, connection, *records), now=world.now))


def test_connections_that_end_while_a_snapshot_is_taken_are_not_in_it() -> None:
    world = World(policy(STAFF))
    world.tunnel(CLIENT, PEER)
    client, *_ = world.tunnel(CLIENT_2, PEER, pac_id=101)
    taken = taken_while(world, client.hangs_up)
    gateway = Gateway(policy(STAFF), world.gateway._admission.addresses, random=world.random.randrange)
    actions = gateway.restore(taken, streams={client.stream}, now=world.now)
    assert StreamClose(client.stream, abort=True) in actions
    assert [session.inside for session in gateway.sessions()] == [CLIENT]


def test_resting_ids_that_are_in_use_again_do_not_rest() -> None:
    ids = CallIds(random.Random(1).randrange, ghost=240, capacity=10)
    assert ids.reserve(PEER, WAN, 7)
    assert not ids.reserve(PEER, WAN, 7)
    ids.rest_until(5.0, (PEER, WAN), 7)
    ids.expire(now=10.0)
    assert ids.taken(PEER, WAN, 7)
    ids.rest_until(15.0, (PEER, WAN), 8)
    assert ids.resting() == [(15.0, (PEER, WAN), 8)]


# -- a crash that connections survive ---------------------------------------------------------------------


def test_a_call_goes_on_though_what_was_just_being_said_is_lost() -> None:
    world = World(policy(STAFF))
    client, server, pns, pac = world.tunnel(CLIENT, PEER)
    # Half a message has been read, and half of it not; a probe may have been answered, and nobody knows.
    world.wait(61)
    assert [type(message) for message in (*client.hears(), *server.hears())] == [messages.EchoRequest] * 2
    echo = messages.EchoRequest(identifier=7)
    client.says(echo.to_bytes()[:9])
    restart(world, client, server, in_step=False)
    assert client.says(echo.to_bytes()[9:], echo)[0] == StreamWrite(server.stream, echo.to_bytes())
    assert server.hears() == [echo]
    world.wait(59)
    assert (client.closed, server.closed) == (None, None)
    assert server.got(client.sends(pac), 100)
    client.says(messages.CallClearRequest(call_id=1))
    assert server.hears() == [messages.CallClearRequest(call_id=pns)]


def test_a_connection_that_a_crash_finds_half_made_is_closed() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    server = world.answer()
    restart(world, client, server, in_step=False)
    assert (client.closed, server.closed) == ("fin", "fin")
    assert world.sessions() == []
    assert_nothing_left(world)


# -- while another process takes over ---------------------------------------------------------------------


def test_data_is_carried_as_long_as_nothing_else_has_to_be_done() -> None:
    world = World(policy(STAFF))
    client, _, pns, pac = world.tunnel(CLIENT, PEER)
    outbound = _whole(client.host, client.correspondent, pac)
    inbound = _whole(PEER, WAN, pns)
    for side, packet, target in ((Side.LAN, outbound, PEER), (Side.WAN, inbound, CLIENT)):
        buffer = bytearray(packet)
        assert world.gateway.carry(side, buffer, len(buffer), now=world.now) == target
    unknown = bytearray(_whole(PEER, WAN, pns ^ 1))
    before = bytes(unknown)
    assert world.gateway.carry(Side.WAN, unknown, len(unknown), now=world.now) is None
    assert bytes(unknown) == before
    assert not any(world.gateway.drops.values())


def _whole(src: Ip4, dst: Ip4, call_id: int) -> bytes:
    payload = EnhancedGre(call_id=call_id, seq=1, payload=b"data").to_bytes()
    return ipv4.build(src=src, dst=dst, protocol=ipv4.GRE, payload=payload)
