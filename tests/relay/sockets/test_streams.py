"""Control connections on the loopback, read and written, and handed from one owner to the next."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing

import pytest
import uvloop

from protocols.actions import Connect, Side
from protocols.addr import UNSPECIFIED, parse_ip
from protocols.events import (
    StreamAccepted,
    StreamConnected,
    StreamData,
    StreamEnded,
    StreamEvent,
    StreamFailed,
    StreamLost,
    StreamStalled,
)
from relay.sockets.streams import WRITE_LIMIT, Streams

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
BOUND = 10.0


class Desk:
    """Streams, and a listener for them."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.numbers = iter(range(1, 1000))
        self.streams = Streams(number=lambda: next(self.numbers), report=self.events.append)
        self.entrance = socket.create_server(("127.0.0.1", 0))
        self.acceptor = self.streams.listen(self.entrance, Side.LAN)
        self.acceptor.begin()

    async def has(self, kind: type[StreamEvent], count: int = 1) -> StreamEvent:
        """The event of this kind, as soon as there are so many."""
        async with asyncio.timeout(BOUND):
            while len(found := self.find(kind)) < count:  # noqa: ASYNC110  the kernel's doing sets no event
                await asyncio.sleep(0.005)
        return found[-1]

    def find(self, kind: type[StreamEvent]) -> list[StreamEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def dial(self) -> socket.socket:
        near = socket.create_connection(self.entrance.getsockname())
        near.settimeout(BOUND)
        return near

    def close(self) -> None:
        self.acceptor.close()
        self.streams.abort_all()


def story(work: Callable[[Desk], Awaitable[None]], new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        with closing(Desk()) as desk:
            await work(desk)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def connect(stream: int, port: int) -> Connect:
    return Connect(stream, Side.WAN, UNSPECIFIED, parse_ip("127.0.0.1"), port, transparent=False, caller=0)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_what_is_said_is_reported_and_what_is_written_arrives(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work(desk: Desk) -> None:
        with desk.dial() as near:
            await desk.has(StreamAccepted)
            near.sendall(b"hello")
            assert await desk.has(StreamData) == StreamData(1, b"hello")
            desk.streams.write(1, b"good ")
            desk.streams.write(1, b"morning")
            desk.streams.close(1, abort=False)
            assert near.recv(100) + near.recv(100) == b"good morning"
            assert near.recv(1) == b""
            assert (len(desk.streams), desk.streams.gone.is_set()) == (0, True)
            desk.streams.write(1, b"to nobody")

    story(work, new_loop)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_end_and_a_loss_are_told_apart(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def work(desk: Desk) -> None:
        with desk.dial() as near:
            await desk.has(StreamAccepted)
            near.shutdown(socket.SHUT_WR)
            await desk.has(StreamEnded)
            # It ends once, and can be answered still.
            desk.streams.write(1, b"bye")
            assert near.recv(100) == b"bye"
        with desk.dial() as near:
            await desk.has(StreamAccepted, 2)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        lost = await desk.has(StreamLost)
        assert lost == StreamLost(2, "Connection reset by peer")

    story(work, new_loop)


def test_who_does_not_read_is_reported_once_and_cut_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.sockets.streams.LINGER", 0.05)

    async def work(desk: Desk) -> None:
        with desk.dial() as near:
            await desk.has(StreamAccepted)
            for _ in range(200):
                desk.streams.write(1, bytes(WRITE_LIMIT))
            assert desk.find(StreamStalled) == [StreamStalled(1)]
            desk.streams.close(1, abort=False)
            assert len(desk.streams) == 1
            async with asyncio.timeout(BOUND):
                await desk.streams.gone.wait()
            with pytest.raises(ConnectionResetError):
                read(near, 200 * WRITE_LIMIT)

    story(work, asyncio.new_event_loop)


def test_dialling_succeeds_or_says_why_not() -> None:
    async def work(desk: Desk) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            desk.streams.connect(connect(50, port))
            assert await desk.has(StreamConnected) == StreamConnected(50, parse_ip("127.0.0.1"))
            desk.streams.connect(connect(51, port))
            desk.streams.close(51, abort=True)
        desk.streams.connect(connect(52, port))
        assert await desk.has(StreamFailed) == StreamFailed(52, "Connection refused")
        assert desk.streams.dialling == {}

    story(work, asyncio.new_event_loop)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_another_owner_goes_on_with_what_is_not_written_and_not_read_yet(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work(desk: Desk) -> None:
        with ExitStack() as stack:
            near, leaving = stack.enter_context(desk.dial()), stack.enter_context(desk.dial())
            await desk.has(StreamAccepted, 2)
            numbers = [2 * bytes([65 + letter]) for letter in range(20)]
            said = b"".join(octets * 300_000 for octets in numbers)
            desk.streams.write(1, said)
            desk.streams.write(2, said)
            desk.streams.close(2, abort=False)
            desk.streams.pause()
            near.sendall(b"waits")
            parts = list(desk.streams.parts())
            assert [(part.number, part.done) for part in parts] == [(1, False), (2, True)]
            assert all(part.unsent for part in parts)
            # What the old owner has is closed without a word, as when its process ends.
            heirs = [(part, part.sock.dup()) for part in parts]
            for part in parts:
                part.sock.close()
            desk.streams._streams.clear()
            next_ = Desk()
            stack.callback(next_.close)
            next_.streams.adopt(
                type(part)(part.number, part.partner, sock, part.unsent, part.done) for part, sock in heirs
            )
            next_.streams.write(1, b"and more")
            await next_.streams.begin()
            assert await next_.has(StreamData) == StreamData(1, b"waits")
            loop = asyncio.get_running_loop()
            for sock, wanted in ((near, said + b"and more"), (leaving, said)):
                got = await loop.run_in_executor(None, read, sock, len(wanted))
                assert got == wanted
            async with asyncio.timeout(BOUND):
                while len(next_.streams) > 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert leaving.recv(1) == b""

    story(work, new_loop)


def read(sock: socket.socket, length: int) -> bytes:
    got = bytearray()
    while len(got) < length and (part := sock.recv(1 << 20)):
        got += part
    return bytes(got)


def test_what_a_pause_has_kept_from_dialling_is_dialled_after_it() -> None:
    async def work(desk: Desk) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, desk.dial() as near:
            await desk.has(StreamAccepted)
            desk.streams.connect(connect(50, server.getsockname()[1]))
            desk.streams.pause()
            near.sendall(b"waits")
            await asyncio.sleep(0.05)
            assert len(desk.events) == 1
            desk.streams.resume()
            await desk.has(StreamConnected)
            assert await desk.has(StreamData) == StreamData(1, b"waits")

    story(work, asyncio.new_event_loop)
