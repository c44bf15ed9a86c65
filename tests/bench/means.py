"""How the fast path's packets get to the next hop: each means beside plain forwarding, with no daemon."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4, parse_ip, show_ip
from relay.fastpath.abi import Means
from relay.fastpath.kernel import OBJECT, KernelFastPath
from relay.fastpath.routes import Routes, Way
from tests.bench import contenders
from tests.bench.contenders import Contender
from tests.bench.lanes import Direction
from tests.bench.netns import inside
from tests.bench.packets import EspFlow
from tests.bench.report import Result, Section, thousands
from tests.bench.setting import SIZES, Setting
from tests.bench.topology import CLIENTS, GATEWAY_WAN, PEERS, Row
from tests.bench.tunnels import Tunnel

_TITLES: Final = {
    Means.NEIGHBOUR: "the neighbour is looked for",
    Means.HEADER: "a header is ready",
    Means.PEER: "other end of the veth",
}


class _Limited(Routes):
    """Knows of no better means than this one."""

    def __init__(self, most: Means) -> None:
        super().__init__()
        self._most = most

    def means(self, way: Way) -> tuple[Means, bytes]:
        """What there is, up to that."""
        found, header = super().means(way)
        if self._most is Means.DRIVER and found is not Means.NEIGHBOUR:
            return self._most, header  # the bench sees to it that there is one
        return min(found, self._most), header


def means(setting: Setting, flows: int) -> Section:
    """The table: packets per second at the peak, of ESP with small packets."""
    made = [setting.stack.enter_context(_carried(one, flows)) for one in _TITLES]
    made.append(setting.stack.enter_context(contenders.plain("bare")))
    tunnels = [Tunnel(wire(index), wire(index)) for index in range(flows)]
    ways = [(contender, tunnels) for contender in made]
    best = [peak.best().received for peak in setting.peaks(ways, Direction.OUTBOUND, SIZES[0])]
    section = Section(
        "means",
        f"How packets get to the next hop: ESP, {SIZES[0]} octets, {flows} flows",
        ["", "packets/s", "/ plain"],
    )
    for title, rate in zip([*_TITLES.values(), "plain"], best, strict=True):
        ratio = rate / best[-1]
        cells = [title, thousands(rate), f"{ratio:.2f}"]
        section.results.append(Result(cells, {"means": title, "rate": rate, "of_plain": ratio}))
    section.notes.append("at a network card a header is ready; the table above is of veth, and its other end")
    return section


@contextlib.contextmanager
def _carried(most: Means, flows: int) -> Iterator[Contender]:
    with contenders.plain(f"means{most}") as contender, carrier(contender.row, most, flows) as fastpath:
        with inside(contender.row.gateway):
            fastpath.attach("eth0", Side.LAN)
        for index in range(flows):
            fastpath.prepare(index, shortcut(index))
            fastpath.offload(index)
        yield contender


@contextlib.contextmanager
def carrier(
    row: Row, most: Means, flows: int, path: Path = OBJECT, *, xdp: bool = False
) -> Iterator[KernelFastPath]:
    """A fast path in a row's gateway, with room for so many flows, that has no better means than this one."""
    with contextlib.ExitStack() as stack:
        with inside(row.gateway):
            fastpath = KernelFastPath(flows, instance=row.gateway, path=path, xdp=xdp)
            limited: Any = stack.enter_context(contextlib.closing(_Limited(most)))
        fastpath._routes = limited
        fastpath._ways._routes = limited
        try:
            yield fastpath
        finally:
            with inside(row.gateway):
                fastpath.close()


def _client(index: int) -> Ip4:
    return Ip4(parse_ip(CLIENTS.split("/")[0]) + 1 + index % 65000)


def shortcut(index: int) -> Shortcut:
    """An outbound flow of ESP, by its number."""
    peer, spi = parse_ip(PEERS[index % len(PEERS)]), 0x1000 + index
    client, wan = _client(index), parse_ip(GATEWAY_WAN)
    return Shortcut(Kind.ESP, 50, Side.LAN, client, peer, spi, wan, peer, spi)


def wire(index: int) -> EspFlow:
    """Its packets."""
    return EspFlow(show_ip(_client(index)), PEERS[index % len(PEERS)], 0x1000 + index)
