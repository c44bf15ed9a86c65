"""The daemon's life: how it starts or says why not, changes, drains, dies, comes back and leaves no trace."""

import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from protocols.pptp import messages
from relay.cli.exits import Exit
from relay.privileges import KEPT, Capability
from tests.system.calls import (
    MASQUERADE,
    RELAY,
    answering,
    both_are_told,
    call,
    carries,
    changes,
    is_turned_away,
    payload,
)
from tests.system.home import (
    CALLER,
    CLIENT,
    GATEWAY,
    PATIENCE,
    PEER,
    PUBLIC,
    RULES,
    SERVER,
    Home,
    until,
)

pytestmark = pytest.mark.usefixtures("nothing_stays")

SECOND_PUBLIC = "200.200.200.201"
ANNEX = "10.0.1.2"


# -- starting --------------------------------------------------------------------------------------------


def test_every_problem_of_a_wrong_file_is_said(house: Home) -> None:
    daemon = house.run(
        '[[masquerade]]\nclients = ["10.0.0.300"]\nservers = []\nprotos = ["pptp"]', wait=False
    )
    assert daemon.ends() == Exit.BAD_CONFIGURATION
    for key in ("masquerade[0].clients", "masquerade[0].servers", "masquerade[0].proto"):
        assert key in daemon.log()


def without(*capabilities: str) -> tuple[str, ...]:
    dropped = ",".join(f"-{name}" for name in capabilities)
    return ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")


WITH_NET_RAW_ALONE = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw")


@pytest.mark.parametrize(
    ("rules", "under", "named"),
    [
        pytest.param(RULES, without("net_raw"), ["CAP_NET_RAW"], id="net_raw"),
        pytest.param(RULES, without("net_admin"), ["CAP_NET_ADMIN", "relay style"], id="net_admin"),
        pytest.param(RULES, without("net_raw", "net_admin"), ["CAP_NET_RAW", "CAP_NET_ADMIN"], id="both"),
        pytest.param(RELAY, without("net_raw"), ["CAP_NET_RAW"], id="relay-style"),
    ],
)
def test_a_missing_privilege_is_named(
    house: Home, rules: str, under: Sequence[str], named: Sequence[str]
) -> None:
    daemon = house.run(rules, wait=False, under=under)
    assert daemon.ends() == Exit.NO_PRIVILEGE
    for text in named:
        assert text in daemon.log()


def test_a_missing_interface_is_named_with_what_to_do(house: Home) -> None:
    # A missing WAN interface is waited for: see test_address.
    daemon = house.run(RULES, "--set", "lan.interfaces=eth7", wait=False)
    assert daemon.ends() == Exit.FAILED
    assert "eth7" in daemon.log()
    assert "ip link" in daemon.log()
    assert "Traceback" not in daemon.log()


def test_a_port_that_somebody_has_is_said_with_what_to_do(house: Home) -> None:
    with answering(house, house.gateway):
        daemon = house.run(wait=False)
        assert daemon.ends() == Exit.FAILED
    assert "tcp/1723 on eth0 is taken by another program" in daemon.log()
    assert "ss -ltnp" in daemon.log()
    assert "Traceback" not in daemon.log()


def test_only_one_daemon_has_a_name_or_a_socket(house: Home) -> None:
    first = house.run()
    same_name = house.run(wait=False)
    assert same_name.ends() == Exit.FAILED
    assert f'the name "vpnmasq" is in use by process {first.process.pid}' in same_name.log()
    same_socket = house.run("name = 'other'", "--set", f"api.socket={first.socket}", wait=False)
    assert same_socket.ends() == Exit.FAILED
    assert f"{first.socket}.lock is in use by process {first.process.pid}" in same_socket.log()
    assert first.command("health").returncode == 0


def test_after_the_start_only_three_capabilities_are_left(house: Home) -> None:
    daemon = house.run()
    found = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    )
    kept = sum(1 << capability for capability in KEPT)
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[name], 16) == kept, name
    # What nft gets.
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 1 << Capability.CAP_NET_ADMIN
    assert found["NoNewPrivs"] == "1"


