"""The server behind forwarded ports, which sends without end: ``python -m tests.bench.source PORT``."""

import os
import selectors
import socket
import sys
from contextlib import suppress
from typing import Final

#: Octets that are sent again and again, from memory.
_SIZE: Final = 1 << 20


def main() -> None:
    """Serve until ended."""
    supply = os.memfd_create("source")
    os.truncate(supply, _SIZE)
    listening = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=512)
    listening.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            if key.fileobj is listening:
                accepted, _ = listening.accept()
                accepted.setblocking(False)
                selector.register(accepted, selectors.EVENT_WRITE)
                continue
            try:
                with suppress(BlockingIOError):
                    os.sendfile(key.fileobj.fileno(), supply, 0, _SIZE)
            except OSError:
                selector.unregister(key.fileobj)
                key.fileobj.close()


if __name__ == "__main__":
    main()
