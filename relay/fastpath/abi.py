"""What the kernel's program shares with us: keys and values of its maps, as they lie in memory.

The other side is bpf/flow.h. Addresses and labels are in network byte order, everything else in the
machine's own.
"""

import struct
from enum import IntEnum
from typing import Final, Literal

from protocols.actions import Kind, Shortcut, Side

#: The programs, by the side they are for and whether the link layer has a header.
PROGRAMS: Final = {
    (Side.LAN, True): "lan_ethernet",
    (Side.LAN, False): "lan_plain",
    (Side.WAN, True): "wan_ethernet",
    (Side.WAN, False): "wan_plain",
}
#: Those for drivers, by the side.
DRIVERS: Final = {Side.LAN: "lan_driver", Side.WAN: "wan_driver"}
FLOWS: Final = "flows"
HOPS: Final = "hops"
CONTROLS: Final = "controls"
STATIONS: Final = "stations"

#: How many ways out there may be (MOST_HOPS).
MOST_HOPS: Final = 1024
#: How far behind its home a flow may lie (MOST_REACH).
MOST_REACH: Final = 127

#: What an element of an array is known by.
INDEX: Final = struct.Struct("=I")
#: struct flow_key: source, target, label, protocol, side, whether whole; and as two words (union key).
KEY: Final = struct.Struct("!IIIBB?x")
KEY_WORDS: Final = struct.Struct("=QQ")
#: What follows in struct flow, in two orders of bytes: source, target, label …
_LEAVES: Final = struct.Struct("!III")
#: … hop, kind …
_WAY: Final = struct.Struct("=HH")
#: … packets, octets, nanoseconds of the last one, sequence number.
COUNTERS: Final = struct.Struct("=QQQI")
HOP_AT: Final = KEY.size + _LEAVES.size
COUNTERS_AT: Final = HOP_AT + _WAY.size
#: The rest is the line's: its reach.
REACH_AT: Final = COUNTERS_AT + COUNTERS.size
FLOW_SIZE: Final = 64
#: The same of memory full of flows: as integers of which kind it is to be taken, and which of them they are.
COUNTERS_OF_ALL: Final[tuple[tuple[Literal["Q", "I"], slice], ...]] = (
    ("Q", slice(COUNTERS_AT // 8, None, FLOW_SIZE // 8)),
    ("Q", slice(COUNTERS_AT // 8 + 1, None, FLOW_SIZE // 8)),
    ("Q", slice(COUNTERS_AT // 8 + 2, None, FLOW_SIZE // 8)),
    ("I", slice(COUNTERS_AT // 4 + 6, None, FLOW_SIZE // 4)),
)
#: Native, not just in native order: written as one, for the kernel may be reading it.
HOP_INDEX: Final = struct.Struct("@H")
REACH: Final = struct.Struct("@I")
KEY_WORD: Final = struct.Struct("@Q")
#: struct control: until when flows hold; seed, homes; whether rules are for PPTP.
LEASE_END: Final = struct.Struct("@Q")
_HASH: Final = struct.Struct("=QQQ")
PPTP: Final = struct.Struct("@Q")
PPTP_AT: Final = LEASE_END.size + _HASH.size
CONTROL_SIZE: Final = PPTP_AT + PPTP.size
_HOP_START: Final = struct.Struct("=I")
_HOP_GATEWAY: Final = struct.Struct("!I")
_HOP_MTU: Final = struct.Struct("=I")
#: How packets get to the next hop (enum means), and the Ethernet header for that.
_HOP_END: Final = struct.Struct("=I12s")
HOP_SIZE: Final = 28
#: An interface by its number, and struct station: its address of Ethernet.
INTERFACE: Final = struct.Struct("=Q")
_STATION: Final = struct.Struct("=6sxx")

#: Octets of the maps' keys and values.
SHAPES: Final = {
    FLOWS: (INDEX.size, FLOW_SIZE),
    HOPS: (INDEX.size, HOP_SIZE),
    CONTROLS: (INDEX.size, CONTROL_SIZE),
    STATIONS: (INTERFACE.size, _STATION.size),
}


class Means(IntEnum):
    """enum means."""

    NEIGHBOUR = 0
    HEADER = 1
    PEER = 2
    DRIVER = 3


class KernelKind(IntEnum):
    """enum kind."""

    GRE = 1
    ESP = 2
    NATT = 3
    UDP = 4
    IP = 5


_KINDS: Final = {kind: KernelKind[kind.name] for kind in Kind}
_SIDES: Final = {Side.LAN: 1, Side.WAN: 2}


def key(shortcut: Shortcut) -> bytes:
    """What packets are recognised by."""
    side, whole = _SIDES[shortcut.side], shortcut.kind is Kind.IP
    return KEY.pack(shortcut.sender, shortcut.addressed, shortcut.label, shortcut.protocol, side, whole)


def leaves(shortcut: Shortcut, hop: int) -> bytes:
    """What they leave with, and counters at zero."""
    packed = _LEAVES.pack(shortcut.source, shortcut.target, shortcut.new_label)
    return packed + _WAY.pack(hop, _KINDS[shortcut.kind]) + COUNTERS.pack(0, 0, 0, 0)


def control(until: int, seed: tuple[int, int], homes: int) -> bytes:
    """What holds for all flows, and that rules are for PPTP."""
    return LEASE_END.pack(until) + _HASH.pack(*seed, homes) + PPTP.pack(1)


def hop(interface: int, gateway: int, mtu: int, means: Means = Means.NEIGHBOUR, header: bytes = b"") -> bytes:
    """A way out; gateway 0: the destination is a neighbour itself. ``header``: target, source; or nothing."""
    where = _HOP_START.pack(interface) + _HOP_GATEWAY.pack(gateway) + _HOP_MTU.pack(mtu)
    return where + _HOP_END.pack(means, header)


def station(address: bytes) -> bytes:
    """Whom an interface's driver takes frames for."""
    return _STATION.pack(address)
