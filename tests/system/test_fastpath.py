"""Calls that the kernel carries: handed over, counted, and given back, between real sockets."""

import contextlib
import functools
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.bpf.kernel import built
from tests.system.carried import carries, flows, read
from tests.system.control import Tunnel
from tests.system.forwards import data
from tests.system.home import CLIENT, GRE, PEER, PUBLIC, RULES, SERVER, SILENCE, Home, until

pytestmark = pytest.mark.skipif(bool(built()), reason=built())

KEPT_OUT = RULES.replace('proto = ["pptp"]\n', 'proto = ["pptp"]\nfastpath = false\n')


@pytest.fixture(autouse=True)
def ended(house: Home) -> Iterator[None]:
    """No daemon is left by a test that has failed."""
    yield
    for daemon in house.daemons:
        if daemon.process.poll() is None:
            daemon.stop(signal.SIGKILL)


@pytest.fixture
def listening(house: Home) -> Iterator[socket.socket]:
    with house.listen(house.peer) as sock:
        yield sock


def talk(house: Home, tunnel: Tunnel, numbers: range) -> None:
    """Numbered packets both ways, each of which arrives once and in order."""
    with contextlib.ExitStack() as closing:
        client, peer = house.raw(house.client), house.raw(house.peer)
        for raw in (client, peer):
            closing.callback(raw.sock.close)
        for number in numbers:
            client.send(CLIENT, PEER, tunnel.server_id, seq=number)
            peer.send(PEER, PUBLIC, tunnel.client_id, seq=number)
        for raw in (client, peer):
            got = [int.from_bytes(raw.receive()[28:32]) for _ in numbers]
            assert got == list(numbers)
            assert raw.nothing()


def test_a_call_that_stands_is_the_kernels_until_it_ends(house: Home, listening: socket.socket) -> None:
    daemon = house.run(RULES, "--set", "fastpath.mode=require")
    assert daemon.document("status")["fastpath"] == {
        "mode": "require",
        "active": True,
        "reason": "",
        "flows": 0,
        "refused": 0,
        "drivers": {},
    }
    tunnel = house.tunnel(house.client, PEER, listening)
    until(lambda: flows(daemon) == 2)
    before = read(daemon, "gre")
    talk(house, tunnel, range(50))
    assert read(daemon, "gre") == before
    (session,) = daemon.document("sessions")["sessions"]
    assert session["fastpath"] is True
    assert session["packets"] == {"outbound": 50, "inbound": 50}
    assert session["octets"] == {"outbound": 50 * 36, "inbound": 50 * 36}
    assert session["idle_seconds"] < 30
    tunnel.client.sock.close()
    until(lambda: flows(daemon) == 0)
    assert daemon.stop() == 0


def test_calls_and_other_gre_of_the_same_peer_are_the_kernels(house: Home, listening: socket.socket) -> None:
    """GRE of PPTP's kind is a call's or nobody's, however much else the peer sends to a server inside."""
    forward = f"""
[[forward]]
name = "routers"
listen = "ip/47"
server = "{SERVER}"
allow = ["{PEER}"]
"""
    daemon = house.run(RULES.split("[[expose]]")[0] + forward, "--set", "fastpath.mode=require")
    tunnel = house.tunnel(house.client, PEER, listening)
    peer, server = house.raw(house.peer), house.raw(house.server)

    def others(number: int) -> None:
        there, back = (bytes.fromhex("00006558") + bytes([number]) * size for size in (20, 30))
        peer.sock.sendto(there, (PUBLIC, 0))
        assert data(server, GRE) == (PEER, SERVER, there)
        server.sock.sendto(back, (PEER, 0))
        assert data(peer, GRE) == (PUBLIC, PEER, back)

    others(0)
    until(lambda: flows(daemon) == 4)
    before = read(daemon, "gre")
    for number in range(1, 51):
        others(number)
    talk(house, tunnel, range(50))
    assert read(daemon, "gre") == before
    packets = {one["rule"]: one["packets"] for one in daemon.document("sessions")["sessions"]}
    assert packets == {
        "staff": {"outbound": 50, "inbound": 50},
        "routers": {"outbound": 51, "inbound": 51},
    }
    strange = tunnel.client_id ^ 1
    for number in range(10):
        peer.send(PEER, PUBLIC, strange, seq=number)
    until(lambda: daemon.drops().get("unknown-call", 0) == 10)
    assert server.nothing()
    assert daemon.stop() == 0


def test_calls_go_to_the_kernel_and_back_as_rules_say(house: Home, listening: socket.socket) -> None:
    daemon = house.run(RULES)
    config = daemon.directory / "vpnmasq.toml"
    tunnel = house.tunnel(house.client, PEER, listening)
    for turn, (rules, carried) in enumerate([(RULES, 2), (KEPT_OUT, 0), (RULES, 2)]):
        config.write_text(house.configuration(rules, daemon.directory))
        assert daemon.command("reload").returncode == 0
        until(functools.partial(carries, daemon, carried))
        talk(house, tunnel, range(turn * 50, turn * 50 + 50))
    (session,) = daemon.document("sessions")["sessions"]
    assert session["packets"] == {"outbound": 150, "inbound": 150}
    assert daemon.stop() == 0


