"""A namespace held by one process: it and everything in it are gone when that process is."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.machine import LabError, run

#: Process 1. It waits for its standard input to end, which also happens when the test process dies, however
#: it dies; and bash, unlike sleep, collects the orphans of others.
_ANCHOR = "mount -t sysfs sysfs /sys && echo ready && read -r _"


class Namespace:
    """A network and a mount namespace, and a process namespace unless `pids` is false.

    With a process namespace, whatever was started in it ends with it. Without one, a process started in it
    is a plain child of ours, which can be signalled.
    """

    def __init__(self, *, pids: bool = True) -> None:
        self._pids = pids
        own = ["--pid", "--fork", "--kill-child", "--mount-proc"] if pids else []
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", *own, "bash", "-c", _ANCHOR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise LabError("a namespace could not be made")
        self.pid = self._holder.pid
        if pids:
            self.pid = int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])
        self.run("ip", "link", "set", "lo", "up")
        # quiet captures and counters: nothing here speaks IPv6
        self.sh("for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e $f ] || echo 1 >$f; done")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything in it."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.kill()
        self._holder.wait()

    def entering(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs `argv` inside."""
        kinds = ["--net", "--mount", *(["--pid"] if self._pids else [])]
        return ["nsenter", f"--target={self.pid}", *kinds, *(str(a) for a in argv)]

    def run(self, *argv: str | Path, stdin: str | None = None, check: bool = True) -> str:
        """Run a command inside and return what it wrote."""
        return run(*self.entering(*argv), stdin=stdin, check=check)

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script inside and return what it wrote."""
        return self.run("bash", "-c", script, check=check)

    def processes(self) -> list[str]:
        """Return the names of all processes in the network namespace but the one that holds it."""
        here = Path(f"/proc/{self.pid}/ns/net").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.pid:
                continue
            try:
                if (entry / "ns/net").readlink() == here:
                    found.append((entry / "comm").read_text().strip())
            except OSError:  # it ended meanwhile
                continue
        return sorted(found)
