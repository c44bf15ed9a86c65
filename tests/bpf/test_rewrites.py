"""What the kernel makes of packets: checked against full sums, and against what user space makes of them."""

import struct
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from protocols import ipv4
from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4
from protocols.checksum import checksum
from protocols.esp import flows as esp
from protocols.forward import flows as forwarded
from protocols.gre import flows as gre
from protocols.gre.codec import is_pptp
from protocols.natt import flows as natt
from protocols.sessions import Traffic
from tests.bpf.flows import CLIENT, GATEWAY, SERVER, SHORTCUTS, packet
from tests.bpf.kernel import PASS, REDIRECT, Program

REWRITTEN = [
    pytest.param("gre", "3001 880b 0004 c001 00000007 c0210101", id="call-id"),
    pytest.param("esp", "0a0b0c0d 00000100" + "00" * 40, id="spi-stays"),
    pytest.param("natt", "ee48 1194 0038 0000 0a0b0c0d 00000100" + "00" * 40, id="ports"),
    pytest.param("udp", "ee00 1389 000c 0000 68656c6f", id="both-ports"),
    pytest.param("ip", b"what nobody has to know".hex(), id="addresses-only"),
]
WITH_SUMS: Final = [kind for kind in SHORTCUTS if kind in ("natt", "udp")]


def with_sum(whole: bytes, *, value: int | None = None) -> bytes:
    """A UDP packet with its checksum made (RFC 768), or another one put in its place."""
    header = ipv4.Header.from_bytes(whole)
    datagram = whole[20:26] + bytes(2) + whole[28:]
    pseudo = struct.pack("!IIHH", header.src, header.dst, 17, len(datagram))
    found = (checksum(pseudo + datagram) or 0xFFFF) if value is None else value
    return whole[:26] + found.to_bytes(2) + whole[28:]


@pytest.mark.parametrize(("kind", "payload"), REWRITTEN)
def test_packets_leave_with_what_the_flow_says(program: Program, kind: str, payload: str) -> None:
    shortcut = SHORTCUTS[kind]
    number = program.knows(shortcut)
    header: dict[str, Any] = {"tos": 0xB9, "identification": 0x1234, "dont_fragment": True}
    sent = packet(kind, ttl=64, **header)
    ran = program.run(Side.LAN, sent)
    expected = packet(
        kind, bytes.fromhex(payload), src=shortcut.source, dst=shortcut.target, ttl=63, **header
    )
    assert (ran.verdict, ran.packet.hex()) == (REDIRECT, expected.hex())
    packets, octets, last_seen, sequence = program.fastpath.carried(number) or (0, 0, 0.0, 0)
    assert (packets, octets, sequence) == (1, len(sent), 0x100 if kind == "esp" else 0)
    assert last_seen > 0


@pytest.mark.parametrize("kind", WITH_SUMS)
def test_udp_checksums_stay_right(program: Program, kind: str) -> None:
    program.knows(SHORTCUTS[kind])
    ran = program.run(Side.LAN, with_sum(packet(kind)))
    assert ran.verdict == REDIRECT
    assert ran.packet == with_sum(ran.packet)


@pytest.mark.parametrize("kind", WITH_SUMS)
def test_a_wrong_udp_checksum_stays_wrong(program: Program, kind: str) -> None:
    program.knows(SHORTCUTS[kind])
    ran = program.run(Side.LAN, with_sum(packet(kind), value=0x1234))
    assert ran.verdict == REDIRECT
    assert ran.packet != with_sum(ran.packet)
    assert ran.packet[26:28] != bytes(2)


def test_a_checksum_that_becomes_zero_is_sent_as_all_ones(program: Program) -> None:
    """RFC 768: zero would mean that there is none."""
    program.knows(SHORTCUTS["udp"])
    base = packet("udp")
    # The payload that makes the sum come out as zero on departure: what is missing to it.
    ran = program.run(Side.LAN, with_sum(base))
    missing = int.from_bytes(ran.packet[26:28]) + int.from_bytes(base[28:30])
    data = base[20:28] + ((missing & 0xFFFF) + (missing >> 16)).to_bytes(2) + base[30:]
    ran = program.run(Side.LAN, with_sum(packet("udp", data)))
    assert ran.packet[26:28] == b"\xff\xff"
    assert ran.packet == with_sum(ran.packet)


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_what_fills_up_a_short_frame_is_cut_off(program: Program, kind: str) -> None:
    program.knows(SHORTCUTS[kind])
    bare = program.run(Side.LAN, packet(kind))
    padded = program.run(Side.LAN, packet(kind) + bytes(46))
    assert (padded.verdict, padded.packet) == (REDIRECT, bare.packet)


GRE_FORMS = [
    pytest.param("2001 880b 0004 {} c0210101", id="no-numbers"),
    pytest.param("3001 880b 0004 {} 00000001 c0210101", id="sequence"),
    pytest.param("2081 880b 0000 {} 00000001", id="acknowledgment-alone"),
    pytest.param("3081 880b 0004 {} 00000001 00000002 c0210101", id="both"),
    pytest.param("3001 880b 0002 {} 00000001 c0210101", id="octets-after-the-payload"),
]


