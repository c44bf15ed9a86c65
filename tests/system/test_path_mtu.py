"""A narrow link somewhere outside (RFC 1191): every sender is told by the router that has it."""

import contextlib
from collections.abc import Iterator

import pytest

from protocols import icmp, ipv4
from protocols.addr import show_ip
from protocols.gre.codec import EnhancedGre
from tests.system.home import CLIENT, PEER, RULES, Gre, Home

ICMP = 1


@contextlib.contextmanager
def narrow_path(house: Home) -> Iterator[None]:
    """A router outside has a link of 1300 octets towards the peer."""
    house.internet.sh("ip link set br0 mtu 1300")
    try:
        yield
    finally:
        house.internet.sh("ip link set br0 mtu 1500")
        for host in house.net.namespaces:
            host.sh("ip route flush cache")


def told(errors: Gre) -> tuple[str, int, int]:
    """Who says too big, the MTU, and the Call ID quoted."""
    packet = errors.receive(protocol=ICMP)
    header = ipv4.Header.from_bytes(packet)
    error = icmp.IcmpError.from_bytes(packet[header.length :])
    return show_ip(header.src), error.next_hop_mtu, int.from_bytes(error.quote[26:28])


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_every_sender_learns_of_a_narrow_link_outside(house: Home, mode: str) -> None:
    daemon = house.run(RULES, "--set", f"fastpath.mode={mode}")
    client, errors, peer = house.raw(house.client), house.raw(house.client, ICMP), house.raw(house.peer)
    with house.listen(house.peer) as listening:
        tunnel = house.tunnel(house.client, PEER, listening)
    with narrow_path(house):
        for _ in range(3):
            house.client.sh("ip route flush cache")  # as if another client sent, which has learned nothing
            client.send(CLIENT, PEER, tunnel.server_id, bytes(1350), dont_fragment=True)
            assert told(errors) == ("200.200.200.1", 1300, tunnel.server_id)
        # the gateway's kernel knows as well; what may be fragmented is left to the router that must
        assert "mtu 1300" in house.gateway.sh(f"ip route get {PEER}")
        house.client.sh("ip route flush cache")
        client.send(CLIENT, PEER, tunnel.server_id, bytes(1350))
        assert EnhancedGre.from_bytes(peer.receive()[20:]).payload == bytes(1350)
    assert daemon.drops() == {}
    assert daemon.stop() == 0
