"""A gateway's kernel with the program at two interfaces, and a host on each side: no daemon.

    client 10.0.0.2 -- eth0 .1 [gateway] eth1 200.200.200.200 -- .1 eth0 [peer] 199.0.0.1

The gateway itself forwards nothing: what arrives at the other side was carried by the program.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from protocols import ipv4
from protocols.actions import Shortcut, Side
from protocols.addr import show_ip
from relay.fastpath.kernel import KernelFastPath
from tests.bpf.flows import PAYLOADS, SHORTCUTS
from tests.netns import Namespace, Network, network

#: Seconds that a packet may take, and for which one that must not come is waited.
PATIENCE: Final = 10.0
SILENCE: Final = 0.15

#: Where in the payload of each kind there is room for a number of four octets.
_NUMBER_AT: Final = {"gre": 8, "esp": 4, "natt": 12, "udp": 8, "ip": 0}

#: ESP's first few are user space's.
FIRST: Final = 100


def back(kind: str) -> Shortcut:
    """The way back of a kind's flow."""
    out = SHORTCUTS[kind]
    label, new_label = out.new_label, out.label
    if out.protocol == socket.IPPROTO_UDP:
        label, new_label = _turned(label), _turned(new_label)
    ends = (out.target, out.source, label, out.addressed, out.sender, new_label)
    return Shortcut(out.kind, out.protocol, Side.WAN, *ends)


def _turned(ports: int) -> int:
    return ports >> 16 | (ports & 0xFFFF) << 16


def numbered(kind: str, side: Side, number: int) -> bytes:
    """A packet of a kind as it arrives on a side, with a number in its payload."""
    shortcut = SHORTCUTS[kind] if side is Side.LAN else back(kind)
    payload = bytearray(PAYLOADS[kind])
    if kind == "gre":
        payload[6:8] = shortcut.label.to_bytes(2)
    elif shortcut.protocol == socket.IPPROTO_UDP:
        payload[:4] = shortcut.label.to_bytes(4)
    at = _NUMBER_AT[kind]
    payload[at : at + 4] = number.to_bytes(4)
    return ipv4.build(
        src=shortcut.sender, dst=shortcut.addressed, protocol=shortcut.protocol, payload=bytes(payload)
    )


def number_in(kind: str, packet: bytes) -> int:
    """The number in a packet, wherever it has arrived."""
    return int.from_bytes(packet[20 + _NUMBER_AT[kind] :][:4])


@dataclass(slots=True)
class Host:
    """A host's sockets: whole packets out, those of one protocol in."""

    out: socket.socket
    sock: socket.socket

    def send(self, packet: bytes) -> None:
        """Send a packet to whom its header says."""
        self.out.sendto(packet, (show_ip(ipv4.Header.from_bytes(packet).dst), 0))

    def receive(self) -> bytes:
        """The next packet of the protocol."""
        return self.sock.recv(65536)

    def nothing(self) -> bool:
        """Whether nothing comes for a while."""
        readable, _, _ = select.select([self.sock], [], [], SILENCE)
        return not readable

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.out.close()
        self.sock.close()


def host(namespace: Namespace, protocol: int) -> Host:
    """A host's sockets for a protocol."""
    with namespace.entered():
        out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    sock.settimeout(PATIENCE)
    return Host(out, sock)


class Wires:
    """The network. Made by :func:`wires`."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.client, self.gateway, self.peer = (net.namespace(n) for n in ("client", "gateway", "peer"))
        net.link(self.client, "eth0", self.gateway, "eth0")
        net.link(self.gateway, "eth1", self.peer, "eth0")
        _batch(self.client, "addr add 10.0.0.2/24 dev eth0", "route add default via 10.0.0.1")
        _batch(self.peer, "addr add 200.200.200.1/24 dev eth0", "addr add 199.0.0.1/24 dev lo")
        _batch(
            self.gateway,
            "addr add 10.0.0.1/24 dev eth0",
            "addr add 200.200.200.200/24 dev eth1",
            "route add default via 200.200.200.1",
        )
        self.settled()

    def settled(self) -> None:
        """Wait until the cables are connected: until the kernel has seen to that it loses packets."""
        end = time.monotonic() + PATIENCE
        for namespace in (self.client, self.gateway, self.peer):
            while _is_waiting(namespace.sh("ip -brief link show type veth")):
                assert time.monotonic() < end, "links did not come up"
                time.sleep(0.05)

    @contextlib.contextmanager
    def carrying(
        self,
        *,
        tcx: bool = True,
        xdp: bool = False,
        instance: str = "wires",
        lan: str = "eth0",
        wan: str = "eth1",
    ) -> Iterator[KernelFastPath]:
        """The program at the gateway's interfaces, with no flow yet."""
        with self.gateway.entered():
            fastpath = KernelFastPath(64, instance=instance, tcx=tcx, xdp=xdp)
        try:
            with self.gateway.entered():
                fastpath.attach(lan, Side.LAN)
                fastpath.attach(wan, Side.WAN)
            yield fastpath
        finally:
            with self.gateway.entered():
                fastpath.close()

    def offload(self, fastpath: KernelFastPath, kind: str) -> None:
        """Hand over both ways of a kind's flow: 0 out, 1 back."""
        with self.gateway.entered():
            for number, shortcut in enumerate((SHORTCUTS[kind], back(kind))):
                assert fastpath.prepare(number, shortcut)
                fastpath.offload(number)

    def passes(self, kind: str, numbers: range) -> None:
        """Numbered packets of a kind's flow are forwarded both ways, once and in order, and rewritten."""
        shortcuts = SHORTCUTS[kind], back(kind)
        protocol = shortcuts[0].protocol
        with host(self.client, protocol) as client, host(self.peer, protocol) as peer:
            for number in numbers:
                client.send(numbered(kind, Side.LAN, number))
                peer.send(numbered(kind, Side.WAN, number))
            for receiver, shortcut in zip((peer, client), shortcuts, strict=True):
                got = [receiver.receive() for _ in numbers]
                assert [number_in(kind, packet) for packet in got] == list(numbers)
                header = ipv4.Header.from_bytes(got[0])
                assert (header.src, header.dst, header.ttl) == (shortcut.source, shortcut.target, 63)
            assert not select.select([peer.sock, client.sock], [], [], SILENCE)[0]


def _is_waiting(links: str) -> bool:
    return any(line.split()[1] != "UP" for line in links.splitlines())


def _batch(namespace: Namespace, *lines: str) -> None:
    namespace.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


@contextlib.contextmanager
def wires() -> Iterator[Wires]:
    """The network, for a while."""
    with network() as net:
        yield Wires(net)
