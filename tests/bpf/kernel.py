"""The fast path's program, loaded into the kernel and run there on one packet (BPF_PROG_TEST_RUN, bpf(2)).

with loaded() as program:
    program.knows(Shortcut(...))
    assert program.run(Side.LAN, packet) == rewritten
"""

import contextlib
import ctypes
import importlib.util
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest import mock

from protocols.actions import Shortcut, Side
from relay.fastpath import abi, kernel
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.netdev import Netdev
from relay.fastpath.routes import Way
from relay.kernel import KernelError

_BPF: Final = 321
_BPF_PROG_TEST_RUN: Final = 10

#: What the program answers: the packet goes on as if nothing had happened, or leaves at once.
PASS: Final = 0xFFFFFFFF
REDIRECT: Final = 7
#: … and those for drivers.
XDP_PASS: Final = 2
XDP_REDIRECT: Final = 4

ETHERNET: Final = bytes.fromhex("000000000000 020000000002 0800")
MTU: Final = 1500

_libc = ctypes.CDLL(None, use_errno=True)


class TestRun(ctypes.Structure):
    """The part of union bpf_attr that BPF_PROG_TEST_RUN reads."""

    __test__ = False  # no tests of pytest's
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )

    def run(self) -> None:
        """Run it.

        Raises:
            OSError: the kernel refuses; EINTR: a signal came before all repetitions were through.
        """
        if _libc.syscall(_BPF, _BPF_PROG_TEST_RUN, ctypes.byref(self), ctypes.sizeof(self)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


class Context(ctypes.Structure):
    """struct __sk_buff, of which a test may set what is named here."""

    _fields_ = (
        ("before", ctypes.c_uint32 * 41),
        ("gso_segs", ctypes.c_uint32),
        ("socket", ctypes.c_uint64),
        ("gso_size", ctypes.c_uint32),
        ("after", ctypes.c_uint32 * 3),
    )


@dataclass
class Ran:
    """What a run came to: the verdict, the packet as it is then, nanoseconds; and the frame around it."""

    verdict: int
    packet: bytes
    duration: int
    frame: bytes


class FixedWays:
    """Stands in for the routing table: every target is a neighbour on one interface."""

    def __init__(self, way: Way) -> None:
        self.fixed = way

    def way(self, _destination: int) -> Way:
        """The one way."""
        return self.fixed

    def forget(self) -> None:
        """Nothing is remembered."""


class ReadyWays(FixedWays):
    """Knows a header for its next hop, and what may be done with it."""

    header: Final = bytes.fromhex("020000000102 020000000101")

    def __init__(self, way: Way, best: abi.Means = abi.Means.DRIVER) -> None:
        super().__init__(way)
        self.best = best

    def means(self, _way: Way) -> tuple[abi.Means, bytes]:
        """The best, whatever the way."""
        return self.best, self.header


class Program:
    """The loaded program and its tables."""

    def __init__(self, fastpath: KernelFastPath) -> None:
        self.fastpath = fastpath
        self._numbers = itertools.count(1)

    def knows(self, shortcut: Shortcut) -> int:
        """Enter a flow; its number."""
        number = next(self._numbers)
        assert self.fastpath.prepare(number, shortcut)
        self.fastpath.offload(number)
        return number

    def forget(self) -> None:
        """Know no flow any more."""
        for number in list(self.fastpath._numbers):
            self.fastpath.unload(number)

    def run(
        self,
        side: Side,
        packet: bytes,
        *,
        frame: bytes = ETHERNET,
        repeat: int = 1,
        context: Context | None = None,
        name: str = "",
    ) -> Ran:
        """Have a packet arrive in an Ethernet frame, and see what leaves; ``name``: of another program."""
        data = frame + packet
        out = ctypes.create_string_buffer(len(data) + 64)
        source = ctypes.create_string_buffer(data, len(data))
        attr = TestRun(
            prog_fd=self.fastpath._object.program_fd(name or abi.PROGRAMS[side, True]),
            data_size_in=len(data),
            data_size_out=len(out),
            data_in=ctypes.addressof(source),
            data_out=ctypes.addressof(out),
            repeat=repeat,
        )
        if context is not None:
            attr.ctx_size_in, attr.ctx_in = ctypes.sizeof(context), ctypes.addressof(context)
        attr.run()
        size = len(frame)
        return Ran(attr.retval, out.raw[size : attr.data_size_out], attr.duration, out.raw[:size])


@contextlib.contextmanager
def loaded_for_drivers(best: abi.Means = abi.Means.DRIVER, way: Way | None = None) -> Iterator[Program]:
    """The program as drivers have it, too, at the interface where the kernel lets packets arrive here.

    A kernel that does not say what drivers can runs it here all the same.
    """
    with mock.patch.object(Netdev, "_ask_family", return_value=1):
        fastpath = KernelFastPath(64, instance="test", xdp=True)
    fixed: Any = ReadyWays(way or Way(1, 0, MTU), best)
    fastpath._routes = fastpath._ways._routes = fixed
    station = abi.station(ETHERNET[:6])
    assert not fastpath._library.update(fastpath._object.map_fd(abi.STATIONS), abi.INTERFACE.pack(1), station)
    try:
        yield Program(fastpath)
    finally:
        fastpath.close()


@contextlib.contextmanager
def loaded(most: int = 64, way: Way | None = None, path: Path = kernel.OBJECT) -> Iterator[Program]:
    """The program, with room for so many flows; all of which leave by one way."""
    fastpath = KernelFastPath(most, instance="test", path=path)
    fixed: Any = FixedWays(way or Way(1, 0, MTU))
    fastpath._ways._routes = fixed
    try:
        yield Program(fastpath)
    finally:
        fastpath.close()


def builder() -> ModuleType:
    """What compiles programs for the kernel when the package is built."""
    where = Path(__file__).resolve().parents[2] / "contrib" / "build" / "hatch_build.py"
    spec = importlib.util.spec_from_file_location("hatch_build", where)
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return build


def built() -> str:
    """Why the program cannot be loaded here; empty when it can. What is out of date is compiled anew."""
    if os.geteuid() != 0:
        return "loading programs into the kernel needs root"
    build = builder()
    if not build.up_to_date():
        problem: str = build.compile_programs()
        if problem:
            return f"the programs cannot be compiled: {problem}"
    assert kernel.OBJECT in build.OBJECTS.values()
    try:
        with loaded():
            return ""
    except KernelError as error:
        return str(error)
