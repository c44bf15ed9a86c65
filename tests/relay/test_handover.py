"""Handing flows over to the kernel: in which order, and what happens meanwhile."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, Final

import pytest

from protocols.actions import Offload, Shortcut
from protocols.offload import Carried
from relay.fastpath import Look
from relay.fastpath.handover import Handover
from relay.fastpath.null import NullFastPath
from tests.bpf.flows import SHORTCUTS

ESP: Final = SHORTCUTS["esp"]


class Kernel(NullFastPath):
    """Notes what it is told; has room for ``room`` flows."""

    def __init__(self, told: list[str], room: int) -> None:
        super().__init__("")
        self.told, self.room = told, room

    def prepare(self, number: int, shortcut: Shortcut) -> bool:
        self.told.append(f"prepare {number}")
        self.room -= 1
        return self.room >= 0

    def offload(self, number: int) -> None:
        self.told.append(f"offload {number}")

    def unload(self, number: int) -> None:
        self.told.append(f"unload {number}")


def handed(*flows: int, room: int = 9, meanwhile: Callable[[Handover], None] = lambda _: None) -> list[str]:
    """What comes of flows that are handed over in one turn; ``meanwhile`` is what the last packets bring."""
    told: list[str] = []
    made: list[Handover] = []

    class Gateway:
        def offload_refused(self, flow: int) -> None:
            told.append(f"refused {flow}")

    def drain() -> None:
        told.append("drain")
        if told.count("drain") == 1:
            meanwhile(made[0])

    gateway: Any = Gateway()

    async def run() -> None:
        with Handover(Kernel(told, room), gateway, drain, carried=lambda _: None, required=False) as handover:
            made.append(handover)
            for flow in flows:
                handover.offload(Offload(flow, ESP))
            for _ in range(3):
                await asyncio.sleep(0)

    asyncio.run(run())
    return told


def test_between_the_sockets_last_packet_and_the_kernels_first_nothing_takes_time() -> None:
    assert handed(1, 2) == ["prepare 1", "prepare 2", "drain", "offload 1", "offload 2"]


def test_a_flow_without_room_stays_with_the_sockets() -> None:
    assert handed(1, 2, room=1) == ["prepare 1", "prepare 2", "drain", "offload 1", "refused 2"]


def test_one_that_the_last_packets_have_ended_is_not_carried() -> None:
    assert handed(1, 2, meanwhile=lambda handover: handover.unload(1)) == [
        "prepare 1",
        "prepare 2",
        "drain",
        "unload 1",
        "offload 2",
    ]


def test_one_that_the_last_packets_have_brought_comes_next() -> None:
    assert handed(1, meanwhile=lambda handover: handover.offload(Offload(2, ESP))) == [
        "prepare 1",
        "drain",
        "offload 1",
        "prepare 2",
        "drain",
        "offload 2",
    ]


# -- reading back ----------------------------------------------------------------------------------------


class Hours(selectors.SelectSelector):
    """Where nothing ever comes, and waiting takes no time but that of the loop."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


def looks(
    share: float, *, seconds: float, takes: float = 0.0, more: tuple[float, float] | None = None
) -> list[float]:
    """When it is looked, each time at a share of the flows, with which the core is ``takes`` seconds busy.

    ``more``: when a flow comes, by which the share is this from then on.
    """
    hours = Hours()
    loop = asyncio.SelectorEventLoop(hours)
    loop.time = lambda: hours.now  # type: ignore[method-assign]
    at: list[float] = []

    class Counting(NullFastPath):
        portion = share

        def prepare(self, number: int, shortcut: Shortcut) -> bool:
            return True

        def look(self) -> Look:
            at.append(round(hours.now - 1000.0, 3))
            return Look([(1, (2, 200, 5.0, 0))], self.portion)

    class Gateway:
        def counters_seen(self, changes: list[tuple[int, Carried]]) -> None:
            assert changes == [(1, (2, 200, 5.0, 0))]
            hours.now += takes

    told: list[Carried] = []
    gateway: Any = Gateway()

    async def run() -> None:
        fastpath = Counting("")
        with Handover(fastpath, gateway, lambda: None, carried=told.extend, required=False) as handover:
            if more is not None:
                when, then = 1000.0 + more[0], more[1]
                loop.call_at(when, setattr, fastpath, "portion", then)
                loop.call_at(when, handover.offload, Offload(1, ESP))
            await asyncio.sleep(seconds)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())
    assert told == [(2, 200, 5.0, 0)] * len(at)
    return at


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, [1.0, 2.0]), (0.25, [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75])]
)
def test_all_flows_are_looked_at_within_a_second(share: float, expected: list[float]) -> None:
    assert looks(share, seconds=2.9) == expected


def test_what_a_look_takes_makes_no_round_longer() -> None:
    assert looks(0.25, seconds=1.9, takes=0.01) == [1.0, 1.25, 1.5, 1.75]


def test_looks_that_were_missed_are_not_made_up_for() -> None:
    assert looks(0.25, seconds=1.8, takes=0.3) == [1.0, 1.3, 1.6, 1.9]


def test_flows_that_come_after_a_look_have_their_turn_within_a_second() -> None:
    assert looks(1.0, seconds=1.9, more=(0.1, 0.25)) == [0.35, 0.6, 0.85, 1.1, 1.35, 1.6, 1.85]


def test_a_flow_that_comes_makes_no_look_later() -> None:
    assert looks(0.5, seconds=2.4, more=(1.4, 0.5)) == [1.0, 1.5, 2.0]
