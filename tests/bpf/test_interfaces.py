"""Interfaces of other kinds, and datagrams that hardware was to finish."""

import contextlib
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from protocols import ipv4
from protocols.actions import Side
from protocols.addr import show_ip
from tests.bpf.flows import CLIENT, GATEWAY, PEER, SHORTCUTS, UDP
from tests.bpf.test_rewrites import with_sum
from tests.bpf.wires import FIRST, PATIENCE, Host, Wires, back, host, number_in, numbered, wires
from tests.netns import requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

SOME: Final = range(FIRST, FIRST + 5)

# linux/if_tun.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001

#: linux/udp.h: the size of the datagrams that one call's octets are to become.
_UDP_SEGMENT: Final = 103


@pytest.fixture(scope="module")
def wired() -> Iterator[Wires]:
    with wires() as made:
        yield made


# -- interfaces ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tun(wired: Wires, destination: str) -> Iterator[int]:
    """An interface of IP alone in the gateway, tun0; its other end is the descriptor."""
    with wired.gateway.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN_NO_PI))
        wired.gateway.sh("ip link set tun0 up")
        wired.gateway.sh(f"ip route add {destination} dev tun0")
        yield fd
    finally:
        os.close(fd)


def read(fd: int) -> bytes:
    """The next IPv4 packet that leaves by a tun device."""
    while select.select([fd], [], [], PATIENCE)[0]:
        packet = os.read(fd, 65536)
        if packet[0] >> 4 == 4:
            return packet
    raise TimeoutError


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_an_interface_without_ethernet(wired: Wires, kind: str, side: Side) -> None:
    """ppp and tun: the gateway's link to its provider, or a client's to the gateway."""
    beyond, own = ("199.0.0.0/30", back(kind)) if side is Side.WAN else ("10.0.0.2/32", SHORTCUTS[kind])
    far = wired.client if side is Side.WAN else wired.peer
    lan, wan, other = ("eth0", "tun0", Side.LAN) if side is Side.WAN else ("tun0", "eth1", Side.WAN)
    with (
        tun(wired, beyond) as fd,
        host(far, own.protocol) as there,
        wired.carrying(lan=lan, wan=wan) as fastpath,
    ):
        wired.offload(fastpath, kind)
        for number in SOME:
            os.write(fd, numbered(kind, side, number))
            packet = there.receive()
            assert number_in(kind, packet) == number
            assert ipv4.Header.from_bytes(packet).src == own.source
            there.send(numbered(kind, other, number))
            assert number_in(kind, read(fd)) == number


def test_a_vlan(wired: Wires) -> None:
    """Tagged packets are those of the interface for the tag, and no others of the wire's."""
    try:
        wired.gateway.sh("ip link add link eth1 name eth1.5 type vlan id 5")
    except RuntimeError as error:
        pytest.skip(f"this kernel has no VLANs: {error}")
    wired.peer.sh("ip link add link eth0 name eth0.5 type vlan id 5")
    wired.gateway.address("eth1.5", "192.0.2.200/24")
    wired.peer.address("eth0.5", "192.0.2.1/24")
    wired.gateway.sh("ip route add 199.0.0.0/24 via 192.0.2.1")
    wired.peer.sh("ip route add 200.200.200.200 via 192.0.2.200")
    with wired.carrying(wan="eth1.5") as fastpath:
        wired.offload(fastpath, "esp")
        wired.passes("esp", SOME)
    with wired.carrying() as fastpath, host(wired.client, 50) as client, host(wired.peer, 50) as peer:
        wired.offload(fastpath, "esp")
        peer.send(numbered("esp", Side.WAN, FIRST))
        assert client.nothing()
    wired.gateway.sh("ip link del eth1.5")
    wired.peer.sh("ip link del eth0.5")


# -- datagrams -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def changed(wired: Wires, change: str, back: str) -> Iterator[None]:
    """The gateway's way out, otherwise than it is."""
    wired.gateway.sh(change)
    try:
        yield
    finally:
        wired.gateway.sh(back)


@contextlib.contextmanager
def sender(wired: Wires, *, segment: int = 0) -> Iterator[socket.socket]:
    """An ordinary socket of the client's, whose datagrams are the flow's."""
    with wired.client.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((show_ip(CLIENT), UDP.label >> 16))
        sock.connect((show_ip(PEER), UDP.label & 0xFFFF))
        if segment:
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, segment)
        yield sock


def arrived(peer: Host, number: int) -> list[bytes]:
    """So many datagrams, each with its checksum made, and no more."""
    got = [peer.receive() for _ in range(number)]
    assert peer.nothing()
    for packet in got:
        assert packet == with_sum(packet)
        assert packet[26:28] != bytes(2)
        assert ipv4.Header.from_bytes(packet).src == GATEWAY
    return got


def test_checksums_that_hardware_was_to_make(wired: Wires) -> None:
    """CHECKSUM_PARTIAL: a veth's sender leaves them unfinished, and this way out finishes them itself."""
    change = changed(wired, "ethtool -K eth1 tx off", "ethtool -K eth1 tx on")
    with change, wired.carrying() as fastpath, host(wired.peer, 17) as peer, sender(wired) as sock:
        wired.offload(fastpath, "udp")
        for number in SOME:
            sock.send(b"%d" % number)
        assert [packet[28:] for packet in arrived(peer, len(SOME))] == [b"%d" % number for number in SOME]
        carried = fastpath.carried(0)
        assert carried is not None
        assert carried[0] == len(SOME)


def test_datagrams_that_come_as_one_leave_as_many(wired: Wires) -> None:
    """GSO: the client gives its kernel several at once, and they are merged until they leave the gateway."""
    octets = bytes(range(250)) * 10
    with (
        changed(wired, "ethtool -K eth1 tx off gso off", "ethtool -K eth1 tx on gso on"),
        wired.carrying() as fastpath,
        host(wired.peer, 17) as peer,
        sender(wired, segment=1000) as sock,
    ):
        wired.offload(fastpath, "udp")
        sock.send(octets)
        got = arrived(peer, 3)
        assert [len(packet) for packet in got] == [1028, 1028, 528]
        assert b"".join(packet[28:] for packet in got) == octets
        carried = fastpath.carried(0)
        assert carried is not None
        assert carried[:2] == (3, sum(map(len, got)))


def test_merged_datagrams_too_long_for_the_way_out_are_user_spaces(wired: Wires) -> None:
    with (
        changed(wired, "ip link set eth1 mtu 900", "ip link set eth1 mtu 1500"),
        wired.carrying() as fastpath,
        host(wired.peer, 17) as peer,
        sender(wired, segment=1000) as sock,
    ):
        wired.offload(fastpath, "udp")
        sock.send(bytes(2500))
        assert peer.nothing()
        assert fastpath.carried(0) == (0, 0, 0.0, 0)
