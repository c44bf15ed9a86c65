"""From a state file to a gateway: what is in it goes on, what cannot be is set aside and said."""

import random
from functools import partial
from pathlib import Path

import pytest

from protocols.actions import SessionOpened
from protocols.admission import Addresses
from protocols.gateway import Gateway
from protocols.sessions import State
from relay.state.file import StateFile, encoded
from relay.state.revival import revived
from tests.scenarios.world import CLIENT, LAN, PEER, STAFF, WAN, World, policy

ADDRESSES = Addresses(WAN, frozenset({WAN, LAN}))
make = partial(Gateway, policy(STAFF), ADDRESSES, random=random.Random(1).randrange)


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path, "vpnmasq")


@pytest.fixture
def world(file: StateFile) -> World:
    """A gateway with a call, that is written down."""
    world = World(policy(STAFF))
    world.tunnel(CLIENT, PEER)
    file.write(file.lines(world.gateway.snapshot(now=world.now)))
    return world


def test_without_a_directory_everything_begins_anew() -> None:
    found = revived(make, None, now=0.0)
    assert (found.actions, found.attention, len(found.gateway.registry)) == ([], [], 0)


def test_without_a_file_there_is_nothing_to_say(file: StateFile) -> None:
    assert revived(make, file, now=0.0).attention == []


def test_sessions_go_on(file: StateFile, world: World) -> None:
    found = revived(make, file, now=world.now)
    (session,) = found.gateway.sessions()
    assert session.state is State.ESTABLISHED
    assert found.actions == [SessionOpened(session)]
    assert found.attention == []


def test_what_is_damaged_is_set_aside(file: StateFile, world: World) -> None:
    file.path.write_bytes(file.path.read_bytes()[:-3])
    found = revived(make, file, now=world.now)
    assert len(found.gateway.registry) == 0
    (text,) = found.attention
    assert text.endswith(f"checksum is wrong; it is kept as {file.path.with_suffix('.unusable')}")
    assert not file.path.exists()
    assert revived(make, file, now=world.now).attention == []


def test_records_that_are_none_are_set_aside(file: StateFile, world: World) -> None:
    strange = [*file.lines(world.gateway.snapshot(now=world.now)), encoded([["t", "moon", "dust"]])]
    file.write(strange)
    found = revived(make, file, now=world.now)
    assert len(found.gateway.registry) == 0
    assert "a record is not what it says" in found.attention[0]


def test_what_cannot_be_set_aside_is_said(file: StateFile) -> None:
    file.path.mkdir()
    file.path.with_suffix(".unusable").write_text("")
    (text,) = revived(make, file, now=0.0).attention
    assert "Is a directory" in text
    assert "it is still there: " in text


def test_a_file_of_before_the_machine_was_started_stays(
    file: StateFile, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.state.file.boot_id", lambda: "another")
    found = revived(make, file, now=world.now)
    assert (found.attention, len(found.gateway.registry)) == ([], 0)


def test_what_cannot_be_read_is_said(file: StateFile) -> None:
    file.path.symlink_to("/etc/hostname")
    (text,) = revived(make, file, now=0.0).attention
    assert "Too many levels of symbolic links" in text