@pytest.mark.parametrize("form", GRE_FORMS)
def test_every_form_of_gre_gets_its_call_id(program: Program, form: str) -> None:
    program.knows(SHORTCUTS["gre"])
    ran = program.run(Side.LAN, packet("gre", bytes.fromhex(form.format("0064"))))
    assert ran.verdict == REDIRECT
    assert ran.packet[20:] == bytes.fromhex(form.format("c001"))


# -- hairpin: what comes in at the LAN and leaves there (RFC 4787 REQ-9) -------------------------------------

HAIRPINS = [
    pytest.param(Kind.GRE, 47, "3001880b 0004 {:04x} 00000007 c0210101", (0x64, 7, 0xC001, 1), id="gre"),
    pytest.param(Kind.ESP, 50, "{:08x} 00000100" + "00" * 40, (0xA1, 0xA1, 0xB2, 0xB2), id="esp"),
    pytest.param(
        Kind.NATT,
        17,
        "{:08x} 0038 0000 0a0b0c0d 00000100" + "00" * 40,
        (0x1194_1194, 0xEE48_1194, 0x1194_EE48, 0x1194_1194),
        id="natt",
    ),
    pytest.param(
        Kind.UDP,
        17,
        "{:08x} 000c 0000 68656c6f",
        (0x1388_0035, 0xEE49_14E9, 0x14E9_EE49, 0x0035_1388),
        id="udp",
    ),
    pytest.param(Kind.IP, 94, "68656c6f 68656c6f", (0, 0, 0, 0), id="ip"),
]


@pytest.mark.parametrize(("kind", "protocol", "form", "labels"), HAIRPINS)
def test_both_ways_of_a_hairpin_are_taken_at_the_lan_and_only_there(
    program: Program, kind: Kind, protocol: int, form: str, labels: tuple[int, int, int, int]
) -> None:
    ways = [
        Shortcut(kind, protocol, Side.LAN, one, GATEWAY, label, GATEWAY, other, new_label)
        for one, other, label, new_label in ((CLIENT, SERVER, *labels[:2]), (SERVER, CLIENT, *labels[2:]))
    ]
    numbers = [program.knows(way) for way in ways]
    for way, number in zip(ways, numbers, strict=True):
        sent, expected = (
            ipv4.build(
                src=src, dst=dst, protocol=protocol, payload=bytes.fromhex(form.format(label)), ttl=ttl
            )
            for src, dst, label, ttl in (
                (way.sender, way.addressed, way.label, 64),
                (way.source, way.target, way.new_label, 63),
            )
        )
        ran = program.run(Side.LAN, sent)
        assert (ran.verdict, ran.packet.hex()) == (REDIRECT, expected.hex())
        assert program.run(Side.WAN, sent).verdict == PASS
        assert (program.fastpath.carried(number) or (0,))[0] == 1


# -- the same as user space ------------------------------------------------------------------------------

addresses = st.integers(1, 0xFFFFFFFE).map(Ip4)
ports = st.integers(1, 0xFFFF)
endpoints = st.tuples(addresses, ports)
sides = st.sampled_from(list(Side))
Forward = Callable[[dict[int, Any], bytearray, int, float], int | None]


@st.composite
def gre_flows(draw: st.DrawFn) -> tuple[gre.Flow, bytes]:
    sender, addressed, source, target = (draw(addresses) for _ in range(4))
    shown, real, payload = draw(ports), draw(ports), draw(st.binary(max_size=64))
    side = draw(sides)
    flow = gre.Flow(
        source=source,
        target=target,
        call_id=real,
        side=side,
        sender=sender,
        addressed=addressed,
        shown_id=shown,
        out=Side.WAN,
    )
    return flow, struct.pack("!IHHI", 0x3001880B, len(payload), shown, draw(ports)) + payload


@st.composite
def esp_flows(draw: st.DrawFn) -> tuple[esp.Flow, bytes]:
    sender, addressed, source, target = (draw(addresses) for _ in range(4))
    spi, sequence = draw(st.integers(1, 0xFFFFFFFF)), draw(st.integers(0, 0xFFFFFFFF))
    flow = esp.Flow(
        source=source,
        target=target,
        spi=spi,
        side=draw(sides),
        sender=sender,
        addressed=addressed,
        out=Side.WAN,
    )
    return flow, struct.pack("!II", spi, sequence) + draw(st.binary(max_size=64))


@st.composite
def natt_flows(draw: st.DrawFn) -> tuple[natt.Flow, bytes]:
    sender, addressed, source, target = (draw(endpoints) for _ in range(4))
    flow = natt.Flow(
        source=source, target=target, side=draw(sides), sender=sender, addressed=addressed, traffic=Traffic()
    )
    inner = struct.pack("!II", draw(st.integers(0, 3)), 256) + draw(st.binary(max_size=64))
    head = struct.pack("!HHHH", sender[1], addressed[1], 8 + len(inner), draw(st.integers(0, 0xFFFF)))
    return flow, head + inner


