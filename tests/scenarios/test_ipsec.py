"""IPsec and PPTP through the whole gateway: clients, an exposed server, and calls at the same time."""

from dataclasses import replace

import pytest

from protocols import icmp, ipv4
from protocols.actions import Send, SessionClosed, Side
from protocols.addr import Ip4, show_ip
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.esp.codec import Esp
from protocols.ike.natt import KEEPALIVE, NON_ESP_MARKER
from protocols.policy import Limits
from protocols.udp import PROTOCOL, Datagram
from tests.scenarios.ipsec import RULES, STAFF, ends, esp_packet, natt, read, tunnel, udp
from tests.scenarios.udpworld import ike
from tests.scenarios.world import (
    BROADCASTS,
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    PEER_2,
    SERVER,
    WAN,
    World,
)


@pytest.fixture
def world() -> World:
    return World(RULES)


def test_two_tunnels_a_call_and_an_exposed_server_live_side_by_side(world: World) -> None:
    tunnel(world, CLIENT, 0xA1, 0x1000)
    tunnel(world, CLIENT_2, 0xB1, 0x2000)
    client, server, pns_id, pac_id = world.tunnel(CLIENT, PEER)
    into = udp(world, Side.WAN, (PEER_2, 500), (WAN, 500), ike(0xC1))
    assert (read(into).source, read(into).target) == ((PEER_2, 500), (SERVER, 500))
    assert server.got(client.sends(pac_id), 100)
    assert client.got(server.sends(pns_id), 1)
    # The short lanes: nothing but the buffer is touched.
    sent = len(world.sent)
    for host, spi in ((CLIENT, 0x1000), (CLIENT_2, 0x2000)):
        assert ends(world.packet(Side.LAN, esp_packet(host, PEER, spi, 50))) == (WAN, PEER)
        assert ends(world.packet(Side.WAN, esp_packet(PEER, WAN, spi + 1, 50))) == (PEER, host)
    assert len(world.sent) == sent
    assert {s.protocol for s in world.sessions()} == {"pptp", "isakmp", "esp"}


def test_esp_in_udp_takes_the_short_lane_and_ike_and_keepalives_the_long_one(world: World) -> None:
    port = natt(world).public_port
    for payload, short in (
        (Esp(0x3000, 2, b"data").to_bytes(), True),
        (NON_ESP_MARKER + ike(0xA2), False),
        (KEEPALIVE, False),
    ):
        sent = len(world.sent)
        out = read(udp(world, Side.LAN, (CLIENT, 4500), (PEER, 4500), payload))
        assert (out.source, out.target, out.payload) == ((WAN, port), (PEER, 4500), payload)
        assert (len(world.sent) == sent) is short


ESP_SPI = 0x1000


def departed_esp(world: World, to_lan: bool) -> tuple[bytes, bytes]:
    original = esp_packet(PEER, WAN, ESP_SPI + 1, 60) if to_lan else esp_packet(CLIENT, PEER, ESP_SPI, 60)
    out = world.packet(Side.WAN if to_lan else Side.LAN, original)
    assert isinstance(out, bytes)
    return original, made_good(out)


def departed_udp(world: World, to_lan: bool, summed: bool) -> tuple[bytes, bytes]:
    port = natt(world).public_port
    data = Esp(0x3000, 2, b"data").to_bytes()
    source, target = ((PEER, 4500), (WAN, port)) if to_lan else ((CLIENT, 4500), (PEER, 4500))
    datagram = Datagram(source, target, data)
    payload = (datagram.summed() if summed else datagram).to_bytes()
    original = ipv4.build(src=source[0], dst=target[0], protocol=PROTOCOL, payload=payload, identification=1)
    out = world.packet(Side.WAN if to_lan else Side.LAN, original)
    assert isinstance(out, bytes)
    return original, made_good(out)


def made_good(packet: bytes) -> bytes:
    """A packet as the kernel sends it, with its header checksum."""
    header = ipv4.Header.from_bytes(packet, verify=False)
    return header.to_bytes() + packet[20:]


@pytest.mark.parametrize("quoted", [28, None], ids=["8-octets", "whole"])
@pytest.mark.parametrize("to_lan", [False, True], ids=["outbound", "inbound"])
@pytest.mark.parametrize("kind", ["esp", "udp", "udp-without-checksum"])
def test_an_error_goes_to_the_sender_about_what_it_had_sent(
    world: World, kind: str, to_lan: bool, quoted: int | None
) -> None:
    if kind == "esp":
        tunnel(world, CLIENT, 0xA1, ESP_SPI)
        original, out = departed_esp(world, to_lan)
    else:
        original, out = departed_udp(world, to_lan, kind == "udp")
    reporter, at = (CLIENT, PEER) if to_lan else (PEER, WAN)
    error = icmp.IcmpError(3, 4, 1300, out[:quoted])
    packet = ipv4.build(src=reporter, dst=at, protocol=ipv4.ICMP, payload=error.to_bytes())
    got = world.packet(Side.LAN if to_lan else Side.WAN, packet)
    assert ends(got) == ((WAN, PEER) if to_lan else (PEER, CLIENT))
    assert isinstance(got, bytes)
    arrived = icmp.IcmpError.from_bytes(got[20:])
    expected = bytearray(original[:quoted])
    # One hop further, so the TTL and its share in the header's checksum differ.
    expected[8] -= 1
    assert bytes(arrived.quote[:10]) + bytes(arrived.quote[12:]) == bytes(expected[:10] + expected[12:])
    assert (arrived.code, arrived.next_hop_mtu) == (4, 1300)


