"""The fast path: flows that the kernel carries without us.

    abi       what the program in the kernel and we share
    bpf/      the program (C), built when the package is (contrib/build)
    drivers   has drivers run it as well, if that is wanted; netdev: what they can
    handover  moves flows between the sockets and the kernel
    kernel    the fast path itself
    libbpf    loads the program; the only file that knows libbpf; syscall: bpf(2) itself
    links     attaches it to interfaces; filters: whether others have, too
    netlink   questions to the kernel
    null      the twin that carries nothing, and says why
    parts     which of them have carried something
    table     where flows lie in memory that we and the kernel share
    routes    where a flow's packets leave
    ways      … and follows that when routes change

The core decides which flows (protocols.offload); here is how.
"""

from collections.abc import Sequence, Set
from typing import NamedTuple, Protocol

from protocols.actions import Shortcut, Side
from protocols.offload import Carried

#: Destinations that begin with the same bits: how many of them, and which.
Prefix = tuple[int, int]


class Look(NamedTuple):
    """What a look at some flows has shown."""

    #: Those that have carried something since they were looked at last, and what in all.
    changes: Sequence[tuple[int, Carried]]
    #: Of all flows, how many were looked at.
    share: float


class FastPath(Protocol):
    """Carries flows. All methods are for the loop's thread and do not block."""

    @property
    def reason(self) -> str:
        """Why it carries nothing; empty when it does."""

    @property
    def refused(self) -> int:
        """Flows that it had no room for."""

    @property
    def drivers(self) -> dict[str, str]:
        """By interface whose driver is to look at packets itself, why it does not; empty where it does."""

    @property
    def driver_links(self) -> dict[int, int]:
        """By interface, the descriptor that holds the program in its driver."""

    def inherit(self, links: dict[int, int]) -> None:
        """Use drivers as another process has before us: these are ours, copies of its ``driver_links``."""

    def __len__(self) -> int:
        """How many flows it carries now."""

    def attach(self, name: str, side: Side) -> None:
        """Look at the packets that arrive on an interface; once more when the interface was replaced.

        Raises:
            KernelError: the kernel refuses.
        """

    def detach(self, name: str) -> None:
        """Look at the packets of an interface no longer."""

    def pptp_served(self, *, served: bool) -> None:
        """Whether rules are for PPTP: then no forward has GRE of its kind. Until it is said, they are."""

    def rerouted(self, where: Set[Prefix] | None = None) -> None:
        """Routes have changed, to these destinations: ``follow`` is to be called until it is through.

        None: rules or links have changed, or what else any route may follow.
        """

    def neighbours_changed(self, changed: set[tuple[int, int]] | None) -> None:
        """So have neighbours, by interface and address; None: any may have."""

    def look_at_ways(self) -> None:
        """See whether packets are to leave otherwise for a reason of which the kernel gives no word."""

    def follow(self) -> bool:
        """Take some flows to their new ways; whether there are others left."""

    def prepare(self, number: int, shortcut: Shortcut) -> bool:
        """Have everything ready for a flow; False when there is no room for it."""

    def offload(self, number: int) -> None:
        """Carry it from now on."""

    def unload(self, number: int) -> None:
        """Carry it no longer, if it was carried or prepared."""

    def carried(self, number: int) -> Carried | None:
        """What a flow has carried so far; None if it is not carried."""

    @property
    def portion(self) -> float:
        """Of all flows, how many a look is at, at least."""

    def look(self) -> Look:
        """Look at some of the flows, in less than a millisecond; all have their turn."""

    def leave(self) -> None:
        """Let another process's fast path have the interfaces, so that we carry nothing more."""

    def close(self) -> None:
        """Leave the kernel as it was."""
