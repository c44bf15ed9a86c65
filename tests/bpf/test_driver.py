"""In a driver the program does what it does in tc, and no more; what it is not sure of goes on to tc."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given

from protocols.actions import Kind, Shortcut, Side
from relay.fastpath import abi
from relay.fastpath.routes import NO_WAY, Way
from tests.bpf.flows import PAYLOADS, SHORTCUTS, packet
from tests.bpf.kernel import (
    ETHERNET,
    MTU,
    REDIRECT,
    XDP_PASS,
    XDP_REDIRECT,
    Program,
    ReadyWays,
    loaded_for_drivers,
)
from tests.bpf.test_refusals import EVERY_KIND, FRAMES, PAYLOAD
from tests.bpf.test_rewrites import arrivals, by_user_space, few, with_sum
from tests.bpf.wires import back

KINDS = [kind for kind in SHORTCUTS if kind != "ip"]


@pytest.fixture(scope="module")
def _driver() -> Iterator[Program]:
    with loaded_for_drivers() as program:
        yield program


@pytest.fixture
def driver(_driver: Program) -> Program:
    _driver.forget()
    return _driver


def passes(program: Program, sent: bytes, frame: bytes = ETHERNET) -> bool:
    """Whether a packet goes on to tc as it came."""
    ran = program.run(Side.LAN, sent, name=abi.DRIVERS[Side.LAN], frame=frame)
    return (ran.verdict, ran.packet) == (XDP_PASS, sent)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("kind", KINDS)
def test_frames_leave_as_from_tc_and_are_counted_so(driver: Program, kind: str, side: Side) -> None:
    shortcut = SHORTCUTS[kind] if side is Side.LAN else back(kind)
    payload = bytearray(PAYLOADS[kind])
    if kind == "gre":
        payload[6:8] = shortcut.label.to_bytes(2)
    elif kind in ("natt", "udp"):
        payload[:4] = shortcut.label.to_bytes(4)
    sent = packet(kind, bytes(payload), src=shortcut.sender, dst=shortcut.addressed)
    number = driver.knows(shortcut)
    ran = driver.run(side, sent, name=abi.DRIVERS[side])
    counted = driver.fastpath.carried(number)
    assert counted is not None
    assert counted[:2] == (1, len(sent))
    assert counted[3] == (0x100 if kind == "esp" else 0)
    tc = driver.run(side, sent)
    assert (ran.verdict, tc.verdict) == (XDP_REDIRECT, REDIRECT)
    assert (ran.packet, ran.frame) == (tc.packet, tc.frame)
    assert ran.packet != sent
    assert ran.frame == ReadyWays.header + b"\x08\x00"


def is_for_tc(shortcut: Shortcut, sent: bytes) -> bool:
    """Whether nothing in a driver would tell that a packet's checksum is finished."""
    return shortcut.kind is Kind.IP or (shortcut.kind is Kind.NATT and sent[26:28] != bytes(2))


@few
@given(arrived=arrivals())
def test_drivers_forward_what_user_space_does_and_in_the_same_form(
    driver: Program, arrived: tuple[Any, bytes]
) -> None:
    flow, sent = arrived
    shortcut: Shortcut = flow.shortcut
    driver.forget()
    driver.knows(shortcut)
    expected = by_user_space(flow, sent)
    ran = driver.run(shortcut.side, sent, name=abi.DRIVERS[shortcut.side])
    if expected is None or is_for_tc(shortcut, sent):
        assert (ran.verdict, ran.packet) == (XDP_PASS, sent)
    else:
        assert (ran.verdict, ran.packet.hex()) == (XDP_REDIRECT, expected.hex())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unusual", EVERY_KIND)
def test_unusual_packets_go_on(driver: Program, kind: str, unusual: Callable[[str], bytes]) -> None:
    number = driver.knows(SHORTCUTS[kind])
    assert passes(driver, unusual(kind))
    assert driver.fastpath.carried(number) == (0, 0, 0.0, 0)


@pytest.mark.parametrize(("kind", "payload"), PAYLOAD)
def test_unusual_payloads_go_on(driver: Program, kind: str, payload: str) -> None:
    driver.knows(SHORTCUTS[kind])
    assert passes(driver, packet(kind, bytes.fromhex(payload)))


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_for_others_go_on(driver: Program, frame: bytes) -> None:
    """Nothing tells a driver's program whom a frame is for but its address."""
    driver.knows(SHORTCUTS["esp"])
    assert passes(driver, packet("esp"), frame=frame)


def test_an_interface_whose_address_is_not_known_has_no_frames(driver: Program) -> None:
    driver.knows(SHORTCUTS["esp"])
    stations = driver.fastpath._object.map_fd(abi.STATIONS)
    library, key = driver.fastpath._library, abi.INTERFACE.pack(1)
    assert not library.delete(stations, key)
    assert passes(driver, packet("esp"))
    assert not library.update(stations, key, abi.station(bytes.fromhex("020000000001")))
    assert passes(driver, packet("esp"))
    assert not library.update(stations, key, abi.station(bytes(6)))
    assert not passes(driver, packet("esp"))


UNSURE = [
    pytest.param("udp", with_sum(packet("udp")), id="a-checksum-that-may-be-unfinished"),
    pytest.param("natt", with_sum(packet("natt")), id="likewise-of-ipsec"),
    pytest.param("ip", packet("ip"), id="a-protocol-that-is-not-known"),
]


@pytest.mark.parametrize(("kind", "sent"), UNSURE)
def test_what_only_tc_can_be_sure_of_goes_on(driver: Program, kind: str, sent: bytes) -> None:
    driver.knows(SHORTCUTS[kind])
    assert passes(driver, sent)
    assert driver.run(Side.LAN, sent).verdict == REDIRECT


@pytest.mark.parametrize("kind", KINDS)
def test_what_fills_up_a_short_frame_is_cut_off(driver: Program, kind: str) -> None:
    number = driver.knows(SHORTCUTS[kind])
    bare, padded = (
        driver.run(Side.LAN, packet(kind) + more, name=abi.DRIVERS[Side.LAN]) for more in (b"", bytes(46))
    )
    assert (padded.verdict, padded.packet, padded.frame) == (XDP_REDIRECT, bare.packet, bare.frame)
    assert (driver.fastpath.carried(number) or ())[:2] == (2, 2 * len(packet(kind)))


@pytest.mark.parametrize("means", [means for means in abi.Means if means is not abi.Means.DRIVER])
def test_what_leaves_by_no_driver_goes_on(means: abi.Means) -> None:
    with loaded_for_drivers(means) as program:
        program.knows(SHORTCUTS["esp"])
        assert passes(program, packet("esp"))
        assert program.run(Side.LAN, packet("esp")).verdict == REDIRECT


@pytest.mark.parametrize("way", [NO_WAY, Way(1, 0, len(packet("esp")) - 1)], ids=["none", "too-small"])
def test_what_the_way_out_does_not_take_goes_on(way: Way) -> None:
    with loaded_for_drivers(way=way) as program:
        program.knows(SHORTCUTS["esp"])
        assert passes(program, packet("esp"))


def test_the_longest_packet_is_taken(driver: Program) -> None:
    driver.knows(SHORTCUTS["esp"])
    head = PAYLOADS["esp"][:8]
    assert not passes(driver, packet("esp", head + bytes(MTU - 28)))
    assert passes(driver, packet("esp", head + bytes(MTU - 27)))


def test_when_nobody_looks_after_it_any_more_all_goes_on() -> None:
    with loaded_for_drivers() as program:
        program.knows(SHORTCUTS["esp"])
        program.fastpath._hold(0)
        assert passes(program, packet("esp"))
