"""IPsec tunnels as a gateway sees them: IKEv2's four messages, and then ESP both ways.

One process plays all clients and all peers. Both sides' frames are prebuilt; what arrived is known by the
interfaces' counters, and of NAT-T by a tap, since the gateway chooses the port.
"""

import contextlib
import errno
import functools
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from protocols.addr import parse_ip, show_ip
from protocols.ike.header import IKE_AUTH, IKE_SA_INIT, INITIATOR, LENGTH, RESPONSE, IkeHeader
from protocols.ike.natt import NON_ESP_MARKER
from tests.bench.lanes import Ends
from tests.bench.netns import inside
from tests.bench.packets import EspFlow, UdpFlow, Wire, esp_in_udp, frames
from tests.bench.topology import (
    CLIENTS,
    GATEWAY_LAN_MAC,
    GATEWAY_WAN,
    GATEWAY_WAN_MAC,
    IPSEC_PEERS,
    LAN_MAC,
    WAN_MAC,
    Counter,
    Row,
)

T = TypeVar("T")

#: How often something is sent until it has passed.
_ATTEMPTS: Final = 5
#: Tunnels that are set up at once, each with another peer.
AT_ONCE: Final = 100
#: Seconds a stage of a set-up may take.
PATIENCE: Final = 5.0
_SO_RCVBUFFORCE: Final = 33
#: Octets in the kernel for what a tap has seen and nobody has read yet.
_ROOM: Final = 4 << 20
#: The only taps that see a packet before the ingress hook, where the sink is.
_ETH_P_ALL: Final = 0x0003
#: Where in a frame IP's protocol and source address are, after which the destination's and UDP's source port
#: come, and what UDP carries.
_PROTOCOL_AT: Final = 14 + 9
_SOURCE_AT: Final = 14 + 12
_UDP: Final = struct.Struct(">I4xH")
_PAYLOAD_AT: Final = 14 + 20 + 8


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One client and one peer: what each sends."""

    outbound: Wire
    inbound: Wire


@dataclass(frozen=True, slots=True)
class Pair:
    """A tunnel of raw ESP, with the messages that set it up."""

    number: int
    client: str
    peer: str
    #: Whom the peer sees.
    public: str = GATEWAY_WAN

    @property
    def outbound(self) -> EspFlow:
        """The data that the client sends."""
        return self._out(5000)

    @property
    def inbound(self) -> EspFlow:
        """The data that the peer sends."""
        return self._back(5000)

    def stages(self, *, ike: bool = True) -> list[tuple[Wire, bool]]:
        """What sets it up, in order, and whether the client sends it; without ``ike``: ESP alone."""
        cookie = 0x0101010100000000 + self.number
        first, second = (cookie, 0, IKE_SA_INIT, 0), (cookie, cookie << 1, IKE_AUTH, 1)
        answer = (cookie, cookie << 1, IKE_SA_INIT, 0)
        data: list[tuple[Wire, bool]] = [(self._out(1), True), (self._back(1), False)]
        if not ike:
            return data
        return [
            (self._ike(*first, flags=INITIATOR), True),
            (self._ike(*answer, flags=RESPONSE), False),
            (self._ike(*second, flags=INITIATOR), True),
            (self._ike(*second, flags=RESPONSE), False),
            *data,
        ]

    def _out(self, sequence: int) -> EspFlow:
        return EspFlow(self.client, self.peer, 0x10000000 + self.number, sequence)

    def _back(self, sequence: int) -> EspFlow:
        return EspFlow(self.peer, self.public, 0x20000000 + self.number, sequence)

    def _ike(self, initiator: int, responder: int, exchange: int, number: int, *, flags: int) -> UdpFlow:
        header = IkeHeader(initiator, responder, exchange, number, LENGTH, next_payload=46, flags=flags)
        outbound = bool(flags & INITIATOR)
        ends = ((self.client, 500), (self.peer, 500)) if outbound else ((self.peer, 500), (self.public, 500))
        return UdpFlow(*ends, header.to_bytes())


def pairs(first_client: str, count: int, *, seen: bool = False) -> list[Pair]:
    """Pairs, each client with a peer of its own: who is whose is then clear at once.

    ``seen``: nobody translates, so that peers see the clients themselves.
    """
    offset = parse_ip(first_client) - parse_ip(CLIENTS.split("/")[0])
    base = parse_ip(IPSEC_PEERS.split("/")[0]) + offset
    made = []
    for n in range(count):
        client = show_ip(parse_ip(first_client) + n)
        made.append(Pair(offset + n, client, show_ip(base + n), client if seen else GATEWAY_WAN))
    return made


def persistent(attempt: Callable[[], T]) -> T:
    """As a host does when a packet was lost, which a busy machine does: everything is sent once more."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(RuntimeError, TimeoutError):
            return attempt()
    return attempt()


