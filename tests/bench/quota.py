"""A part of a core for a process: cpu.max of cgroups, or cpu.cfs_quota_us of those before version 2."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Microseconds of which a process has its part: as few as keep the socket's buffer from being all there is.
PERIOD: Final = 10_000


@dataclass(frozen=True, slots=True)
class Controller:
    """Where groups are made, and what limits one."""

    root: Path
    version: int

    def limit(self, group: Path, share: float) -> None:
        """Let a group have so much of a core."""
        quota = int(share * PERIOD)
        if self.version == 1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD}")

    def home(self, pid: int) -> Path:
        """The group a process is in."""
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            # that of version 2 has none of its own there
            if ("" if self.version == 2 else "cpu") in controllers.split(","):
                return self.root / path.lstrip("/")
        return self.root

    @contextlib.contextmanager
    def part_of_a_core(self, pid: int, share: float) -> Iterator[None]:
        """Stop a process for the rest of each period."""
        home, group = self.home(pid), self.root / f"vpnmasq-bench-{os.getpid()}"
        group.mkdir()
        try:
            self.limit(group, share)
            (group / "cgroup.procs").write_text(str(pid))
            try:
                yield
            finally:
                (home / "cgroup.procs").write_text(str(pid))
        finally:
            group.rmdir()


def controller() -> Controller | None:
    """This machine's; None where there is none that may be used."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        root = Path(place)
        if not os.access(root, os.W_OK):
            continue
        if kind == "cgroup" and "cpu" in options.split(","):
            return Controller(root, 1)
        if kind == "cgroup2" and "cpu" in (root / "cgroup.subtree_control").read_text().split():
            return Controller(root, 2)
    return None
