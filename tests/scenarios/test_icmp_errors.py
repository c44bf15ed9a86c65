"""ICMP errors about packets we sent reach those who sent the originals (RFC 5508 §4.2)."""

import struct
from collections.abc import Callable

import pytest

from protocols import icmp, ipv4
from protocols.actions import Side
from protocols.addr import Ip4, parse_ip, show_ip
from protocols.drops import Reason
from protocols.gre.codec import EnhancedGre
from tests.scenarios.arrangements import (
    KEEP,
    RELAYED,
    ROUTER,
    Arrangement,
    Call,
    in_every_arrangement,
    outgoing,
)
from tests.scenarios.world import CLIENT, CLIENT_2, LAN, PEER, SERVER, STRANGER, WAN, Line

ROUTER_OUTSIDE = parse_ip("198.51.100.7")
ROUTER_INSIDE = parse_ip("10.5.0.1")

BOTH_WAYS = pytest.mark.parametrize("to_pac", [True, False], ids=["to-the-pac", "to-the-pns"])


def ends(call: Call, *, to_pac: bool) -> tuple[Line, Line, int]:
    """Who sends a packet, whom it reaches, and the Call ID it is sent with."""
    if to_pac:
        return call.pns, call.pac, call.pac_shown
    return call.pac, call.pns, call.pns_shown


def sent_and_arrived(call: Call, *, to_pac: bool) -> tuple[bytes, bytes]:
    """A data packet as its sender sends it, and as it leaves the gateway with the kernel's checksum."""
    line, _, call_id = ends(call, to_pac=to_pac)
    inner = EnhancedGre(call_id=call_id, seq=1, payload=b"lost data").to_bytes()
    original = ipv4.build(
        src=line.host, dst=line.correspondent, protocol=47, payload=inner, tos=0x10, identification=99,
        dont_fragment=True,
    )  # fmt: skip
    out = call.world.packet(line.side, original)
    assert isinstance(out, bytes)
    header = ipv4.Header.from_bytes(out, verify=False)
    return original, header.to_bytes() + out[20:]


def report(
    call: Call, reporter: Ip4, side: Side, error: icmp.IcmpError, *, to: Ip4, ttl: int = 60
) -> bytes | Reason:
    """A router says that a packet came to nothing."""
    whole = ipv4.build(src=reporter, dst=to, protocol=1, payload=error.to_bytes(), ttl=ttl, tos=0xC0)
    return call.world.packet(side, whole)


KINDS = [
    pytest.param(3, 0, 0, id="network-unreachable"),
    pytest.param(3, 1, 0, id="host-unreachable"),
    pytest.param(3, 2, 0, id="protocol-unreachable"),
    pytest.param(3, 4, 1372, id="fragmentation-needed"),
    pytest.param(3, 13, 0, id="prohibited"),
    pytest.param(11, 0, 0, id="time-exceeded"),
    pytest.param(11, 1, 0, id="reassembly-time-exceeded"),
    pytest.param(12, 0, 0x14000000, id="parameter-problem"),
]


@in_every_arrangement
@BOTH_WAYS
@pytest.mark.parametrize(("kind", "code", "rest"), KINDS)
@pytest.mark.parametrize("quoted", [28, 36, None], ids=["8-bytes", "16-bytes", "whole"])
def test_an_error_reaches_the_sender_of_the_packet_it_quotes(
    arrangement: Arrangement, to_pac: bool, kind: int, code: int, rest: int, quoted: int | None
) -> None:
    call = outgoing(*arrangement.connect())
    sender, receiver, _ = ends(call, to_pac=to_pac)
    original, departed = sent_and_arrived(call, to_pac=to_pac)
    reporter = ROUTER_OUTSIDE if receiver.side is Side.WAN else ROUTER_INSIDE
    error = icmp.IcmpError(kind, code, rest, departed[:quoted])
    answer = report(call, reporter, receiver.side, error, to=receiver.correspondent)

    assert isinstance(answer, bytes)
    header = ipv4.validate(answer)
    assert (header.dst, header.protocol, header.ttl, header.tos) == (sender.host, 1, 59, 0xC0)
    # A router outside stays itself to those inside; what is inside stays hidden (REQ-4, REQ-5).
    to_lan_from_wan = receiver.side is Side.WAN and sender.side is Side.LAN
    assert header.src == (reporter if to_lan_from_wan else sender.correspondent)
    passed = icmp.IcmpError.from_bytes(answer[20:])
    assert (passed.type, passed.code, passed.rest) == (kind, code, rest)
    expected = bytearray(original[:quoted])
    expected[8] -= 1  # it had passed one router: us
    assert passed.quote[:10] + passed.quote[12:] == bytes(expected[:10] + expected[12:])
    ipv4.Header.from_bytes(passed.quote)  # its header checksum is right
    assert call.flows()


