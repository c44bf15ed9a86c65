"""What the kernel must not touch: everything that is not an ordinary packet of a known flow."""

import pytest

from protocols.actions import Side
from protocols.checksum import checksum
from relay.fastpath.routes import NO_WAY, Way
from tests.bpf.flows import PAYLOADS, SHORTCUTS, packet
from tests.bpf.kernel import ETHERNET, MTU, PASS, REDIRECT, Context, Program, loaded

TAGGED = ETHERNET[:12] + bytes.fromhex("8100 0005 0800")


def altered(kind: str, at: int, new: str) -> bytes:
    """A packet with other octets somewhere in its IP header, whose checksum is right again."""
    changed = bytearray(packet(kind))
    octets = bytes.fromhex(new)
    changed[at : at + len(octets)] = octets
    changed[10:12] = bytes(2)
    changed[10:12] = checksum(bytes(changed[:20])).to_bytes(2)
    return bytes(changed)


def optioned(kind: str) -> bytes:
    whole = packet(kind)
    header = bytearray(whole[:20] + bytes.fromhex("01010100"))
    header[0] = 0x46
    header[2:4] = (len(whole) + 4).to_bytes(2)
    header[10:12] = bytes(2)
    header[10:12] = checksum(bytes(header)).to_bytes(2)
    return bytes(header) + whole[20:]


EVERY_KIND = [
    pytest.param(lambda kind: altered(kind, 12, "0a000003"), id="another-sender"),
    pytest.param(lambda kind: altered(kind, 16, "c7000009"), id="another-target"),
    pytest.param(lambda kind: altered(kind, 9, "3b"), id="another-protocol"),
    pytest.param(lambda kind: altered(kind, 8, "01"), id="ttl-1"),
    pytest.param(lambda kind: altered(kind, 8, "00"), id="ttl-0"),
    pytest.param(lambda kind: altered(kind, 6, "2000"), id="first-fragment"),
    pytest.param(lambda kind: altered(kind, 6, "0003"), id="last-fragment"),
    pytest.param(lambda kind: altered(kind, 0, "44"), id="short-header"),
    pytest.param(lambda kind: altered(kind, 0, "65"), id="version-6"),
    pytest.param(lambda kind: altered(kind, 2, "ffff"), id="longer-than-it-is"),
    pytest.param(lambda kind: altered(kind, 2, "0013"), id="shorter-than-its-header"),
    pytest.param(optioned, id="options"),
    pytest.param(lambda kind: packet(kind)[:10] + b"\0\0" + packet(kind)[12:], id="bad-header-checksum"),
    pytest.param(lambda kind: packet(kind)[:27], id="cut-off"),
    pytest.param(lambda kind: packet(kind, PAYLOADS[kind][:4]), id="too-short"),
]

PAYLOAD = [
    pytest.param("gre", "3001 880b 0004 0065 00000007 c0210101", id="another-call"),
    pytest.param("gre", "3000 880b 0004 0064 00000007 c0210101", id="gre-version-0"),
    pytest.param("gre", "3001 0800 0004 0064 00000007 c0210101", id="gre-not-ppp"),
    pytest.param("gre", "1001 880b 0004 0064 00000007 c0210101", id="gre-no-key"),
    pytest.param("gre", "b001 880b 0004 0064 00000007 c0210101", id="gre-checksum"),
    pytest.param("gre", "7001 880b 0004 0064 00000007 c0210101", id="gre-routing"),
    pytest.param("gre", "3801 880b 0004 0064 00000007 c0210101", id="gre-strict-route"),
    pytest.param("gre", "3101 880b 0004 0064 00000007 c0210101", id="gre-recursion"),
    pytest.param("gre", "3009 880b 0004 0064 00000007 c0210101", id="gre-flags"),
    pytest.param("gre", "3001 880b 0005 0064 00000007 c0210101", id="gre-payload-beyond-the-end"),
    pytest.param("gre", "3081 880b 0004 0064 00000007 c0210101", id="gre-no-room-for-the-acknowledgment"),
    pytest.param("esp", "0a0b0c0e 00000100 00000000", id="another-spi"),
    pytest.param("esp", "0a0b0c0d 00000003 00000000", id="esp-first-few"),
    pytest.param("esp", "0a0b0c0d 00000000 00000000", id="esp-sequence-0"),
    pytest.param("natt", "1195 1194 0014 0000 0a0b0c0d 00000100 00000000", id="another-source-port"),
    pytest.param("natt", "1194 1195 0014 0000 0a0b0c0d 00000100 00000000", id="another-target-port"),
    pytest.param("natt", "1194 1194 0014 0000 00000000 00000100 00000000", id="ike"),
    pytest.param("natt", "1194 1194 0009 0000 ff", id="keepalive"),
    pytest.param("natt", "1194 1194 000c 0000 0a0b0c0d", id="no-sequence-number"),
    pytest.param("natt", "1194 1194 0013 0000 0a0b0c0d 00000100 00000000", id="udp-shorter-than-ip"),
    pytest.param("natt", "1194 1194 0015 0000 0a0b0c0d 00000100 00000000", id="udp-longer-than-ip"),
    pytest.param("udp", "d431 1388 000d 0000 68656c6f", id="udp-wrong-length"),
]


