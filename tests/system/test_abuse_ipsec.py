"""Everything at once that hosts may do to us by what is IPsec's, beside tunnels that must not notice.

Allowed hosts inside and the internet spray what looks like IKE, ESP, ESP in UDP, AH and FWZ, and what does
not, much of it with the address of a peer as source. Meanwhile two clients of one peer, one of them by ESP in
UDP as well, and a peer of the exposed server have tunnels.
"""

import time
from collections.abc import Hashable, Iterator
from functools import partial
from random import Random

import pytest

from protocols.addr import parse_ip
from protocols.esp.codec import Esp
from protocols.ike.header import IkeHeader
from protocols.ike.natt import KEEPALIVE, NON_ESP_MARKER
from protocols.udp import Datagram
from tests.netns import Namespace
from tests.system.abuse import BREATH, DURATION, Flow, Forger, Traffic, Watch, spray
from tests.system.home import CALLER, CLIENT, PEER, PUBLIC, SECOND, SERVER, Daemon, Gre, Home, until
from tests.system.ipsec import ESP, Udp, esp, ike, told

pytestmark = pytest.mark.soak

SEED = 4303
UDP, AH, FWZ = 17, 51, 94
INFORMATIONAL = 37
#: Inside hosts that a rule lets out, as it does the clients.
ROGUES = ("10.0.0.77", "10.0.0.78")
#: Sessions that one host may have.
MOST = 16

RULES = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["{PEER}"]
proto = ["ipsec"]

[[expose]]
name = "office"
server = "{SERVER}"
proto = ["ipsec"]
allow = ["{CALLER}"]

