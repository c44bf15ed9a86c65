"""Control connections that behave badly: an allowed client, and an obliging server at the far end."""

import contextlib
import errno
import selectors
import socket
import time
from random import Random

from protocols.errors import DecodeError
from protocols.pptp import messages
from protocols.pptp.framing import Framer
from protocols.pptp.messages import Message
from tests.netns import Namespace
from tests.system.home import CALLER, PEER, PUBLIC

MESSAGES: tuple[Message, ...] = (
    messages.StartRequest(),
    messages.StartReply(result=1),
    messages.StopRequest(),
    messages.StopReply(),
    messages.EchoRequest(identifier=7),
    messages.EchoReply(identifier=7),
    messages.OutgoingCallRequest(call_id=5),
    messages.OutgoingCallReply(call_id=6, peer_call_id=5, result=1),
    messages.IncomingCallRequest(call_id=8),
    messages.IncomingCallReply(call_id=9, peer_call_id=8, result=1),
    messages.IncomingCallConnected(peer_call_id=9),
    messages.CallClearRequest(call_id=5),
    messages.CallDisconnectNotify(call_id=6, result=1),
    messages.WanErrorNotify(peer_call_id=5),
    messages.SetLinkInfo(peer_call_id=6),
)

#: What a server says again and again to one that asks for it.
FLOOD = messages.EchoRequest(identifier=1).to_bytes() * 1000


