"""What this machine must have for the lab; and the small things everything in it is made of."""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Where contrib/lib/peers.sh unpacks Debian's VPN software and the guests' kernel.
CACHE = ROOT / ".cache" / "lab"

COMMANDS = ("ip", "nft", "nsenter", "unshare", "ethtool", "mount", "bash")


class LabError(Exception):
    """The lab itself failed: a command, a host or a peer did not do what it always does."""


def missing(*software: str, guests: bool) -> str | None:
    """Return why the lab cannot work here, in words for a person, or None when it can.

    `software` names what the hosts run, as the directories in CACHE.
    """
    if os.geteuid() != 0:
        return "needs root, to make network namespaces: sudo contrib/test"
    for command in COMMANDS:
        if shutil.which(command) is None:
            return f"needs the command {command}: sudo contrib/test installs it"
    for wanted in (*software, "uml") if guests else software:
        if not (CACHE / wanted).is_dir():
            why = CACHE / f"{wanted}.why"
            return (
                why.read_text().strip()
                if why.exists()
                else "sudo contrib/test fetches the VPN software it needs"
            )
    if guests and not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True
    )
    return f"cannot make namespaces here: {tried.stderr.strip()}" if tried.returncode else None


def run(*argv: str | Path, stdin: str | None = None, check: bool = True) -> str:
    """Run a command and return what it wrote; raise LabError with its words when it fails."""
    done = subprocess.run([str(a) for a in argv], input=stdin, text=True, capture_output=True, timeout=60)
    if check and done.returncode:
        words = done.stderr.strip() or done.stdout.strip()
        raise LabError(f"{shlex.join(str(a) for a in argv)}: exit {done.returncode}: {words}")
    return done.stdout


def until(condition: Callable[[], bool], what: str, *, within: float, every: float = 0.05) -> None:
    """Wait for a condition; raise LabError naming it when it does not come true in time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {within:g} s: {what}")
        time.sleep(every)


def tail(path: Path, lines: int = 40) -> str:
    """Return the last lines of a log; empty when there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
