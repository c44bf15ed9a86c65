"""A takeover and a crash restart with many sessions: how long they take, and what a flow loses by them."""

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

from protocols.addr import parse_ip
from relay.state.file import StateFile
from tests.bench import core
from tests.bench.callers import Call, Callers
from tests.bench.contenders import (
    CHECKOUT,
    GATEWAY_CORE,
    GENERATOR_CORE,
    RULES,
    USER_SPACE,
    configuration,
    stand,
)
from tests.bench.limits import calls_per_connection, raise_files
from tests.bench.netns import inside, sh_in
from tests.bench.report import Report, Result, Section
from tests.bench.scale import MANY_CLIENTS
from tests.bench.setting import Setting
from tests.bench.topology import Row

#: Seconds: of loss by a takeover or a crash, and from the start to "ready" without and with many sessions.
LOSS: Final = 1.0
READY_EMPTY: Final = 1.0
READY_MANY: Final = 3.0
#: Packets a second of the flow that is watched, and their octets.
RATE: Final = 1000
_SIZE: Final = 100
_NUMBER_AT: Final = 40
_PATIENCE: Final = 60.0
_STARTS: Final = 5


#: Seconds until "ready", packets lost, seconds of silence.
_Watched = tuple[float, int, float]


@dataclass(slots=True)
class _Flow:
    """One call's packets from the LAN to the WAN at a steady rate, while this is entered."""

    row: Row
    call: Call
    sent: int = 0
    #: The numbers that came, and when.
    came: list[tuple[int, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        with inside(self.row.lan):
            out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with inside(self.row.wan):
            into = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE)
        into.settimeout(0.5)
        self._threads = [
            threading.Thread(target=self._send, args=(out,)),
            threading.Thread(target=self._receive, args=(into,)),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, out: socket.socket) -> None:
        packet, target = bytearray(self.call.outbound.packet(_SIZE)), (self.call.outbound.destination, 0)
        due = time.monotonic()
        with out:
            while not self._stop.is_set():
                packet[_NUMBER_AT : _NUMBER_AT + 4] = self.sent.to_bytes(4)
                out.sendto(packet, target)
                self.sent += 1
                due += 1 / RATE
                time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self, into: socket.socket) -> None:
        # Whom the far end sees: the gateway's public address.
        source = parse_ip(self.call.inbound.destination).to_bytes(4)
        with into:
            while True:
                try:
                    packet = into.recv(2048)
                except TimeoutError:
                    if self._stop.is_set():
                        return
                    continue
                if packet[12:16] == source:
                    number = int.from_bytes(packet[_NUMBER_AT : _NUMBER_AT + 4])
                    self.came.append((number, time.monotonic()))

    @property
    def lost(self) -> int:
        """Packets that did not come."""
        return self.sent - len({number for number, _ in self.came})

    @property
    def gap(self) -> float:
        """Seconds of the longest silence."""
        times = [when for _, when in self.came]
        return max((b - a for a, b in pairwise(times)), default=0.0)


@dataclass(slots=True)
class _Daemon:
    """One process after the other, by the same configuration."""

    row: Row
    config: Path
    process: subprocess.Popen[bytes] | None = None
    _runs: int = 0

    def start(self, *options: str) -> float:
        """Start one; seconds until it says "ready"."""
        self._runs += 1
        log = self.config.with_suffix(f".log{self._runs}")
        began = time.monotonic()
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                (
                    *("ip", "netns", "exec", self.row.gateway, sys.executable, "-m", "relay"),
                    *("run", "--timeout", "0", "-c", str(self.config), *options),
                ),
                cwd=CHECKOUT,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_prepare,
            )
        while b'"event": "ready"' not in log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > began + _PATIENCE:
                raise RuntimeError(f"the daemon did not get ready: {log.read_text()[-2000:]}")
            time.sleep(0.005)
        return time.monotonic() - began

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the one that runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
        if self.process is not None:
            self.process.wait(_PATIENCE)


def _prepare() -> None:
    # Both cores: the old process forwards while the new one gets ready.
    os.sched_setaffinity(0, {GENERATOR_CORE, GATEWAY_CORE})
    raise_files()


