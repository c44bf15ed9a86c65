"""A host that is a VPN end itself (HOWTO §3.14): a kernel with keys, real libreswan and pptpd beside us."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from relay.cli.exits import Exit
from tests.lab import pptp
from tests.lab.hosts import Guest, Shelf
from tests.lab.keying import Tunnel, finished
from tests.lab.libreswan import Libreswan
from tests.lab.machine import missing
from tests.lab.network import Network
from tests.lab.ownhost import PATIENCE, OwnHost
from tests.lab.traffic import PYTHON, ping

pytestmark = pytest.mark.guests

HOST: Final = "199.0.0.20"
PEER: Final = "199.0.0.1"
PPTP_SERVER: Final = "199.0.0.2"
CLIENT: Final = "10.0.0.2"
HOST_INSIDE: Final = "172.16.0.20"
PEER_INSIDE: Final = "172.16.0.1"


def config(proto: str) -> str:
    return f"""
[wan]
interface = "vec0"
[lan]
interfaces = ["eth0"]
networks = ["10.0.0.0/24"]
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["{proto}"]
"""


#: A LAN behind the host, with one client.
LAN: Final = f"""
set -e
ip netns add client
ip link add eth0 type veth peer name eth0 netns client
ip address add 10.0.0.1/24 dev eth0
ip link set eth0 up
ip -n client link set lo up
ip -n client address add {CLIENT}/24 dev eth0
ip -n client link set eth0 up
ip -n client route add default via 10.0.0.1
"""

#: What is said of the kernel's keys, with rules for IPsec and without.
LOOK: Final = """
from relay.others import Others, security_associations
print(security_associations())
print(*Others().found(pptp=True, ipsec=True), sep="\\n")
print("without:", Others().found(pptp=True, ipsec=False))
"""

#: Answers IKE with itself, and ESP by an SPI of its own.
ANSWER: Final = """
import select, socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 500))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
while True:
    for sock in select.select([udp, raw], [], [])[0]:
        data, end = sock.recvfrom(2000)
        sock.sendto(data if sock is udp else bytes.fromhex("00002001 00000001") + data[28:], end)
"""

#: Sends one of each, and shows what comes back.
ASK: Final = """
import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 500))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
first = bytes.fromhex("00000000000000a1 0000000000000000 21202208 00000000 0000001c")
data = bytes.fromhex("00001001 00000001") + bytes(40)
for sock, sent, start in ((udp, first, 0), (raw, data, 20)):
    sock.settimeout(10)
    sock.sendto(sent, (sys.argv[1], 500))
    print(sock.recv(2000)[start:][:8].hex())
"""


class Lab:
    """The host with a client inside; a peer of its own IPsec, and a PPTP server of the client's."""

    def __init__(self, network: Network, directory: Path) -> None:
        guests = [
            Guest(network, directory, "host", HOST, software=("ppp", "libreswan", "vpnmasq"), memory=256),
            Guest(network, directory, "peer", PEER, software=("ppp", "libreswan")),
        ]
        self.shelf = Shelf(network, directory, "server", PPTP_SERVER)
        pptp.StubServer(self.shelf)
        for guest in guests:
            guest.wait()
        self.host = OwnHost(guests[0])
        self.own, self.peer = Libreswan(guests[0], HOST_INSIDE), Libreswan(guests[1], PEER_INSIDE)
        guests[0].sh(LAN, check=True)
        tunnel = Tunnel("own", PEER, "h", "p", HOST_INSIDE, PEER_INSIDE)
        back = Tunnel("own", HOST, "p", "h", PEER_INSIDE, HOST_INSIDE)
        finished((self.own, self.own.start([tunnel])), (self.peer, self.peer.start([back])))

    def call(self, echoes: int) -> dict[str, object]:
        """Have the client call the PPTP server; what came of so many echoes."""
        stub = f"{PYTHON} /mnt/checkout/tests/lab/stub_ppp.py client client {PPTP_SERVER}"
        said = self.inside(stub, told=str(echoes)).splitlines()
        # the score is the one line of JSON: pptp may say a word of its own when it hangs up
        found: dict[str, object] = json.loads(next(line for line in said if line.startswith("{")))
        return found

    def inside(self, command: str, *, told: str = "") -> str:
        """Run what must succeed at the client, with this on its standard input; what it printed."""
        script = f"echo {told} | exec ip netns exec client {command}"
        return self.host.guest.sh(script, within=PATIENCE, check=True).output

    def evidence(self) -> list[tuple[str, str]]:
        """Return titles and texts of all logs."""
        logs = [(f"{one.host.name}: pluto's log", one.evidence()) for one in (self.own, self.peer)]
        return [("vpnmasq's log", self.host.evidence()), *logs]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if why := missing("ppp", "libreswan", guests=True):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vpnmasq-real-") as name, Network(offloads=False) as network:
        lab = Lab(network, Path(name))
        yield lab
        lab.shelf.close()
        lab.host.stop()


