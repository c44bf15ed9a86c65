"""IP protocols that are forwarded whole (HOWTO §3.5, §4.6): FWZ in transport mode, GRE of another kind."""

from dataclasses import replace

import pytest

from protocols import icmp, ipv4
from protocols.actions import Drop, Send, SessionClosed, Side
from protocols.addr import Ip4, Network
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.gre.codec import EnhancedGre
from protocols.icmp import IcmpError
from protocols.policy import Expose, Forward, ForwardTimers, Limits, Masquerade, OnChange
from tests.scenarios.forwardworld import ALLOWED, OURS, ForwardWorld, Got, policy
from tests.scenarios.world import CLIENT, CLIENT_2, LAN, PEER, PEER_2, SERVER, STAFF, STRANGER, WAN, World
from tests.scenarios.world import policy as vpns

FWZ = Forward("fwz", 94, 0, SERVER, 0, ALLOWED)
GRE = Forward("gre", 47, 0, SERVER, 0, ALLOWED)
#: Version 0 with IPv4 inside (RFC 2784).
PLAIN_GRE = bytes.fromhex("00000800") + bytes(20)


def world(*rules: Forward, **more: object) -> ForwardWorld:
    return ForwardWorld(policy(*(rules or (FWZ,)), **more))


def got(source: Ip4, target: Ip4, payload: bytes = b"data", *, fast: bool) -> Got:
    return Got((source, 0), (target, 0), payload, fast)


def both_ways(house: ForwardWorld) -> None:
    assert house.ip(Side.WAN, PEER, WAN) == got(PEER, SERVER, fast=False)
    assert house.ip(Side.LAN, SERVER, PEER) == got(WAN, PEER, fast=False)


def test_both_directions_and_then_the_short_lane() -> None:
    house = world()
    both_ways(house)
    (session,) = house.sessions
    assert (session.protocol, session.listen, session.state.value) == ("ip", "ip/94", "established")
    assert house.ip(Side.WAN, PEER, WAN, b"") == got(PEER, SERVER, b"", fast=True)
    assert house.ip(Side.LAN, SERVER, PEER) == got(WAN, PEER, fast=True)
    assert (session.inbound.packets, session.outbound.packets) == (2, 2)
    assert session.inbound.octets == 44


def test_several_peers_and_a_server_that_speaks_first() -> None:
    house = world()
    assert house.ip(Side.LAN, SERVER, PEER_2) == got(WAN, PEER_2, fast=False)
    both_ways(house)
    assert house.ip(Side.WAN, PEER_2, WAN) == got(PEER_2, SERVER, fast=False)
    assert len(house.sessions) == 2


REFUSED = [
    pytest.param(Side.WAN, STRANGER, WAN, 94, Reason.NO_RULE, id="not-allowed"),
    pytest.param(Side.WAN, PEER, WAN, 95, Reason.NOT_SERVED, id="other-protocol"),
    pytest.param(Side.WAN, PEER, LAN, 94, Reason.FWZ, id="other-address"),
    pytest.param(Side.LAN, SERVER, STRANGER, 94, Reason.NO_RULE, id="the-server-to-a-stranger"),
    pytest.param(Side.LAN, CLIENT, PEER, 94, Reason.FWZ, id="a-client"),
    pytest.param(Side.WAN, CLIENT, WAN, 94, Reason.SPOOFED, id="spoofed"),
]


@pytest.mark.parametrize(("side", "source", "target", "protocol", "reason"), REFUSED)
def test_who_is_not_let_through(side: Side, source: Ip4, target: Ip4, protocol: int, reason: Reason) -> None:
    house = world()
    assert house.ip(side, source, target, protocol=protocol) is reason
    assert house.sessions == []


def test_a_packet_without_time_left_goes_no_further_and_an_inside_host_is_told() -> None:
    house = world()
    assert house.ip(Side.WAN, PEER, WAN, ttl=1) is Reason.TTL_EXPIRED
    both_ways(house)
    assert house.ip(Side.WAN, PEER, WAN, ttl=1) is Reason.TTL_EXPIRED
    assert house.ip(Side.LAN, SERVER, PEER, ttl=1) is Reason.TTL_EXPIRED


def test_limits_hold_and_are_told_by_rule() -> None:
    house = world(limits=Limits(sessions=1))
    both_ways(house)
    assert house.ip(Side.WAN, PEER_2, WAN) is Reason.LIMIT_SESSIONS
    assert house.gateway.refused("fwz") == 1


def neighbourly(house: ForwardWorld) -> None:
    assert house.ip(Side.LAN, CLIENT, WAN) == got(WAN, SERVER, fast=False)
    assert house.ip(Side.LAN, SERVER, WAN) == got(WAN, CLIENT, fast=False)


