"""Forwarded UDP: who gets what, under which address, for how long (RFC 4787)."""

from dataclasses import replace

import pytest

from protocols import icmp, ipv4
from protocols.actions import Drop, Send, SessionClosed, SessionOpened, Side
from protocols.addr import Ip4, Network
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.icmp import IcmpError
from protocols.policy import Forward, ForwardTimers, Ipsec, Limits, OnChange, Source
from protocols.sessions import Role
from protocols.udp import Datagram
from tests.scenarios.forwardworld import ALLOWED, OURS, ForwardWorld, Got, policy
from tests.scenarios.world import CLIENT, CLIENT_2, LAN, PEER, PEER_2, SERVER, STRANGER, WAN

MINUTE = 60.0
DNS = Forward("dns", 17, 53, SERVER, 5353, ALLOWED)
HIDDEN = replace(DNS, source=Source.GATEWAY)
SERVED, PUBLIC, ASKER = (SERVER, 5353), (WAN, 53), (PEER, 40000)


def world(*rules: Forward, **more: object) -> ForwardWorld:
    return ForwardWorld(policy(*(rules or (DNS,)), **more))


def asked(house: ForwardWorld) -> None:
    """One question and its answer."""
    assert house.udp(Side.WAN, ASKER, PUBLIC) == Got(ASKER, SERVED, b"data", fast=False)
    assert house.udp(Side.LAN, SERVED, ASKER) == Got(PUBLIC, ASKER, b"data", fast=False)


def test_a_question_and_its_answer_and_then_the_short_lane() -> None:
    house = world()
    asked(house)
    (session,) = house.sessions
    assert (session.protocol, session.role, session.listen) == ("udp", Role.FORWARD, "udp/53")
    assert (session.inside, session.gateway, session.peer, session.server_port) == (SERVER, WAN, PEER, 5353)
    assert session.state.value == "established"
    assert house.udp(Side.WAN, ASKER, PUBLIC, b"four") == Got(ASKER, SERVED, b"four", fast=True)
    # So short a one is nothing for the short lane here, and for the kernel it is.
    assert house.udp(Side.LAN, SERVED, ASKER, b"") == Got(PUBLIC, ASKER, b"", fast=house.in_kernel)
    assert (session.inbound.packets, session.outbound.packets) == (2, 2)


def test_all_ports_of_a_peer_are_one_session() -> None:
    house = world()
    for port in range(40000, 40200):
        assert house.udp(Side.WAN, (PEER, port), PUBLIC) == Got((PEER, port), SERVED, b"data", fast=False)
        assert house.udp(Side.LAN, SERVED, (PEER, port)) == Got(PUBLIC, (PEER, port), b"data", fast=False)
    assert len(house.sessions) == 1
    # The newest of them have the short lane; the others work all the same.
    again = [house.udp(Side.WAN, (PEER, port), PUBLIC) for port in range(40199, 40135, -1)]
    assert all(isinstance(got, Got) and got.fast for got in again)
    assert house.udp(Side.WAN, (PEER, 40000), PUBLIC) == Got((PEER, 40000), SERVED, b"data", fast=False)


def test_the_server_may_speak_first_from_the_same_public_port() -> None:
    """REQ-1: the mapping does not depend on whom it is for."""
    house = world()
    assert house.udp(Side.LAN, SERVED, (PEER, 7)) == Got(PUBLIC, (PEER, 7), b"data", fast=False)
    assert house.udp(Side.LAN, SERVED, (STRANGER, 7)) is Reason.NOT_SERVED
    assert house.udp(Side.LAN, (SERVER, 5354), (PEER, 7)) is Reason.NOT_SERVED


REFUSED = [
    pytest.param(Side.WAN, (STRANGER, 1), PUBLIC, Reason.NO_RULE, id="not-allowed"),
    pytest.param(Side.WAN, ASKER, (WAN, 54), Reason.NATT_LENGTH, id="other-port-so-IPsec's"),
    pytest.param(Side.WAN, ASKER, (LAN, 53), Reason.NOT_SERVED, id="other-address"),
    pytest.param(Side.LAN, ASKER, PUBLIC, Reason.SPOOFED, id="outside-address-from-inside"),
    pytest.param(Side.WAN, (CLIENT, 1), PUBLIC, Reason.SPOOFED, id="inside-address-from-outside"),
]


