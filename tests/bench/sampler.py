"""Run vpnmasq under a sampling profiler: ``python -m tests.bench.sampler OUT run -c FILE``.

It begins to look when SIGUSR2 comes, and writes OUT when the daemon ends.

Every millisecond of processor time a signal looks at which line runs. That costs about a percent, where
cProfile's hooks would double the cost of small functions and so point at the wrong ones. Time inside a C
function (recv_into, sendto) counts for the line that called it.
"""

import linecache
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

#: Seconds of processor time between two looks.
INTERVAL: Final = 0.001
_TOP: Final = 25
#: Functions below the first share say nothing, those above the second are how everything is called.
_LEAST: Final = 0.005
_EVERYWHERE: Final = 0.98

Place = tuple[str, int, str]


class Sampler:
    """Counts which lines run. ``arm`` and ``stop`` are to be called in the main thread."""

    def __init__(self) -> None:
        self.lines: Counter[Place] = Counter()
        self.functions: Counter[tuple[str, str]] = Counter()

    def arm(self) -> None:
        """Begin to look at SIGUSR2."""
        signal.signal(signal.SIGPROF, self._look)
        signal.signal(signal.SIGUSR2, self._start)

    def stop(self) -> None:
        """Look no longer."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def text(self) -> str:
        """The lines and functions that took most, in percent of all."""
        total = max(self.lines.total(), 1)
        rows = [f"{total} samples of {INTERVAL * 1000:g} ms", "", "functions, with what they call:"]
        for (file, name), count in self.functions.most_common():
            if not _EVERYWHERE > count / total > _LEAST:
                continue
            rows.append(f"{count / total:6.1%}  {_short(file)}:{name}")
        rows += ["", "lines:"]
        for (file, line, name), count in self.lines.most_common(_TOP):
            source = linecache.getline(file, line).strip()
            rows.append(f"{count / total:6.1%}  {_short(file)}:{line} {name}  {source}")
        return "\n".join(rows) + "\n"

    def _start(self, _number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def _look(self, _number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self.lines[(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)] += 1
        seen: set[tuple[str, str]] = set()
        while frame is not None:
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))
            frame = frame.f_back
        self.functions.update(seen)


def _short(file: str) -> str:
    return "/".join(Path(file).parts[-2:])


def main() -> None:
    """Run the command line in ``sys.argv`` and write what was seen when it ends."""
    out = Path(sys.argv[1])
    sys.argv = ["vpnmasq", *sys.argv[2:]]
    from relay.cli import main as vpnmasq

    sampler = Sampler()
    sampler.arm()
    try:
        vpnmasq(prog_name="vpnmasq")
    finally:
        sampler.stop()
        out.write_text(sampler.text())


if __name__ == "__main__":
    main()
