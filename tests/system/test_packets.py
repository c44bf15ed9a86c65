"""The data path between real sockets: what leaves the gateway, byte by byte, and a router's duties."""

import socket
from collections.abc import Iterator

import pytest

from protocols import icmp, ipv4
from protocols.addr import parse_ip, show_ip
from protocols.gre.codec import EnhancedGre
from tests.system.control import Tunnel
from tests.system.home import CALLER, CLIENT, GATEWAY, PEER, PUBLIC, SECOND, SERVER, Daemon, Home, until

ICMP = 1


def told(packet: bytes) -> tuple[str, str, EnhancedGre]:
    header = ipv4.Header.from_bytes(packet)
    return show_ip(header.src), show_ip(header.dst), EnhancedGre.from_bytes(packet[header.length :])


@pytest.fixture(scope="module")
def daemon(house: Home) -> Daemon:
    return house.run()


@pytest.fixture
def listening(house: Home) -> Iterator[socket.socket]:
    with house.listen(house.peer) as sock:
        yield sock


@pytest.fixture
def tunnel(house: Home, daemon: Daemon, listening: socket.socket) -> Tunnel:
    return house.tunnel(house.client, PEER, listening)


@pytest.mark.parametrize("size", [0, 64, 1400])
def test_data_passes_both_ways_and_only_addresses_call_id_and_ttl_change(
    house: Home, tunnel: Tunnel, size: int
) -> None:
    client, peer = house.raw(house.client), house.raw(house.peer)
    client.send(CLIENT, PEER, tunnel.server_id, bytes(size), ttl=64, tos=0xB9, seq=7, ack=3)
    packet = peer.receive()
    expected = EnhancedGre(call_id=100, seq=7, ack=3, payload=bytes(size))
    assert told(packet) == (PUBLIC, PEER, expected)
    # One for us, one for the internet's router; DSCP and ECN as they were.
    assert (packet[8], packet[1]) == (62, 0xB9)
    peer.send(PEER, PUBLIC, tunnel.client_id, b"answer", tos=0x03)
    packet = client.receive()
    assert told(packet) == (PEER, CLIENT, EnhancedGre(call_id=1, seq=0, payload=b"answer"))
    assert packet[1] == 0x03


def test_two_clients_with_one_call_id_each_get_their_own(
    house: Home, daemon: Daemon, listening: socket.socket
) -> None:
    first = house.tunnel(house.client, PEER, listening, server_id=100)
    second = house.tunnel(house.second, PEER, listening, server_id=200)
    assert first.client_id != second.client_id
    peer, one, two = house.raw(house.peer), house.raw(house.client), house.raw(house.second)
    peer.send(PEER, PUBLIC, second.client_id, b"for the second")
    assert told(two.receive()) == (PEER, SECOND, EnhancedGre(call_id=1, seq=0, payload=b"for the second"))
    assert one.nothing()


def test_a_stranger_with_a_valid_call_id_gets_nothing(house: Home, daemon: Daemon, tunnel: Tunnel) -> None:
    stranger, client = house.raw(house.caller), house.raw(house.client)
    before = daemon.drops().get("stranger", 0)
    stranger.send(CALLER, PUBLIC, tunnel.client_id)
    until(lambda: daemon.drops().get("stranger", 0) == before + 1)
    assert client.nothing()


def test_a_lan_address_from_the_wan_is_dropped(house: Home, daemon: Daemon, tunnel: Tunnel) -> None:
    house.internet.sh("nft flush chain ip internet forward")
    caller = house.raw(house.caller)
    before = daemon.drops().get("spoofed-source", 0)
    house.gateway.sysctl("net.ipv4.conf.all.rp_filter", 0)
    house.gateway.sysctl("net.ipv4.conf.eth1.rp_filter", 0)
    caller.send("10.0.0.77", PUBLIC, tunnel.client_id)
    until(lambda: daemon.drops().get("spoofed-source", 0) == before + 1)


def test_a_packet_whose_ttl_ends_here_is_reported_to_its_sender(
    house: Home, daemon: Daemon, tunnel: Tunnel
) -> None:
    client, errors = house.raw(house.client), house.raw(house.client, ICMP)
    client.send(CLIENT, PEER, tunnel.server_id, ttl=1)
    packet = errors.receive(protocol=ICMP)
    header = ipv4.Header.from_bytes(packet)
    error = icmp.IcmpError.from_bytes(packet[header.length :])
    assert (show_ip(header.src), error.type, error.code) == (GATEWAY, 11, 0)
    assert told_quote(error) == (CLIENT, PEER, tunnel.server_id)


def error_packet(src: str, dst: str, payload: bytes) -> bytes:
    return ipv4.build(src=parse_ip(src), dst=parse_ip(dst), protocol=ICMP, payload=payload)


def told_quote(error: icmp.IcmpError) -> tuple[str, str, int]:
    quote = error.quote
    return (
        show_ip(int.from_bytes(quote[12:16])),
        show_ip(int.from_bytes(quote[16:20])),
        int.from_bytes(quote[26:28]),
    )


