"""A guest whose IKE daemon gives its kernel the keys of tunnels: what is the same whichever daemon it is.

Every host has an address inside the tunnel on lo, so an answer to what is sent to it can only have come by
the tunnel.
"""

import re
from typing import ClassVar

from tests.lab.hosts import Guest, Job
from tests.lab.machine import LabError
from tests.lab.traffic import equip


class Keying:
    """A host that runs an IKE daemon."""

    #: Where the daemon's log is.
    log: ClassVar[str]

    def __init__(self, host: Guest, inside: str) -> None:
        self.host, self.inside = host, inside
        equip(host)
        # What is sent into a tunnel has the inner address as its source.
        host.sh(f"ip addr add {inside}/32 dev lo; ip route add 172.16.0.0/12 via {host.router} src {inside}")

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