class Restart:
    """All measures of restarts."""

    def __init__(self, setting: Setting, ends: Callers) -> None:
        self._setting = setting
        self._ends = ends

    def run(self, report: Report) -> None:
        """Measure, and enter it in the report."""
        many = self._setting.effort.many
        with self._daemon() as (row, daemon):
            empty = []
            for _ in range(_STARTS):
                empty.append(daemon.start())
                daemon.end()
            daemon.start()
            each = calls_per_connection(2 * many)  # the new process has them as well
            done = self._ends.establish(row, MANY_CLIENTS, many // each, each)
            if done.errors:
                raise RuntimeError(f"{len(done.calls)} of {many} calls: {done.errors[:3]}")
            takeover = self._watched(row, done.calls[0], daemon, self._take_over)
            self._written(daemon)
            crash = self._watched(row, done.calls[0], daemon, self._crash)
        report.sections.append(_interruptions(len(done.calls), takeover, crash))
        report.sections.append(_starts(statistics.median(empty), len(done.calls), crash[0]))
        report.sections.append(_snapshot(many))

    @contextlib.contextmanager
    def _daemon(self) -> Iterator[tuple[Row, _Daemon]]:
        directory = self._setting.directory
        with stand("restart", USER_SPACE) as row:
            # What passes is to be read here, and not only counted.
            sh_in(row.wan, "nft", "delete", "table", "netdev", "swallow")
            config = directory / "restart.toml"
            text = configuration("bench-restart", RULES, directory / "restart.sock")
            config.write_text(text.replace('directory = ""', f'directory = "{directory}"'))
            daemon = _Daemon(row, config)
            try:
                yield row, daemon
            finally:
                daemon.end(signal.SIGKILL)

    def _watched(self, row: Row, call: Call, daemon: _Daemon, work: Callable[[_Daemon], float]) -> _Watched:
        """Do it while a flow passes; seconds until "ready", packets lost, seconds of silence."""
        with _Flow(row, call) as flow:
            time.sleep(1)
            seconds = work(daemon)
            time.sleep(1)
        return seconds, flow.lost, flow.gap

    @staticmethod
    def _take_over(daemon: _Daemon) -> float:
        old = daemon.process
        seconds = daemon.start("--takeover")
        assert old is not None
        old.wait(_PATIENCE)
        return seconds

    @staticmethod
    def _crash(daemon: _Daemon) -> float:
        daemon.end(signal.SIGKILL)
        return daemon.start()

    def _written(self, daemon: _Daemon) -> None:
        """Wait until the state is on the disk."""
        state = self._setting.directory / "bench-restart.state"
        before = state.stat().st_mtime_ns if state.exists() else 0
        end = time.monotonic() + _PATIENCE
        while (not state.exists() or state.stat().st_mtime_ns == before) and time.monotonic() < end:
            time.sleep(0.1)


def _interruptions(
    calls: int, takeover: tuple[float, int, float], crash: tuple[float, int, float]
) -> Section:
    section = Section(
        "restart",
        f"A restart with {calls} calls, and a flow of {RATE} packets/s in user space",
        ["what", "s from start to ready", "packets lost", "longest silence, s"],
    )
    for what, (seconds, lost, gap) in (("takeover", takeover), ("kill -9, started again", crash)):
        values: dict[str, float | str | None] = {
            "what": what,
            "calls": calls,
            "seconds": seconds,
            "lost": lost,
            "gap": gap,
        }
        cells = [what, f"{seconds:.2f}", str(lost), f"{gap:.2f}"]
        section.results.append(Result(cells, values, gap < LOSS if what == "takeover" else None))
    section.notes.append(f"target: less than {LOSS:g} s of silence by a takeover")
    return section


def _starts(empty: float, calls: int, many: float) -> Section:
    section = Section("start", "From the start of the process to ready", ["state", "s"])
    for what, seconds, most in (("empty", empty, READY_EMPTY), (f"{calls} calls", many, READY_MANY)):
        section.results.append(
            Result([what, f"{seconds:.2f}"], {"state": what, "seconds": seconds}, seconds < most)
        )
    section.notes.append(f"targets: {READY_EMPTY:g} s and {READY_MANY:g} s, Python's own start included")
    return section


def _snapshot(calls: int) -> Section:
    """What a snapshot weighs and costs: of the core alone, written to a disk."""
    section = Section("snapshot", f"A snapshot of {calls} calls", ["octets each", "s of work", "s to write"])
    gateway = core.core(calls).gateway
    with tempfile.TemporaryDirectory(prefix="vpnmasq-bench-") as directory:
        file = StateFile(Path(directory), "bench")
        began = time.perf_counter()
        lines = list(file.lines(gateway.snapshot(now=0.0)))
        made = time.perf_counter()
        octets = file.write(lines)
        written = time.perf_counter()
    work, writing = made - began, written - made
    section.results.append(
        Result(
            [f"{octets / calls:.0f}", f"{work:.2f}", f"{writing:.2f}"],
            {"calls": calls, "octets": octets, "work": work, "writing": writing},
        )
    )
    section.notes.append("the work is done in slices of 2 ms, and takes 5 % of the time at most")
    return section
