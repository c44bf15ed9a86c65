"""Namespaces of processes, as containers have them, and first processes for these (pid_namespaces(7)).

subprocess.run((*UNSHARED, *first(tmp_path, "tini"), "vpnmasq", "run"))
"""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Final

#: Runs a command as the first process of a namespace, which ends with whatever is in it when this is killed.
UNSHARED: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

#: Runs a command, collects all that end, and ends with that one if it is told to; else with nobody.
_FIRST: Final = """#!{python}
import os, signal, sys
words = sys.argv[2:] if sys.argv[1] == "--" else sys.argv[1:]
started = os.spawnvp(os.P_NOWAIT, words[0], words)
while True:
    try:
        ended, status = os.wait()
    except ChildProcessError:
        signal.pause()
        continue
    if ended == started and {waits}:
        sys.exit(os.waitstatus_to_exitcode(status))
"""


@functools.cache
def requires_pidns() -> str:
    """Why this machine cannot make such namespaces; empty when it can."""
    done = subprocess.run((*UNSHARED, "true"), capture_output=True, text=True, check=False)
    return f"no namespaces of processes: {done.stderr.strip()}" if done.returncode else ""


def first(directory: Path, name: str, *, waits: bool = True) -> tuple[str, ...]:
    """A command that runs another, as a first process of this name; it ends with that if it ``waits``."""
    program = directory / name
    program.write_text(_FIRST.format(python=sys.executable, waits=waits))
    program.chmod(0o755)
    return (str(program),)
