"""A home with a router, the internet and the real daemon, in namespaces; and hosts that speak PPTP by hand.

    10.0.0.0/24                    200.200.200.0/24           199.0.0.0/24
    client .2, second .3 --+                                        +-- peer .1
    server .9 -------------+-- eth0 .1 [gateway] eth1 .200 -- .1 [internet] --+-- caller .2

Sockets are opened in a host's namespace and used from the test, one step at a time, so that a test reads
as a conversation and needs no threads. Offloads stay on: what a router has to cope with at home.
"""

import contextlib
import http.client
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocols import ipv4
from protocols.addr import parse_ip
from protocols.gre.codec import EnhancedGre
from tests.netns import Namespace, Network, network
from tests.system.control import Control, Tunnel, called, started

VPNMASQ: Final = str(Path(sys.executable).with_name("vpnmasq"))
PUBLIC: Final = "200.200.200.200"
PEER: Final = "199.0.0.1"
CALLER: Final = "199.0.0.2"
CLIENT: Final = "10.0.0.2"
SECOND: Final = "10.0.0.3"
SERVER: Final = "10.0.0.9"
GATEWAY: Final = "10.0.0.1"
GRE: Final = 47

#: Seconds that anything may take before a test fails.
PATIENCE: Final = 30.0

#: Seconds to wait for what must not come.
SILENCE: Final = 0.3

RULES: Final = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp"]

