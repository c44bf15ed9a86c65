"""How a next hop is reached: with a header that is ready, into a veth's other end, or as the kernel finds."""

import socket
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4, parse_ip
from relay.fastpath import abi, ways
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.routes import NEIGHBOURS, heard_of, subscription
from tests.bpf.egress import dropping
from tests.bpf.flows import CLIENT, GATEWAY, PEER, SHORTCUTS
from tests.bpf.test_rewrites import with_sum
from tests.bpf.test_ways import Follower, following
from tests.bpf.wires import FIRST, Wires, host, numbered, wires
from tests.netns import requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

SOME: Final = range(FIRST, FIRST + 5)
ROUTER: Final = "200.200.200.1"


@pytest.fixture
def wired() -> Iterator[Wires]:
    with wires() as made:
        yield made


def way_out(fastpath: KernelFastPath) -> tuple[int, bytes]:
    """Means and header of the way to the router."""
    return reached(fastpath, parse_ip(ROUTER))


def reached(fastpath: KernelFastPath, neighbour: int) -> tuple[int, bytes]:
    """Means and header of the way to a neighbour."""
    (number,) = (number for way, number in fastpath._ways._numbers.items() if way.gateway == neighbour)
    value = fastpath._library.lookup(fastpath._hops, abi.INDEX.pack(number), abi.HOP_SIZE)
    assert value is not None
    return struct.unpack_from("=I", value, 12)[0], value[16:28]


def sent(wired: Wires) -> int:
    """Packets that have left the gateway by the way out itself."""
    return int(wired.gateway.sh("cat /sys/class/net/eth1/statistics/tx_packets"))


def mac(wired: Wires, *, of_gateway: bool) -> bytes:
    where, name = (wired.gateway, "eth1") if of_gateway else (wired.peer, "eth0")
    return bytes.fromhex(where.sh(f"cat /sys/class/net/{name}/address").strip().replace(":", ""))


def sure(wired: Wires, follower: Follower) -> None:
    """Make the kernel sure of the router, and let that be heard of."""
    address = wired.peer.sh("cat /sys/class/net/eth0/address").strip()
    wired.gateway.sh(f"ip neigh replace {ROUTER} lladdr {address} dev eth1 nud reachable")
    follower.follow()


def test_while_the_kernel_is_sure_of_a_neighbour_packets_go_into_the_other_end(wired: Wires) -> None:
    with following(wired) as follower:
        sure(wired, follower)
        header = mac(wired, of_gateway=False) + mac(wired, of_gateway=True)
        assert way_out(follower.fastpath) == (abi.Means.PEER, header)
        before = sent(wired)
        wired.passes("esp", range(FIRST, FIRST + 50))
        assert sent(wired) - before < 50
        wired.gateway.sh(f"ip neigh change {ROUTER} dev eth1 nud stale")
        follower.follow()
        assert way_out(follower.fastpath)[0] == abi.Means.NEIGHBOUR
        before = sent(wired)
        wired.passes("esp", range(FIRST, FIRST + 50))
        assert sent(wired) - before >= 50


SHAPED: Final = [
    pytest.param("tc qdisc add dev eth1 root pfifo", "tc qdisc del dev eth1 root", id="qdisc"),
    pytest.param(
        # The qdisc may be there: ours, where there is no TCX.
        "tc qdisc replace dev eth1 clsact; tc filter add dev eth1 egress protocol ip u32 match u32 0 0",
        "tc filter del dev eth1 egress",
        id="filter",
    ),
]


@pytest.mark.parametrize(("change", "back"), SHAPED)
def test_what_stands_at_the_way_out_is_not_gone_round(wired: Wires, change: str, back: str) -> None:
    with following(wired) as follower:
        sure(wired, follower)
        for line in change.split("; "):
            wired.gateway.sh(line)
        follower.follow()
        assert way_out(follower.fastpath)[0] == abi.Means.HEADER
        before = sent(wired)
        wired.passes("esp", range(FIRST, FIRST + 50))
        assert sent(wired) - before >= 50
        wired.gateway.sh(back)
        follower.follow()
        assert way_out(follower.fastpath)[0] == abi.Means.PEER


def test_a_program_at_the_way_out_is_not_gone_round(wired: Wires) -> None:
    """Of one that is attached by TCX the kernel gives no word."""
    with following(wired) as follower, host(wired.client, 50) as client, host(wired.peer, 50) as peer:

        def look() -> int:
            with wired.gateway.entered():
                follower.fastpath.look_at_ways()
            return way_out(follower.fastpath)[0]

        sure(wired, follower)
        assert look() == abi.Means.PEER
        with dropping(wired.gateway, "eth1"):
            assert look() == abi.Means.HEADER
            for number in SOME:
                client.send(numbered("esp", Side.LAN, number))
            assert peer.nothing()
            sure(wired, follower)
            assert look() == abi.Means.HEADER
        assert look() == abi.Means.PEER
        wired.passes("esp", SOME)


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_every_kind_gets_there_by_every_means(wired: Wires, kind: str) -> None:
    with following(wired, kind) as follower:
        for change in ("", "tc qdisc add dev eth1 root pfifo", f"ip neigh del {ROUTER} dev eth1"):
            if change:
                wired.gateway.sh(change)
            else:
                sure(wired, follower)
            follower.follow()
            wired.passes(kind, SOME)


