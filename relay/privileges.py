"""What the daemon may do: capabilities it needs, and giving up all others (capabilities(7)).

Capabilities belong to threads: give them up while there is only one. uvloop starts some when it binds or
looks up a name itself; give it bound sockets.
"""

import contextlib
import ctypes
import errno
import os
import resource
import struct
import time
from collections.abc import Iterable, Set
from enum import IntEnum
from pathlib import Path
from typing import Final, NoReturn

# linux/capability.h
_VERSION_3: Final = 0x20080522
_CAP_SETPCAP: Final = 8
#: Bits of a set of capabilities; kernels know about 40.
_MOST: Final = 64

# linux/prctl.h
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

#: Seconds that a thread which has ended may take to be gone.
_MOMENT: Final = 1.0

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(IntEnum):
    """The capabilities the daemon knows; the value is the kernel's bit."""

    CAP_NET_BIND_SERVICE = 10
    CAP_NET_ADMIN = 12
    CAP_NET_RAW = 13
    CAP_BPF = 39


#: All that stays after setup.
KEPT: Final = frozenset(Capability) - {Capability.CAP_BPF}

#: What programs that we start (nft) get, also when we are not root.
_INHERITED: Final = frozenset({Capability.CAP_NET_ADMIN})

_PURPOSE: Final = {
    Capability.CAP_NET_RAW: "GRE, ESP, IPsec's UDP and ICMP travel through raw sockets",
    Capability.CAP_NET_ADMIN: "transit traffic is intercepted by policy routing and transparent sockets; "
    "without it only relay style works (masquerade with `listen`, expose with source = 'gateway')",
    Capability.CAP_NET_BIND_SERVICE: "udp/500 of IPsec, and ports below 1024 that are forwarded",
    Capability.CAP_BPF: "the fast path is a program in the kernel; it can do without, if it is not required",
}


def missing(needed: Iterable[Capability]) -> list[Capability]:
    """Those of the capabilities that this thread may not use, in the order of their numbers."""
    permitted = _capabilities("CapPrm")
    return sorted(capability for capability in set(needed) if not permitted >> capability & 1)


def take_up() -> None:
    """Use what we may use: to be called before anything that takes a capability.

    A program that has its capabilities from its file (setcap, as in our container image) is permitted them,
    and none is in effect until it says so. nft, which has no such file, inherits CAP_NET_ADMIN.

    Raises:
        OSError: the kernel refuses.
    """
    permitted = _capabilities("CapPrm")
    if _capabilities("CapEff") == permitted:
        return
    _capset(permitted, permitted & _bits(_INHERITED))
    _raise_ambient()


def explain(lacking: Iterable[Capability]) -> str:
    """What a person has to know about missing capabilities, one line for each; for exit status 77."""
    return "\n".join(
        f"{capability.name} is missing: {_PURPOSE[capability]}. Run as root, or with systemd "
        f"AmbientCapabilities={capability.name}, or with docker run --cap-add "
        f"{capability.name.removeprefix('CAP_')}"
        for capability in lacking
    )


def keep_only(kept: Set[Capability] = KEPT) -> None:
    """Give up every other capability, for good and for every program that we start.

    What is kept is what there was of ``kept``. CAP_NET_ADMIN, if kept, is inherited by nft.

    Raises:
        RuntimeError: there are other threads already, and they would keep everything.
        OSError: the kernel refuses.
    """
    _be_alone()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    permitted = _capabilities("CapPrm") & _bits(kept)
    if _capabilities("CapEff") >> _CAP_SETPCAP & 1:  # without it we gain nothing by exec either
        _bound(_bits(kept))
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _capset(permitted, permitted & _bits(_INHERITED))
    _raise_ambient()


def raise_open_files(wanted: int) -> int:
    """Raise the limit of open files towards ``wanted``, never lower it; returns what it is now.

    Beyond the hard limit this takes CAP_SYS_RESOURCE, so call it before ``keep_only``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _raise_ambient() -> None:
    """Let programs that we start have what is inheritable."""
    inheritable = _capabilities("CapInh")
    for bit in range(_MOST):
        if inheritable >> bit & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, bit)


def _be_alone() -> None:
    # A thread that was joined has ended for Python, and ends for the kernel a moment later.
    patience = time.monotonic() + _MOMENT
    while (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        if time.monotonic() > patience:
            raise RuntimeError(f"capabilities must be given up before threads start; there are {threads}")
        time.sleep(0.001)


def _bits(capabilities: Iterable[Capability]) -> int:
    return sum(1 << capability for capability in capabilities)


def _capabilities(field: str) -> int:
    """A set of this thread: CapEff, CapPrm … (proc_pid_status(5))."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value, 16)
    raise RuntimeError(f"/proc/thread-self/status has no {field}")


def _bound(kept: int) -> None:
    for bit in range(_MOST):
        if not kept >> bit & 1 and _libc.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0):
            if ctypes.get_errno() == errno.EINVAL:  # the kernel's last one was the one before
                return
            _fail("give up capabilities")


def _capset(permitted: int, inheritable: int) -> None:
    header = struct.pack("=Ii", _VERSION_3, 0)
    low, high = (
        struct.pack("=III", *(bits >> shift & 0xFFFFFFFF for bits in (permitted, permitted, inheritable)))
        for shift in (0, 32)
    )
    if _libc.capset(header, low + high):
        _fail("give up capabilities")


def _prctl(option: int, argument: int, second: int = 0) -> None:
    if _libc.prctl(option, argument, second, 0, 0):
        _fail(f"prctl {option}")


def _fail(doing: str) -> NoReturn:
    code = ctypes.get_errno()
    raise OSError(code, f"{doing}: {os.strerror(code)}")
