"""Raw sockets that strangers' packets do not reach: what the kernel lets through, and what it counts."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols import ipv4
from protocols.addr import Ip4, Network, parse_ip
from relay.kernel import KernelError
from relay.sockets import raw, strangers
from relay.sockets.strangers import AllWelcome, KeptOut
from tests.netns import network, requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

OURS = "203.0.113.1"
PEER, STRANGER = parse_ip("198.51.100.1"), parse_ip("198.51.100.66")
MANY = 200


class Wire:
    """A host's raw socket, and everybody who sends to it."""

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        self.sock = raw.receiver(protocol, "lo", 1 << 22)
        self._sender = raw.sender(1 << 22)

    def arrive(self, source: int, count: int = MANY) -> int:
        """How many of so many packets reach the socket."""
        packet = ipv4.build(src=source, dst=parse_ip(OURS), protocol=self.protocol, payload=bytes(20))
        for _ in range(count):
            self._sender.sendto(packet, (OURS, 0))
        arrived = 0
        while True:
            try:
                self.sock.recv(2048)
            except BlockingIOError:
                return arrived
            arrived += 1

    def close(self) -> None:
        self.sock.close()
        self._sender.close()


@pytest.fixture(scope="module")
def wires() -> Iterator[dict[int, Wire]]:
    with network() as net:
        host = net.namespace("host")
        host.address("lo", f"{OURS}/32")
        with host.entered():
            opened = {protocol: Wire(protocol) for protocol in (ipv4.ESP, ipv4.GRE)}
        yield opened
        for wire in opened.values():
            wire.close()


@pytest.fixture
def kept() -> Iterator[KeptOut]:
    opened = KeptOut(16)
    yield opened
    opened.close()


@pytest.fixture
def esp(wires: dict[int, Wire], kept: KeptOut) -> Iterator[Wire]:
    wire = wires[ipv4.ESP]
    kept.guard(wire.sock)
    yield wire
    kept.welcome(wire.sock)


def test_of_a_strangers_packets_few_are_seen_and_all_are_counted(kept: KeptOut, esp: Wire) -> None:
    arrived = esp.arrive(STRANGER)
    assert 1 <= arrived < MANY / 2
    assert kept.kept_out(ipv4.ESP) == MANY - arrived
    assert kept.kept_out(ipv4.GRE) == 0
    assert raw.losses(esp.sock)[0] == 0


def test_a_heeded_peer_is_heard_until_it_is_ignored(kept: KeptOut, esp: Wire) -> None:
    kept.heed(ipv4.ESP, PEER)
    assert esp.arrive(PEER) == MANY
    assert esp.arrive(STRANGER) < MANY / 2
    kept.ignore(ipv4.ESP, PEER)
    kept.ignore(ipv4.ESP, PEER)
    assert esp.arrive(PEER) < MANY / 2


def test_a_peer_is_heeded_for_one_protocol(kept: KeptOut, esp: Wire, wires: dict[int, Wire]) -> None:
    gre = wires[ipv4.GRE]
    kept.guard(gre.sock)
    kept.heed(ipv4.GRE, PEER)
    assert gre.arrive(PEER) == MANY
    assert esp.arrive(PEER) < MANY / 2
    kept.welcome(gre.sock)
    assert gre.arrive(STRANGER) == MANY


def test_whom_rules_name_is_no_stranger(kept: KeptOut, esp: Wire) -> None:
    kept.name(ipv4.ESP, [Network.parse("198.51.100.0/26"), Network.parse("192.0.2.7")])
    for source, heard in (
        ("198.51.100.63", True),
        ("198.51.100.64", False),
        ("192.0.2.7", True),
        ("192.0.2.6", False),
    ):
        assert (esp.arrive(parse_ip(source)) == MANY) == heard, source
    kept.name(ipv4.ESP, [Network.parse("192.0.2.0/24")])
    assert esp.arrive(parse_ip("192.0.2.6")) == MANY
    assert esp.arrive(parse_ip("198.51.100.63")) < MANY / 2


def test_when_there_is_no_room_for_a_peer_everybody_is_heard(esp: Wire, kept: KeptOut) -> None:
    small = KeptOut(2)
    small.guard(esp.sock)
    for number in range(4096):
        small.heed(ipv4.ESP, Ip4(parse_ip("10.0.0.0") + number))
    assert small.reason == "more peers than there is room for"
    assert esp.arrive(STRANGER) == MANY
    small.guard(esp.sock)
    assert esp.arrive(STRANGER) == MANY
    small.close()
    kept.guard(esp.sock)


def test_when_the_rules_name_too_many_networks_everybody_is_heard(kept: KeptOut, esp: Wire) -> None:
    kept.name(ipv4.ESP, [Network(parse_ip("10.0.0.0") + number, 0xFFFFFFFF) for number in range(5000)])
    assert kept.reason == "the rules name more networks than there is room for"
    assert esp.arrive(STRANGER) == MANY


def test_when_a_socket_takes_no_filter_everybody_is_heard(kept: KeptOut, esp: Wire) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER
        kept.guard(sock)
    assert kept.reason == "a socket takes no filter: Operation not permitted"
    assert esp.arrive(STRANGER) == MANY


def test_without_the_program_everybody_is_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="was not built"):
        KeptOut(16, tmp_path / "absent.o")
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"no object")
    with pytest.raises(KernelError):
        KeptOut(16, broken)
    with monkeypatch.context() as other:
        other.setitem(strangers._SHAPES, "named", (8, 1))
        with pytest.raises(KernelError, match="'named' has keys and values of 12 and 1 octets, not 8 and 1"):
            KeptOut(16)

    def unable(_most: int) -> KeptOut:
        raise KernelError("no room in the kernel")

    monkeypatch.setattr(strangers, "KeptOut", unable)
    found = strangers.keep_out(16)
    assert isinstance(found, AllWelcome)
    assert found.reason == "no room in the kernel"
    with socket.socket(socket.AF_UNIX) as sock:
        found.guard(sock)
        found.welcome(sock)
    found.heed(ipv4.ESP, PEER)
    found.ignore(ipv4.ESP, PEER)
    found.name(ipv4.ESP, ())
    assert found.kept_out(ipv4.ESP) == 0
    found.close()
