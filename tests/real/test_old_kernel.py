"""The fast path on a guest's kernel: another verifier than this machine's, and with Debian 12 no TCX.

::

    caller 10.0.0.3 -- 10.0.0.2 vec0 [gateway] lan0 192.168.0.1 -- 192.168.0.2 server

The gateway is a guest, and the server a namespace in it.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bpf.kernel import built
from tests.lab.hosts import Guest, Shelf
from tests.lab.machine import ROOT, missing
from tests.lab.network import Network
from tests.lab.traffic import PYTHON

pytestmark = pytest.mark.guests

#: Seconds that the guest may take for what takes a tenth on real hardware.
_PATIENCE: Final = 240

#: What attaching by clsact takes, and what the tests of the program make besides.
_CLSACT: Final = "sch_ingress cls_bpf"
_LINKS: Final = "tun 8021q bridge macvlan"
_SHAPING: Final = "cls_u32"

_GATEWAY: Final = "10.0.0.2"
_CALLER: Final = "10.0.0.3"
_SERVER: Final = "192.168.0.2"
_LAN: Final = """
modprobe veth
ip netns add server
ip link add lan0 type veth peer name eth0 netns server
ip addr add 192.168.0.1/24 dev lan0
ip link set lan0 up
ip netns exec server ip addr add 192.168.0.2/24 dev eth0
ip netns exec server ip link set eth0 up
ip netns exec server ip route add default via 192.168.0.1
"""
_CONFIG: Final = f"""
version = 1

[wan]
interface = "vec0"

[lan]
interfaces = ["lan0"]
networks = ["192.168.0.0/24"]

[[forward]]
name = "echo"
listen = "udp/5000"
server = "{_SERVER}"
allow = ["any"]

[state]
directory = ""
"""
_PYTEST: Final = ".venv/bin/python -m pytest -q -rs -p no:cacheprovider"
#: Without what is about routes and neighbours, with a network for each test: that takes minutes here.
_QUICK: Final = "tests/bpf --ignore=tests/bpf/test_ways.py --ignore=tests/bpf/test_neighbours.py"
#: … but for these.
_NEXT_HOPS: Final = (
    "tests/bpf/test_neighbours.py -k 'kernel_is_sure or stands_at or another_address_is_followed'"
)
_VPNMASQ: Final = ".venv/bin/python -m relay"

#: Without CAP_PERFMON a verifier allows less.
_SERVICE: Final = "setpriv --bounding-set=-all,+bpf,+net_admin,+net_raw"
_LOAD: Final = """
import sys
from pathlib import Path
from relay.fastpath.libbpf import libbpf
for path in map(Path, sys.argv[1:]):
    libbpf().load(path, {}).close()
    print(path.name)
"""

#: Says whether programs are attached by TCX, without which it takes the modules of clsact.
_ATTACH: Final = """
from protocols.actions import Side
from relay.fastpath.kernel import KernelFastPath
from relay.kernel import KernelError
fastpath = KernelFastPath(64, instance="test")
try:
    fastpath.attach("lan0", Side.LAN)
    print("clsact" if fastpath._links.durable else "tcx")
except KernelError:
    print("clsact")
fastpath.close()
"""

#: Sends back what comes.
_ECHO: Final = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 5000))
while True:
    data, address = sock.recvfrom(2048)
    sock.sendto(data, address)
"""
#: Says how many of so many datagrams come back, each awaited before the next.
_CALL: Final = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.connect((sys.argv[2], 5000))
for number in range(int(sys.argv[1])):
    sock.send(b"%d" % number)
    assert sock.recv(2048) == b"%d" % number