@pytest.mark.parametrize("protocol", [ipv4.GRE, ipv4.ESP, PROTOCOL], ids=["gre", "esp", "udp"])
@pytest.mark.parametrize(("length", "reason"), [(20, Reason.ICMP_MALFORMED), (28, Reason.ICMP_UNKNOWN)])
def test_an_error_about_nothing_of_ours_goes_nowhere(
    world: World, protocol: int, length: int, reason: Reason
) -> None:
    quote = ipv4.build(src=WAN, dst=PEER, protocol=protocol, payload=bytes(20))[:length]
    payload = icmp.IcmpError(3, 4, 1300, quote).to_bytes()
    packet = ipv4.build(src=PEER, dst=WAN, protocol=ipv4.ICMP, payload=payload)
    assert world.packet(Side.WAN, packet) is reason


@pytest.mark.parametrize("kind", ["esp", "udp"])
def test_too_big_is_told_to_the_sender_about_what_it_had_sent(world: World, kind: str) -> None:
    if kind == "esp":
        original = esp_packet(CLIENT, PEER, ESP_SPI, 1, dont_fragment=True)
    else:
        natt(world)
        inner = Datagram((CLIENT, 4500), (PEER, 4500), Esp(0x3000, 2, bytes(90)).to_bytes()).summed()
        original = ipv4.build(
            src=CLIENT, dst=PEER, protocol=PROTOCOL, payload=inner.to_bytes(), dont_fragment=True
        )
    out = world.packet(Side.LAN, original)
    assert isinstance(out, bytes)
    drop, send = world.perform(world.gateway.too_big(bytearray(out), len(out), mtu=80, now=world.now))
    assert world.drops[-1].reason is Reason.TOO_BIG
    assert drop is world.drops[-1]
    assert isinstance(send, Send)
    assert ends(send.packet)[1] == CLIENT
    assert icmp.IcmpError.from_bytes(send.packet[20:]).quote == original[: icmp.MOST_QUOTED]
    assert world.gateway.drops[Reason.TOO_BIG] == 1


@pytest.mark.parametrize("dont_fragment", [False, True])
def test_a_large_ike_message_leaves_in_fragments_whatever_its_flag(world: World, dont_fragment: bool) -> None:
    out = udp(
        world, Side.LAN, (CLIENT, 500), (PEER, 500), ike(0xA3, text=bytes(3000)), dont_fragment=dont_fragment
    )
    assert isinstance(out, bytes)
    pieces = world.perform(world.gateway.too_big(bytearray(out), len(out), mtu=1400, now=world.now))
    assert len(pieces) == 3
    headers = [ipv4.Header.from_bytes(p.packet) for p in pieces if isinstance(p, Send)]
    assert not any(header.dont_fragment for header in headers)
    assert {header.identification for header in headers} == {1}


def test_copies_too_big_with_dont_fragment_are_dropped_and_counted(world: World) -> None:
    packet = esp_packet(PEER, CLIENT, 0x7777, 1, dont_fragment=True)
    (drop,) = world.perform(world.gateway.too_big(bytearray(packet), len(packet), mtu=60, now=world.now))
    assert drop is world.drops[-1]
    assert world.gateway.drops[Reason.TOO_BIG] == 1


@pytest.mark.parametrize(("protocol", "reason"), [(51, Reason.AH), (94, Reason.FWZ)])
@pytest.mark.parametrize("side", Side)
def test_what_cannot_work_is_named(world: World, side: Side, protocol: int, reason: Reason) -> None:
    src, dst = (CLIENT, PEER) if side is Side.LAN else (PEER, WAN)
    packet = ipv4.build(src=src, dst=dst, protocol=protocol, payload=bytes(40))
    assert world.packet(side, packet) is reason


def test_a_packet_whose_ttl_ends_here_is_reported_inside_only(world: World) -> None:
    tunnel(world, CLIENT, 0xA1, ESP_SPI)
    got = world.packet(Side.LAN, esp_packet(CLIENT, PEER, ESP_SPI, 70, ttl=1))
    assert isinstance(got, bytes)
    assert icmp.IcmpError.from_bytes(got[20:]).type == icmp.TIME_EXCEEDED
    assert world.packet(Side.WAN, esp_packet(PEER, WAN, ESP_SPI + 1, 70, ttl=1)) is Reason.TTL_EXPIRED
    assert world.gateway.drops[Reason.TTL_EXPIRED] == 2


