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
