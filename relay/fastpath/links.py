"""Programs at the ingress of interfaces: by TCX where the kernel has it (Linux 6.6), else by clsact.

A TCX link lives as long as its file descriptor, so nothing is left behind however the process ends. A clsact
filter stays: it is replaced by the next process of the same instance, and does nothing meanwhile, because
the flows' lease is not renewed (bpf/maps.h). Its handle says whether the qdisc under it is ours as well.
"""

import errno
import os
import zlib
from dataclasses import dataclass

from relay.fastpath.filters import any_filter
from relay.fastpath.libbpf import Libbpf
from relay.fastpath.syscall import link_tcx
from relay.kernel import refused

#: What kernels without TCX say to the attempt.
_NO_TCX = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})

#: In the handle of a filter whose qdisc was made for it, and is removed with it if nobody else has come.
_OWN_QDISC = 0x10000


@dataclass(frozen=True, slots=True)
class _Tcx:
    fd: int


@dataclass(frozen=True, slots=True)
class _Filter:
    interface: int
    handle: int
    #: The kernel's number of the program, by which another process's in its place is told.
    program: int


class Links:
    """All attachments of one process. ``instance`` tells its filters from another gateway's."""

    def __init__(self, library: Libbpf, instance: str, *, tcx: bool = True) -> None:
        self._library = library
        self._handle = 1 + zlib.crc32(instance.encode()) % 0xFFFF
        self._tcx = tcx
        self._links: dict[str, _Tcx | _Filter] = {}

    @property
    def durable(self) -> bool:
        """Whether any of them would outlive the process."""
        return any(isinstance(link, _Filter) for link in self._links.values())

    def attach(self, name: str, interface: int, program: int) -> None:
        """Put a program on an interface, in place of the one that is there under this name.

        Raises:
            KernelError: the kernel refuses.
        """
        self.detach(name)
        if self._tcx:
            try:
                self._links[name] = _Tcx(link_tcx(program, interface))
                return
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # it has gone meanwhile: there is nothing to look at
                if error.errno not in _NO_TCX:
                    raise refused(f"attach the fast path to {name}", error.errno) from error
                self._tcx = False
        self._links[name] = self._filter(interface, program)

    def _filter(self, interface: int, program: int) -> _Filter:
        handle = self._handle | _OWN_QDISC
        if not (self._library.make_hook(interface) or self._library.attached(interface, handle)):
            handle = self._handle
        return _Filter(interface, handle, self._library.attach(program, interface, handle))

    def detach(self, name: str) -> None:
        """Take the program away from an interface, if it is still there."""
        match self._links.pop(name, None):
            case _Tcx(fd):
                os.close(fd)
            case _Filter(interface, handle, program):
                if self._library.attached(interface, handle) == program:
                    self._library.detach(interface, handle)
                    if handle & _OWN_QDISC and not any_filter(interface):
                        self._library.remove_hook(interface)

    def close(self) -> None:
        """Take all away."""
        for name in list(self._links):
            self.detach(name)
