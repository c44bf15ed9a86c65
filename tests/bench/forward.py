"""Generic forwards of TCP beside HAProxy: octets per second that one peer pulls from an inside server.

Both stand on one gateway, and one server and one peer are behind and before them; they are taken in turns.
"""

import contextlib
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.contenders import (
    CHECKOUT,
    GATEWAY_CORE,
    GENERATOR_CORE,
    PATIENCE,
    USER_SPACE,
    configuration,
    daemon,
    stand,
)
from tests.bench.netns import inside
from tests.bench.report import Report, Result, Section
from tests.bench.setting import Setting
from tests.bench.topology import GATEWAY_WAN, LAN_ROUTER, Row

#: Connections at once.
NUMBERS: Final = (1, 100)
#: Of HAProxy's throughput.
TARGET: Final = 0.5
#: Samples are short, so there are more of them than of other measures.
_SAMPLES: Final = 3
_SECONDS: Final = 1.0
#: Seconds of full load before a sample is taken: windows grow.
_WARM: Final = 0.5
_SERVER: Final = 9000
_PORTS: Final = {"vpnmasq": 8000, "haproxy": 8001, "haproxy, splice": 8002}

_FORWARD: Final = f"""
[[forward]]
name = "bench"
listen = "tcp/{_PORTS["vpnmasq"]}"
server = "{LAN_ROUTER}:{_SERVER}"
allow = ["any"]
source = "gateway"
"""

_HAPROXY: Final = f"""
global
    nbthread 1
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen plain
    bind {GATEWAY_WAN}:{_PORTS["haproxy"]}
    server one {LAN_ROUTER}:{_SERVER}
listen splice
    bind {GATEWAY_WAN}:{_PORTS["haproxy, splice"]}
    option splice-auto
    server one {LAN_ROUTER}:{_SERVER}
"""


@dataclass(frozen=True, slots=True)
class Forward:
    """The measure of ``python -m tests.bench forward``."""

    setting: Setting

    def run(self, report: Report) -> None:
        """One bulk connection, and many."""
        install_haproxy()
        with self._standing() as row:
            report.sections.append(_section({n: self._rates(row, n) for n in NUMBERS}))

    @contextlib.contextmanager
    def _standing(self) -> Iterator[Row]:
        """A row with the server inside and both contenders on the gateway."""
        config, proxy = self.setting.directory / "forward.toml", self.setting.directory / "haproxy.cfg"
        config.write_text(configuration("bench-forward", _FORWARD, self.setting.directory / "forward.sock"))
        proxy.write_text(_HAPROXY)
        with contextlib.ExitStack() as stack:
            row = stack.enter_context(stand("forward", USER_SPACE))
            source = (sys.executable, "-m", "tests.bench.source", str(_SERVER))
            stack.enter_context(daemon(row.lan, GENERATOR_CORE, source))
            ours = (sys.executable, "-m", "relay", "run", "-c", str(config))
            stack.enter_context(daemon(row.gateway, GATEWAY_CORE, ours))
            theirs = ("sh", "-c", f"haproxy -c -f {proxy} && echo ready && exec haproxy -db -f {proxy}")
            stack.enter_context(daemon(row.gateway, GATEWAY_CORE, theirs))
            yield row

    def _rates(self, row: Row, number: int) -> dict[str, float]:
        """Octets per second through each contender, taken in turns: medians."""
        rounds = self.setting.effort.rounds * _SAMPLES
        taken = [{name: _pull(row, port, number) for name, port in _PORTS.items()} for _ in range(rounds)]
        return {name: statistics.median(sample[name] for sample in taken) for name in _PORTS}


def install_haproxy() -> None:
    """Install Debian's package if it is not there.

    Raises:
        RuntimeError: it cannot be installed.
    """
    if shutil.which("haproxy"):
        return
    script = 'root=$1; . "$root/contrib/lib/setup.sh"; log=$(mktemp); install_packages haproxy:haproxy'
    done = subprocess.run(("bash", "-c", script, "bench", str(CHECKOUT)), stdout=sys.stderr, check=False)
    if done.returncode or not shutil.which("haproxy"):
        raise RuntimeError("haproxy is missing: apt-get install haproxy")


def _pull(row: Row, port: int, number: int) -> float:
    """Octets per second that come over so many connections."""
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(number):
            selector.register(stack.enter_context(_dial(row, port)), selectors.EVENT_READ)
        _drain(selector, _WARM)
        return _drain(selector, _SECONDS)


def _dial(row: Row, port: int) -> socket.socket:
    end = time.monotonic() + PATIENCE
    while True:
        with inside(row.wan):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.connect((GATEWAY_WAN, port))
        except ConnectionRefusedError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            sock.setblocking(False)
            return sock


def _drain(selector: selectors.BaseSelector, seconds: float) -> float:
    """Take what comes for a while; octets per second. The kernel throws them away (tcp(7), MSG_TRUNC)."""
    buffer, octets, begin = bytearray(1 << 20), 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            got = key.fileobj.recv_into(buffer, flags=socket.MSG_TRUNC)
            if not got:
                raise RuntimeError("a forwarded connection has ended by itself")
            octets += got
    return octets / spent


def _section(rates: dict[int, dict[str, float]]) -> Section:
    section = Section(
        "forward", "Forwarded TCP, megabits per second", ["connections", "through", "Mbit/s", "of haproxy"]
    )
    for number, found in rates.items():
        best = max(rate for name, rate in found.items() if name != "vpnmasq")
        for name, rate in found.items():
            ratio = rate / best
            section.results.append(
                Result(
                    [str(number), name, f"{rate * 8 / 1e6:.0f}", f"{ratio:.2f}"],
                    {"connections": number, "contender": name, "octets_per_second": rate, "ratio": ratio},
                    ratio >= TARGET if name == "vpnmasq" else None,
                )
            )
    section.notes.append(f"target for vpnmasq: {TARGET} of the better one of haproxy's ways")
    section.notes.append("server and peer share a core, and the gateway's programs have the other")
    return section
