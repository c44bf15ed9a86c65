"""Running the real command line as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-m", "relay"]
BOUND = 30.0


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would steer vpnmasq."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VPNMASQ_")}
    return kept | {"PYTHONPATH": str(ROOT)} | changes


def vpnmasq(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=env or environment(),
        timeout=BOUND,
    )


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command that runs until somebody ends it."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
