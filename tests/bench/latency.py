"""How long a packet takes through a gateway under a light load.

One process sends probes on the LAN side and receives them on the WAN side, so that both times are of one
clock: the sender's is taken just before send, the receiver's when the kernel puts the packet into the tap's
ring (packet(7)). SO_TIMESTAMPNS would be the stamp of an earlier interface where a packet goes on in a veth's
other end at once.
"""

import errno
import mmap
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from tests.bench.contenders import Contender
from tests.bench.generator import Generator
from tests.bench.lanes import Ends
from tests.bench.netns import inside
from tests.bench.packets import frames
from tests.bench.report import Result, Section, thousands
from tests.bench.topology import GATEWAY_LAN_MAC, LAN_MAC

#: Octets of a probe: nothing else has this length.
_SIZE: Final = 132
#: Seconds between two probes, and how long to wait for the last.
_EVERY: Final = 0.002
_LAST: Final = 0.2
# linux/if_packet.h
_SOL_PACKET: Final = 263
_PACKET_RX_RING: Final = 5
_PACKET_VERSION: Final = 10
_TPACKET_V2: Final = 1
_TP_STATUS_USER: Final = 1
#: Octets of a block and of a frame in it; blocks.
_RING: Final = (1 << 16, 256, 16)
#: struct tpacket2_hdr: status, where the frame begins, seconds and nanoseconds.
_FRAME: Final = struct.Struct("=I8xH2xII")
_SO_ATTACH_FILTER: Final = 26
#: All protocols: such a tap sees packets before the sink swallows them.
_ETH_P_ALL: Final = 0x0003
_SEQUENCE_AT: Final = 14 + 28

#: Classic BPF over an Ethernet frame: IP total length is _SIZE and protocol is GRE.
_FILTER: Final = (
    (0x28, 0, 0, 16),  # ldh [16]
    (0x15, 0, 3, _SIZE),  # jeq #_SIZE
    (0x30, 0, 0, 23),  # ldb [23]
    (0x15, 0, 1, 47),  # jeq #47
    (0x06, 0, 0, 0x40000),  # ret whole
    (0x06, 0, 0, 0),  # ret none
)


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds through the gateway, and the share of the probes that never came."""

    median: float
    p99: float
    lost: float


def delay(
    generator: Generator, contender: Contender, calls: Sequence[Ends], rate: float, seconds: float
) -> Delay:
    """Probe one contender while ``rate`` packets a second pass through it."""
    names = contender.row
    background = generator.load(
        names.lan, "eth0", frames([call.outbound for call in calls], 64, LAN_MAC, GATEWAY_LAN_MAC)
    )
    (frame,) = frames([calls[0].outbound], _SIZE, LAN_MAC, GATEWAY_LAN_MAC)
    with inside(names.lan):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind(("eth0", 0))
    with inside(names.wan):
        receiver = _receiver()
    with sender, receiver, mmap.mmap(receiver.fileno(), _RING[0] * _RING[2]) as ring:
        generator.start(background, rate, seconds + _LAST)
        sent = _probe(sender, bytearray(frame), seconds)
        generator.finish()
        delays = sorted(_collect(ring, sent))
    if len(delays) < 2:
        return Delay(float("nan"), float("nan"), 1.0)
    cuts = quantiles(delays, n=100)
    return Delay(cuts[49], cuts[98], 1 - len(delays) / len(sent))


def latency_section(measured: Sequence[tuple[str, Delay]], rate: float) -> Section:
    """The table of delays, by contender."""
    section = Section(
        "latency",
        f"Delay through the gateway at {thousands(rate)} packets/s (20 % of vpnmasq's peak)",
        ["contender", "p50 µs", "p99 µs", "lost"],
    )
    for name, found in measured:
        section.results.append(
            Result(
                [name, f"{found.median * 1e6:.0f}", f"{found.p99 * 1e6:.0f}", f"{found.lost:.1%}"],
                {
                    "contender": name,
                    "p50_us": found.median * 1e6,
                    "p99_us": found.p99 * 1e6,
                    "lost": found.lost,
                    "rate": rate,
                },
            )
        )
    section.notes.append(
        "from before send() to when a tap outside has it; the load comes in bursts of 1 ms and shares the "
        "probe's core, for all alike: read the differences"
    )
    return section


def _receiver() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL))
    sock.bind(("eth0", _ETH_P_ALL))
    program = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
    keep = memoryview(bytearray(program))
    address = _address(keep)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FILTER), address))
    block, frame, blocks = _RING
    sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
    sock.setsockopt(
        _SOL_PACKET, _PACKET_RX_RING, struct.pack("=IIII", block, blocks, frame, block // frame * blocks)
    )
    return sock


def _address(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _probe(sender: socket.socket, frame: bytearray, seconds: float) -> list[int]:
    """Send probes numbered from 0; return when each left."""
    time.sleep(0.05)  # let the background begin
    sent: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        struct.pack_into(">I", frame, _SEQUENCE_AT, len(sent))
        sent.append(time.clock_gettime_ns(time.CLOCK_REALTIME))
        try:
            sender.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # no room on the way: it is lost like others
                raise
        time.sleep(_EVERY)
    time.sleep(_LAST / 2)
    return sent


def _collect(ring: mmap.mmap, sent: Sequence[int]) -> list[float]:
    """What has come since the ring was made, in seconds: it has room for more than are sent."""
    delays: list[float] = []
    for at in range(0, len(ring), _RING[1]):
        status, begins, seconds, nanoseconds = _FRAME.unpack_from(ring, at)
        if not status & _TP_STATUS_USER:
            break
        (sequence,) = struct.unpack_from(">I", ring, at + begins + _SEQUENCE_AT)
        if sequence < len(sent):
            delays.append((seconds * 1_000_000_000 + nanoseconds - sent[sequence]) / 1e9)
    return delays
