"""A share of the processor that other programs do not take away (sched(7), "The autogroup feature")."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

_NICE: Final = -15
_settings: Final = {"urgent": False}


def be_urgent() -> None:
    """Let processes that stand alone from now on go before other programs."""
    _settings["urgent"] = True


def in_front(run: Callable[[], int]) -> int:
    """Do something in a process that stands alone; return its exit status."""

    def alone() -> None:
        stand_alone()
        sys.exit(run())

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:  # which another session does not hear of
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        process.join()
    return process.exitcode or 0


def stand_alone() -> None:
    """Make the calling process a session, and so a scheduling group, of its own.

    Niceness counts within such a group only, so the group is made urgent as well as the process.
    """
    with contextlib.suppress(PermissionError):  # it leads one already
        os.setsid()
    if _settings["urgent"]:
        os.nice(_NICE)
        with contextlib.suppress(OSError):  # a kernel without autogroups
            Path("/proc/self/autogroup").write_text(str(_NICE))
