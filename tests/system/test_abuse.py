"""Everything at once that hosts may do to us, beside calls that must not notice.

An allowed client (``second``) fuzzes control connections through the gateway to an obliging server,
and both it and the internet spray raw packets, some with a real peer's address as source. Meanwhile numbered
packets go both ways through established calls: all arrive, in order, and nothing else does.
"""

import contextlib
import errno
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from random import Random

import pytest

from protocols.errors import DecodeError
from protocols.gre.codec import EnhancedGre
from protocols.pptp import messages
from protocols.pptp.framing import Framer
from protocols.pptp.messages import Message
from tests.netns import Namespace
from tests.system.abuse import BREATH, DURATION, Flow, Forger, Traffic, Watch, spray
from tests.system.home import (
    CALLER,
    CLIENT,
    GRE,
    PEER,
    PUBLIC,
    RULES,
    SECOND,
    SERVER,
    Daemon,
    Gre,
    Home,
    Tunnel,
    until,
)

pytestmark = pytest.mark.soak

SEED = 2637

IMPATIENT = f"""
refuse = "reset"
{RULES}
[pptp]
handshake_timeout = "2s"
message_timeout = "2s"
call_setup_timeout = "3s"
closing_timeout = "2s"
echo_after = "5m"
ghost = "2s"
"""

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


# -- the calls that must not notice ----------------------------------------------------------------------


class Calls(Traffic):
    """All established calls, and everything that GRE brings to their hosts."""

    def __init__(self, house: Home) -> None:
        super().__init__()
        self.house = house
        self.tunnels: list[Tunnel] = []
        self._raws: dict[str, Gre] = {}

    def establish(
        self, host: Namespace, own: str, dialled: str, server: Namespace, real: str, **ids: int
    ) -> None:
        with contextlib.closing(self.house.listen(server)) as listening:
            tunnel = self.house.tunnel(host, dialled, listening, **ids)
        seen = tunnel.server.far_end
        self.tunnels.append(tunnel)
        self._flow(host, own, dialled, tunnel.server_id, (seen, real, tunnel.own_server_id))
        self._flow(server, real, seen, tunnel.client_id, (dialled, own, tunnel.own_client_id))

    def _flow(
        self, host: Namespace, source: str, target: str, call_id: int, arriving: tuple[str, str, int]
    ) -> None:
        if host.name not in self._raws:
            gre = self._raws[host.name] = self.house.raw(host)
            self.listen(gre.sock, arrived_as)
        raw = self._raws[host.name]

        def send(number: int) -> None:
            raw.send(source, target, call_id, b"ours", seq=number)

        self.flows.append(Flow(send, arriving))

    def used(self) -> set[int]:
        """Call IDs that are somebody's: a stranger who guesses one and the address cannot be told apart."""
        return {
            number
            for t in self.tunnels
            for number in (t.client_id, t.server_id, t.own_client_id, t.own_server_id)
        }


def arrived_as(packet: bytes, _: tuple[str, int]) -> tuple[tuple[str, str, int], object]:
    source, target = (str(socket.inet_ntoa(packet[at : at + 4])) for at in (12, 16))
    gre = EnhancedGre.from_bytes(packet[20:])
    return (source, target, gre.call_id), gre.seq if gre.payload == b"ours" else gre.payload


# -- control connections ---------------------------------------------------------------------------------


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


# -- raw packets -----------------------------------------------------------------------------------------


