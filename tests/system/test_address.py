"""The public address comes late, changes, goes and comes back; so does its interface."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from protocols.ike.header import LENGTH, IkeHeader
from protocols.pptp import messages
from relay.cli.exits import Exit
from tests.system.calls import answering, call, carries, is_turned_away
from tests.system.home import CALLER, CLIENT, PEER, PUBLIC, RULES, Daemon, Home, until

SECOND_PUBLIC = "200.200.200.201"
THIRD_PUBLIC = "200.200.200.202"
IPSEC = """
[[masquerade]]
name = "roadwarriors"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp", "ipsec"]
"""
#: Linux puts ``default via 200.200.200.1`` away with the address, so it has to be set again.
ROUTE = "ip route replace default via 200.200.200.1"


@pytest.fixture(autouse=True)
def as_it_was(house: Home) -> Iterator[None]:
    """Give the box its interface, address and route back after each test."""
    yield
    for daemon in house.daemons:
        if daemon.process.poll() is None:
            assert daemon.stop() == 0, daemon.log()
    house.daemons.clear()
    if "eth1" not in house.gateway.sh("ls /sys/class/net"):
        house.net.link(house.gateway, "eth1", house.internet, "eth0")
        house.internet.address("eth0", "200.200.200.1/24")
    house.gateway.sh("ip link set eth1 up")
    house.gateway.sh("ip address flush dev eth1")
    connect(house, PUBLIC)


def disconnect(house: Home) -> None:
    house.gateway.sh("ip address flush dev eth1")


def connect(house: Home, address: str, *, route: bool = True) -> None:
    house.gateway.address("eth1", f"{address}/24")
    if route:
        house.gateway.sh(ROUTE)


def has_address(daemon: Daemon, address: str | None) -> bool:
    return bool(daemon.document("status")["wan"]["address"] == address)


def attention(daemon: Daemon) -> str:
    return "\n".join(daemon.document("status")["attention"])


def waiting(house: Home, rules: str = RULES, *options: str) -> Daemon:
    """A daemon that has no address as yet."""
    daemon = house.run(rules, *options, wait=False)
    until(lambda: '"event": "waiting"' in daemon.log() or daemon.process.poll() is not None)
    assert daemon.process.poll() is None, daemon.log()
    return daemon


# -- at the start ----------------------------------------------------------------------------------------


def test_an_address_that_comes_late_is_waited_for_and_then_used(house: Home) -> None:
    disconnect(house)
    daemon = waiting(house)
    status = daemon.document("status")
    assert (status["state"], status["wan"]["address"]) == ("starting", None)
    assert status["attention"][0] == "waiting for an address on eth1"
    health = daemon.command("health")
    assert health.returncode == Exit.FAILED
    assert health.stdout == "starting: waiting for an address on eth1\n"
    assert is_turned_away(house, house.client, PEER)
    assert daemon.drops()["no-address"] == 1
    connect(house, SECOND_PUBLIC)
    until(lambda: has_address(daemon, SECOND_PUBLIC))
    assert '"event": "ready"' in daemon.log()
    assert daemon.command("health").returncode == 0
    assert daemon.document("status")["state"] == "ready"
    tunnel = call(house, house.client, PEER, house.peer)
    assert tunnel.server.far_end == SECOND_PUBLIC
    assert carries(house, tunnel)
    assert call(house, house.caller, SECOND_PUBLIC, house.server).server.far_end == CALLER


def test_an_interface_that_comes_late_is_waited_for_and_then_used(house: Home) -> None:
    house.gateway.sh("ip link set eth1 down")
    house.gateway.sh("ip link set eth1 name eth9")
    daemon = waiting(house)
    assert attention(daemon).startswith("waiting for interface eth1, which is not there; there are eth0")
    assert daemon.command("health").returncode == Exit.FAILED
    house.gateway.sh("ip link set eth9 name eth1")
    house.gateway.sh("ip link set eth1 up")
    house.gateway.sh(ROUTE)
    until(lambda: daemon.document("status")["state"] == "ready")
    assert carries(house, call(house, house.client, PEER, house.peer))
    assert call(house, house.caller, PUBLIC, house.server).server.far_end == CALLER


def test_it_can_be_stopped_while_it_waits(house: Home) -> None:
    disconnect(house)
    daemon = waiting(house)
    assert daemon.stop() == 0


def test_auto_waits_for_a_default_route_and_follows_it_also_to_another_name(house: Home) -> None:
    house.gateway.sh("ip route del default")
    daemon = waiting(house, RULES, "--set", "wan.interface=auto")
    assert attention(daemon).startswith("waiting for a default route")
    house.gateway.sh(ROUTE)
    until(lambda: has_address(daemon, PUBLIC))
    try:
        house.gateway.sh("ip link set eth1 down")
        house.gateway.sh("ip link set eth1 name eth9")
        house.gateway.sh("ip link set eth9 up")
        house.gateway.sh(ROUTE)
        until(lambda: daemon.document("status")["wan"]["interface"] == "eth9")
        until(lambda: has_address(daemon, PUBLIC))
        tunnel = call(house, house.client, PEER, house.peer)
        assert carries(house, tunnel)
        assert call(house, house.caller, PUBLIC, house.server).server.far_end == CALLER
        until(lambda: "eth9" in house.gateway.sh("nft list table ip vpnmasq"))
    finally:
        house.gateway.sh("ip link set eth9 down")
        house.gateway.sh("ip link set eth9 name eth1")


# -- changes ---------------------------------------------------------------------------------------------


def test_when_the_address_changes_its_sessions_end_and_new_ones_work(house: Home) -> None:
    daemon = house.run()
    tunnel = call(house, house.client, PEER, house.peer)
    disconnect(house)
    connect(house, SECOND_PUBLIC)
    until(lambda: has_address(daemon, SECOND_PUBLIC))
    # Told at once, so that it dials again now; the peer cannot be told from an address that is gone.
    tunnel.client.hears(messages.StopRequest)
    assert tunnel.client.sock.recv(100) == b""
    until(lambda: not daemon.document("sessions")["sessions"])
    tunnel = call(house, house.client, PEER, house.peer)
    assert tunnel.server.far_end == SECOND_PUBLIC
    assert carries(house, tunnel)
    assert call(house, house.caller, SECOND_PUBLIC, house.server).server.far_end == CALLER
    wan = daemon.document("status")["wan"]
    assert 0 < wan["served_seconds"] < 1
    assert wan["served_seconds"] <= wan["first_packet_seconds"]


def test_of_many_calls_every_client_is_told(house: Home) -> None:
    """Of more than are told in one turn."""
    daemon = house.run(f"{RULES}\n[limits]\nsessions_per_client = 1000\nnew_per_second = 1000\n")
    clients = []
    with answering(house, house.peer) as listening:
        for _ in range(150):
            client, _ = house.connection(house.client, PEER, listening)
            clients.append(client)
        disconnect(house)
        connect(house, SECOND_PUBLIC)
        for client in clients:
            client.hears(messages.StopRequest)
            assert client.sock.recv(100) == b""
    until(lambda: not daemon.document("sessions")["sessions"])
    assert carries(house, call(house, house.client, PEER, house.peer))


def test_two_changes_in_a_row_and_the_old_address_again(house: Home) -> None:
    daemon = house.run()
    for address in (SECOND_PUBLIC, THIRD_PUBLIC, PUBLIC):
        disconnect(house)
        connect(house, address)
    until(lambda: has_address(daemon, PUBLIC))
    tunnel = call(house, house.client, PEER, house.peer)
    assert tunnel.server.far_end == PUBLIC
    assert carries(house, tunnel)


def test_an_address_that_is_back_at_once_was_never_gone(house: Home) -> None:
    daemon = house.run()
    tunnel = call(house, house.client, PEER, house.peer)
    house.gateway.sh(
        "ip -batch -", stdin=f"address flush dev eth1\naddress add {PUBLIC}/24 dev eth1\n{ROUTE[3:]}\n"
    )
    assert carries(house, tunnel)
    assert daemon.document("status")["wan"]["changes"] == 0


def test_with_keep_a_call_survives_until_its_address_is_back(house: Home) -> None:
    daemon = house.run(f'{RULES}\n[dynamic]\non_change = "keep"\n')
    tunnel = call(house, house.client, PEER, house.peer)
    disconnect(house)
    until(lambda: has_address(daemon, None))
    status = daemon.document("status")
    assert status["state"] == "waiting"
    assert daemon.command("health").returncode == Exit.FAILED
    connect(house, PUBLIC)
    until(lambda: has_address(daemon, PUBLIC))
    assert carries(house, tunnel)
    tunnel.client.says(messages.EchoRequest(identifier=7))
    assert tunnel.server.hears(messages.EchoRequest).identifier == 7


def test_of_several_addresses_the_one_in_use_stays_until_it_goes(house: Home) -> None:
    daemon = house.run()
    tunnel = call(house, house.client, PEER, house.peer)
    house.gateway.sh("ip address add 200.200.200.201/24 dev eth1")
    house.gateway.sh("ip address add 192.0.2.1/32 dev eth1")
    house.gateway.sh("sysctl -w net.ipv4.conf.eth1.promote_secondaries=1")
    assert carries(house, tunnel)
    house.gateway.sh(f"ip address del {PUBLIC}/24 dev eth1")
    house.gateway.sh(ROUTE)
    until(lambda: daemon.document("status")["wan"]["address"] not in (PUBLIC, None))
    house.gateway.sh("ip address del 192.0.2.1/32 dev eth1")
    until(lambda: has_address(daemon, SECOND_PUBLIC))
    house.gateway.address("eth1", f"{PUBLIC}/24")
    tunnel = call(house, house.client, PEER, house.peer)
    assert tunnel.server.far_end == SECOND_PUBLIC
    house.gateway.sh("sysctl -w net.ipv4.conf.eth1.promote_secondaries=0")


def test_a_point_to_point_link_has_our_end_and_theirs(house: Home) -> None:
    daemon = house.run()
    disconnect(house)
    house.gateway.sh(f"ip address add {SECOND_PUBLIC} peer 200.200.200.1 dev eth1")
    house.gateway.sh("ip route replace default dev eth1 via 200.200.200.1")
    until(lambda: has_address(daemon, SECOND_PUBLIC))
    assert carries(house, call(house, house.client, PEER, house.peer))


def test_an_interface_that_goes_and_comes_again_is_used_again(house: Home) -> None:
    """As ppp0 does."""
    daemon = house.run()
    tunnel = call(house, house.client, PEER, house.peer)
    house.gateway.sh("ip link delete eth1")
    until(lambda: has_address(daemon, None))
    assert "eth1, which is not there" in attention(daemon)
    tunnel.client.hears(messages.StopRequest)
    house.net.link(house.gateway, "eth1", house.internet, "eth0")
    house.internet.address("eth0", "200.200.200.1/24")
    connect(house, PUBLIC)
    until(lambda: has_address(daemon, PUBLIC))
    assert carries(house, call(house, house.client, PEER, house.peer))
    assert call(house, house.caller, PUBLIC, house.server).server.far_end == CALLER


def test_a_change_while_draining_ends_what_is_left(house: Home) -> None:
    daemon = house.run(RULES, "--timeout", "100")
    tunnel = call(house, house.client, PEER, house.peer)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: daemon.document("status")["state"] == "draining")
    disconnect(house)
    connect(house, SECOND_PUBLIC)
    tunnel.client.hears(messages.StopRequest)
    assert daemon.ends() == 0


# -- hooks and commands ----------------------------------------------------------------------------------


def test_a_hook_returns_when_its_address_is_served_and_commands_get_its_arguments(house: Home) -> None:
    said = house.directory() / "said"
    tell = f"/bin/sh -c 'echo $VPNMASQ_EVENT $* >> {said}' sh"
    dynamic = f'[dynamic]\nup_commands = ["{tell}"]\ndown_commands = ["{tell}"]\ncommand_timeout = "5s"\n'
    daemon = house.run(RULES + dynamic)
    until(lambda: said.exists() and said.read_text() == f"up eth1 {PUBLIC}\n")
    disconnect(house)
    until(lambda: has_address(daemon, None))
    # A point-to-point link, whose commands wait for what its hook knows.
    house.gateway.sh(f"ip address add {SECOND_PUBLIC} peer 200.200.200.1 dev eth1")
    pppd = ("eth1", "/dev/ttyS0", "115200", SECOND_PUBLIC, "200.200.200.1", "office")
    hook = daemon.command("wan", "ip-up", *pppd)
    assert (hook.returncode, hook.stdout) == (0, f"eth1: {SECOND_PUBLIC}\n")
    until(lambda: len(said.read_text().splitlines()) == 3)
    assert said.read_text().splitlines()[1:] == [f"down eth1 {PUBLIC}", f"up {' '.join(pppd)}"]
    assert daemon.command("wan", "ip-up", "eth0").stdout == "eth0: not the public link, or not up yet\n"
    disconnect(house)
    assert daemon.command("wan", "ip-down", *pppd).stdout == "eth1: no address\n"


def test_a_command_that_fails_or_hangs_is_named_until_it_works(house: Home) -> None:
    mended = house.directory() / "mended"
    commands = [f"/bin/sh -c 'test -e {mended}'", f"/bin/sh -c 'test -e {mended} || exec sleep 60'"]
    dynamic = f'[dynamic]\nup_commands = {json.dumps(commands)}\ncommand_timeout = "1s"\n'
    daemon = house.run(RULES + dynamic)
    until(lambda: "up_commands: /bin/sh: exit status 1" in attention(daemon))
    until(lambda: "up_commands: /bin/sh: took longer than 1 s and was ended" in attention(daemon))
    mended.touch()
    disconnect(house)
    until(lambda: has_address(daemon, None))
    connect(house, PUBLIC)
    until(lambda: "up_commands" not in attention(daemon))
    assert carries(house, call(house, house.client, PEER, house.peer))


# -- in the middle of things -----------------------------------------------------------------------------


@contextlib.contextmanager
def deaf(house: Home) -> Iterator[None]:
    """Whatever is sent to the peer is lost on its way, and nobody says so."""
    house.internet.sh(
        "nft -f -",
        stdin="table ip deaf { chain forward { type filter hook forward priority -1; counter drop; }; }",
    )
    try:
        yield
    finally:
        house.internet.sh("nft delete table ip deaf")


def test_a_client_that_is_dialling_while_the_address_changes_gets_through(house: Home) -> None:
    daemon = house.run()
    with answering(house, house.peer) as listening:
        with deaf(house):
            client = house.dial(house.client, PEER)
            until(lambda: len(daemon.document("sessions")["sessions"]) == 1)
            disconnect(house)
            until(lambda: has_address(daemon, None))
        # The address is there before its route, as pppd has it.
        connect(house, SECOND_PUBLIC, route=False)
        until(lambda: has_address(daemon, SECOND_PUBLIC))
        time.sleep(0.2)
        house.gateway.sh(ROUTE)
        server = house.accept(listening)
        assert server.far_end == SECOND_PUBLIC
        client.says(messages.StartRequest())
        server.hears(messages.StartRequest)


def test_ikes_first_message_is_sent_again_from_the_new_address(house: Home) -> None:
    daemon = house.run(IPSEC)
    with house.peer.entered():
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with house.client.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with peer, client:
        for sock, address in ((peer, PEER), (client, CLIENT)):
            sock.settimeout(10)
            sock.bind((address, 500))
        message = IkeHeader(0xA1, 0, 34, 0, LENGTH, version=2, flags=8).to_bytes()
        client.sendto(message, (PEER, 500))
        assert peer.recvfrom(100) == (message, (PUBLIC, 500))
        # As if it had been lost on the old link.
        disconnect(house)
        until(lambda: has_address(daemon, None))
        connect(house, SECOND_PUBLIC)
        assert peer.recvfrom(100) == (message, (SECOND_PUBLIC, 500))
        answer = IkeHeader(0xA1, 0xB2, 34, 0, LENGTH, version=2, flags=0x20).to_bytes()
        peer.sendto(answer, (SECOND_PUBLIC, 500))
        assert client.recvfrom(100) == (answer, (PEER, 500))


# -- what is to be said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("100.64.1.2", "carrier-grade NAT, RFC 6598): office cannot be reached"),
        ("192.168.7.2", "private (RFC 1918), so another router is before us: office cannot be reached"),
    ],
)
def test_an_address_that_is_not_public_is_named(house: Home, address: str, said: str) -> None:
    daemon = house.run()
    disconnect(house)
    house.gateway.address("eth1", f"{address}/24")
    until(lambda: has_address(daemon, address))
    assert said in attention(daemon)


def test_a_link_local_address_is_none(house: Home) -> None:
    daemon = house.run()
    disconnect(house)
    house.gateway.sh("ip address add 169.254.9.9/16 dev eth1 scope link")
    until(lambda: has_address(daemon, None))
    assert "link-local" in attention(daemon)


def test_a_fixed_address_that_is_nowhere_is_named(house: Home) -> None:
    daemon = house.run(RULES, "--set", f"wan.address={THIRD_PUBLIC}")
    assert f"{THIRD_PUBLIC} is on no interface" in attention(daemon)
    house.gateway.address("eth1", f"{THIRD_PUBLIC}/24")
    until(lambda: "on no interface" not in attention(daemon))
    assert call(house, house.client, PEER, house.peer).server.far_end == THIRD_PUBLIC
