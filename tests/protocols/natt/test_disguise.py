"""Peers as a server sees them under our address."""

import random

from protocols.addr import parse_ip
from protocols.natt.disguise import Disguises
from protocols.policy import Ipsec

SERVER, LAN = parse_ip("10.0.0.9"), parse_ip("10.0.0.1")
PEER, PEER_2 = parse_ip("199.0.0.1"), parse_ip("199.0.0.2")


def test_a_peer_keeps_its_disguise_until_it_is_forgotten() -> None:
    disguises = Disguises(random.Random(1).randrange, lambda: Ipsec(ports=(61000, 61000), port_rest=10.0))
    server = (SERVER, 500)
    assert disguises.show(server, (PEER, 500), LAN) == (LAN, 500)
    assert disguises.show(server, (PEER, 500), LAN) == (LAN, 500)
    assert disguises.show(server, (PEER_2, 500), LAN) == (LAN, 61000)
    assert disguises.show(server, (PEER_2, 501), LAN) is None
    assert disguises.behind(server, (LAN, 61000)) == (PEER_2, 500)
    disguises.forget(server, (PEER, 500), now=0.0)
    disguises.forget(server, (PEER, 500), now=0.0)
    assert disguises.behind(server, (LAN, 500)) is None
    assert disguises.next_deadline() == 10.0
    disguises.expire(now=10.0)
    assert len(disguises) == 1
    disguises.forget(server, (PEER_2, 500), now=10.0)
    disguises.expire(now=20.0)
    assert disguises.next_deadline() is None
    assert len(disguises) == 0
