"""Another VPN end on the gateway itself (HOWTO §3.14): beside us where that is possible, else it is said."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols import ipv4
from protocols.addr import parse_ip
from protocols.esp.codec import Esp
from protocols.ike.header import LENGTH, IkeHeader
from relay.cli.exits import Exit
from tests.netns import Namespace
from tests.system.home import CLIENT, GRE, PATIENCE, PEER, PUBLIC, SERVER, Home, home, until

ESP = 50
PPTP_RULES = """
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp"]
"""
IPSEC_RULES = PPTP_RULES.replace("pptp", "ipsec")

#: An IPsec or PPTP daemon, as far as the kernel knows: it has the ports and reads the protocol.
DAEMON = """
import socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
kept = [socket.socket(socket.AF_INET, socket.SOCK_RAW, int(sys.argv[2]))]
for port in map(int, sys.argv[3:]):
    if port == 1723:
        kept.append(socket.create_server(("0.0.0.0", port)))
    else:
        kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        kept[-1].bind(("0.0.0.0", port))
print("ready", flush=True)
sys.stdin.read()
"""


FIREWALL = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "eth0" accept
        tcp dport 1723 accept
    }
}
"""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Home]:
    """A network of its own: the programs beside us are different each time."""
    with home(tmp_path) as built:
        yield built


@contextlib.contextmanager
def daemon(host: Namespace, name: str, protocol: int, *ports: int) -> Iterator[int]:
    argv = ("ip", "netns", "exec", host.name, sys.executable, "-c", DAEMON, name, protocol, *ports)
    process = subprocess.Popen(
        [str(word) for word in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


@contextlib.contextmanager
def bound(host: Namespace, port: int) -> Iterator[socket.socket]:
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind(("0.0.0.0", port))
        sock.settimeout(PATIENCE)
        yield sock


def test_the_host_is_an_ipsec_gateway_and_we_do_pptp(house: Home) -> None:
    ours = house.run(PPTP_RULES)
    message = IkeHeader(0xA1, 0, 34, 0, LENGTH, next_payload=33, flags=0x08).to_bytes()
    local_esp, far_esp = house.raw(house.gateway, ESP), house.raw(house.peer, ESP)
    with bound(house.gateway, 500) as local, bound(house.peer, 500) as far:
        # Its own IKE and ESP, both ways.
        far.sendto(message, (PUBLIC, 500))
        assert local.recvfrom(1000) == (message, (PEER, 500))
        local.sendto(message, (PEER, 500))
        assert far.recvfrom(1000) == (message, (PUBLIC, 500))
        for raw, to in ((far_esp, PUBLIC), (local_esp, PEER)):
            raw.sock.sendto(Esp(0x1001, 1, bytes(40)).to_bytes(), (to, 0))
        assert local_esp.receive(protocol=ESP)[12:16] == parse_ip(PEER).to_bytes(4)
        assert far_esp.receive(protocol=ESP)[12:16] == parse_ip(PUBLIC).to_bytes(4)
        # And a client's PPTP through us.
        tunnel = house.tunnel(house.client, PEER, house.listen(house.peer))
        client, peer = house.raw(house.client), house.raw(house.peer)
        client.send(CLIENT, PEER, tunnel.server_id)
        packet = peer.receive()
        assert ipv4.Header.from_bytes(packet).src == parse_ip(PUBLIC)
    status = ours.document("status")
    assert status["attention"] == []
    assert status["drops"] == {}


def test_the_host_is_a_pptp_server_and_we_do_ipsec(house: Home) -> None:
    house.gateway.run("nft", "-f", "-", stdin=FIREWALL)
    with daemon(house.gateway, "pptpd", GRE):
        ours = house.run(IPSEC_RULES)
        listening = house.listen(house.gateway)
        caller = house.dial(house.peer, PUBLIC)
        local = house.accept(listening)
        assert local.far_end == PEER
        caller.says(b"start")
        assert local.sock.recv(100) == b"start"
        mine, theirs = house.raw(house.gateway), house.raw(house.peer)
        # Its GRE stays conntrack's: a stateful firewall lets the answers in. (Without its helper for PPTP
        # conntrack takes the Call IDs of both ways for one number.)
        mine.send(PUBLIC, PEER, 0)
        assert theirs.receive()[12:16] == parse_ip(PUBLIC).to_bytes(4)
        theirs.send(PEER, PUBLIC, 0)
        assert mine.receive()[12:16] == parse_ip(PEER).to_bytes(4)
        with bound(house.client, 500) as client, bound(house.peer, 500) as peer:
            message = IkeHeader(0xA1, 0, 34, 0, LENGTH, next_payload=33, flags=0x08).to_bytes()
            client.sendto(message, (PEER, 500))
            assert peer.recvfrom(1000) == (message, (PUBLIC, 500))
        assert ours.document("status")["attention"] == []


TAKEN = [
    pytest.param(IPSEC_RULES, ("charon", ESP, 500, 4500), "udp/500 on eth", "ipsec", id="ipsec"),
    pytest.param(PPTP_RULES, ("pptpd", GRE, 1723), "tcp/1723 on eth", "pptp", id="pptp"),
]


@pytest.mark.parametrize(("rules", "program", "port", "rule"), TAKEN)
def test_a_daemon_of_the_same_protocol_is_named_at_the_start(
    house: Home, rules: str, program: tuple[str, int, int], port: str, rule: str
) -> None:
    with daemon(house.gateway, *program) as process:
        ours = house.run(rules, wait=False)
        assert ours.ends() == Exit.FAILED
    log = ours.log()
    assert port in log
    assert f"is taken by another program, {program[0]} (process {process})" in log
    assert f'leave "{rule}" out of the rules' in log
    assert "Traceback" not in log


def test_a_program_without_our_ports_that_reads_our_protocol_needs_attention(house: Home) -> None:
    with daemon(house.gateway, "pptp", GRE) as process:
        ours = house.run(PPTP_RULES)
        (text,) = ours.document("status")["attention"]
        assert text.startswith(f"pptp (process {process}) on this host reads GRE too")
        assert ours.log().count("another program") == 1
        assert ours.command("reload").returncode == 0
        assert ours.log().count("another program") == 1
    assert ours.command("reload").returncode == 0
    assert ours.document("status")["attention"] == []


@pytest.mark.parametrize(("protocol", "word"), [(51, "AH"), (94, "FWZ")])
def test_what_cannot_be_carried_is_said_once_with_who_sent_it(house: Home, protocol: int, word: str) -> None:
    ours = house.run(IPSEC_RULES)
    client = house.raw(house.client, protocol)
    for _ in range(5):
        client.sock.sendto(bytes(40), (PEER, 0))
    until(lambda: ours.drops().get(word.lower(), 0) == 5)
    (text,) = ours.document("status")["attention"]
    assert word in text
    assert text.endswith(f"seen from {CLIENT} to {PEER}")
    assert SERVER
