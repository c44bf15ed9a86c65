"""ESP of unknown SPIs as fast as the generator can, and what it leaves of those who have tunnels."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocols.addr import parse_ip, show_ip
from relay.cli.client import Client, Document
from tests.bench.contenders import Contender
from tests.bench.lanes import Direction, Sample
from tests.bench.packets import EspFlow
from tests.bench.report import Result, Section, thousands
from tests.bench.setting import SIZES, Setting
from tests.bench.throughput import Peak
from tests.bench.topology import GATEWAY_WAN, IPSEC_PEERS
from tests.bench.tunnels import Pair

#: Share of their throughput that sessions keep.
KEPT: Final = 0.8
#: Octets that the daemon may grow by: what any load makes Python's allocator keep.
GROWTH: Final = 1 << 20
#: Frames of one round of the generator: every stranger's has an SPI of its own.
_FRAMES: Final = 20_000
#: Loads of the tunnels, as shares of their peak.
_LOADS: Final = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody outside who sends what nobody asked for."""

    what: str
    address: str
    spi: int

    @property
    def inbound(self) -> EspFlow:
        """What he sends."""
        return EspFlow(self.address, GATEWAY_WAN, self.spi, 1)

    @property
    def outbound(self) -> EspFlow:
        """What nobody sends."""
        return EspFlow(GATEWAY_WAN, self.address, self.spi, 1)


@dataclass(frozen=True, slots=True)
class Spray:
    """A load of tunnels, alone and under a spray; and what the daemon holds besides."""

    alone: Sample
    under: Sample
    #: Packets per second of strangers, and of the tunnels among them.
    sprayed: float
    own: float
    sessions: int
    octets: int

    @property
    def kept(self) -> float:
        """The share of what the tunnels had alone, as far as they could send that much under the spray."""
        return self.under.received / min(self.alone.received, self.own)


def section(setting: Setting, contender: Contender, tunnels: Sequence[Pair], inbound: Peak) -> Section:
    """The table: kinds of strangers, loads of the tunnels."""
    table = Section(
        "spray",
        "ESP of unknown SPIs as fast as it can be sent, 64 octets, inbound",
        ["who sends it", "sprayed", "tunnels: alone", "sent", "received", "kept", "sessions", "memory"],
    )
    peak, line = inbound.best().received, inbound.flat_out().offered
    nobody = parse_ip(IPSEC_PEERS.split("/")[0]) + 0x7F01
    for what, address, judged in (
        ("whom no rule names", "198.51.100.7", True),
        ("a possible peer", show_ip(nobody), True),
        ("as a tunnel's peer", tunnels[0].peer, False),
    ):
        for load in _LOADS:
            measured = _measure(setting, contender, tunnels, (what, address), load * peak, line)
            table.results.append(_row(what, load, measured, judged=judged))
    table.notes.append(
        f"target: strangers leave {KEPT:.0%}, no session appears, and memory does not grow; "
        "tunnels have half and all of their peak to carry, or what the generator has left for them"
    )
    return table


def _measure(
    setting: Setting,
    contender: Contender,
    tunnels: Sequence[Pair],
    stranger: tuple[str, str],
    rate: float,
    line: float,
) -> Spray:
    """``rate``: packets per second of the tunnels; ``line``: what the generator can send in all."""
    own = setting.lane(contender, tunnels, Direction.INBOUND, SIZES[0])
    number = random.Random(1)
    share = min(rate / line, 0.9)
    mixed: list[Pair | Stranger] = []
    for at in range(_FRAMES):
        if int((at + 1) * share) > int(at * share):
            mixed.append(tunnels[at % len(tunnels)])
        else:
            mixed.append(Stranger(*stranger, 0x30000000 + number.randrange(1 << 28)))
    both = setting.lane(contender, mixed, Direction.INBOUND, SIZES[0])
    before, resident = _status(contender), contender.resident()
    alone, under = [], []
    for _ in range(setting.effort.rounds):
        alone.append(own.sample(rate, setting.effort.seconds))
        under.append(both.sample(None, setting.effort.seconds))
    after = _status(contender)
    middle = Sample.middle(under)
    return Spray(
        Sample.middle(alone),
        middle,
        middle.offered * (1 - share),
        middle.offered * share,
        sum(after["sessions"].values()) - sum(before["sessions"].values()),
        contender.resident() - resident,
    )


def _row(what: str, load: float, spray: Spray, *, judged: bool) -> Result:
    met = spray.kept >= KEPT and spray.sessions <= 0 and spray.octets <= GROWTH
    return Result(
        [
            what,
            thousands(spray.sprayed),
            thousands(spray.alone.received),
            thousands(spray.own),
            thousands(spray.under.received),
            f"{spray.kept:.0%}",
            f"{spray.sessions:+d}",
            f"{spray.octets / 1024:+.0f} KiB",
        ],
        {
            "sender": what,
            "load": load,
            "sprayed": spray.sprayed,
            "alone": spray.alone.received,
            "own": spray.own,
            "under": spray.under.received,
            "kept": spray.kept,
            "sessions": spray.sessions,
            "octets": spray.octets,
        },
        met if judged else None,
    )


def _status(contender: Contender) -> Document:
    assert contender.socket is not None
    return Client(str(contender.socket)).get("/v1/status")[1]
