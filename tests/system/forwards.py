"""One rule of each kind of forward, and what hosts do with them."""

import contextlib
import socket
from collections.abc import Iterator

from protocols import ipv4
from protocols.addr import show_ip
from tests.netns import Namespace
from tests.system.home import CALLER, PATIENCE, PEER, PUBLIC, SERVER, Daemon, Gre, Home

RULES = f"""
[[forward]]
name = "web"
listen = "tcp/80"
server = "{SERVER}:8080"
allow = ["{CALLER}", "10.0.0.0/24"]

[[forward]]
name = "mail"
listen = "tcp/25"
server = "{SERVER}"
allow = ["any"]
source = "gateway"

[[forward]]
name = "dns"
listen = "udp/53"
server = "{SERVER}:5353"
allow = ["{CALLER}", "{PEER}", "10.0.0.0/24"]

[[forward]]
name = "echo"
listen = "udp/7"
server = "{SERVER}"
allow = ["{CALLER}"]
source = "gateway"

[[forward]]
name = "fwz"
listen = "ip/94"
server = "{SERVER}"
allow = ["{CALLER}", "10.0.0.0/24"]

[[forward]]
name = "gre"
listen = "ip/47"
server = "{SERVER}"
allow = ["{CALLER}"]

[[forward]]
name = "esp"
listen = "ip/50"
server = "{SERVER}"
allow = ["{CALLER}"]
"""


@contextlib.contextmanager
def listening(host: Namespace, port: int) -> Iterator[socket.socket]:
    with host.entered():
        sock = socket.create_server(("0.0.0.0", port))
    sock.settimeout(PATIENCE)
    with sock:
        yield sock


def connect(host: Namespace, to: str, port: int, timeout: float = PATIENCE) -> socket.socket:
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect((to, port))
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def joined(
    house: Home, host: Namespace, port: int, server_port: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection through the gateway: its near and its far end."""
    with (
        listening(house.server, server_port) as at_server,
        connect(host, PUBLIC, port) as near,
        at_server.accept()[0] as far,
    ):
        far.settimeout(PATIENCE)
        yield near, far


def sessions(daemon: Daemon) -> list[dict[str, object]]:
    found: list[dict[str, object]] = daemon.document("sessions")["sessions"]
    return found


@contextlib.contextmanager
def udp(host: Namespace, port: int = 0) -> Iterator[socket.socket]:
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind(("0.0.0.0", port))
        sock.settimeout(PATIENCE)
        yield sock


def data(raw: Gre, protocol: int) -> tuple[str, str, bytes]:
    packet = raw.receive(protocol=protocol)
    header = ipv4.Header.from_bytes(packet)
    return show_ip(header.src), show_ip(header.dst), packet[header.length :]
