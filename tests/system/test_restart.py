"""The daemon is killed in the middle of everything, and nobody inside or outside has to do anything."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from protocols.esp.codec import Esp
from protocols.ike.natt import NON_ESP_MARKER
from protocols.pptp import messages
from tests.system.calls import call, carries
from tests.system.home import CALLER, CLIENT, PEER, PUBLIC, RULES, SERVER, Daemon, Home, until
from tests.system.ipsec import ESP, Udp, esp, ike, told
from tests.system.test_takeover import answers, hangs_up

pytestmark = pytest.mark.usefixtures("nothing_stays")


def start(house: Home, directory: Path, *, again: bool = False, rules: str = RULES, **how: Any) -> Daemon:
    """The daemon with a state directory of its own; once more with the same one."""
    config = directory / "vpnmasq.toml"
    if not again:
        config.write_text(house.configuration(rules, directory))
    state = f"state.directory={directory / 'state'}"
    return house.start(directory, "-c", str(config), "--set", state, **how)


def written(directory: Path, *texts: str) -> None:
    """Wait until the state has been written with these texts in it."""
    file = directory / "state" / "vpnmasq.state"
    until(lambda: file.exists() and all(text in file.read_text() for text in texts))


def crash(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    assert daemon.ends() == -signal.SIGKILL


def test_data_of_a_call_flows_on_after_kill_9(house: Home) -> None:
    directory = house.directory()
    first = start(house, directory)
    tunnel = call(house, house.client, PEER, house.peer)
    assert carries(house, tunnel)
    (session,) = first.document("sessions")["sessions"]
    written(directory, session["id"], "established")
    crash(first)
    second = start(house, directory, again=True)
    (again,) = second.document("sessions")["sessions"]
    assert {key: again[key] for key in ("id", "call_ids", "state")} == {
        key: session[key] for key in ("id", "call_ids", "state")
    }
    assert carries(house, tunnel)
    assert second.document("status")["attention"] == []


IPSEC = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["{PEER}"]
proto = ["ipsec"]

[[forward]]
name = "names"
listen = "udp/53"
server = "{SERVER}"
allow = ["{CALLER}"]
"""


def test_ipsec_and_forwarded_datagrams_go_on_after_kill_9(house: Home) -> None:
    """Cookies, SPIs and ports are whose they were: what comes from outside first finds its way."""
    directory = house.directory()
    first = start(house, directory, rules=IPSEC)
    with ExitStack() as stack:
        ends = (house.client, 500), (house.peer, 500), (house.second, 4500), (house.peer, 4500)
        ike_client, ike_peer, natt_client, natt_peer = (Udp(*end) for end in ends)
        asker, server = Udp(house.caller, 5353), Udp(house.server, 53)
        for one in (ike_client, ike_peer, natt_client, natt_peer, asker, server):
            stack.callback(one.sock.close)
        esp_client, esp_peer = house.raw(house.client, ESP), house.raw(house.peer, ESP)
        ike_client.send(ike(0xA1), PEER, 500)
        assert ike_peer.receive() == (ike(0xA1), PUBLIC, 500)
        ike_peer.send(ike(0xA1, 0xA2), PUBLIC, 500)
        assert ike_client.receive() == (ike(0xA1, 0xA2), PEER, 500)
        for sequence in range(1, 20):
            esp(esp_client, CLIENT, PEER, 0x1001, sequence)
            assert told(esp_peer.receive(protocol=ESP)) == (PUBLIC, PEER, 0x1001, sequence)
            esp(esp_peer, PEER, PUBLIC, 0x2001, sequence)
            assert told(esp_client.receive(protocol=ESP)) == (PEER, CLIENT, 0x2001, sequence)
        natt_client.send(NON_ESP_MARKER + ike(0xB1), PEER, 4500)
        _, _, port = natt_peer.receive()
        asker.send(b"question", PUBLIC, 53)
        assert server.receive() == (b"question", CALLER, 5353)
        rows = first.document("sessions")["sessions"]
        assert sorted(row["protocol"] for row in rows) == ["esp", "isakmp", "natt", "udp"]
        written(directory, *(row["id"] for row in rows), "confirmed")
        before = {row["id"]: (row["protocol"], row["state"]) for row in rows}
        crash(first)
        second = start(house, directory, again=True)
        rows = second.document("sessions")["sessions"]
        assert {row["id"]: (row["protocol"], row["state"]) for row in rows} == before
        other = house.raw(house.second, ESP)
        esp(esp_peer, PEER, PUBLIC, 0x2001, 20)
        assert told(esp_client.receive(protocol=ESP)) == (PEER, CLIENT, 0x2001, 20)
        assert other.nothing()
        ike_peer.send(ike(0xA1, 0xA2, exchange=37), PUBLIC, 500)
        assert ike_client.receive() == (ike(0xA1, 0xA2, exchange=37), PEER, 500)
        data = Esp(0x3001, 1, b"data").to_bytes()
        natt_peer.send(data, PUBLIC, port)
        assert natt_client.receive() == (data, PEER, 4500)
        server.send(b"answer", CALLER, 5353)
        assert asker.receive() == (b"answer", PUBLIC, 53)
    assert second.document("status")["attention"] == []


