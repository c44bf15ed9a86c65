"""How soon the gateway is back after another public address, with few and with many sessions.

A probe, one tunnel of ESP in UDP, sends all the time. What the gateway sends from the new address is stamped
by the kernel as it comes out; the change itself is heard of as the daemon hears of it, by netlink.
"""

import contextlib
import http.client
import itertools
import json
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from protocols.addr import parse_ip
from tests.bench import contenders
from tests.bench.callers import Callers, wall_clock
from tests.bench.contenders import GATEWAY_CORE, Contender
from tests.bench.limits import calls_per_connection
from tests.bench.netns import inside
from tests.bench.packets import frames
from tests.bench.report import Report, Result, Section
from tests.bench.setting import Setting
from tests.bench.topology import GATEWAY_LAN_MAC, LAN_MAC, WAN_ROUTER, Row
from tests.bench.tunnels import AT_ONCE, Both, pairs, persistent

NEW_ADDRESS: Final = "200.200.200.201"
#: The probe's client, and its peer, whom nobody else talks to.
PROBE: Final = ("10.1.200.1", "199.1.250.1")
#: Where the clients begin whose sessions there are many of.
CLIENTS: Final = "10.1.64.0"

#: Seconds between packets of the probe, of watching before the change and, at least, after it.
EVERY: Final = 0.002
BEFORE: Final = 0.3
AFTER: Final = 2.0
#: Seconds that all clients get to learn of the end of their calls.
PATIENCE: Final = 60.0

#: Seconds from the change to the first packet.
TARGET: Final = 1.0

_NOTES: Final = (
    f"first packet: seen outside, target {TARGET * 1000:.0f}",
    "as exported: vpnmasq_wan_change_first_packet_seconds",
    "all served: vpnmasq_wan_change_served_seconds, by when the core has ended or moved every session",
    "silence: the longest time without a packet of the probe, the change itself included",
    "last told: until the last client's control connection was closed",
)

_RTMGRP_IPV4_IFADDR: Final = 0x10
_ETH_P_ALL: Final = 0x0003
_SO_TIMESTAMPNS: Final = 35
_SO_RCVBUFFORCE: Final = 33
_TIMESPEC: Final = struct.Struct("qq")
_SOURCE: Final = slice(14 + 12, 14 + 16)
_PROTOCOL_AT: Final = 14 + 9
_UDP: Final = 17


@dataclass(frozen=True, slots=True)
class Observed:
    """Seconds from the kernel's word of the change to the first packet, and the longest time without any."""

    first: float
    silence: float


