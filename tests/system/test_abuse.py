"""Everything at once that hosts may do to us, beside calls that must not notice.

An allowed client (``second``) fuzzes control connections through the gateway to an obliging server,
and both it and the internet spray raw packets, some with a real peer's address as source. Meanwhile numbered
packets go both ways through established calls: all arrive, in order, and nothing else does.
"""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from random import Random

import pytest

from protocols.gre.codec import EnhancedGre
from tests.netns import Namespace
from tests.system.abuse import BREATH, DURATION, Flow, Forger, Traffic, Watch, spray
from tests.system.control import Tunnel
from tests.system.fuzzing import Fuzzer, Server
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
