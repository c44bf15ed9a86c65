"""StrongSwan with ESP in UDP through the gateway, beside PPTP: clients of one server, and a server inside.

The guests are booted once; every test brings its tunnels up and tears them down.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.lab import gateways, pptp
from tests.lab.capture import all_esp_crossed, capturing
from tests.lab.hosts import Guest
from tests.lab.keying import finished
from tests.lab.machine import missing
from tests.lab.network import WAN_ADDRESS, Network
from tests.lab.strongswan import Strongswan, Tunnel
from tests.lab.traffic import ping, transfer

pytestmark = pytest.mark.guests

SERVER: Final = "199.0.0.1"
EXPOSED: Final = "10.0.0.10"
CLIENTS: Final = ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5")

#: Inner addresses; those of clients end with their number.
SERVER_INSIDE: Final = "172.16.0.1"
EXPOSED_INSIDE: Final = "172.16.0.10"
CLIENT_INSIDE: Final = "172.16.1."

#: Octets of a bulk transfer.
BULK: Final = 750_000

CONFIG: Final = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/29"]
servers = ["{SERVER}"]
proto = ["pptp", "ipsec"]

[[expose]]
name = "office"
server = "{EXPOSED}"
proto = ["ipsec"]
allow = ["{SERVER}"]
"""


class Lab:
    """Four clients and a server inside, one outside that also calls in, the gateway between them."""

    def __init__(self, network: Network, gateway: gateways.Vpnmasq, directory: Path) -> None:
        self.network, self.gateway = network, gateway
        names = {"server": SERVER, "exposed": EXPOSED}
        names |= {f"client{i}": address for i, address in enumerate(CLIENTS, 1)}
        guests = {
            name: Guest(network, directory, name, address, software=("ppp", "strongswan"))
            for name, address in names.items()
        }
        for guest in guests.values():
            guest.wait()
        self.server = Strongswan(guests["server"], SERVER_INSIDE)
        self.exposed = Strongswan(guests["exposed"], EXPOSED_INSIDE)
        self.clients = [Strongswan(guests[f"client{i}"], f"{CLIENT_INSIDE}{i}") for i in (1, 2, 3, 4)]
        self._start()
        self._pptp = pptp.Server(guests["server"])
        self._callers = [pptp.Client(guests[f"client{i}"], f"client{i}") for i in (1, 2)]

    def _start(self) -> None:
        numbered = list(enumerate(self.clients, 1))
        answering = [
            Tunnel(f"c{i}", "%any", "s", f"c{i}", SERVER_INSIDE, client.inside) for i, client in numbered
        ]
        call = Tunnel("call", WAN_ADDRESS, "s", "x", SERVER_INSIDE, EXPOSED_INSIDE)
        own = {self.server: [*answering, call]}
        own[self.exposed] = [Tunnel("call", "%any", "x", "s", EXPOSED_INSIDE, SERVER_INSIDE)]
        for i, client in numbered:
            own[client] = [Tunnel("t", SERVER, f"c{i}", "s", client.inside, SERVER_INSIDE)]
        finished(*[(one, one.start(tunnels)) for one, tunnels in own.items()])

    @contextmanager
    def tunnels(self, name: str, *ends: Strongswan) -> Iterator[None]:
        """Have hosts bring up their tunnels of this name, all at once; tear them down at the end."""
        try:
            finished(*[(end, end.up(name)) for end in ends])
            yield
        finally:
            for end in ends:
                end.down(name)

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Two clients call the same server by PPTP, and the calls must live until the end."""
        try:
            for one in self._callers:
                one.dial(SERVER)
            for one in self._callers:
                one.connected()
            yield
            assert [ping(one.host, self._pptp.inside, 5).lost() for one in self._callers] == [0, 0]
        finally:
            pptp.hang_up(*self._callers)

    def transfers(self, *ends: tuple[Strongswan, Strongswan]) -> None:
        """Bulk TCP through the tunnels of all, both ways at the same time."""
        moving = []
        for number, (one, other) in enumerate(ends):
            moving.append(transfer(one.host, other.host, other.inside, BULK, port=5100 + number))
            moving.append(transfer(other.host, one.host, one.inside, BULK, port=5200 + number))
        for transferring in moving:
            transferring.finish()

    def clients_of(self, protocol: str) -> set[str]:
        """Whose sessions of a protocol are established."""
        known = [s for s in self.gateway.sessions() if s["protocol"] == protocol]
        return {s.get("client", EXPOSED) for s in known if s["state"] == "established"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The network, booted, with the gateway in it; at the end the gateway must leave nothing behind."""
    if why := missing("ppp", "strongswan", guests=True):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vpnmasq-real-") as name, Network(offloads=False) as network:
        directory = Path(name)
        gateway = gateways.Vpnmasq(network, directory, CONFIG)
        yield Lab(network, gateway, directory)
        gateway.stop()


