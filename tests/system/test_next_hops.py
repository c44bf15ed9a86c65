"""How packets of calls reach the gateway's next hop, as the daemon follows what the kernel knows of it."""

import contextlib
import ctypes
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from relay.fastpath import abi
from relay.fastpath.libbpf import libbpf
from tests.bpf.egress import dropping
from tests.bpf.kernel import built
from tests.netns import Namespace
from tests.system.carried import flows, read
from tests.system.control import Tunnel
from tests.system.home import CLIENT, GRE, PEER, RULES, Daemon, Home, until
from tests.system.test_fastpath import talk

pytestmark = pytest.mark.skipif(bool(built()), reason=built())

ROUTER: Final = "200.200.200.1"
NEW: Final = "02:00:00:00:00:99"
NONE: Final = "00:00:00:00:00:00"
SOME: Final = 50

#: linux/if_ether.h, linux/if_packet.h
_ETH_P_ALL: Final = 3
_PACKET_OUTGOING: Final = 4
_PROTOCOL_AT: Final = 23

#: Has the gateway's kernel ask soon whether a neighbour is still there, and again.
HASTE: Final = {"base_reachable_time_ms": 100, "delay_first_probe_time": 0, "retrans_time_ms": 50}


class Line:
    """A call that the kernel carries, and the gateway's link to its next hop."""

    def __init__(self, house: Home, daemon: Daemon, tunnel: Tunnel, tap: socket.socket) -> None:
        self.house = house
        self.gateway, self.router = house.gateway, house.internet
        self._daemon = daemon
        self._tunnel = tunnel
        self._tap = tap
        self._sent = 0
        self._hops = descriptor(daemon, abi.HOP_SIZE, abi.MOST_HOPS)
        self.client, self.peer = house.raw(house.client), house.raw(house.peer)

    def close(self) -> None:
        """Close what is no host's."""
        os.close(self._hops)

    # -- what is known ---------------------------------------------------------------------------------

    def address(self) -> str:
        """The next hop's Ethernet address."""
        return self.router.sh("cat /sys/class/net/eth0/address").strip()

    def know(self, state: str) -> None:
        """Tell the gateway's kernel of its next hop."""
        self.gateway.sh(f"ip neigh replace {ROUTER} lladdr {self.address()} dev eth1 nud {state}")

    def forget(self) -> None:
        """Have it forget it, until somebody asks again."""
        self.gateway.sh(f"ip neigh del {ROUTER} dev eth1")

    def reached(self) -> list[tuple[int, str]]:
        """By what means the next hop is reached, and the target's address in the header for that."""
        values = (libbpf().lookup(self._hops, abi.INDEX.pack(n), abi.HOP_SIZE) for n in range(1, 9))
        return [
            (int.from_bytes(value[12:16], "little"), value[16:22].hex(":"))
            for value in values
            if value is not None and value[4:8] == socket.inet_aton(ROUTER)
        ]

    def becomes(self, means: abi.Means) -> None:
        """Wait until the next hop is reached by these means, at its address."""
        address = NONE if means is abi.Means.NEIGHBOUR else self.address()
        until(lambda: self.reached() == [(means, address)])

    # -- what passes -----------------------------------------------------------------------------------

    def targets(self) -> set[str]:
        """The Ethernet addresses that the gateway has sent GRE to since this was asked last."""
        found = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self._tap.recvfrom(2048)
                if kind != _PACKET_OUTGOING and frame[_PROTOCOL_AT] == GRE:
                    found.add(frame[:6].hex(":"))
        return found

    def talks(self) -> int:
        """The kernel carries packets both ways, and to the next hop's address only; how many it sent by
        the gateway's interface itself.
        """
        seen, before = read(self._daemon, "gre"), self._left()
        self.targets()
        talk(self.house, self._tunnel, range(self._sent, self._sent + SOME))
        self._sent += SOME
        assert read(self._daemon, "gre") == seen
        assert self.targets() == {self.address()}
        return self._left() - before

    def _left(self) -> int:
        return int(self.gateway.sh("cat /sys/class/net/eth1/statistics/tx_packets"))

    def arrives(self) -> bool:
        """The client sends something, and whether the peer gets it."""
        self.client.send(CLIENT, PEER, self._tunnel.server_id, seq=self._sent)
        self._sent += 1
        if self.peer.nothing():
            return False
        self.peer.receive()
        return True

    def lost(self) -> bool:
        """Whether what the client sends goes nowhere: neither to the peer nor by the link."""
        self.targets()
        return not self.arrives() and not self.targets()


def descriptor(daemon: Daemon, value: int, entries: int) -> int:
    """A descriptor of our own for the daemon's map of this shape."""
    numbers = set()
    for path in Path(f"/proc/{daemon.process.pid}/fdinfo").iterdir():
        about = dict(re.findall(r"^(\w+):\s+(\S+)$", path.read_text(), re.MULTILINE))
        if (about.get("value_size"), about.get("max_entries")) == (str(value), str(entries)):
            numbers.add(int(about["map_id"]))
    (number,) = numbers
    return int(ctypes.CDLL("libbpf.so.1").bpf_map_get_fd_by_id(ctypes.c_uint32(number)))


