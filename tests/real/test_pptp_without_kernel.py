"""Real pptp-linux and pptpd with a stub for pppd: many calls at once, every client with the same Call ID."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.lab import gateways
from tests.lab.gateways import Gateway
from tests.lab.hosts import Shelf
from tests.lab.machine import missing, until
from tests.lab.network import LAN_GATEWAY, WAN_ADDRESS, Network
from tests.lab.pptp import StubClient, StubServer

pytestmark = pytest.mark.netns

SERVER: Final = "199.0.0.1"
KEEPING: Final = "10.0.0.200"
HIDING: Final = "10.0.0.201"

#: As many clients inside as talk to the one server at once.
INSIDE: Final = 24
#: As many callers outside per exposed server.
OUTSIDE: Final = 3
ECHOES: Final = 25

CONFIG: Final = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["{SERVER}"]
proto = ["pptp"]

[[expose]]
name = "keeping"
server = "{KEEPING}"
proto = ["pptp"]
allow = ["199.0.0.32/28"]
source = "keep"

[[expose]]
name = "hiding"
server = "{HIDING}"
proto = ["pptp"]
allow = ["199.0.0.64/28"]
source = "gateway"
"""


class Lab:
    """The network with its hosts, none of which has called yet."""

    def __init__(self, stack: ExitStack, network: Network, gateway: Gateway, directory: Path) -> None:
        self._stack, self._network, self._directory = stack, network, directory
        self.gateway = gateway
        for name, address in (("server", SERVER), ("keeping", KEEPING), ("hiding", HIDING)):
            StubServer(self._shelf(name, address))

    def client(self, name: str, address: str, server: str) -> StubClient:
        """Return a client that dials the server."""
        return StubClient(self._shelf(name, address), server)

    def evidence(self) -> list[tuple[str, str]]:
        """Return titles and texts of all logs."""
        return [("vpnmasq's log", self.gateway.log())]

    def _shelf(self, name: str, address: str) -> Shelf:
        shelf = Shelf(self._network, self._directory, name, address)
        self._stack.callback(shelf.close)
        return shelf


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A network of its own for every test; at the end the gateway must leave nothing behind."""
    if why := missing("ppp", guests=False):
        pytest.skip(why)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vpnmasq-stub-")))
        network = stack.enter_context(Network())
        gateway = gateways.start(network, directory, CONFIG, exposed=KEEPING)
        yield Lab(stack, network, gateway, directory)
        gateway.stop()


def test_many_clients_with_the_same_call_id_and_callers_from_outside_at_once(lab: Lab) -> None:
    inside = [lab.client(f"c{i}", f"10.0.0.{i + 1}", SERVER) for i in range(1, INSIDE + 1)]
    keeping = [lab.client(f"k{i}", f"199.0.0.{i + 32}", WAN_ADDRESS) for i in range(1, OUTSIDE + 1)]
    hiding = [lab.client(f"h{i}", f"199.0.0.{i + 64}", WAN_ADDRESS) for i in range(1, OUTSIDE + 1)]
    everyone = inside + keeping + hiding
    assert [client.hear(45) for client in everyone] == ["up"] * len(everyone)

    for client in everyone:
        client.ask(ECHOES)
    scores = {client.host.name: json.loads(client.hear(45)) for client in everyone}
    assert {name: score["answers"] for name, score in scores.items()} == dict.fromkeys(scores, ECHOES)
    assert {name: score["foreign"] for name, score in scores.items()} == dict.fromkeys(scores, 0)
    # every client was answered by one process of the server, its own, which knows it by the right address
    answered = {name: score["servers"] for name, score in scores.items()}
    assert all(len(servers) == 1 for servers in answered.values())
    assert len({servers[0] for servers in answered.values()}) == len(everyone)
    seen = {name: servers[0].split("@")[1] for name, servers in answered.items()}
    assert seen == {client.host.name: _expected(client) for client in everyone}

    sessions = [session for session in lab.gateway.sessions() if session["role"] == "masquerade"]
    assert len(sessions) == INSIDE
    assert len({session["call_ids"]["client"] for session in sessions}) == 1
    assert len({session["call_ids"]["gateway"] for session in sessions}) == INSIDE

    for client in everyone:
        assert client.hang_up().ok
    until(lambda: not lab.gateway.sessions(), "the gateway has no session", within=15)


def _expected(client: StubClient) -> str:
    """Return the address by which the client's server must know it."""
    if client.host.name.startswith("c"):
        return WAN_ADDRESS
    return LAN_GATEWAY if client.host.name.startswith("h") else client.host.address
