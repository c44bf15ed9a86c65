"""Three namespaces in a row: LAN hosts – gateway – WAN hosts, on the HOWTO's addresses.

Every contender has a row of its own, and all of them stand at once, so that changing from one to the
other costs nothing and may happen after every sample.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.netns import batch, inside, sh, sh_in

GATEWAY_LAN: Final = "10.0.0.1"
GATEWAY_WAN: Final = "200.200.200.200"
LAN_ROUTER: Final = "10.0.0.2"
WAN_ROUTER: Final = "200.200.200.1"

#: Inside clients: all of it answers, through LAN_ROUTER, so that the gateway needs one neighbour only.
CLIENTS: Final = "10.1.0.0/16"
#: Outside servers, behind WAN_ROUTER.
PEERS: Final = tuple(f"199.0.0.{host}" for host in range(1, 5))

#: The same for IPsec, of which netfilter lets one client talk to a peer: so there are many.
IPSEC_PEERS: Final = "199.1.0.0/16"

LAN_MAC: Final = "02:00:00:00:00:02"
GATEWAY_LAN_MAC: Final = "02:00:00:00:00:01"
GATEWAY_WAN_MAC: Final = "02:00:00:00:01:01"
WAN_MAC: Final = "02:00:00:00:01:02"


@dataclass(frozen=True, slots=True)
class Row:
    """The names of one row of namespaces. The LAN's and WAN's interface is eth0; the gateway has eth0
    (LAN) and eth1 (WAN)."""

    lan: str
    gateway: str
    wan: str


class Counter:
    """Packets an interface took in, read without entering its namespace again (proc_pid_net(5))."""

    def __init__(self, namespace: str, interface: str) -> None:
        with inside(namespace):
            self._fd = os.open("/proc/self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
        self._key = f"{interface}:"

    def packets(self) -> int:
        """Packets received since the interface was made."""
        for line in os.pread(self._fd, 65536, 0).decode().splitlines():
            name, _, values = line.strip().partition(" ")
            if name == self._key:
                return int(values.split()[1])
        raise RuntimeError(f"no interface {self._key}")

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)


class SocketDrops:
    """Packets lost at the raw sockets of a namespace because their buffers were full (/proc/net/raw)."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._fd = os.open("/proc/self/net/raw", os.O_RDONLY | os.O_CLOEXEC)

    def packets(self) -> int:
        """The sum over all raw sockets open now."""
        lines = os.pread(self._fd, 65536, 0).decode().splitlines()[1:]
        return sum(int(line.split()[-1]) for line in lines)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)


@contextlib.contextmanager
def row(name: str, *, gateway_core: int | None, hosts_core: int | None) -> Iterator[Row]:
    """Build a row, and remove it whatever happens.

    ``gateway_core`` and ``hosts_core``: where receive packet steering moves the softirq work of what the
    gateway and the hosts receive; None leaves it on the core that sends, as veth does.
    """
    base = f"vqb{os.getpid()}{name}"
    it = Row(f"{base}-lan", f"{base}-gw", f"{base}-wan")
    made: list[str] = []
    try:
        for namespace in (it.lan, it.gateway, it.wan):
            sh("ip", "netns", "add", namespace)
            made.append(namespace)
        _wire(it)
        if gateway_core is not None:
            _steer(it.gateway, gateway_core, "eth0", "eth1")
        if hosts_core is not None:
            for namespace in (it.lan, it.wan):
                _steer(namespace, hosts_core, "eth0")
        yield it
    finally:
        for namespace in made:
            sh("ip", "netns", "del", namespace)


def _wire(it: Row) -> None:
    veth = "type veth peer name"
    batch(
        it.gateway,
        [
            f"link add eth0 address {GATEWAY_LAN_MAC} {veth} eth0 address {LAN_MAC} netns {it.lan}",
            f"link add eth1 address {GATEWAY_WAN_MAC} {veth} eth0 address {WAN_MAC} netns {it.wan}",
            f"addr add {GATEWAY_LAN}/24 dev eth0",
            f"addr add {GATEWAY_WAN}/24 dev eth1",
            "link set lo up",
            "link set eth0 up",
            "link set eth1 up",
            f"neigh replace {LAN_ROUTER} lladdr {LAN_MAC} dev eth0 nud permanent",
            f"neigh replace {WAN_ROUTER} lladdr {WAN_MAC} dev eth1 nud permanent",
            f"route add {CLIENTS} via {LAN_ROUTER}",
            f"route add default via {WAN_ROUTER}",
        ],
    )
    batch(it.lan, _host(f"{LAN_ROUTER}/24", GATEWAY_LAN, GATEWAY_LAN_MAC, [CLIENTS]))
    batch(
        it.wan,
        _host(
            f"{WAN_ROUTER}/24", GATEWAY_WAN, GATEWAY_WAN_MAC, [*(f"{peer}/32" for peer in PEERS), IPSEC_PEERS]
        ),
    )
    sh_in(it.gateway, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for namespace in (it.lan, it.wan):
        # The hosts swallow VPN packets before anything answers them; what came is in the interface's counter.
        sh_in(namespace, "nft", "-f", "-", stdin=_SWALLOW)
        # Ten thousand clients of one host share one small range of ports towards each peer.
        sh_in(namespace, "sh", "-c", "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range")


_SWALLOW: Final = """
table netdev swallow {
    chain early {
        type filter hook ingress device "eth0" priority 0;
        ip protocol { gre, esp } drop
        udp dport { 500, 4500 } drop
    }
}
"""


def _host(address: str, gateway: str, gateway_mac: str, others: list[str]) -> list[str]:
    return [
        f"addr add {address} dev eth0",
        "link set lo up",
        "link set eth0 up",
        *(f"route add local {network} dev lo" for network in others),
        f"neigh replace {gateway} lladdr {gateway_mac} dev eth0 nud permanent",
        f"route add default via {gateway}",
    ]


def _steer(namespace: str, core: int, *interfaces: str) -> None:
    for interface in interfaces:
        path = f"/sys/class/net/{interface}/queues/rx-0/rps_cpus"
        sh_in(namespace, "sh", "-c", f"echo {1 << core:x} > {path}")
