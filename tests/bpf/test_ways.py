"""Ways out that change: a flow follows them, and never goes on by one that is gone."""

import contextlib
import select
from collections.abc import Iterator
from typing import Final

import pytest

from protocols.actions import Side
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.routes import NEIGHBOURS, ROUTES, drained, heard_of, subscription
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
                drained(self._news)
                self.fastpath.rerouted()
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
