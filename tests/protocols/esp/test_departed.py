"""Every packet that leaves is found again by what an ICMP error quotes of it."""

import pytest

from protocols import ipv4
from protocols.addr import Ip4, Network, show_ip
from protocols.esp.codec import spi_of
from protocols.esp.departed import departed
from protocols.esp.flows import Flow
from protocols.policy import Expose, Masquerade, Source
from tests.protocols.esp.house import ALICE, BOB, LAN, PEER, PEER_2, SERVER, STAFF, WAN, House, office, rules

RELAY = Masquerade(
    "relay", STAFF.clients, (Network.parse(show_ip(PEER)),), pptp=False, ipsec=True, listen=LAN
)


def found(house: House, packet: bytes) -> Flow | None:
    """What is known of a packet that has left."""
    header = ipv4.Header.from_bytes(packet, verify=False)
    return departed(house.tracker.ledger, Ip4(header.src), Ip4(header.dst), spi_of(packet, header.length))


@pytest.mark.parametrize(
    ("rule", "host", "addressed", "peer"),
    [
        pytest.param(STAFF, ALICE, PEER, PEER, id="client"),
        pytest.param(RELAY, ALICE, LAN, PEER, id="relay-style"),
        pytest.param(office(), SERVER, PEER, PEER, id="server"),
        pytest.param(office(Source.GATEWAY), SERVER, LAN, PEER, id="server-that-sees-us"),
        pytest.param(office(), SERVER, WAN, BOB, id="server-and-its-neighbour"),
    ],
)
def test_both_directions_of_a_pair(rule: Masquerade | Expose, host: Ip4, addressed: Ip4, peer: Ip4) -> None:
    house = House(rules(rule))
    inside = peer == BOB
    if rule is not STAFF and rule is not RELAY:  # the peer comes first
        assert house.through(house.packet(peer, WAN, 0xA2), inside=inside)
    for sequence in (1, 2, 9):
        (out,) = house.through(house.packet(host, addressed, 0xA1, sequence), inside=True)
        (back,) = house.through(house.packet(peer, WAN, 0xA2, 20 + sequence), inside=inside)
        there, here = found(house, out), found(house, back)
        assert there is not None
        assert here is not None
        assert (there.sender, there.addressed, there.spi) == (host, addressed, 0xA1)
        assert (here.sender, here.addressed, here.spi) == (peer, WAN, 0xA2)


def test_what_has_not_left_is_not_found() -> None:
    house = House()
    house.out(ALICE, 0xA1)
    house.back(0xA2)
    ledger = house.tracker.ledger
    assert departed(ledger, WAN, PEER, 0xA1) is not None
    for source, target, spi in (
        (WAN, PEER, 0xA3),
        (WAN, PEER_2, 0xA1),
        (LAN, PEER, 0xA1),
        (PEER, ALICE, 0xA1),
        (PEER, BOB, 0xA2),
        (PEER_2, ALICE, 0xA2),
        (SERVER, ALICE, 0xA2),
    ):
        assert departed(ledger, source, target, spi) is None


def test_two_hosts_with_the_same_outbound_spi_have_one_flow_to_the_peer() -> None:
    house = House()
    house.out(ALICE, 0xA1)
    house.out(BOB, 0xA1)
    flow = departed(house.tracker.ledger, WAN, PEER, 0xA1)
    assert flow is not None
    assert flow.sender in (ALICE, BOB)
