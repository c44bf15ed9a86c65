"""Debian's own PPTP clients and servers, with a real kernel, MS-CHAPv2 and MPPE-128, through the gateway.

The guests are booted once; every test dials for itself and hangs up.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.bpf.kernel import built
from tests.lab import gateways
from tests.lab.gateways import Gateway, Session
from tests.lab.hosts import Guest
from tests.lab.machine import missing, until
from tests.lab.network import LAN_GATEWAY, WAN_ADDRESS, Network
from tests.lab.pptp import Client, Server, hang_up
from tests.lab.traffic import ping, transfer

pytestmark = pytest.mark.guests

SERVER: Final = "199.0.0.1"
CALLER: Final = "199.0.0.2"
EXPOSED: Final = "10.0.0.10"
CLIENTS: Final = ("10.0.0.2", "10.0.0.3", "10.0.0.4")

#: Octets of a bulk transfer: some seconds of a guest's encryption are 4 MB.
BULK: Final = 1_000_000
#: Octets after which one is well under way.
UNDER_WAY: Final = 500_000


def config(source: str = "keep", more: str = "", *, fastpath: bool = True) -> str:
    """Clients inside to one server outside, one caller outside to one server inside."""
    kernel = f"fastpath = {str(fastpath).lower()}"
    return f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["{SERVER}"]
proto = ["pptp"]
{kernel}

[[expose]]
name = "office"
server = "{EXPOSED}"
proto = ["pptp"]
allow = ["{CALLER}"]
source = "{source}"
{kernel}
{more}
"""