[[expose]]
name = "office"
server = "{SERVER}"
proto = ["pptp"]
allow = ["{CALLER}", "10.0.0.0/24"]
"""


@dataclass
class Daemon:
    """The real daemon in the gateway's namespace."""

    process: subprocess.Popen[str]
    directory: Path
    _log: Path

    @property
    def socket(self) -> str:
        """Its control socket."""
        return str(self.directory / "control.sock")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        argv = [VPNMASQ, "--socket", self.socket, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def document(self, *words: str) -> dict[str, Any]:
        """The JSON of a command; of ``status`` and ``sessions`` without the command, which takes longer."""
        if len(words) == 1:
            text = self._ask(f"/v1/{words[0]}")
        else:
            done = self.command(*words, "--json")
            assert done.returncode == 0, done.stderr
            text = done.stdout
        found: dict[str, Any] = json.loads(text)
        return found

    def _ask(self, path: str) -> str:
        connection = http.client.HTTPConnection("vpnmasq")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(connection):
            connection.sock.settimeout(PATIENCE)
            connection.sock.connect(self.socket)
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200, answer.reason
            return answer.read().decode()

    def drops(self) -> dict[str, int]:
        """What was refused, by reason."""
        found: dict[str, int] = self.document("status")["drops"]
        return found

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit status."""
        self.process.send_signal(number)
        return self.ends()

    def ends(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(PATIENCE)


@dataclass
class Gre:
    """A host's raw sockets: GRE in, whole packets out."""

    sock: socket.socket
    out: socket.socket

    def send(self, src: str, dst: str, call_id: int, payload: bytes = b"data", **header: Any) -> None:
        """Send a packet; ``header`` is for ``ipv4.build`` (ttl, tos, …) and ``seq``, ``ack``."""
        seq, ack = header.pop("seq", 0), header.pop("ack", None)
        inner = EnhancedGre(call_id=call_id, seq=seq, ack=ack, payload=payload).to_bytes()
        self.send_packet(
            ipv4.build(src=parse_ip(src), dst=parse_ip(dst), protocol=GRE, payload=inner, **header), dst
        )

    def send_packet(self, packet: bytes, dst: str) -> None:
        """Send a whole IP packet."""
        self.out.sendto(packet, (dst, 0))

    def receive(self, *, protocol: int = GRE) -> bytes:
        """The next packet that came in."""
        while True:
            packet = self.sock.recv(65536)
            if packet[9] == protocol:
                return packet

    def nothing(self) -> bool:
        """Whether nothing comes for a while."""
        readable, _, _ = select.select([self.sock], [], [], SILENCE)
        return not readable


def raw(host: Namespace, protocol: int = GRE) -> Gre:
    """A host's raw sockets, which are the caller's to close."""
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
        out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.settimeout(PATIENCE)
    return Gre(sock, out)


class Home:
    """The whole network. Made by :func:`home`."""

    def __init__(self, net: Network, directory: Path) -> None:
        self.net = net
        self._directory = directory
        self._runs = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self.client, self.second, self.server = (net.namespace(n) for n in ("client", "second", "server"))
        self.gateway, self.internet = net.namespace("gateway"), net.namespace("internet")
        self.peer, self.caller = net.namespace("peer"), net.namespace("caller")
        self.lan = net.namespace("lan")
        self.daemons: list[Daemon] = []
        self._wire()

    def _wire(self) -> None:
        net = self.net
        net.bridge(self.lan, "br0", [self.client, self.second, self.server, self.gateway])
        net.link(self.gateway, "eth1", self.internet, "eth0")
        net.bridge(self.internet, "br0", [self.peer, self.caller])
        for host, address in ((self.client, CLIENT), (self.second, SECOND), (self.server, SERVER)):
            host.address("eth0", f"{address}/24")
            host.sh(f"ip route add default via {GATEWAY}")
        self.gateway.address("eth0", f"{GATEWAY}/24")
        self.gateway.address("eth1", f"{PUBLIC}/24")
        self.gateway.sh("ip route add default via 200.200.200.1")
        self.internet.address("eth0", "200.200.200.1/24")
        self.internet.address("br0", "199.0.0.254/24")
        self.internet.sysctl("net.ipv4.ip_forward", 1)
        # Evidence that addresses are translated: the internet does not carry private ones.
        self.internet.run("nft", "-f", "-", stdin=_NO_PRIVATE_ADDRESSES)
        for host, address in ((self.peer, PEER), (self.caller, CALLER)):
            host.address("eth0", f"{address}/24")
            host.sh("ip route add default via 199.0.0.254")

    def close(self) -> None:
        """End the daemons and sockets."""
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
        self._stack.close()

    # -- the daemon ------------------------------------------------------------------------------------

    def run(
        self,
        rules: str = RULES,
        *options: str,
        wait: bool = True,
        under: Sequence[str] = (),
        **environment: str,
    ) -> Daemon:
        """Start the daemon with a configuration of these rules; ready when this returns.

        ``under`` is a command that runs it, setpriv for one.
        """
        directory = self.directory()
        config = directory / "vpnmasq.toml"
        config.write_text(self.configuration(rules, directory))
        return self.start(
            directory, "-c", str(config), *options, wait=wait, under=under, descriptors=(), **environment
        )

    def start(
        self,
        directory: Path,
        *options: str,
        wait: bool = True,
        under: Sequence[str] = (),
        descriptors: Sequence[int] = (),
        **environment: str,
    ) -> Daemon:
        """Start the daemon with these options; its socket is in the directory.

        It waits for no call when it is told to stop, unless an option says so. ``descriptors`` are passed on
        to what is ``under`` it.
        """
        path = directory / f"log{next(self._runs)}"
        with path.open("w") as log:
            process = subprocess.Popen(
                (
                    "ip",
                    "netns",
                    "exec",
                    self.gateway.name,
                    *under,
                    VPNMASQ,
                    "run",
                    "--timeout",
                    "0",
                    *options,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **environment},
                pass_fds=descriptors,
            )
        daemon = Daemon(process, directory, path)
        self.daemons.append(daemon)
        if wait:
            until(lambda: '"event": "ready"' in daemon.log() or process.poll() is not None)
            assert process.poll() is None, daemon.log()
        return daemon

    def kernel(self) -> dict[str, str]:
        """All of the gateway's kernel that a router's owner looks after."""
        sysctls = self.gateway.sh("sysctl -a --pattern ^net").splitlines()
        return {
            "ruleset": self.gateway.sh("nft list ruleset"),
            "rules": self.gateway.sh("ip -details rule"),
            "routes": self.gateway.sh("ip -4 route show table all"),
            "sysctls": "\n".join(line for line in sysctls if "nf_conntrack_count" not in line),
        }

    def directory(self) -> Path:
        """A new directory for a configuration and its control socket."""
        directory = self._directory / f"run{next(self._runs)}"
        directory.mkdir()
        return directory

    def configuration(self, rules: str, directory: Path) -> str:
        """A whole configuration; top-level keys come first in ``rules``."""
        return f"""{rules}
[wan]
interface = "eth1"
[lan]
interfaces = ["eth0"]
networks = ["10.0.0.0/8"]
[api]
socket = "{directory / "control.sock"}"
[state]
directory = ""
"""

    # -- hosts -----------------------------------------------------------------------------------------

    def raw(self, host: Namespace, protocol: int = GRE) -> Gre:
        """A host's raw sockets."""
        made = raw(host, protocol)
        self._stack.callback(made.sock.close)
        self._stack.callback(made.out.close)
        return made

    def listen(self, host: Namespace, port: int = 1723) -> socket.socket:
        """A listening socket of a host."""
        with host.entered():
            sock = socket.create_server(("0.0.0.0", port))
        sock.settimeout(PATIENCE)
        self._stack.callback(sock.close)
        return sock

    def dial(self, host: Namespace, to: str, port: int = 1723, *, patience: float = PATIENCE) -> Control:
        """A host opens a connection, and waits so many seconds for an answer.

        Raises:
            OSError: it is refused or nobody answers.
        """
        with host.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._stack.callback(sock.close)
        sock.settimeout(patience)
        sock.connect((to, port))
        sock.settimeout(PATIENCE)
        return Control(sock)

    def accept(self, listening: socket.socket) -> Control:
        """The next connection of a listening socket."""
        sock, _ = listening.accept()
        sock.settimeout(PATIENCE)
        self._stack.callback(sock.close)
        return Control(sock)

    def connection(self, host: Namespace, to: str, listening: socket.socket) -> tuple[Control, Control]:
        """A host dials and starts; both ends."""
        client = self.dial(host, to)
        server = self.accept(listening)
        started(client, server)
        return client, server

    def tunnel(
        self, host: Namespace, to: str, listening: socket.socket, *, client_id: int = 1, server_id: int = 100
    ) -> Tunnel:
        """A host dials, starts and calls."""
        client, server = self.connection(host, to, listening)
        return called(client, server, client_id=client_id, server_id=server_id)


_NO_PRIVATE_ADDRESSES = """
table ip internet {
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr 10.0.0.0/8 counter drop
        ip daddr 10.0.0.0/8 counter drop
    }
}
"""


def until(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    """Wait for a condition, and fail when it does not come."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@contextlib.contextmanager
def home(directory: Path) -> Iterator[Home]:
    """The network, for a while."""
    with network() as net:
        built = Home(net, directory)
        try:
            yield built
        finally:
            built.close()