@contextlib.contextmanager
def carried(house: Home, *options: str) -> Iterator[Line]:
    """A daemon with these options, and a call of its that the kernel carries."""
    daemon = house.run(RULES, *options)
    with contextlib.ExitStack() as closing:
        closing.callback(daemon.stop, signal.SIGKILL)
        tunnel = house.tunnel(house.client, PEER, closing.enter_context(house.listen(house.peer)))
        with house.internet.entered():
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        closing.enter_context(tap)
        tap.bind(("eth0", _ETH_P_ALL))
        tap.setblocking(False)
        made = Line(house, daemon, tunnel, tap)
        closing.callback(made.close)
        until(lambda: flows(daemon) == 2)
        address = made.address()
        yield made
        house.internet.sh(f"ip link set eth0 address {address}")
        with contextlib.suppress(RuntimeError):  # a test that has failed
            made.forget()


@pytest.fixture
def line(house: Home) -> Iterator[Line]:
    with carried(house) as made:
        yield made


@contextlib.contextmanager
def shaped(gateway: Namespace) -> Iterator[None]:
    """With a queueing discipline at the way out, which nothing may go round then."""
    gateway.sh("tc qdisc add dev eth1 root pfifo")
    try:
        yield
    finally:
        gateway.sh("tc qdisc del dev eth1 root")


@contextlib.contextmanager
def settings(host: Namespace, prefix: str, **values: int) -> Iterator[None]:
    """Sysctls of a host, otherwise than they are."""
    before = {name: int(host.sh(f"sysctl -n {prefix}.{name}")) for name in values}
    for name, value in values.items():
        host.sysctl(f"{prefix}.{name}", value)
    try:
        yield
    finally:
        for name, value in before.items():
            host.sysctl(f"{prefix}.{name}", value)


def test_a_next_hop_that_becomes_known_is_reached_by_a_header_that_is_ready(line: Line) -> None:
    """At once into the other end of the link, a veth; or by the link, where something stands at it."""
    for means in (abi.Means.PEER, abi.Means.HEADER):
        with contextlib.ExitStack() as standing:
            if means is abi.Means.HEADER:
                standing.enter_context(shaped(line.gateway))
            line.forget()
            line.becomes(abi.Means.NEIGHBOUR)
            assert line.arrives()
            line.becomes(means)
            left = line.talks()
            assert left < SOME if means is abi.Means.PEER else left >= SOME


def test_a_next_hop_that_the_kernel_is_not_sure_of_is_looked_for_each_time(line: Line) -> None:
    line.know("reachable")
    line.becomes(abi.Means.PEER)
    line.know("stale")
    line.becomes(abi.Means.NEIGHBOUR)
    assert line.talks() >= SOME


def test_a_next_hop_that_tells_of_another_address_is_sent_nothing_at_the_old_one(line: Line) -> None:
    """Also while the kernel finds out whether the new one is to be trusted."""
    with (
        shaped(line.gateway),
        settings(line.router, "net.ipv4.conf.eth0", arp_notify=1),
        settings(line.gateway, "net.ipv4.neigh.eth1", delay_first_probe_time=0),
    ):
        line.know("reachable")
        line.becomes(abi.Means.HEADER)
        old = line.address()
        line.router.sh(f"ip link set eth0 address {NEW}")
        until(lambda: old not in {address for _, address in line.reached()})
        assert line.talks() >= SOME
        line.becomes(abi.Means.HEADER)
        assert line.talks() >= SOME


def test_a_next_hop_with_another_address_that_it_does_not_tell_is_found(line: Line) -> None:
    """As after a failover: what is lost meanwhile is what the kernel itself would lose."""
    with shaped(line.gateway), settings(line.gateway, "net.ipv4.neigh.eth1", **HASTE):
        line.forget()
        assert line.arrives()
        line.router.sh(f"ip link set eth0 address {NEW}")
        until(line.arrives)
        assert line.talks() >= SOME


def test_a_link_that_goes_down_takes_nothing_and_is_used_again_when_it_is_up(line: Line) -> None:
    """The other end of a veth takes what comes in that way whatever this end's state is."""
    line.know("permanent")
    line.becomes(abi.Means.PEER)
    line.gateway.sh("ip link set eth1 down")
    until(line.lost)
    assert all(line.lost() for _ in range(3))
    line.gateway.sh("ip link set eth1 up")
    line.gateway.sh(f"ip route add default via {ROUTER}")
    until(line.arrives)
    line.talks()


def test_a_filter_at_the_way_out_is_not_gone_round_from_when_it_comes_to_when_it_goes(line: Line) -> None:
    line.know("permanent")
    line.becomes(abi.Means.PEER)
    assert line.talks() < SOME
    line.gateway.sh("tc qdisc replace dev eth1 clsact")
    line.gateway.sh("tc filter add dev eth1 egress protocol ip u32 match u32 0 0")
    line.becomes(abi.Means.HEADER)
    assert line.talks() >= SOME
    line.gateway.sh("tc filter del dev eth1 egress")
    line.becomes(abi.Means.PEER)
    assert line.talks() < SOME


def test_a_program_at_the_way_out_is_not_gone_round_though_the_kernel_tells_nobody_of_it(line: Line) -> None:
    line.know("permanent")
    line.becomes(abi.Means.PEER)
    with dropping(line.gateway, "eth1"):
        line.becomes(abi.Means.HEADER)
        assert line.lost()
    line.becomes(abi.Means.PEER)
    assert line.talks() < SOME
