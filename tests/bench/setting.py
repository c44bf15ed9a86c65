"""What all measures share: how long to look, the generator, and what is to be closed at the end."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import throughput
from tests.bench.contenders import Contender
from tests.bench.generator import Generator
from tests.bench.lanes import Direction, Ends, Lane

#: Sessions of the throughput measures, and those that a crowd is compared with.
FEW: Final = 10
FIRST_CLIENT: Final = "10.1.0.1"
#: Octets of the packets, with their IP headers.
SIZES: Final = (64, 1400)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look: rounds and seconds of a sample, sessions, set-ups."""

    rounds: int
    seconds: float
    many: int
    setups: int
    probes: float
    placements: bool


FULL: Final = Effort(rounds=3, seconds=0.4, many=10_000, setups=1_500, probes=3.0, placements=True)
QUICK: Final = Effort(rounds=1, seconds=0.3, many=1_000, setups=300, probes=1.0, placements=False)


@dataclass(frozen=True, slots=True)
class Setting:
    """``stack`` closes what is opened; ``directory`` is for files; ``live``: loads are live.py's."""

    effort: Effort
    load: Generator
    stack: contextlib.ExitStack
    directory: Path
    live: bool = False

    def lane(self, contender: Contender, ends: Sequence[Ends], direction: Direction, size: int) -> Lane:
        """A prepared load through a contender."""
        lane = Lane(self.load, contender, ends, direction, size, live=self.live)
        self.stack.callback(lane.close)
        return lane

    def peaks(
        self, through: Sequence[tuple[Contender, Sequence[Ends]]], direction: Direction, size: int
    ) -> list[throughput.Peak]:
        """The peak of each contender with its sessions."""
        ways = [self.lane(contender, ends, direction, size) for contender, ends in through]
        return throughput.peaks(ways, self.effort.rounds, self.effort.seconds)