@pytest.mark.parametrize(("side", "source", "target", "reason"), REFUSED)
def test_who_is_not_let_in(
    side: Side, source: tuple[Ip4, int], target: tuple[Ip4, int], reason: Reason
) -> None:
    house = world()
    assert house.udp(side, source, target) is reason
    assert house.gateway.drops[reason] == 1
    assert house.sessions == []


def test_a_packet_without_time_left_goes_no_further() -> None:
    assert world().udp(Side.WAN, ASKER, PUBLIC, ttl=1) is Reason.TTL_EXPIRED
    house = world()
    datagram = Datagram(ASKER, PUBLIC, b"data", 1)
    whole = ipv4.build(src=PEER, dst=WAN, protocol=17, payload=datagram.to_bytes())
    assert house.packet(Side.WAN, whole) is Reason.CHECKSUM


def test_limits_hold_and_are_told_by_rule() -> None:
    house = world(limits=Limits(sessions=1))
    asked(house)
    assert house.udp(Side.WAN, (PEER_2, 1), PUBLIC) is Reason.LIMIT_SESSIONS
    assert house.udp(Side.LAN, SERVED, (PEER_2, 1)) is Reason.LIMIT_SESSIONS
    assert house.gateway.refused("dns") == 2


def test_two_ports_of_ours_may_lead_to_one_of_the_servers() -> None:
    house = world(DNS, replace(DNS, name="alt", port=5300))
    asked(house)
    assert house.udp(Side.WAN, (PEER_2, 9), (WAN, 5300)) == Got((PEER_2, 9), SERVED, b"data", fast=False)
    assert house.udp(Side.LAN, SERVED, (PEER_2, 9)) == Got((WAN, 5300), (PEER_2, 9), b"data", fast=False)
    assert house.udp(Side.LAN, SERVED, ASKER) == Got(PUBLIC, ASKER, b"data", fast=True)


# -- peers and neighbours that the server sees under an address of ours -----------------------------------


def test_a_server_that_shall_see_us_tells_peers_apart_by_the_port() -> None:
    house = world(HIDDEN)
    shown = []
    for peer in (PEER, PEER_2):
        got = house.udp(Side.WAN, (peer, 40000), PUBLIC)
        assert isinstance(got, Got)
        assert got.source[0] == LAN
        shown.append(got.source)
        assert house.udp(Side.LAN, SERVED, got.source) == Got(PUBLIC, (peer, 40000), b"data", fast=False)
    assert shown[0] != shown[1]
    assert house.udp(Side.WAN, ASKER, PUBLIC) == Got(shown[0], SERVED, b"data", fast=True)
    assert house.udp(Side.LAN, SERVED, shown[0]) == Got(PUBLIC, ASKER, b"data", fast=True)
    assert house.udp(Side.LAN, SERVED, ASKER) is Reason.NOT_SERVED
    house.wait(6 * MINUTE)
    assert house.sessions == []
    assert house.udp(Side.LAN, SERVED, shown[0]) is Reason.NOT_SERVED
    house.wait(10 * MINUTE)
    assert house.gateway.next_deadline() is None


def test_without_a_port_or_an_address_for_it_nothing_passes() -> None:
    house = world(HIDDEN, ipsec=Ipsec(ports=(61000, 61000)))
    assert isinstance(house.udp(Side.WAN, ASKER, PUBLIC), Got)
    assert house.udp(Side.WAN, (PEER_2, 1), PUBLIC) is Reason.NO_PORT
    house = world(HIDDEN)
    house.gateway.address_changed(Addresses(WAN, frozenset({WAN})), now=house.now)
    assert house.udp(Side.WAN, ASKER, PUBLIC) is Reason.NO_ADDRESS


def test_a_neighbour_reaches_the_server_by_the_public_address() -> None:
    """REQ-9: with the public address as its source, so that answers come back through us."""
    house = world()
    for client in (CLIENT, CLIENT_2):
        got = house.udp(Side.LAN, (client, 5000), PUBLIC)
        assert isinstance(got, Got)
        assert (got.source[0], got.target) == (WAN, SERVED)
        for fast in (False, True):
            back = house.udp(Side.LAN, SERVED, got.source)
            assert back == Got(PUBLIC, (client, 5000), b"data", fast=fast)
        assert house.udp(Side.LAN, (client, 5000), PUBLIC) == Got(got.source, SERVED, b"data", fast=True)
    for session in house.sessions:
        assert (session.inbound.packets, session.outbound.packets) == (2, 2)


