"""Handing flows over to the kernel: in which order, and what happens meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from protocols.actions import Offload, Shortcut
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
