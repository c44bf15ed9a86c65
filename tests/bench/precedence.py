"""A share of the processor that other programs do not take away (sched(7), "The autogroup feature")."""

import contextlib
import os
from pathlib import Path
from typing import Final

_NICE: Final = -15
_settings: Final = {"urgent": False}


def be_urgent() -> None:
    """Let processes that stand alone from now on go before other programs."""
    _settings["urgent"] = True


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
