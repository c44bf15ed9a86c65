"""Where packets and connections come in, and whether they are taken now or wait in the kernel."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.sockets.tcp import Acceptor


@dataclass(slots=True)
class Intakes:
    """All raw sockets and listeners of one process. To be used on the running loop."""

    #: Whether they are taken as soon as there is a socket for them.
    open: bool = True
    #: By raw socket, what is called when it is readable.
    _readers: dict[socket.socket, Callable[[], object]] = field(default_factory=dict)
    _acceptors: dict[Acceptor, None] = field(default_factory=dict)

    def read(self, sock: socket.socket, reader: Callable[[], object]) -> Callable[[], None]:
        """Have ``reader`` called when there is something to read; call the result to end it."""
        self._readers[sock] = reader
        if self.open:
            self._loop.add_reader(sock.fileno(), reader)

        def end() -> None:
            del self._readers[sock]
            self._loop.remove_reader(sock.fileno())

        return end

    def accept(self, acceptor: Acceptor) -> Callable[[], None]:
        """Have an Acceptor begin; call the result to end it, and to close its socket."""
        self._acceptors[acceptor] = None
        if self.open:
            acceptor.begin()

        def end() -> None:
            del self._acceptors[acceptor]
            acceptor.close()

        return end

    def begin(self) -> None:
        """Take packets and connections from now on."""
        self.open = True
        for sock, reader in self._readers.items():
            self._loop.add_reader(sock.fileno(), reader)
        self.open_doors()

    def open_doors(self) -> None:
        """Accept connections."""
        for acceptor in self._acceptors:
            acceptor.begin()

    def shut_doors(self) -> None:
        """Let new connections wait."""
        for acceptor in self._acceptors:
            acceptor.pause()

    def cease(self) -> None:
        """Take no more packets either."""
        self.open = False
        for sock in self._readers:
            self._loop.remove_reader(sock.fileno())

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()