print("all came back")
"""


class Old:
    """The gateway with that kernel, which may have TCX or not, and this checkout in it."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.caller = Shelf(network, directory, "caller", _CALLER)
        # A guest's driver takes datagrams as they are on the wire.
        self.caller.sh("ethtool -K eth0 tx off", check=True)
        self.caller.put("/run/call.py", _CALL)
        self.guest = Guest(network, directory, "old", _GATEWAY, software=(), memory=384)
        self.guest.wait()
        self.guest.sh(f"mkdir /run/checkout && mount -t hostfs -o {ROOT} none /run/checkout", check=True)
        self.guest.put("/run/vpnmasq.toml", _CONFIG)
        self.guest.put("/run/echo.py", _ECHO)
        self.sh(_LAN)
        self.guest.start(f"exec ip netns exec server {PYTHON} /run/echo.py")
        self.guest.put("/run/attach.py", _ATTACH)
        self.tcx = self.sh("PYTHONPATH=. .venv/bin/python /run/attach.py").strip() == "tcx"

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run something in the checkout."""
        line = f"cd /run/checkout && export PYTHONDONTWRITEBYTECODE=1; {script}"
        return self.guest.sh(line, within=_PATIENCE, check=check).output

    def start(self, options: str = "") -> None:
        """Start the daemon, and wait until it is ready."""
        run = f"{_VPNMASQ} run -c /run/vpnmasq.toml --timeout 0 {options} >/run/log 2>&1"
        self.sh(f"{run} & echo $! >/run/pid")
        self.sh("until grep -q ready /run/log; do kill -0 $(cat /run/pid) || exit; sleep 0.2; done")

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        document: dict[str, Any] = json.loads(self.sh(f"{_VPNMASQ} status --json"))
        return document

    def ends(self, signal: str) -> None:
        """End the daemon."""
        self.sh(f"kill -{signal} $(cat /run/pid); while [ -d /proc/$(cat /run/pid) ]; do sleep 0.1; done")

    def filters(self) -> list[str]:
        """What there is at its interfaces."""
        show = "tc qdisc show dev {0} clsact; tc filter show dev {0} ingress"
        return self.sh("; ".join(show.format(name) for name in ("vec0", "lan0"))).splitlines()

    def carries_datagrams(self) -> None:
        """Datagrams from outside go through it to the server, and come back."""
        call = f"{PYTHON} /run/call.py 50 {_GATEWAY}"
        said = self.caller.sh(f"for i in {{1..10}}; do {call} && break; sleep 0.1; done")
        assert "all came back" in said.output, said.output

    def close(self) -> None:
        """End the host that is no guest."""
        self.caller.close()

    def evidence(self) -> list[tuple[str, str]]:
        """What there is to read when a test fails."""
        return [("log", self.sh("cat /run/log", check=False)), ("console", self.guest.console())]


def read(status: dict[str, Any]) -> int:
    """Datagrams that came to user space."""
    return sum(row["packets"] for row in status["sockets"] if row["name"].startswith("udp/5000"))


@pytest.fixture(scope="module")
def old() -> Iterator[Old]:
    """One guest for all tests."""
    if why := missing("ppp", guests=True) or built():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vpnmasq-") as directory, Network(offloads=False) as network:
        made = Old(network, Path(directory))
        yield made
        made.close()


def test_without_tc_the_same_daemon_works_in_user_space(old: Old) -> None:
    if old.tcx:
        pytest.skip("the guests' kernel has TCX, and does not need the modules of clsact")
    old.start()
    old.carries_datagrams()
    status = old.status()
    assert status["fastpath"]["active"] is False
    assert "clsact" in status["fastpath"]["reason"]
    assert "modprobe sch_ingress cls_bpf" in status["fastpath"]["reason"]
    assert status["fastpath"]["flows"] == 0
    assert read(status) == 100
    assert status["traffic"]["inbound"]["packets"] == 50
    old.ends("TERM")


def test_what_a_service_may_do_is_enough_to_load_programs(old: Old) -> None:
    old.guest.put("/run/load.py", _LOAD)
    said = old.sh(f"{_SERVICE} env PYTHONPATH=. .venv/bin/python /run/load.py relay/fastpath/*.bpf.o")
    assert said.split() == ["strangers.bpf.o", "vpnmasq.bpf.o"]


def test_all_that_the_program_does_it_does_there(old: Old) -> None:
    old.sh(f"modprobe -a {_CLSACT} {_LINKS} {_SHAPING}")
    choice = "" if old.tcx else "-k 'not tcx'"
    done = old.sh(f"{_PYTEST} {choice} {_QUICK}")
    assert "no VLANs" not in done, done
    passed = re.search(r"(\d+) passed", done)
    assert passed is not None
    assert int(passed[1]) > 100, done


def test_next_hops_are_reached_by_all_means_there(old: Old) -> None:
    old.sh(f"modprobe -a {_CLSACT} {_SHAPING}")
    done = old.sh(f"{_PYTEST} {_NEXT_HOPS}")
    assert re.match(r"\.{4} ", done), done


def test_the_daemon_hands_flows_over_and_leaves_no_qdisc(old: Old) -> None:
    old.sh(f"modprobe -a {_CLSACT}")
    # What is attached by TCX goes with its process, and tc does not see it.
    attached = 0 if old.tcx else 2
    old.start()
    assert sum("direct-action" in line for line in old.filters()) == attached
    old.carries_datagrams()
    status = old.status()
    assert (status["fastpath"]["active"], status["fastpath"]["reason"]) == (True, "")
    assert read(status) < 50
    assert status["traffic"]["inbound"]["packets"] == 50
    old.ends("KILL")
    assert sum("direct-action" in line for line in old.filters()) == attached
    old.start()
    assert sum("direct-action" in line for line in old.filters()) == attached
    old.ends("TERM")
    assert old.filters() == []


def test_drivers_that_may_not_be_asked_are_left_alone(old: Old) -> None:
    """Where the kernel does not say what they can (before Linux 6.3), or theirs know no XDP, as here."""
    old.sh(f"modprobe -a {_CLSACT}")
    old.start("--set fastpath.xdp=true")
    old.carries_datagrams()
    status = old.status()
    assert (status["fastpath"]["active"], status["fastpath"]["reason"]) == (True, "")
    assert read(status) < 50
    said = status["fastpath"]["drivers"]
    assert said.keys() == {"vec0", "lan0"}
    if old.tcx:
        assert said["vec0"] == "its driver knows no XDP"
    else:
        assert all("before Linux 6.3" in text for text in said.values())
    assert "xdp" not in old.sh("ip link show dev vec0")
    old.ends("TERM")