#: Begins to read what comes from now on, or has come and was not read.
Arrived = Callable[[], Iterator[bytes]]


class Both:
    """Both sides of a row: sends prebuilt frames and waits until they have come through."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._lan, self._wan = self._open(row.lan), self._open(row.wan)
        self._lan_counter, self._wan_counter = Counter(row.lan, "eth0"), Counter(row.wan, "eth0")

    def close(self) -> None:
        """Give sockets and files back."""
        for one in (self._lan, self._wan, self._lan_counter, self._wan_counter):
            one.close()

    def establish(self, wanted: Sequence[Pair], *, ike: bool = True) -> float:
        """Set tunnels up, with IKE or by their first packets of ESP alone; return the seconds it took.

        Raises:
            RuntimeError: the gateway did not let everything through.
        """
        built = []
        for stage in zip(*(pair.stages(ike=ike) for pair in wanted), strict=True):
            by_client = stage[0][1]
            built.append((self._frames([wire for wire, _ in stage], by_client=by_client), by_client))
        start = time.perf_counter()
        for at in range(0, len(wanted), AT_ONCE):
            for ready, by_client in built:
                self.cross(ready[at : at + AT_ONCE], by_client=by_client)
        return time.perf_counter() - start

    def send(self, frame: bytes) -> None:
        """Send one frame from the LAN, and wait for nothing."""
        _send(self._lan, frame)

    def cross(self, ready: Sequence[bytes], *, by_client: bool) -> None:
        """Send frames from one side and wait until as many have come to the other."""
        sock, counter = (self._lan, self._wan_counter) if by_client else (self._wan, self._lan_counter)
        expected = counter.packets() + len(ready)
        for frame in ready:
            _send(sock, frame)
        deadline = time.perf_counter() + PATIENCE
        while (missing := expected - counter.packets()) > 0:
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{self._row.gateway}: {missing} of {len(ready)} packets did not pass")

    def check(self, sessions: Sequence[Ends]) -> None:
        """See a packet of each session arrive, both ways; other traffic does not count.

        Raises:
            RuntimeError: some did not, although they were sent more than once.
        """
        for by_client, namespace in ((True, self._row.wan), (False, self._row.lan)):
            ready = self._frames(
                [one.outbound if by_client else one.inbound for one in sessions], by_client=by_client
            )
            with self._tap(namespace) as arrived:
                for at in range(0, len(ready), AT_ONCE):
                    some = ready[at : at + AT_ONCE]
                    persistent(functools.partial(self._see, some, arrived, by_client=by_client))

    def _see(self, ready: Sequence[bytes], arrived: Arrived, *, by_client: bool) -> None:
        missing = len(ready)
        for frame in ready:
            _send(self._lan if by_client else self._wan, frame)
        for frame in arrived():
            missing -= frame[_PROTOCOL_AT] == ready[0][_PROTOCOL_AT]
            if not missing:
                return
        way = "outbound" if by_client else "inbound"
        raise RuntimeError(f"{missing} of {len(ready)} packets did not pass {way}")

    def natt(self, clients: Sequence[str], peer: str, first: int = 1) -> list[Tunnel]:
        """Tunnels of ESP in UDP of several clients with one peer; numbered from ``first``, as none before.

        Raises:
            RuntimeError: the gateway did not let everything through, although it was sent more than once.
        """
        made: list[Tunnel] = []
        with self._tap(self._row.wan) as arrived:
            for at in range(0, len(clients), AT_ONCE):
                some = clients[at : at + AT_ONCE]
                made += persistent(functools.partial(self._float, first + at, some, peer, arrived))
        return made

    def _float(self, first: int, clients: Sequence[str], peer: str, arrived: Arrived) -> list[Tunnel]:
        outside_end = (peer, 4500)
        marked = [_marked(first + index) for index in range(len(clients))]
        asked = [UdpFlow((client, 4500), outside_end, it) for client, it in zip(clients, marked, strict=True)]
        for frame in self._frames(asked, by_client=True):
            _send(self._lan, frame)
        public = _sources(marked, arrived())
        answers = [UdpFlow(outside_end, public[it], it) for it in marked]
        self.cross(self._frames(answers, by_client=False), by_client=False)
        tunnels = [
            Tunnel(
                esp_in_udp((client, 4500), outside_end, 0x1000 + number),
                esp_in_udp(outside_end, public[it], 0x2000 + number),
            )
            for number, (client, it) in enumerate(zip(clients, marked, strict=True), first)
        ]
        self.cross(self._frames([one.outbound for one in tunnels], by_client=True), by_client=True)
        self.cross(self._frames([one.inbound for one in tunnels], by_client=False), by_client=False)
        return tunnels

    @contextlib.contextmanager
    def _tap(self, namespace: str) -> Iterator[Arrived]:
        """Frames as they arrive, before the sink swallows them, until none has come for PATIENCE.

        To open and close a tap takes the kernel longer than a hundred packets.
        """
        with inside(namespace):
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        tap.bind(("eth0", _ETH_P_ALL))
        tap.settimeout(PATIENCE)

        def arrived() -> Iterator[bytes]:
            with contextlib.suppress(TimeoutError):
                while True:
                    frame, address = tap.recvfrom(2048)
                    if address[2] != socket.PACKET_OUTGOING:
                        yield frame

        with contextlib.closing(tap):
            yield arrived

    def _frames(self, wires: Sequence[Wire], *, by_client: bool, size: int = 64) -> list[bytes]:
        macs = (LAN_MAC, GATEWAY_LAN_MAC) if by_client else (WAN_MAC, GATEWAY_WAN_MAC)
        return frames(wires, size, *macs)

    @staticmethod
    def _open(namespace: str) -> socket.socket:
        with inside(namespace):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        sock.bind(("eth0", 0))
        return sock


def _marked(number: int) -> bytes:
    """An IKE message on port 4500, as no other number has it."""
    return NON_ESP_MARKER + IkeHeader(number, number, IKE_AUTH, 1, LENGTH, next_payload=46).to_bytes()


def _sources(payloads: Sequence[bytes], arrived: Iterator[bytes]) -> dict[bytes, tuple[str, int]]:
    """Where each of these came from, when all have come."""
    found: dict[bytes, tuple[str, int]] = {}
    wanted, length = set(payloads), len(payloads[0])
    for frame in arrived:
        payload = frame[_PAYLOAD_AT : _PAYLOAD_AT + length]
        if payload in wanted:
            source, port = _UDP.unpack_from(frame, _SOURCE_AT)
            found[payload] = show_ip(source), port
        if len(found) == len(wanted):
            return found
    raise RuntimeError(f"{len(wanted) - len(found)} of {len(wanted)} packets to port 4500 did not pass")


def _send(sock: socket.socket, frame: bytes) -> None:
    """Send a frame, and again while the kernel's queue is full: all that is on a core shares it."""
    deadline = time.perf_counter() + PATIENCE
    while True:
        try:
            sock.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS or time.perf_counter() > deadline:
                raise
            time.sleep(0.001)
        else:
            return