def test_systemd_is_told_of_every_step(house: Home, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(PATIENCE)
        daemon = house.run(NOTIFY_SOCKET=str(path))
        assert b"READY=1" in systemd.recv(1000)
        daemon.process.send_signal(signal.SIGHUP)
        assert b"RELOADING=1" in systemd.recv(1000)
        assert b"READY=1" in systemd.recv(1000)
        assert daemon.stop() == 0
        assert b"STOPPING=1" in systemd.recv(1000)


def test_the_watchdog_is_fed_while_packets_are_served(house: Home, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(PATIENCE)
        daemon = house.run(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="300000")
        assert systemd.recv(1000) == f"READY=1\nSTATUS=0 sessions on {PUBLIC}".encode()
        assert [systemd.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        daemon.stop()


def test_it_can_be_stopped_while_it_starts(house: Home) -> None:
    daemon = house.run(wait=False)
    until(lambda: "1723" in house.gateway.sh("ip rule"))
    assert daemon.stop() == 0


def test_the_environment_and_options_are_a_whole_configuration(house: Home) -> None:
    directory = house.directory()
    daemon = house.start(
        directory,
        "--set",
        "wan.interface=eth1",
        "--set",
        f"api.socket={directory / 'control.sock'}",
        VPNMASQ_MASQUERADE="10.0.0.0/24 -> any pptp",
        VPNMASQ_EXPOSE=f"{SERVER} pptp allow {CALLER}",
        VPNMASQ_LAN__INTERFACES="eth0",
        VPNMASQ_LAN__NETWORKS="10.0.0.0/8",
        VPNMASQ_STATE__DIRECTORY="",
    )
    assert carries(house, call(house, house.client, PEER, house.peer))
    assert call(house, house.caller, PUBLIC, house.server).server.far_end == CALLER
    daemon.process.send_signal(signal.SIGTERM)


def test_relay_style_needs_net_raw_alone(house: Home) -> None:
    daemon = house.run(RELAY, under=WITH_NET_RAW_ALONE)
    tunnel = call(house, house.client, GATEWAY, house.peer)
    assert tunnel.server.far_end == PUBLIC
    client, peer = house.raw(house.client), house.raw(house.peer)
    client.send(CLIENT, GATEWAY, tunnel.server_id, b"out")
    assert payload(peer.receive()) == b"out"
    peer.send(PEER, PUBLIC, tunnel.client_id, b"in")
    assert payload(client.receive()) == b"in"
    tunnel = call(house, house.caller, PUBLIC, house.server)
    assert tunnel.server.far_end == GATEWAY
    caller, server = house.raw(house.caller), house.raw(house.server)
    caller.send(CALLER, PUBLIC, tunnel.server_id, b"hello")
    assert payload(server.receive()) == b"hello"
    server.send(SERVER, GATEWAY, tunnel.client_id, b"good day")
    assert payload(caller.receive()) == b"good day"
    assert any("conntrack" in text for text in daemon.document("status")["attention"])
    changes(house, daemon, RULES)
    refused = daemon.command("reload")
    assert refused.returncode == Exit.BAD_CONFIGURATION
    assert "CAP_NET_ADMIN" in refused.stderr
    assert len(daemon.document("sessions")["sessions"]) == 2


# -- stopping --------------------------------------------------------------------------------------------


def test_draining_lets_calls_go_on_and_takes_no_new_ones(house: Home) -> None:
    daemon = house.run(RULES, "--timeout", "100")
    tunnel = call(house, house.client, PEER, house.peer)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: daemon.document("status")["state"] == "draining")
    assert daemon.command("health").returncode == Exit.FAILED
    assert carries(house, tunnel)
    with answering(house, house.peer):
        assert is_turned_away(house, house.second, PEER)
    assert daemon.drops()["draining"] == 1
    assert carries(house, tunnel)
    # The last one puts out the light.
    tunnel.client.says(messages.StopRequest())
    tunnel.server.hears(messages.StopRequest)
    tunnel.server.says(messages.StopReply())
    tunnel.client.hears(messages.StopReply)
    tunnel.client.sock.close()
    assert daemon.ends() == 0


def test_when_the_time_to_drain_is_over_both_ends_are_told(house: Home) -> None:
    daemon = house.run(RULES, "--timeout", "1")
    tunnel = call(house, house.client, PEER, house.peer)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: daemon.document("status")["state"] == "draining")
    assert carries(house, tunnel)
    both_are_told(tunnel)
    assert daemon.ends() == 0


def test_told_twice_it_waits_no_longer(house: Home) -> None:
    daemon = house.run(RULES, "--timeout", "100")
    tunnel = call(house, house.client, PEER, house.peer)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: daemon.document("status")["state"] == "draining")
    daemon.process.send_signal(signal.SIGTERM)
    both_are_told(tunnel)
    assert daemon.ends() == 0


# -- dying and coming back -------------------------------------------------------------------------------


def test_what_a_killed_daemon_left_is_adopted_and_removed_in_the_end(house: Home) -> None:
    clean = house.kernel()
    first = house.run()
    working = house.kernel()
    first.process.kill()
    first.ends()
    assert house.kernel() == working, "a test of nothing: nothing was left"
    second = house.run()
    assert house.kernel() == working
    assert carries(house, call(house, house.client, PEER, house.peer))
    second.process.kill()
    second.ends()
    third = house.run(RELAY)
    assert house.kernel()["rules"] == clean["rules"]
    assert third.stop() == 0
    assert house.kernel() == clean


def test_two_instances_live_side_by_side(house: Home) -> None:
    annex = house.net.namespace("annex")
    house.net.link(house.gateway, "eth2", annex, "eth0")
    house.gateway.address("eth2", "10.0.1.1/24")
    annex.address("eth0", f"{ANNEX}/24")
    annex.sh("ip route add default via 10.0.1.1")
    try:
        first = house.run(MASQUERADE)
        alone = house.kernel()
        second = house.run(
            "name = 'annex'" + MASQUERADE.replace("10.0.0.0/24", "10.0.1.0/24"),
            "--set",
            "lan.interfaces=eth2",
        )
        with answering(house, house.peer) as listening:
            ours = house.tunnel(house.client, PEER, listening)
            theirs = house.tunnel(annex, PEER, listening)
        assert carries(house, ours)
        there, peer = house.raw(annex), house.raw(house.peer)
        peer.send(PEER, PUBLIC, theirs.client_id, b"for the annex")
        assert payload(there.receive()) == b"for the annex"
        for daemon in (first, second):
            assert len(daemon.document("sessions")["sessions"]) == 1
        intruder = house.run("name = 'third'" + MASQUERADE, "--set", "lan.interfaces=eth0", wait=False)
        assert intruder.ends() == Exit.FAILED
        assert second.stop() == 0
        assert house.kernel() == alone
        assert carries(house, ours)
    finally:
        house.gateway.sh("ip link delete eth2")


def test_whom_no_rule_admits_hears_nothing_where_that_is_wished(house: Home) -> None:
    daemon = house.run(f'refuse = "silent"\n{RULES}')
    with pytest.raises(TimeoutError):
        house.dial(house.peer, PUBLIC, patience=0.5)  # before TCP would send its SYN again
    assert daemon.drops() == {"no-rule": 1}
    assert daemon.stop() == 0
