"""Inside hosts that dial the public address and reach a server inside: the kernel carries that as well.

All of it comes in at the LAN and leaves there (RFC 4787 REQ-9): what the client sends to the public address,
and what the server answers to it.
"""

import contextlib
import functools
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from protocols.esp.codec import Esp
from tests.bpf.kernel import built
from tests.system.calls import changes
from tests.system.carried import carries, read
from tests.system.forwards import data, sessions, udp
from tests.system.home import CLIENT, GRE, PUBLIC, SERVER, Daemon, Home, until
from tests.system.ipsec import ESP, esp, told

pytestmark = pytest.mark.skipif(bool(built()), reason=built())

FWZ = 94
SECOND_PUBLIC = "200.200.200.201"
RULES = f"""
[[expose]]
name = "office"
server = "{SERVER}"
proto = ["pptp", "ipsec"]
allow = ["10.0.0.0/24"]

[[forward]]
name = "dns"
listen = "udp/53"
server = "{SERVER}:5353"
allow = ["10.0.0.0/24"]

[[forward]]
name = "fwz"
listen = "ip/{FWZ}"
server = "{SERVER}"
allow = ["10.0.0.0/24"]
"""

#: What no rule for VPNs stands beside.
WHOLE = "".join(
    f"""
[[forward]]
name = "{name}"
listen = "ip/{number}"
server = "{SERVER}"
allow = ["10.0.0.0/24"]
"""
    for name, number in (("gre", GRE), ("esp", ESP))
)

#: Sends something of this number from the client to the server and back, and looks who is seen by whom.
Talk = Callable[[int], None]


@contextlib.contextmanager
def pptp(house: Home, public: str) -> Iterator[Talk]:
    with house.listen(house.server) as listening:
        tunnel = house.tunnel(house.client, public, listening)
        client, server = house.raw(house.client), house.raw(house.server)

        def talk(number: int) -> None:
            client.send(CLIENT, public, tunnel.server_id, seq=number)
            there = server.receive()
            server.send(SERVER, public, tunnel.client_id, seq=number)
            back = client.receive()
            for packet, ends in ((there, (public, SERVER)), (back, (public, CLIENT))):
                assert packet[12:20] == b"".join(map(socket.inet_aton, ends))
                assert int.from_bytes(packet[28:32]) == number

        yield talk


@contextlib.contextmanager
def plain_esp(house: Home, public: str) -> Iterator[Talk]:
    client, server = house.raw(house.client, ESP), house.raw(house.server, ESP)

    def talk(number: int) -> None:
        esp(client, CLIENT, public, 0x1001, number)
        assert told(server.receive(protocol=ESP)) == (public, SERVER, 0x1001, number)
        esp(server, SERVER, public, 0x2001, number)
        assert told(client.receive(protocol=ESP)) == (public, CLIENT, 0x2001, number)

    yield talk


@contextlib.contextmanager
def datagrams(
    house: Home, public: str, *, client_port: int, port: int, server_port: int, esp_inside: bool
) -> Iterator[Talk]:
    with udp(house.client, client_port) as client, udp(house.server, server_port) as server:

        def talk(number: int) -> None:
            one, other = (
                Esp(spi, number, bytes(40)).to_bytes() if esp_inside else bytes([spi, number]) * 20
                for spi in (0x31, 0x32)
            )
            client.sendto(one, (public, port))
            heard, shown = server.recvfrom(65536)
            assert (heard, shown[0]) == (one, public)
            server.sendto(other, shown)
            assert client.recvfrom(65536) == (other, (public, port))

        yield talk


@contextlib.contextmanager
def whole(house: Home, public: str, *, protocol: int, head: bytes = b"") -> Iterator[Talk]:
    client, server = house.raw(house.client, protocol), house.raw(house.server, protocol)

    def talk(number: int) -> None:
        there, back = head + bytes([number]) * 20, head + bytes([number]) * 30
        client.sock.sendto(there, (public, 0))
        assert data(server, protocol) == (public, SERVER, there)
        server.sock.sendto(back, (public, 0))
        assert data(client, protocol) == (public, CLIENT, back)

    yield talk


