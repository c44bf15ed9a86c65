"""Calls that the kernel carries: handed over, counted, and given back, between real sockets."""

import contextlib
import functools
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.bpf.kernel import built
from tests.system.home import CLIENT, PEER, PUBLIC, RULES, Daemon, Home, Tunnel, until

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


def flows(daemon: Daemon) -> int:
    found: int = daemon.document("status")["fastpath"]["flows"]
    return found


def carries(daemon: Daemon, number: int) -> bool:
    return flows(daemon) == number


def read(daemon: Daemon) -> int:
    """GRE that came to user space."""
    sockets = daemon.document("status")["sockets"]
    return sum(row["packets"] for row in sockets if row["name"].startswith("gre"))


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
    }
    tunnel = house.tunnel(house.client, PEER, listening)
    until(lambda: flows(daemon) == 2)
    before = read(daemon)
    talk(house, tunnel, range(50))
    assert read(daemon) == before
    (session,) = daemon.document("sessions")["sessions"]
    assert session["fastpath"] is True
    assert session["packets"] == {"outbound": 50, "inbound": 50}
    assert session["octets"] == {"outbound": 50 * 36, "inbound": 50 * 36}
    assert session["idle_seconds"] < 30
    tunnel.client.sock.close()
    until(lambda: flows(daemon) == 0)
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
    before = read(daemon)
    talk(house, tunnel, range(50))
    until(lambda: read(daemon) == before + 100)
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
