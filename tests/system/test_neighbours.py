"""Other programs on the router that change the kernel under us: what they take of ours comes back at once."""

import contextlib

import pytest

from protocols import icmp, ipv4
from protocols.addr import parse_ip
from tests.system.calls import call
from tests.system.home import CLIENT, PEER, PUBLIC, Home, until
from tests.system.test_router import ICMP, error_at, exchange, quoted

#: A firewall as scripts load it: everything away first, that of others too.
LOADED_ANEW = """
flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; policy accept; ct state invalid drop; }
    chain output { type filter hook output priority filter; policy accept; ct state invalid drop; }
}
"""


def test_a_firewall_that_is_loaded_anew_does_not_take_our_table(house: Home) -> None:
    daemon = house.run()
    ours = house.gateway.sh("nft list table ip vpnmasq")
    tunnel = call(house, house.client, PEER, house.peer)
    client, peer, errors = house.raw(house.client), house.raw(house.peer), house.raw(house.peer, ICMP)
    house.gateway.run("nft", "-f", "-", stdin=LOADED_ANEW)
    until(lambda: "table ip vpnmasq" in house.gateway.sh("nft list tables").splitlines())
    assert house.gateway.sh("nft list table ip vpnmasq") == ours
    exchange(client, CLIENT, PEER, tunnel.server_id, peer, PUBLIC, PEER)
    # Only the table brings us this.
    peer.send(PEER, PUBLIC, tunnel.client_id, b"too much")
    payload = icmp.fragmentation_needed(1100, client.receive()).to_bytes()
    client.send_packet(
        ipv4.build(src=parse_ip(CLIENT), dst=parse_ip(PEER), protocol=ICMP, payload=payload), PEER
    )
    source, error = error_at(errors)
    assert (source, error.next_hop_mtu) == (PUBLIC, 1100)
    assert quoted(error) == (PEER, PUBLIC, tunnel.client_id)
    until(lambda: bool(daemon.document("status")["attention"]))
    assert "the nftables table 1 time;" in daemon.document("status")["attention"][0]
    assert daemon.stop() == 0
    house.gateway.sh("nft flush ruleset")


def in_any_order(kernel: dict[str, str]) -> dict[str, list[str]]:
    """The kernel's lists, sorted: what came back stands behind what stayed."""
    return {what: sorted(text.splitlines()) for what, text in kernel.items()}


@pytest.mark.parametrize(
    ("taking", "taken"),
    [
        pytest.param("nft delete chain ip vpnmasq errors", "the nftables table", id="a-chain"),
        pytest.param("ip rule delete iif eth0 ipproto gre", "the routing rules", id="a-rule"),
        pytest.param("ip rule flush protocol 118", "the routing rules", id="all-rules"),
    ],
)
def test_whatever_is_taken_comes_back(house: Home, taking: str, taken: str) -> None:
    clean = house.kernel()
    daemon = house.run()
    whole = in_any_order(house.kernel())
    house.gateway.sh(taking)
    until(lambda: in_any_order(house.kernel()) == whole)
    until(lambda: bool(daemon.document("status")["attention"]))
    assert taken in daemon.document("status")["attention"][0]
    # A reload has seen to it: what was is said no longer.
    assert daemon.command("reload").returncode == 0
    assert daemon.document("status")["attention"] == []
    assert daemon.stop() == 0
    assert house.kernel() == clean


def test_a_program_that_keeps_taking_is_named_and_the_end_is_clean(house: Home) -> None:
    clean = house.kernel()
    daemon = house.run()
    for _ in range(3):
        with contextlib.suppress(RuntimeError):
            house.gateway.sh("ip rule flush protocol 118")
        until(lambda: "ipproto gre" in house.gateway.sh("ip rule"))
    house.gateway.sh("ip rule flush protocol 118")
    assert daemon.stop() == 0
    assert house.kernel() == clean
    assert "put back what another program took" in daemon.log()