@in_every_arrangement
def test_an_error_of_the_receiver_itself_comes_from_whom_the_sender_talks_to(
    arrangement: Arrangement,
) -> None:
    call = outgoing(*arrangement.connect())
    for to_pac in (True, False):
        sender, receiver, _ = ends(call, to_pac=to_pac)
        _, departed = sent_and_arrived(call, to_pac=to_pac)
        error = icmp.IcmpError(3, 2, 0, departed)
        answer = report(call, receiver.host, receiver.side, error, to=receiver.correspondent)
        assert isinstance(answer, bytes)
        header = ipv4.validate(answer)
        assert (header.src, header.dst) == (sender.correspondent, sender.host)


@BOTH_WAYS
def test_an_error_neither_refreshes_nor_ends_anything(to_pac: bool) -> None:
    call = outgoing(*ROUTER.connect())
    _, receiver, _ = ends(call, to_pac=to_pac)
    _, departed = sent_and_arrived(call, to_pac=to_pac)
    (session,) = call.world.sessions()
    heard = session.idle_since()
    packets = (session.outbound.packets, session.inbound.packets)
    call.world.now += 20
    reporter = ROUTER_OUTSIDE if receiver.side is Side.WAN else ROUTER_INSIDE
    for kind, code in ((3, 2), (3, 1), (11, 0)):
        error = icmp.IcmpError(kind, code, 0, departed)
        assert isinstance(report(call, reporter, receiver.side, error, to=receiver.correspondent), bytes)
    assert session.idle_since() == heard
    assert (session.outbound.packets, session.inbound.packets) == packets
    assert call.flows()


def test_a_wrong_checksum_in_a_quotation_stays_wrong_by_as_much() -> None:
    call = outgoing(*ROUTER.connect())
    original, departed = sent_and_arrived(call, to_pac=True)
    spoilt = departed[:10] + struct.pack("!H", int.from_bytes(departed[10:12]) ^ 0x0100) + departed[12:]
    answer = report(call, ROUTER_OUTSIDE, Side.WAN, icmp.IcmpError(3, 1, 0, spoilt), to=WAN)
    assert isinstance(answer, bytes)
    good = ipv4.Header.from_bytes(original[:8] + b"\x3f" + original[9:], verify=False).to_bytes()
    quote = icmp.IcmpError.from_bytes(answer[20:]).quote
    assert quote[10:12] != good[10:12]
    assert quote[:10] + quote[12:20] == good[:10] + good[12:]


def test_a_quotation_with_options_is_read_where_its_header_ends() -> None:
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    quote = b"\x46" + departed[1:20] + b"\x94\x04\0\0" + departed[20:]
    answer = report(call, ROUTER_OUTSIDE, Side.WAN, icmp.IcmpError(3, 1, 0, quote), to=WAN)
    assert isinstance(answer, bytes)
    assert show_ip(ipv4.validate(answer).dst) == "10.0.0.2"


def refused(
    call: Call, error: icmp.IcmpError, reporter: Ip4 = ROUTER_OUTSIDE, side: Side = Side.WAN
) -> Reason:
    verdict = report(call, reporter, side, error, to=WAN)
    assert isinstance(verdict, Reason)
    assert call.world.gateway.drops[verdict] == 1
    return verdict


def test_what_quotes_nothing_of_ours_goes_no_further() -> None:
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    other_call = departed[:26] + b"\xee\xee" + departed[28:]
    cases = [
        (departed[:19], Reason.ICMP_MALFORMED),
        (departed[:27], Reason.ICMP_MALFORMED),
        (b"\x65" + departed[1:], Reason.ICMP_MALFORMED),
        (departed[:9] + b"\x11" + departed[10:], Reason.ICMP_UNKNOWN),
        (departed[:6] + b"\x00\x01" + departed[8:], Reason.ICMP_UNKNOWN),
        (other_call, Reason.ICMP_UNKNOWN),
    ]
    for number, (quote, reason) in enumerate(cases):
        call.world.gateway.drops = dict.fromkeys(Reason, 0)
        assert refused(call, icmp.IcmpError(3, 1, 0, quote)) is reason, number
    assert call.world.sent == []
    assert call.flows()


def test_an_error_from_the_wrong_side_goes_no_further() -> None:
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    error = icmp.IcmpError(3, 1, 0, departed)
    assert refused(call, error, reporter=CLIENT, side=Side.LAN) is Reason.ICMP_UNKNOWN


