"""The harness itself, without timing anything."""

import contextlib
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protocols.esp.codec import Esp
from protocols.gre.codec import refusal
from protocols.ike.natt import EspInUdp, decode
from protocols.ipv4 import Header
from protocols.udp import Datagram
from tests.bench import contenders, core, paths, quota, standing, tunnels
from tests.bench.callers import callers
from tests.bench.generator import generator
from tests.bench.lanes import Direction, Lane, Sample
from tests.bench.netns import sh_in
from tests.bench.packets import EspFlow, Flow, UdpFlow, frames
from tests.bench.report import Report, Result, Section, machine
from tests.bench.standing import PROTOCOLS, Standing
from tests.bench.throughput import overload_met
from tests.bench.tunnels import Both, Tunnel, pairs
from tests.bpf.kernel import built

FLOW = Flow("10.1.0.1", "199.0.0.1", 0xBEEF)


@pytest.mark.parametrize("size", [32, 64, 1400])
def test_a_packet_is_what_the_gateway_takes(size: int) -> None:
    wire = FLOW.packet(size)
    assert len(wire) == size
    assert Header.from_bytes(wire).protocol == 47
    assert refusal(wire, 20, size) is None
    assert struct.unpack_from(">HH", wire, 24) == (size - 32, 0xBEEF)


@pytest.mark.parametrize("size", [64, 1400])
def test_ipsec_is_what_the_gateway_takes(size: int) -> None:
    esp = EspFlow("10.1.0.1", "199.1.0.1", 0xBEEF).packet(size)
    assert (len(esp), Header.from_bytes(esp).protocol) == (size, 50)
    assert Esp.from_bytes(esp[20:]).spi == 0xBEEF
    udp = UdpFlow(("10.1.0.1", 4500), ("199.1.0.1", 4500), bytes.fromhex("0000beef 00000001")).packet(size)
    read = Datagram.from_packet(Header.from_bytes(udp), udp)
    assert decode(read.payload) == EspInUdp(0xBEEF, 1)


def test_there_is_a_frame_for_each_flow() -> None:
    ours = frames([FLOW, FLOW], 64, "02:00:00:00:00:01", "02:00:00:00:00:02")
    assert [len(frame) for frame in ours] == [78, 78]
    assert ours[0][:6] == b"\x02\0\0\0\0\x02"


def test_the_core_alone_carries_calls() -> None:
    built = core.core(3)
    assert len(built.flows) == 3
    assert len(list(built.gateway.sessions())) == 3


def test_the_core_alone_carries_tunnels() -> None:
    built = core.ipsec(pairs("10.1.0.1", 3))
    assert len(built.flows) == 3
    known = list(built.gateway.sessions())
    assert sorted(session.protocol for session in known) == ["esp"] * 3 + ["isakmp"] * 3
    assert core.seconds_per_packet([built])[0] > 0


@pytest.mark.parametrize(
    ("times", "load", "share", "met"),
    [
        pytest.param(2, 2.0, 0.95, True, id="holds"),
        pytest.param(2, 1.35, 1.0, None, id="not-overloaded"),
        pytest.param(5, 2.0, 1.0, None, id="not-so-much"),
        pytest.param(5, 4.8, 0.7, True, id="holds-much"),
        pytest.param(2, 1.35, 0.5, False, id="collapses-early"),
        pytest.param(5, 4.7, 0.005, False, id="collapses"),
    ],
)
def test_overload_is_judged_only_where_it_was_offered(
    times: int, load: float, share: float, met: bool | None
) -> None:
    assert overload_met(load, share, times) is met


def passed(rate: float) -> Sample:
    return Sample(rate, rate, 0.0, rate, 1e-9, 0.0)


@pytest.mark.parametrize(
    ("size", "rates", "cells", "met"),
    [
        pytest.param(64, (900e3, 200e3, 500e3, 800e3), "900 200 500 800 1.80 1.12 0.1%", True, id="all"),
        pytest.param(64, (700e3, 200e3, 500e3, 600e3), "700 200 500 600 1.40 1.17 0.1%", False, id="nft"),
        pytest.param(1400, (700e3, 200e3, 500e3, 600e3), "700 200 500 600 1.40 1.17 0.1%", True, id="large"),
        pytest.param(64, (900e3, 200e3, 500e3, 901e3), "900 200 500 901 1.80 1.00 0.1%", False, id="plain"),
        pytest.param(64, (900e3, 200e3, None, 800e3), "900 200 – 800 – 1.12 0.1%", None, id="no-nft"),
        pytest.param(64, (700e3, 200e3, None, 800e3), "700 200 – 800 – 0.88 0.1%", False, id="no-nft-less"),
        pytest.param(1400, (900e3, None, None, 800e3), "900 – – 800 – 1.12 0.1%", True, id="large-no-nft"),
        pytest.param(64, (None, 200e3, 500e3, 800e3), "– 200 500 800 – – –", False, id="no-fast-path"),
    ],
)
def test_a_path_is_judged_by_what_there_is(
    size: int, rates: tuple[float | None, ...], cells: str, met: bool | None
) -> None:
    best = {name: passed(rate) for name, rate in zip(paths.NAMES, rates, strict=True) if rate is not None}
    result = paths.row("ESP", Direction.OUTBOUND, size, 64, best)
    assert result.cells == [f"ESP out, {size}", *cells.split()]
    assert result.met is met
    assert [result.values[name] for name in paths.NAMES] == list(rates)