def neighbourly(**more: object) -> tuple[ForwardWorld, tuple[Ip4, int]]:
    """A neighbour's question and its answer; the endpoint that stands for him."""
    house = world(**more)
    got = house.udp(Side.LAN, (CLIENT, 5000), PUBLIC)
    assert isinstance(got, Got)
    assert isinstance(house.udp(Side.LAN, SERVED, got.source), Got)
    return house, got.source


def test_nobody_else_goes_by_a_neighbours_short_lane() -> None:
    house, shown = neighbourly()
    assert house.udp(Side.WAN, (CLIENT, 5000), PUBLIC) is Reason.SPOOFED
    assert house.udp(Side.WAN, SERVED, shown) is Reason.SPOOFED
    other = house.udp(Side.LAN, (CLIENT_2, 5000), PUBLIC)
    assert isinstance(other, Got)
    assert other.source not in (shown, (CLIENT_2, 5000))
    assert not other.fast
    assert house.udp(Side.LAN, (CLIENT_2, 5353), shown) is Reason.NOT_SERVED
    assert house.udp(Side.LAN, (CLIENT, 5000), PUBLIC, ttl=1) is Reason.TTL_EXPIRED


def test_a_neighbour_is_told_of_errors_about_what_he_sent() -> None:
    house, shown = neighbourly()
    datagram = Datagram((CLIENT, 5000), PUBLIC, bytes(1400)).summed()
    whole = ipv4.build(src=CLIENT, dst=WAN, protocol=17, payload=datagram.to_bytes(), dont_fragment=True)
    sent = house.packet(Side.LAN, whole)
    assert not isinstance(sent, Reason)
    refusal = IcmpError(icmp.DESTINATION_UNREACHABLE, icmp.PORT_UNREACHABLE, 0, sent[0])
    error = ipv4.build(src=SERVER, dst=WAN, protocol=1, payload=refusal.to_bytes())
    assert house.packet(Side.WAN, ipv4.build(src=PEER, dst=WAN, protocol=1, payload=refusal.to_bytes())) is (
        Reason.ICMP_UNKNOWN
    )
    out = house.packet(Side.LAN, error)
    assert not isinstance(out, Reason)
    header = ipv4.Header.from_bytes(out[0], verify=False)
    assert (header.src, header.dst) == (WAN, CLIENT)
    quote = IcmpError.from_bytes(out[0][header.length :]).quote
    assert Datagram.from_packet(ipv4.Header.from_bytes(quote, verify=False), quote) == datagram
    drop, answer = house.gateway.too_big(bytearray(sent[0]), len(sent[0]), mtu=1000, now=house.now)
    assert drop == Drop(Reason.TOO_BIG)
    assert isinstance(answer, Send)
    assert answer.destination == CLIENT
    assert shown[0] == WAN


def test_a_neighbours_short_lane_ends_with_the_address_it_went_by() -> None:
    house, shown = neighbourly()
    house.note(house.gateway.address_changed(Addresses(PEER_2, frozenset({PEER_2, LAN})), now=house.now))
    assert house.sessions == []
    assert isinstance(house.udp(Side.LAN, (CLIENT, 5000), PUBLIC), Reason)
    assert isinstance(house.udp(Side.LAN, SERVED, shown), Reason)
    new = house.udp(Side.LAN, (CLIENT, 5000), (PEER_2, 53))
    assert isinstance(new, Got)
    assert (new.source[0], new.fast) == (PEER_2, False)


# -- ICMP, and packets that do not fit -----------------------------------------------------------------------


def test_errors_about_forwarded_datagrams_reach_their_senders() -> None:
    """RFC 5508 REQ-4, REQ-5; already about the first one."""
    house = world()
    datagram = Datagram(ASKER, PUBLIC, b"question").summed()
    whole = ipv4.build(src=PEER, dst=WAN, protocol=17, payload=datagram.to_bytes())
    sent = house.packet(Side.WAN, whole)
    assert not isinstance(sent, Reason)
    refusal = IcmpError(icmp.DESTINATION_UNREACHABLE, icmp.PORT_UNREACHABLE, 0, sent[0])
    error = ipv4.build(src=SERVER, dst=PEER, protocol=1, payload=refusal.to_bytes())
    out = house.packet(Side.LAN, error)
    assert not isinstance(out, Reason)
    header = ipv4.Header.from_bytes(out[0], verify=False)
    assert (header.src, header.dst) == (WAN, PEER)
    quoted = IcmpError.from_bytes(out[0][header.length :]).quote
    inner = ipv4.Header.from_bytes(quoted, verify=False)
    assert Datagram.from_packet(inner, quoted) == datagram
    assert len(house.sessions) == 1


