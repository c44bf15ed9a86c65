"""Doing something as another user."""

import os
from collections.abc import Callable

import pytest

READERS, ADMINS, STRANGER = 54321, 54322, 54399

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
#: The child does nothing but system calls and our own code, which holds no locks.
forks = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


def as_other(groups: list[int], function: Callable[[], object]) -> str:
    """Run a function in a child with a stranger's credentials and these groups; return its result as text.

    What the function needs must be imported already: a stranger may not be able to read this Python.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            text = str(function())
        except BaseException as error:  # noqa: BLE001  it is the result
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text
