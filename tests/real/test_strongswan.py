"""StrongSwan with ESP in UDP through the gateway, beside PPTP: clients of one server, and a server inside.

The guests are booted once; every test brings its tunnels up and tears them down, and the same two PPTP calls
stand from the first test to the last.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.bpf.kernel import built
from tests.lab.keying import Tunnel, finished
from tests.lab.machine import missing, until
from tests.lab.network import LAN_GATEWAY, WAN_ADDRESS, Network
from tests.lab.strongswan import Strongswan
from tests.lab.tunnels import (
    CALLER,
    CALLER_INSIDE,
    CLIENTS,
    EXPOSED,
    EXPOSED_INSIDE,
    SERVER,
    SERVER_INSIDE,
    Lab,
)

pytestmark = pytest.mark.guests

#: Octets of a bulk transfer.
BULK: Final = 750_000


class StrongswanLab(Lab[Strongswan]):
    """Tunnels ``t`` of clients to the server, ``call`` to the exposed one, ``side`` of the last client."""

    def __init__(self, network: Network, directory: Path) -> None:
        super().__init__(network, directory, Strongswan)
        numbered = list(enumerate(self.clients, 1))
        own = {
            client: [Tunnel("t", SERVER, f"c{i}", "s", client.inside, SERVER_INSIDE)]
            for i, client in numbered
        }
        last = self.clients[-1]
        own[last].append(Tunnel("side", CALLER, "c4", "b", last.inside, CALLER_INSIDE))
        own[self.server] = [
            Tunnel(f"c{i}", "%any", "s", f"c{i}", SERVER_INSIDE, client.inside) for i, client in numbered
        ]
        own[self.caller] = [
            Tunnel("call", WAN_ADDRESS, "b", "x", CALLER_INSIDE, EXPOSED_INSIDE),
            Tunnel("side4", "%any", "b", "c4", CALLER_INSIDE, last.inside),
        ]
        own[self.exposed] = [Tunnel("call", "%any", "x", "b", EXPOSED_INSIDE, CALLER_INSIDE)]
        self.begin(own)


@pytest.fixture(scope="module")
def booted() -> Iterator[StrongswanLab]:
    """The network, booted, with the gateway in it; at the end the gateway must leave nothing behind."""
    if why := missing("ppp", "strongswan", guests=True):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vpnmasq-real-") as name, Network(offloads=False) as network:
        lab = StrongswanLab(network, Path(name))
        yield lab
        lab.end()


@pytest.fixture
def lab(booted: StrongswanLab) -> Iterator[StrongswanLab]:
    """The same; whatever a test does, PPTP calls do not notice."""
    yield booted
    booted.calls_stand()


@pytest.mark.parametrize("fastpath", [True, False], ids=["in the kernel", "in user space"])
def test_four_clients_of_one_server(lab: StrongswanLab, fastpath: bool) -> None:
    before = lab.gateway.drops()
    clients = lab.clients
    with lab.configured(fastpath=fastpath), lab.tunnels("t", *clients):
        lab.answered(*((client, SERVER_INSIDE) for client in clients))
        lab.answered(*((lab.server, client.inside) for client in clients))
        lab.transfers(*((client, lab.server) for client in clients), octets=BULK)
        assert lab.carried("natt") is (fastpath and not built())
        assert lab.inside("natt") == list(CLIENTS)
        assert lab.gateway.drops() == before


def test_rekeys_from_both_ends_while_traffic_flows(lab: StrongswanLab) -> None:
    one, two = clients = lab.clients[:2]
    with lab.tunnels("t", *clients):
        lab.answered(*((client, SERVER_INSIDE) for client in clients))
        before = lab.gateway.drops()
        # Peers may lose some in a rekey: an end has keys a moment before the other has them (RFC 7296 §2.8).
        # The gateway may not.
        with lab.talking(*((client, SERVER_INSIDE) for client in clients), count=60):
            one.rekey("t")
            lab.server.rekey("c2")
            two.rekey("t", ike=True)
            lab.server.rekey("c1", ike=True)
        lab.transfers((one, lab.server), octets=BULK)
        lab.answered(*((lab.server, client.inside) for client in clients))
        assert lab.gateway.drops() == before


def test_a_tunnel_silent_for_longer_than_the_lifetime_goes_on(lab: StrongswanLab) -> None:
    one, two = clients = lab.clients[:2]
    with lab.tunnels("t", *clients):
        lab.answered(*((client, SERVER_INSIDE) for client in clients))
        with lab.configured('mapping = "2s"\nlifetime = "2s"'):
            until(lambda: not lab.sessions("natt"), "all is forgotten", within=15)
            assert lab.sessions("isakmp") == []
        # A port of ours stands for a client again when the client speaks.
        lab.answered(*((client, SERVER_INSIDE) for client in clients))
        lab.answered(*((lab.server, client.inside) for client in clients))
        one.rekey("t")
        lab.server.rekey("c2")
        lab.answered((two, SERVER_INSIDE), (lab.server, one.inside))
        assert lab.inside("natt") == list(CLIENTS[:2])


def test_a_client_that_lost_its_power_comes_back(lab: StrongswanLab) -> None:
    one, two = lab.clients[:2]
    with lab.tunnels("t", one, two):
        lab.answered((one, SERVER_INSIDE), (two, SERVER_INSIDE))
        with lab.talking((two, SERVER_INSIDE), count=40):
            one.die()
            finished((one, one.start()))
            finished((one, one.up("t")))
        lab.answered((one, SERVER_INSIDE))
        assert set(lab.inside("natt")) >= set(CLIENTS[:2])


@pytest.mark.parametrize("source", ["keep", "gateway"])
def test_a_server_inside_is_called_by_a_peer_that_a_client_calls(lab: StrongswanLab, source: str) -> None:
    client = lab.clients[3]
    with lab.configured(source=source), lab.tunnels("call", lab.caller), lab.tunnels("side", client):
        both = ((lab.caller, EXPOSED_INSIDE), (client, CALLER_INSIDE))
        lab.answered(*both)
        lab.answered((lab.exposed, CALLER_INSIDE), (lab.caller, client.inside))
        assert {"keep": CALLER, "gateway": LAN_GATEWAY}[source] in lab.exposed.peers()
        lab.transfers((lab.caller, lab.exposed), octets=BULK)
        lab.exposed.rekey("call")
        lab.caller.rekey("call")
        client.rekey("side")
        lab.answered(*both)
        assert lab.inside("natt") == [EXPOSED, CLIENTS[3]]


def test_no_private_address_got_out(lab: StrongswanLab) -> None:
    assert lab.network.leaked() == 0
