"""The program in a host's namespace: ``python -m relay.demo.peer NAME``.

It takes orders as JSON lines on standard input, {"do": ORDER, ...}, carries them out one after the other, and
answers each with one JSON line: what came out, or {"error": TEXT}. While data move it also says
{"progress": ECHOES}. It ends when its input does, so it never outlives the demo.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from protocols.gre.codec import EnhancedGre
from relay.demo.control import Client, ControlError, Server, serve
from relay.demo.line import Call, Line
from relay.demo.ppp import LcpEcho

Report = dict[str, Any]

#: Seconds between two progress lines.
_PROGRESS_EVERY = 0.1
#: Seconds without any echo after which the missing ones are given up.
_GIVE_UP = 0.8


class Echoes:
    """The LCP echoes of one call: asks, and counts what comes back."""

    def __init__(self, owner: str, line: Line, call: Call) -> None:
        self.foreign = 0
        self._prefix = f"{owner}/{call.call_id}/"
        self._line = line
        self._call = call
        self._asked: set[str] = set()
        self._returned: set[str] = set()
        call.take = self._came

    @property
    def asked(self) -> int:
        """Echo-Requests sent."""
        return len(self._asked)

    @property
    def returned(self) -> int:
        """Requests that came back, each once, unharmed, to us who sent them."""
        return len(self._returned)

    def ask(self) -> None:
        """Send the next Echo-Request."""
        name = f"{self._prefix}{self.asked}"
        self._asked.add(name)
        self._line.send(self._call, LcpEcho(name).to_bytes())

    def done(self) -> None:
        """Acknowledge what is still unacknowledged."""
        self._line.acknowledge(self._call)

    def _came(self, payload: bytes) -> None:
        try:
            echo = LcpEcho.from_bytes(payload)
        except ValueError:
            self.foreign += 1
            return
        if echo.reply and echo.name in self._asked:
            self._returned.add(echo.name)
        else:
            self.foreign += 1


class Peer:
    """One host of the demo; every public method is an order."""

    def __init__(self, name: str, tell: Callable[[Report], None]) -> None:
        self._name = name
        self._tell = tell
        self._line = Line()
        self._client: Client | None = None
        self._served: list[Server] = []

    async def serve(self, *, first_id: int) -> Report:
        """Be a PPTP server from now on, with Call IDs from ``first_id``."""
        _, self._served = await serve(self._line, first_id)
        return {}

    async def dial(self, *, server: str, call_id: int, split: bool = False, merged: bool = False) -> Report:
        """Open a control connection and make a call on it."""
        self._client = await Client.dial(self._line, server)
        await self._client.start(split=split)
        call = await self._client.call(call_id, split=split, merged=merged)
        return {"peer_call_id": call.peer_call_id}

    async def connect(self, *, server: str) -> Report:
        """Open a control connection without a call."""
        self._client = await Client.dial(self._line, server)
        await self._client.start()
        return {}

    async def call(self, *, call_id: int) -> Report:
        """Make one more call on the control connection that stands."""
        call = await self._connection().call(call_id)
        return {"peer_call_id": call.peer_call_id}

    async def ring(self) -> Report:
        """As a server, call the client that connected last."""
        if not self._served or self._served[-1].lost.is_set():
            raise ControlError("no client is connected")
        call = await self._served[-1].ring()
        return {"peer_call_id": call.peer_call_id}

    async def answered(self) -> Report:
        """Wait until the incoming call we accepted is connected."""
        await self._connection().answered()
        return {}

    async def exchange(self, *, packets: int, interval: float) -> Report:
        """Send so many echo requests on every call, ``interval`` seconds apart, and wait for their return."""
        loop = asyncio.get_running_loop()
        all_echoes = [Echoes(self._name, self._line, call) for call in self._connection().calls]
        start = told = latest = loop.time()
        came = 0
        while True:
            now = loop.time()
            due = min(packets, int((now - start) / interval) + 1)
            for echoes in all_echoes:
                while echoes.asked < due:
                    echoes.ask()
            returned = sum(echoes.returned for echoes in all_echoes)
            if returned > came or due < packets:
                came, latest = returned, now
            if now - told >= _PROGRESS_EVERY:
                told = now
                self._tell({"progress": returned})
            if returned == packets * len(all_echoes) or now - latest >= _GIVE_UP:
                break
            await asyncio.sleep(interval)
        for echoes in all_echoes:
            echoes.done()
        return {"returned": returned, "foreign": sum(echoes.foreign for echoes in all_echoes)}

    async def hang_up(self) -> Report:
        """Clear every call; says how many confirmations named the right call (RFC 2637 §2.13)."""
        client = self._connection()
        rights = [call.peer_call_id for call in client.calls]
        named = [await client.hang_up(call) for call in list(client.calls)]
        return {"confirmed": sum(map(int.__eq__, named, rights)), "named": named}

    async def stop(self) -> Report:
        """End the control connection, if there is one."""
        if self._client is not None:
            client, self._client = self._client, None
            if not client.lost.is_set():
                await client.stop()
        return {}

    async def shown_ids(self) -> Report:
        """The Call IDs of our correspondents, as they are shown to us."""
        return {"call_ids": [call.peer_call_id for call in self._line.calls]}

    async def spray(self, *, target: str, call_ids: list[int], packets: int) -> Report:
        """As a stranger, send data with Call IDs of others."""
        for number in range(packets):
            for call_id in call_ids:
                payload = LcpEcho(f"{self._name}/{call_id}/{number}").to_bytes()
                self._line.send_raw(target, EnhancedGre(call_id, seq=number, payload=payload))
            await asyncio.sleep(0)
        return {"sent": packets * len(call_ids)}

    async def strays(self) -> Report:
        """Packets that belonged to no call of ours, by the address they came from."""
        return {"from": dict(self._line.strays)}

    async def reset(self) -> Report:
        """Forget everything but that we serve: the next gateway starts with clean hosts."""
        for control in (self._client, *self._served):
            if control is not None and not control.lost.is_set():
                control.abort()
                await control.lost.wait()
        self._client = None
        self._served.clear()
        self._line.strays.clear()
        return {}

    def _connection(self) -> Client:
        if self._client is None:
            raise ControlError("there is no control connection")
        return self._client


async def _obey(name: str) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)

    def tell(report: Report) -> None:
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()

    peer = Peer(name, tell)
    while line := await orders.readline():
        order: Report = json.loads(line)
        carry_out: Callable[..., Awaitable[Report]] = getattr(peer, order.pop("do"))
        try:
            tell(await carry_out(**order))
        except (ControlError, OSError) as failure:
            tell({"error": str(failure)})


if __name__ == "__main__":
    asyncio.run(_obey(sys.argv[1]))