def test_when_the_daemon_dies_the_kernel_carries_nothing_for_it(
    house: Home, listening: socket.socket
) -> None:
    daemon = house.run(RULES)
    tunnel = house.tunnel(house.client, PEER, listening)
    until(lambda: flows(daemon) == 2)
    daemon.stop(signal.SIGKILL)
    client, peer = house.raw(house.client), house.raw(house.peer)
    client.send(CLIENT, PEER, tunnel.server_id)
    assert peer.nothing()
    assert "clsact" not in house.gateway.sh("tc qdisc show")


def test_switched_off_user_space_carries_everything(house: Home, listening: socket.socket) -> None:
    daemon = house.run(RULES, "--set", "fastpath.mode=off")
    fastpath = daemon.document("status")["fastpath"]
    assert (fastpath["active"], fastpath["reason"]) == (False, 'switched off (fastpath.mode = "off")')
    tunnel = house.tunnel(house.client, PEER, listening)
    before = read(daemon, "gre")
    talk(house, tunnel, range(50))
    until(lambda: read(daemon, "gre") == before + 100)
    (session,) = daemon.document("sessions")["sessions"]
    assert session["fastpath"] is False
    assert daemon.stop() == 0


def test_what_may_not_load_a_program_says_so_and_works(house: Home, listening: socket.socket) -> None:
    bounds = ("setpriv", "--bounding-set=-cap_39,-sys_admin")
    daemon = house.run(RULES, under=bounds)
    fastpath = daemon.document("status")["fastpath"]
    assert fastpath["active"] is False
    assert "CAP_BPF" in fastpath["reason"]
    talk(house, house.tunnel(house.client, PEER, listening), range(5))
    assert daemon.stop() == 0
    daemon = house.run(RULES, "--set", "fastpath.mode=require", wait=False, under=bounds)
    assert daemon.ends() == 77
    assert "CAP_BPF is missing" in daemon.log()


class Flood:
    """Numbered packets of a call one way, at a steady pace, until it is stopped; and what became of them."""

    #: Seconds between two packets.
    PACE: Final = 0.001

    def __init__(self, send: Callable[[int], None], receiver: socket.socket) -> None:
        self._send = send
        self._receiver = receiver
        self._end = threading.Event()
        self.sent = 0
        self.got: list[int] = []
        self._threads = [threading.Thread(target=run) for run in (self._sends, self._receives)]
        for thread in self._threads:
            thread.start()

    def _sends(self) -> None:
        while not self._end.wait(self.PACE):
            self._send(self.sent)
            self.sent += 1

    def _receives(self) -> None:
        while not self._end.is_set() or len(self.got) < self.sent:
            if not select.select([self._receiver], [], [], SILENCE)[0]:
                if self._end.is_set():
                    return
                continue
            packet = self._receiver.recv(65536)
            if packet[9] == GRE:
                self.got.append(int.from_bytes(packet[28:32]))

    def has_got(self, number: int) -> bool:
        """Whether so many packets have arrived."""
        return len(self.got) >= number

    def stop(self) -> None:
        """Send no more, and wait until the last one has arrived or nothing comes any more."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def late(self) -> list[int]:
        """What came after a packet that was sent later."""
        found, highest = [], -1
        for number in self.got:
            if number < highest:
                found.append(number)
            highest = max(highest, number)
        return found


def test_calls_move_back_and_forth_under_traffic_and_lose_nothing(
    house: Home, listening: socket.socket
) -> None:
    """Each packet arrives, once; what the kernel overtakes is what came in the moment of a move."""
    moves = 6
    daemon = house.run(RULES)
    config = daemon.directory / "vpnmasq.toml"
    tunnel = house.tunnel(house.client, PEER, listening)
    until(lambda: flows(daemon) == 2)
    client, peer = house.raw(house.client), house.raw(house.peer)
    floods = [
        Flood(lambda number: client.send(CLIENT, PEER, tunnel.server_id, seq=number), peer.sock),
        Flood(lambda number: peer.send(PEER, PUBLIC, tunnel.client_id, seq=number), client.sock),
    ]
    try:
        for turn in range(moves):
            rules, carried = ((KEPT_OUT, 0), (RULES, 2))[turn % 2]
            config.write_text(house.configuration(rules, daemon.directory))
            assert daemon.command("reload").returncode == 0
            until(functools.partial(carries, daemon, carried))
            for flood in floods:
                until(functools.partial(flood.has_got, len(flood.got) + 100))
    finally:
        for flood in floods:
            flood.stop()
    for flood in floods:
        assert sorted(flood.got) == list(range(flood.sent))
        assert len(flood.late()) <= moves // 2, flood.late()
    (session,) = daemon.document("sessions")["sessions"]
    # What passes in the very moment of a move back is not counted.
    for flood, counted in zip(
        floods, (session["packets"][way] for way in ("outbound", "inbound")), strict=True
    ):
        assert flood.sent - moves // 2 <= counted <= flood.sent
    assert daemon.stop() == 0


def test_a_call_is_the_kernels_ten_milliseconds_after_it_stands(
    house: Home, listening: socket.socket
) -> None:
    """Most times: a machine that does other things as well may be late."""
    daemon = house.run(RULES)
    in_time, calls = 0, 9
    client, peer = house.raw(house.client), house.raw(house.peer)
    for _ in range(calls):
        tunnel = house.tunnel(house.client, PEER, listening)
        time.sleep(0.01)
        before = read(daemon, "gre")
        client.send(CLIENT, PEER, tunnel.server_id)
        peer.receive()
        in_time += read(daemon, "gre") == before
        tunnel.client.sock.close()
        tunnel.server.sock.close()
    assert in_time > calls // 2
    assert daemon.stop() == 0
