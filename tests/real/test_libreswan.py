"""Libreswan with raw ESP through the gateway, beside PPTP: clients to one server, and a server inside.

The guests are booted once; every test brings its tunnels up and tears them down.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.lab import gateways, pptp
from tests.lab.capture import all_esp_crossed, capturing, sources
from tests.lab.gateways import Session
from tests.lab.hosts import Guest
from tests.lab.keying import finished
from tests.lab.libreswan import Authority, Libreswan, Tunnel, with_certificate
from tests.lab.machine import missing, until
from tests.lab.network import LAN_GATEWAY, WAN_ADDRESS, Network
from tests.lab.traffic import ping, transfer

pytestmark = pytest.mark.guests

SERVER: Final = "199.0.0.1"
CALLER: Final = "199.0.0.2"
EXPOSED: Final = "10.0.0.10"
CLIENTS: Final = ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5")

#: Inner addresses; those of clients end with their number.
SERVER_INSIDE: Final = "172.16.0.1"
CALLER_INSIDE: Final = "172.16.0.2"
EXPOSED_INSIDE: Final = "172.16.0.10"
CLIENT_INSIDE: Final = "172.16.1."

#: Octets of a bulk transfer.
BULK: Final = 1_500_000
LONG: Final = 10_000_000


def config(ipsec: str = "", source: str = "keep") -> str:
    """Clients inside to two hosts outside, of which one may also call the server inside."""
    return f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/29"]
servers = ["{SERVER}", "{CALLER}"]
proto = ["pptp", "ipsec"]

[[expose]]
name = "office"
server = "{EXPOSED}"
proto = ["pptp", "ipsec"]
allow = ["{CALLER}"]
source = "{source}"

[ipsec]
{ipsec}
"""


def _tunnels(number: int) -> list[Tunnel]:
    """What a client knows: its tunnels to the server by both versions, and one to the caller."""
    own, inside = f"c{number}", f"{CLIENT_INSIDE}{number}"
    to_server = [Tunnel(f"v{v}", SERVER, own, "s", inside, SERVER_INSIDE, v) for v in (1, 2)]
    return [*to_server, Tunnel("side", CALLER, own, "b", inside, CALLER_INSIDE)]


class Lab:
    """Four clients and a server inside, a server and a caller outside, the gateway between them."""

    def __init__(self, network: Network, gateway: gateways.Vpnmasq, directory: Path) -> None:
        self.network, self.gateway = network, gateway
        names = {"server": SERVER, "caller": CALLER, "exposed": EXPOSED}
        names |= {f"client{i}": address for i, address in enumerate(CLIENTS, 1)}
        guests = {
            name: Guest(network, directory, name, address, software=("ppp", "libreswan"))
            for name, address in names.items()
        }
        authority = Authority(directory)
        for guest in guests.values():
            guest.wait()
        self.server = Libreswan(guests["server"], SERVER_INSIDE)
        self.caller = Libreswan(guests["caller"], CALLER_INSIDE)
        self.exposed = Libreswan(guests["exposed"], EXPOSED_INSIDE)
        self.clients = [Libreswan(guests[f"client{i}"], f"{CLIENT_INSIDE}{i}") for i in (1, 2, 3, 4)]
        authority.equip(self.server, "s")
        authority.equip(self.clients[0], "c1")
        self._start()
        self._pptp = pptp.Server(guests["server"])
        self._callers = [pptp.Client(guests[f"client{i}"], f"client{i}") for i in (1, 2)]

    def _start(self) -> None:
        one = Tunnel("v2", SERVER, "c1", "s", f"{CLIENT_INSIDE}1", SERVER_INSIDE)
        own = {client: _tunnels(number) for number, client in enumerate(self.clients, 1)}
        answering = [
            Tunnel(f"v{v}c{i}", "%any", "s", f"c{i}", SERVER_INSIDE, f"{CLIENT_INSIDE}{i}", v)
            for v in (1, 2)
            for i in (1, 2, 3, 4)
        ]
        own[self.clients[0]] += [
            with_certificate(one, "parts"),
            with_certificate(one, "whole", in_parts=False),
        ]
        first = Tunnel("", "%any", "s", "c1", SERVER_INSIDE, f"{CLIENT_INSIDE}1")
        answering.append(with_certificate(first, "certificate"))
        own[self.server] = answering
        own[self.caller] = [
            Tunnel("call", WAN_ADDRESS, "b", "x", CALLER_INSIDE, EXPOSED_INSIDE),
            Tunnel("side4", "%any", "b", "c4", CALLER_INSIDE, f"{CLIENT_INSIDE}4"),
        ]
        own[self.exposed] = [Tunnel("call", "%any", "x", "b", EXPOSED_INSIDE, CALLER_INSIDE)]
        finished(*[(one, one.start(tunnels)) for one, tunnels in own.items()])

    def evidence(self) -> list[tuple[str, str]]:
        """Return titles and texts of all logs."""
        people = (self.server, self.caller, self.exposed, *self.clients)
        logs = [(f"{one.host.name}: pluto's log", one.evidence()) for one in people]
        known = "\n".join(map(str, self.gateway.sessions()))
        return [("vpnmasq's log", self.gateway.log()), ("its sessions", known), *logs]

    @contextmanager
    def tunnels(self, name: str, *clients: Libreswan) -> Iterator[None]:
        """Have hosts bring up their tunnels of this name, all at once; tear them down at the end."""
        try:
            finished(*[(client, client.up(name)) for client in clients])
            yield
        finally:
            for client in clients:
                # The server first: it redials at once what it has rekeyed itself, and a pluto that is told
                # to tear down a tunnel which is just coming up may crash.
                if client in self.clients and name in ("v1", "v2"):
                    self.server.down(f"{name}c{self.clients.index(client) + 1}")
                client.down(name)
            self.forget()

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

    @contextmanager
    def configured(self, ipsec: str = "", source: str = "keep") -> Iterator[None]:
        """Run the gateway with another configuration for a while."""
        self.gateway.reload(config(ipsec, source))
        try:
            yield
        finally:
            self.gateway.reload(config())

    def transfers(self, *clients: Libreswan, octets: int = BULK) -> None:
        """Bulk TCP through the tunnels of all, outbound and inbound at the same time."""
        moving = []
        for number, client in enumerate(clients):
            out = transfer(client.host, self.server.host, SERVER_INSIDE, octets, port=5100 + number)
            back = transfer(self.server.host, client.host, client.inside, octets, port=5200 + number)
            moving += [out, back]
        for one in moving:
            one.finish()

    def sessions(self, protocol: str = "esp") -> list[Session]:
        """Return the sessions of a protocol."""
        return [session for session in self.gateway.sessions() if session["protocol"] == protocol]

    def forget(self) -> None:
        """Have the gateway forget what it learnt from the tunnels of a test."""
        known = [session["id"] for session in self.gateway.sessions() if session["protocol"] != "pptp"]
        if known:
            self.gateway.command("sessions", "kill", *known)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The network, booted, with the gateway in it; at the end the gateway must leave nothing behind."""
    if why := missing("ppp", "libreswan", guests=True):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vpnmasq-real-") as name, Network(offloads=False) as network:
        directory = Path(name)
        gateway = gateways.Vpnmasq(network, directory, config())
        yield Lab(network, gateway, directory)
        gateway.stop()


def pings(*ways: tuple[Libreswan, str], count: int = 10) -> list[int]:
    """Ping at the same time; return how many answers each did not get."""
    started = [ping(one.host, target, count) for one, target in ways]
    return [one.lost() for one in started]


def rekey(end: Libreswan, name: str) -> None:
    """Replace the keys of a tunnel's data."""
    before = end.spis()
    if name.startswith("v1"):  # where another Quick Mode is the rekey
        finished((end, end.up(name)))
    else:
        end.rekey(name)
    assert end.spis() - before, f"{end.host.name} made no new keys"