@pytest.mark.parametrize(
    ("to_pac", "reporter", "reason"),
    [
        pytest.param(True, CLIENT, Reason.SPOOFED, id="lan-address"),
        pytest.param(True, WAN, Reason.OWN_ADDRESS, id="our-own"),
        pytest.param(True, parse_ip("127.0.0.1"), Reason.MARTIAN, id="loopback"),
        pytest.param(False, LAN, Reason.OWN_ADDRESS, id="our-own-from-the-lan"),
        pytest.param(False, parse_ip("224.0.0.1"), Reason.MARTIAN, id="multicast-from-the-lan"),
    ],
)
def test_an_error_from_a_false_source_goes_no_further(to_pac: bool, reporter: Ip4, reason: Reason) -> None:
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=to_pac)
    error = icmp.IcmpError(3, 1, 0, departed)
    assert refused(call, error, reporter, Side.WAN if to_pac else Side.LAN) is reason


def test_an_error_from_the_lan_keeps_the_lan_hidden_whoever_reports() -> None:
    call = outgoing(*KEEP.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    for reporter in (SERVER, ROUTER_INSIDE, parse_ip("192.168.7.7")):
        answer = report(call, reporter, Side.LAN, icmp.IcmpError(3, 1, 0, departed), to=PEER)
        assert isinstance(answer, bytes)
        header = ipv4.validate(answer)
        assert (header.src, header.dst) == (WAN, PEER)


def test_relay_clients_hear_a_far_router_by_its_own_name() -> None:
    call = outgoing(*RELAYED.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    answer = report(call, ROUTER_OUTSIDE, Side.WAN, icmp.IcmpError(11, 0, 0, departed), to=WAN)
    assert isinstance(answer, bytes)
    header = ipv4.validate(answer)
    assert (header.src, header.dst) == (ROUTER_OUTSIDE, CLIENT)
    assert ipv4.Header.from_bytes(icmp.IcmpError.from_bytes(answer[20:]).quote).dst == LAN


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda p: p[:20] + b"\x08" + p[21:], Reason.ICMP_MALFORMED, id="a-ping"),
        pytest.param(lambda p: p[:22] + b"\0\0" + p[24:], Reason.ICMP_MALFORMED, id="wrong-checksum"),
        pytest.param(lambda p: p[:2] + b"\0\x18" + p[4:24], Reason.ICMP_MALFORMED, id="cut-short"),
        pytest.param(lambda p: p[:6] + b"\x20\0" + p[8:], Reason.FRAGMENT, id="a-fragment"),
        pytest.param(lambda p: p[:8] + b"\x01" + p[9:], Reason.TTL_EXPIRED, id="at-its-end"),
    ],
)
def test_a_spoilt_error_goes_no_further(spoil: Callable[[bytes], bytes], reason: Reason) -> None:
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    whole = ipv4.build(
        src=ROUTER_OUTSIDE, dst=WAN, protocol=1, payload=icmp.IcmpError(3, 1, 0, departed).to_bytes()
    )
    assert call.world.packet(Side.WAN, spoil(whole)) is reason
    assert call.world.sent == []


def test_an_error_about_an_ended_call_goes_no_further() -> None:
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    call.pns.hangs_up()
    assert refused(call, icmp.IcmpError(3, 1, 0, departed)) is Reason.ICMP_UNKNOWN


def test_a_stranger_may_report_as_any_router_may() -> None:
    # RFC 4787 REQ-12b: errors are not filtered by their source.
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=True)
    answer = report(call, STRANGER, Side.WAN, icmp.IcmpError(3, 1, 0, departed), to=WAN)
    assert isinstance(answer, bytes)


@pytest.mark.parametrize("code", [2, 3], ids=["protocol", "port"])
def test_one_of_several_hosts_does_not_refuse_for_all(code: int) -> None:
    call = outgoing(*ROUTER.connect())
    _, departed = sent_and_arrived(call, to_pac=False)
    refusal = icmp.IcmpError(3, code, 0, departed)
    assert isinstance(report(call, CLIENT, Side.LAN, refusal, to=PEER), bytes)
    call.world.tunnel(CLIENT_2, PEER, pac_id=200)
    assert report(call, CLIENT, Side.LAN, refusal, to=PEER) is Reason.ICMP_SHARED
    too_big = icmp.IcmpError(3, 4, 1200, departed)
    assert isinstance(report(call, CLIENT, Side.LAN, too_big, to=PEER), bytes)
