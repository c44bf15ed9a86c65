"""The table of flows: both sides find the same, in plain memory and in the kernel's."""

import mmap
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from protocols.actions import Kind, Side
from protocols.addr import Ip4
from relay.fastpath import abi, table
from relay.fastpath.table import Table
from tests.bpf.flows import SHORTCUTS, packet
from tests.bpf.kernel import PASS, REDIRECT, loaded

SEED: Final = (0x0123456789ABCDEF, 0xFEDCBA9876543210)


class Memory:
    """A table in memory of its own, and how the kernel searches it."""

    def __init__(self, most: int) -> None:
        self.descriptor = os.memfd_create("flows")
        os.truncate(self.descriptor, table.lines(most) * abi.FLOW_SIZE)
        self.now = 1000.0
        self.table = Table(self.descriptor, most, SEED, lambda: self.now)
        self.memory = mmap.mmap(self.descriptor, table.lines(most) * abi.FLOW_SIZE)

    def reach(self, home: int) -> int:
        found: int = abi.REACH.unpack_from(self.memory, home * abi.FLOW_SIZE + abi.REACH_AT)[0]
        return found

    def key(self, line: int) -> bytes:
        at = line * abi.FLOW_SIZE
        return self.memory[at : at + abi.KEY.size]

    def find(self, key: bytes) -> int | None:
        """The line that a packet with this key finds (bpf/table.h)."""
        home = self.table._home(key)
        lines = range(home, home + self.reach(home) + 1)
        return next((line for line in lines if self.key(line) == key), None)

    def close(self) -> None:
        self.table.close()
        self.memory.close()
        os.close(self.descriptor)


@pytest.fixture
def small() -> Iterator[Memory]:
    made = Memory(most=4)
    yield made
    made.close()


def key(number: int) -> bytes:
    return abi.key(replace(SHORTCUTS["esp"], label=number))


LEAVES: Final = abi.leaves(SHORTCUTS["esp"], 1)


# -- places ----------------------------------------------------------------------------------------------


def test_a_line_rests_before_it_is_used_anew(small: Memory) -> None:
    first = small.table.take(key(1), 1)
    assert first is not None
    small.table.free(first)
    small.now += 0.099
    second = small.table.take(key(1), 1)
    assert second not in (None, first)
    small.now += 0.002
    assert small.table.take(key(1), 1) == first


def test_one_that_rests_is_better_than_none(small: Memory) -> None:
    taken = [small.table.take(key(1), 1) for _ in range(abi.MOST_REACH + 1)]
    assert None not in taken
    assert small.table.take(key(1), 1) is None
    resting = taken[7]
    assert resting is not None
    small.table.free(resting)
    assert small.table.take(key(1), 1) == resting
    small.now += 1.0
    assert small.table.take(key(1), 1) is None


def test_a_search_goes_no_farther_than_it_must(small: Memory) -> None:
    """Three flows with one home: when the last one has gone, so has the way to it."""
    lines = [small.table.take(key(1), 1) for _ in range(3)]
    home = small.table._home(key(1))
    assert lines == [home, home + 1, home + 2]
    assert small.reach(home) == 2
    small.table.free(home + 1)
    assert small.reach(home) == 2
    small.table.free(home + 2)
    assert small.reach(home) == 0
    small.now += 1.0
    assert small.table.take(key(1), 1) == home + 1
    assert small.reach(home) == 1


def test_a_hidden_flow_is_found_no_more_and_keeps_its_counters(small: Memory) -> None:
    line = small.table.take(key(1), 1)
    assert line is not None
    small.table.fill(line, LEAVES)
    assert small.find(key(1)) is None
    small.table.show(line, key(1))
    assert small.find(key(1)) == line
    at = line * abi.FLOW_SIZE + abi.COUNTERS_AT
    small.memory[at : at + abi.COUNTERS.size] = abi.COUNTERS.pack(3, 400, 5_000_000_000, 6)
    small.table.hide(line)
    assert small.find(key(1)) is None
    assert small.table.carried(line) == (3, 400, 5.0, 6)


def test_nothing_is_mapped_before_there_is_a_flow() -> None:
    unused = Table(-1, 4, SEED)
    assert unused.look() == ([], 1.0)
    unused.close()


# -- a slow model ----------------------------------------------------------------------------------------