def test_one_neighbour_at_a_time_comes_by_the_public_address() -> None:
    house = world()
    assert house.ip(Side.LAN, SERVER, WAN) is Reason.NO_RULE
    neighbourly(house)
    assert house.ip(Side.LAN, CLIENT, WAN) == got(WAN, SERVER, fast=True)
    assert house.ip(Side.LAN, SERVER, WAN) == got(WAN, CLIENT, fast=True)
    assert house.ip(Side.LAN, CLIENT_2, WAN) is Reason.FORWARD_SHARED
    house.wait(600)
    assert house.ip(Side.LAN, CLIENT_2, WAN) == got(WAN, SERVER, fast=False)


# -- GRE --------------------------------------------------------------------------------------------------


def test_without_a_rule_for_pptp_all_gre_is_the_forwards() -> None:
    """The HOWTO's ipfwd --masq 10.0.0.2 47 beside ipportfw of tcp/1723."""
    house = world(GRE)
    pptp = EnhancedGre(call_id=7, seq=0, payload=b"ppp").to_bytes()
    for payload in (pptp, PLAIN_GRE):
        sent = house.ip(Side.WAN, PEER, WAN, payload, protocol=47)
        assert isinstance(sent, Got)
        assert (sent.target, sent.payload) == ((SERVER, 0), payload)


@pytest.mark.parametrize("vpn", [{"masquerade": (STAFF,)}, {"expose": (Expose("x", CLIENT_2, ()),)}])
def test_beside_pptp_only_gre_of_another_kind_is(vpn: dict[str, tuple[Masquerade | Expose, ...]]) -> None:
    house = world(GRE, **vpn)
    pptp = EnhancedGre(call_id=7, seq=0, payload=b"ppp").to_bytes()
    assert house.ip(Side.WAN, PEER, WAN, pptp, protocol=47) is Reason.STRANGER
    assert house.ip(Side.WAN, PEER, WAN, PLAIN_GRE, protocol=47) == got(PEER, SERVER, PLAIN_GRE, fast=False)
    assert house.ip(Side.WAN, PEER, WAN, PLAIN_GRE, protocol=47) == got(PEER, SERVER, PLAIN_GRE, fast=True)
    # Also not by the short lane that is open now.
    assert house.ip(Side.WAN, PEER, WAN, pptp, protocol=47) is Reason.STRANGER
    (session,) = house.sessions
    assert session.inbound.packets == 2


@pytest.mark.parametrize("short", [b"", b"\0\0\0", bytes(4)], ids=["empty", "three-octets", "header-alone"])
def test_gre_too_short_to_be_pptps_is_the_forwards(short: bytes) -> None:
    """A header alone is what answers keepalives of tunnels."""
    house = world(GRE, masquerade=(STAFF,))
    assert house.ip(Side.WAN, PEER, WAN, short, protocol=47) == got(PEER, SERVER, short, fast=False)
    assert house.ip(Side.WAN, PEER, WAN, short, protocol=47) == got(PEER, SERVER, short, fast=True)


def test_a_reload_lays_the_lane_and_takes_it_away() -> None:
    house = world(GRE)
    assert isinstance(house.ip(Side.WAN, PEER, WAN, PLAIN_GRE, protocol=47), Got)
    house.note(house.gateway.reload(policy(FWZ), now=house.now))
    assert house.ip(Side.WAN, PEER, WAN, PLAIN_GRE, protocol=47) is Reason.GRE_VERSION
    both_ways(house)


# -- ICMP, and packets that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize("vpn", [{}, {"masquerade": (STAFF,)}], ids=["alone", "beside-pptp"])
def test_errors_and_packets_that_do_not_fit_reach_their_senders(
    vpn: dict[str, tuple[Masquerade, ...]],
) -> None:
    house = world(GRE, **vpn)
    payload = PLAIN_GRE + bytes(1000)
    whole = ipv4.build(src=PEER, dst=WAN, protocol=47, payload=payload, dont_fragment=True)
    house.packet(Side.WAN, whole)
    sent = house.packet(Side.WAN, whole)
    assert not isinstance(sent, Reason)
    error = IcmpError(icmp.DESTINATION_UNREACHABLE, icmp.PROTOCOL_UNREACHABLE, 0, sent[0][:60])
    out = house.packet(Side.LAN, ipv4.build(src=SERVER, dst=PEER, protocol=1, payload=error.to_bytes()))
    assert not isinstance(out, Reason)
    header = ipv4.Header.from_bytes(out[0], verify=False)
    assert (header.src, header.dst) == (WAN, PEER)
    quoted = ipv4.Header.from_bytes(IcmpError.from_bytes(out[0][20:]).quote, verify=False)
    assert (quoted.src, quoted.dst) == (PEER, WAN)
    drop, answer = house.gateway.too_big(bytearray(sent[0]), len(sent[0]), mtu=576, now=house.now)
    assert isinstance(drop, Drop)
    assert isinstance(answer, Send)
    told = IcmpError.from_bytes(answer.packet[20:])
    assert (answer.destination, told.next_hop_mtu) == (PEER, 576)
    assert told.quote == whole[: len(told.quote)]