KINDS: dict[str, Callable[[Home, str], contextlib.AbstractContextManager[Talk]]] = {
    "pptp": pptp,
    "esp": plain_esp,
    "natt": functools.partial(datagrams, client_port=4500, port=4500, server_port=4500, esp_inside=True),
    "udp": functools.partial(datagrams, client_port=5000, port=53, server_port=5353, esp_inside=False),
    "protocol": functools.partial(whole, protocol=FWZ),
    "whole-gre": functools.partial(whole, protocol=GRE, head=bytes.fromhex("00000800")),
    "whole-esp": functools.partial(whole, protocol=ESP, head=bytes.fromhex("00001001 00000001")),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def daemon(house: Home) -> Iterator[Daemon]:
    running = house.run(RULES, "--set", "fastpath.mode=require")
    yield running
    assert running.stop(signal.SIGTERM) == 0, running.log()


@pytest.fixture(autouse=True)
def nothing_left(house: Home, daemon: Daemon) -> Iterator[None]:
    yield
    left = [str(one["id"]) for one in sessions(daemon)]
    if left:
        daemon.command("sessions", "kill", *left)
    until(functools.partial(carries, daemon, 0))
    configure(house, daemon, RULES)
    if not has_address(daemon, PUBLIC):
        move(house, daemon, PUBLIC)


@pytest.fixture
def rules(house: Home, daemon: Daemon, kind: str) -> str:
    """Those that serve a kind, and are in force."""
    found = WHOLE if kind.startswith("whole") else RULES
    configure(house, daemon, found)
    return found


def counted(daemon: Daemon) -> list[tuple[object, ...]]:
    return [(one["fastpath"], one["packets"]) for one in sessions(daemon)]


def has_address(daemon: Daemon, address: str) -> bool:
    return bool(daemon.document("status")["wan"]["address"] == address)


def move(house: Home, daemon: Daemon, address: str) -> None:
    """Have another public address."""
    house.gateway.sh("ip address flush dev eth1")
    house.gateway.address("eth1", f"{address}/24")
    until(functools.partial(has_address, daemon, address))


def configure(house: Home, daemon: Daemon, rules: str) -> None:
    changes(house, daemon, rules)
    assert daemon.command("reload").returncode == 0


#: Until both directions are surely known: of a Security Association the first few packets are always ours.
FIRST = range(1, 6)
MORE = range(6, 56)


def begin(daemon: Daemon, talk: Talk) -> None:
    """Both directions become the kernel's."""
    for number in FIRST:
        talk(number)
    until(functools.partial(carries, daemon, 2))


@every_kind
@pytest.mark.usefixtures("rules")
def test_what_neighbours_say_to_each_other_is_the_kernels_both_ways(
    house: Home, daemon: Daemon, kind: str
) -> None:
    with KINDS[kind](house, PUBLIC) as talk:
        begin(daemon, talk)
        before = read(daemon)
        for number in MORE:
            talk(number)
        assert read(daemon) == before
        # ESP in UDP is of two sessions: the client's with us, and the server's with the client.
        both = 2 if kind == "natt" else 1
        expected = [(True, {"outbound": 55, "inbound": 55})] * both
        until(lambda: counted(daemon) == expected, within=1.5)
        (pair,) = {(one.get("client"), one.get("server")) for one in sessions(daemon)[-1:]}
        assert pair == (None, SERVER)


@every_kind
def test_it_goes_to_the_kernel_and_back_as_the_rules_say(
    house: Home, daemon: Daemon, kind: str, rules: str
) -> None:
    kept_out = rules.replace('allow = ["10.0.0.0/24"]\n', 'allow = ["10.0.0.0/24"]\nfastpath = false\n')
    number = iter(range(1, 100))
    with KINDS[kind](house, PUBLIC) as talk:
        for now, carried in ((rules, 2), (kept_out, 0), (rules, 2)):
            configure(house, daemon, now)
            for _ in range(5):
                talk(next(number))
            until(functools.partial(carries, daemon, carried))
            before = read(daemon)
            for _ in range(5):
                talk(next(number))
            assert read(daemon) == before + (0 if carried else 10)
    packets = [packets for _, packets in counted(daemon)]
    assert packets == [{"outbound": 30, "inbound": 30}] * len(packets)


@every_kind
@pytest.mark.usefixtures("rules")
def test_it_ends_with_the_public_address_and_begins_anew_by_the_new_one(
    house: Home, daemon: Daemon, kind: str
) -> None:
    with KINDS[kind](house, PUBLIC) as talk:
        begin(daemon, talk)
        move(house, daemon, SECOND_PUBLIC)
        until(functools.partial(carries, daemon, 0))
        assert sessions(daemon) == []
    with KINDS[kind](house, SECOND_PUBLIC) as talk:
        begin(daemon, talk)
        before = read(daemon)
        talk(7)
        assert read(daemon) == before