@dataclass(slots=True)
class Address:
    """Changes of the address, each of a daemon of its own."""

    setting: Setting
    ends: Callers

    def run(self, report: Report) -> None:
        """All measures."""
        section = Section(
            "address",
            "Another public address: from the kernel's word of it, ms",
            ["sessions", "on_change", "first packet", "as exported", "all served", "silence", "last told"],
        )
        for count in (1, 100, self.setting.effort.many):
            section.results.append(self._closing(count))
            section.results.append(self._keeping(count))
        section.notes += _NOTES
        report.sections.append(section)

    def _closing(self, count: int) -> Result:
        """With calls by PPTP, which end."""
        with self._standing(f"c{count}", "close") as contender:
            each = calls_per_connection(count)
            done = self.ends.establish(contender.row, CLIENTS, count // each, each)
            if done.errors:
                raise RuntimeError(f"{len(done.errors)} calls did not come up: {done.errors[:3]}")
            changed, observed = self._change(contender)
            told = self.ends.ended(contender.row) - changed
            return _result(f"{len(done.calls)} PPTP", "close", observed, _wan(contender), told)

    def _keeping(self, count: int) -> Result:
        """With tunnels of ESP and their IKE, which move."""
        with self._standing(f"k{count}", "keep") as contender:
            with contextlib.closing(Both(contender.row)) as both:
                wanted = pairs(CLIENTS, count)
                for at in range(0, count, AT_ONCE):
                    persistent(partial(both.establish, wanted[at : at + AT_ONCE]))
            _, observed = self._change(contender)
            return _result(f"{count} ESP, {count} IKE", "keep", observed, _wan(contender), None)

    @contextlib.contextmanager
    def _standing(self, name: str, on_change: str) -> Iterator[Contender]:
        with contenders.vpnmasq(
            name, self.setting.directory, core=GATEWAY_CORE, on_change=on_change
        ) as contender:
            yield contender

    def _change(self, contender: Contender) -> tuple[float, Observed]:
        """Give the gateway another address; when the kernel said so (wall clock), and what came of it."""
        row = contender.row
        with contextlib.closing(Both(row)) as both, _listening(row) as (kernel, tap):
            (tunnel,) = both.natt([PROBE[0]], PROBE[1])
            (frame,) = frames([tunnel.outbound], 64, LAN_MAC, GATEWAY_LAN_MAC)
            return _watch(row, kernel, tap, lambda: both.send(frame))


def _watch(
    row: Row, kernel: socket.socket, tap: socket.socket, send: Callable[[], None]
) -> tuple[float, Observed]:
    began = wall_clock()
    changed: float | None = None
    script: subprocess.Popen[str] | None = None
    stamps: list[tuple[float, bool]] = []
    while changed is None or wall_clock() < changed + AFTER:
        send()
        if script is None and wall_clock() > began + BEFORE:
            script = _readdress(row)
        readable, _, _ = select.select([kernel, tap], [], [], EVERY)
        if kernel in readable:
            kernel.recv(65536)
            changed = wall_clock() if changed is None else changed
        stamps += _came(tap)
        if wall_clock() > began + PATIENCE:
            raise RuntimeError("the kernel says nothing of another address")
    assert script is not None
    if script.wait():
        raise RuntimeError("the address could not be changed")
    fresh = [stamp for stamp, new in stamps if new]
    if not fresh:
        raise RuntimeError(f"nothing came from the new address within {AFTER:g} s")
    seen = sorted(stamp for stamp, _ in stamps)
    return changed, Observed(fresh[0] - changed, max(b - a for a, b in itertools.pairwise(seen)))


def _readdress(row: Row) -> subprocess.Popen[str]:
    script = f"addr flush dev eth1\naddr add {NEW_ADDRESS}/24 dev eth1\nroute add default via {WAN_ROUTER}\n"
    process = subprocess.Popen(("ip", "-n", row.gateway, "-batch", "-"), stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(script)
    process.stdin.close()
    return process


def _came(tap: socket.socket) -> list[tuple[float, bool]]:
    """When packets of the probe came (wall clock), and whether from the new address."""
    stamps: list[tuple[float, bool]] = []
    while True:
        try:
            frame, ancillary, _, address = tap.recvmsg(64, 64)
        except BlockingIOError:
            return stamps
        if address[2] == socket.PACKET_OUTGOING or frame[_PROTOCOL_AT] != _UDP:
            continue
        seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
        stamps.append((seconds + nanoseconds / 1e9, frame[_SOURCE] == parse_ip(NEW_ADDRESS).to_bytes(4)))


@contextlib.contextmanager
def _listening(row: Row) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The gateway's kernel on its addresses, and what comes out of the gateway."""
    with inside(row.gateway):
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with inside(row.wan):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    with kernel, tap:
        kernel.bind((0, _RTMGRP_IPV4_IFADDR))
        tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        tap.bind(("eth0", _ETH_P_ALL))
        tap.setblocking(False)
        yield kernel, tap


def _wan(contender: Contender) -> dict[str, Any]:
    """What the daemon says of the change."""
    connection = http.client.HTTPConnection("vpnmasq")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(connection):
        connection.sock.connect(str(contender.socket))
        connection.request("GET", "/v1/status")
        document = json.load(connection.getresponse())
    wan: dict[str, Any] = document["wan"]
    return wan


def _result(
    sessions: str, on_change: str, observed: Observed, wan: dict[str, Any], told: float | None
) -> Result:
    figures = {
        "first_packet": observed.first,
        "exported_first_packet": wan["first_packet_seconds"],
        "served": wan["served_seconds"],
        "silence": observed.silence,
        "told": told,
    }
    shown = ["" if value is None else f"{value * 1000:.1f}" for value in figures.values()]
    values = {"sessions": sessions, "on_change": on_change, **figures}
    return Result([sessions, on_change, *shown], values, observed.first <= TARGET)