def test_figures_come_with_the_versions_they_depend_on() -> None:
    known = machine()
    assert {"cpu", "cores", "kernel", "python", "nft", "clang", "libbpf", "vpnmasq"} <= known.keys()
    assert all(known.values())


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_process_has_a_part_of_a_core_for_a_while() -> None:
    controller = quota.controller()
    if controller is None:
        pytest.skip("no cgroup here can leave a process a part of a core")
    with subprocess.Popen((sys.executable, "-c", "while True: pass")) as restless:
        before = Path(f"/proc/{restless.pid}/cgroup").read_text()
        try:
            with controller.part_of_a_core(restless.pid, 0.1):
                used, began = processor_time(restless.pid), time.monotonic()
                time.sleep(0.5)
                share = (processor_time(restless.pid) - used) / (time.monotonic() - began)
            after = Path(f"/proc/{restless.pid}/cgroup").read_text()
        finally:
            restless.kill()
    assert share < 0.2
    assert after == before


def processor_time(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def test_a_report_is_written_as_json(tmp_path: Path) -> None:
    report = Report({"cpu": "x"}, [Section("k", "t", ["a"], [Result(["1"], {"a": 1.0}, met=True)])])
    report.write(tmp_path / "r.json")
    assert '"schema": "vpnmasq.bench/1"' in (tmp_path / "r.json").read_text()


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
@pytest.mark.parametrize("live", [False, True], ids=["sockets", "live"])
def test_packets_pass_the_plain_kernel_and_are_counted(live: bool) -> None:
    if live and (reason := built()):
        pytest.skip(reason)
    core_of_both = contenders.GENERATOR_CORE
    with (
        generator(core_of_both) as load,
        callers(core_of_both) as ends,
        contenders.plain("smoke") as contender,
    ):
        done = ends.establish(contender.row, "10.1.0.1", 2)
        assert done.errors == []
        lane = Lane(load, contender, done.calls, Direction.OUTBOUND, 64, live=live)
        sample = lane.sample(1000, 0.2)
        lane.close()
    # how many there are depends on who else wants the generator's core
    assert min(sample.offered, sample.arrived, sample.received) > 0


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
def test_tunnels_pass_the_plain_kernel() -> None:
    with contenders.plain("tunnels") as contender:
        sides = Both(contender.row)
        sides.establish(pairs("10.1.0.1", 3, seen=True))
        assert len(sides.natt(["10.1.1.1", "10.1.1.2"], "199.0.0.1")) == 2
        sides.close()


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
def test_a_session_that_does_not_pass_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "PATIENCE", 0.2)
    alive, dead = EspFlow("10.1.0.1", "199.1.0.1", 1), EspFlow("10.1.0.1", "198.51.100.1", 1)
    back = EspFlow("199.1.0.1", "10.1.0.1", 2)
    with contenders.plain("check") as contender, contextlib.closing(Both(contender.row)) as sides:
        sides.check([Tunnel(alive, back)] * 150)
        sh_in(contender.row.gateway, "ip", "route", "add", "blackhole", "198.51.100.0/24")
        with pytest.raises(RuntimeError, match="1 of 2 packets did not pass outbound"):
            sides.check([Tunnel(alive, back), Tunnel(dead, back)])


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
def test_what_a_gateway_cannot_carry_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "PATIENCE", 0.2)
    monkeypatch.setattr(standing, "WAVES", (2, 5))
    with (
        callers(contenders.GENERATOR_CORE) as ends,
        contenders.nft("carry") as contender,
        contextlib.closing(Both(contender.row)) as sides,
    ):
        sh_in(contender.row.gateway, "nft", "-f", "-", stdin=NO_NATT)
        gateway = Standing("nft", contender, ends, sides)
        gateway.set_up()
        assert {protocol: len(gateway.sessions[protocol]) for protocol in PROTOCOLS} == {
            "GRE": 5,
            "ESP": 5,
            "UDP 4500": 2,
        }
        assert gateway.reasons.keys() == {"UDP 4500"}
        assert gateway.reasons["UDP 4500"].startswith("no more than 2 sessions: 3 of 3 packets")
        assert gateway.ready("UDP 4500", 5) is None
        assert gateway.ready("GRE", 5) == gateway.sessions["GRE"]
        # without the helper's mappings nothing of a call comes back
        sh_in(contender.row.gateway, "conntrack", "-D", "-p", "gre")
        assert gateway.ready("GRE", 5) is None
        assert gateway.reasons["GRE"] == "5 of 5 packets did not pass inbound"


#: The first two clients of ESP in UDP may have it, and nobody else.
NO_NATT = """
table ip few {
    chain out {
        type filter hook forward priority filter;
        iifname "eth0" ip saddr != { 10.1.32.1, 10.1.32.2 } udp dport 4500 drop
    }
}
"""
