"""The fast path in network cards' drivers (fastpath.xdp) beside that of tc, nft and plain, with no daemon.

Its object has one program more than the product's (xdp/forward.bpf.c): the end of the wire behind a card.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4, parse_ip, show_ip
from relay.fastpath.abi import Means
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.libbpf import libbpf
from tests.bench import contenders
from tests.bench.callers import Callers
from tests.bench.contenders import GATEWAY_CORE, KERNEL, USER_SPACE, Contender
from tests.bench.lanes import Direction, Ends, Lane, Sample
from tests.bench.live import compiled, take_in, work_on
from tests.bench.means import carrier
from tests.bench.netns import inside
from tests.bench.packets import EspFlow, Flow
from tests.bench.report import Report, Result, Section, thousands
from tests.bench.setting import FIRST_CLIENT, SIZES, Setting
from tests.bench.throughput import peaks
from tests.bench.topology import GATEWAY_WAN, PEERS, Row
from tests.bench.tunnels import Both, Tunnel, pairs

FLOWS: Final = 64
#: Packets a second, and seconds, of which all must come through, but for as many as others may send besides.
_GENTLE: Final = (20_000.0, 0.5)
_STRAY: Final = 20
#: linux/if_link.h, XDP_FLAGS_DRV_MODE: in the driver, or not at all.
_NATIVE: Final = 1 << 2
SOURCE: Final = Path(__file__).with_name("xdp") / "forward.bpf.c"


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the fast path: in the driver or by tc, and the best means it has.

    ``card``: what leaves is let go as a card lets it go, else a host makes a packet of it.
    """

    title: str
    xdp: bool
    most: Means = Means.HEADER
    card: bool = False


FORMS: Final = (
    Form("XDP, card", xdp=True, most=Means.DRIVER, card=True),
    Form("XDP, host", xdp=True, most=Means.DRIVER),
    Form("tc, card", xdp=False, card=True),
    Form("tc, host", xdp=False),
    Form("tc, other end", xdp=False, most=Means.PEER),
)


@dataclass(frozen=True, slots=True)
class _Standing:
    """A gateway with its sessions by protocol; ``counted``: the packets that its fast path has counted."""

    title: str
    contender: Contender
    sessions: Mapping[str, Sequence[Ends]]
    counted: Callable[[], int] | None = None


@dataclass(slots=True)
class _Losses:
    """The most that was lost: packets before the gateway at a gentle rate; within it a share, at the peak."""

    gently: int = 0
    at_peak: float = 0.0

    def heed(self, samples: Sequence[Sample]) -> None:
        """Look at samples taken at the peak."""
        self.at_peak = max(self.at_peak, *(1 - one.received / max(one.arrived, 1.0) for one in samples))


class Native:
    """Both tables: frames that come as from a card, and as containers send them."""

    def __init__(self, setting: Setting, ends: Callers) -> None:
        self._setting = setting
        self._ends = ends

    def run(self, report: Report) -> None:
        """All measures."""
        report.sections.append(self._section("card", "frames as from a card", live=True))
        report.sections.append(self._section("sockets", "packets that sockets send", live=False))

    def _section(self, key: str, title: str, *, live: bool) -> Section:
        with contextlib.ExitStack() as stack:
            setting = replace(self._setting, live=live, stack=stack)
            standing = [stack.enter_context(carried(form, live=live)) for form in FORMS]
            standing += [self._kernel(stack, name, live=live) for name in ("nft", "plain")]
            losses = {one.title: _Losses() for one in standing}
            title = f"Packets per second, {FLOWS} flows, {SIZES[0]} octets, {title}"
            section = Section(key, title, ["", *losses, "XDP / tc: card", "host"])
            for protocol in standing[0].sessions:
                for direction in Direction:
                    rates = _rates(setting, standing, protocol, direction, losses)
                    section.results.append(_row(f"{protocol} {direction.value}", rates))
        rate, seconds = _GENTLE
        gently = ", ".join(f"{name} {one.gently}" for name, one in losses.items())
        section.notes.append(f"lost before the gateway, of {rate * seconds:.0f} at {rate:.0f}/s: {gently}")
        within = ", ".join(f"{name} {one.at_peak:.1%}" for name, one in losses.items())
        section.notes.append(f"lost within it, at the peak: {within}")
        return section

    def _kernel(self, stack: contextlib.ExitStack, name: str, *, live: bool) -> _Standing:
        make = contenders.nft if name == "nft" else contenders.plain
        contender = stack.enter_context(make(f"{name}{live:d}", USER_SPACE if live else KERNEL))
        calls = self._ends.establish(contender.row, FIRST_CLIENT, FLOWS).calls
        if len(calls) < FLOWS:
            raise RuntimeError(f"{name}: {len(calls)} of {FLOWS} calls")
        esp = pairs(FIRST_CLIENT, FLOWS, seen=name == "plain")
        sides = Both(contender.row)
        stack.callback(sides.close)
        sides.establish(esp)
        if live:
            _drive(contender.row)
        return _Standing(name, contender, {"GRE": calls, "ESP": esp})


