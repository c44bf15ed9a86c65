"""Pipes that carry bytes from one socket to another inside the kernel (splice(2)).

A pipe is in use only while it holds something that its receiver has not taken; so a thousand quiet
connections share one.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import Final

#: Octets of a pipe: what is moved at once, and held for a receiver that does not read.
SIZE: Final = 262_144

#: Empty pipes that are kept for the next time.
_SPARE: Final = 64


@dataclass(frozen=True, slots=True)
class Pipe:
    """Its two ends."""

    outlet: int
    inlet: int

    def close(self) -> None:
        """Give both ends back, and what is inside."""
        os.close(self.outlet)
        os.close(self.inlet)


class Pipes:
    """Empty pipes."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []

    def take(self) -> Pipe:
        """An empty pipe.

        Raises:
            OSError: there are too many open files.
        """
        if self._spare:
            return self._spare.pop()
        outlet, inlet = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(PermissionError):  # beyond fs.pipe-user-pages-soft: a small one does as well
            fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, SIZE)
        return Pipe(outlet, inlet)

    def give(self, pipe: Pipe) -> None:
        """Take an empty pipe back."""
        if len(self._spare) < _SPARE:
            self._spare.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._spare:
            self._spare.pop().close()
