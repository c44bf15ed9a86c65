"""A daemon in memory, and the real control server around it in a thread of its own."""

import asyncio
import http.client
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from protocols.addr import Ip4, parse_ip, show_ip
from protocols.drops import Reason
from protocols.esp.told import Told, ToldPairs
from protocols.sessions import Role, Session, State, Traffic
from relay.control.daemon import (
    Counted,
    Link,
    NameStatus,
    ReloadRefused,
    RuleStatus,
    SocketStatus,
    Status,
    WanStatus,
)
from relay.control.feed import Feed, Subscription
from relay.control.server import ApiOptions, ControlServer

T = TypeVar("T")

BOUND = 10.0


def session(number: int, **changes: Any) -> Session:
    """A session of the HOWTO's network, opened at 100 s."""
    fields: dict[str, Any] = {
        "id": f"p{number:x}",
        "protocol": "pptp",
        "role": Role.MASQUERADE,
        "rule": "staff",
        "state": State.ESTABLISHED,
        "inside": parse_ip("10.0.0.2"),
        "gateway": parse_ip("200.200.200.200"),
        "peer": parse_ip("199.0.0.1"),
        "opened": 100.0,
        "last_seen": 100.0,
        "call_ids": {"client": 1, "gateway": 49153, "peer": 100},
        "outbound": Traffic(120, 9000, 230.0),
        "inbound": Traffic(118, 12000, 233.5),
    }
    return Session(**(fields | changes))


class StandIn:
    """Implements relay.control.daemon.Daemon without a network."""

    def __init__(self, sessions: Iterable[Session] = (), *, limit: int = 2000) -> None:
        self.table = {one.id: one for one in sessions}
        self.told = ToldPairs()
        self.now = 234.0
        self.state = "ready"
        self.links: list[tuple[str, Link]] = []
        self.feed = Feed(self.clock, limit=limit)
        self.reloads: list[list[str] | ReloadRefused | Exception] = []
        #: Seconds that status() hangs, as a daemon in trouble would.
        self.hang = 0.0
        self.rule = "staff"
        self.no_takeover = ""
        self.is_frozen = False
        self.attention = ["the kernel dropped 12 packets at gre@eth1 because they were read too slowly"]

    def status(self) -> Status:
        time.sleep(self.hang)
        return Status(
            state=self.state,
            instance="vpnmasq",
            version="0.1.0",
            started_at=34.0,
            wan=WanStatus("eth1", "200.200.200.200", 40.0, 1, served=0.0123),
            rules=[
                RuleStatus(
                    name=self.rule, role="masquerade", protocols=["pptp"], sessions=len(self.table), refused=2
                )
            ],
            sessions={"pptp": len(self.table)},
            drops={Reason.UNKNOWN_CALL: 7, Reason.MARTIAN: 0, Reason.STRANGER: 50},
            kernel_drops={Reason.STRANGER: 40},
            ddns=[
                NameStatus(
                    name="home",
                    host="vpn.example.org",
                    provider="rfc2136",
                    state="current",
                    addresses=["200.200.200.200"],
                    problem="",
                    updates=1,
                )
            ],
            sockets=[SocketStatus(name="gre@eth1", packets=1000, kernel_drops=12, receive_buffer=4_194_304)],
            traffic={
                "outbound": Counted(packets=120, octets=9000),
                "inbound": Counted(packets=118, octets=12000),
            },
            attention=self.attention,
        )

    def sessions(self) -> Iterable[Session]:
        return self.table.values()

    def clock(self) -> float:
        return self.now

    def kill(self, ids: Sequence[str]) -> tuple[list[str], list[str]]:
        killed = [one for one in ids if self.table.pop(one, None)]
        return killed, [one for one in ids if one not in killed]

    def pairs(self) -> Sequence[Told]:
        return self.told.all()

    def tell(self, peer: Ip4, spi: int, host: Ip4, lifetime: float) -> Reason | None:
        if show_ip(host) == "10.9.9.9":
            return Reason.NO_RULE
        self.told.add(Told(peer, spi, host, self.now + lifetime))
        return None

    def untell(self, peer: Ip4, spi: int) -> bool:
        return self.told.remove(peer, spi) is not None

    async def reload(self) -> list[str]:
        result = self.reloads.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def link_changed(self, event: str, link: Link) -> bool:
        self.links.append((event, link))
        return link.interface == "eth1"

    def takeover_refusal(self, asked: dict[str, Any]) -> str:
        return self.no_takeover

    async def hand_over(self, connection: socket.socket) -> None:
        connection.sendall(b"handed over")

    def frozen(self) -> bool:
        return self.is_frozen

    def ready(self) -> bool:
        return self.state == "ready"

    def subscribe(self) -> Subscription:
        return self.feed.subscribe()


class Served:
    """A stand-in with the real server around it."""

    def __init__(
        self, daemon: StandIn, loop: asyncio.AbstractEventLoop, server: ControlServer, path: Path
    ) -> None:
        self.daemon = daemon
        self.server = server
        self.path = path
        self._loop = loop

    def on_loop(self, function: Callable[[], T]) -> T:
        """Call something on the daemon's thread."""

        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(BOUND)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(BOUND)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition of the daemon's thread."""
        deadline = time.monotonic() + BOUND
        while not self.on_loop(condition):
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.005)

    def followers(self) -> int:
        return len(self.daemon.feed)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask over the Unix socket; return status and document."""
        status, text = self.text(method, path, body, headers)
        return status, json.loads(text)

    def text(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        with closing(connect(self.path)) as unix:
            return exchange(unix, method, path, body, headers)


def connect(path: Path) -> socket.socket:
    unix = socket.socket(socket.AF_UNIX)
    unix.settimeout(BOUND)
    unix.connect(str(path))
    return unix


def exchange(
    connected: socket.socket,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connected
    connection.request(method, path, body, (headers or {}) | {"Connection": "close"})
    response = connection.getresponse()
    return response.status, response.read().decode()


@contextmanager
def place() -> Iterator[Path]:
    """A directory that every user may enter, as /run is."""
    directory = Path(tempfile.mkdtemp(prefix="vpnmasq-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def serving(
    daemon: StandIn | None = None,
    *,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    **options: Any,
) -> Iterator[Served]:
    """Run the control server on a fresh socket."""
    loop = (new_loop or asyncio.new_event_loop)()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    standing = daemon or StandIn()
    try:
        with place() as directory:
            path = directory / "run" / "control.sock"
            server = ControlServer(standing, ApiOptions(socket=str(path), **options))
            asyncio.run_coroutine_threadsafe(server.start(), loop).result(BOUND)
            served = Served(standing, loop, server, path)
            try:
                yield served
            finally:
                served.stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(BOUND)
        loop.close()
