"""PPTP clients and servers for the control side: one process plays both ends of every call.

Clients sit in the LAN's namespace, each on an address of its own with one control connection, and number
their calls from 1, as real ones do; servers sit in the WAN's. A client writes a number of its own into each
call request as phone number, which no gateway changes, so both ends' views of a call can be put together.
"""

import asyncio
import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final, NoReturn, cast

import uvloop

from protocols.addr import parse_ip, show_ip
from protocols.pptp.framing import Framer
from protocols.pptp.messages import (
    EchoReply,
    EchoRequest,
    Message,
    OutgoingCallReply,
    OutgoingCallRequest,
    StartReply,
    StartRequest,
    decode,
)
from tests.bench.limits import raise_files
from tests.bench.netns import inside
from tests.bench.packets import Flow
from tests.bench.precedence import stand_alone
from tests.bench.topology import PEERS, Row

PORT: Final = 1723
#: Call set-ups under way at once.
CONCURRENT: Final = 64
#: Seconds the set-up of all calls may take before it counts as failed.
PATIENCE: Final = 60.0
_IP_BIND_ADDRESS_NO_PORT: Final = 24


def wall_clock() -> float:
    """The clock of the kernel's stamps, which all processes share."""
    return time.clock_gettime(time.CLOCK_REALTIME)


@dataclass(frozen=True, slots=True)
class Call:
    """One established call: the packets each end would send."""

    outbound: Flow
    inbound: Flow


@dataclass(frozen=True, slots=True)
class Established:
    """What ``Callers.establish`` brought about."""

    calls: list[Call]
    seconds: float
    errors: list[str]

    @property
    def rate(self) -> float:
        """Complete call set-ups per second."""
        return len(self.calls) / self.seconds


@dataclass(slots=True)
class _Seen:
    """What the servers saw of the calls: number to (address of the caller, its Call ID)."""

    calls: dict[int, tuple[str, int]] = field(default_factory=dict)
    next_call_id: dict[str, int] = field(default_factory=dict)


