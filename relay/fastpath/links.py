"""Programs at the ingress of interfaces: by TCX where the kernel has it (Linux 6.6), else by clsact.

A TCX link lives as long as its file descriptor, so nothing is left behind however the process ends. A clsact
filter stays: it is replaced by the next process of the same instance, and does nothing meanwhile, because
the flows' lease is not renewed (bpf/maps.h).
"""

import errno
import os
import zlib
from dataclasses import dataclass

from relay.fastpath.libbpf import Libbpf
from relay.kernel import refused

#: What kernels without TCX say to the attempt.
_NO_TCX = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


@dataclass(slots=True)
class _Link:
    interface: int
    #: Of TCX; None: clsact.
    fd: int | None


class Links:
    """All attachments of one process. ``instance`` tells its filters from another gateway's."""

    def __init__(self, library: Libbpf, instance: str, *, tcx: bool = True) -> None:
        self._library = library
        self._handle = 1 + zlib.crc32(instance.encode()) % 0xFFFF
        self._tcx = tcx
        self._links: dict[str, _Link] = {}

    @property
    def durable(self) -> bool:
        """Whether any of them would outlive the process."""
        return any(link.fd is None for link in self._links.values())

    def attach(self, name: str, interface: int, program: int) -> None:
        """Put a program on an interface, in place of the one that is there under this name.

        Raises:
            KernelError: the kernel refuses.
        """
        self.detach(name)
        if self._tcx:
            try:
                self._links[name] = _Link(interface, self._library.link(program, interface))
                return
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # it has gone meanwhile: there is nothing to look at
                if error.errno not in _NO_TCX:
                    raise refused(f"attach the fast path to {name}", error.errno) from error
                self._tcx = False
        self._library.attach(program, interface, self._handle)
        self._links[name] = _Link(interface, None)

    def detach(self, name: str) -> None:
        """Take the program away from an interface, if it is still there."""
        link = self._links.pop(name, None)
        if link is None:
            return
        if link.fd is None:
            self._library.detach(link.interface, self._handle)
        else:
            os.close(link.fd)

    def close(self) -> None:
        """Take all away."""
        for name in list(self._links):
            self.detach(name)