def answered(client: Libreswan) -> bool:
    """Whether the server answers a client."""
    return pings((client, SERVER_INSIDE), count=1) == [0]


def test_four_clients_of_one_server_beside_pptp(lab: Lab) -> None:
    before = lab.gateway.drops()
    with lab.calls(), lab.tunnels("v2", *lab.clients):
        assert pings(*((client, SERVER_INSIDE) for client in lab.clients)) == [0] * 4
        assert pings(*((lab.server, client.inside) for client in lab.clients)) == [0] * 4
        lab.transfers(*lab.clients, octets=BULK // 2)
        assert sorted(session["client"] for session in lab.sessions()) == sorted(CLIENTS)
        assert {session["state"] for session in lab.sessions("isakmp")} == {"established"}
        assert {session["peer"] for session in lab.sessions("isakmp")} == {SERVER}
        assert len(lab.sessions("pptp")) == 2
        assert lab.gateway.drops() == before


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_rekeys_from_both_ends_while_traffic_flows(lab: Lab, name: str) -> None:
    one, two = clients = lab.clients[:2]
    with lab.tunnels(name, *clients):
        assert pings(*((client, SERVER_INSIDE) for client in clients)) == [0, 0]
        before = lab.gateway.drops()
        # Peers may lose some in a rekey: an end has keys a moment before the other has them (RFC 7296 §2.8),
        # or has none. The gateway may not.
        with capturing(lab.network.gw, "any", "esp") as capture:
            pinging = [ping(client.host, SERVER_INSIDE, 70) for client in clients]
            rekey(one, name)
            rekey(lab.server, f"{name}c2")
            if name == "v2":
                two.rekey(name, ike=True)
                lab.server.rekey(f"{name}c1", ike=True)
            assert all(one.lost() <= 3 for one in pinging)
            all_esp_crossed(capture, WAN_ADDRESS)
        # after the pings: the queues of busy guests are short, and they drop what TCP sends again
        moving = transfer(one.host, lab.server.host, SERVER_INSIDE, LONG)
        rekey(lab.server, f"{name}c1")
        assert moving.running()
        rekey(one, name)
        moving.finish()
        assert pings(*((lab.server, client.inside) for client in clients)) == [0, 0]
        assert lab.gateway.drops() == before
        # whatever SPIs were used, it is one tunnel for each
        assert sorted(session["client"] for session in lab.sessions()) == sorted(CLIENTS[:2])


def test_a_tunnel_silent_for_longer_than_the_lifetime_goes_on(lab: Lab) -> None:
    one, two = clients = lab.clients[:2]
    with lab.tunnels("v2", *clients):
        # one after the other, so that it is clear to whom each SPI belongs
        for client in clients:
            assert pings((client, SERVER_INSIDE)) == [0]
        with lab.configured('lifetime = "2s"'):
            until(lambda: not lab.sessions() and not lab.sessions("isakmp"), "all is forgotten", within=15)
        assert pings((lab.server, one.inside)) == [0]
        assert pings((two, SERVER_INSIDE)) == [0]
        assert pings((lab.server, two.inside), (one, SERVER_INSIDE)) == [0, 0]
        # the server's IKE finds its client again, though another one spoke last
        rekey(one, "v2")
        rekey(lab.server, "v2c2")
        assert pings((lab.server, two.inside), (one, SERVER_INSIDE)) == [0, 0]


def test_a_client_that_lost_its_power_comes_back(lab: Lab) -> None:
    one, two = lab.clients[:2]
    with lab.tunnels("v2", one, two):
        assert pings((one, SERVER_INSIDE), (two, SERVER_INSIDE)) == [0, 0]
        undisturbed = ping(two.host, SERVER_INSIDE, 60)
        one.die()
        finished((one, one.start()))
        finished((one, one.up("v2")))
        assert pings((one, SERVER_INSIDE)) == [0]
        assert undisturbed.lost() == 0
        assert len(lab.sessions()) == 2
    lab.server.down("v2c1")


@pytest.mark.parametrize("source", ["keep", "gateway"])
def test_a_server_inside_is_called_by_a_peer_that_a_client_calls(lab: Lab, source: str) -> None:
    client = lab.clients[3]
    with lab.configured(source=source), lab.tunnels("call", lab.caller), lab.tunnels("side", client):
        both = ((lab.caller, EXPOSED_INSIDE), (client, CALLER_INSIDE))
        assert pings(*both) == [0, 0]
        assert pings((lab.exposed, CALLER_INSIDE), (lab.caller, client.inside)) == [0, 0]
        seen = lab.exposed.host.sh("ipsec whack --showstates", check=True).output
        assert {"keep": CALLER, "gateway": LAN_GATEWAY}[source] in seen
        outbound = transfer(lab.exposed.host, lab.caller.host, CALLER_INSIDE, BULK)
        inbound = transfer(lab.caller.host, lab.exposed.host, EXPOSED_INSIDE, BULK)
        outbound.finish()
        inbound.finish()
        lab.exposed.rekey("call")
        lab.caller.rekey("call")
        client.rekey("side")
        assert pings(*both) == [0, 0]
        assert sorted(session["role"] for session in lab.sessions()) == ["expose", "masquerade"]


@pytest.mark.parametrize("name", ["whole", "parts"])
def test_messages_longer_than_the_mtu_arrive(lab: Lab, name: str) -> None:
    client = lab.clients[0]
    # both ends send a certificate: in fragments of IP, or in several messages of IKE
    expected = {WAN_ADDRESS, SERVER} if name == "whole" else set()
    with capturing(lab.network.gw, "eth1", "ip[6:2] & 0x3fff != 0") as fragments, lab.tunnels(name, client):
        assert pings((client, SERVER_INSIDE)) == [0]
        until(lambda: sources(fragments) >= expected, "all was seen", within=5)
        assert sources(fragments) == expected


def test_serialize_lets_one_after_the_other_begin(lab: Lab) -> None:
    clients = lab.clients[:3]
    with lab.configured('pairing = "serialize"'), lab.tunnels("v2", *clients):
        for client in clients:
            until(partial(answered, client), "its turn", within=20)
        assert pings(*((client, SERVER_INSIDE) for client in clients)) == [0] * 3
        assert {session["state"] for session in lab.sessions()} == {"confirmed"}


def test_refuse_lets_one_client_have_the_server_until_its_session_is_ended(lab: Lab) -> None:
    one, two = lab.clients[:2]
    with lab.configured('pairing = "refuse"'), lab.tunnels("v2", one, two):
        assert pings((one, SERVER_INSIDE)) == [0]
        before = lab.gateway.drops().get("esp-refused", 0)
        assert pings((two, SERVER_INSIDE), count=3) == [3]
        assert lab.gateway.drops()["esp-refused"] == before + 3
        [session] = lab.sessions()
        assert session["client"] == CLIENTS[0]
        assert f"which {CLIENTS[0]} holds (session {session['id']})" in lab.gateway.log()
        lab.gateway.command("sessions", "kill", session["id"])
        assert pings((two, SERVER_INSIDE)) == [0]
        assert pings((one, SERVER_INSIDE), count=3) == [3]


def test_no_private_address_got_out(lab: Lab) -> None:
    assert lab.network.leaked() == 0
