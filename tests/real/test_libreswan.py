"""Libreswan with raw ESP through the gateway, beside PPTP: clients to one server, and a server inside.

The guests are booted once; every test brings its tunnels up and tears them down, and the same two PPTP calls
stand from the first test to the last.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.bpf.kernel import built
from tests.lab.capture import capturing, sources
from tests.lab.keying import Tunnel, finished
from tests.lab.libreswan import Authority, Libreswan, with_certificate
from tests.lab.machine import missing, until
from tests.lab.network import LAN_GATEWAY, WAN_ADDRESS, Network
from tests.lab.traffic import transfer
from tests.lab.tunnels import (
    CALLER,
    CALLER_INSIDE,
    CLIENT_INSIDE,
    CLIENTS,
    EXPOSED_INSIDE,
    SERVER,
    SERVER_INSIDE,
    Lab,
    pings,
)

pytestmark = pytest.mark.guests

#: Octets of a bulk transfer.
BULK: Final = 1_500_000

#: What the server has inside the tunnels with certificates: pluto gives a pair of addresses to one tunnel,
#: and what comes from somebody unknown is of this one until it has said who it is.
CERTIFIED_INSIDE: Final = "172.16.0.3"


class LibreswanLab(Lab[Libreswan]):
    """Tunnels by both versions of IKE, and some with certificates."""

    def __init__(self, network: Network, directory: Path) -> None:
        authority = Authority(directory)
        super().__init__(network, directory, Libreswan)
        authority.equip(self.server, "s")
        authority.equip(self.clients[0], "c1")
        own = {client: self._of_client(number) for number, client in enumerate(self.clients, 1)}
        self.server.host.sh(f"ip addr add {CERTIFIED_INSIDE}/32 dev lo", check=True)
        one = Tunnel("", SERVER, "c1", "s", f"{CLIENT_INSIDE}1", CERTIFIED_INSIDE)
        own[self.clients[0]] += [
            with_certificate(one, "parts"),
            with_certificate(one, "whole", in_parts=False),
        ]
        own[self.server] = [
            Tunnel(f"v{v}c{i}", "%any", "s", f"c{i}", SERVER_INSIDE, f"{CLIENT_INSIDE}{i}", v)
            for v in (1, 2)
            for i in (1, 2, 3, 4)
        ]
        first = Tunnel("", "%any", "s", "c1", CERTIFIED_INSIDE, f"{CLIENT_INSIDE}1")
        own[self.server].append(with_certificate(first, "certificate"))
        own[self.caller] = [
            Tunnel("call", WAN_ADDRESS, "b", "x", CALLER_INSIDE, EXPOSED_INSIDE),
            Tunnel("side4", "%any", "b", "c4", CALLER_INSIDE, f"{CLIENT_INSIDE}4"),
        ]
        own[self.exposed] = [Tunnel("call", "%any", "x", "b", EXPOSED_INSIDE, CALLER_INSIDE)]
        self.begin(own)

    @staticmethod
    def _of_client(number: int) -> list[Tunnel]:
        own, inside = f"c{number}", f"{CLIENT_INSIDE}{number}"
        to_server = [Tunnel(f"v{v}", SERVER, own, "s", inside, SERVER_INSIDE, v) for v in (1, 2)]
        return [*to_server, Tunnel("side", CALLER, own, "b", inside, CALLER_INSIDE)]

    def tear_down(self, name: str, end: Libreswan) -> None:
        """End it, first at the end that would redial at once when the other one does.

        That is who has rekeyed it last, since version 5 who has begun it. A pluto that is told to tear down a
        tunnel which is just coming up may crash, or leave it to the other end.
        """
        downs = [partial(end.down, name)]
        if end in self.clients and name in ("v1", "v2"):
            at_server = partial(self.server.down, f"{name}c{self.clients.index(end) + 1}")
            downs.insert(len(downs) if end.is_new else 0, at_server)
        for down in downs:
            down()


@pytest.fixture(scope="module")
def booted() -> Iterator[LibreswanLab]:
    """The network, booted, with the gateway in it; at the end the gateway must leave nothing behind."""
    if why := missing("ppp", "libreswan", guests=True):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="vpnmasq-real-") as name, Network(offloads=False) as network:
        lab = LibreswanLab(network, Path(name))
        yield lab
        lab.end()


@pytest.fixture
def lab(booted: LibreswanLab) -> Iterator[LibreswanLab]:
    """The same; whatever a test does, PPTP calls do not notice."""
    yield booted
    booted.calls_stand()


def rekey(end: Libreswan, name: str) -> None:
    """Replace the keys of a tunnel's data."""
    before = end.spis()
    end.rekey(name)
    assert end.spis() - before, f"{end.host.name} made no new keys"


def answered(client: Libreswan) -> bool:
    """Whether the server answers a client."""
    return pings((client, SERVER_INSIDE), count=1) == [0]


