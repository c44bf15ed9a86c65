"""Reading back: a round over all flows takes a second, and little of it."""

import time
from typing import Final

from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4
from protocols.offload import Carried
from tests.bpf.flows import CLIENT, ESP_DATA, GATEWAY, PEER, packet
from tests.bpf.kernel import PASS, REDIRECT, Program, loaded

#: Both ways of as many sessions as there may be.
FLOWS: Final = 2 * 65536


def shortcut(index: int) -> Shortcut:
    return Shortcut(
        Kind.ESP, 50, Side.LAN, CLIENT, PEER, 0x1000 + index, GATEWAY, Ip4(PEER + 1), 0x1000 + index
    )


def carry(program: Program, index: int) -> None:
    """A packet of a flow comes."""
    data = (0x1000 + index).to_bytes(4) + ESP_DATA[4:]
    assert program.run(Side.LAN, packet("esp", data)).verdict == REDIRECT


def looked(program: Program) -> list[tuple[int, Carried]]:
    """What a round of looks brings."""
    found: list[tuple[int, Carried]] = []
    share = 0.0
    while share < 1:
        look = program.fastpath.look()
        found += look.changes
        share += look.share
    return found


def test_there_is_room_for_all_and_each_has_its_turn_within_a_second() -> None:
    with loaded(most=FLOWS) as program:
        for index in range(FLOWS):
            assert program.fastpath.prepare(index, shortcut(index))
            program.fastpath.offload(index)
        assert not program.fastpath.prepare(FLOWS, shortcut(FLOWS))
        assert program.fastpath.refused == 1
        busy = (0, FLOWS // 2, FLOWS - 1)
        for index in busy:
            carry(program, index)
        began = time.process_time()
        seen = [number for number, _ in looked(program)]
        spent = time.process_time() - began
        assert sorted(seen) == list(busy)
        assert looked(program) == []
        assert spent < 0.5, spent


def test_a_flow_counts_from_zero_where_another_one_was() -> None:
    with loaded(most=1) as program:
        for index in range(100):  # more than there are lines
            assert program.fastpath.prepare(index, shortcut(0))
            program.fastpath.offload(index)
            carry(program, 0)
            carry(program, 0)
            seen = {number: carried[:2] for number, carried in looked(program)}
            assert seen == {index: (2, 2 * 68)}
            program.fastpath.unload(index)
            assert program.run(Side.LAN, packet("esp", (0x1000).to_bytes(4) + ESP_DATA[4:])).verdict == PASS