def test_keys_of_the_kernel_are_noticed(lab: Lab) -> None:
    add = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp"
    keys = "enc cipher_null '' auth digest_null ''"
    assert lab.host.python(LOOK).split("\n", 1)[0] == "0"
    lab.host.guest.sh(f"{add} spi 0x1000 {keys} && {add} spi 0x1001 {keys}", check=True)
    count, said, without, _ = lab.host.python(LOOK).split("\n")
    assert count == "2"
    assert said.startswith("this host has 2 IPsec SAs of its own (ip xfrm state)")
    assert 'Leave "ipsec" out of the rules' in said
    assert without == "without: []"
    lab.host.guest.sh("ip xfrm state flush", check=True)


def test_the_host_has_a_tunnel_of_its_own_and_a_client_calls_through_us(lab: Lab) -> None:
    lab.host.ready(config("pptp"))
    finished((lab.own, lab.own.up("own")))
    pinging = ping(lab.own.host, PEER_INSIDE, 50)
    assert lab.call(20)["answers"] == 20
    assert pinging.lost() == 0
    assert ping(lab.peer.host, HOST_INSIDE, 5).lost() == 0
    assert lab.host.attention() == []
    assert lab.host.status()["drops"] == {}
    lab.host.stop()


def test_rules_for_ipsec_beside_a_local_ike_daemon_are_refused_and_it_is_named(lab: Lab) -> None:
    result = lab.host.start(config("ipsec")).finish(PATIENCE)
    assert result.status == Exit.FAILED
    assert "udp/500 on " in result.output
    assert "is taken by another program, pluto (process " in result.output
    assert 'or leave "ipsec" out of the rules' in result.output
    assert "Traceback" not in result.output


def test_keys_that_nobody_listens_for_are_said_and_what_comes_for_them_is_dropped(lab: Lab) -> None:
    lab.own.host.sh("kill -9 $(</run/pluto/pluto.pid)", check=True)
    lab.host.ready(config("ipsec"))
    # The kernel goes on with its tunnel …
    assert ping(lab.peer.host, HOST_INSIDE, 5).lost() == 0
    [text] = lab.host.attention()
    assert text.startswith("this host has 2 IPsec SAs of its own (ip xfrm state)")
    # … and we get it too, and leave it alone.
    assert lab.host.status()["drops"] == {"esp-stranger": 5}
    lab.host.stop()
    lab.host.guest.sh("ip xfrm policy flush; ip xfrm state flush", check=True)


def test_the_host_is_a_pptp_server_and_a_client_has_ipsec_through_us(lab: Lab) -> None:
    served, caller = pptp.Server(lab.host.guest), pptp.Client(lab.peer.host, "caller")
    lab.host.ready(config("ipsec"))
    try:
        caller.dial(HOST)
        caller.connected()
        pinging = ping(lab.peer.host, served.inside, 30)
        lab.shelf.start(f"exec {PYTHON} -c '{ANSWER}'")
        asked = lab.inside(f"{PYTHON} -c '{ASK}' {PPTP_SERVER}")
        assert asked.splitlines() == ["00000000000000a1", "0000200100000001"]
        assert pinging.lost() == 0
    finally:
        pptp.hang_up(caller)
    assert lab.host.attention() == []
    lab.host.stop()