class Server:
    """A PPTP server that answers what it must, and takes anything from anybody."""

    def __init__(self, listening: socket.socket, random: Random) -> None:
        self._listening = listening
        self._random = random
        self._selector = selectors.DefaultSelector()
        self._framers: dict[socket.socket, Framer] = {}
        #: Connections to flood, with what is left of a message.
        self._floods: dict[socket.socket, bytes] = {}
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ)

    def pumped(self) -> bool:
        """Serve whoever wants something now; true."""
        for key, _ in self._selector.select(0):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is self._listening:
                self._accept()
            else:
                self._serve(sock)
        for sock, rest in self._floods.items():
            with contextlib.suppress(OSError):
                self._floods[sock] = rest_of(rest or FLOOD, sock)
        return True

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listening.accept()
                sock.setblocking(False)
                self._framers[sock] = Framer()
                self._selector.register(sock, selectors.EVENT_READ)

    def _serve(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
            for frame in self._framers[sock].feed(data):
                sock.sendall(self._answer(sock, frame))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            del self._framers[sock]
            self._floods.pop(sock, None)
            sock.close()

    def _answer(self, sock: socket.socket, frame: bytes) -> bytes:
        try:
            message = messages.decode(frame)
        except DecodeError:
            return b""
        match message:
            case messages.StartRequest():
                return messages.StartReply(result=1).to_bytes()
            case messages.OutgoingCallRequest():
                own = self._random.randrange(1 << 16)
                return messages.OutgoingCallReply(
                    call_id=own, peer_call_id=message.call_id, result=1
                ).to_bytes()
            case messages.EchoRequest(identifier=0xF100D):
                self._floods[sock] = b""
        return b""

    def close(self) -> None:
        for sock in tuple(self._framers):
            sock.close()
        self._selector.close()


def rest_of(data: bytes, sock: socket.socket) -> bytes:
    return data[sock.send(data) :]


class Fuzzer:
    """An allowed client that behaves badly, in every round in another way."""

    def __init__(self, host: Namespace, random: Random) -> None:
        self._host = host
        self._random = random
        self._open: list[socket.socket] = []
        #: Those that are to find out how long we put up with them.
        self._patient: list[socket.socket] = []
        self._slow: list[tuple[socket.socket, bytes]] = []
        #: Those that have been polite so far.
        self._greeted: list[socket.socket] = []
        self.dialled = 0

    def round(self, number: int) -> None:
        kinds = (self.rubbish, self.mutated, self.split, self.resets, self.out_of_order, self.strange_calls)
        kinds[number % len(kinds)]()
        if number % 100 == 0:
            self.never_reads()
            self.starts_slowly()
            self.silent()
        self.dribble()
        while len(self._open) > 30:
            self._open.pop(0).close()

    def dial(self, to: str = PEER, buffer: int = 0) -> socket.socket:
        with self._host.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((to, 1723))
        self.dialled += 1
        self._open.append(sock)
        return sock

    def say(self, sock: socket.socket, data: bytes) -> None:
        """Say what fits, once the connection stands; who is refused says nothing."""
        end = time.monotonic() + 0.2
        while data and time.monotonic() < end:
            try:
                data = data[sock.send(data) :]
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOTCONN, errno.EINPROGRESS):
                    return
                time.sleep(0.001)

    def rubbish(self) -> None:
        for _ in range(5):
            self.say(self.dial(), self._random.randbytes(self._random.randrange(1, 400)))

    def mutated(self) -> None:
        for _ in range(5):
            talk = bytearray(b"".join(m.to_bytes() for m in self._random.choices(MESSAGES, k=4)))
            for _ in range(self._random.randrange(1, 6)):
                talk[self._random.randrange(len(talk))] = self._random.randrange(256)
            self.say(self.dial(), messages.StartRequest().to_bytes() + talk)

    def split(self) -> None:
        sock = self.dial()
        talk = messages.StartRequest().to_bytes() + messages.OutgoingCallRequest(call_id=3).to_bytes()
        talk = talk[: self._random.randrange(1, len(talk))]
        while talk:
            cut = self._random.randrange(1, 60)
            self.say(sock, talk[:cut])
            talk = talk[cut:]

    def out_of_order(self) -> None:
        for _ in range(5):
            talk = b"".join(m.to_bytes() for m in self._random.choices(MESSAGES, k=10))
            self.say(self.dial(), messages.StartRequest().to_bytes() + talk)

    def strange_calls(self) -> None:
        """Who has been answered talks about a call that nobody knows; then the next one says hello."""
        while self._greeted:
            message = self._random.choice(
                (
                    messages.OutgoingCallReply(call_id=6, peer_call_id=5, result=1),
                    messages.CallClearRequest(call_id=5),
                    messages.CallDisconnectNotify(call_id=6, result=1),
                    messages.SetLinkInfo(peer_call_id=6),
                )
            )
            self.say(self._greeted.pop(), message.to_bytes())
        self._greeted.append(self.dial())
        self.say(self._greeted[0], messages.StartRequest().to_bytes())

    def resets(self) -> None:
        for _ in range(20):
            sock = self.dial(self._random.choice((PEER, PEER, CALLER, PUBLIC, "192.0.2.1")))
            if self._random.random() < 0.5:
                self.say(sock, messages.StartRequest().to_bytes()[: self._random.randrange(1, 157)])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._open.remove(sock)
            sock.close()

    def stay(self, buffer: int = 0) -> socket.socket:
        sock = self.dial(buffer=buffer)
        self._open.remove(sock)
        self._patient.append(sock)
        return sock

    def silent(self) -> None:
        self.stay()

    def never_reads(self) -> None:
        sock = self.stay(buffer=2048)
        self.say(
            sock, messages.StartRequest().to_bytes() + messages.EchoRequest(identifier=0xF100D).to_bytes()
        )

    def starts_slowly(self) -> None:
        sock = self.stay()
        self.say(sock, messages.StartRequest().to_bytes())
        self._slow.append((sock, messages.OutgoingCallRequest(call_id=4).to_bytes()))

    def dribble(self) -> None:
        """One octet of a message a round: some seconds a message, when two are allowed."""
        for sock, rest in self._slow:
            self.say(sock, rest[:1])
        self._slow = [(sock, rest[1:]) for sock, rest in self._slow]

    def close(self) -> None:
        for sock in self._open + self._patient:
            sock.close()
