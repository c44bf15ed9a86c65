"""How many files a process may have open: a gateway needs two sockets for every control connection."""

import resource
from typing import Final

#: Enough for 10,000 control connections with both their ends.
WANTED: Final = 65536
#: Descriptors a process needs beside its connections.
SPARE: Final = 500


def raise_files() -> int:
    """Raise RLIMIT_NOFILE as far as the machine lets us; return what it is now.

    A container may hold back CAP_SYS_RESOURCE even from root; then the hard limit is the end.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (WANTED, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
        except (ValueError, OSError):
            continue
        return limit
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def calls_per_connection(calls: int) -> int:
    """How many calls each control connection has to carry for so many calls to fit into one process."""
    room = (raise_files() - SPARE) // 2
    return -(-calls // room)
