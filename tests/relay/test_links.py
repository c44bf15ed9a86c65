"""Hooks and the user's commands: what they are told, by whomever, and what becomes of them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from protocols.addr import Ip4, parse_ip
from relay.addresses import Interface
from relay.config.models import Dynamic
from relay.control.daemon import Link
from relay.links import Links
from relay.uplink import NOWHERE, Uplink

ONE, TWO = parse_ip("200.200.200.200"), parse_ip("200.200.200.201")
FAR = parse_ip("200.200.200.1")


def uplink(address: Ip4 | None, name: str = "ppp0", remote: Ip4 | None = FAR) -> Uplink:
    addresses = () if address is None else (address,)
    interface = Interface(name, index=7, up=True, addresses=addresses, remote=remote)
    return Uplink(interface, address, frozenset(addresses))


class Scene:
    """Links, and a file that the commands write their arguments into."""

    def __init__(self, directory: Path, tasks: asyncio.TaskGroup, **settings: object) -> None:
        self.said = directory / "said"
        self.tasks = tasks
        write = f"/bin/sh -c 'echo $VPNMASQ_EVENT $* >> {self.said}' sh"
        dynamic = Dynamic.model_validate({"up_commands": [write], "down_commands": [write]} | settings)
        self.now = NOWHERE
        self.hints = 0
        self.links = Links(lambda: dynamic, lambda: self.now, self._hint, tasks.create_task)

    def _hint(self) -> None:
        self.hints += 1

    def change(self, now: Uplink) -> None:
        before, self.now = self.now, now
        self.links.changed(before, now)

    def ask(self, question: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        return self.tasks.create_task(question)

    async def lines(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while not self.said.exists() or len(self.said.read_text().splitlines()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self.said.read_text().splitlines()


Story = Callable[[Scene], Awaitable[None]]


def play(directory: Path, story: Story, **settings: object) -> None:
    async def on_stage() -> None:
        async with asyncio.TaskGroup() as tasks:
            scene = Scene(directory, tasks, **settings)
            await story(scene)
            scene.links.close()

    asyncio.run(on_stage())


def test_commands_get_what_the_kernel_knows(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.change(uplink(ONE, "eth1", None))
        scene.change(uplink(TWO, "eth1", None))
        scene.change(uplink(None, "eth1", None))
        assert await scene.lines(4) == [
            "up eth1 200.200.200.200",
            "down eth1 200.200.200.200",
            "up eth1 200.200.200.201",
            "down eth1 200.200.200.201",
        ]

    play(tmp_path, story)


def test_a_point_to_point_links_commands_get_what_its_hook_says(tmp_path: Path) -> None:
    word = Link("ppp0", "/dev/ttyS0", "115200", "200.200.200.200", "200.200.200.1", "office")

    async def story(scene: Scene) -> None:
        scene.change(uplink(ONE))
        await asyncio.sleep(0.05)
        assert await scene.links.told("up", word)
        assert await scene.lines(1) == ["up ppp0 /dev/ttyS0 115200 200.200.200.200 200.200.200.1 office"]
        scene.change(uplink(None))
        assert (await scene.lines(2))[1] == f"down {' '.join(word.arguments())}"
        assert scene.hints == 1

    play(tmp_path, story)


def test_without_a_hook_they_run_all_the_same(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.links.told("up", Link("ppp9", local="1.2.3.4"))
        scene.change(uplink(ONE))
        assert await scene.lines(1) == ["up ppp0 200.200.200.200 200.200.200.1"]

    play(tmp_path, story)


def test_a_hook_is_answered_when_its_address_is_served(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.now = uplink(ONE)
        asked = scene.ask(scene.links.told("up", Link("ppp0", local="200.200.200.201")))
        await asyncio.sleep(0.05)
        assert not asked.done()
        scene.change(uplink(TWO))
        assert await asked
        assert await scene.links.told("up", Link("ppp0"))
        assert not await scene.links.told("up", Link("eth7", local="1.2.3.4"))
        asked = scene.ask(scene.links.told("down", Link("ppp0", local="200.200.200.201")))
        await asyncio.sleep(0.05)
        assert not asked.done()
        scene.change(uplink(None))
        assert await asked

    play(tmp_path, story, up_commands=[], down_commands=[])


def test_a_hook_for_what_does_not_come_is_not_held_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.links._SERVED", 0.1)

    async def story(scene: Scene) -> None:
        assert not await scene.links.told("up", Link("ppp0", local="1.2.3.4"))

    play(tmp_path, story)


def test_failures_stand_until_the_next_run(tmp_path: Path) -> None:
    failing = f"/bin/sh -c 'echo oh; test -e {tmp_path}/mended'"

    async def failed(scene: Scene, count: int) -> None:
        async with asyncio.timeout(10):
            while len(scene.links.failures) != count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def story(scene: Scene) -> None:
        scene.change(uplink(ONE, "eth1", None))
        await failed(scene, 2)
        assert list(scene.links.failures.values()) == [
            "up_commands: /bin/sh: exit status 1",
            "up_commands: /bin/sh: took longer than 0.2 s and was ended",
        ]
        (tmp_path / "mended").touch()
        scene.change(uplink(TWO, "eth1", None))
        await failed(scene, 1)

    play(tmp_path, story, up_commands=[failing, "/bin/sh -c 'sleep 99'"], command_timeout=0.2)


def test_of_changes_that_come_faster_than_commands_the_last_ones_count(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        for number in range(20):
            scene.change(uplink(Ip4(ONE + number), "eth1", None))
        lines = await scene.lines(8)
        assert lines[-1] == "up eth1 200.200.200.219"

    play(tmp_path, story)
