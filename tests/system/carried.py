"""What the kernel carries, and what comes to user space, as the daemon says."""

from tests.system.home import Daemon


def flows(daemon: Daemon) -> int:
    """How many flows the kernel carries."""
    found: int = daemon.document("status")["fastpath"]["flows"]
    return found


def carries(daemon: Daemon, number: int) -> bool:
    """Whether it carries so many."""
    return flows(daemon) == number


def read(daemon: Daemon, name: str = "") -> int:
    """Packets that sockets have brought to the daemon, whose names begin so; ICMP's do not count."""
    sockets = daemon.document("status")["sockets"]
    return sum(
        row["packets"]
        for row in sockets
        if row["name"].startswith(name) and not row["name"].startswith("icmp")
    )