class AgainstADict(RuleBasedStateMachine):
    """Flows come and go, and time passes: what is there is found, and nothing else."""

    flows = Bundle("flows")
    NUMBERS: Final = range(64)

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(most=16)
        self.lines: dict[int, int] = {}

    @rule(number=st.sampled_from(NUMBERS))
    def comes(self, number: int) -> None:
        if number in self.lines:
            return
        line = self.memory.table.take(key(number), number)
        assert line is not None
        assert line not in self.lines.values()
        self.memory.table.fill(line, LEAVES)
        self.memory.table.show(line, key(number))
        self.lines[number] = line

    @rule(number=st.sampled_from(NUMBERS))
    def goes(self, number: int) -> None:
        line = self.lines.pop(number, None)
        if line is not None:
            self.memory.table.hide(line)
            self.memory.table.free(line)

    @rule(seconds=st.sampled_from((0.05, 0.2)))
    def passes(self, seconds: float) -> None:
        self.memory.now += seconds

    @invariant()
    def each_is_found(self) -> None:
        assert {n: self.memory.find(key(n)) for n in self.NUMBERS if n in self.lines} == self.lines
        assert not any(self.memory.find(key(n)) for n in self.NUMBERS if n not in self.lines)

    @invariant()
    def no_search_is_longer_than_it_must_be(self) -> None:
        farthest: dict[int, int] = {}
        for number, line in self.lines.items():
            home = self.memory.table._home(key(number))
            farthest[home] = max(farthest.get(home, 0), line - home)
        homes = range(table.homes(16))
        assert {home: self.memory.reach(home) for home in homes if self.memory.reach(home)} == {
            home: far for home, far in farthest.items() if far
        }

    def teardown(self) -> None:
        self.memory.close()


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


# -- the kernel ------------------------------------------------------------------------------------------


def test_the_kernel_finds_all_flows_of_a_full_table_and_none_that_has_gone() -> None:
    """Keys that differ in every part of them; packets find their own flow and count for it."""
    chance = random.Random(1)
    most = 2000
    labels = {"gre": 0x10000, "esp": 1 << 32, "udp": 1 << 32, "ip": 1}
    shortcuts = [
        replace(
            SHORTCUTS[kind],
            sender=Ip4(chance.getrandbits(32)),
            addressed=Ip4(chance.getrandbits(32)),
            label=chance.randrange(labels[kind]),
            protocol=chance.choice((47, 50)) if kind == "ip" else SHORTCUTS[kind].protocol,
        )
        for kind in chance.choices(tuple(labels), k=most)
    ]
    with loaded(most=most) as program:
        numbers = [program.knows(one) for one in shortcuts]
        for number in numbers[::2]:
            program.fastpath.unload(number)
        for turn, (number, one) in enumerate(zip(numbers, shortcuts, strict=True)):
            here = turn % 2 == 1
            verdict = program.run(Side.LAN, _packet(one)).verdict
            assert verdict == (REDIRECT if here else PASS), one
            if here:
                carried = program.fastpath.carried(number)
                assert carried is not None
                assert carried[0] == 1, one
        farthest = max(line - home for line, home in program.fastpath._table._home_of.items())
        assert 0 < farthest < abi.MOST_REACH


def _packet(shortcut: Any) -> bytes:
    if shortcut.kind is Kind.IP:
        head = "00000800" if shortcut.protocol == 47 else "0a0b0c0d"
        ends = {"src": shortcut.sender, "dst": shortcut.addressed}
        return packet("ip", bytes.fromhex(head) + bytes(20), protocol=shortcut.protocol, **ends)
    kind = {47: "gre", 50: "esp", 17: "udp"}[shortcut.protocol]
    plain = bytearray(packet(kind, src=shortcut.sender, dst=shortcut.addressed))
    if kind == "gre":
        plain[26:28] = shortcut.label.to_bytes(2)
    else:
        plain[20:24] = shortcut.label.to_bytes(4)
    return bytes(plain)


def test_a_packet_of_zeros_finds_no_free_line() -> None:
    zeros = packet("ip", protocol=0, src=Ip4(0), dst=Ip4(0))
    with loaded() as program:
        program.knows(SHORTCUTS["ip"])
        assert program.run(Side.LAN, zeros).verdict == PASS
        assert all(not program.fastpath._table.carried(line)[0] for line in range(table.lines(64)))