class _Control(asyncio.Protocol):
    """Either end of a control connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._framer = Framer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def data_received(self, data: bytes) -> None:
        for message in self._framer.feed(data):
            self.heard(decode(message))

    def heard(self, message: Message) -> None:
        if isinstance(message, EchoRequest):
            self.transport.write(EchoReply(identifier=message.identifier).to_bytes())


class _Server(_Control):
    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self._seen = seen

    def heard(self, message: Message) -> None:
        if isinstance(message, StartRequest):
            self.transport.write(StartReply(host_name=b"server").to_bytes())
        elif isinstance(message, OutgoingCallRequest):
            here = self.transport.get_extra_info("sockname")[0]
            call_id = self._seen.next_call_id.get(here, 0) % 65535 + 1
            self._seen.next_call_id[here] = call_id
            caller = self.transport.get_extra_info("peername")[0]
            self._seen.calls[int(message.phone_number.rstrip(b"\0"))] = (caller, message.call_id)
            self.transport.write(OutgoingCallReply(call_id=call_id, peer_call_id=message.call_id).to_bytes())
        else:
            super().heard(message)


class _Client(_Control):
    def __init__(self, numbers: Sequence[int], lost: Callable[[], None]) -> None:
        super().__init__()
        self._lost = lost
        self._numbers = numbers
        self._peer_call_ids: list[int] = []
        #: The peer's Call ID of each call, when all stand.
        self.answered: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(StartRequest(host_name=b"client").to_bytes())

    def heard(self, message: Message) -> None:
        if isinstance(message, StartReply):
            self._call()
        elif isinstance(message, OutgoingCallReply):
            self._peer_call_ids.append(message.call_id)
            if len(self._peer_call_ids) < len(self._numbers):
                self._call()
            else:
                self.answered.set_result(self._peer_call_ids)
        else:
            super().heard(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
        if not self.answered.done():
            self.answered.set_exception(ConnectionError(str(exc or "closed before the calls stood")))

    def _call(self) -> None:
        at = len(self._peer_call_ids)
        number = b"%d" % self._numbers[at]
        request = OutgoingCallRequest(
            call_id=at + 1,
            call_serial_number=at + 1,
            phone_number_length=len(number),
            phone_number=number,
        )
        self.transport.write(request.to_bytes())


class _Ends:
    """Both ends of the calls of one row of namespaces."""

    def __init__(self, row: Row) -> None:
        self._lan = row.lan
        self._wan = row.wan
        self._peers = PEERS
        self._seen = _Seen()
        self._next_number = 0
        self._clients: list[_Client] = []
        self._servers: asyncio.Server | None = None
        #: How many connections of clients have ended, and when the last one did (wall clock).
        self._lost = 0
        self._last_lost = 0.0

    async def listen(self) -> None:
        with inside(self._wan):
            listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)
        loop = asyncio.get_running_loop()
        self._servers = await loop.create_server(lambda: _Server(self._seen), sock=listener)

    async def establish(self, first: str, connections: int, calls_each: int) -> Established:
        """Set up calls from the addresses that follow ``first``, one connection from each."""
        if self._servers is None:
            await self.listen()
        base = parse_ip(first)
        queue = iter(range(connections))
        calls: list[Call] = []
        errors: list[str] = []

        async def worker() -> None:
            for index in queue:
                try:
                    calls.extend(await self._connect(base + index, calls_each))
                except OSError as error:
                    errors.append(str(error))

        start = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
                for _ in range(CONCURRENT):
                    group.create_task(worker())
        except TimeoutError:
            errors.append(f"not done within {PATIENCE:g} s")
        return Established(calls, time.perf_counter() - start, errors)

    async def ended(self) -> float:
        """Wait for the end of every client's connection; when the last one ended (wall clock)."""
        async with asyncio.timeout(PATIENCE):
            while self._lost < len(self._clients):
                await asyncio.sleep(0.1)
        return self._last_lost

    def _lose(self) -> None:
        self._lost += 1
        self._last_lost = wall_clock()

    async def _connect(self, address: int, calls: int) -> list[Call]:
        client = show_ip(address)
        peer = self._peers[address % len(self._peers)]
        numbers = range(self._next_number, self._next_number + calls)
        self._next_number += calls
        with inside(self._lan):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((client, 0))
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (peer, PORT))
        _, protocol = await loop.create_connection(lambda: _Client(numbers, self._lose), sock=sock)
        peer_call_ids = await protocol.answered
        self._clients.append(protocol)
        seen = [self._seen.calls[number] for number in numbers]
        return [
            Call(Flow(client, peer, peer_call_id), Flow(peer, caller, call_id))
            for peer_call_id, (caller, call_id) in zip(peer_call_ids, seen, strict=True)
        ]


class Callers:
    """The callers' process, as the bench drives it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def establish(self, row: Row, first: str, connections: int, calls_each: int = 1) -> Established:
        """Set up calls that stay up until the process ends."""
        self._pipe.send((row, first, connections, calls_each))
        answer: object = self._pipe.recv()
        if not isinstance(answer, Established):
            raise RuntimeError(f"callers: {answer}")
        return answer

    def ended(self, row: Row) -> float:
        """Wait until the gateway has ended all calls of a row; when the last client knew (wall clock)."""
        self._pipe.send((row, "", 0, 0))
        answer: object = self._pipe.recv()
        if not isinstance(answer, float):
            raise RuntimeError(f"callers: {answer}")
        return answer


@contextlib.contextmanager
def callers(core: int) -> Iterator[Callers]:
    """Start the callers on a core; end them, and so every call, after use."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_serve, args=(here, there, core), daemon=True)
    process.start()
    there.close()
    try:
        yield Callers(here)
    finally:
        here.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(parents: Connection, pipe: Connection, core: int) -> None:
    parents.close()
    os.sched_setaffinity(0, {core})
    stand_alone()
    raise_files()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_obey(pipe))


async def _obey(pipe: Connection) -> NoReturn:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(pipe.fileno(), ready.set)
    ends: dict[str, _Ends] = {}
    while True:
        await ready.wait()
        ready.clear()
        if not pipe.poll():
            continue
        try:
            row, first, connections, calls_each = pipe.recv()
        except EOFError:
            os._exit(0)  # with every connection: a loop takes its time over thousands of them
        here = ends.setdefault(row.lan, _Ends(row))
        try:
            answer: object = (
                await here.establish(first, connections, calls_each) if first else await here.ended()
            )
        except (OSError, TimeoutError) as error:
            answer = str(error) or "not in time"
        os.set_blocking(pipe.fileno(), True)  # which add_reader has changed, and send cannot bear
        pipe.send(answer)
