"""What survives a restart of IPsec and of forwards. (That every story goes on: see ``restarts``.)"""

import random
from dataclasses import replace

import pytest

from protocols.actions import Side
from protocols.addr import Ip4, Network, parse_ip
from protocols.admission import Addresses
from protocols.events import ForwardAccepted
from protocols.gateway import Gateway
from protocols.policy import Forward
from tests.protocols.esp.house import ALICE, BOB, PEER_2, House, rules
from tests.scenarios import restarts
from tests.scenarios.forwardworld import OURS, ForwardWorld, Got
from tests.scenarios.forwardworld import policy as forward_policy
from tests.scenarios.restarts import written
from tests.scenarios.udpworld import STAFF, A, B, UdpWorld, X, Y, esp, expose, policy
from tests.scenarios.udpworld import Got as UdpGot
from tests.scenarios.world import CLIENT, CLIENT_2, PEER, SERVER, WAN

# -- IPsec ---------------------------------------------------------------------------------------------------


def test_peers_that_are_forgotten_meanwhile_are_not_in_it() -> None:
    house = House()
    house.out(ALICE, 1)
    house.out(ALICE, 2, PEER_2)
    records = house.tracker.survival.records()
    assert next(records)[0] == "looking"
    assert next(records)[1].address == PEER
    for contact in house.tracker.contacts():
        assert contact.session is not None
        house.tracker.kill(contact.session, "over", now=house.now)
    assert list(records) == []


@pytest.mark.parametrize(("away", "candidates"), [(0.0, [ALICE]), (20.0, [ALICE, BOB])], ids=["now", "later"])
def test_what_was_agreed_on_while_we_were_away_counts(away: float, candidates: list[Ip4]) -> None:
    house = House()
    before, after = (
        Gateway(rules(), Addresses(WAN, frozenset({WAN})), random=random.Random(1).randrange)
        for _ in range(2)
    )
    house.tracker, house.flows = before.esp, before.esp._flows
    before.esp.ledger.begin(now=house.now - 1e6)
    for host, out, back in ((ALICE, 0xA1, 0xA2), (BOB, 0xB1, 0xB2)):
        house.agree(host)
        house.out(host, out)
        assert house.back(back) == [host]
    taken = written(before.snapshot(now=house.now))
    house.now += away
    after.restore(taken, now=house.now)
    house.tracker, house.flows = after.esp, after.esp._flows
    house.rekey(ALICE)
    got = house.back(0xA4)
    assert isinstance(got, list)
    assert sorted(got) == candidates


def test_told_pairs_are_kept() -> None:
    house = House()
    house.tracker.tell(PEER, 0xBEEF, ALICE, lifetime=100, now=house.now)
    house.tracker.tell(PEER, 0xCAFE, BOB, lifetime=100, now=house.now)
    twin = restarts.esp_again(house.tracker, house.now)
    assert [told.host for told in twin.told()] == [ALICE, BOB]


def test_a_port_that_has_another_owner_now_stays_with_it() -> None:
    world = UdpWorld(policy(STAFF))
    world.talk(CLIENT, PEER, A, X)
    port = world.float(CLIENT, PEER, A, X)
    records = restarts.again(world.udp.records(), world.now)
    twin = restarts.udp_again(world.udp, world.now)
    for record in records:
        if record[0] == "mapping":
            twin.adopt(*record)
    assert twin.natt.owner(port) == CLIENT
    assert len(twin.natt.sessions(CLIENT, PEER)) == 1


