"""Whether something else ran on the machine while we measured, or nothing at all (/proc/stat, proc(5))."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")


def idle_seconds(core: int) -> float:
    """What a core has spent with nothing to do, to a hundredth of a second."""
    lines = Path("/proc/stat").read_text().splitlines()
    (words,) = (line.split() for line in lines if line.startswith(f"cpu{core} "))
    return (int(words[4]) + int(words[5])) / _TICK


class Bystanders:
    """User-space processor time of everybody but the processes named.

    Kernel time is left out: softirq work for our own packets is booked to whoever runs just then.
    """

    def __init__(self, ours: Iterable[int]) -> None:
        self._ours = [Path(f"/proc/{pid}/stat") for pid in ours]
        self._start = self._seconds()

    def seconds(self) -> float:
        """Seconds used since this object was made; a tick or two is noise."""
        return max(self._seconds() - self._start, 0.0)

    def _seconds(self) -> float:
        user, nice = Path("/proc/stat").read_text().split(maxsplit=3)[1:3]
        own = sum(int(path.read_text().rpartition(")")[2].split()[11]) for path in self._ours)
        return (int(user) + int(nice) - own) / _TICK
