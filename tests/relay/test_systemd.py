"""sd_notify(3), heard at the other end."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The service manager's socket, of both kinds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"vpnmasq-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
        sock.bind(f"\0{name}" if request.param == "abstract" else name)
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if request.param == "abstract" else name)
        yield sock


MESSAGES = [
    pytest.param(lambda: systemd.ready(), "READY=1", id="ready"),
    pytest.param(lambda: systemd.ready("3 sessions"), "READY=1\nSTATUS=3 sessions", id="ready-with-status"),
    pytest.param(lambda: systemd.stopping("draining"), "STOPPING=1\nSTATUS=draining", id="stopping"),
    pytest.param(lambda: systemd.status("12\nsessions"), "STATUS=12 sessions", id="one-line-only"),
    pytest.param(lambda: systemd.watchdog(), "WATCHDOG=1", id="watchdog"),
    pytest.param(lambda: systemd.forget("1.2"), "FDSTOREREMOVE=1\nFDNAME=1.2", id="forget"),
    pytest.param(lambda: systemd.succeeded_by(77), "MAINPID=77", id="succeeded"),
]


@pytest.mark.parametrize(("say", "heard"), MESSAGES)
def test_the_manager_hears(manager: socket.socket, say: Callable[[], None], heard: str) -> None:
    say()
    assert manager.recv(1000).decode() == heard


def test_a_reload_says_when_it_began(manager: socket.socket) -> None:
    systemd.reloading()
    first, second = manager.recv(1000).decode().splitlines()
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()


@pytest.mark.parametrize("address", [None, "", "relative", "/nonexistent/notify", "@nobody-listens"])
def test_without_a_manager_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.ready()


WATCHDOGS = [
    pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="ours"),
    pytest.param({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5, id="ours-by-pid"),
    pytest.param({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None, id="anothers"),
    pytest.param({}, None, id="none"),
    pytest.param({"WATCHDOG_USEC": "0"}, None, id="off"),
    pytest.param({"WATCHDOG_USEC": "soon"}, None, id="not-a-number"),
]


@pytest.mark.parametrize(("environment", "seconds"), WATCHDOGS)
def test_the_watchdog_is_kept_only_by_whom_it_watches(
    environment: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval() == seconds


def test_the_manager_gets_a_socket_to_keep(manager: socket.socket) -> None:
    with socket.socket() as sock:
        assert systemd.keep("1.2", sock)
        text, (number,), _, _ = socket.recv_fds(manager, 1000, 1)
    os.close(number)
    assert text.decode() == "FDSTORE=1\nFDNAME=1.2"


def test_without_a_manager_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with socket.socket() as sock:
        assert not systemd.keep("1.2", sock)
    assert not systemd.is_there()


@pytest.mark.parametrize(
    ("count", "pid", "names"),
    [
        pytest.param("", "", "", id="none"),
        pytest.param("1", "1", "1.2", id="another-process"),
        pytest.param("2", str(os.getpid()), "1.2", id="names-missing"),
        pytest.param("x", str(os.getpid()), "1.2", id="no-number"),
    ],
)
def test_what_is_not_passed_to_us_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, count: str, pid: str, names: str
) -> None:
    for name, value in (("LISTEN_FDS", count), ("LISTEN_PID", pid), ("LISTEN_FDNAMES", names)):
        monkeypatch.setenv(name, value)
    assert systemd.kept() == []
    assert "LISTEN_FDS" not in os.environ