def test_a_datagram_that_does_not_fit_is_sent_in_fragments_or_its_sender_told() -> None:
    """REQ-13."""
    house = world()
    for dont_fragment in (False, True):
        datagram = Datagram(ASKER, PUBLIC, bytes(1400)).summed()
        whole = ipv4.build(
            src=PEER, dst=WAN, protocol=17, payload=datagram.to_bytes(), dont_fragment=dont_fragment
        )
        sent = house.packet(Side.WAN, whole)
        assert not isinstance(sent, Reason)
        actions = house.gateway.too_big(bytearray(sent[0]), len(sent[0]), mtu=1000, now=house.now)
        if not dont_fragment:
            assert all(isinstance(one, Send) and one.destination == SERVER for one in actions)
            assert len(actions) == 2
            continue
        drop, answer = actions
        assert isinstance(drop, Drop)
        assert isinstance(answer, Send)
        assert answer.destination == PEER
        told = IcmpError.from_bytes(answer.packet[20:])
        assert (told.code, told.next_hop_mtu) == (icmp.FRAGMENTATION_NEEDED, 1000)


# -- time and the operator -----------------------------------------------------------------------------------


def test_packets_of_both_directions_keep_a_session_and_five_minutes_of_silence_end_it() -> None:
    house = world()
    asked(house)
    for side, source, target in ((Side.WAN, ASKER, PUBLIC), (Side.LAN, SERVED, ASKER)) * 3:
        assert house.wait(4 * MINUTE) == []
        assert isinstance(house.udp(side, source, target), Got)
    assert house.wait(5 * MINUTE - 1) == []
    (closed,) = house.wait(1)
    assert isinstance(closed, SessionClosed)
    assert closed.why == "idle"
    assert house.gateway.next_deadline() is None


def test_a_killed_session_is_gone_until_somebody_speaks_again() -> None:
    house = world()
    asked(house)
    (session,) = house.sessions
    house.note(house.gateway.kill([session.id, "nobody"], now=house.now))
    assert house.sessions == []
    asked(house)
    assert house.note(house.gateway.close("the gateway stops", now=house.now))
    assert house.sessions == []


def test_a_reload_keeps_what_is_still_allowed() -> None:
    house = world()
    asked(house)
    renamed = replace(DNS, name="names")
    patient = ForwardTimers(udp=1000.0)
    assert house.gateway.reload(policy(renamed, forwarding=patient), now=house.now) == []
    assert house.sessions[0].rule == "names"
    assert house.wait(999) == []
    assert isinstance(house.udp(Side.WAN, ASKER, PUBLIC), Got)
    elsewhere = policy(replace(DNS, allow=(Network.parse("198.51.100.7"),)))
    gone = house.note(house.gateway.reload(elsewhere, now=house.now))
    assert [action.why for action in gone if isinstance(action, SessionClosed)] == ["no longer allowed"]
    assert house.udp(Side.WAN, ASKER, PUBLIC) is Reason.NO_RULE


@pytest.mark.parametrize(("on_change", "left"), [(OnChange.CLOSE, 0), (OnChange.KEEP, 1)])
def test_without_an_address_it_ends_or_waits_for_it_as_the_policy_says(
    on_change: OnChange, left: int
) -> None:
    house, shown = neighbourly(on_change=on_change)
    asked(house)
    house.note(house.gateway.address_changed(Addresses(None, frozenset({LAN})), now=house.now))
    assert isinstance(house.udp(Side.WAN, (PEER_2, 1), PUBLIC), Reason)
    for side, source, target in (
        (Side.WAN, ASKER, PUBLIC),
        (Side.LAN, SERVED, ASKER),
        (Side.LAN, (CLIENT, 5000), PUBLIC),
        (Side.LAN, SERVED, shown),
    ):
        assert isinstance(house.udp(side, source, target), Reason)
    house.note(house.gateway.address_changed(OURS, now=house.now))
    assert len(house.sessions) == 2 * left
    if left:
        for fast in (False, True):
            there = Got(shown, SERVED, b"data", fast=fast)
            assert house.udp(Side.LAN, (CLIENT, 5000), PUBLIC) == there
            assert house.udp(Side.WAN, ASKER, PUBLIC) == Got(ASKER, SERVED, b"data", fast=fast)


def test_every_session_is_announced() -> None:
    house = world()
    asked(house)
    assert isinstance(house.events[0], SessionOpened)
    assert len(house.events) == 2
