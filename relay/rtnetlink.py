"""Questions to the kernel's routing subsystem (rtnetlink(7)), asked by pyroute2."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from relay.kernel import refused


@contextmanager
def rtnetlink(doing: str) -> Iterator[Any]:
    """Open pyroute2's IPRoute for a while; what the kernel refuses meanwhile is raised as KernelError.

    To be used in a thread without an event loop: pyroute2 runs one of its own.
    """
    try:
        # Strict: the kernel, not Python, picks what was asked for out of perhaps a million routes.
        with IPRoute(strict_check=True, groups=0) as ipr:
            yield ipr
    except NetlinkError as error:
        raise refused(doing, error.code) from error
    except OSError as error:
        raise refused(doing, error.errno) from error