def test_too_big_with_dont_fragment_is_reported_with_the_mtu_and_without_it_is_fragmented(
    house: Home, daemon: Daemon, tunnel: Tunnel
) -> None:
    client, errors, peer = house.raw(house.client), house.raw(house.client, ICMP), house.raw(house.peer)
    house.gateway.sh("ip link set eth1 mtu 1300")
    try:
        client.send(CLIENT, PEER, tunnel.server_id, bytes(1350), dont_fragment=True)
        packet = errors.receive(protocol=ICMP)
        error = icmp.IcmpError.from_bytes(packet[ipv4.Header.from_bytes(packet).length :])
        assert (error.type, error.code, error.next_hop_mtu) == (3, 4, 1300)
        assert told_quote(error) == (CLIENT, PEER, tunnel.server_id)
        client.send(CLIENT, PEER, tunnel.server_id, bytes(1350))
        assert told(peer.receive())[2].payload == bytes(1350)
    finally:
        house.gateway.sh("ip link set eth1 mtu 1500")


def test_fragments_from_the_lan_are_put_together(house: Home, daemon: Daemon, tunnel: Tunnel) -> None:
    client, peer = house.raw(house.client), house.raw(house.peer)
    inner = EnhancedGre(call_id=tunnel.server_id, seq=1, payload=bytes(1400)).to_bytes()
    whole = ipv4.build(src=parse_ip(CLIENT), dst=parse_ip(PEER), protocol=47, payload=inner, identification=7)
    for piece in reversed(ipv4.fragment(whole, 600)):
        client.send_packet(piece, PEER)
    assert told(peer.receive())[2].payload == bytes(1400)


def test_an_error_about_our_gre_reaches_the_client_as_if_it_were_about_its_own(
    house: Home, daemon: Daemon, tunnel: Tunnel
) -> None:
    client, errors, peer = house.raw(house.client), house.raw(house.client, ICMP), house.raw(house.peer)
    client.send(CLIENT, PEER, tunnel.server_id)
    error = icmp.fragmentation_needed(1200, peer.receive())
    # The least that RFC 792 asks for: the header and 8 octets.
    short = icmp.IcmpError(error.type, error.code, error.rest, error.quote[:28])
    payload = short.to_bytes()
    peer.send_packet(error_packet(PEER, PUBLIC, payload), PUBLIC)
    packet = errors.receive(protocol=ICMP)
    arrived = icmp.IcmpError.from_bytes(packet[20:])
    assert (arrived.type, arrived.code, arrived.next_hop_mtu) == (3, 4, 1200)
    assert told_quote(arrived) == (CLIENT, PEER, tunnel.server_id)
    assert daemon.document("sessions")["sessions"], "an error ends no session"


def test_an_error_from_the_lan_reaches_the_peer_as_if_it_were_ours(
    house: Home, daemon: Daemon, tunnel: Tunnel
) -> None:
    client, errors, peer = house.raw(house.client), house.raw(house.peer, ICMP), house.raw(house.peer)
    peer.send(PEER, PUBLIC, tunnel.client_id, b"too much")
    payload = icmp.fragmentation_needed(1100, client.receive()).to_bytes()
    client.send_packet(error_packet(CLIENT, PEER, payload), PEER)
    packet = errors.receive(protocol=ICMP)
    header = ipv4.Header.from_bytes(packet)
    error = icmp.IcmpError.from_bytes(packet[header.length :])
    assert (show_ip(header.src), error.next_hop_mtu) == (PUBLIC, 1100)
    assert told_quote(error) == (PEER, PUBLIC, tunnel.client_id)


def test_an_inside_client_reaches_the_exposed_server_by_the_public_address(
    house: Home, daemon: Daemon
) -> None:
    with house.listen(house.server) as listening:
        tunnel = house.tunnel(house.client, PUBLIC, listening)
    assert tunnel.server.far_end == PUBLIC
    client, server = house.raw(house.client), house.raw(house.server)
    client.send(CLIENT, PUBLIC, tunnel.server_id, b"hello")
    assert told(server.receive()) == (PUBLIC, SERVER, EnhancedGre(call_id=100, seq=0, payload=b"hello"))
    server.send(SERVER, PUBLIC, tunnel.client_id, b"good day")
    assert told(client.receive()) == (PUBLIC, CLIENT, EnhancedGre(call_id=1, seq=0, payload=b"good day"))


def test_the_exposed_server_sees_its_callers_address(house: Home, daemon: Daemon) -> None:
    with house.listen(house.server) as listening:
        tunnel = house.tunnel(house.caller, PUBLIC, listening)
    assert tunnel.server.far_end == CALLER
    caller, server = house.raw(house.caller), house.raw(house.server)
    caller.send(CALLER, PUBLIC, tunnel.server_id, b"hello")
    assert told(server.receive()) == (CALLER, SERVER, EnhancedGre(call_id=100, seq=0, payload=b"hello"))
    server.send(SERVER, CALLER, 1, b"good day")
    assert told(caller.receive()) == (PUBLIC, CALLER, EnhancedGre(call_id=1, seq=0, payload=b"good day"))


def test_whom_no_rule_admits_is_refused_at_once_and_counted(house: Home, daemon: Daemon) -> None:
    before = daemon.drops().get("no-rule", 0)
    with pytest.raises(ConnectionRefusedError):
        house.dial(house.peer, PUBLIC)
    assert daemon.drops()["no-rule"] == before + 1
