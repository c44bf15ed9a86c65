"""PPTP control connections of the demo's hosts (RFC 2637 §2, §3): the client's end and the server's."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeVar, cast

from protocols.errors import DecodeError
from protocols.pptp import messages
from protocols.pptp.codes import IncomingCallResult, OutgoingCallResult, StartResult
from protocols.pptp.framing import Framer
from relay.demo.line import Call, Line
from relay.demo.ppp import LcpEcho

PORT: Final = 1723  # RFC 2637 §3.1
#: Seconds that an answer may take. On the demo's network it takes milliseconds.
PATIENCE: Final = 3.0
#: Seconds between the pieces of a split message, so that each travels in a segment of its own.
_PIECE_PAUSE: Final = 0.03
#: Where a split message is cut: in the length, in the header, and between the bytes of the Call ID.
_CUTS: Final = (1, 7, 13)

_M = TypeVar("_M", bound=messages.Message)


class ControlError(Exception):
    """The far end did not do what the protocol asks of it."""


class _Control(asyncio.Protocol):
    """One end of a control connection. Echo-Requests are answered here (RFC 2637 §3.1.4)."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.far_end = ""
        self.lost = asyncio.Event()
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.far_end = self._transport.get_extra_info("peername")[0]

    def data_received(self, data: bytes) -> None:
        for whole in self._framer.feed(data):
            try:
                message = messages.decode(whole)
            except DecodeError:
                self.abort()
                return
            if isinstance(message, messages.EchoRequest):
                self.send(messages.EchoReply(identifier=message.identifier))
            else:
                self.heard(message)
        if self._framer.error is not None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the event alone counts
        self.lost.set()
        for call in [call for call in self.line.calls if self.owns(call)]:
            self.line.detach(call)

    def send(self, *several: messages.Message) -> None:
        """Write messages, all in one segment."""
        if self._transport is not None:
            self._transport.write(b"".join(one.to_bytes() for one in several))

    async def send_in_pieces(self, message: messages.Message) -> None:
        """Write a message in several segments."""
        data = message.to_bytes()
        for start, end in zip((0, *_CUTS), (*_CUTS, len(data)), strict=True):
            if self._transport is not None:
                self._transport.write(data[start:end])
            await asyncio.sleep(_PIECE_PAUSE)

    def close(self) -> None:
        """End the TCP connection."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the TCP connection."""
        if self._transport is not None:
            self._transport.abort()

    def heard(self, message: messages.Message) -> None:
        """Act on a message."""
        raise NotImplementedError

    def owns(self, call: Call) -> bool:
        """Whether the call was made on this connection."""
        raise NotImplementedError


