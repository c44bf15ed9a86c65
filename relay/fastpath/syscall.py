"""bpf(2) itself, for what libbpf 1.1 has no function for or a clumsy one."""

import ctypes
import errno
import os
from collections.abc import Iterable
from typing import Final

# linux/bpf.h
_BPF_PROG_QUERY: Final = 16
_BPF_LINK_CREATE: Final = 28
_BPF_LINK_UPDATE: Final = 29
_BPF_XDP: Final = 37
_BPF_TCX_INGRESS: Final = 46
_BPF_TCX_EGRESS: Final = 47

#: linux/if_link.h, XDP_FLAGS_DRV_MODE: in the driver, or not at all.
_IN_DRIVER: Final = 1 << 2

#: bpf(2) by the machine (asm/unistd.h): libc has no function for it.
_NUMBERS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "armv7l": 386, "i686": 357, "ppc64le": 361}

_libc = ctypes.CDLL(None, use_errno=True)


class _LinkCreate(ctypes.Structure):
    """The part of union bpf_attr that BPF_LINK_CREATE reads for TCX; zero: at the end, without a rival.

    For XDP it is the first line.
    """

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("relative_fd", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("expected_revision", ctypes.c_uint64),
    )


class _LinkUpdate(ctypes.Structure):
    """The part that BPF_LINK_UPDATE reads."""

    _fields_ = (
        ("link_fd", ctypes.c_uint32),
        ("new_prog_fd", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("old_prog_fd", ctypes.c_uint32),
    )


class _Query(ctypes.Structure):
    """The part that BPF_PROG_QUERY reads and writes for TCX; without lists to fill, it counts only."""

    _fields_ = (
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32 * 2),
        ("programs", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("lists", ctypes.c_uint64 * 3),
        ("revision", ctypes.c_uint64),
    )


def link_tcx(program: int, interface: int) -> int:
    """Attach a program to an interface's ingress by TCX; a file descriptor that holds it there.

    Raises:
        OSError: EINVAL where the kernel has no TCX (before 6.6).
    """
    return _call(_BPF_LINK_CREATE, _LinkCreate(program, interface, _BPF_TCX_INGRESS))


def link_xdp(program: int, interface: int) -> int:
    """Have an interface's driver run a program; a file descriptor that holds it there.

    Raises:
        OSError: EBUSY where there is one; what the driver says, else.
    """
    return _call(_BPF_LINK_CREATE, _LinkCreate(program, interface, _BPF_XDP, _IN_DRIVER))


def update_link(link: int, program: int) -> None:
    """Have a link hold another program, in place of the one that it holds; drivers are not reset for that.

    Raises:
        OSError: ENOLINK where the interface is gone.
    """
    _call(_BPF_LINK_UPDATE, _LinkUpdate(link, program))


def let_go(links: Iterable[int]) -> None:
    """Close links: what they hold there goes, unless somebody has a copy."""
    for link in links:
        os.close(link)


def has_egress_program(interface: int) -> bool:
    """Whether any program is attached to an interface's egress by TCX; also True when none can tell."""
    attr = _Query(target_ifindex=interface, attach_type=_BPF_TCX_EGRESS)
    try:
        _call(_BPF_PROG_QUERY, attr)
    except OSError as error:
        return error.errno != errno.EINVAL  # the kernel has no TCX
    return bool(attr.count)


def _call(command: int, attr: ctypes.Structure) -> int:
    """Make the call.

    Raises:
        OSError: the kernel refuses; EOPNOTSUPP where we do not know how to ask it.
    """
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise OSError(errno.EOPNOTSUPP, "the number of bpf(2) is not known for this machine")
    done: int = _libc.syscall(ctypes.c_long(number), command, ctypes.byref(attr), ctypes.sizeof(attr))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done
