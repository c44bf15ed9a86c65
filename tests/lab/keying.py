"""A guest whose IKE daemon gives its kernel the keys of tunnels: what is the same whichever daemon it is.

Every host has an address inside the tunnel on lo, so an answer to what is sent to it can only have come by
the tunnel.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tests.lab.hosts import Guest, Job
from tests.lab.machine import LabError
from tests.lab.traffic import equip


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What one host knows of a tunnel. ``far`` is an address, or ``%any`` for whoever knows the secret."""

    name: str
    far: str
    #: The names and inner addresses of both ends.
    own_id: str
    far_id: str
    own_inside: str
    far_inside: str
    #: Of IKE.
    version: int = 2
    #: What else the daemon's configuration is to say.
    more: str = ""


class Keying(ABC):
    """A host that runs an IKE daemon."""

    #: Which of Debian's daemons it is, as a directory of the cache.
    software: ClassVar[str]
    #: Where the daemon's log is.
    log: ClassVar[str]

    def __init__(self, host: Guest, inside: str) -> None:
        self.host, self.inside = host, inside
        self._tunnels: Sequence[Tunnel] = ()
        equip(host)
        # What is sent into a tunnel has the inner address as its source.
        host.sh(f"ip addr add {inside}/32 dev lo; ip route add 172.16.0.0/12 via {host.router} src {inside}")

    @abstractmethod
    def start(self, tunnels: Sequence[Tunnel] = ()) -> Job:
        """Begin to start the daemon with these tunnels, or those it had; it brings none of them up."""

    @abstractmethod
    def up(self, name: str) -> Job:
        """Begin to bring a tunnel up."""

    @abstractmethod
    def down(self, name: str) -> None:
        """Tear a tunnel down, telling the other end."""

    @abstractmethod
    def rekey(self, name: str, *, ike: bool = False) -> None:
        """Replace a tunnel's keys, of its data or of its IKE, before their time."""

    @abstractmethod
    def peers(self) -> str:
        """What the daemon says of its tunnels that stand, with the addresses of their ends."""

    @abstractmethod
    def die(self) -> None:
        """End the daemon as a power failure does: nobody is told, and the kernel forgets all keys."""

    def spis(self) -> set[str]:
        """The SPIs that its kernel has keys for."""
        return set(re.findall(r"proto esp spi (0x\w+)", self.host.sh("ip xfrm state", check=True).output))

    def evidence(self) -> str:
        """Return what the daemon logged last."""
        return self.host.sh(f"tail -n 40 {self.log}").output


def finished(*jobs: tuple[Keying, Job]) -> None:
    """Wait until what was begun has succeeded.

    Raises:
        LabError: it has not; the text has the daemon's log.
    """
    for one, job in jobs:
        result = job.finish(40)
        if not result.ok:
            raise LabError(f"{one.host.name}: exit {result.status}: {result.output}\n{one.evidence()}")