#: Answers that busy guests may lose by themselves, of those to ten pings: their queues are short.
FEW: Final = 2


def answered(lab: Lab, *ways: tuple[Strongswan, str]) -> None:
    """Check that pings are answered, and that the gateway lost nothing of what it got."""
    with capturing(lab.network.gw, "any", "udp port 4500") as capture:
        started = [ping(one.host, target) for one, target in ways]
        assert all(one.lost() <= FEW for one in started)
        all_esp_crossed(capture, WAN_ADDRESS)


def test_four_clients_of_one_server_beside_pptp(lab: Lab) -> None:
    before = lab.gateway.drops()
    with lab.calls(), lab.tunnels("t", *lab.clients):
        answered(lab, *((client, SERVER_INSIDE) for client in lab.clients))
        answered(lab, *((lab.server, client.inside) for client in lab.clients))
        lab.transfers(*((client, lab.server) for client in lab.clients))
        assert lab.clients_of("natt") == set(CLIENTS)
        assert lab.gateway.drops() == before


def test_rekeys_from_both_ends_while_traffic_flows(lab: Lab) -> None:
    one, two = clients = lab.clients[:2]
    with lab.tunnels("t", *clients):
        answered(lab, *((client, SERVER_INSIDE) for client in clients))
        before = lab.gateway.drops()
        # Peers may lose some in a rekey: an end has keys a moment before the other has them (RFC 7296 §2.8).
        # The gateway may not.
        with capturing(lab.network.gw, "any", "udp port 4500") as capture:
            pinging = [ping(client.host, SERVER_INSIDE, 60) for client in clients]
            one.rekey("t")
            lab.server.rekey("c2")
            two.rekey("t", ike=True)
            lab.server.rekey("c1", ike=True)
            assert all(one.lost() <= 3 for one in pinging)
            all_esp_crossed(capture, WAN_ADDRESS)
        lab.transfers((one, lab.server))
        answered(lab, *((lab.server, client.inside) for client in clients))
        assert lab.gateway.drops() == before


def test_a_client_that_lost_its_power_comes_back(lab: Lab) -> None:
    one, two = lab.clients[:2]
    with lab.tunnels("t", one, two):
        answered(lab, (one, SERVER_INSIDE), (two, SERVER_INSIDE))
        undisturbed = ping(two.host, SERVER_INSIDE, 40)
        one.die()
        finished((one, one.start()))
        finished((one, one.up("t")))
        answered(lab, (one, SERVER_INSIDE))
        assert undisturbed.lost() <= FEW
        assert lab.clients_of("natt") >= set(CLIENTS[:2])


def test_a_server_inside_is_called_by_a_peer_that_a_client_calls(lab: Lab) -> None:
    client = lab.clients[3]
    with lab.tunnels("call", lab.server), lab.tunnels("t", client):
        both = ((lab.server, EXPOSED_INSIDE), (client, SERVER_INSIDE))
        answered(lab, *both)
        answered(lab, (lab.exposed, SERVER_INSIDE), (lab.server, client.inside))
        lab.transfers((lab.server, lab.exposed))
        lab.exposed.rekey("call")
        lab.server.rekey("call")
        client.rekey("t")
        answered(lab, *both)
        assert lab.clients_of("natt") >= {EXPOSED, CLIENTS[3]}


def test_no_private_address_got_out(lab: Lab) -> None:
    assert lab.network.leaked() == 0
