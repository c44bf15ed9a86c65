"""When the state is written: soon after a change, together with what joins it, and not too often."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from protocols.pptp import messages
from relay.state import keeper as module
from relay.state.file import StateFile
from relay.state.keeper import Keeper
from tests.scenarios.world import CLIENT, CLIENT_2, PEER, STAFF, World, policy

PATIENCE = 10.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAY", 0.01)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  what a file holds sets no event
            await asyncio.sleep(0.005)


def kept(directory: Path, story: Callable[[Keeper, World, StateFile], Awaitable[None]]) -> None:
    """Run a story with a Keeper and a gateway that has one call."""

    async def main() -> None:
        world, file = World(policy(STAFF)), StateFile(directory, "vpnmasq")
        world.tunnel(CLIENT, PEER)
        async with asyncio.TaskGroup() as tasks:
            loop = asyncio.get_running_loop()
            with Keeper(file, world.gateway, loop.time, tasks.create_task) as keeper:
                await story(keeper, world, file)

    asyncio.run(main())


def sessions(file: StateFile) -> int:
    taken = file.read(now=1e12)
    assert taken is not None
    return json.dumps(taken.records).count("staff")


def test_it_is_written_at_the_start_and_after_a_change(tmp_path: Path) -> None:
    async def story(keeper: Keeper, world: World, file: StateFile) -> None:
        await until(lambda: keeper.count == 1)
        before = sessions(file)
        assert keeper.octets == file.path.stat().st_size
        world.dial(CLIENT_2, PEER).says(messages.StartRequest())
        keeper.changed()
        keeper.changed()
        await until(lambda: keeper.count == 2)
        assert sessions(file) > before

    kept(tmp_path, story)


def test_a_change_while_it_is_written_is_written_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLICE", 0.0)

    async def story(keeper: Keeper, _world: World, file: StateFile) -> None:
        async def aside(write: Callable[[list[bytes]], int], lines: list[bytes]) -> int:
            if not keeper.count:
                keeper.changed()
                assert keeper._handle is None
            return write(lines)

        monkeypatch.setattr(module, "aside", aside)
        await until(lambda: keeper.count == 2)

    kept(tmp_path, story)


def test_it_takes_a_small_part_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE", 1e-9)

    async def story(keeper: Keeper, _world: World, _file: StateFile) -> None:
        await until(lambda: keeper.count == 1 and not keeper._writing)
        keeper.changed()
        assert keeper._handle is not None
        assert keeper._handle.when() > keeper._loop.time() + 1000

    kept(tmp_path, story)


def test_what_sessions_carry_is_written_now_and_then(tmp_path: Path) -> None:
    async def story(keeper: Keeper, world: World, _file: StateFile) -> None:
        await until(lambda: keeper.count == 1)
        keeper._regularly()
        await until(lambda: keeper.count == 2)
        world.gateway.close("over", now=world.now)
        keeper._regularly()
        assert keeper._handle is None

    kept(tmp_path, story)


def test_a_disk_that_takes_nothing_is_told_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REGULARLY", 0.01)
    directory = tmp_path / "not a directory"
    directory.write_text("")

    async def story(keeper: Keeper, _world: World, file: StateFile) -> None:
        await until(lambda: bool(keeper.attention) and not keeper._writing)
        assert keeper.attention == [
            f"sessions would not survive a restart: {file.path} cannot be written: File exists"
        ]
        directory.unlink()
        keeper.changed()
        await until(lambda: keeper.count == 1 and not keeper.attention)

    kept(directory, story)


def test_the_last_writing_is_the_last(tmp_path: Path) -> None:
    async def story(keeper: Keeper, world: World, file: StateFile) -> None:
        keeper.write_last()
        before = file.path.read_bytes()
        world.gateway.close("over", now=world.now)
        keeper.changed()
        await asyncio.sleep(0.05)
        assert file.path.read_bytes() == before
        assert sessions(file) > 0

    kept(tmp_path, story)


def test_a_last_writing_that_fails_is_said(tmp_path: Path) -> None:
    directory = tmp_path / "not a directory"
    directory.write_text("")

    async def story(keeper: Keeper, _world: World, _file: StateFile) -> None:
        keeper.write_last()
        assert len(keeper.attention) == 1

    kept(directory, story)
