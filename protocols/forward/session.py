"""Sessions of forwards."""

from dataclasses import dataclass

from protocols.sessions import Session


@dataclass(slots=True, eq=False)
class ForwardSession(Session):
    """A TCP connection, or what one peer and the server exchange by UDP or another IP protocol."""

    #: What the rule listens on: "tcp/80", "udp/53" or "ip/94".
    listen: str = ""
    #: Ports of the peer and of the server; 0 where there are none.
    peer_port: int = 0
    server_port: int = 0
