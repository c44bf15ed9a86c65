"""What was measured, as a table for people and as JSON for programs."""

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

SCHEMA: Final = "vpnmasq.bench/1"
_COLOURS: Final = {True: "green", False: "red", None: ""}


@dataclass(frozen=True, slots=True)
class Result:
    """One line of a table: cells of text for people; values for programs."""

    cells: list[str]
    values: dict[str, float | str | None]
    #: Whether the target was met; None where there is none.
    met: bool | None = None


@dataclass(slots=True)
class Section:
    """One table."""

    key: str
    title: str
    columns: list[str]
    results: list[Result] = field(default_factory=list)
    #: What one must know to read it.
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """All tables, and where they were made."""

    machine: dict[str, str]
    sections: list[Section] = field(default_factory=list)

    def print(self) -> None:
        """Write it to the terminal."""
        console = Console(width=None if os.isatty(1) else 120, highlight=False)
        console.print("  ".join(f"[b]{key}[/b] {value}" for key, value in self.machine.items()))
        for section in self.sections:
            console.print(_table(section))
            for note in section.notes:
                console.print(f"  [dim]{note}[/dim]")
        missed = [r for s in self.sections for r in s.results if r.met is False]
        met = [r for s in self.sections for r in s.results if r.met]
        console.print(f"\n{len(met)} targets met, {len(missed)} missed")

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        document = {"schema": SCHEMA, "machine": self.machine, "sections": [asdict(s) for s in self.sections]}
        path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uvloop": importlib.metadata.version("uvloop"),
        "nft": _version("nft"),
        "clang": _version("clang"),
        "libbpf": _libbpf(),
        "vpnmasq": _revision(),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def thousands(rate: float) -> str:
    """``123456.7`` as ``123.5 k``."""
    return f"{rate / 1000:.1f} k"


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold")
    for index, column in enumerate(section.columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for result in section.results:
        table.add_row(*result.cells, style=_COLOURS[result.met])
    return table


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(program: str) -> str:
    """The first number that it calls its own."""
    try:
        said = subprocess.run((program, "--version"), capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "none"
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else "unknown"


def _libbpf() -> str:
    try:
        told = ctypes.CDLL("libbpf.so.1").libbpf_version_string
    except OSError:
        return "none"
    told.restype = ctypes.c_char_p
    version: bytes = told()
    return version.decode().removeprefix("v")


def _revision() -> str:
    version = importlib.metadata.version("vpnmasq")
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        ("git", "-C", str(here), "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False
    )
    return f"{version} {done.stdout.strip()}".strip()
