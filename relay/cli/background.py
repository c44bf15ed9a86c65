"""Goes on in the background, and has whoever started us wait until it is known how that goes (daemon(7))."""

import contextlib
import os
from collections.abc import Callable

from relay.cli.exits import Exit


def detached() -> Callable[[int], None]:
    """Go on as a process of nobody's; returns what to tell an exit status, of which the first one counts.

    The process that was started waits for it and exits with it; if we end without a word, with FAILED. To be
    called before there are threads.
    """
    hears, tells = os.pipe()
    if os.fork():
        os.close(tells)
        told = os.read(hears, 1)
        os._exit(told[0] if told else Exit.FAILED)
    os.close(hears)
    os.setsid()
    # Once more, so that it is the system's child: systemd waits for no main process that is another one's.
    if os.fork():
        os._exit(Exit.DONE)
    left = [tells]

    def tell(status: int) -> None:
        if left:
            with contextlib.suppress(BrokenPipeError), os.fdopen(left.pop(), "wb", buffering=0) as pipe:
                pipe.write(bytes((status,)))

    return tell
