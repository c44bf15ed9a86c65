"""Ways out that change: a flow follows them, and never goes on by one that is gone."""

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest

from protocols.actions import Side
from protocols.addr import Ip4
from relay.fastpath import Prefix
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.routes import NEIGHBOURS, ROUTES, Way, heard_of, rerouted, subscription
from relay.fastpath.ways import Ways
from tests.bpf.wires import FIRST, SILENCE, Wires, host, numbered, wires
from tests.netns import requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

SOME: Final = range(FIRST, FIRST + 5)


@pytest.fixture
def wired() -> Iterator[Wires]:
    with wires() as made:
        yield made


class Follower:
    """Does what the handover does when routes change."""

    def __init__(self, wired: Wires, fastpath: KernelFastPath) -> None:
        self.fastpath = fastpath
        self._gateway = wired.gateway
        with wired.gateway.entered():
            self._news = subscription(ROUTES)
            self._neighbours = subscription(NEIGHBOURS)

    def follow(self) -> None:
        """Wait for the kernel's word that something has changed, and follow it."""
        with self._gateway.entered():
            while select.select([self._news], [], [], SILENCE)[0]:
                self.fastpath.rerouted(rerouted(self._news))
            self.fastpath.neighbours_changed(heard_of(self._neighbours))
            while self.fastpath.follow():
                pass

    def close(self) -> None:
        self._news.close()
        self._neighbours.close()


@contextlib.contextmanager
def following(wired: Wires, kind: str = "esp", *, xdp: bool = False) -> Iterator[Follower]:
    with wired.carrying(xdp=xdp) as fastpath, contextlib.closing(Follower(wired, fastpath)) as follower:
        wired.offload(fastpath, kind)
        wired.passes(kind, SOME)
        yield follower


class Asked:
    """Routes that are asked for, all by one next hop."""

    def __init__(self) -> None:
        self.targets: list[int] = []
        self.forgotten = 0

    def way(self, target: Ip4) -> Way:
        self.targets.append(target)
        return Way(1, 2, 1500)

    def forget(self) -> None:
        self.forgotten += 1


