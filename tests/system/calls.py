"""Calls through the daemon, made and tried by hand, and rules that allow them."""

import contextlib
import socket
from collections.abc import Iterator

from protocols.gre.codec import EnhancedGre
from protocols.pptp import messages
from tests.netns import Namespace
from tests.system.control import Tunnel
from tests.system.home import CALLER, CLIENT, GATEWAY, PEER, SERVER, Daemon, Home

MASQUERADE = """
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp"]
"""

#: Both directions without CAP_NET_ADMIN: nothing is intercepted, and no foreign address is used.
RELAY = f"""
[[masquerade]]
name = "dialled"
clients = ["10.0.0.0/24"]
servers = ["{PEER}"]
proto = ["pptp"]
listen = "{GATEWAY}"

[[expose]]
name = "office"
server = "{SERVER}"
proto = ["pptp"]
allow = ["{CALLER}"]
source = "gateway"
"""


@contextlib.contextmanager
def answering(house: Home, host: Namespace) -> Iterator[socket.socket]:
    with contextlib.closing(house.listen(host)) as listening:
        yield listening


def call(house: Home, host: Namespace, to: str, server: Namespace) -> Tunnel:
    with answering(house, server) as listening:
        return house.tunnel(host, to, listening)


def payload(packet: bytes) -> bytes:
    return EnhancedGre.from_bytes(packet[20:]).payload


def carries(house: Home, tunnel: Tunnel) -> bool:
    """Data of the client's call passes both ways."""
    client, peer = house.raw(house.client), house.raw(house.peer)
    client.send(CLIENT, PEER, tunnel.server_id, b"out")
    peer_got = payload(peer.receive())
    public = tunnel.server.far_end
    peer.send(PEER, public, tunnel.client_id, b"in")
    return (peer_got, payload(client.receive())) == (b"out", b"in")


def both_are_told(tunnel: Tunnel) -> None:
    """Both ends hear a Stop-Control-Connection-Request, and then the end of the connection."""
    for end in (tunnel.client, tunnel.server):
        end.hears(messages.StopRequest)
        assert end.sock.recv(100) == b""


def is_turned_away(house: Home, host: Namespace, to: str) -> bool:
    try:
        return house.dial(host, to).is_closed()
    except ConnectionError:
        return True


def changes(house: Home, daemon: Daemon, rules: str) -> None:
    """Write another configuration; nobody is told yet."""
    (daemon.directory / "vpnmasq.toml").write_text(house.configuration(rules, daemon.directory))
