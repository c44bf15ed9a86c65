"""UDP ports of ours that stand for ports of inside hosts, held as long as a session uses them."""

import socket
from collections import Counter

import structlog

from protocols.actions import SessionChanged, SessionClosed, SessionOpened
from protocols.natt.mapping import NattSession
from relay.sockets import datagrams

_log = structlog.get_logger("vpnmasq")


class PortHolds:
    """One socket for each public port that has sessions; IPsec's own ports are held elsewhere."""

    def __init__(self) -> None:
        self._sessions: Counter[int] = Counter()
        #: By port; for those that another process has given us as long as they are of use.
        self.sockets: dict[int, socket.socket] = {}

    def __len__(self) -> int:
        return len(self.sockets)

    def follow(self, event: SessionOpened | SessionChanged | SessionClosed) -> None:
        """Hold the port of a session that opens; let it go with the last one."""
        session = event.session
        if not isinstance(session, NattSession) or session.public_port in datagrams.PORTS:
            return
        port = session.public_port
        if isinstance(event, SessionOpened):
            self._sessions[port] += 1
            if self._sessions[port] == 1:
                self._hold(port)
        elif isinstance(event, SessionClosed):
            self._sessions[port] -= 1
            if self._sessions[port] <= 0:
                del self._sessions[port]
                held = self.sockets.pop(port, None)
                if held is not None:
                    held.close()

    def _hold(self, port: int) -> None:
        if port in self.sockets:
            return
        try:
            self.sockets[port] = datagrams.hold(port)
        except OSError as error:
            # The session works all the same, as long as the other program keeps quiet.
            _log.warning("port not held", port=port, error=str(error))

    def close_others(self) -> None:
        """Let go of what was given to us and no session uses."""
        for port in self.sockets.keys() - self._sessions.keys():
            self.sockets.pop(port).close()

    def close(self) -> None:
        """Let all ports go."""
        for held in self.sockets.values():
            held.close()
        self.sockets.clear()
