"""A router's duties towards data packets, and what is not let through."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from protocols import icmp, ipv4
from protocols.actions import Side
from protocols.addr import Ip4, parse_ip, show_ip
from protocols.checksum import checksum
from protocols.drops import Reason
from protocols.gre.codec import EnhancedGre
from protocols.policy import Limits, Refuse
from tests.scenarios.arrangements import KEEP, ROUTER, Arrangement, Call, in_every_arrangement, outgoing
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    GRE,
    LAN,
    PEER,
    STAFF,
    STRANGER,
    WAN,
    World,
    policy,
)

BOTH_WAYS = pytest.mark.parametrize("to_pac", [True, False], ids=["to-the-pac", "to-the-pns"])


def packet(call: Call, *, to_pac: bool = True, **ip: int) -> bytes:
    """A data packet of a call as its sender sends it."""
    line, call_id = (call.pns, call.pac_shown) if to_pac else (call.pac, call.pns_shown)
    inner = EnhancedGre(call_id=call_id, seq=7, ack=9, payload=b"\xff\x03data").to_bytes()
    return ipv4.build(
        src=line.host,
        dst=line.correspondent,
        protocol=GRE,
        payload=inner,
        ttl=ip.get("ttl", 64),
        tos=ip.get("tos", 0),
        identification=ip.get("identification", 0),
        dont_fragment=bool(ip.get("dont_fragment", 0)),
    )


def side_of(call: Call, *, to_pac: bool) -> Side:
    return call.pns.side if to_pac else call.pac.side


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@in_every_arrangement
@BOTH_WAYS
def test_only_addresses_call_id_ttl_and_checksum_change(arrangement: Arrangement, to_pac: bool) -> None:
    call = outgoing(*arrangement.connect())
    # DSCP EF with ECN "congestion experienced", an identification, Don't Fragment.
    before = packet(call, to_pac=to_pac, tos=0xBB, identification=0x1234, dont_fragment=1, ttl=17)
    after = call.world.packet(side_of(call, to_pac=to_pac), before)
    assert isinstance(after, bytes)
    receiver, real = (call.pac, call.pac_id) if to_pac else (call.pns, call.pns_id)
    expected = bytearray(before)
    expected[8] = 16
    expected[10:12] = b"\0\0"  # filled in by the raw socket that sends it
    expected[12:20] = struct.pack("!II", receiver.correspondent, receiver.host)
    expected[26:28] = real.to_bytes(2)
    assert after == bytes(expected)


@in_every_arrangement
@BOTH_WAYS
@pytest.mark.parametrize(
    ("seq", "ack", "payload"),
    [
        pytest.param(None, 5, b"", id="ack-without-payload"),
        pytest.param(0xFFFFFFFF, None, b"x", id="last-sequence-number"),
        pytest.param(0, None, b"x", id="first-sequence-number"),
        pytest.param(3, 0xFFFFFFFF, b"x" * 1460, id="full-packet"),
        pytest.param(None, None, b"", id="neither-numbers-nor-payload"),
        pytest.param(1, None, b"", id="empty-payload"),
    ],
)
def test_every_kind_of_data_passes(
    arrangement: Arrangement, to_pac: bool, seq: int | None, ack: int | None, payload: bytes
) -> None:
    call = outgoing(*arrangement.connect())
    line, call_id = (call.pns, call.pac_shown) if to_pac else (call.pac, call.pns_shown)
    receiver, real = (call.pac, call.pac_id) if to_pac else (call.pns, call.pns_id)
    inner = EnhancedGre(call_id, seq, ack, payload)
    whole = ipv4.build(src=line.host, dst=line.correspondent, protocol=GRE, payload=inner.to_bytes())
    out = call.world.packet(line.side, whole)
    assert isinstance(out, bytes)
    assert EnhancedGre.from_bytes(out[20:]) == EnhancedGre(real, seq, ack, payload)
    assert receiver.got(out, real)


@BOTH_WAYS
def test_sequence_numbers_pass_in_any_order(to_pac: bool) -> None:
    call = outgoing(*ROUTER.connect())
    line, call_id = (call.pns, call.pac_shown) if to_pac else (call.pac, call.pns_shown)
    for seq in (5, 4, 4, 0xFFFFFFFF, 0):
        out = line.sends(call_id, seq=seq)
        assert isinstance(out, bytes)
        assert EnhancedGre.from_bytes(out[20:]).seq == seq


# -- what is refused ---------------------------------------------------------------------------------------

MALFORMED: list[tuple[str, Callable[[bytes], bytes], Reason]] = [
    ("empty", lambda p: b"", Reason.BAD_HEADER),
    ("short", lambda p: p[:19], Reason.BAD_HEADER),
    ("header only", lambda p: changed(p[:20], 2, b"\0\x14"), Reason.BAD_HEADER),
    ("short gre", lambda p: changed(p[:27], 2, b"\0\x1b"), Reason.BAD_HEADER),
    ("version 6", lambda p: b"\x65" + p[1:], Reason.BAD_HEADER),
    ("header too short", lambda p: b"\x44" + p[1:], Reason.BAD_HEADER),
    ("options", lambda p: b"\x46" + changed(p, 2, (len(p) + 4).to_bytes(2))[1:20] + b"\x94\x04\0\0" + p[20:],
     Reason.IP_OPTIONS),
    ("longer than it is", lambda p: changed(p, 2, (len(p) + 1).to_bytes(2)), Reason.BAD_HEADER),
    ("shorter than it is", lambda p: p + b"\0", Reason.BAD_HEADER),
    ("first fragment", lambda p: changed(p, 6, b"\x20\0"), Reason.FRAGMENT),
    ("later fragment", lambda p: changed(p, 6, b"\x00\x01"), Reason.FRAGMENT),
    ("gre version 0", lambda p: changed(p, 20, b"\x30\x80"), Reason.GRE_VERSION),
    ("gre version 2", lambda p: changed(p, 20, b"\x30\x82"), Reason.GRE_VERSION),
    ("plain gre", lambda p: changed(p, 20, b"\0\0\x08\0"), Reason.GRE_VERSION),
    ("not ppp", lambda p: changed(p, 22, b"\x08\0"), Reason.GRE_PROTOCOL),
    ("without key", lambda p: changed(p, 20, b"\x10\x81"), Reason.GRE_FLAGS),
    ("with checksum", lambda p: changed(p, 20, b"\xb0\x81"), Reason.GRE_FLAGS),
    ("with routing", lambda p: changed(p, 20, b"\x70\x81"), Reason.GRE_FLAGS),
    ("strict source route", lambda p: changed(p, 20, b"\x38\x81"), Reason.GRE_FLAGS),
    ("recursion", lambda p: changed(p, 20, b"\x31\x81"), Reason.GRE_FLAGS),
    ("reserved flag", lambda p: changed(p, 20, b"\x30\x89"), Reason.GRE_FLAGS),
    ("payload length", lambda p: changed(p, 24, b"\0\x07"), Reason.GRE_LENGTH),
    ("no room for numbers", lambda p: changed(changed(p[:32], 2, b"\0\x20"), 24, b"\0\0"), Reason.GRE_LENGTH),
    ("another protocol", lambda p: changed(p, 9, b"\x29"), Reason.NOT_SERVED),
    ("another call", lambda p: changed(p, 26, b"\xee\xee"), Reason.UNKNOWN_CALL),
]  # fmt: skip


@BOTH_WAYS
@pytest.mark.parametrize(("spoil", "reason"), [pytest.param(s, r, id=name) for name, s, r in MALFORMED])
def test_a_spoilt_packet_is_refused_with_its_own_reason(
    to_pac: bool, spoil: Callable[[bytes], bytes], reason: Reason
) -> None:
    call = outgoing(*ROUTER.connect())
    (session,) = call.world.sessions()
    heard = session.idle_since()
    call.world.now += 30
    good = packet(call, to_pac=to_pac)
    assert call.world.packet(side_of(call, to_pac=to_pac), spoil(good)) is reason
    assert call.world.gateway.drops[reason] == 1
    assert sum(call.world.gateway.drops.values()) == 1
    assert (session.outbound.packets, session.inbound.packets) == (0, 0)
    assert session.idle_since() == heard
    assert isinstance(call.world.packet(side_of(call, to_pac=to_pac), good), bytes)


@in_every_arrangement
def test_a_stranger_with_a_valid_call_id_gets_nothing(arrangement: Arrangement) -> None:
    call = outgoing(*arrangement.connect())
    world, towards = call.world, call.pns.correspondent
    on_lan = call.pns.side is Side.LAN
    stranger = parse_ip("10.0.0.77") if on_lan else STRANGER
    assert world.gre(call.pns.side, stranger, towards, call.pac_shown) is Reason.STRANGER
    # Nor the right host from the wrong side, or to another address of ours.
    other = Side.WAN if on_lan else Side.LAN
    assert world.gre(other, call.pns.host, towards, call.pac_shown) is Reason.SPOOFED
    assert world.gre(call.pns.side, call.pns.host, Ip4(0xC6336401), call.pac_shown) is Reason.UNKNOWN_CALL


@pytest.mark.parametrize(
    ("side", "source", "reason"),
    [
        pytest.param(Side.WAN, CLIENT, Reason.SPOOFED, id="lan-source-from-the-wan"),
        pytest.param(Side.WAN, parse_ip("10.200.0.1"), Reason.SPOOFED, id="other-lan-source-from-the-wan"),
        pytest.param(Side.LAN, PEER, Reason.SPOOFED, id="foreign-source-from-the-lan"),
        pytest.param(Side.WAN, WAN, Reason.OWN_ADDRESS, id="public-address-from-the-wan"),
        pytest.param(Side.LAN, WAN, Reason.OWN_ADDRESS, id="public-address-from-the-lan"),
        pytest.param(Side.LAN, LAN, Reason.OWN_ADDRESS, id="inner-address-from-the-lan"),
        pytest.param(Side.WAN, LAN, Reason.OWN_ADDRESS, id="inner-address-from-the-wan"),
        pytest.param(Side.WAN, parse_ip("127.0.0.1"), Reason.MARTIAN, id="loopback"),
        pytest.param(Side.LAN, parse_ip("0.0.0.0"), Reason.MARTIAN, id="no-address"),
        pytest.param(Side.WAN, parse_ip("239.1.2.3"), Reason.MARTIAN, id="multicast"),
        pytest.param(Side.WAN, parse_ip("255.255.255.255"), Reason.MARTIAN, id="broadcast"),
    ],
)
def test_sources_that_cannot_be_are_refused(side: Side, source: Ip4, reason: Reason) -> None:
    call = outgoing(*ROUTER.connect())
    to = PEER if side is Side.LAN else WAN
    assert call.world.gre(side, source, to, call.pac_shown if side is Side.LAN else call.pns_shown) is reason


def test_a_neighbour_cannot_use_another_clients_call() -> None:
    call = outgoing(*ROUTER.connect())
    assert call.world.gre(Side.LAN, CLIENT_2, PEER, call.pac_shown) is Reason.STRANGER


# -- time to live ------------------------------------------------------------------------------------------


@in_every_arrangement
@BOTH_WAYS
@pytest.mark.parametrize("ttl", [0, 1])
def test_time_exceeded_goes_to_the_sender(arrangement: Arrangement, to_pac: bool, ttl: int) -> None:
    call = outgoing(*arrangement.connect())
    original = packet(call, to_pac=to_pac, ttl=ttl)
    answer = call.world.packet(side_of(call, to_pac=to_pac), original)
    assert isinstance(answer, bytes)
    sender = call.pns.host if to_pac else call.pac.host
    header = ipv4.validate(answer)
    assert (header.src, header.dst, header.protocol) == (0, sender, ipv4.ICMP)  # 0: the kernel fills it in
    error = icmp.IcmpError.from_bytes(answer[20:])
    assert (error.type, error.code, error.quote) == (11, 0, original)
    assert call.world.gateway.drops[Reason.TTL_EXPIRED] == 1
    assert call.world.sessions()[0].outbound.packets == 0


def test_time_exceeded_is_said_only_about_packets_of_a_call() -> None:
    call = outgoing(*ROUTER.connect())
    assert call.world.gre(Side.LAN, CLIENT, PEER, 999, ttl=1) is Reason.UNKNOWN_CALL
    assert call.world.gre(Side.WAN, STRANGER, WAN, call.pns_shown, ttl=1) is Reason.STRANGER
    fragment = changed(packet(call, ttl=1), 6, b"\x20\0")
    assert call.world.packet(Side.LAN, fragment) is Reason.FRAGMENT
    assert call.world.sent == []


def test_nobody_is_told_about_a_packet_to_a_broadcast_address() -> None:
    call = outgoing(*ROUTER.connect())
    broadcast = Ip4(0xFFFFFFFF)
    assert call.world.gre(Side.LAN, CLIENT, broadcast, call.pac_shown, ttl=1) is Reason.UNKNOWN_CALL
    about = changed(packet(call), 16, b"\xff\xff\xff\xff")
    assert call.world.gateway._errors.answer(icmp.time_exceeded(about), about, call.world.now) == []


def test_our_icmp_is_rate_limited() -> None:
    call = outgoing(*ROUTER.connect(ROUTER.world(Limits(icmp_per_second=3))))
    call.world.now += 10
    for _ in range(5):
        call.world.packet(Side.LAN, packet(call, ttl=1))
    assert len(call.world.sent) == 3
    assert call.world.gateway.drops[Reason.ICMP_RATE] == 2
    assert call.world.gateway.drops[Reason.TTL_EXPIRED] == 5
    call.world.now += 1 / 3
    call.world.packet(Side.LAN, packet(call, ttl=1))
    assert len(call.world.sent) == 4


# -- size --------------------------------------------------------------------------------------------------


def too_big(call: Call, original: bytes, *, to_pac: bool, mtu: int) -> list[bytes]:
    """Forward a packet and find that it does not fit; what the gateway sends then."""
    buffer = bytearray(original) + bytearray(100)
    gateway = call.world.gateway
    entry = gateway.from_lan if side_of(call, to_pac=to_pac) is Side.LAN else gateway.from_wan
    assert isinstance(entry(buffer, len(original), now=call.world.now), int)
    sent = len(call.world.sent)
    call.world.perform(gateway.too_big(buffer, len(original), mtu=mtu, now=call.world.now))
    return call.world.sent[sent:]


@in_every_arrangement
@BOTH_WAYS
def test_a_packet_that_may_not_be_cut_is_answered_with_the_mtu(
    arrangement: Arrangement, to_pac: bool
) -> None:
    call = outgoing(*arrangement.connect())
    original = packet(call, to_pac=to_pac, dont_fragment=1, identification=77)
    (answer,) = too_big(call, original, to_pac=to_pac, mtu=1400)
    header = ipv4.validate(answer)
    assert header.dst == (call.pns.host if to_pac else call.pac.host)
    error = icmp.IcmpError.from_bytes(answer[20:])
    assert (error.type, error.code, error.next_hop_mtu) == (3, 4, 1400)
    assert error.quote == original
    assert call.world.drops[-1].reason is Reason.TOO_BIG
    assert call.world.gateway.drops[Reason.TOO_BIG] == 1


@in_every_arrangement
@BOTH_WAYS
def test_a_packet_that_may_be_cut_goes_in_pieces(arrangement: Arrangement, to_pac: bool) -> None:
    call = outgoing(*arrangement.connect())
    original = packet(call, to_pac=to_pac, identification=77)
    line, call_id = (call.pns, call.pac_shown) if to_pac else (call.pac, call.pns_shown)
    inner = EnhancedGre(call_id=call_id, seq=1, payload=bytes(range(200))).to_bytes()
    original = ipv4.build(src=line.host, dst=line.correspondent, protocol=GRE, payload=inner)
    pieces = too_big(call, original, to_pac=to_pac, mtu=100)
    headers = [ipv4.Header.from_bytes(piece) for piece in pieces]
    assert [len(piece) for piece in pieces] == [100, 100, 72]
    assert [h.fragment_offset for h in headers] == [0, 80, 160]
    whole = b"".join(piece[20:] for piece in pieces)
    receiver, real = (call.pac, call.pac_id) if to_pac else (call.pns, call.pns_id)
    assert EnhancedGre.from_bytes(whole) == EnhancedGre(real, 1, None, bytes(range(200)))
    assert {h.dst for h in headers} == {receiver.host}
    (identification,) = {h.identification for h in headers}
    assert identification != 0  # a raw socket would give each piece a number of its own


def test_pieces_keep_the_identification_of_the_whole() -> None:
    call = outgoing(*ROUTER.connect())
    inner = EnhancedGre(call_id=call.pac_shown, seq=1, payload=bytes(100)).to_bytes()
    original = ipv4.build(src=CLIENT, dst=PEER, protocol=GRE, payload=inner, identification=77)
    pieces = too_big(call, original, to_pac=True, mtu=100)
    assert [ipv4.Header.from_bytes(piece).identification for piece in pieces] == [77, 77]


def test_an_mtu_that_no_link_has_is_taken_for_the_least_there_is() -> None:
    call = outgoing(*ROUTER.connect())
    inner = EnhancedGre(call_id=call.pac_shown, seq=1, payload=bytes(60)).to_bytes()
    original = ipv4.build(src=CLIENT, dst=PEER, protocol=GRE, payload=inner)
    assert [len(p) for p in too_big(call, original, to_pac=True, mtu=0)] == [68, 44]


def test_a_packet_too_big_whose_call_has_just_ended_is_only_counted() -> None:
    call = outgoing(*ROUTER.connect())
    original = packet(call, dont_fragment=1)
    buffer = bytearray(original)
    assert isinstance(call.world.gateway.from_lan(buffer, len(buffer), now=call.world.now), int)
    call.pns.hangs_up()
    assert call.world.perform(
        call.world.gateway.too_big(buffer, len(buffer), mtu=1400, now=call.world.now)
    ) == [call.world.drops[-1]]
    assert call.world.drops[-1].reason is Reason.TOO_BIG
    assert call.world.sent == []


# -- those whom no rule admits -----------------------------------------------------------------------------


def syn(src: Ip4, dst: Ip4, *, flags: int = 2) -> bytes:
    segment = bytearray(struct.pack("!HHIIBBHHH", 40000, 1723, 1000, 0, 0x50, flags, 1024, 0, 0))
    segment[16:18] = checksum(struct.pack("!IIxBH", src, dst, 6, 20), segment).to_bytes(2)
    return ipv4.build(src=src, dst=dst, protocol=6, payload=bytes(segment))


def test_a_syn_that_no_rule_admits_is_refused_with_a_reset() -> None:
    world = World(policy(STAFF))
    answer = world.packet(Side.WAN, syn(STRANGER, WAN))
    assert isinstance(answer, bytes)
    header = ipv4.validate(answer)
    assert (show_ip(header.src), show_ip(header.dst)) == ("200.200.200.200", "199.0.0.66")
    assert answer[33] == 0x14  # RST, ACK
    assert int.from_bytes(answer[28:32]) == 1001
    assert world.gateway.drops[Reason.NO_RULE] == 1


@pytest.mark.parametrize(
    ("side", "wire", "reason"),
    [
        pytest.param(Side.WAN, syn(CLIENT, WAN), Reason.SPOOFED, id="false-source"),
        pytest.param(Side.WAN, syn(STRANGER, WAN, flags=0x10), Reason.NO_RULE, id="no-syn"),
        pytest.param(Side.WAN, syn(STRANGER, WAN)[:30], Reason.BAD_HEADER, id="cut-short"),
    ],
)
def test_some_are_refused_in_silence(side: Side, wire: bytes, reason: Reason) -> None:
    world = World(policy(STAFF))
    assert world.packet(side, wire) is reason
    assert world.sent == []


def test_a_policy_of_silence_answers_nobody() -> None:
    world = World(replace(policy(STAFF), refuse=Refuse.SILENT))
    assert world.packet(Side.WAN, syn(STRANGER, WAN)) is Reason.NO_RULE
    assert world.sent == []


def test_without_an_exposed_server_the_wan_gets_nothing() -> None:
    call = outgoing(*KEEP.connect())
    assert call.world.gre(Side.WAN, STRANGER, WAN, call.pac_shown) is Reason.STRANGER
