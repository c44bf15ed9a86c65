"""Loads faster than sockets can send: frames that the kernel makes itself (BPF_F_TEST_XDP_LIVE_FRAMES).

A program (xdp/frames.bpf.c) is run as often as time allows, and each run sends a frame or, before the next
is due, none. The gateway takes them in as from a network card: in its driver, out of a pool of pages.
"""

import contextlib
import ctypes
import errno
import functools
import os
import signal
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relay.fastpath.libbpf import libbpf
from tests.bench.netns import inside, sh_in
from tests.bench.sent import Sent
from tests.bpf.kernel import TestRun, builder

#: linux/bpf.h
_LIVE_FRAMES: Final = 2
#: Frames sent in one go, and runs that time does not suffice for.
_BATCH: Final = 64
_ALWAYS: Final = (1 << 31) - 1
#: Of a frame, what the program puts in (struct head).
_HEAD: Final = 56
#: struct load: interface, heads, next, pace, due, sent.
_LOAD: Final = struct.Struct("=IIIIQQ")
_INDEX: Final = struct.Struct("=I")
_SOURCE: Final = Path(__file__).with_name("xdp") / "frames.bpf.c"


def take_in(namespace: str, interface: str) -> None:
    """Have a veth's driver ready for frames that come without a socket (NAPI, which goes with GRO)."""
    sh_in(namespace, "ethtool", "-K", interface, "gro", "on")


def work_on(core: int, namespace: str, interface: str) -> None:
    """Have a veth's driver, programs of XDP included, do its work on a core: by a thread that stays there."""
    take_in(namespace, interface)
    before = _workers()
    sh_in(namespace, "sh", "-c", f"echo 1 > /sys/class/net/{interface}/threaded")
    for pid in _workers() - before:
        os.sched_setaffinity(pid, {core})


def _workers() -> set[int]:
    """The kernel's threads of all drivers."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            if (process / "comm").read_text().startswith("napi/"):
                found.add(int(process.name))
    return found


class LiveLoad:
    """Frames ready to go out of one interface, round and round; all are of one size, and end in zeros.

    Raises:
        RuntimeError: the program cannot be compiled here.
        KernelError: the kernel refuses it.
    """

    def __init__(self, namespace: str, interface: str, frames: list[bytes]) -> None:
        self._namespace = namespace
        with inside(namespace):
            self._interface = socket.if_nametoindex(interface)
        self._count = len(frames)
        with compiled(_SOURCE) as program:
            self._object = libbpf().load(program, {"heads": len(frames)})
        self._loads = self._object.map_fd("loads")
        heads = self._object.map_fd("heads")
        for index, frame in enumerate(frames):
            libbpf().update(heads, _INDEX.pack(index), frame[:_HEAD])
        self._frame = ctypes.create_string_buffer(frames[0], len(frames[0]))
        self._run = TestRun(
            prog_fd=self._object.program_fd("send"),
            data_size_in=len(frames[0]),
            data_in=ctypes.addressof(self._frame),
            repeat=_ALWAYS,
            flags=_LIVE_FRAMES,
            batch_size=_BATCH,
        )
        signal.signal(signal.SIGALRM, lambda *_: None)

    def run(self, rate: float | None, seconds: float) -> Sent:
        """Send at ``rate`` frames a second, or as fast as it goes, for so long."""
        pace = round(1e9 / rate) if rate else 0
        libbpf().update(self._loads, _INDEX.pack(0), _LOAD.pack(self._interface, self._count, 0, pace, 0, 0))
        with inside(self._namespace):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                self._run.run()
            except OSError as error:
                if error.errno != errno.EINTR:
                    raise
        load = libbpf().lookup(self._loads, _INDEX.pack(0), _LOAD.size)
        assert load is not None
        return Sent(_LOAD.unpack(load)[5], seconds)

    def close(self) -> None:
        """Give the program back."""
        self._object.close()


@contextlib.contextmanager
def compiled(source: Path) -> Iterator[Path]:
    """A program of the bench's own, ready to be loaded.

    Raises:
        RuntimeError: it cannot be compiled here.
    """
    with tempfile.TemporaryDirectory(prefix="vpnmasq-bench-") as directory:
        into = Path(directory) / source.with_suffix(".o").name
        into.write_bytes(_program(source))
        yield into


@functools.cache
def _program(source: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="vpnmasq-bench-") as directory:
        into = Path(directory) / source.with_suffix(".o").name
        if problem := builder().compile_program(source, into):
            raise RuntimeError(f"{source.name} cannot be compiled: {problem}")
        return into.read_bytes()