def test_errors_about_a_call_go_to_its_sender_also_beside_a_forward() -> None:
    town = World(replace(vpns(STAFF), forward=(GRE,)))
    client, _, _, call_id = town.tunnel(CLIENT, PEER)
    plain = ipv4.build(src=SERVER, dst=PEER, protocol=47, payload=PLAIN_GRE)
    assert isinstance(town.packet(Side.LAN, plain), bytes)
    out = client.sends(call_id)
    assert isinstance(out, bytes)

    def reported(quote: bytes) -> bytes | Reason:
        error = IcmpError(icmp.DESTINATION_UNREACHABLE, icmp.PROTOCOL_UNREACHABLE, 0, quote[:28])
        return town.packet(Side.WAN, ipv4.build(src=PEER, dst=WAN, protocol=1, payload=error.to_bytes()))

    told = reported(out)
    assert isinstance(told, bytes)
    assert ipv4.Header.from_bytes(told).dst == CLIENT
    # What nobody's call has sent, the forward has not sent either.
    assert reported(out[:26] + b"\xee\xee" + out[28:]) is Reason.ICMP_UNKNOWN


def test_an_error_about_what_nobody_sent_goes_nowhere() -> None:
    house = world()
    quote = ipv4.build(src=PEER, dst=SERVER, protocol=94, payload=b"12345678")
    error = IcmpError(icmp.TIME_EXCEEDED, 0, 0, quote)
    packet = ipv4.build(src=SERVER, dst=PEER, protocol=1, payload=error.to_bytes())
    assert house.packet(Side.LAN, packet) is Reason.ICMP_UNKNOWN
    foreign = ipv4.build(src=PEER, dst=SERVER, protocol=94, payload=b"12345678", dont_fragment=True)
    assert house.gateway.too_big(bytearray(foreign), len(foreign), mtu=576, now=house.now) == [
        Drop(Reason.TOO_BIG)
    ]


# -- time and the operator -----------------------------------------------------------------------------------


def test_ten_minutes_of_silence_end_a_session() -> None:
    house = world()
    both_ways(house)
    house.wait(500)
    assert isinstance(house.ip(Side.LAN, SERVER, PEER), Got)
    assert house.wait(599) == []
    (closed,) = house.wait(1)
    assert isinstance(closed, SessionClosed)
    assert house.gateway.next_deadline() is None


def test_kill_close_reload_and_a_changed_address() -> None:
    house = world()
    both_ways(house)
    house.gateway.kill([house.sessions[0].id], now=house.now)
    assert house.sessions == []
    both_ways(house)
    renamed = replace(FWZ, name="transport")
    assert house.gateway.reload(policy(renamed, forwarding=ForwardTimers(ip=900.0)), now=house.now) == []
    assert house.sessions[0].rule == "transport"
    assert house.wait(899) == []
    house.gateway.reload(policy(replace(FWZ, allow=(Network.parse("198.51.100.7"),))), now=house.now)
    assert house.sessions == []
    house.gateway.reload(policy(FWZ), now=house.now)
    both_ways(house)
    house.gateway.address_changed(Addresses(PEER_2, frozenset({PEER_2, LAN})), now=house.now)
    assert house.sessions == []
    house.gateway.address_changed(OURS, now=house.now)
    both_ways(house)
    assert house.gateway.close("the gateway stops", now=house.now)
    assert house.sessions == []


@pytest.mark.parametrize(("on_change", "left"), [(OnChange.CLOSE, 0), (OnChange.KEEP, 1)])
def test_without_an_address_it_ends_or_waits_for_it_as_the_policy_says(
    on_change: OnChange, left: int
) -> None:
    house = world(on_change=on_change)
    both_ways(house)
    neighbourly(house)
    house.note(house.gateway.address_changed(Addresses(None, frozenset({LAN})), now=house.now))
    for side, source, target in (
        (Side.WAN, PEER_2, WAN),
        (Side.WAN, PEER, WAN),
        (Side.LAN, SERVER, PEER),
        (Side.LAN, CLIENT, WAN),
        (Side.LAN, SERVER, WAN),
    ):
        assert house.ip(side, source, target) is Reason.FWZ
    house.note(house.gateway.address_changed(OURS, now=house.now))
    assert len(house.sessions) == 2 * left
    if left:
        both_ways(house)
        neighbourly(house)
        assert house.ip(Side.LAN, SERVER, WAN) == got(WAN, CLIENT, fast=True)


def test_a_padded_packet_goes_the_long_way() -> None:
    house = world()
    both_ways(house)
    whole = ipv4.build(src=PEER, dst=WAN, protocol=94, payload=b"data")
    sent = house.packet(Side.WAN, whole + bytes(20))
    assert not isinstance(sent, Reason)
    assert (len(sent[0]), sent[1]) == (24, False)