def settle(lab: LibreswanLab) -> None:
    """Have the clients of pairs that are not known yet talk one at a time: all at once they tell little."""
    for _ in range(5):
        unknown = {pair["client"] for pair in lab.sessions("esp") if pair["state"] != "confirmed"}
        for client in lab.clients:
            if client.host.address in unknown:
                lab.transfers((client, lab.server), octets=BULK // 8)


@pytest.mark.parametrize("fastpath", [True, False], ids=["in the kernel", "in user space"])
def test_four_clients_of_one_server(lab: LibreswanLab, fastpath: bool) -> None:
    before = lab.gateway.drops()
    clients = lab.clients
    with lab.configured(fastpath=fastpath), lab.tunnels("v2", *clients):
        lab.answered(*((client, SERVER_INSIDE) for client in clients))
        lab.answered(*((lab.server, client.inside) for client in clients))
        lab.transfers(*((client, lab.server) for client in clients), octets=BULK // 2)
        settle(lab)
        assert lab.carried("esp") is (fastpath and not built())
        assert sorted(session["client"] for session in lab.sessions("esp")) == list(CLIENTS)
        assert lab.inside("isakmp") == list(CLIENTS)
        assert {session["peer"] for session in lab.sessions("isakmp")} == {SERVER}
        assert lab.gateway.drops() == before


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_rekeys_from_both_ends_while_traffic_flows(lab: LibreswanLab, name: str) -> None:
    one, two = clients = lab.clients[:2]
    with lab.tunnels(name, *clients):
        lab.answered(*((client, SERVER_INSIDE) for client in clients))
        before = lab.gateway.drops()
        # Peers may lose some in a rekey: an end has keys a moment before the other has them (RFC 7296 §2.8),
        # or has none. The gateway may not.
        with lab.talking(*((client, SERVER_INSIDE) for client in clients), count=70):
            rekey(one, name)
            rekey(lab.server, f"{name}c2")
            if name == "v2":
                two.rekey(name, ike=True)
                lab.server.rekey(f"{name}c1", ike=True)
        # after the pings: the queues of busy guests are short, and they drop what TCP sends again
        moving = transfer(one.host, lab.server.host, SERVER_INSIDE, None)
        rekey(lab.server, f"{name}c1")
        rekey(one, name)
        assert moving.running()
        moving.enough()
        moving.finish()
        lab.answered(*((lab.server, client.inside) for client in clients))
        assert lab.gateway.drops() == before
        # whatever SPIs were used, it is one tunnel for each
        assert sorted(session["client"] for session in lab.sessions("esp")) == sorted(CLIENTS[:2])


def test_a_tunnel_silent_for_longer_than_the_lifetime_goes_on(lab: LibreswanLab) -> None:
    one, two = clients = lab.clients[:2]
    with lab.tunnels("v2", *clients):
        # one after the other, so that it is clear to whom each SPI belongs
        for client in clients:
            lab.answered((client, SERVER_INSIDE))
        with lab.configured('lifetime = "2s"'):
            until(
                lambda: not lab.sessions("esp") and not lab.sessions("isakmp"), "all is forgotten", within=15
            )
        lab.answered((lab.server, one.inside))
        lab.answered((two, SERVER_INSIDE))
        lab.answered((lab.server, two.inside), (one, SERVER_INSIDE))
        # the server's IKE finds its client again, though another one spoke last; a peer may lack a key for a
        # moment after a rekey, but what it sent must have crossed
        rekey(one, "v2")
        rekey(lab.server, "v2c2")
        lab.answered((lab.server, two.inside), (one, SERVER_INSIDE))


def test_a_client_that_lost_its_power_comes_back(lab: LibreswanLab) -> None:
    one, two = lab.clients[:2]
    with lab.tunnels("v2", one, two):
        lab.answered((one, SERVER_INSIDE), (two, SERVER_INSIDE))
        with lab.talking((two, SERVER_INSIDE), count=60):
            one.die()
            finished((one, one.start()))
            finished((one, one.up("v2")))
        lab.answered((one, SERVER_INSIDE))
        assert len(lab.sessions("esp")) == 2
    lab.server.down("v2c1")


@pytest.mark.parametrize("source", ["keep", "gateway"])
def test_a_server_inside_is_called_by_a_peer_that_a_client_calls(lab: LibreswanLab, source: str) -> None:
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
        assert sorted(session["role"] for session in lab.sessions("esp")) == ["expose", "masquerade"]


@pytest.mark.parametrize("name", ["whole", "parts"])
def test_messages_longer_than_the_mtu_arrive(lab: LibreswanLab, name: str) -> None:
    client = lab.clients[0]
    # both ends send a certificate: in fragments of IP, or in several messages of IKE
    expected = {WAN_ADDRESS, SERVER} if name == "whole" else set()
    with capturing(lab.network.gw, "eth1", "ip[6:2] & 0x3fff != 0") as fragments, lab.tunnels(name, client):
        lab.answered((client, CERTIFIED_INSIDE))
        until(lambda: sources(fragments) >= expected, "all was seen", within=5)
        assert sources(fragments) == expected


def test_serialize_lets_one_after_the_other_begin(lab: LibreswanLab) -> None:
    clients = lab.clients[:3]
    with lab.configured('pairing = "serialize"'), lab.tunnels("v2", *clients):
        for client in clients:
            until(partial(answered, client), "its turn", within=20)
        lab.answered(*((client, SERVER_INSIDE) for client in clients))
        assert {session["state"] for session in lab.sessions("esp")} == {"confirmed"}


def test_refuse_lets_one_client_have_the_server_until_its_session_is_ended(lab: LibreswanLab) -> None:
    one, two = lab.clients[:2]
    with lab.configured('pairing = "refuse"'), lab.tunnels("v2", one, two):
        lab.answered((one, SERVER_INSIDE))
        before = lab.gateway.drops().get("esp-refused", 0)
        assert pings((two, SERVER_INSIDE), count=3) == [3]
        assert lab.gateway.drops()["esp-refused"] == before + 3
        [session] = lab.sessions("esp")
        assert session["client"] == CLIENTS[0]
        assert f"which {CLIENTS[0]} holds (session {session['id']})" in lab.gateway.log()
        lab.gateway.command("sessions", "kill", session["id"])
        lab.answered((two, SERVER_INSIDE))
        assert pings((one, SERVER_INSIDE), count=3) == [3]


def test_no_private_address_got_out(lab: LibreswanLab) -> None:
    assert lab.network.leaked() == 0
