"""What the kernel's program shares with us: keys and values of its maps, as they lie in memory.

The other side is bpf/flow.h. Addresses and labels are in network byte order, everything else in the
machine's own.
"""

import struct
from enum import IntEnum
from typing import Final

from protocols.actions import Kind, Shortcut, Side

#: The programs, by the side they are for and whether the link layer has a header.
PROGRAMS: Final = {
    (Side.LAN, True): "lan_ethernet",
    (Side.LAN, False): "lan_plain",
    (Side.WAN, True): "wan_ethernet",
    (Side.WAN, False): "wan_plain",
}
FLOWS: Final = "flows"
SLOTS: Final = "slots"
HOPS: Final = "hops"
LEASE: Final = "lease"

#: How many ways out there may be (MOST_HOPS).
MOST_HOPS: Final = 1024

#: struct flow_key: source, target, label, protocol, side.
KEY: Final = struct.Struct("!IIIBBxx")
#: The first part of struct slot, in two orders of bytes: source, target, label …
_LEAVES: Final = struct.Struct("!III")
#: … hop, kind.
_WAY: Final = struct.Struct("=HH")
#: The rest: packets, octets, nanoseconds of the last one, sequence number.
COUNTERS: Final = struct.Struct("=QQQI20x")
COUNTERS_AT: Final = _LEAVES.size + _WAY.size
HOP_AT: Final = _LEAVES.size
SLOT_SIZE: Final = COUNTERS_AT + COUNTERS.size
#: Of memory full of slots, taken as 64-bit integers, those that count packets.
PACKETS: Final = slice(COUNTERS_AT // 8, None, SLOT_SIZE // 8)
SLOT_INDEX: Final = struct.Struct("=I")
#: Native, not just in native order: written as one, for the kernel may be reading it.
HOP_INDEX: Final = struct.Struct("@H")
LEASE_END: Final = struct.Struct("@Q")
_HOP_START: Final = struct.Struct("=I")
_HOP_GATEWAY: Final = struct.Struct("!I")
_HOP_MTU: Final = struct.Struct("=I")
#: How packets get to the next hop (enum means), and the Ethernet header for that.
_HOP_END: Final = struct.Struct("=I12s")
HOP_SIZE: Final = 28

#: Octets of the maps' keys and values.
SHAPES: Final = {
    FLOWS: (KEY.size, SLOT_INDEX.size),
    SLOTS: (SLOT_INDEX.size, SLOT_SIZE),
    HOPS: (SLOT_INDEX.size, HOP_SIZE),
    LEASE: (SLOT_INDEX.size, LEASE_END.size),
}


class Means(IntEnum):
    """enum means."""

    NEIGHBOUR = 0
    HEADER = 1
    PEER = 2


class KernelKind(IntEnum):
    """enum kind."""

    GRE = 1
    ESP = 2
    NATT = 3
    UDP = 4
    IP = 5


_KINDS: Final = {kind: KernelKind[kind.name] for kind in Kind}
_SIDES: Final = {Side.LAN: 0, Side.WAN: 1}


def key(shortcut: Shortcut) -> bytes:
    """What packets are recognised by."""
    side = _SIDES[shortcut.side]
    return KEY.pack(shortcut.sender, shortcut.addressed, shortcut.label, shortcut.protocol, side)


def slot(shortcut: Shortcut, hop: int) -> bytes:
    """What they leave with, and counters at zero."""
    leaves = _LEAVES.pack(shortcut.source, shortcut.target, shortcut.new_label)
    return leaves + _WAY.pack(hop, _KINDS[shortcut.kind]) + COUNTERS.pack(0, 0, 0, 0)


def hop(interface: int, gateway: int, mtu: int, means: Means = Means.NEIGHBOUR, header: bytes = b"") -> bytes:
    """A way out; gateway 0: the destination is a neighbour itself. ``header``: target, source; or nothing."""
    where = _HOP_START.pack(interface) + _HOP_GATEWAY.pack(gateway) + _HOP_MTU.pack(mtu)
    return where + _HOP_END.pack(means, header)
