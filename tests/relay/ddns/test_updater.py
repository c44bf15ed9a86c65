"""A name's life, hour by hour: what is sent to the provider, when, and what is said of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from relay.config.models import Ddns
from relay.ddns.provider import LATER, NEVER, UpdateError
from relay.ddns.updater import NameState, Updater
from tests.relay.ddns.hours import play

HOST = "vpn.example.org"
ONE, TWO, OTHER = "200.200.200.200", "200.200.200.201", "192.0.2.66"


class World:
    """A provider, the zone's servers behind it, and everything that is said."""

    def __init__(self, **settings: object) -> None:
        entry = {"name": "home", "provider": "url", "host": HOST, "url": "https://example.org"} | settings
        self.zone: frozenset[str] | UpdateError = frozenset()
        #: What becomes of updates: None is a success that appears at once.
        self.answer: UpdateError | None = None
        self.appears = True
        self.sent: list[tuple[float, str]] = []
        self.events: list[str] = []
        self.updater = Updater(Ddns.model_validate(entry), self, self.look, self.announce, self.now)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def look(self) -> frozenset[str]:
        if isinstance(self.zone, UpdateError):
            raise self.zone
        return self.zone

    async def update(self, address: str) -> None:
        self.sent.append((self.now(), address))
        if self.answer is not None:
            raise self.answer
        if self.appears:
            self.zone = frozenset({address})

    def announce(self, event: str, **fields: Any) -> None:
        assert (fields["name"], fields["host"]) == ("home", HOST)
        self.events.append(event)

    @property
    def addresses(self) -> list[str]:
        return [address for _, address in self.sent]

    async def lives(self, seconds: float = 0.9) -> None:
        await asyncio.sleep(seconds)


def story(told: Callable[[World], Awaitable[None]], **settings: object) -> None:
    async def on_stage() -> None:
        world = World(**settings)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(world.updater.run())
            await told(world)
            running.cancel()

    play(on_stage())


def test_it_is_sent_once_and_looked_at_from_then_on() -> None:
    async def told(world: World) -> None:
        world.updater.point_at(ONE)
        await world.lives(24 * 3600)
        assert world.addresses == [ONE]
        assert (world.updater.state, world.updater.problem) == (NameState.CURRENT, "")
        assert world.events == ["ddns-updated", "ddns-current"]

    story(told)


def test_nothing_is_sent_when_the_zone_is_right_already() -> None:
    async def told(world: World) -> None:
        world.zone = frozenset({ONE})
        world.updater.point_at(ONE)
        await world.lives()
        world.updater.point_at(None)
        await world.lives()
        world.updater.point_at(ONE)
        await world.lives(3600)
        assert world.sent == []
        assert world.updater.state is NameState.CURRENT

    story(told)


def test_without_verify_the_provider_is_believed() -> None:
    async def told(world: World) -> None:
        world.zone = UpdateError("nobody is to be asked")
        for address in (ONE, ONE, TWO):
            world.updater.point_at(address)
            await world.lives(3600)
        assert world.addresses == [ONE, TWO]
        assert world.updater.state is NameState.CURRENT

    story(told, verify=False)


def test_it_follows_every_address_and_back() -> None:
    async def told(world: World) -> None:
        for address in (ONE, TWO, ONE):
            world.updater.point_at(address)
            await world.lives()
            assert world.zone == frozenset({address})
        assert world.addresses == [ONE, TWO, ONE]

    story(told)


def test_of_two_changes_in_a_row_the_last_one_stays() -> None:
    async def told(world: World) -> None:
        plain = world.update

        async def slow(address: str) -> None:
            await asyncio.sleep(5)
            await plain(address)

        world.update = slow  # type: ignore[method-assign]
        world.updater.point_at(ONE)
        await world.lives(1)
        world.updater.point_at(TWO)
        await world.lives(60)
        assert world.addresses == [ONE, TWO]
        assert (world.zone, world.updater.state) == (frozenset({TWO}), NameState.CURRENT)

    story(told)


def test_what_fails_is_said_once_and_tried_again_less_and_less_often() -> None:
    async def told(world: World) -> None:
        world.answer = UpdateError("out of order")
        world.updater.point_at(ONE)
        await world.lives(64)
        assert [at for at, _ in world.sent] == [0, 1, 3, 7, 15, 31, 63]
        await world.lives(24 * 3600)
        times = [at for at, _ in world.sent]
        assert times[-1] - times[-2] == 900
        assert world.updater.state is NameState.FAILING
        assert world.updater.problem == f"{HOST} is not known to point at {ONE}: out of order"
        assert world.events == ["ddns-problem"]
        world.answer = None
        await world.lives(900)
        assert (world.updater.state, world.updater.problem) == (NameState.CURRENT, "")
        assert world.events == ["ddns-problem", "ddns-updated", "ddns-current"]

    story(told)


