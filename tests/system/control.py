"""Control connections that tests hold by hand, one message at a time, and the calls made by them."""

import socket
from dataclasses import dataclass, field
from typing import TypeVar

from protocols.pptp import messages
from protocols.pptp.framing import Framer
from protocols.pptp.messages import Message

M = TypeVar("M", bound=Message)


@dataclass
class Control:
    """One end of a control connection."""

    sock: socket.socket
    _framer: Framer = field(default_factory=Framer)
    _inbox: list[Message] = field(default_factory=list)

    def says(self, *spoken: Message | bytes) -> None:
        """Send messages in one segment."""
        self.sock.sendall(b"".join(m if isinstance(m, bytes) else m.to_bytes() for m in spoken))

    def hears(self, wanted: type[M]) -> M:
        """The next message, which must be of this type."""
        while not self._inbox:
            assert self.reads(), f"closed instead of {wanted.__name__}"
        message = self._inbox.pop(0)
        assert isinstance(message, wanted), message
        return message

    def reads(self) -> bool:
        """Take what comes next; False at the end of the connection."""
        data = self.sock.recv(4096)
        for frame in self._framer.feed(data):
            self.takes(messages.decode(frame))
        return bool(data)

    def takes(self, message: Message) -> None:
        """A message has come: somebody will want to hear it."""
        self._inbox.append(message)

    def is_closed(self) -> bool:
        """Wait for the end of the connection; what comes before it is thrown away."""
        try:
            while self.sock.recv(4096):
                pass
        except ConnectionError:
            return True
        return True

    @property
    def far_end(self) -> str:
        """Whom this end believes to be talking to."""
        return str(self.sock.getpeername()[0])


@dataclass
class Tunnel:
    """A call through the gateway, seen from both ends."""

    client: Control
    server: Control
    #: The client's Call ID as the server knows it, and the server's as the client knows it.
    client_id: int
    server_id: int
    #: The real ones.
    own_client_id: int
    own_server_id: int


def started(client: Control, server: Control) -> None:
    """Both ends of a new connection say who they are (RFC 2637 §2.1, §2.2)."""
    client.says(messages.StartRequest())
    server.hears(messages.StartRequest)
    server.says(messages.StartReply(result=1))
    client.hears(messages.StartReply)


def called(client: Control, server: Control, *, client_id: int = 1, server_id: int = 100) -> Tunnel:
    """The client calls, and the server takes the call (RFC 2637 §2.7, §2.8)."""
    client.says(messages.OutgoingCallRequest(call_id=client_id))
    request = server.hears(messages.OutgoingCallRequest)
    server.says(messages.OutgoingCallReply(call_id=server_id, peer_call_id=request.call_id, result=1))
    reply = client.hears(messages.OutgoingCallReply)
    return Tunnel(client, server, request.call_id, reply.call_id, client_id, server_id)
