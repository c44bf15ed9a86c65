"""The bench's program for drivers does what the one of tc does, and no more."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from protocols.actions import Side
from relay.fastpath.abi import Means
from tests.bench import contenders, native
from tests.bench.generator import generator
from tests.bench.lanes import Direction, Lane
from tests.bench.live import compiled
from tests.bpf.flows import PAYLOADS, SHORTCUTS, packet
from tests.bpf.kernel import REDIRECT, Program, built, loaded

UDP_WITH_SUM = PAYLOADS["udp"][:6] + b"\x12\x34" + PAYLOADS["udp"][8:]
XDP_PASS = 2
XDP_REDIRECT = 4
HEADER = bytes.fromhex("020000000102 020000000101")


@pytest.fixture(scope="module")
def both() -> Iterator[Program]:
    """Both programs, with a flow of each kind."""
    if reason := built():
        pytest.skip(reason)
    with compiled(native.SOURCE) as path, loaded(path=path) as program:
        ready: Any = program.fastpath._ways._routes
        ready.means = lambda _way: (Means.HEADER, HEADER)
        program.fastpath._routes = ready
        for shortcut in SHORTCUTS.values():
            program.knows(shortcut)
        yield program


@pytest.mark.bpf
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_frames_leave_as_from_tc(both: Program, kind: str) -> None:
    sent = packet(kind)
    driver, tc = both.run(Side.LAN, sent, name="lan_xdp"), both.run(Side.LAN, sent)
    assert (driver.verdict, tc.verdict) == (XDP_REDIRECT, REDIRECT)
    assert (driver.packet, driver.frame) == (tc.packet, HEADER + b"\x08\x00")
    assert driver.packet != sent


@pytest.mark.bpf
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(packet("esp", ttl=1), id="expires"),
        pytest.param(packet("esp", payload=PAYLOADS["esp"][:4] + bytes(44)), id="begins"),
        pytest.param(packet("udp", payload=UDP_WITH_SUM), id="has-sum"),
        pytest.param(packet("gre") + bytes(6), id="filled-up"),
        pytest.param(packet("esp", src=SHORTCUTS["esp"].target), id="unknown"),
    ],
)
def test_what_is_unusual_goes_on_to_tc(both: Program, sent: bytes) -> None:
    ran = both.run(Side.LAN, sent, name="lan_xdp")
    assert (ran.verdict, ran.packet) == (XDP_PASS, sent)


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
@pytest.mark.parametrize("form", native.FORMS[:2], ids=lambda form: form.title)
def test_what_arrives_is_counted_and_received(form: native.Form) -> None:
    if reason := built():
        pytest.skip(reason)
    with (
        generator(contenders.GENERATOR_CORE) as load,
        native.carried(form, live=True) as standing,
    ):
        lane = Lane(load, standing.contender, standing.sessions["GRE"], Direction.INBOUND, 64, live=True)
        assert native.lost(standing, lane) >= 0
        lane.close()


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
def test_what_a_host_does_not_take_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := built():
        pytest.skip(reason)
    host = next(form for form in native.FORMS if form.xdp and not form.card)
    monkeypatch.setattr(native, "take_in", lambda *_: None)
    with (
        generator(contenders.GENERATOR_CORE) as load,
        native.carried(host, live=True) as standing,
    ):
        lane = Lane(load, standing.contender, standing.sessions["ESP"], Direction.OUTBOUND, 64, live=True)
        with pytest.raises(RuntimeError, match="carried"):
            native.lost(standing, lane)
        lane.close()
