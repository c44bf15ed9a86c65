"""A random walk, judged by a slow model of who owns what: nothing ever reaches a host that is not its owner.

Clients, servers and peers choose cookies and ports from so few that they meet all the time.
"""

import random
from dataclasses import replace

import pytest

from protocols.addr import Ip4, Network
from protocols.drops import Reason
from protocols.policy import Ipsec
from tests.scenarios.udpworld import (
    CLIENT,
    CLIENT_2,
    CLIENT_3,
    PEER,
    PEER_2,
    SERVER,
    STAFF,
    STRANGER,
    WAN,
    Got,
    UdpWorld,
    assert_nothing_left,
    esp,
    expose,
    ike,
    marked,
    policy,
)

CLIENTS = (CLIENT, CLIENT_2, CLIENT_3)
PEERS = (PEER, PEER_2)
EXPOSED_TO = PEER_2
COOKIES = (0xC1, 0xC2, 0xC3)
RULES = policy(
    STAFF,
    expose(SERVER, "199.0.0.2"),
    ipsec=Ipsec(lifetime=300.0, mapping=120.0, ports=(61000, 61007), most_endpoints=2, hold=20.0),
)


class Walk:
    """Hosts that do things at random, and what each of them is entitled to get."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = UdpWorld(RULES, seed=seed)
        #: Who has spoken with full cookies: (peer, initiator's, responder's) to the host.
        self.agreed: dict[tuple[Ip4, int, int], Ip4] = {}
        #: First messages that reached a peer and have not been answered.
        self.asked: list[tuple[Ip4, int, Ip4]] = []
        self.serial = 0x1000
        #: (public port, peer) to the inside endpoint that was last seen to leave from there.
        self.left_from: dict[tuple[int, Ip4], tuple[Ip4, int]] = {}
        self.delivered = 0

    def act(self) -> None:
        often = [self.answer, self.talk, self.data, self.inbound_data]
        self.chance.choice([*often, *often, self.first, self.idle, self.kill, self.stranger, self.serve])()
        self.drain()

    def drain(self) -> None:
        """First messages on their way to a peer, some of them after a wait, are noted with their senders."""
        for got in self.world.got:
            if got.src == WAN and got.src_port == 500 and got.payload[8:16] == bytes(8):
                sender = Ip4(int.from_bytes(got.payload[28:32]))
                self.asked.append((got.dst, int.from_bytes(got.payload[:8]), sender))
        self.world.got.clear()

    def first(self) -> None:
        """A client begins an IKE SA; its name is in the text, for the model only."""
        client, peer = self.chance.choice(CLIENTS), self.chance.choice(PEERS)
        self.world.lan(client, 500, peer, 500, ike(self.chance.choice(COOKIES), text=client.to_bytes(4)))

    def answer(self) -> None:
        """A peer answers the oldest first message that it got, as peers do, with a new cookie."""
        if not self.asked:
            return
        peer, cookie, client = self.asked.pop(0)
        remembered = self.world.udp.ike.session(client, peer)
        claim = self.world.udp.ike._cookies.claim(peer, cookie)
        self.serial += 1
        got = self.world.wan(peer, 500, 500, ike(cookie, self.serial, answer=True))
        still = (
            remembered is not None
            and claim is not None
            and any(a.conversation.relation.host == client for a in claim.associations)
        )
        if isinstance(got, Got) and still:
            # Only one host at a time has a question with this cookie open, so the answer is its.
            waiting = [a for p, c, a in self.asked if (p, c) == (peer, cookie)]
            assert got.dst in (client, *waiting), got
            self.agreed[(peer, cookie, self.serial)] = got.dst
            self.delivered += got.dst == client

    def talk(self) -> None:
        """Both sides speak in an SA that stands; another host tries to."""
        live = {k: h for k, h in self.agreed.items() if self.stands(k, h)}
        if not live:
            return
        key = self.chance.choice(sorted(live))
        peer, mine, theirs = key
        host = live[key]
        message = ike(mine, theirs, exchange=37, text=b"\0" * 4)
        assert self.world.wan(peer, 500, 500, message) == Got(peer, 500, host, 500, message)
        assert self.world.lan(host, 500, peer, 500, message) == Got(WAN, 500, peer, 500, message)
        other = self.chance.choice([client for client in CLIENTS if client != host])
        assert self.world.lan(other, 500, peer, 500, message) is Reason.IKE_COLLISION
        self.delivered += 1

    def stands(self, key: tuple[Ip4, int, int], host: Ip4) -> bool:
        session = self.world.udp.ike.session(host, key[0])
        cookies = getattr(session, "cookies", [])
        return (f"{key[1]:016x}", f"{key[2]:016x}") in cookies

    def data(self) -> None:
        """A client sends data from one of two ports, or keeps its mapping alive."""
        client, peer = self.chance.choice(CLIENTS), self.chance.choice(PEERS)
        port = self.chance.choice([4500, 61002])
        content = self.chance.choice([esp(7), b"\xff", marked(ike(5, 6))])
        got = self.world.lan(client, port, peer, 4500, content, summed=self.chance.choice([0, 1]))
        if isinstance(got, Got):
            assert got.src_port != 4500
            self.left_from[(got.src_port, peer)] = (client, port)
            # REQ-3: nobody else's, whoever the peer.
            users = {who for (public, _), who in self.left_from.items() if public == got.src_port}
            held = {
                t.mapping.host for t in self.world.udp.natt._mappings if t.mapping.public_port == got.src_port
            }
            assert held == {(client, port)}
            assert (client, port) in users

    def inbound_data(self) -> None:
        """A peer sends to any port of ours; whoever gets it has talked to that peer from that port."""
        peer = self.chance.choice([*PEERS, STRANGER])
        port = self.chance.choice([4500, *range(61000, 61008)])
        sport = self.chance.choice([4500, 1024, 1025])
        got = self.world.wan(peer, sport, port, esp(9), summed=self.chance.choice([0, 1]))
        if port == 4500:
            assert (got == Got(peer, sport, SERVER, 4500, esp(9))) == (peer == EXPOSED_TO)
        elif isinstance(got, Got):
            assert (got.dst, got.dst_port) == self.left_from[(port, peer)]
            self.delivered += 1
        else:
            assert got is Reason.UDP_STRANGER

    def serve(self) -> None:
        """The peer of the exposed server begins, and the server answers."""
        self.serial += 1
        cookie = self.serial << 32
        assert self.world.wan(EXPOSED_TO, 500, 500, ike(cookie)) == Got(
            EXPOSED_TO, 500, SERVER, 500, ike(cookie)
        )
        self.world.got.clear()
        answer = ike(cookie, self.serial, answer=True)
        assert isinstance(self.world.lan(SERVER, 500, EXPOSED_TO, 500, answer), Got)
        assert isinstance(self.world.lan(SERVER, 4500, EXPOSED_TO, 4500, esp(1)), Got)

    def stranger(self) -> None:
        """Somebody guesses cookies."""
        for cookie in COOKIES:
            assert self.world.wan(STRANGER, 500, 500, ike(cookie, self.serial)) is Reason.IKE_UNKNOWN

    def idle(self) -> None:
        self.world.wait(self.chance.choice([0.5, 5.0, 30.0, 130.0]))

    def kill(self) -> None:
        sessions = self.world.sessions()
        if sessions and self.chance.random() < 0.3:
            world = self.world
            world.perform(world.udp.kill(self.chance.choice(sessions), "killed", now=world.now))

    def reload(self) -> None:
        narrow = replace(STAFF, clients=(Network.parse("10.0.0.2"), Network.parse("10.0.0.3")))
        self.world.reload(replace(RULES, masquerade=(narrow,)))
        self.world.reload(RULES)


@pytest.mark.parametrize("seed", range(20))
def test_no_datagram_ever_reaches_a_host_that_is_not_its_owner(seed: int) -> None:
    walk = Walk(seed)
    for step in range(400):
        walk.act()
        if step % 100 == 99:
            walk.reload()
    assert walk.delivered > 20
    walk.world.wait(2000.0)
    assert_nothing_left(walk.world)
