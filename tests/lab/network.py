"""The network of the HOWTO, in namespaces.

::

      10.0.0.0/24            200.200.200.0/24           199.0.0.0/24
    host .2 --+                                              +-- host .1
              +-- [lan] -- eth0 .1 [gw] eth1 .200 -- .1 [inet] .254 --+
    host .3 --+                                              +-- host .2

lan is a bridge, inet a bridge that also routes and drops private addresses: what crosses it was translated.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from tests.lab.machine import until
from tests.lab.namespace import Namespace

LAN_GATEWAY: Final = "10.0.0.1"
WAN_ADDRESS: Final = "200.200.200.200"
INTERNET_ROUTER: Final = "199.0.0.254"

_ROUTER_MAC: Final = "02:76:70:6e:ff:fe"

_OFFLOADS = "tx off rx off sg off tso off gso off gro off"

_NO_PRIVATE_ADDRESSES = """
table ip internet {
  chain forward {
    type filter hook forward priority 0;
    ip saddr 10.0.0.0/8 counter drop
    ip daddr 10.0.0.0/8 counter drop
  }
}
"""


class Network:
    """Two sides and the gateway's namespace between them, without a gateway in it."""

    def __init__(self, *, offloads: bool = True) -> None:
        """Lay the cables.

        Guests need `offloads` off: their network driver takes frames as they are on the wire.
        """
        self._stack = ExitStack()
        with self._stack:
            self.lan = self._stack.enter_context(Namespace())
            self.gw = self._stack.enter_context(Namespace(pids=False))
            self.inet = self._stack.enter_context(Namespace())
            self._connect()
            if not offloads:
                for side, names in ((self.gw, ("eth0", "eth1")), (self.lan, ("gw0",)), (self.inet, ("gw1",))):
                    for name in names:
                        side.sh(f"ethtool -K {name} {_OFFLOADS}")
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def side(self, address: str) -> tuple[Namespace, str]:
        """Return the side a host with this address belongs to, and its default gateway there."""
        return (self.lan, LAN_GATEWAY) if address.startswith("10.") else (self.inet, INTERNET_ROUTER)

    def leaked(self) -> int:
        """Return how many packets with a private address came as far as the internet."""
        words = self.inet.run("nft", "list", "table", "ip", "internet").split()
        return sum(int(words[i + 1]) for i, word in enumerate(words) if word == "packets")

    def _connect(self) -> None:
        for side in (self.lan, self.inet):
            # an address of its own: otherwise it takes the lowest of its ports', and changes it under those
            # who know it when a host joins
            side.sh(f"ip link add br0 address {_ROUTER_MAC} type bridge forward_delay 0; ip link set br0 up")
        self.gw.sh(
            f"ip link add eth0 type veth peer name gw0 netns {self.lan.pid};"
            f"ip link add eth1 type veth peer name gw1 netns {self.inet.pid};"
            f"ip addr add {LAN_GATEWAY}/24 dev eth0; ip link set eth0 up;"
            f"ip addr add {WAN_ADDRESS}/24 dev eth1; ip link set eth1 up"
        )
        self.lan.sh("ip link set gw0 master br0 up")
        self.inet.sh(
            "ip addr add 200.200.200.1/24 dev gw1; ip link set gw1 up;"
            f"ip addr add {INTERNET_ROUTER}/24 dev br0; echo 1 >/proc/sys/net/ipv4/ip_forward"
        )
        self.inet.run("nft", "-f", "-", stdin=_NO_PRIVATE_ADDRESSES)
        self.gw.sh("ip route add default via 200.200.200.1")
        # routes say so, and what a gateway leaves behind is told by comparing them
        until(
            lambda: "linkdown" not in self.gw.run("ip", "route", "show", "table", "all"),
            "links are up",
            within=10,
        )