@pytest.mark.parametrize("kind", SHORTCUTS)
@pytest.mark.parametrize("unusual", EVERY_KIND)
def test_unusual_packets_of_a_known_flow_are_left_alone(program: Program, kind: str, unusual) -> None:  # type: ignore[no-untyped-def]
    if kind == "ip" and unusual is EVERY_KIND[-1].values[0]:
        pytest.skip("of other protocols nothing is known, so nothing can be too short")
    number = program.knows(SHORTCUTS[kind])
    sent = unusual(kind)
    ran = program.run(Side.LAN, sent)
    assert (ran.verdict, ran.packet) == (PASS, sent)
    assert program.fastpath.carried(number) == (0, 0, 0.0, 0)


@pytest.mark.parametrize(("kind", "payload"), PAYLOAD)
def test_unusual_payloads_of_a_known_flow_are_left_alone(program: Program, kind: str, payload: str) -> None:
    program.knows(SHORTCUTS[kind])
    sent = packet(kind, bytes.fromhex(payload))
    ran = program.run(Side.LAN, sent)
    assert (ran.verdict, ran.packet) == (PASS, sent)


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_nothing_is_known_before_it_is_told_and_after_it_is_taken_back(program: Program, kind: str) -> None:
    sent = packet(kind)
    assert program.run(Side.LAN, sent).verdict == PASS
    number = program.knows(SHORTCUTS[kind])
    assert program.run(Side.LAN, sent).verdict == REDIRECT
    program.fastpath.unload(number)
    assert program.run(Side.LAN, sent).verdict == PASS


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_a_flow_is_known_on_its_own_side_only(program: Program, kind: str) -> None:
    program.knows(SHORTCUTS[kind])
    assert program.run(Side.WAN, packet(kind)).verdict == PASS


FRAMES = [
    pytest.param(bytes.fromhex("020000000001 020000000002 0800"), id="for-another-station"),
    pytest.param(bytes.fromhex("ffffffffffff 020000000002 0800"), id="broadcast"),
    pytest.param(bytes.fromhex("01005e000001 020000000002 0800"), id="multicast"),
    pytest.param(bytes.fromhex("000000000000 020000000002 86dd"), id="ipv6"),
    pytest.param(TAGGED, id="in-a-vlan"),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_that_are_not_ours_are_left_alone(program: Program, frame: bytes) -> None:
    program.knows(SHORTCUTS["esp"])
    sent = packet("esp")
    ran = program.run(Side.LAN, sent, frame=frame)
    assert (ran.verdict, ran.packet) == (PASS, sent)


def test_what_the_way_out_does_not_take_is_user_spaces(program: Program) -> None:
    program.knows(SHORTCUTS["esp"])
    head = bytes.fromhex("0a0b0c0d 00000100")
    fits = packet("esp", head + bytes(MTU - 28))
    assert program.run(Side.LAN, fits).verdict == REDIRECT
    too_big = packet("esp", head + bytes(MTU - 27))
    ran = program.run(Side.LAN, too_big)
    assert (ran.verdict, ran.packet) == (PASS, too_big)


def merged(size: int) -> Context:
    """Datagrams of this size that reach us as one (GRO, GSO)."""
    return Context(gso_segs=2, gso_size=size)


def test_merged_datagrams_are_measured_one_by_one(program: Program) -> None:
    number = program.knows(SHORTCUTS["udp"])
    data = bytes.fromhex("d431 1388") + (8 + 2 * 1400).to_bytes(2) + bytes(2) + bytes(2 * 1400)
    assert program.run(Side.LAN, packet("udp", data), context=merged(1400)).verdict == REDIRECT
    carried = program.fastpath.carried(number)
    assert carried is not None
    assert carried[:2] == (2, 2 * 1428)
    assert program.run(Side.LAN, packet("udp", data), context=merged(1473)).verdict == PASS


def test_nothing_but_datagrams_comes_merged(program: Program) -> None:
    program.knows(SHORTCUTS["esp"])
    assert program.run(Side.LAN, packet("esp"), context=merged(20)).verdict == PASS


def test_a_flow_without_a_way_out_is_user_spaces() -> None:
    with loaded(way=NO_WAY) as program:
        program.knows(SHORTCUTS["esp"])
        assert program.run(Side.LAN, packet("esp")).verdict == PASS


def test_a_gateway_that_is_looked_after_no_more_forwards_nothing() -> None:
    with loaded() as program:
        program.knows(SHORTCUTS["esp"])
        program.fastpath._hold(0)
        assert program.run(Side.LAN, packet("esp")).verdict == PASS


def test_a_full_table_leaves_the_flow_to_user_space() -> None:
    with loaded(most=1, way=Way(1, 0, MTU)) as program:
        program.knows(SHORTCUTS["esp"])
        assert not program.fastpath.prepare(9, SHORTCUTS["gre"])
        assert (len(program.fastpath), program.fastpath.refused) == (1, 1)
        assert program.run(Side.LAN, packet("gre")).verdict == PASS
        program.forget()
        assert program.fastpath.prepare(10, SHORTCUTS["gre"])
        program.fastpath.offload(10)


def test_what_replaces_a_flow_stays_when_the_old_one_goes(program: Program) -> None:
    old = program.knows(SHORTCUTS["esp"])
    program.knows(SHORTCUTS["esp"])
    program.fastpath.unload(old)
    assert program.run(Side.LAN, packet("esp")).verdict == REDIRECT