@pytest.mark.parametrize("lost", [None, CLIENT, SERVER], ids=["neither", "the-clients", "the-servers"])
def test_a_hairpin_goes_on_if_both_of_its_talks_do(lost: Ip4 | None) -> None:
    world = UdpWorld(policy(expose(SERVER, "10.0.0.0/24")))
    data = world.lan(CLIENT, 4500, WAN, 4500, esp(1))
    assert isinstance(data, UdpGot)
    assert isinstance(world.lan(SERVER, 4500, WAN, data.src_port, esp(2)), UdpGot)
    records = restarts.again(world.udp.records(), world.now)
    world.udp.close_all("over", now=world.now)
    twin = restarts.udp_again(world.udp, world.now)
    for kind, *record in records:
        if kind != "mapping" or record[0].host[0] != lost:
            twin.adopt(kind, *record)
    assert len(twin.natt.flows) == (2 if lost is None else 0)


def test_talks_that_end_while_a_snapshot_is_taken_are_not_in_it() -> None:
    world = UdpWorld(policy(STAFF))
    for client, mine, theirs in ((CLIENT, A, X), (CLIENT_2, B, Y)):
        world.talk(client, PEER, mine, theirs)
        world.float(client, PEER, mine, theirs)
    records = world.udp.natt.records()
    assert [next(records)[0], next(records)[0]] == ["ports", "mapping"]
    world.udp.close_all("over", now=world.now)
    assert list(records) == []


# -- forwards ------------------------------------------------------------------------------------------------


def test_forwarded_connections_whose_sockets_are_gone_are_forgotten() -> None:
    world, stream = forwarded()
    taken = written(world.gateway.snapshot(now=world.now))
    for streams, left in ((frozenset[int](), 2), ({stream}, 3)):
        gateway = Gateway(WEB_AND_MORE, OURS, random=random.Random(1).randrange)
        gateway.restore(taken, streams=streams, now=world.now)
        assert len(list(gateway.sessions())) == left


def test_forwards_that_end_while_a_snapshot_is_taken_are_not_in_it() -> None:
    world, _ = forwarded()
    records = world.gateway._forwards.records()
    assert next(records)[0] == "tcp"
    others = world.gateway._forwards.records()
    world.gateway._forwards.close_all("over", now=world.now)
    assert list(records) == []
    assert [kind for kind, *_ in others] == []


@pytest.mark.parametrize("rule", ["web", "time", "fwz"])
def test_a_forward_that_ends_after_another_one_was_written_is_not_in_it(rule: str) -> None:
    world, _ = forwarded(PEER, PEER_3)
    kind = {"web": "tcp", "time": "udp", "fwz": "ip"}[rule]
    records = (record for record in world.gateway._forwards.records() if record[0] == kind)
    next(records)
    ended = [s.id for s in world.sessions if s.rule == rule]
    world.gateway.kill(ended, now=world.now)
    assert list(records) == []


def test_forwards_that_are_written_twice_are_there_once() -> None:
    world, stream = forwarded()
    taken = world.gateway.snapshot(now=world.now)
    gateway = Gateway(WEB_AND_MORE, OURS, random=random.Random(1).randrange)
    twice = replace(taken, records=taken.records * 2)
    gateway.restore(written(twice), streams={stream}, now=world.now)
    assert len(list(gateway.sessions())) == 3


ANY = (Network.parse("any"),)
WEB_AND_MORE = forward_policy(
    Forward("web", 6, 80, SERVER, 8080, ANY),
    Forward("time", 17, 123, SERVER, 123, ANY),
    Forward("fwz", 94, 0, SERVER, 0, ANY),
)
PEER_3 = parse_ip("199.0.0.3")


def forwarded(*peers: Ip4) -> tuple[ForwardWorld, int]:
    """A session by each kind of forward for each peer; the last stream."""
    world, stream = ForwardWorld(WEB_AND_MORE), 0
    for peer in peers or (PEER,):
        stream = world.gateway.new_stream()
        accepted = ForwardAccepted(stream, Side.WAN, WAN, 80, peer, 40000)
        world.note(world.gateway.forward_event(accepted, now=world.now))
        assert isinstance(world.udp(Side.WAN, (peer, 40000), (WAN, 123)), Got)
        assert isinstance(world.ip(Side.WAN, peer, WAN), Got)
    return world, stream
