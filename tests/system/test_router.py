"""On the usual home router: beside the kernel's own masquerading, behind a firewall that drops by default.

                  annex 10.0.1.2 -- eth2 .1 [gateway]

The lines that the firewall has for us are those that ``vpnmasq check`` prints, and no others.
"""

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from protocols import icmp, ipv4
from protocols.addr import parse_ip, show_ip
from protocols.gre.codec import EnhancedGre
from protocols.icmp import IcmpError
from tests.netns import Namespace
from tests.system.calls import call
from tests.system.home import (
    CALLER,
    CLIENT,
    GATEWAY,
    PATIENCE,
    PEER,
    PUBLIC,
    SERVER,
    VPNMASQ,
    Daemon,
    Gre,
    Home,
)

ANNEX = "10.0.1.2"
WEB = 80
#: What the kernel itself lets in from outside, to the server inside.
FORWARDED = 8080
ICMP = 1
LAN_INTERFACES = ("--set", "lan.interfaces=eth0,eth2")

RULES = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24", "10.0.1.0/24"]
servers = ["any"]
proto = ["pptp"]

[[expose]]
name = "office"
server = "{SERVER}"
proto = ["pptp"]
allow = ["{CALLER}", "10.0.0.0/23"]

[[expose]]
name = "branch"
server = "{SERVER}"
proto = ["pptp"]
allow = ["{PEER}"]
source = "gateway"
"""

#: Nothing here is for us but what is filled in. The annex may not open anything to the other LAN.
FIREWALL = """
table ip router {{
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "eth1" tcp dport {forwarded} dnat to {server}:{web}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "eth1" masquerade
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state invalid drop
        ct state established,related accept
        {inward}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iifname "eth0" accept
        iifname "eth2" oifname "eth1" accept
        ct status dnat accept
    }}
    chain output {{
        type filter hook output priority filter; policy drop;
        oifname "lo" accept
        ct state invalid drop
        ct state established,related accept
        {outward}
    }}
}}
"""


@dataclass
class Router:
    """The gateway as a router with a firewall, before the daemon and while it runs."""

    house: Home
    annex: Namespace
    daemon: Daemon
    before: dict[str, str]


def advised(house: Home, where: Home) -> tuple[list[str], list[str]]:
    """The lines for the input and the output chain, as the command prints them."""
    directory = house.directory()
    config = directory / "vpnmasq.toml"
    config.write_text(house.configuration(RULES, directory))
    said = where.gateway.run(VPNMASQ, "check", "-c", str(config), *LAN_INTERFACES, "--json")
    lines = json.loads(said)["firewall"]
    return lines["input"], lines["output"]


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["rp_filter=0", "rp_filter=1", "rp_filter=2"])
def router(house: Home, annex: Namespace, request: pytest.FixtureRequest) -> Iterator[Router]:
    for name in ("all", "eth0", "eth1", "eth2"):
        house.gateway.sysctl(f"net.ipv4.conf.{name}.rp_filter", request.param)
    house.gateway.sh("conntrack -F")
    before = house.kernel()
    daemon = house.run(RULES, *LAN_INTERFACES)
    yield Router(house, annex, daemon, before)
    if daemon.process.poll() is None:
        assert daemon.stop() == 0, daemon.log()


@pytest.fixture(scope="module")
def annex(house: Home) -> Namespace:
    """Another part of the LAN, and the router that it all hangs on."""
    annex = house.net.namespace("annex")
    house.net.link(house.gateway, "eth2", annex, "eth0")
    house.gateway.address("eth2", "10.0.1.1/24")
    annex.address("eth0", f"{ANNEX}/24")
    annex.sh("ip route add default via 10.0.1.1")
    house.gateway.sysctl("net.ipv4.ip_forward", 1)
    inward, outward = advised(house, house)
    firewall = FIREWALL.format(
        forwarded=FORWARDED,
        server=SERVER,
        web=WEB,
        inward="\n        ".join(inward),
        outward="\n        ".join(outward),
    )
    house.gateway.run("nft", "-f", "-", stdin=firewall)
    return annex


# -- the kernel's own traffic ----------------------------------------------------------------------------


def browse(house: Home, host: Namespace, to: str, server: Namespace, *, port: int, at: int) -> str:
    """Fetch a page too large for one segment, and return whom the server took the client for."""
    page = bytes(range(256)) * 2048
    listening = house.listen(server, at)
    with contextlib.closing(listening):
        browser = house.dial(host, to, port).sock
        service = house.accept(listening).sock
    browser.sendall(b"GET /")
    assert service.recv(100) == b"GET /"
    seen: str = service.getpeername()[0]
    transfer(service, browser, page)
    browser.close()
    service.close()
    return seen


def transfer(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    sent, got = 0, b""
    sender.setblocking(False)
    while len(got) < len(data):
        readable, writable, _ = select.select([receiver], [sender] if sent < len(data) else [], [], PATIENCE)
        assert readable or writable, f"{len(got)} octets have come"
        if writable:
            sent += sender.send(data[sent:])
        if readable:
            got += receiver.recv(1 << 20)
    assert got == data


def ask(house: Home, host: Namespace, to: str, server: Namespace) -> str:
    """A question and an answer by UDP; whom the server took the client for."""
    with server.entered():
        service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with host.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with service, client:
        for sock in (service, client):
            sock.settimeout(PATIENCE)
        service.bind(("0.0.0.0", WEB))
        client.sendto(b"question", (to, WEB))
        question, asker = service.recvfrom(100)
        service.sendto(b"answer", asker)
        assert (question, client.recv(100)) == (b"question", b"answer")
    return str(asker[0])


def test_other_traffic_goes_its_usual_way_through_the_kernel(router: Router) -> None:
    house = router.house
    assert browse(house, house.client, PEER, house.peer, port=WEB, at=WEB) == PUBLIC
    assert ask(house, house.client, PEER, house.peer) == PUBLIC
    assert browse(house, house.caller, PUBLIC, house.server, port=FORWARDED, at=WEB) == CALLER
    assert ask(house, router.annex, PEER, house.peer) == PUBLIC


# -- ours ------------------------------------------------------------------------------------------------


def exchange(one: Gre, own: str, to: str, call_id: int, other: Gre, source: str, dst: str) -> None:
    """A packet from one end that arrives at the other."""
    data = f"from {own} to {to}".encode()
    one.send(own, to, call_id, data)
    packet = other.receive()
    header = ipv4.Header.from_bytes(packet)
    assert (show_ip(header.src), show_ip(header.dst)) == (source, dst)
    assert EnhancedGre.from_bytes(packet[header.length :]).payload == data


def test_a_client_of_either_lan_calls_a_peer(router: Router) -> None:
    house = router.house
    for host, address in ((house.client, CLIENT), (router.annex, ANNEX)):
        tunnel = call(house, host, PEER, house.peer)
        assert tunnel.server.far_end == PUBLIC
        client, peer = house.raw(host), house.raw(house.peer)
        exchange(client, address, PEER, tunnel.server_id, peer, PUBLIC, PEER)
        exchange(peer, PEER, PUBLIC, tunnel.client_id, client, PEER, address)


@pytest.mark.parametrize(
    ("caller", "seen"),
    [
        pytest.param(CALLER, CALLER, id="keep"),
        pytest.param(PEER, GATEWAY, id="gateway"),
        pytest.param(CLIENT, PUBLIC, id="hairpin"),
        pytest.param(ANNEX, PUBLIC, id="hairpin-from-another-lan"),
    ],
)
def test_a_caller_reaches_the_exposed_server(router: Router, caller: str, seen: str) -> None:
    house = router.house
    hosts = {CALLER: house.caller, PEER: house.peer, CLIENT: house.client, ANNEX: router.annex}
    tunnel = call(house, hosts[caller], PUBLIC, house.server)
    assert tunnel.server.far_end == seen
    there, server = house.raw(hosts[caller]), house.raw(house.server)
    exchange(there, caller, PUBLIC, tunnel.server_id, server, seen, SERVER)
    exchange(server, SERVER, seen, tunnel.client_id, there, PUBLIC, caller)


def test_connection_tracking_learns_of_no_gre(router: Router) -> None:
    house = router.house
    tunnel = call(house, house.client, PEER, house.peer)
    client, peer = house.raw(house.client), house.raw(house.peer)
    exchange(client, CLIENT, PEER, tunnel.server_id, peer, PUBLIC, PEER)
    exchange(peer, PEER, PUBLIC, tunnel.client_id, client, PEER, CLIENT)
    tracked = house.gateway.sh("conntrack -L").splitlines()
    assert not [line for line in tracked if line.startswith(("gre", "unknown  47"))]
    # What is tracked are the two halves of the control connection, as connections of the router's own.
    assert [line for line in tracked if f"dst={PEER}" in line and "dport=1723" in line]


# -- errors ----------------------------------------------------------------------------------------------


def error_at(errors: Gre) -> tuple[str, IcmpError]:
    packet = errors.receive(protocol=ICMP)
    header = ipv4.Header.from_bytes(packet)
    return show_ip(header.src), IcmpError.from_bytes(packet[header.length :])


def quoted(error: IcmpError) -> tuple[str, str, int]:
    quote = error.quote
    source, target = (show_ip(int.from_bytes(quote[at : at + 4])) for at in (12, 16))
    return source, target, int.from_bytes(quote[26:28])


def test_a_router_outside_says_too_big_to_the_client(router: Router) -> None:
    house = router.house
    tunnel = call(house, house.client, PEER, house.peer)
    client, errors, peer = house.raw(house.client), house.raw(house.client, ICMP), house.raw(house.peer)
    with narrow(house, house.internet, "br0", 1300):
        client.send(CLIENT, PEER, tunnel.server_id, bytes(1350), dont_fragment=True)
        source, error = error_at(errors)
    assert (source, error.next_hop_mtu) == ("200.200.200.1", 1300)
    assert quoted(error) == (CLIENT, PEER, tunnel.server_id)
    exchange(client, CLIENT, PEER, tunnel.server_id, peer, PUBLIC, PEER)


def test_we_say_too_big_to_both_sides_and_fragment_what_may_be(router: Router) -> None:
    house = router.house
    tunnel = call(house, house.client, PEER, house.peer)
    client, peer = house.raw(house.client), house.raw(house.peer)
    inside, outside = house.raw(house.client, ICMP), house.raw(house.peer, ICMP)
    with narrow(house, house.gateway, "eth1", 1300):
        client.send(CLIENT, PEER, tunnel.server_id, bytes(1350))
        assert EnhancedGre.from_bytes(peer.receive()[20:]).payload == bytes(1350)
        client.send(CLIENT, PEER, tunnel.server_id, bytes(1350), dont_fragment=True)
        source, error = error_at(inside)
        assert (source, error.next_hop_mtu) == (GATEWAY, 1300)
        assert quoted(error) == (CLIENT, PEER, tunnel.server_id)
    with narrow(house, house.gateway, "eth0", 1200):
        peer.send(PEER, PUBLIC, tunnel.client_id, bytes(1250))
        assert EnhancedGre.from_bytes(client.receive()[20:]).payload == bytes(1250)
        peer.send(PEER, PUBLIC, tunnel.client_id, bytes(1250), dont_fragment=True)
        source, error = error_at(outside)
        assert (source, error.next_hop_mtu) == (PUBLIC, 1200)
        assert quoted(error) == (PEER, PUBLIC, tunnel.client_id)


def test_a_host_inside_says_too_big_to_the_peer(router: Router) -> None:
    house = router.house
    tunnel = call(house, house.client, PEER, house.peer)
    client, peer, errors = house.raw(house.client), house.raw(house.peer), house.raw(house.peer, ICMP)
    peer.send(PEER, PUBLIC, tunnel.client_id, b"too much")
    payload = icmp.fragmentation_needed(1100, client.receive()).to_bytes()
    client.send_packet(
        ipv4.build(src=parse_ip(CLIENT), dst=parse_ip(PEER), protocol=ICMP, payload=payload), PEER
    )
    source, error = error_at(errors)
    assert (source, error.next_hop_mtu) == (PUBLIC, 1100)
    assert quoted(error) == (PEER, PUBLIC, tunnel.client_id)


@contextlib.contextmanager
def narrow(house: Home, where: Namespace, interface: str, mtu: int) -> Iterator[None]:
    where.sh(f"ip link set {interface} mtu {mtu}")
    try:
        yield
    finally:
        where.sh(f"ip link set {interface} mtu 1500")
        for host in house.net.namespaces:
            host.sh("ip route flush cache")  # what they have learned of MTUs


# -- what stays as it was --------------------------------------------------------------------------------


def test_between_two_lans_the_kernel_forwards_and_its_firewall_still_knows_answers(router: Router) -> None:
    house = router.house
    sessions = router.daemon.document("sessions")
    with contextlib.closing(house.listen(router.annex)) as listening:
        client = house.dial(house.client, ANNEX)
        assert house.accept(listening).far_end == CLIENT
    client.sock.close()
    assert len(router.daemon.document("sessions")["sessions"]) == len(sessions["sessions"])
    one, other = house.raw(house.client), house.raw(router.annex)
    # Without its helper for PPTP, connection tracking knows answers only by the Call ID 0.
    exchange(one, CLIENT, ANNEX, 0, other, CLIENT, ANNEX)
    exchange(other, ANNEX, CLIENT, 0, one, ANNEX, CLIENT)
    one.send(CLIENT, ANNEX, 0, b"too much")
    payload = icmp.fragmentation_needed(1100, other.receive()).to_bytes()
    errors = house.raw(house.client, ICMP)
    other.send_packet(
        ipv4.build(src=parse_ip(ANNEX), dst=parse_ip(CLIENT), protocol=ICMP, payload=payload), CLIENT
    )
    source, error = error_at(errors)
    assert (source, error.next_hop_mtu) == (ANNEX, 1100)


def test_afterwards_everything_is_as_it_was(router: Router) -> None:
    house = router.house
    assert house.kernel() != router.before
    assert router.daemon.stop() == 0
    after = house.kernel()
    for what, was in router.before.items():
        assert after[what] == was, what
    assert browse(house, house.client, PEER, house.peer, port=WEB, at=WEB) == PUBLIC
