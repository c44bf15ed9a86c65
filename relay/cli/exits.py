"""Exit status of every command. Numbers are a promise to scripts: none is ever given another meaning."""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    #: Done; for ``health``: ready.
    DONE = 0
    #: Not done; for ``health``: not ready.
    FAILED = 1
    #: The command line makes no sense.
    USAGE = 2
    #: No daemon answers.
    NOT_REACHABLE = 3
    #: The daemon did not answer in time.
    TIMED_OUT = 4
    #: Nothing has the name that was given.
    NOTHING_MATCHED = 5
    #: sysexits.h EX_NOPERM: a capability or the membership of a group is missing.
    NO_PRIVILEGE = 77
    #: sysexits.h EX_CONFIG: the configuration is wrong.
    BAD_CONFIGURATION = 78
    #: Ended by Ctrl-C: 128 and the number of SIGINT, as shells have it.
    INTERRUPTED = 130