class Sprayer(Forger):
    """GRE, and SYNs, that nobody should send."""

    def __init__(self, random: Random, used: set[int]) -> None:
        super().__init__(random)
        self._unused = [number for number in range(1 << 16) if number not in used]
        self._used = sorted(used)

    def outside(self) -> tuple[bytes, str]:
        """A packet from the internet to our public address."""
        source = self.random.choice(
            (PEER, CALLER, "203.0.113.7", "198.51.100.9", CLIENT, PUBLIC, "127.0.0.1")
        )
        return self._packet(source, PUBLIC), PUBLIC

    def inside(self) -> tuple[bytes, str]:
        """A packet from the LAN to somebody outside, or to us."""
        source = self.random.choice((SECOND, SECOND, "10.0.0.77", "203.0.113.7"))
        target = self.random.choice((PEER, CALLER, PUBLIC, "192.0.2.1"))
        return self._packet(source, target), target

    def _packet(self, source: str, target: str) -> bytes:
        kind = self.random.choice(("gre", "broken", "random", "error", "syn", "options", "fragment"))
        match kind:
            case "gre":
                return self._gre(source, target)
            case "broken":
                return self._broken(source, target)
            case "random":
                return self._random_gre(source, target)
            case "error":
                return self.error(source, target, GRE)
            case "syn":
                return self._syn(source, target)
            case "options":
                inner = EnhancedGre(call_id=self.random.choice(self._used), payload=b"options")
                return self.optioned(source, target, GRE, inner.to_bytes())
        return self.fragment(source, target, GRE)

    def _gre(self, source: str, target: str) -> bytes:
        """Nothing is wrong with it, but that it belongs to nobody."""
        call_id = self.random.choice(self._unused)
        inner = EnhancedGre(call_id=call_id, seq=1, payload=self.random.randbytes(20))
        return self.build(source, target, GRE, inner.to_bytes())

    def _broken(self, source: str, target: str) -> bytes:
        """A Call ID that is somebody's, in a packet that is none."""
        call_id = self.random.choice(self._used).to_bytes(2)
        start = self.random.choice(
            (b"\x30\x00\x88\x0b", b"\x30\x01\x08\x00", b"\xf0\x01\x88\x0b", b"\x30\x81\x88\x0c")
        )
        inner = start + b"\x00\x04" + call_id + bytes(12)
        if self.random.random() < 0.3:
            inner = b"\x30\x01\x88\x0b\xff\xff" + call_id + bytes(8)  # says it is longer than it is
        return self.build(source, target, GRE, inner)

    def _random_gre(self, source: str, target: str) -> bytes:
        inner = bytearray(self.random.randbytes(self.random.randrange(0, 60)))
        if len(inner) >= 8:
            inner[6:8] = self.random.choice(self._unused).to_bytes(2)
        return self.build(source, target, GRE, bytes(inner))

    def _syn(self, source: str, target: str) -> bytes:
        port = self.random.randrange(1024, 65536).to_bytes(2)
        header = port + (1723).to_bytes(2) + self.random.randbytes(4) + bytes(4) + b"\x50"
        header += self.random.choice((b"\x02", b"\x12", b"\x04", b"\xff")) + b"\x20\x00" + bytes(4)
        return self.build(source, target, 6, header[: self.random.choice((20, 20, 20, 8))])


# -- the test --------------------------------------------------------------------------------------------


@pytest.fixture
def calls(house: Home, daemon: Daemon) -> Calls:
    calls = Calls(house)
    calls.establish(house.client, CLIENT, PEER, house.peer, PEER, client_id=1, server_id=100)
    calls.establish(house.client, CLIENT, PEER, house.peer, PEER, client_id=2, server_id=200)
    calls.establish(house.caller, CALLER, PUBLIC, house.server, SERVER, client_id=3, server_id=300)
    return calls


@pytest.fixture
def daemon(house: Home) -> Iterator[Daemon]:
    running = house.run(IMPATIENT)
    yield running
    assert running.stop(signal.SIGTERM) == 0


def test_calls_do_not_notice_what_others_do_to_us(house: Home, daemon: Daemon, calls: Calls) -> None:
    random = Random(SEED)
    fuzzer, sprayer = Fuzzer(house.second, random), Sprayer(random, calls.used())
    outside, inside = house.raw(house.internet), house.raw(house.second)
    watch, rounds = Watch(daemon), 0
    end = time.monotonic() + DURATION
    with contextlib.closing(house.listen(house.peer)) as listening:
        server = Server(listening, random)
        while time.monotonic() < end:
            calls.send()
            fuzzer.round(rounds)
            for _ in range(15):
                spray(outside, *sprayer.outside())
                spray(inside, *sprayer.inside())
            until(lambda: server.pumped() and calls.arrived())
            time.sleep(BREATH)
            rounds += 1
            watch.round(rounds)
        fuzzer.close()
        server.close()
    calls.check()
    until(lambda: len(daemon.document("sessions")["sessions"]) == len(calls.tunnels))
    watch.check(lines=fuzzer.dialled // 10)
    assert daemon.document("status")["sessions"] == {"pptp": len(calls.tunnels)}
    drops = daemon.drops()
    expected = """
        stranger unknown-call spoofed-source ip-options no-rule unreachable
        gre-version gre-protocol gre-flags gre-length bad-header icmp-unknown icmp-malformed
        pptp-length pptp-magic pptp-control-type pptp-state pptp-unknown-call pptp-silent pptp-stalled
    """
    assert set(expected.split()) <= drops.keys(), (sorted(drops), rounds, fuzzer.dialled)
    assert fuzzer.dialled > 1000
    # And the calls go on.
    calls.send()
    until(calls.arrived)
    calls.check()
