"""Limits reached on purpose in the running daemon: all refusals count, few are logged, and others go on."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.system.home import CLIENT, PEER, PUBLIC, SECOND, Daemon, Home, until
from tests.system.ipsec import ESP, Udp, esp, ike, told

#: Far more than the log has lines for in a minute.
FLOOD = 60
LINES = 10

RULES = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["{PEER}"]
proto = ["ipsec"]

[limits]
sessions_per_client = 3
icmp_per_second = 1

[ipsec]
spis_per_second = 1
most_outbound = 4
most_associations = 3
"""


@pytest.fixture
def daemon(house: Home) -> Iterator[Daemon]:
    running = house.run(RULES)
    yield running
    assert running.stop() == 0


def refusals(daemon: Daemon) -> Counter[str]:
    """How many lines the log has for each reason."""
    lines = [json.loads(line) for line in daemon.log().splitlines()]
    return Counter(line["reason"] for line in lines if line["event"] == "refused")


def test_what_is_over_a_limit_counts_and_a_flood_is_few_lines(house: Home, daemon: Daemon) -> None:
    first, second = house.raw(house.client, ESP), house.raw(house.second, ESP)
    far = house.raw(house.peer, ESP)
    with contextlib.ExitStack() as stack:

        def udp(host: str, port: int) -> Udp:
            opened = Udp(getattr(house, host), port)
            stack.callback(opened.sock.close)
            return opened

        # A client has a tunnel …
        own, peer = udp("client", 500), udp("peer", 500)
        own.send(ike(0xA1), PEER, 500)
        assert peer.receive()[0] == ike(0xA1)
        peer.send(ike(0xA1, 0xA2), PUBLIC, 500)
        own.receive()
        for sequence in range(1, 5):
            esp(first, CLIENT, PEER, 0x1001, sequence)
            assert told(far.receive(protocol=ESP)) == (PUBLIC, PEER, 0x1001, sequence)
            esp(far, PEER, PUBLIC, 0x2001, sequence)
            assert told(first.receive(protocol=ESP)) == (PEER, CLIENT, 0x2001, sequence)
        # … and another, and somebody with the peer's address, go beyond every limit.
        rogue = udp("second", 500)
        esp(second, SECOND, PEER, 0x5000, 1)
        far.receive(protocol=ESP)
        for number in range(FLOOD):
            rogue.send(ike(0xB00 + number), PEER, 500)
            udp("second", 20000 + number).send(ike(0xC00 + number), PEER, 500)
            esp(second, SECOND, PEER, 0x5001 + number, 1)
            esp(second, SECOND, PEER, 0x5000, 2 + number, ttl=1)
            esp(far, PEER, PUBLIC, 0x9000 + number, 9000)
        expected = {"limit-per-host", "icmp-rate", "esp-spi-rate", "esp-forgotten", "ike-forgotten"}
        until(lambda: all(daemon.drops().get(reason, 0) > LINES for reason in expected))
    lines = refusals(daemon)
    assert set(lines) >= expected
    assert all(lines[reason] == LINES for reason in expected), lines
    for sequence in range(100, 110):
        esp(far, PEER, PUBLIC, 0x2001, sequence)
        while (got := told(first.receive(protocol=ESP)))[2] != 0x2001:
            pass
        assert got == (PEER, CLIENT, 0x2001, sequence)