def test_a_neighbour_with_another_address_is_followed_at_once(wired: Wires) -> None:
    with following(wired) as follower:
        sure(wired, follower)
        wired.peer.sh("ip link set eth0 address 02:00:00:00:00:99")
        sure(wired, follower)
        assert way_out(follower.fastpath)[1][:6] == bytes.fromhex("020000000099")
        wired.passes("esp", SOME)


def test_a_client_that_is_a_neighbour_itself_is_reached_likewise(wired: Wires) -> None:
    with following(wired) as follower:
        address = wired.client.sh("cat /sys/class/net/eth0/address").strip()
        wired.gateway.sh(f"ip neigh replace 10.0.0.2 lladdr {address} dev eth0 nud reachable")
        follower.follow()
        means, header = reached(follower.fastpath, CLIENT)
        assert (means, header[:6].hex(":")) == (abi.Means.PEER, address)
        wired.passes("esp", SOME)
        wired.gateway.sh("ip neigh del 10.0.0.2 dev eth0")
        follower.follow()
        assert reached(follower.fastpath, CLIENT)[0] == abi.Means.NEIGHBOUR
        wired.passes("esp", SOME)


def test_of_many_neighbours_the_last_share_a_way(wired: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_MOST_OWN", 4)
    clients = [Ip4(CLIENT + number) for number in range(5)]
    with wired.carrying() as fastpath, wired.gateway.entered():
        for number, client in enumerate(clients):
            ends = (PEER, GATEWAY, number, PEER, client, number)
            assert fastpath.prepare(number, Shortcut(Kind.ESP, 50, Side.WAN, *ends))
            fastpath.offload(number)
        known = {way.gateway for way in fastpath._ways._numbers if way.interface}
        assert known == {0, *clients[:3]}
        for number in range(3):
            fastpath.unload(number)
        fastpath.rerouted()
        while fastpath.follow():
            pass
        assert {way.gateway for way in fastpath._ways._numbers if way.interface} == {0}


def test_the_gateway_with_another_address_says_so(wired: Wires) -> None:
    with following(wired) as follower:
        sure(wired, follower)
        wired.gateway.sh("ip link set eth1 address 02:00:00:00:00:98")
        wired.peer.sh("ip neigh flush dev eth0")
        sure(wired, follower)
        assert way_out(follower.fastpath)[1][6:] == bytes.fromhex("020000000098")
        wired.passes("esp", SOME)


def test_the_other_end_in_the_same_namespace_is_none(wired: Wires) -> None:
    """The kernel would throw away what is to go there."""
    wired.gateway.sh("ip link add near type veth peer name far")
    for name, address in (("near", "192.0.2.1/24"), ("far", "192.0.2.2/24")):
        wired.gateway.address(name, address)
    wired.gateway.sh("ip neigh replace 192.0.2.9 lladdr 02:00:00:00:00:09 dev near nud permanent")
    with following(wired) as follower:
        wired.gateway.sh("ip route replace 199.0.0.1 via 192.0.2.9 dev near")
        follower.follow()
        ways = follower.fastpath._ways._numbers
        (way,) = (way for way in ways if way.gateway == 0xC0000209)
        with wired.gateway.entered():
            assert follower.fastpath._routes.means(way)[0] == abi.Means.HEADER


def test_a_datagram_with_a_checksum_leaves_by_the_way_out_itself(wired: Wires) -> None:
    """It may be unfinished, which only the link knows how to end."""
    with (
        following(wired, "udp") as follower,
        host(wired.client, socket.IPPROTO_UDP) as client,
        host(wired.peer, socket.IPPROTO_UDP) as peer,
    ):
        sure(wired, follower)
        before = sent(wired)
        for number in range(FIRST, FIRST + 50):
            client.send(with_sum(numbered("udp", Side.LAN, number)))
            packet = peer.receive()
            assert packet == with_sum(packet)
        assert sent(wired) - before >= 50


def test_what_is_lost_of_the_news_may_be_of_any(wired: Wires) -> None:
    with wired.gateway.entered():
        news = subscription(NEIGHBOURS)
    with news:
        news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for last in range(10, 40):
            wired.gateway.sh(
                f"ip neigh replace 200.200.200.{last} lladdr 02:00:00:00:00:09 dev eth1 nud permanent"
            )
        assert heard_of(news) is None
        wired.gateway.sh("ip neigh del 200.200.200.10 dev eth1")
        index = int(wired.gateway.sh("cat /sys/class/net/eth1/ifindex"))
        assert heard_of(news) == {(index, 0xC8C8C80A)}