@pytest.mark.parametrize("part", [1, 3, 10, 100])
def test_destinations_whose_routes_stay_are_not_looked_up(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr("relay.fastpath.ways._PASSED", part)
    monkeypatch.setattr("relay.fastpath.ways._SLICE", 4)
    asked: Any = Asked()
    ways = Ways(asked, lambda _number, _way: None, lambda _line, _number: None)
    targets = [Ip4(0xC6336400 + host) for host in range(50)]
    for line, target in enumerate(targets):
        ways.enter(target, line)

    def looked_up(where: set[Prefix] | None) -> list[int]:
        """What a change of routes makes it ask for, a part at a time."""
        asked.targets.clear()
        ways.changed(where)
        before = 0
        while ways.follow():
            assert len(asked.targets) <= before + 4
            before = len(asked.targets)
        return list(asked.targets)

    changed = {(31, 0xC6336410 >> 1), (32, 0xC6336407), (32, 0xC6336411)}
    assert sorted(looked_up(changed)) == [targets[7], targets[16], targets[17]]
    assert looked_up({(24, 0xCB0071)}) == []
    assert not asked.forgotten
    assert looked_up({(0, 0)}) == targets
    assert looked_up(None) == targets
    assert asked.forgotten == 1


def test_what_changes_in_a_round_is_looked_up_in_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.fastpath.ways._PASSED", 2)
    asked: Any = Asked()
    ways = Ways(asked, lambda _number, _way: None, lambda _line, _number: None)
    for line in range(4):
        ways.enter(Ip4(line), line)
    asked.targets.clear()
    ways.changed({(32, 0)})
    assert ways.follow()
    ways.changed({(32, 0)})
    ways.changed({(32, 3)})
    while ways.follow():
        pass
    assert asked.targets == [0, 0, 3]


NEWS: Final = [
    pytest.param("ip route add 203.0.113.0/24 via 200.200.200.1", {(24, 0xCB0071)}, id="network"),
    pytest.param("ip route add unreachable 199.0.0.9", {(32, 0xC7000009)}, id="host"),
    pytest.param("ip route del default", {(0, 0)}, id="default"),
    pytest.param("ip address add 192.0.2.7/32 dev eth1", None, id="an address of ours"),
    pytest.param("ip link set eth1 mtu 1400", None, id="link"),
    pytest.param("ip rule add to 203.0.113.9 unreachable", None, id="rule"),
]


@pytest.mark.parametrize(("change", "where"), NEWS)
def test_what_the_kernel_says_of_a_change(wired: Wires, change: str, where: set[Prefix] | None) -> None:
    with wired.gateway.entered():
        news = subscription(ROUTES)
    with news:
        wired.gateway.sh(change)
        assert rerouted(news) == where
        assert rerouted(news) == set()


def test_what_is_lost_of_its_news_may_be_of_any_route(wired: Wires) -> None:
    with wired.gateway.entered():
        news = subscription(ROUTES)
    with news:
        news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for last in range(40):
            wired.gateway.sh(f"ip route add unreachable 203.0.113.{last}")
        assert rerouted(news) is None


GONE: Final = [
    pytest.param("ip route del default", "ip route add default via 200.200.200.1", id="route"),
    pytest.param("ip route add unreachable 199.0.0.1", "ip route del unreachable 199.0.0.1", id="forbidden"),
    pytest.param("ip link set eth1 down", "ip link set eth1 up", id="link"),
]


@pytest.mark.parametrize(("gone", "again"), GONE)
def test_a_way_that_is_gone_is_used_no_more_and_used_again_when_it_is_back(
    wired: Wires, gone: str, again: str
) -> None:
    with following(wired) as follower, host(wired.client, 50) as client, host(wired.peer, 50) as peer:
        wired.gateway.sh(gone)
        follower.follow()
        client.send(numbered("esp", Side.LAN, FIRST))
        assert peer.nothing()
        wired.gateway.sh(again)
        if "link" in gone:
            wired.gateway.sh("ip route add default via 200.200.200.1")
            wired.settled()
        follower.follow()
        wired.passes("esp", SOME)


def test_another_next_hop_is_taken_at_once(wired: Wires) -> None:
    """By the address of the link layer: both routers are one host, with two interfaces."""
    wired.net.link(wired.gateway, "eth2", wired.peer, "eth2")
    wired.gateway.address("eth2", "192.0.2.200/24")
    wired.peer.address("eth2", "192.0.2.1/24")
    wired.peer.sysctl("net.ipv4.conf.all.rp_filter", 0)
    wired.settled()
    with following(wired) as follower:
        counted = "cat /sys/class/net/eth2/statistics/rx_packets"
        before = int(wired.peer.sh(counted))
        wired.gateway.sh("ip route replace default via 192.0.2.1")
        follower.follow()
        wired.passes("esp", range(FIRST, FIRST + 50))
        assert int(wired.peer.sh(counted)) >= before + 50


def test_a_neighbour_that_was_replaced_is_found_again(wired: Wires) -> None:
    """Another router under the same address, as after a failover without an announcement."""
    times = {"base_reachable_time_ms": 100, "delay_first_probe_time": 0, "retrans_time_ms": 50}
    for name, value in times.items():
        wired.gateway.sysctl(f"net.ipv4.neigh.eth1.{name}", value)
    with following(wired), host(wired.client, 50) as client, host(wired.peer, 50) as peer:
        wired.peer.sh("ip link set eth0 address 02:00:00:00:00:99")
        peer.sock.settimeout(0.1)
        for number in range(FIRST, FIRST + 100):
            client.send(numbered("esp", Side.LAN, number))
            with contextlib.suppress(TimeoutError):
                peer.receive()
                return
        pytest.fail("the new neighbour was not found")
