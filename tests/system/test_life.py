"""The daemon's life: how it starts or says why not, changes, drains, dies, comes back and leaves no trace."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from protocols.gre.codec import EnhancedGre
from protocols.pptp import messages
from relay.cli.exits import Exit
from relay.privileges import KEPT, Capability
from tests.netns import Namespace
from tests.system.home import (
    CALLER,
    CLIENT,
    GATEWAY,
    PATIENCE,
    PEER,
    PUBLIC,
    RULES,
    SERVER,
    Daemon,
    Gre,
    Home,
    Tunnel,
    until,
)

MASQUERADE = """
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp"]
"""

#: Both directions without CAP_NET_ADMIN: nothing is intercepted, and no foreign address is used.
RELAY = f"""
[[masquerade]]
name = "dialled"
clients = ["10.0.0.0/24"]
servers = ["{PEER}"]
proto = ["pptp"]
listen = "{GATEWAY}"

[[expose]]
name = "office"
server = "{SERVER}"
proto = ["pptp"]
allow = ["{CALLER}"]
source = "gateway"
"""

pytestmark = pytest.mark.usefixtures("nothing_stays")

SECOND_PUBLIC = "200.200.200.201"
ANNEX = "10.0.1.2"

#: Packets sent around a reload.
_STREAM = 1000


@contextlib.contextmanager
def answering(house: Home, host: Namespace) -> Iterator[socket.socket]:
    with contextlib.closing(house.listen(host)) as listening:
        yield listening


def call(house: Home, host: Namespace, to: str, server: Namespace) -> Tunnel:
    with answering(house, server) as listening:
        return house.tunnel(host, to, listening)


def payload(packet: bytes) -> bytes:
    return EnhancedGre.from_bytes(packet[20:]).payload


def carries(house: Home, tunnel: Tunnel) -> bool:
    """Data of the client's call passes both ways."""
    client, peer = house.raw(house.client), house.raw(house.peer)
    client.send(CLIENT, PEER, tunnel.server_id, b"out")
    peer_got = payload(peer.receive())
    public = tunnel.server.far_end
    peer.send(PEER, public, tunnel.client_id, b"in")
    return (peer_got, payload(client.receive())) == (b"out", b"in")


def both_are_told(tunnel: Tunnel) -> None:
    """Both ends hear a Stop-Control-Connection-Request, and then the end of the connection."""
    for end in (tunnel.client, tunnel.server):
        end.hears(messages.StopRequest)
        assert end.sock.recv(100) == b""


def is_turned_away(house: Home, host: Namespace, to: str) -> bool:
    try:
        return house.dial(host, to).is_closed()
    except ConnectionError:
        return True


def changes(house: Home, daemon: Daemon, rules: str) -> None:
    """Write another configuration; nobody is told yet."""
    (daemon.directory / "vpnmasq.toml").write_text(house.configuration(rules, daemon.directory))


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


# -- changing --------------------------------------------------------------------------------------------


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
