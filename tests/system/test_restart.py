"""The daemon is killed in the middle of everything, and nobody inside or outside has to do anything."""

import signal
from pathlib import Path

import pytest

from tests.system.calls import call, carries
from tests.system.home import PEER, RULES, Daemon, Home, until

pytestmark = pytest.mark.usefixtures("nothing_stays")


def start(house: Home, directory: Path, *, again: bool = False) -> Daemon:
    """The daemon with a state directory of its own; once more with the same one."""
    config = directory / "vpnmasq.toml"
    if not again:
        config.write_text(house.configuration(RULES, directory))
    state = f"state.directory={directory / 'state'}"
    return house.start(directory, "-c", str(config), "--set", state)


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
