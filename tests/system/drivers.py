"""The home's gateway with links that are as those of network cards whose drivers know XDP.

They have a queue, so that tc has no other end to give packets to; and the other end's driver is at work, or
this end's would take no frames from others.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Final

from tests.bpf.drivers import redirected, take_in
from tests.system.home import CLIENT, SERVER, Home
from tests.system.test_next_hops import ROUTER

XDP: Final = ("--set", "fastpath.mode=require", "--set", "fastpath.xdp=true")
USED: Final = {"eth0": "", "eth1": ""}


def with_cards(house: Home) -> Home:
    """The same, with such links."""
    for name, there, end in (("eth0", house.lan, "br0p3"), ("eth1", house.internet, "eth0")):
        house.gateway.sh(f"tc qdisc add dev {name} root pfifo_fast")
        take_in(there, end)
    return house


@contextlib.contextmanager
def sure(house: Home) -> Iterator[None]:
    """The gateway's kernel is sure of its neighbours; and after that no program is left in a driver."""
    hosts = (CLIENT, house.client, "eth0"), (SERVER, house.server, "eth0"), (ROUTER, house.internet, "eth1")
    for address, there, name in hosts:
        station = there.sh("cat /sys/class/net/eth0/address").strip()
        house.gateway.sh(f"ip neigh replace {address} lladdr {station} dev {name} nud permanent")
    yield
    for daemon in house.daemons:
        if daemon.process.poll() is None:
            assert daemon.stop() == 0, daemon.log()
        assert "Traceback" not in daemon.log()
    house.daemons.clear()
    assert programs(house) == 0


def running(house: Home) -> list[str]:
    """The kernel's numbers of the programs in the gateway's drivers."""
    return re.findall(r"prog/xdp id (\d+)", house.gateway.sh("ip link show"))


def programs(house: Home) -> int:
    """How many of the gateway's drivers run a program."""
    return len(running(house))


def handed_on(house: Home) -> int:
    """Frames that the gateway's drivers have handed on."""
    return redirected(house.gateway, *USED)
