"""The fast path that carries nothing: everything passes user space."""

from collections.abc import Set
from dataclasses import dataclass

from protocols.actions import Shortcut, Side
from protocols.offload import Carried
from relay.fastpath import Look, Prefix
from relay.fastpath.syscall import let_go


@dataclass(slots=True)
class NullFastPath:
    """Implements FastPath; ``reason`` says why there is no other."""

    reason: str
    refused: int = 0

    @property
    def drivers(self) -> dict[str, str]:
        """None runs a program."""
        return {}

    @property
    def driver_links(self) -> dict[int, int]:
        """None holds a program."""
        return {}

    def inherit(self, links: dict[int, int]) -> None:
        """What another process had in drivers goes."""
        let_go(links.values())

    def __len__(self) -> int:
        return 0

    def attach(self, name: str, side: Side) -> None:
        """Nothing to attach."""

    def detach(self, name: str) -> None:
        """Nothing to detach."""

    def pptp_served(self, *, served: bool) -> None:
        """Nothing to keep for calls."""

    def rerouted(self, where: Set[Prefix] | None = None) -> None:
        """Nothing to take elsewhere."""

    def neighbours_changed(self, changed: set[tuple[int, int]] | None) -> None:
        """Nothing to reach otherwise."""

    def look_at_ways(self) -> None:
        """Nothing to reach otherwise."""

    def follow(self) -> bool:
        """Nothing to take elsewhere."""
        return False

    def prepare(self, number: int, shortcut: Shortcut) -> bool:
        """Never."""
        return False

    def offload(self, number: int) -> None:
        """Nothing is prepared."""

    def unload(self, number: int) -> None:
        """Nothing to unload."""

    def carried(self, number: int) -> Carried | None:
        """Nothing."""
        return None

    @property
    def portion(self) -> float:
        """All of none."""
        return 1.0

    def look(self) -> Look:
        """There are none."""
        return Look((), 1.0)

    def leave(self) -> None:
        """Nothing to leave to others."""

    def close(self) -> None:
        """Nothing to leave."""
