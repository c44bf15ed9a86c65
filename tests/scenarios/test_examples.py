"""The examples of conf/ that forward: what each of them names reaches its server, as the file says."""

import random
from pathlib import Path

import pytest

from protocols.actions import Side, Splice
from protocols.addr import Ip4, parse_ip
from protocols.events import ForwardAccepted
from protocols.gateway import Gateway
from protocols.policy import Policy
from relay.config import load
from relay.config.convert import policy
from tests.scenarios.forwardworld import OURS, ForwardWorld, Got
from tests.scenarios.world import PEER, WAN

EXAMPLES = Path(__file__).parents[2] / "conf" / "examples"

ROUTER = parse_ip("199.0.0.9")

#: File, what arrives, from whom, at which server and port of its.
TCP = [
    pytest.param("forwards", 80, PEER, "10.0.0.2", 8080, id="HTTP"),
    pytest.param("forwards", 25, PEER, "10.0.0.3", 25, id="SMTP"),
    pytest.param("forwards", 21, PEER, "10.0.0.4", 21, id="FTP-control"),
    pytest.param("fwz", 256, PEER, "10.0.0.2", 256, id="FWZ-control"),
    pytest.param("fwz", 264, PEER, "10.0.0.2", 264, id="FWZ-topology"),
]
#: Nothing of it is looked at: GRE of version 0 that carries IPv4 (RFC 2784), and what is encrypted.
PROTOCOLS = [
    pytest.param("forwards", 47, ROUTER, "10.0.0.5", b"\0\0\x08\0" + bytes(20), id="GRE"),
    pytest.param("fwz", 94, PEER, "10.0.0.2", bytes(range(40)), id="FWZ"),
]


def rules(name: str) -> Policy:
    return policy(load(EXAMPLES / f"{name}.toml"))


@pytest.mark.parametrize(("name", "port", "peer", "server", "its"), TCP)
def test_a_connection(name: str, port: int, peer: Ip4, server: str, its: int) -> None:
    gateway = Gateway(rules(name), OURS, random=random.Random(1).randrange)
    accepted = ForwardAccepted(gateway.new_stream(), Side.WAN, WAN, port, peer, 40000)
    (splice,) = (a for a in gateway.forward_event(accepted, now=0.0) if isinstance(a, Splice))
    assert (splice.source, splice.destination, splice.port) == (peer, parse_ip(server), its)


@pytest.mark.parametrize(("name", "protocol", "peer", "server", "payload"), PROTOCOLS)
def test_a_protocol_both_ways(name: str, protocol: int, peer: Ip4, server: str, payload: bytes) -> None:
    house, inside = ForwardWorld(rules(name)), parse_ip(server)
    got = house.ip(Side.WAN, peer, WAN, payload, protocol=protocol)
    assert got == Got((peer, 0), (inside, 0), payload, fast=False)
    back = house.ip(Side.LAN, inside, peer, payload, protocol=protocol)
    assert back == Got((WAN, 0), (peer, 0), payload, fast=False)


def test_the_key_exchange_of_fwz_both_ways() -> None:
    house, inside = ForwardWorld(rules("fwz")), parse_ip("10.0.0.2")
    got = house.udp(Side.WAN, (PEER, 259), (WAN, 259))
    assert got == Got((PEER, 259), (inside, 259), b"data", fast=False)
    back = house.udp(Side.LAN, (inside, 259), (PEER, 259))
    assert back == Got((WAN, 259), (PEER, 259), b"data", fast=False)
