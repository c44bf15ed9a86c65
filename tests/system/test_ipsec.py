"""IPsec between real sockets: what hosts send and see with the real daemon between them."""

from collections.abc import Callable, Iterator

import pytest

from protocols import icmp, ipv4
from protocols.addr import parse_ip, show_ip
from protocols.esp.codec import Esp
from protocols.ike.natt import KEEPALIVE, NON_ESP_MARKER
from tests.netns import Namespace
from tests.system.home import (
    CALLER,
    CLIENT,
    PEER,
    PUBLIC,
    SECOND,
    SERVER,
    Daemon,
    Home,
    until,
)
from tests.system.ipsec import ESP, Udp, esp, ike, told

ICMP, UDP = 1, 17

RULES = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["{PEER}"]
proto = ["pptp", "ipsec"]

[[expose]]
name = "office"
server = "{SERVER}"
proto = ["pptp", "ipsec"]
allow = ["{CALLER}"]
"""


@pytest.fixture(scope="module")
def daemon(house: Home) -> Daemon:
    return house.run(RULES)


@pytest.fixture(autouse=True)
def nothing_of_the_test_before(daemon: Daemon) -> None:
    if daemon.process.poll() is not None:
        return
    known = [one["id"] for one in daemon.document("sessions")["sessions"]]
    if known:
        daemon.command("sessions", "kill", *known)


#: Opens a UDP socket of a host.
Open = Callable[[Namespace, int], Udp]


@pytest.fixture
def udp(house: Home) -> Iterator[Open]:
    opened: list[Udp] = []

    def open_one(host: Namespace, port: int) -> Udp:
        opened.append(Udp(host, port))
        return opened[-1]

    yield open_one
    for one in opened:
        one.sock.close()


def shake_hands(client: Udp, peer: Udp, cookie: int) -> None:
    """IKE_SA_INIT and its answer."""
    client.send(ike(cookie), PEER, 500)
    assert peer.receive() == (ike(cookie), PUBLIC, 500)
    peer.send(ike(cookie, cookie << 8), PUBLIC, 500)
    assert client.receive() == (ike(cookie, cookie << 8), PEER, 500)


def test_two_clients_keep_port_500_and_get_their_own_answers(house: Home, daemon: Daemon, udp: Open) -> None:
    one, two, peer = udp(house.client, 500), udp(house.second, 500), udp(house.peer, 500)
    shake_hands(one, peer, 0xA1)
    shake_hands(two, peer, 0xB1)
    rows = [s for s in daemon.document("sessions")["sessions"] if s["protocol"] == "isakmp"]
    assert {(s["client"], s["state"]) for s in rows} == {(CLIENT, "established"), (SECOND, "established")}
    assert rows[0]["cookies"][0]["initiator"].endswith("a1")


def test_esp_of_two_clients_to_one_peer_reaches_its_owners(house: Home, daemon: Daemon, udp: Open) -> None:
    one, two, peer = udp(house.client, 500), udp(house.second, 500), udp(house.peer, 500)
    shake_hands(one, peer, 0xA2)
    shake_hands(two, peer, 0xB2)
    first, second, far = (
        house.raw(house.client, ESP),
        house.raw(house.second, ESP),
        house.raw(house.peer, ESP),
    )
    for sequence in range(1, 30):
        for host, address, spi, back in (
            (first, CLIENT, 0x1001, 0x2001),
            (second, SECOND, 0x1002, 0x2002),
        ):
            esp(host, address, PEER, spi, sequence)
            assert told(far.receive(protocol=ESP)) == (PUBLIC, PEER, spi, sequence)
            esp(far, PEER, PUBLIC, back, sequence)
            while told(packet := host.receive(protocol=ESP))[2] != back:
                assert sequence < 20, "copies go on"
            assert told(packet) == (PEER, address, back, sequence)
    rows = {s["client"]: s for s in daemon.document("sessions")["sessions"] if s["protocol"] == "esp"}
    assert rows[CLIENT]["state"] == rows[SECOND]["state"] == "confirmed"
    assert rows[CLIENT]["spis"] == {"outbound": "0x00001001", "inbound": "0x00002001"}
    assert rows[SECOND]["spis"] == {"outbound": "0x00001002", "inbound": "0x00002002"}
    assert rows[SECOND]["candidates"] == [SECOND]
    assert rows[SECOND]["confidence"] > 0.999


@pytest.mark.parametrize("tracked", [True, False], ids=["beside-conntrack", "alone"])
def test_an_ike_message_in_fragments_arrives_whole_both_ways(
    house: Home, daemon: Daemon, udp: Open, tracked: bool
) -> None:
    if tracked:
        house.gateway.run("nft", "-f", "-", stdin=MASQUERADE)
    try:
        one, peer = udp(house.client, 500), udp(house.peer, 500)
        large = ike(0xA3, size=3000)
        one.send(large, PEER, 500)
        assert peer.receive() == (large, PUBLIC, 500)
        answer = ike(0xA3, 0xA4, size=4000)
        peer.send(answer, PUBLIC, 500)
        assert one.receive() == (answer, PEER, 500)
    finally:
        if tracked:
            house.gateway.sh("nft delete table ip router")


def test_natt_of_two_clients_goes_by_ports(house: Home, daemon: Daemon, udp: Open) -> None:
    one, two, peer = udp(house.client, 4500), udp(house.second, 4500), udp(house.peer, 4500)
    ports = []
    for client, cookie in ((one, 0xA5), (two, 0xB5)):
        client.send(NON_ESP_MARKER + ike(cookie), PEER, 4500)
        payload, address, port = peer.receive()
        assert (payload, address) == (NON_ESP_MARKER + ike(cookie), PUBLIC)
        ports.append(port)
    # 4500 is the exposed server's.
    assert all(61000 <= port <= 65095 for port in ports)
    assert ports[0] != ports[1]
    for client, port in ((two, ports[1]), (one, ports[0])):
        data = Esp(0x3000 + port, 1, b"data").to_bytes()
        for _ in range(3):
            peer.send(data, PUBLIC, port)
            assert client.receive() == (data, PEER, 4500)
            client.send(data, PEER, 4500)
            assert peer.receive() == (data, PUBLIC, port)
        client.send(KEEPALIVE, PEER, 4500)
        assert peer.receive() == (KEEPALIVE, PUBLIC, port)
    rows = [s for s in daemon.document("sessions")["sessions"] if s["protocol"] == "natt"]
    assert {(s["client"], s["ports"]["gateway"]) for s in rows} == {(CLIENT, ports[0]), (SECOND, ports[1])}
    assert all((s["keepalives"], s["packets"]["outbound"]) == (1, 5) for s in rows)


def test_nobody_is_told_that_a_port_is_unreachable(house: Home, daemon: Daemon, udp: Open) -> None:
    one, two, server = udp(house.client, 4500), udp(house.second, 4500), udp(house.server, 500)
    peer, caller = udp(house.peer, 4500), udp(house.caller, 1024)
    errors = [house.raw(host, ICMP) for host in (house.peer, house.caller, house.server, house.second)]
    one.send(NON_ESP_MARKER + ike(0xA6), PEER, 4500)
    peer.receive()
    two.send(NON_ESP_MARKER + ike(0xB6), PEER, 4500)
    peer.send(NON_ESP_MARKER + ike(0xB6, 0xB7), PUBLIC, peer.receive()[2])
    two.receive()
    # A peer behind a NAT of its own: the server answers to a port that is not IPsec's.
    caller.send(ike(0xC6), PUBLIC, 500)
    payload, address, port = server.receive()
    assert (payload, address, port) == (ike(0xC6), CALLER, 1024)
    server.send(ike(0xC6, 0xC7), CALLER, 1024)
    assert caller.receive() == (ike(0xC6, 0xC7), PUBLIC, 500)
    assert all(error.nothing() for error in errors)


def test_an_exposed_server_and_clients_share_the_address(house: Home, daemon: Daemon, udp: Open) -> None:
    one, peer = udp(house.client, 500), udp(house.peer, 500)
    server, caller = udp(house.server, 500), udp(house.caller, 500)
    caller.send(ike(0xC8), PUBLIC, 500)
    assert server.receive() == (ike(0xC8), CALLER, 500)
    shake_hands(one, peer, 0xA8)
    server.send(ike(0xC8, 0xC9), CALLER, 500)
    assert caller.receive() == (ike(0xC8, 0xC9), PUBLIC, 500)
    far, near = house.raw(house.caller, ESP), house.raw(house.server, ESP)
    esp(far, CALLER, PUBLIC, 0x4001, 1)
    assert told(near.receive(protocol=ESP)) == (CALLER, SERVER, 0x4001, 1)
    esp(near, SERVER, CALLER, 0x4002, 1)
    assert told(far.receive(protocol=ESP)) == (PUBLIC, CALLER, 0x4002, 1)
    (row,) = (s for s in daemon.document("sessions")["sessions"] if s["protocol"] == "esp")
    assert (row["role"], row["server"], row["peer"]) == ("expose", SERVER, CALLER)


def test_esp_too_big_is_reported_with_the_mtu(house: Home, daemon: Daemon) -> None:
    client, errors, peer = (
        house.raw(house.client, ESP),
        house.raw(house.client, ICMP),
        house.raw(house.peer, ESP),
    )
    house.gateway.sh("ip link set eth1 mtu 1300")
    try:
        esp(client, CLIENT, PEER, 0x5001, 1, bytes(1350), dont_fragment=True)
        assert reported(errors.receive(protocol=ICMP)) == (1300, CLIENT, PEER, 0x5001)
        esp(client, CLIENT, PEER, 0x5001, 2, bytes(1350))
        assert told(peer.receive(protocol=ESP)) == (PUBLIC, PEER, 0x5001, 2)
    finally:
        house.gateway.sh("ip link set eth1 mtu 1500")


def test_esp_in_fragments_arrives_whole_both_ways(house: Home, daemon: Daemon) -> None:
    client, peer = house.raw(house.client, ESP), house.raw(house.peer, ESP)
    # Only the first piece has the SPI, and it comes last.
    for sender, src, dst, spi, receiver, seen in (
        (client, CLIENT, PEER, 0x5003, peer, (PUBLIC, PEER)),
        (peer, PEER, PUBLIC, 0x5004, client, (PEER, CLIENT)),
    ):
        inner = Esp(spi, 1, bytes(range(256)) * 5).to_bytes()
        whole = ipv4.build(
            src=parse_ip(src), dst=parse_ip(dst), protocol=ESP, payload=inner, identification=7
        )
        for piece in reversed(ipv4.fragment(whole, 600)):
            sender.send_packet(piece, dst)
        packet = receiver.receive(protocol=ESP)
        assert told(packet) == (*seen, spi, 1)
        assert packet[20:] == inner


def test_nobody_is_told_about_a_packet_to_all_hosts_of_a_network(house: Home, daemon: Daemon) -> None:
    client, errors = house.raw(house.client, ESP), house.raw(house.client, ICMP)
    before = daemon.drops().get("ttl-expired", 0)
    # The client takes it for a host far away; the gateway knows better.
    esp(client, CLIENT, "200.200.200.255", 0x5002, 1, ttl=1)
    until(lambda: daemon.drops().get("ttl-expired", 0) > before)
    assert errors.nothing()
    esp(client, CLIENT, PEER, 0x5002, 2, ttl=1)
    assert errors.receive(protocol=ICMP)[20] == icmp.TIME_EXCEEDED


def test_an_error_about_our_esp_reaches_the_client(house: Home, daemon: Daemon) -> None:
    client, errors, peer = (
        house.raw(house.client, ESP),
        house.raw(house.client, ICMP),
        house.raw(house.peer, ESP),
    )
    esp(client, CLIENT, PEER, 0x5002, 1)
    payload = icmp.fragmentation_needed(1200, peer.receive(protocol=ESP)[:28]).to_bytes()
    error = ipv4.build(src=parse_ip(PEER), dst=parse_ip(PUBLIC), protocol=ICMP, payload=payload)
    peer.send_packet(error, PUBLIC)
    assert reported(errors.receive(protocol=ICMP)) == (1200, CLIENT, PEER, 0x5002)


def test_an_error_from_the_lan_reaches_the_peer(house: Home, daemon: Daemon, udp: Open) -> None:
    one, peer = udp(house.client, 4500), udp(house.peer, 4500)
    raw, packets, errors = house.raw(house.client), house.raw(house.client, UDP), house.raw(house.peer, ICMP)
    data = Esp(0x6001, 1, b"data").to_bytes()
    for _ in range(2):
        one.send(data, PEER, 4500)
        port = peer.receive()[2]
        peer.send(data, PUBLIC, port)
        one.receive()
    packets.receive(protocol=UDP)
    payload = icmp.fragmentation_needed(1100, packets.receive(protocol=UDP)).to_bytes()
    error = ipv4.build(src=parse_ip(CLIENT), dst=parse_ip(PEER), protocol=ICMP, payload=payload)
    raw.send_packet(error, PEER)
    packet = errors.receive(protocol=ICMP)
    found = icmp.IcmpError.from_bytes(packet[20:])
    assert (show_ip(ipv4.Header.from_bytes(packet).src), found.next_hop_mtu) == (PUBLIC, 1100)
    assert found.quote[12:24] == bytes.fromhex("c7000001 c8c8c8c8 1194") + port.to_bytes(2)


def reported(packet: bytes) -> tuple[int, str, str, int]:
    error = icmp.IcmpError.from_bytes(packet[ipv4.Header.from_bytes(packet).length :])
    quote = error.quote
    ends = (show_ip(int.from_bytes(quote[12:16])), show_ip(int.from_bytes(quote[16:20])))
    return (error.next_hop_mtu, *ends, int.from_bytes(quote[20:24]))


@pytest.mark.parametrize(("protocol", "reason"), [(51, "ah"), (94, "fwz")])
def test_what_cannot_work_is_explained(house: Home, daemon: Daemon, protocol: int, reason: str) -> None:
    client = house.raw(house.client, protocol)
    before = daemon.drops().get(reason, 0)
    packet = ipv4.build(src=parse_ip(CLIENT), dst=parse_ip(PEER), protocol=protocol, payload=bytes(40))
    client.send_packet(packet, PEER)
    until(lambda: daemon.drops().get(reason, 0) == before + 1)
    assert any(f"IP protocol {protocol}" in line for line in daemon.document("status")["attention"])


#: A home router's own: conntrack, and what it does to packets of its own that leave.
MASQUERADE = """
table ip router {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "eth1" masquerade
    }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "lo" accept
        iifname "eth0" udp dport { 500, 4500 } accept
        ip protocol esp accept
    }
}
"""


def test_a_routers_masquerade_and_stateful_firewall_leave_the_ports_alone(
    house: Home, daemon: Daemon, udp: Open
) -> None:
    house.gateway.run("nft", "-f", "-", stdin=MASQUERADE)
    try:
        one, two, peer = udp(house.client, 500), udp(house.second, 500), udp(house.peer, 500)
        shake_hands(one, peer, 0xAA)
        shake_hands(two, peer, 0xBB)
        assert "established" in {s["state"] for s in daemon.document("sessions")["sessions"]}
    finally:
        house.gateway.sh("nft delete table ip router")


def test_a_pair_that_was_told_is_delivered_before_its_owner_has_said_a_word(
    house: Home, daemon: Daemon
) -> None:
    first, second, far = (
        house.raw(house.client, ESP),
        house.raw(house.second, ESP),
        house.raw(house.peer, ESP),
    )
    done = daemon.command("pair", "add", PEER, "0xc0de0002", SECOND, "--lifetime", "1m")
    assert (done.returncode, done.stderr) == (0, "")
    esp(far, PEER, PUBLIC, 0xC0DE0002, 9000)
    assert told(second.receive(protocol=ESP)) == (PEER, SECOND, 0xC0DE0002, 9000)
    assert first.nothing()
    (row,) = daemon.document("sessions")["sessions"]
    assert (row["client"], row["state"], row["confidence"]) == (SECOND, "confirmed", 1.0)
    (pair,) = daemon.document("pairs")["pairs"]
    assert (pair["client"], pair["spi"]) == (SECOND, "0xc0de0002")
    assert daemon.command("pair", "del", PEER, "0xc0de0002").returncode == 0
    assert daemon.document("pairs")["pairs"] == []


def test_clients_that_the_router_had_masqueraded_before_go_on_with_us(
    house: Home, daemon: Daemon, udp: Open
) -> None:
    assert daemon.stop() == 0, daemon.log()
    house.gateway.run("nft", "-f", "-", stdin=MASQUERADE)
    house.gateway.sysctl("net.ipv4.ip_forward", 1)
    one, two, peer = udp(house.client, 500), udp(house.second, 500), udp(house.peer, 500)
    shake_hands(one, peer, 0xDA)
    successor = house.run(RULES)
    try:
        shake_hands(one, peer, 0xDB)
        shake_hands(two, peer, 0xDC)
    finally:
        house.gateway.sh("nft delete table ip router")
        assert successor.stop() == 0, successor.log()


def test_an_ipsec_daemon_of_this_host_is_detected(house: Home, udp: Open) -> None:
    udp(house.gateway, 500)
    refused = house.run(RULES, wait=False)
    assert refused.ends() == 1
    assert "udp/500 on eth0 is taken by another program" in refused.log()
    assert "HOWTO §3.14" in refused.log()
