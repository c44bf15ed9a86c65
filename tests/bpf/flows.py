"""One flow of each kind, as user space and the kernel know it; and packets of theirs."""

from typing import Any, Final

from protocols import ipv4
from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4, parse_ip
from protocols.esp import flows as esp
from protocols.gre import flows as gre
from protocols.natt import flows as natt
from protocols.sessions import Traffic

CLIENT: Final = parse_ip("10.0.0.2")
GATEWAY: Final = parse_ip("200.200.200.200")
SERVER: Final = parse_ip("10.0.0.9")
PEER: Final = parse_ip("199.0.0.1")

#: Sequence and payload, after the IP header.
GRE_DATA: Final = bytes.fromhex("3001 880b 0004 0064 00000007 c0210101")
ESP_DATA: Final = bytes.fromhex("0a0b0c0d 00000100") + bytes(40)
NATT_DATA: Final = bytes.fromhex("1194 1194 0038 0000 0a0b0c0d 00000100") + bytes(40)
UDP_DATA: Final = bytes.fromhex("d431 1388 000c 0000 68656c6f")

GRE: Final = gre.Flow(
    side=Side.LAN,
    sender=CLIENT,
    addressed=PEER,
    shown_id=0x64,
    source=GATEWAY,
    target=PEER,
    call_id=0xC001,
    out=Side.WAN,
)
ESP: Final = esp.Flow(
    side=Side.LAN,
    sender=CLIENT,
    addressed=PEER,
    spi=0x0A0B0C0D,
    source=GATEWAY,
    target=PEER,
    out=Side.WAN,
)
NATT: Final = natt.Flow(
    side=Side.LAN,
    sender=(CLIENT, 4500),
    addressed=(PEER, 4500),
    source=(GATEWAY, 61000),
    target=(PEER, 4500),
    traffic=Traffic(),
)
UDP: Final = Shortcut(Kind.UDP, 17, Side.LAN, CLIENT, PEER, 0xD4311388, GATEWAY, Ip4(PEER + 1), 0xEE001389)
IP: Final = Shortcut(Kind.IP, 94, Side.LAN, CLIENT, PEER, 0, GATEWAY, Ip4(PEER + 1), 0)

SHORTCUTS: Final = {
    "gre": GRE.shortcut,
    "esp": ESP.shortcut,
    "natt": NATT.shortcut,
    "udp": UDP,
    "ip": IP,
}
PAYLOADS: Final = {
    "gre": GRE_DATA,
    "esp": ESP_DATA,
    "natt": NATT_DATA,
    "udp": UDP_DATA,
    "ip": b"what nobody has to know",
}


def packet(kind: str, payload: bytes | None = None, **header: Any) -> bytes:
    """A packet of a kind's flow, as its sender sends it; ``header`` is for ``ipv4.build``."""
    shortcut = SHORTCUTS[kind]
    fields = {"src": shortcut.sender, "dst": shortcut.addressed, "protocol": shortcut.protocol} | header
    return ipv4.build(payload=PAYLOADS[kind] if payload is None else payload, **fields)
