"""Other rules while the daemon runs: all of them, or none."""

import signal
import socket
import time

import pytest

from protocols.gre.codec import EnhancedGre
from relay.cli.exits import Exit
from tests.system.calls import MASQUERADE, RELAY, both_are_told, call, carries, changes, is_turned_away
from tests.system.home import (
    CALLER,
    CLIENT,
    PEER,
    PUBLIC,
    RULES,
    Daemon,
    Gre,
    Home,
    until,
)

pytestmark = pytest.mark.usefixtures("nothing_stays")

#: Packets sent around a reload.
_STREAM = 1000


@pytest.mark.parametrize("how", ["SIGHUP", "command"])
def test_a_reload_changes_what_differs_and_loses_no_packet(house: Home, how: str) -> None:
    daemon = house.run(MASQUERADE)
    tunnel = call(house, house.client, PEER, house.peer)
    with pytest.raises(ConnectionRefusedError):
        house.dial(house.caller, PUBLIC)
    client, peer = house.raw(house.client), roomy(house.raw(house.peer))
    changes(house, daemon, RULES)
    for number in range(_STREAM):
        client.send(CLIENT, PEER, tunnel.server_id, seq=number)
        if number == _STREAM // 4:
            reload(daemon, how)
        time.sleep(0.0005)  # at the speed of a line, not of a loop
    assert [EnhancedGre.from_bytes(peer.receive()[20:]).seq for _ in range(_STREAM)] == list(range(_STREAM))
    until(lambda: len(daemon.document("status")["rules"]) == 2)
    office = call(house, house.caller, PUBLIC, house.server)
    changes(house, daemon, MASQUERADE)
    reload(daemon, how)
    both_are_told(office)
    until(lambda: is_turned_away(house, house.caller, PUBLIC))
    assert carries(house, tunnel)


def roomy(gre: Gre) -> Gre:
    gre.sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
    return gre


def reload(daemon: Daemon, how: str) -> None:
    if how == "SIGHUP":
        daemon.process.send_signal(signal.SIGHUP)
    else:
        done = daemon.command("reload")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("nonsense = 1\n" + RULES, "nonsense", id="unknown-key"),
        pytest.param(
            "name = 'other'\n" + RULES, "name: can only change with a restart", id="takes-a-restart"
        ),
        pytest.param("[", "vpnmasq.toml", id="no-toml"),
    ],
)
def test_a_wrong_file_is_refused_whole(house: Home, text: str, said: str) -> None:
    daemon = house.run(MASQUERADE)
    tunnel = call(house, house.client, PEER, house.peer)
    before = house.kernel()
    changes(house, daemon, text)
    refused = daemon.command("reload")
    assert refused.returncode == Exit.BAD_CONFIGURATION
    assert said in refused.stderr
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "reload refused" in daemon.log())
    assert carries(house, tunnel)
    assert house.kernel() == before
    assert [rule["name"] for rule in daemon.document("status")["rules"]] == ["staff"]


def test_what_the_kernel_refuses_on_reload_changes_nothing_either(house: Home) -> None:
    daemon = house.run(MASQUERADE)
    tunnel = call(house, house.client, PEER, house.peer)
    before = house.kernel()
    with house.gateway.entered():
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, 25, b"eth1\0")  # SO_BINDTODEVICE
        taken.bind(("0.0.0.0", 1723))
        taken.listen()
        changes(house, daemon, RULES.replace("staff", "renamed"))
        refused = daemon.command("reload")
        assert refused.returncode == Exit.BAD_CONFIGURATION
        assert "tcp/1723 on eth1 is taken by another program" in refused.stderr
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "reload refused" in daemon.log())
        assert carries(house, tunnel)
        assert house.kernel() == before
        assert [rule["name"] for rule in daemon.document("status")["rules"]] == ["staff"]
    reload(daemon, "command")
    assert call(house, house.caller, PUBLIC, house.server).server.far_end == CALLER


def test_relay_style_becomes_router_style_by_a_reload(house: Home) -> None:
    daemon = house.run(RELAY)
    changes(house, daemon, RULES)
    reload(daemon, "command")
    assert carries(house, call(house, house.client, PEER, house.peer))
    assert call(house, house.caller, PUBLIC, house.server).server.far_end == CALLER


def test_without_files_to_spare_it_serves_fewer_and_says_so(house: Home) -> None:
    """160 files are enough for 16 connections beside our own."""
    daemon = house.run(under=("prlimit", "--nofile=160:160"))
    assert '"files": 160' in daemon.log()
    with house.listen(house.peer) as listening:
        tunnel = house.tunnel(house.client, PEER, listening)
        first = [house.dial(house.second, PEER) for _ in range(40)]
        until(lambda: daemon.drops().get("limit-files", 0) == 25)
        assert len(daemon.document("sessions")["sessions"]) == 16
        assert "LimitNOFILE" in daemon.document("status")["attention"][0]
        assert carries(house, tunnel)
        for one in first:
            one.sock.close()
    until(lambda: len(daemon.document("sessions")["sessions"]) == 1)
    assert carries(house, call(house, house.client, PEER, house.peer))
    assert daemon.stop() == 0
