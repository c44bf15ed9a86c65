"""Which flows have carried something, against a slow model: flows come, go and carry, in any order."""

from fractions import Fraction
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from protocols.offload import Carried
from relay.fastpath.parts import Parts

LINES: Final = 64
#: Small, so that parts are split and joined all the time.
MOST: Final = 4
IDLE: Final = [[0] * LINES for _ in range(4)]
SOME: Final = st.lists(st.integers(0, LINES - 1), unique=True)


class AgainstADict(RuleBasedStateMachine):
    """A flow's number is its line's and 1000."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = Parts(MOST)
        self.counters = [[0] * LINES for _ in range(4)]
        #: By line, packets; and those that were told.
        self.flows: dict[int, int] = {}
        self.told: dict[int, int] = {}

    @rule(lines=SOME)
    def come(self, lines: list[int]) -> None:
        for line in [line for line in lines if line not in self.flows]:
            for each in self.counters:
                each[line] = 0
            self.parts.put(line, 1000 + line)
            self.flows[line] = self.told[line] = 0

    @rule(lines=SOME)
    def go(self, lines: list[int]) -> None:
        for line in lines:
            if self.flows.pop(line, None) is not None:
                self.parts.drop(line)

    @rule(lines=SOME)
    def carry(self, lines: list[int]) -> None:
        for line in self.flows.keys() & lines:
            self.flows[line] += 1
            packets = self.flows[line]
            for each, value in zip(self.counters, (packets, 100 * packets, 5_000_000_000, 7), strict=True):
                each[line] = value

    @rule()
    def a_round_tells_of_each_that_has_carried_and_of_no_other(self) -> None:
        changes: list[tuple[int, Carried]] = []
        looked = Fraction(0)
        while looked < 1:
            look = self.parts.look(self.counters)
            assert len(look.changes) < 2 * MOST
            changes += look.changes
            looked += Fraction(look.share).limit_denominator(LINES)
        expected = [
            (1000 + line, (packets, 100 * packets, 5.0, 7))
            for line, packets in self.flows.items()
            if packets != self.told[line]
        ]
        assert looked >= 1
        assert sorted(changes) == sorted(expected)
        self.told = dict(self.flows)


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_there_are_few_parts_again_when_most_flows_have_gone() -> None:
    parts = Parts(MOST)
    for line in range(LINES):
        parts.put(line, line)
    assert parts.look(IDLE).share < 1
    for line in range(2, LINES - 2):
        parts.drop(line)
    assert parts.look(IDLE).share == 1