def test_a_provider_that_says_when_is_not_asked_before() -> None:
    async def told(world: World) -> None:
        world.answer = UpdateError("dnserr", LATER)
        world.updater.point_at(ONE)
        await world.lives(LATER * 3 + 1)
        assert [at for at, _ in world.sent] == [0, LATER, 2 * LATER, 3 * LATER]

    story(told)


def test_a_bug_costs_the_name_and_not_the_gateway() -> None:
    async def told(world: World) -> None:
        async def broken(address: str) -> None:
            raise KeyError(address)

        world.update = broken  # type: ignore[method-assign]
        world.updater.point_at(ONE)
        await world.lives()
        assert world.updater.problem.endswith(f"KeyError: {ONE!r}")
        world.update = lambda address: World.update(world, address)  # type: ignore[method-assign]
        await world.lives(LATER)
        assert world.updater.state is NameState.CURRENT

    story(told)


def test_what_a_person_has_to_put_right_is_tried_again_when_they_say_so() -> None:
    async def told(world: World) -> None:
        world.answer = UpdateError("badauth", NEVER)
        world.updater.point_at(ONE)
        await world.lives(12 * 3600)
        assert world.addresses == [ONE]
        assert world.updater.problem.endswith("badauth; put that right, then: vpnmasq reload")
        world.answer = None
        world.updater.hurry()
        await world.lives()
        assert world.updater.state is NameState.CURRENT

    story(told)


def test_an_update_that_does_not_appear_is_named_and_after_a_while_repeated() -> None:
    async def told(world: World) -> None:
        world.appears = False
        world.updater.point_at(ONE)
        await world.lives(200)
        assert world.addresses == [ONE]
        assert (
            world.updater.problem
            == f"{HOST} does not exist yet at its own servers, though {ONE} was registered"
        )
        world.zone = frozenset({OTHER})
        await world.lives(600)
        assert world.addresses == [ONE, ONE]
        assert world.updater.problem.startswith(f"{HOST} points at {OTHER}, which is somebody else's")
        world.zone = frozenset({ONE, OTHER})
        await world.lives(600)
        assert f"points at {OTHER}, which" in world.updater.problem

    story(told)


def test_our_address_before_is_not_called_somebody_elses() -> None:
    async def told(world: World) -> None:
        world.updater.point_at(ONE)
        await world.lives()
        world.appears = False
        world.updater.point_at(TWO)
        await world.lives()
        assert f"still points at {ONE}, our address before" in world.updater.problem

    story(told)


def test_a_name_that_somebody_changes_is_noticed_told_and_put_right() -> None:
    async def told(world: World) -> None:
        world.updater.point_at(ONE)
        await world.lives()
        world.zone = frozenset({OTHER})
        await world.lives(700)
        assert world.zone == frozenset({ONE})
        assert world.events[2:] == ["ddns-taken", "ddns-updated", "ddns-current"]

    story(told)


def test_servers_that_do_not_answer_are_no_reason_not_to_send_but_one_to_say_so() -> None:
    async def told(world: World) -> None:
        world.zone = UpdateError("no answer from 192.0.2.53")
        world.appears = False
        world.updater.point_at(ONE)
        await world.lives(3600)
        assert world.addresses == [ONE]
        assert world.updater.state is NameState.FAILING
        assert "no answer from 192.0.2.53" in world.updater.problem

    story(told)


def test_a_private_address_is_never_sent_and_never_passes_silently() -> None:
    async def told(world: World) -> None:
        world.updater.point_at("192.168.7.2", "192.168.7.2 is private (RFC 1918)")
        await world.lives(3600)
        assert world.sent == []
        assert world.updater.state is NameState.WAITING
        assert world.updater.problem == f"{HOST} is not updated: 192.168.7.2 is private (RFC 1918)"
        assert world.events == ["ddns-problem"]

    story(told)


def test_a_name_that_still_points_at_an_address_that_is_gone_is_named() -> None:
    async def told(world: World) -> None:
        world.updater.point_at(ONE)
        await world.lives()
        world.updater.point_at(None)
        await world.lives()
        text = f"{HOST} is not updated and still points at {ONE}: there is no public address"
        assert (world.updater.state, world.updater.problem) == (NameState.WAITING, text)

    story(told)