@st.composite
def whole_flows(draw: st.DrawFn) -> tuple[forwarded.Flow, bytes]:
    sender, addressed, source, target = (draw(addresses) for _ in range(4))
    protocol, side = draw(st.sampled_from((ipv4.GRE, ipv4.ESP, 94))), draw(sides)
    flow = forwarded.Flow(
        protocol=protocol,
        source=source,
        target=target,
        out=Side.WAN,
        side=side,
        sender=sender,
        addressed=addressed,
        traffic=Traffic(),
    )
    word = st.sampled_from((0x0800, 0x20000800, 0x30010800, 0x2001880B, 0x3001880B, 0x2000880B, 0xFFFFFFFF))
    return flow, draw(word).to_bytes(4) + draw(st.binary(min_size=4, max_size=64))


any_flow = st.one_of(gre_flows(), esp_flows(), natt_flows(), whole_flows())
_FORWARD: Final[dict[Kind, Forward]] = {
    Kind.GRE: gre.forward,
    Kind.ESP: esp.forward,
    Kind.NATT: natt.forward,
    Kind.IP: forwarded.forward,
}


def by_user_space(flow: Any, sent: bytes) -> bytes | None:
    """What user space and the raw socket that sends for it make of a packet (raw(7)); None: nothing."""
    if checksum(sent[:20]):
        return None  # the kernel does not deliver it
    if flow.shortcut.kind is Kind.IP and sent[9] == ipv4.GRE and is_pptp(sent, 20):
        return None  # what user space makes of it is more than this flow
    buffer = bytearray(sent + bytes(40))
    if _FORWARD[flow.shortcut.kind]({flow.key: flow}, buffer, len(sent), 0.0) is None:
        return None
    out = bytes(buffer[: len(sent)])
    return out[:10] + checksum(out[:10] + bytes(2) + out[12:20]).to_bytes(2) + out[12:]


def is_unfinished(flow: Any, sent: bytes) -> bool:
    """A UDP checksum of the pseudo header alone, which user space must not touch."""
    if flow.shortcut.kind is not Kind.NATT:
        return False
    pseudo = sent[12:20] + struct.pack("!HH", 17, int.from_bytes(sent[24:26]))
    return (~checksum(pseudo) & 0xFFFF) % 0xFFFF == int.from_bytes(sent[26:28]) % 0xFFFF


few = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[Any, bytes]:
    """A flow, and a packet that may be one of it."""
    flow, payload = draw(any_flow)
    shortcut: Shortcut = flow.shortcut
    octets, numbers = st.integers(0, 255), st.integers(0, 0xFFFF)
    whole = bytearray(
        ipv4.build(
            src=shortcut.sender,
            dst=shortcut.addressed,
            protocol=shortcut.protocol,
            payload=payload,
            ttl=draw(octets),
            tos=draw(octets),
            identification=draw(numbers),
        )
    )
    cut = draw(st.integers(0, 70))
    spoilt, mend = draw(st.none() | st.tuples(st.integers(0, 39), octets)), draw(st.booleans())
    if spoilt is not None and spoilt[0] < len(whole):
        whole[spoilt[0]] = spoilt[1]
        if mend:
            whole[10:12] = bytes(2)
            whole[10:12] = checksum(bytes(whole[:20])).to_bytes(2)
    sent = bytes(whole[: len(whole) - cut]) if spoilt is None and cut < 8 else bytes(whole)
    assume(len(sent) >= 20 and not is_unfinished(flow, sent.ljust(28)))
    # Padding is cut off by the kernel, before user space sees a packet.
    assume(int.from_bytes(sent[2:4]) >= len(sent))
    # What is shorter than any header that has a label, the kernel's program leaves alone.
    assume(shortcut.kind is not Kind.IP or len(sent) >= 28)
    return flow, sent


@few
@given(arrived=arrivals())
def test_the_kernel_forwards_what_user_space_does_and_in_the_same_form(
    program: Program, arrived: tuple[Any, bytes]
) -> None:
    flow, sent = arrived
    program.forget()
    program.knows(flow.shortcut)
    expected = by_user_space(flow, sent)
    ran = program.run(flow.shortcut.side, sent)
    if expected is None:
        assert (ran.verdict, ran.packet) == (PASS, sent)
    else:
        assert (ran.verdict, ran.packet.hex()) == (REDIRECT, expected.hex())


@few
@given(made=natt_flows(), ttl=st.integers(2, 255))
def test_udp_checksums_agree_with_a_full_sum(
    program: Program, made: tuple[natt.Flow, bytes], ttl: int
) -> None:
    flow, payload = made
    program.forget()
    program.knows(flow.shortcut)
    sent = with_sum(
        ipv4.build(src=flow.sender[0], dst=flow.addressed[0], protocol=17, payload=payload, ttl=ttl)
    )
    ran = program.run(flow.side, sent)
    if ran.verdict == REDIRECT:
        assert ran.packet == with_sum(ran.packet)
    else:
        assert payload[8:12] == bytes(4)
