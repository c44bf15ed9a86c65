"""Reading back: a round over all flows takes a second, and little of it."""

import time
from typing import Final

from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4
from relay.fastpath import abi
from relay.fastpath.kernel import LOOKS
from tests.bpf.flows import CLIENT, ESP_DATA, GATEWAY, PEER, packet
from tests.bpf.kernel import REDIRECT, Program, loaded

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


def test_every_flow_has_its_turn_within_a_second() -> None:
    with loaded(most=FLOWS) as program:
        busy = (0, FLOWS // 2, FLOWS - 1)
        for index in busy:
            program.fastpath._used = index  # as if there were one in every slot before
            assert program.fastpath.offload(index, shortcut(index))
            carry(program, index)
        began = time.process_time()
        seen = [number for _ in range(LOOKS) for number, _ in program.fastpath.changes()]
        spent = time.process_time() - began
        assert sorted(seen) == list(busy)
        assert [number for _ in range(LOOKS) for number, _ in program.fastpath.changes()] == []
        assert spent < 0.5, spent


def test_slots_are_mapped_as_they_are_needed_and_what_was_counted_before_stays() -> None:
    most = 3 * 4096
    with loaded(most=most) as program:
        fastpath, mapped = program.fastpath, []
        for index, used in enumerate((0, 4095, 4096, most - 1)):
            fastpath._used = used  # as if there were one in every slot before
            assert fastpath.offload(index, shortcut(index))
            carry(program, 0)
            carry(program, index)
            mapped.append(len(fastpath._slots.memory) // abi.SLOT_SIZE)
        assert mapped == [4096, 4096, 8192, most]
        assert {number: seen[0] for number, seen in fastpath.changes()} == {0: 5, 1: 1, 2: 1, 3: 1}