def test_a_damaged_state_is_set_aside_and_said(house: Home) -> None:
    directory = house.directory()
    first = start(house, directory)
    call(house, house.client, PEER, house.peer)
    written(directory, "established")
    crash(first)
    file = directory / "state" / "vpnmasq.state"
    file.write_bytes(file.read_bytes()[:-10])
    second = start(house, directory, again=True)
    assert second.document("sessions")["sessions"] == []
    (attention,) = second.document("status")["attention"]
    assert f"kept as {file.with_suffix('.unusable')}" in attention


# -- under a service manager that keeps sockets -----------------------------------------------------------


class Manager:
    """What systemd does with a service's messages and descriptors (sd_notify(3), sd_listen_fds(3))."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self.kept: dict[str, int] = {}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            text, descriptors, _, _ = socket.recv_fds(self._sock, 4096, 8)
            lines = dict(line.split("=", 1) for line in text.decode().splitlines())
            if not lines:
                return
            if "FDSTORE" in lines:
                (self.kept[lines["FDNAME"]],) = descriptors
            if "FDSTOREREMOVE" in lines:
                os.close(self.kept.pop(lines["FDNAME"]))

    def how(self) -> dict[str, Any]:
        """How a service is started that is given what is kept."""
        moved = " ".join(f"{to}<&{number}" for to, number in enumerate(self.kept.values(), 3))
        return {
            "under": ("bash", "-c", f'LISTEN_PID=$$ exec "$@" {moved}', "bash"),
            "descriptors": list(self.kept.values()),
            "NOTIFY_SOCKET": self.path,
            "LISTEN_FDS": str(len(self.kept)),
            "LISTEN_FDNAMES": ":".join(self.kept),
        }

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.path)
        self._thread.join()
        self._sock.close()
        for number in self.kept.values():
            os.close(number)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def test_control_connections_survive_kill_9_where_their_sockets_are_kept(
    house: Home, manager: Manager
) -> None:
    directory = house.directory()
    first = start(house, directory, NOTIFY_SOCKET=manager.path)
    with house.listen(house.peer) as listening:
        tunnel = house.tunnel(house.client, PEER, listening)
        other = house.tunnel(house.second, PEER, listening, server_id=101)
    until(lambda: len(manager.kept) == 4)
    written(directory, *(row["id"] for row in first.document("sessions")["sessions"]), '"peer",101')
    before = {row["id"]: row["call_ids"] for row in first.document("sessions")["sessions"]}
    # Half a message has been read when the daemon dies, and half of it not; and somebody speaks meanwhile.
    echo = messages.EchoRequest(identifier=8)
    tunnel.client.says(echo.to_bytes()[:9])
    time.sleep(0.1)
    crash(first)
    tunnel.client.says(echo.to_bytes()[9:], echo)
    # What nobody knows is kept as well: it is closed.
    with socket.create_server(("127.0.0.1", 0)) as nobody, house.listen(house.client, 7) as odd:
        far = socket.create_connection(nobody.getsockname())
        near, _ = nobody.accept()
        manager.kept |= {"9998.9999": os.dup(near.fileno()), "odd": os.dup(odd.fileno())}
        near.close()
        second = start(house, directory, again=True, **manager.how())
        until(lambda: manager.kept.keys() == {"1.2", "2.1", "3.4", "4.3"})
        with far:
            assert far.recv(1) == b""
    assert {row["id"]: row["call_ids"] for row in second.document("sessions")["sessions"]} == before
    assert tunnel.server.hears(messages.EchoRequest) == echo
    assert carries(house, tunnel)
    for one in (tunnel, other):
        answers(one)
    hangs_up(tunnel)
    # Closed is closed, though the manager may take a while to let go.
    other.client.sock.close()
    assert other.server.is_closed()
    until(lambda: manager.kept.keys() == {"1.2", "2.1"})
