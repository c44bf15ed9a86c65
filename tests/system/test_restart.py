"""The daemon is killed in the middle of everything, and nobody inside or outside has to do anything."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocols.pptp import messages
from tests.system.calls import call, carries
from tests.system.home import PEER, RULES, Daemon, Home, until
from tests.system.test_takeover import answers, hangs_up

pytestmark = pytest.mark.usefixtures("nothing_stays")


def start(house: Home, directory: Path, *, again: bool = False, **how: Any) -> Daemon:
    """The daemon with a state directory of its own; once more with the same one."""
    config = directory / "vpnmasq.toml"
    if not again:
        config.write_text(house.configuration(RULES, directory))
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