[limits]
sessions_per_client = {MOST}
"""


class Tunnels(Traffic):
    """All tunnels: IKE, ESP, and ESP in UDP."""

    def __init__(self, house: Home) -> None:
        super().__init__()
        self._house = house
        self._raws: dict[str, Gre] = {}
        self._udps: dict[tuple[str, int], Udp] = {}
        #: Whom a host hears by UDP: another endpoint is nobody's.
        self._ends: set[tuple[str, tuple[str, int]]] = set()
        self.cookies: set[tuple[int, int]] = set()
        self.spis: set[int] = set()
        #: The public ports of clients.
        self.ports: set[int] = set()

    # -- establishing ----------------------------------------------------------------------------------

    def ike(self, host: Namespace, dialled: str, other: Namespace, cookie: int) -> None:
        """An IKE SA by port 500, with messages both ways."""
        pair = cookie, cookie << 8
        self.cookies.add(pair)
        one, two, seen = self._greet(host, dialled, other, 500, pair)
        self._message_flow(one, (dialled, 500), pair, ("ike", other.name, seen))
        self._message_flow(two, seen, pair, ("ike", host.name, (dialled, 500)))

    def in_udp(
        self, host: Namespace, dialled: str, other: Namespace, cookie: int, spis: tuple[int, int]
    ) -> None:
        """An IKE SA by port 4500, and ESP with it."""
        one, two, seen = self._greet(host, dialled, other, 4500, (cookie, cookie << 8))
        self.ports.add(seen[1])
        self.spis |= set(spis)
        self._data_flow(one, (dialled, 4500), spis[0], ("in udp", other.name, seen, spis[0]))
        self._data_flow(two, seen, spis[1], ("in udp", host.name, (dialled, 4500), spis[1]))

    def esp(self, *tunnels: tuple[Namespace, str, str, Namespace, str, str, tuple[int, int]]) -> None:
        """Raw ESP: (host, its address, whom it dials, other, its address, whom it sees, SPIs both ways)."""
        for sequence in range(1, 30):
            for host, own, dialled, other, real, seen, (there, back) in tunnels:
                one, two = self._raw(host), self._raw(other)
                esp(one, own, dialled, there, sequence)
                assert told(two.receive(protocol=ESP)) == (seen, real, there, sequence)
                esp(two, real, seen, back, sequence)
                while told(packet := one.receive(protocol=ESP))[2] != back:
                    assert sequence < 20, "copies go on"
                assert told(packet) == (dialled, own, back, sequence)
        for host, own, dialled, other, real, seen, (there, back) in tunnels:
            self.spis |= {there, back}
            self._raw_flow(self._raw(host), own, dialled, there, ("esp", other.name, seen, real, there))
            self._raw_flow(self._raw(other), real, seen, back, ("esp", host.name, dialled, own, back))

    def begin(self) -> None:
        """From now on everything that comes to anybody is kept."""
        for name, raw in self._raws.items():
            while not raw.nothing():
                raw.receive(protocol=ESP)
            self.listen(raw.sock, partial(self._read_esp, name))
        for (name, port), udp in self._udps.items():
            self.listen(udp.sock, partial(self._read_ike if port == 500 else self._read_in_udp, name))

    def _greet(
        self, host: Namespace, dialled: str, other: Namespace, port: int, pair: tuple[int, int]
    ) -> tuple[Udp, Udp, tuple[str, int]]:
        marker = NON_ESP_MARKER if port == 4500 else b""
        one, two = self._udp(host, port), self._udp(other, port)
        one.send(marker + ike(pair[0]), dialled, port)
        payload, address, seen_port = two.receive()
        seen = address, seen_port
        assert payload == marker + ike(pair[0])
        two.send(marker + ike(*pair), *seen)
        assert one.receive() == (marker + ike(*pair), dialled, port)
        self._ends |= {(other.name, seen), (host.name, (dialled, port))}
        return one, two, seen

    # -- flows -----------------------------------------------------------------------------------------

    def _message_flow(
        self, start: Udp, to: tuple[str, int], pair: tuple[int, int], arriving: tuple[object, ...]
    ) -> None:
        def send(number: int) -> None:
            start.send(ike(*pair, exchange=INFORMATIONAL, number=number), *to)

        self.flows.append(Flow(send, (*arriving, pair)))

    def _data_flow(self, start: Udp, to: tuple[str, int], spi: int, arriving: Hashable) -> None:
        self.flows.append(
            Flow(lambda number: start.send(Esp(spi, number, b"ours").to_bytes(), *to), arriving)
        )

    def _raw_flow(self, start: Gre, source: str, target: str, spi: int, arriving: Hashable) -> None:
        self.flows.append(Flow(lambda number: esp(start, source, target, spi, 100 + number), arriving))

    def _read_esp(self, name: str, packet: bytes, _: tuple[str, int]) -> tuple[Hashable, object] | None:
        source, target, spi, sequence = told(packet)
        return (("esp", name, source, target, spi), sequence - 100) if spi in self.spis else None

    def _read_ike(self, name: str, data: bytes, end: tuple[str, int]) -> tuple[Hashable, object] | None:
        message = IkeHeader.from_bytes(data)
        pair = message.initiator_cookie, message.responder_cookie
        ours = pair in self.cookies and (name, end) in self._ends
        return (("ike", name, end, pair), message.message_id) if ours else None

    def _read_in_udp(self, name: str, data: bytes, end: tuple[str, int]) -> tuple[Hashable, object] | None:
        spi = int.from_bytes(data[:4])
        ours = spi in self.spis and (name, end) in self._ends
        return (("in udp", name, end, spi), int.from_bytes(data[4:8])) if ours else None

    # -- sockets ---------------------------------------------------------------------------------------

    def _raw(self, host: Namespace) -> Gre:
        if host.name not in self._raws:
            self._raws[host.name] = self._house.raw(host, ESP)
        return self._raws[host.name]

    def _udp(self, host: Namespace, port: int) -> Udp:
        if (host.name, port) not in self._udps:
            self._udps[host.name, port] = Udp(host, port)
        return self._udps[host.name, port]

    def close(self) -> None:
        for udp in self._udps.values():
            udp.sock.close()


class Sprayer(Forger):
    """Packets of IPsec's ports and protocols that nobody should send."""

    def __init__(self, random: Random, tunnels: Tunnels) -> None:
        super().__init__(random)
        self._spis = tunnels.spis
        self._cookies = [cookie for pair in tunnels.cookies for cookie in pair]
        self._ports = sorted(tunnels.ports)

    def outside(self) -> tuple[bytes, str]:
        """A packet from the internet to our public address."""
        strangers = ("203.0.113.7", f"198.51.100.{self.random.randrange(256)}", CLIENT, PUBLIC, "127.0.0.1")
        source = self.random.choice((PEER, PEER, CALLER, CALLER, *strangers))
        return self._packet(source, PUBLIC, (500, 4500, *self._ports)), PUBLIC

    def inside(self) -> tuple[bytes, str]:
        """A packet from the LAN to somebody outside, or to us."""
        source = self.random.choice((*ROGUES, *ROGUES, "10.0.0.79", "203.0.113.7"))
        target = self.random.choice((PEER, PEER, PEER, CALLER, PUBLIC, "192.0.2.1"))
        return self._packet(source, target, (500, 4500)), target

    def _packet(self, source: str, target: str, ports: tuple[int, ...]) -> bytes:
        if self.random.random() < 0.5:
            return self._datagram(source, target, ports)
        protocol = self.random.choice((ESP, ESP, ESP, AH, FWZ))
        content = self._esp() if protocol == ESP else self.random.randbytes(self.random.randrange(60))
        return self._spoilt(source, target, protocol, content)

    def _spoilt(self, source: str, target: str, protocol: int, content: bytes) -> bytes:
        """Now and then there is something odd about a packet of any content."""
        chance = self.random.random()
        if chance < 0.1:
            return self.error(source, target, protocol)
        if chance < 0.2:
            return self.optioned(source, target, protocol, content)
        if chance < 0.25:
            return self.fragment(source, target, protocol)
        return self.build(source, target, protocol, content)

    def _datagram(self, source: str, target: str, ports: tuple[int, ...]) -> bytes:
        port = self.random.choice((*ports, self.random.randrange(61000, 65096)))
        content = self._ike() if port == 500 else self._in_udp()
        ends = (parse_ip(source), self._source_port()), (parse_ip(target), port)
        datagram = bytearray(Datagram(*ends, content).summed().to_bytes())
        chance = self.random.random()
        if chance < 0.1:
            datagram[4:6] = self.random.randbytes(2)  # a length of its own
        elif chance < 0.2:
            datagram[6:8] = self.random.choice((bytes(2), self.random.randbytes(2)))
        return self._spoilt(source, target, UDP, bytes(datagram))

    def _source_port(self) -> int:
        return self.random.choice((500, 500, 4500, 4500, self.random.randrange(1024, 65536)))

    def _esp(self) -> bytes:
        """ESP that belongs to nobody, or a piece of it."""
        spi = self.random.choice((0, self.random.randrange(1, 256), self.random.randrange(256, 1 << 32)))
        while spi in self._spis:
            spi = self.random.randrange(256, 1 << 32)
        sequence = self.random.choice((0, 1, 2, self.random.randrange(1 << 32)))
        words = spi.to_bytes(4) + sequence.to_bytes(4) + self.random.randbytes(self.random.randrange(60))
        return words if self.random.random() < 0.9 else words[: self.random.randrange(8)]

    def _in_udp(self) -> bytes:
        kinds = (self._esp, self._marked, lambda: KEEPALIVE, lambda: self.random.randbytes(7))
        return self.random.choice(kinds)()

    def _marked(self) -> bytes:
        return NON_ESP_MARKER + self._ike()

    def _ike(self) -> bytes:
        """A message of any version, with cookies of which at most one is somebody's; or none at all."""
        one = self.random.choice((0, self.random.getrandbits(64), *self._cookies))
        other = self.random.choice((0, self.random.getrandbits(64)))
        pair = (one, other) if self.random.random() < 0.5 else (other, one)
        message = bytearray(ike(*pair, size=self.random.randrange(60)))
        message[18] = self.random.choice((2, 4, 5, 32, 34, 35, 36, 37, self.random.randrange(256)))
        chance = self.random.random()
        if chance < 0.1:
            message[17] = self.random.randrange(256)
        elif chance < 0.2:
            message[24:28] = self.random.randbytes(4)
        elif chance < 0.3:
            return bytes(message[: self.random.randrange(len(message))])
        return bytes(message)