@pytest.mark.parametrize("all_hosts", sorted(BROADCASTS), ids=show_ip)
def test_nobody_is_told_about_a_packet_to_all_hosts_of_a_network(world: World, all_hosts: Ip4) -> None:
    assert world.packet(Side.LAN, esp_packet(CLIENT, all_hosts, ESP_SPI, 70, ttl=1)) is Reason.TTL_EXPIRED
    way = ((CLIENT, 500), (all_hosts, 500))
    assert udp(world, Side.LAN, *way, ike(0xA1), ttl=1) is Reason.TTL_EXPIRED
    assert isinstance(world.packet(Side.LAN, esp_packet(CLIENT, all_hosts, ESP_SPI, 70)), Reason)
    assert isinstance(udp(world, Side.LAN, *way, ike(0xA1)), Reason)
    assert world.sent == []
    assert world.sessions() == []


# -- endings -----------------------------------------------------------------------------------------------


@pytest.fixture
def busy(world: World) -> World:
    """All kinds of sessions at once."""
    tunnel(world, CLIENT, 0xA1, ESP_SPI)
    natt(world)
    world.tunnel(CLIENT, PEER)
    assert sorted(s.protocol for s in world.sessions()) == ["esp", "isakmp", "natt", "pptp"]
    return world


def test_each_session_is_ended_by_its_id(busy: World) -> None:
    for session in list(busy.sessions()):
        actions = busy.perform(busy.gateway.kill([session.id], now=busy.now))
        assert [a.session for a in actions if isinstance(a, SessionClosed)] == [session]
    assert busy.sessions() == []


def test_all_end_with_the_gateway(busy: World) -> None:
    busy.perform(busy.gateway.close("the gateway stops", now=busy.now))
    assert busy.sessions() == []
    assert {closed.why for closed in busy.closed} == {"the gateway stops"}


def test_a_reload_ends_what_it_forbids_and_nothing_else(busy: World) -> None:
    only_pptp = replace(STAFF, ipsec=False)
    busy.perform(busy.gateway.reload(replace(RULES, masquerade=(only_pptp,)), now=busy.now))
    assert [s.protocol for s in busy.sessions()] == ["pptp"]
    busy.perform(busy.gateway.reload(replace(RULES, limits=Limits(sessions=9)), now=busy.now))
    assert [s.protocol for s in busy.sessions()] == ["pptp"]


def test_a_lost_address_ends_esp_and_calls(busy: World) -> None:
    gone = Addresses(None, frozenset({LAN}))
    busy.perform(busy.gateway.address_changed(gone, now=busy.now))
    assert {s.protocol for s in busy.sessions()} <= {"isakmp", "natt"}


def test_silence_ends_everything_of_ipsec(busy: World) -> None:
    busy.wait(2 * RULES.ipsec.lifetime + RULES.ipsec.mapping)
    assert [s.protocol for s in busy.sessions() if s.protocol != "pptp"] == []


def test_a_shorter_lifetime_counts_at_once(world: World) -> None:
    tunnel(world, CLIENT, 0xA1, ESP_SPI)
    shorter = replace(RULES, ipsec=replace(RULES.ipsec, lifetime=5.0))
    world.perform(world.gateway.reload(shorter, now=world.now))
    world.wait(6)
    assert world.sessions() == []


def test_esp_keeps_its_ike_alive(world: World) -> None:
    tunnel(world, CLIENT, 0xA1, ESP_SPI)
    for sequence in range(100, 110):
        world.wait(RULES.ipsec.lifetime / 2)
        world.packet(Side.LAN, esp_packet(CLIENT, PEER, ESP_SPI, sequence))
    assert sorted(s.protocol for s in world.sessions()) == ["esp", "isakmp"]


def test_a_likely_collision_in_transport_mode_is_said_once(world: World) -> None:
    """HOWTO §6.1: the newer client's SA takes over at the peer, and the older client hears no more."""
    ports = {}

    def sends(client: Ip4, times: int = 1) -> None:
        for _ in range(times):
            sent = read(
                udp(world, Side.LAN, (client, 4500), (PEER, 4500), bytes.fromhex("00001000 00000001"))
            )
            ports[client] = sent.source[1]

    def hears(client: Ip4) -> None:
        payload = bytes.fromhex("00002000 00000001")
        got = read(udp(world, Side.WAN, (PEER, 4500), (WAN, ports[client]), payload))
        assert got.target == (client, 4500)

    sends(CLIENT)
    hears(CLIENT)
    world.now += 10.0
    sends(CLIENT_2)
    hears(CLIENT_2)
    assert world.gateway.look(now=world.now) == []
    world.now += 70.0
    sends(CLIENT, 12)
    sends(CLIENT_2)
    hears(CLIENT_2)
    (text,) = world.gateway.look(now=world.now)
    assert text.startswith(
        "10.0.0.2 and 10.0.0.3 likely use IPsec in transport mode (L2TP/IPsec) with 199.0.0.1"
    )
    assert world.gateway.look(now=world.now) == []
