"""A DNS name that follows the public address of the real daemon, in a zone of a real BIND."""

import http.server
import json
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.bind import HOST, KEY, KEY_NAME, ZONE, Bind
from tests.lab.machine import CACHE
from tests.system.home import PEER, PUBLIC, RULES, VPNMASQ, Daemon, Home, until

SECOND_PUBLIC: Final = "200.200.200.201"
SOMEBODY: Final = "192.0.2.66"
ROUTE: Final = "ip route replace default via 200.200.200.1"

pytestmark = pytest.mark.skipif(
    not (CACHE / "bind").is_dir(), reason="sudo contrib/test fetches the name server it needs"
)


@pytest.fixture(scope="module")
def bind(house: Home) -> Iterator[Bind]:
    with tempfile.TemporaryDirectory(prefix="vpnmasq-bind-") as name:
        server = Bind(Path(name), PEER, under=("ip", "netns", "exec", house.peer.name))
        yield server
        server.stop()


@pytest.fixture(autouse=True)
def as_it_was(house: Home, bind: Bind) -> Iterator[None]:
    """Let the name point at somebody else, as at the start of every test; and end the daemons."""
    with house.peer.entered():
        bind.point_at(SOMEBODY)
    yield
    for daemon in house.daemons:
        assert daemon.stop() == 0, daemon.log()
    house.daemons.clear()
    connect(house, PUBLIC)


def connect(house: Home, address: str) -> None:
    house.gateway.sh("ip address flush dev eth1")
    house.gateway.address("eth1", f"{address}/24")
    house.gateway.sh(ROUTE)


def addresses(house: Home, bind: Bind) -> set[str]:
    with house.peer.entered():
        return bind.has()


def name(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.document("status")["ddns"][0]
    return found


def is_current(daemon: Daemon, address: str) -> bool:
    now = name(daemon)
    return bool((now["state"], now["addresses"]) == ("current", [address]))


def attention(daemon: Daemon) -> str:
    return "\n".join(daemon.document("status")["attention"])


def rules(**settings: object) -> str:
    entry = {"name": "home", "host": HOST, "zone": ZONE, "nameservers": [PEER], "interval": "1s"} | settings
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())
    return f"{RULES}\n[[ddns]]\n{lines}\n"


class Followed:
    """``vpnmasq events`` beside a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._file = daemon.directory / "events"
        with self._file.open("w") as file:
            command = [VPNMASQ, "--socket", daemon.socket, "events", "--json"]
            self._process = subprocess.Popen(command, stdout=file, stderr=sys.stderr)
        until(lambda: '"following"' in self._file.read_text())

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def names(self) -> list[str]:
        """Those about names; problems are left out, such as a route that comes a moment late."""
        lines = self._file.read_text().split("\n")[:-1]
        events = [json.loads(line)["event"] for line in lines]
        return [event for event in events if event.startswith("ddns-") and event != "ddns-problem"]


def test_a_name_follows_the_address_and_is_taken_back_from_others(
    house: Home, bind: Bind, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    daemon = house.run(rules(provider="rfc2136", server=PEER, username=KEY_NAME, password_file=str(key)))
    until(lambda: is_current(daemon, PUBLIC))
    assert addresses(house, bind) == {PUBLIC}
    assert f"{HOST} is current, points at {PUBLIC}" in daemon.command("status").stdout
    events = Followed(daemon)
    try:
        connect(house, SECOND_PUBLIC)
        until(lambda: is_current(daemon, SECOND_PUBLIC))
        assert addresses(house, bind) == {SECOND_PUBLIC}
        until(lambda: events.names()[:2] == ["ddns-updated", "ddns-current"])
        with house.peer.entered():
            bind.point_at(SOMEBODY)
        until(lambda: addresses(house, bind) == {SECOND_PUBLIC})
        until(lambda: events.names()[2:] == ["ddns-taken", "ddns-updated", "ddns-current"])
    finally:
        events.end()
    assert name(daemon)["updates"] == 3
    assert "c2VjcmV0" not in daemon.log() + daemon.command("status", "--json").stdout


def test_what_is_wrong_with_a_name_is_said_until_it_is_right(house: Home, bind: Bind, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("d3Jvbmc=\n")
    daemon = house.run(rules(provider="rfc2136", server=PEER, username=KEY_NAME, password_file=str(key)))
    until(lambda: f"{HOST} is not known to point at {PUBLIC}: {PEER} does not accept" in attention(daemon))
    assert '"name not up to date"' in daemon.log()
    key.write_text(KEY)
    assert daemon.command("reload").returncode == 0
    until(lambda: is_current(daemon, PUBLIC))
    assert HOST not in attention(daemon)
    house.gateway.sh("ip address flush dev eth1")
    house.gateway.address("eth1", "192.168.7.2/24")
    text = f"{HOST} is not updated and still points at {PUBLIC}: 192.168.7.2 is private (RFC 1918)"
    until(lambda: text in attention(daemon))
    assert name(daemon)["state"] == "waiting"
    bind.stop()
    try:
        connect(house, SECOND_PUBLIC)
        until(lambda: f"not known to point at {SECOND_PUBLIC}: no answer from {PEER}" in attention(daemon))
    finally:
        bind.start()
    until(lambda: is_current(daemon, SECOND_PUBLIC))


class Provider(http.server.ThreadingHTTPServer):
    """A provider's web server: what it is told by dyndns2 is in BIND when it is asked to publish."""

    def __init__(self, house: Home) -> None:
        with house.peer.entered():
            super().__init__((PEER, 8080), _Handler)
        self.told: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Provider)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        [address] = query["myip"]
        self.server.told.append(address)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"good {address}".encode())

    def log_message(self, *_: object) -> None:
        pass


def test_an_update_counts_when_the_zones_servers_have_it_and_not_before(house: Home, bind: Bind) -> None:
    with Provider(house) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            daemon = house.run(rules(provider="dyndns2", url=f"http://{PEER}:8080/nic/update"))
            until(lambda: f"{HOST} points at {SOMEBODY}, which is somebody else's" in attention(daemon))
            assert name(daemon)["state"] == "pending"
            with house.peer.entered():
                bind.point_at(PUBLIC)
            until(lambda: is_current(daemon, PUBLIC))
            assert server.told == [PUBLIC]
            # A start with nothing to change sends nothing.
            assert daemon.stop() == 0
            again = house.run(rules(provider="dyndns2", url=f"http://{PEER}:8080/nic/update"))
            until(lambda: is_current(again, PUBLIC))
            assert server.told == [PUBLIC]
            house.daemons.remove(daemon)
        finally:
            server.shutdown()
            serving.join()
