"""Forwarded connections on the loopback: what the shell does with them, on either loop."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing

import pytest
import uvloop

from protocols.actions import Cut, Examine, Side, Splice
from protocols.addr import UNSPECIFIED, parse_ip
from protocols.events import (
    ForwardAccepted,
    ForwardAlive,
    ForwardConnected,
    ForwardEnded,
    ForwardEvent,
    ForwardFailed,
)
from protocols.sessions import Traffic
from relay.sockets.splices import Splices

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
BOUND = 10.0


class Desk:
    """Splices, and a core that sends every connection on to one server."""

    def __init__(self, server_port: int) -> None:
        self.events: list[ForwardEvent] = []
        self.toward, self.back = Traffic(), Traffic()
        self._server_port = server_port
        self._numbers = iter(range(1, 1000))
        self.splices = Splices(number=lambda: next(self._numbers), report=self.report)

    def report(self, event: ForwardEvent) -> None:
        self.events.append(event)
        if isinstance(event, ForwardAccepted):
            to = parse_ip("127.0.0.1")
            splice = Splice(
                event.stream,
                UNSPECIFIED,
                to,
                self._server_port,
                transparent=False,
                toward=self.toward,
                back=self.back,
            )
            self.splices.splice(splice)

    def find(self, kind: type[ForwardEvent]) -> list[ForwardEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[ForwardEvent]) -> ForwardEvent:
        await until(lambda: bool(self.find(kind)))
        return self.find(kind)[0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  the condition is the kernel's
            await asyncio.sleep(0.005)


@asynccontextmanager
async def dialled(server_port: int) -> AsyncIterator[tuple[Desk, socket.socket]]:
    """A desk, and a connection that somebody has opened to it."""
    desk = Desk(server_port)
    entrance = socket.create_server(("127.0.0.1", 0))
    acceptor = desk.splices.listen(entrance, Side.WAN)
    acceptor.begin()
    with closing(socket.create_connection(entrance.getsockname())) as near:
        yield desk, near
    acceptor.close()
    desk.splices.abort_all()


def read_all(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(BOUND)
        yield sock


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], story: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())  # type: ignore[arg-type]


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_ends_that_answer_are_alive_and_bytes_are_counted(
    new_loop: Callable[[], asyncio.AbstractEventLoop], server: socket.socket
) -> None:
    async def story() -> None:
        async with dialled(server.getsockname()[1]) as (desk, near):
            await desk.until(ForwardConnected)
            with closing(server.accept()[0]) as far:
                near.sendall(b"x" * 1000)
                await until(lambda: desk.toward.octets == 1000)
                assert far.recv(2000) == b"x" * 1000
                desk.splices.examine(Examine(1, within=60.0))
                assert desk.events[-1] == ForwardAlive(1)
                desk.splices.examine(Examine(1, within=-1.0))
                assert desk.events[-1] == ForwardAlive(1)
                desk.splices.cut(Cut(1).stream)
                with pytest.raises(ConnectionResetError):
                    near.recv(1)
            assert len(desk.splices) == 0

    run(new_loop, story)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_end_that_resets_while_the_other_does_not_read_is_found_out(
    new_loop: Callable[[], asyncio.AbstractEventLoop], server: socket.socket
) -> None:
    async def story() -> None:
        async with dialled(server.getsockname()[1]) as (desk, near):
            await desk.until(ForwardConnected)
            with closing(server.accept()[0]) as far:
                near.setblocking(False)
                while not desk.splices.held_up:
                    try:
                        near.send(bytes(1 << 16))
                    except BlockingIOError:
                        await asyncio.sleep(0.01)
                desk.splices.look()
                assert len(desk.splices) == 1
                reset(near)
                desk.splices.look()
                ended = await desk.until(ForwardEnded)
                assert ended == ForwardEnded(1, "Connection reset by peer")
                with pytest.raises(ConnectionResetError):
                    read_all(far)

    run(new_loop, story)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_what_a_server_said_before_it_reset_still_arrives(
    new_loop: Callable[[], asyncio.AbstractEventLoop], server: socket.socket
) -> None:
    """A server that answers without having read the whole question closes with RST."""

    async def story() -> None:
        async with dialled(server.getsockname()[1]) as (desk, near):
            await desk.until(ForwardConnected)
            far = server.accept()[0]
            near.sendall(b"question")
            await asyncio.sleep(0.05)
            far.sendall(b"refused")
            far.close()
            await until(lambda: desk.back.octets == 7)
            near.settimeout(BOUND)
            assert near.recv(100) == b"refused"

    run(new_loop, story)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_server_that_is_not_there_fails_with_the_reason(
    new_loop: Callable[[], asyncio.AbstractEventLoop], server: socket.socket
) -> None:
    port = server.getsockname()[1]
    server.close()

    async def story() -> None:
        async with dialled(port) as (desk, _):
            failed = await desk.until(ForwardFailed)
        assert failed == ForwardFailed(1, "Connection refused")

    run(new_loop, story)
