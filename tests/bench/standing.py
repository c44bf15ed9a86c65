"""A gateway of the fast path's bench with its sessions of each protocol, all of which stand at once."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocols.addr import parse_ip, show_ip
from tests.bench.callers import Callers
from tests.bench.contenders import Contender
from tests.bench.lanes import Ends
from tests.bench.setting import FIRST_CLIENT
from tests.bench.topology import PEERS
from tests.bench.tunnels import AT_ONCE, Both, pairs, persistent

#: Flows of the tables. Fewer are the first of the most.
FLOWS: Final = (1, 64, 4096)
#: With so many the rest is measured.
FEW: Final = 64
PROTOCOLS: Final = ("GRE", "ESP", "UDP 4500")
#: Sessions are set up in waves that end here. netfilter keeps two expectations of a call until its first
#: packet of GRE, and 4096 in all (nf_conntrack_expect_max), so no wave has more than a thousand.
WAVES: Final = (64, 1024, 2048, 3072, 4096)
#: Clients of ESP in UDP: others than those of the rest, and all with one peer, which sees a port of each.
_NATT_CLIENT: Final = parse_ip("10.1.32.1")


@dataclass(slots=True)
class Standing:
    """A contender, its sessions by protocol, and why there are not more of them.

    ``callers``: a process for the ends of this contender's calls alone: two files for each are open there.
    """

    name: str
    contender: Contender
    callers: Callers
    sides: Both
    sessions: dict[str, list[Ends]] = field(default_factory=dict)
    #: By protocol, what went wrong last.
    reasons: dict[str, str] = field(default_factory=dict)

    def set_up(self) -> None:
        """Sessions of each protocol, up to the most that are wanted or this contender can have."""
        begin: dict[str, Callable[[int, int], Sequence[Ends]]] = {
            "GRE": self._calls,
            "ESP": self._pairs,
            "UDP 4500": self._tunnels,
        }
        for protocol in PROTOCOLS:
            sessions = self.sessions.setdefault(protocol, [])
            for first, end in itertools.pairwise((0, *WAVES)):
                try:
                    begun = begin[protocol](first, end - first)
                    self.sides.check(begun)
                except RuntimeError as error:
                    self.reasons[protocol] = f"no more than {len(sessions)} sessions: {error}"
                    break
                sessions += begun

    def ready(self, protocol: str, flows: int) -> Sequence[Ends] | None:
        """So many sessions, each of which has just let a packet pass both ways; None: not so many stand."""
        sessions = self.sessions[protocol][:flows]
        if len(sessions) < flows:
            return None
        try:
            self.sides.check(sessions)
        except RuntimeError as error:
            self.reasons[protocol] = str(error)
            return None
        return sessions

    def _calls(self, first: int, count: int) -> Sequence[Ends]:
        client = show_ip(parse_ip(FIRST_CLIENT) + first)
        done = self.callers.establish(self.contender.row, client, count)
        if len(done.calls) < count:
            raise RuntimeError(f"{len(done.calls)} of {count} calls stand: {'; '.join(done.errors[:2])}")
        return done.calls

    def _pairs(self, first: int, count: int) -> Sequence[Ends]:
        client = show_ip(parse_ip(FIRST_CLIENT) + first)
        made = pairs(client, count, seen=self.contender.name == "plain")
        for at in range(0, count, AT_ONCE):
            persistent(functools.partial(self.sides.establish, made[at : at + AT_ONCE]))
        return made

    def _tunnels(self, first: int, count: int) -> Sequence[Ends]:
        clients = [show_ip(_NATT_CLIENT + number) for number in range(first, first + count)]
        return self.sides.natt(clients, PEERS[0], first + 1)
