"""A program of somebody else's at an interface's egress, attached by TCX: it throws away all that leaves."""

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

import pytest

from tests.netns import Namespace

# linux/bpf.h
_BPF: Final = 321
_BPF_PROG_LOAD: Final = 5
_BPF_LINK_CREATE: Final = 28
_BPF_PROG_TYPE_SCHED_CLS: Final = 3
_BPF_TCX_EGRESS: Final = 47

#: r0 = TC_ACT_SHOT; exit
_DROP: Final = bytes.fromhex("b7 00 0000 02000000 95 00 0000 00000000")
_LICENCE: Final = b"GPL\0"

_libc = ctypes.CDLL(None, use_errno=True)


class _Load(ctypes.Structure):
    """The part of union bpf_attr that BPF_PROG_LOAD needs."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("instructions", ctypes.c_char_p),
        ("licence", ctypes.c_char_p),
    )


class _Link(ctypes.Structure):
    """Likewise of BPF_LINK_CREATE."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("program", "interface", "kind", "flags"))


def _bpf(command: int, attr: ctypes.Structure) -> int:
    fd = int(_libc.syscall(_BPF, command, ctypes.byref(attr), ctypes.sizeof(attr)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


@contextlib.contextmanager
def dropping(where: Namespace, interface: str) -> Iterator[None]:
    """The program, attached for a while; a test is skipped where the kernel has no TCX (before 6.6)."""
    program = _bpf(_BPF_PROG_LOAD, _Load(_BPF_PROG_TYPE_SCHED_CLS, len(_DROP) // 8, _DROP, _LICENCE))
    try:
        link = _attached(where, interface, program)
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(program)


def _attached(where: Namespace, interface: str, program: int) -> int:
    try:
        with where.entered():
            return _bpf(_BPF_LINK_CREATE, _Link(program, socket.if_nametoindex(interface), _BPF_TCX_EGRESS))
    except OSError as error:
        if error.errno == errno.EINVAL:
            pytest.skip("this kernel has no TCX")
        raise
