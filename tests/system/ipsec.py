"""IPsec spoken by hand: UDP sockets of hosts, IKE messages, and ESP packets."""

import socket
from typing import Any, Final

from protocols import ipv4
from protocols.addr import parse_ip, show_ip
from protocols.esp.codec import Esp
from protocols.ike.header import LENGTH, IkeHeader
from tests.netns import Namespace
from tests.system.home import PATIENCE, Gre

ESP: Final = 50


class Udp:
    """A UDP socket of a host."""

    def __init__(self, host: Namespace, port: int) -> None:
        with host.entered():
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("0.0.0.0", port))
        self.sock.settimeout(PATIENCE)

    def send(self, payload: bytes, to: str, port: int) -> None:
        self.sock.sendto(payload, (to, port))

    def receive(self) -> tuple[bytes, str, int]:
        payload, (address, port) = self.sock.recvfrom(65536)
        return payload, address, port


def ike(initiator: int, responder: int = 0, *, exchange: int = 34, number: int = 0, size: int = 0) -> bytes:
    """An IKEv2 message of a host that began the IKE SA, or of the responder to it."""
    flags = 0x08 if not responder else 0x28
    header = IkeHeader(initiator, responder, exchange, number, LENGTH + size, next_payload=33, flags=flags)
    return header.to_bytes() + bytes(range(256)) * (size // 256) + bytes(size % 256)


def esp(gre: Gre, src: str, dst: str, spi: int, sequence: int, payload: bytes = bytes(40), **ip: Any) -> None:
    inner = Esp(spi, sequence, payload).to_bytes()
    gre.send_packet(ipv4.build(src=parse_ip(src), dst=parse_ip(dst), protocol=ESP, payload=inner, **ip), dst)


def told(packet: bytes) -> tuple[str, str, int, int]:
    header = ipv4.Header.from_bytes(packet)
    read = Esp.from_bytes(packet[header.length :])
    return show_ip(header.src), show_ip(header.dst), read.spi, read.sequence
