"""Running the real command line as a process of its own."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-m", "relay"]
BOUND = 30.0
#: What colours and clears a terminal.
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would steer vpnmasq."""
    steering = ("VPNMASQ_", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
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


def on_terminal(columns: int, *arguments: str | Path) -> tuple[int, str]:
    """Run a command on a terminal of so many columns; its exit status, and what is seen there."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        env = environment(TERM="xterm")
        running = subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        text = read_terminal(ours)
        return running.wait(BOUND), text
    finally:
        os.close(ours)


def read_terminal(descriptor: int) -> str:
    """Read until nobody has the other side of a terminal open any more."""
    text = b""
    try:
        while data := os.read(descriptor, 65536):
            text += data
    except OSError:  # Linux: reading a terminal whose other side is closed fails with EIO
        pass
    return text.decode()
