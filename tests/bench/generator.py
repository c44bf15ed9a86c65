"""The load: prebuilt frames through AF_PACKET by sendmmsg(2), from one pinned core; or as in live.py.

It is a process of its own. ctypes calls the kernel once for up to BATCH packets, so that Python costs
nothing per packet; here that gives about 0.8 to 1 million packets a second.
"""

import contextlib
import ctypes
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Final

from relay.kernel import KernelError
from tests.bench.limits import raise_files
from tests.bench.live import LiveLoad
from tests.bench.netns import inside
from tests.bench.precedence import stand_alone
from tests.bench.sent import Sent

BATCH: Final = 256
#: Paced sending wakes this often, in seconds, and sends what has become due.
TICK: Final = 0.001
_SO_SNDBUFFORCE: Final = 32
_PACKET_QDISC_BYPASS: Final = 20
_SOL_PACKET: Final = 263


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("sent", ctypes.c_uint32))


class Load:
    """Frames ready to go out of one interface, round and round."""

    def __init__(self, namespace: str, interface: str, frames: list[bytes]) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        # Packets that wait for the gateway are ours until it takes them: never wait for that.
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 64 << 20)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._socket.bind((interface, 0))
        # At least one whole batch, so that a single flow is sent in batches too.
        repeat = -(-BATCH // len(frames))
        all_frames = frames * repeat
        self._count = len(all_frames)
        self._keep = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        self._iov = (_IoVec * self._count)()
        self._messages = (_MMsgHdr * self._count)()
        for at in range(self._count):
            buffer = self._keep[at % len(frames)]
            self._iov[at].base = ctypes.addressof(buffer)
            self._iov[at].length = len(buffer)
            self._messages[at].header.iov = ctypes.pointer(self._iov[at])
            self._messages[at].header.iov_length = 1
        self._at = 0
        self._libc = ctypes.CDLL(None, use_errno=True)

    def send(self, limit: int) -> int:
        """Send up to ``limit`` packets, at most BATCH; return how many left."""
        many = min(limit, BATCH, self._count - self._at)
        where = ctypes.byref(self._messages, self._at * ctypes.sizeof(_MMsgHdr))
        sent: int = self._libc.sendmmsg(self._socket.fileno(), where, many, 0)
        if sent < 0:
            return 0
        self._at = (self._at + sent) % self._count
        return sent

    def run(self, rate: float | None, seconds: float) -> Sent:
        """Send at ``rate`` packets a second, or as fast as it goes, for so long."""
        clock = time.perf_counter
        start = clock()
        end = start + seconds
        total = 0
        while (now := clock()) < end:
            if rate is None:
                total += self.send(BATCH)
                continue
            due = int((now - start) * rate) - total
            if due > 0:
                total += self.send(due)
            else:
                time.sleep(min(TICK, end - now))
        return Sent(total, clock() - start)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Generator:
    """The generator's process, as the bench drives it."""

    def __init__(self, pipe: Connection, pid: int) -> None:
        self._pipe = pipe
        self.pid = pid
        self._loads = 0

    def load(self, namespace: str, interface: str, frames: list[bytes], *, live: bool = False) -> int:
        """Prepare frames, to be sent by the kernel itself (``live``) or not; their number from now on."""
        self._pipe.send(("live" if live else "load", namespace, interface, frames))
        self._done()
        self._loads += 1
        return self._loads - 1

    def start(self, load: int, rate: float | None, seconds: float) -> None:
        """Begin to send; ``finish`` must follow."""
        self._pipe.send(("run", load, rate, seconds))

    def finish(self) -> Sent:
        """Wait for the end of what ``start`` began."""
        sent = self._done()
        assert isinstance(sent, Sent)
        return sent

    def _done(self) -> object:
        answer: object = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"generator: {answer}")
        return answer


@contextlib.contextmanager
def generator(core: int) -> Iterator[Generator]:
    """Start the generator on a core; end it after use."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(here, there, core), daemon=True
    )
    process.start()
    there.close()
    try:
        assert process.pid is not None
        yield Generator(here, process.pid)
    finally:
        here.close()
        process.join(2)
        if process.is_alive():
            process.kill()


def _serve(parents: Connection, pipe: Connection, core: int) -> None:
    parents.close()
    os.sched_setaffinity(0, {core})
    stand_alone()
    raise_files()  # each load keeps some open
    loads: list[Load | LiveLoad] = []
    while True:
        try:
            command = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        answer: object = None
        try:
            match command:
                case ("load", namespace, interface, frames):
                    loads.append(Load(namespace, interface, frames))
                case ("live", namespace, interface, frames):
                    loads.append(LiveLoad(namespace, interface, frames))
                case ("run", at, rate, seconds):
                    answer = loads[at].run(rate, seconds)
        except (OSError, RuntimeError, KernelError) as error:
            answer = str(error)
        pipe.send(answer)