@contextlib.contextmanager
def carried(form: Form, *, live: bool) -> Iterator[_Standing]:
    """A form of the fast path with its flows, and no daemon."""
    in_driver = live or form.xdp
    name = f"form{FORMS.index(form)}{live:d}"
    with (
        contenders.plain(name, USER_SPACE if in_driver else KERNEL) as contender,
        compiled(SOURCE) as program,
        carrier(contender.row, form.most, 4 * FLOWS, program, xdp=form.xdp) as fastpath,
    ):
        row = contender.row
        sessions = {name: _offloaded(fastpath, name) for name in ("GRE", "ESP")}
        with inside(row.gateway):
            for interface, side in (("eth0", Side.LAN), ("eth1", Side.WAN)):
                fastpath.attach(interface, side)
        if problems := "; ".join(filter(None, fastpath.drivers.values())):
            raise RuntimeError(f"{form.title}: {problems}")
        for host in (row.lan, row.wan):
            if form.card:
                _swallow(fastpath, host)
            elif form.xdp:  # it would not get what is redirected to it
                take_in(host, "eth0")
        if in_driver:
            _drive(row)
        yield _Standing(form.title, contender, sessions, lambda: _counted(fastpath))


def _drive(row: Row) -> None:
    """Have all of the gateway's work on its core, also what its drivers do."""
    for interface in ("eth0", "eth1"):
        work_on(GATEWAY_CORE, row.gateway, interface)


def _swallow(fastpath: KernelFastPath, host: str) -> None:
    """Have a host's driver let go of all that comes, for as long as there is its interface."""
    with inside(host):
        index = socket.if_nametoindex("eth0")
        code = libbpf()._lib.bpf_xdp_attach(index, fastpath._object.program_fd("swallow"), _NATIVE, None)
    if code:
        raise RuntimeError(f"{host} does not take a program in its driver: errno {-code}")


def _offloaded(fastpath: KernelFastPath, protocol: str) -> list[Tunnel]:
    """Flows of a protocol, both ways, that are handed over; and their packets."""
    kind, number, wire = (Kind.GRE, 47, Flow) if protocol == "GRE" else (Kind.ESP, 50, EspFlow)
    wan, made = parse_ip(GATEWAY_WAN), []
    for index in range(FLOWS):
        client, peer = Ip4(parse_ip(FIRST_CLIENT) + index), parse_ip(PEERS[index % len(PEERS)])
        out, back = 0x1000 + index, 0x2000 + index
        ways = (
            Shortcut(kind, number, Side.LAN, client, peer, out, wan, peer, out),
            Shortcut(kind, number, Side.WAN, peer, wan, back, peer, client, back),
        )
        for way in ways:
            flow = len(fastpath)
            if not fastpath.prepare(flow, way):
                raise RuntimeError("there is no room for a flow")
            fastpath.offload(flow)
        wires = (wire(show_ip(way.sender), show_ip(way.addressed), way.label) for way in ways)
        made.append(Tunnel(*wires))
    return made


def _counted(fastpath: KernelFastPath) -> int:
    found = (fastpath.carried(number) for number in range(len(fastpath)))
    return sum(one[0] for one in found if one is not None)


def lost(one: _Standing, lane: Lane) -> int:
    """How many packets of a rate that all of them manage did not even get to the gateway.

    Raises:
        RuntimeError: it lost some itself, or it was not the fast path that carried them.
    """
    before = one.counted() if one.counted else 0
    sent, arrived, received = lane.all_of(*_GENTLE)
    counted = one.counted() - before if one.counted else arrived
    if max(arrived, counted, received) - min(arrived, counted, received) > _STRAY:
        raise RuntimeError(f"{one.title}: {arrived} arrived, {counted} were carried, {received} received")
    return max(sent - received, 0)


def _rates(
    setting: Setting,
    standing: Sequence[_Standing],
    protocol: str,
    direction: Direction,
    losses: Mapping[str, _Losses],
) -> dict[str, float]:
    """The peaks, by title."""
    lanes = [setting.lane(one.contender, one.sessions[protocol], direction, SIZES[0]) for one in standing]
    for one, lane in zip(standing, lanes, strict=True):
        losses[one.title].gently = max(losses[one.title].gently, lost(one, lane))
    rates = {}
    found = peaks(lanes, setting.effort.rounds, setting.effort.seconds)
    for one, peak in zip(standing, found, strict=True):
        rates[one.title] = peak.best().received
        losses[one.title].heed(peak.best_of)
    return rates


def _row(title: str, rates: Mapping[str, float]) -> Result:
    card, host = (rates[f"XDP, {to}"] / rates[f"tc, {to}"] for to in ("card", "host"))
    cells = [title, *map(thousands, rates.values()), f"{card:.2f}", f"{host:.2f}"]
    return Result(cells, {"load": title, **rates, "card": card, "host": host})