@pytest.fixture
def daemon(house: Home) -> Iterator[Daemon]:
    for rogue in ROGUES:
        house.second.address("eth0", f"{rogue}/24")
    running = house.run(RULES)
    yield running
    assert running.stop() == 0


@pytest.fixture
def tunnels(house: Home, daemon: Daemon) -> Iterator[Tunnels]:
    tunnels = Tunnels(house)
    client, second, peer = house.client, house.second, house.peer
    tunnels.ike(client, PEER, peer, 0xA1)
    tunnels.ike(second, PEER, peer, 0xB1)
    tunnels.ike(house.caller, PUBLIC, house.server, 0xC1)
    tunnels.esp(
        (client, CLIENT, PEER, peer, PEER, PUBLIC, (0x1001, 0x2001)),
        (second, SECOND, PEER, peer, PEER, PUBLIC, (0x1002, 0x2002)),
        (house.caller, CALLER, PUBLIC, house.server, SERVER, CALLER, (0x1003, 0x2003)),
    )
    tunnels.in_udp(client, PEER, peer, 0xD1, (0x3001, 0x4001))
    tunnels.in_udp(house.caller, PUBLIC, house.server, 0xE1, (0x3002, 0x4002))
    tunnels.begin()
    yield tunnels
    tunnels.close()


def test_tunnels_do_not_notice_what_others_do_to_us(house: Home, daemon: Daemon, tunnels: Tunnels) -> None:
    random = Random(SEED)
    sprayer = Sprayer(random, tunnels)
    outside, inside = house.raw(house.internet), house.raw(house.second)
    watch, rounds, sprayed = Watch(daemon), 0, 0
    established = {s["id"] for s in daemon.document("sessions")["sessions"]}
    end = time.monotonic() + DURATION
    while time.monotonic() < end:
        tunnels.send()
        for _ in range(25):
            spray(outside, *sprayer.outside())
            spray(inside, *sprayer.inside())
        sprayed += 50
        until(tunnels.arrived)
        time.sleep(BREATH)
        rounds += 1
        watch.round(rounds)
    tunnels.check()
    # Rogues and peers, whose addresses strangers take, have their shares; each port of ours is a file.
    most = MOST * (len(ROGUES) + 3)
    watch.check(lines=sprayed // 50, files=most)
    sessions = daemon.document("sessions")["sessions"]
    assert {s["id"] for s in sessions} >= established
    assert len(sessions) <= len(established) + most
    drops = daemon.drops()
    expected = """
        ah fwz esp-length esp-no-spi esp-stranger ike-length ike-version ike-zero-cookie ike-unknown
        natt-length udp-stranger no-rule spoofed-source ip-options icmp-unknown icmp-malformed limit-per-host
    """
    assert set(expected.split()) <= drops.keys(), (sorted(drops), rounds)
    # And the tunnels go on.
    tunnels.send()
    until(tunnels.arrived)
    tunnels.check()