class Client(_Control):
    """The client's end: a PNS that dials, calls, and answers the server's incoming calls."""

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self.calls: list[Call] = []
        self._inbox: asyncio.Queue[messages.Message] = asyncio.Queue()

    @classmethod
    async def dial(cls, line: Line, server: str) -> "Client":
        """Open the TCP connection.

        Raises:
            ControlError: nobody answered, or refused.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                _, client = await loop.create_connection(lambda: cls(line), server, PORT)
        except OSError as error:  # a timeout is one, too
            raise ControlError(f"no connection to {server}: {str(error) or 'no answer'}") from error
        return client

    async def start(self, *, split: bool = False) -> None:
        """Exchange Start-Control-Connection messages (RFC 2637 §3.1.2); ``split``: in several segments.

        Raises:
            ControlError: no answer, or not the one hoped for.
        """
        request = messages.StartRequest(host_name=b"client", vendor_string=b"vpnmasq demo")
        await self.send_in_pieces(request) if split else self.send(request)
        reply = await self._expect(messages.StartReply, lambda _: True)
        if reply.result != StartResult.OK:
            raise ControlError(f"the server refused, result {reply.result}")

    async def call(self, call_id: int, *, split: bool = False, merged: bool = False) -> Call:
        """Make an outgoing call (RFC 2637 §3.2.1) with a Call ID of one's own choice.

        ``split``: the request travels in several segments; ``merged``: in one segment behind an Echo-Request.

        Raises:
            ControlError: no answer, or not the one hoped for.
        """
        request = messages.OutgoingCallRequest(call_id=call_id)
        if split:
            await self.send_in_pieces(request)
        elif merged:
            self.send(messages.EchoRequest(identifier=call_id), request)
        else:
            self.send(request)
        reply = await self._expect(messages.OutgoingCallReply, lambda r: r.peer_call_id == call_id)
        if reply.result != OutgoingCallResult.CONNECTED:
            raise ControlError(f"the call was refused, result {reply.result}")
        return self._connected(Call(call_id, self.far_end, reply.call_id))

    async def answered(self) -> None:
        """Wait for the end of an incoming call's set-up: Incoming-Call-Connected with our Call ID.

        Raises:
            ControlError: it did not come.
        """

        def is_ours(connected: messages.IncomingCallConnected) -> bool:
            return any(call.call_id == connected.peer_call_id for call in self.calls)

        await self._expect(messages.IncomingCallConnected, is_ours)

    async def hang_up(self, call: Call) -> int:
        """Clear a call (RFC 2637 §3.2.3); returns the Call ID in the server's confirmation, its own.

        Raises:
            ControlError: no confirmation came.
        """
        self.send(messages.CallClearRequest(call_id=call.call_id))
        try:
            notify = await self._expect(messages.CallDisconnectNotify, lambda _: True)
        finally:
            self.calls.remove(call)
            self.line.detach(call)
        return notify.call_id

    async def stop(self) -> None:
        """End the control connection politely (RFC 2637 §3.1.5), and wait for its end; else reset it."""
        self.send(messages.StopRequest())
        try:
            await self._expect(messages.StopReply, lambda _: True)
            self.close()
        except ControlError:
            self.abort()
        await self.lost.wait()

    def heard(self, message: messages.Message) -> None:
        """Answer an incoming call (RFC 2637 §3.2.2); everything else is for who awaits it."""
        if isinstance(message, messages.IncomingCallRequest):
            call = Call(self.line.free_id(1), self.far_end, message.call_id)
            self.send(messages.IncomingCallReply(call_id=call.call_id, peer_call_id=message.call_id))
            self._connected(call)
        else:
            self._inbox.put_nowait(message)

    def owns(self, call: Call) -> bool:
        """Whether the call was made on this connection."""
        return call in self.calls

    def _connected(self, call: Call) -> Call:
        self.calls.append(call)
        self.line.attach(call)
        return call

    async def _expect(self, wanted: type[_M], fits: Callable[[_M], bool]) -> _M:
        """The next message that fits; others are of no interest (a reply with another's Call ID, say)."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    message = await self._inbox.get()
                    if isinstance(message, wanted) and fits(message):
                        return message
        except TimeoutError:
            raise ControlError(f"no {wanted.__name__} within {PATIENCE:.0f} s") from None


class Server(_Control):
    """The server's end: a PAC that accepts every call and returns every LCP echo to the call it came from."""

    def __init__(self, line: Line, first_id: int) -> None:
        super().__init__(line)
        self._first_id = first_id
        self._mine: list[Call] = []
        #: Calls that we made and that the client has not answered yet, by our Call ID.
        self._ringing: dict[int, asyncio.Future[Call]] = {}

    def heard(self, message: messages.Message) -> None:
        """Do what a PAC does (RFC 2637 §3)."""
        match message:
            case messages.StartRequest():
                self.send(messages.StartReply(host_name=b"server", vendor_string=b"vpnmasq demo"))
            case messages.OutgoingCallRequest():
                call = self._connected(self.line.free_id(self._first_id), message.call_id)
                self.send(messages.OutgoingCallReply(call_id=call.call_id, peer_call_id=message.call_id))
            case messages.IncomingCallReply():
                self._answered(message)
            case messages.CallClearRequest():
                self._cleared(message)
            case messages.StopRequest():
                self.send(messages.StopReply())
                self.close()
            case _:
                pass

    async def ring(self) -> Call:
        """Make an incoming call to the client (RFC 2637 §3.2.2).

        Raises:
            ControlError: the client did not answer, or not in a way we can tell.
        """
        call_id = self.line.free_id(self._first_id)
        answer: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
        self._ringing[call_id] = answer
        self.send(messages.IncomingCallRequest(call_id=call_id))
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            raise ControlError(f"no IncomingCallReply within {PATIENCE:.0f} s") from None
        finally:
            del self._ringing[call_id]

    def owns(self, call: Call) -> bool:
        """Whether the call was made on this connection."""
        return call in self._mine

    def _answered(self, reply: messages.IncomingCallReply) -> None:
        answer = self._ringing.get(reply.peer_call_id)
        if answer is None or answer.done() or reply.result != IncomingCallResult.CONNECT:
            return
        self.send(messages.IncomingCallConnected(peer_call_id=reply.call_id))
        answer.set_result(self._connected(reply.peer_call_id, reply.call_id))

    def _cleared(self, request: messages.CallClearRequest) -> None:
        for call in self._mine:
            if call.peer_call_id == request.call_id:
                self.line.detach(call)
                self._mine.remove(call)
                self.send(messages.CallDisconnectNotify(call_id=call.call_id))
                return

    def _connected(self, call_id: int, peer_call_id: int) -> Call:
        call = Call(call_id, self.far_end, peer_call_id)
        call.take = lambda payload: self._echo(call, payload)
        self._mine.append(call)
        self.line.attach(call)
        return call

    def _echo(self, call: Call, payload: bytes) -> None:
        try:
            request = LcpEcho.from_bytes(payload)
        except ValueError:
            return
        if not request.reply:
            self.line.send(call, LcpEcho(request.name, reply=True).to_bytes())


async def serve(line: Line, first_id: int) -> tuple[asyncio.Server, list[Server]]:
    """Listen for clients; the list grows with every connection."""
    connections: list[Server] = []

    def accepted() -> Server:
        connections.append(Server(line, first_id))
        return connections[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(accepted, "0.0.0.0", PORT, family=socket.AF_INET, reuse_address=True)
    return server, connections