class Lab:
    """Three clients and a server inside, a server and a client outside, the gateway between them."""

    def __init__(self, network: Network, gateway: Gateway, directory: Path) -> None:
        self.network, self.gateway = network, gateway
        names = {"server": SERVER, "caller": CALLER, "exposed": EXPOSED}
        names |= {f"client{i}": address for i, address in enumerate(CLIENTS, 1)}
        self._guests = {name: Guest(network, directory, name, address) for name, address in names.items()}
        for guest in self._guests.values():
            guest.wait()
        self.server = Server(self._guests["server"])
        self.exposed = Server(self._guests["exposed"], "192.168.88")
        self.caller = Client(self._guests["caller"], "caller")
        self.clients = [Client(self._guests[f"client{i}"], f"client{i}") for i in (1, 2, 3)]

    def evidence(self) -> list[tuple[str, str]]:
        """Return titles and texts of all logs."""
        people: tuple[Client | Server, ...] = (*self.clients, self.caller, self.server, self.exposed)
        logs = [(f"{one.host.name}: pppd's log", one.evidence()) for one in people]
        return [("vpnmasq's log", self.gateway.log()), *((title, text) for title, text in logs if text)]

    @contextmanager
    def calls(self, *callers: Client) -> Iterator[None]:
        """Have clients dial at the same time, each where it belongs; hang up whoever is left at the end."""
        try:
            for one in callers:
                one.dial(WAN_ADDRESS if one is self.caller else SERVER)
            for one in callers:
                one.connected()
            yield
        finally:
            hang_up(*callers)

    def established(self) -> list[Session]:
        """Return the sessions with a call."""
        return [session for session in self.gateway.sessions() if session["state"] == "established"]

    def no_session_is_left(self) -> None:
        """Wait until the gateway has forgotten every session."""
        until(lambda: not self.gateway.sessions(), "the gateway has no session", within=15)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The network, booted, with the gateway in it; at the end the gateway must leave nothing behind."""
    if why := missing("ppp", guests=True):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vpnmasq-real-") as name, Network(offloads=False) as network:
        directory = Path(name)
        gateway = gateways.start(network, directory, config(), exposed=EXPOSED)
        yield Lab(network, gateway, directory)
        gateway.stop()


def test_one_client_reaches_a_server_outside(lab: Lab) -> None:
    client, server = lab.clients[0], lab.server
    with lab.calls(client):
        assert ping(client.host, server.inside).lost() == 0
        transfer(client.host, server.host, server.inside, BULK).finish()
        assert server.clients() == [WAN_ADDRESS]
        [session] = lab.established()
        assert (session["client"], session["peer"], session["rule"]) == (CLIENTS[0], SERVER, "staff")
        assert session["octets"]["outbound"] > BULK
    lab.no_session_is_left()


@pytest.mark.parametrize("fastpath", [True, False], ids=["in the kernel", "in user space"])
def test_three_clients_reach_one_server_at_once(lab: Lab, fastpath: bool) -> None:
    lab.gateway.reload(config(fastpath=fastpath))
    with lab.calls(*lab.clients):
        pings = [ping(client.host, lab.server.inside) for client in lab.clients]
        assert [one.lost() for one in pings] == [0, 0, 0]
        transfers = [
            transfer(client.host, lab.server.host, lab.server.inside, BULK // 2 + number, port=5000 + number)
            for number, client in enumerate(lab.clients)
        ]
        for one in transfers:
            one.finish()
        assert lab.server.clients() == [WAN_ADDRESS] * 3
        sessions = lab.established()
        assert {session["fastpath"] for session in sessions} == {fastpath and not built()}
        assert sorted(session["client"] for session in sessions) == sorted(CLIENTS)
        assert len({session["call_ids"]["gateway"] for session in sessions}) == 3


@pytest.mark.parametrize(("source", "seen"), [("keep", CALLER), ("gateway", LAN_GATEWAY)])
def test_a_caller_outside_reaches_the_server_inside(lab: Lab, source: str, seen: str) -> None:
    if source != "keep":
        lab.gateway.reload(config(source))
    with lab.calls(lab.caller):
        assert ping(lab.caller.host, lab.exposed.inside).lost() == 0
        transfer(lab.exposed.host, lab.caller.host, lab.caller.tunnel_address(), BULK).finish()
        assert lab.exposed.clients() == [seen]
        [session] = lab.established()
        assert (session["server"], session["peer"], session["rule"]) == (EXPOSED, CALLER, "office")
    lab.no_session_is_left()


def test_clients_and_exposed_server_work_together(lab: Lab) -> None:
    lab.gateway.reload(config())
    with lab.calls(*lab.clients, lab.caller):
        pings = [ping(client.host, lab.server.inside) for client in lab.clients]
        pings.append(ping(lab.caller.host, lab.exposed.inside))
        assert [one.lost() for one in pings] == [0, 0, 0, 0]
        # after the pings: the queues of busy guests are short, and they drop what TCP sends again
        outbound = transfer(lab.clients[0].host, lab.server.host, lab.server.inside, BULK // 2)
        inbound = transfer(lab.caller.host, lab.exposed.host, lab.exposed.inside, BULK // 2)
        outbound.finish()
        inbound.finish()
        assert sorted(session["role"] for session in lab.established()) == ["expose"] + ["masquerade"] * 3
    lab.no_session_is_left()


def test_a_client_that_hangs_up_leaves_the_others_alone(lab: Lab) -> None:
    first, second = lab.clients[:2]
    with lab.calls(first, second):
        hang_up(first)
        until(lambda: len(lab.gateway.sessions()) == 1, "the session that was hung up is gone", within=15)
        assert [session["client"] for session in lab.gateway.sessions()] == [CLIENTS[1]]
        assert ping(second.host, lab.server.inside).lost() == 0
        with lab.calls(first):
            assert ping(first.host, lab.server.inside).lost() == 0


def test_a_server_that_hangs_up_ends_the_sessions(lab: Lab) -> None:
    with lab.calls(*lab.clients[:2]):
        before = {session["call_ids"]["gateway"] for session in lab.established()}
        lab.server.hang_up()
        lab.no_session_is_left()
        for client in lab.clients[:2]:
            client.ended()
    with lab.calls(*lab.clients[:2]):
        after = {session["call_ids"]["gateway"] for session in lab.established()}
        assert len(after) == 2
        # the Call IDs of calls that ended rest before they are used again
        assert not before & after
    lab.no_session_is_left()


def test_a_reload_in_the_middle_of_a_transfer_loses_nothing(lab: Lab) -> None:
    client = lab.clients[0]
    another = (
        '[[masquerade]]\nname = "more"\nclients = ["10.0.0.4"]\nservers = ["199.0.0.9"]\nproto = ["pptp"]'
    )
    with lab.calls(client):
        [before] = lab.established()
        drops = lab.gateway.drops()
        pinging = ping(client.host, lab.server.inside, 60, every=0.05)
        lab.gateway.reload(config(more=another))
        lab.gateway.reload(config())
        assert pinging.lost() == 0

        moving = transfer(client.host, lab.server.host, lab.server.inside, None)

        def under_way() -> bool:
            return bool(lab.established()[0]["octets"]["outbound"] > UNDER_WAY)

        until(under_way, "the transfer is under way", within=20)
        lab.gateway.reload(config(more=another))
        assert moving.running()
        moving.enough()
        moving.finish()
        [after] = lab.established()
        assert (after["id"], after["call_ids"]) == (before["id"], before["call_ids"])
        assert lab.gateway.drops() == drops
    lab.no_session_is_left()


def test_a_transfer_goes_on_while_its_call_moves_in_and_out_of_the_kernel(lab: Lab) -> None:
    """MPPE throws away what comes too late, and both ends notice when it was much."""
    client = lab.clients[0]
    with lab.calls(client):
        drops = lab.gateway.drops()
        moving = transfer(client.host, lab.server.host, lab.server.inside, None)
        for move in range(10):
            lab.gateway.reload(config(fastpath=move % 2 == 1))
        assert moving.running()
        moving.enough()
        moving.finish()
        assert lab.gateway.drops() == drops
        lab.gateway.reload(config())
        assert ping(client.host, lab.server.inside).lost() == 0
    lab.no_session_is_left()


def test_no_private_address_got_out(lab: Lab) -> None:
    assert lab.network.leaked() == 0
