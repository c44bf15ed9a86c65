"""Traffic through a tunnel: pings, and bulk transfers whose octets are compared at both ends."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.hosts import Host, Job
from tests.lab.machine import LabError

#: A Python of this machine, which all hosts see too; the standard library is enough for them.
PYTHON: Final = os.path.realpath(sys.executable)


def equip(host: Host) -> None:
    """Give a host what a transfer needs."""
    host.put("/run/bulk.py", Path(__file__).with_name("bulk.py").read_text())


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping that is under way."""

    job: Job
    count: int

    def lost(self) -> int:
        """Wait for its end and return how many answers did not come."""
        result = self.job.finish(self.count + 30)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", result.output)
        if found is None:
            raise LabError(f"ping failed: {result.output}")
        return int(found[1]) - int(found[2])


def ping(host: Host, target: str, count: int = 10, *, every: float = 0.1) -> Ping:
    """Start pinging."""
    return Ping(host.start(f"exec ping -q -n -c{count} -i{every} -W3 {target}"), count)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A bulk transfer that is under way, seen from both ends."""

    sender: Job
    receiver: Job
    source: Host
    until: str

    def enough(self) -> None:
        """End one that goes on until then."""
        self.source.put(self.until, "")

    def running(self) -> bool:
        """Whether there is still something to send."""
        return self.sender.running()

    def finish(self, within: float = 60) -> float:
        """Wait for its end; the seconds it took, as the receiver saw it.

        Raises:
            LabError: one end failed, or what came is not what was sent.
        """
        sent, received = self.sender.finish(within), self.receiver.finish(within)
        if not (sent.ok and received.ok and sent.output.split()[:2] == received.output.split()[:2]):
            raise LabError(f"a transfer failed.\nSent: {sent.output}\nReceived: {received.output}")
        return float(received.output.split()[2])


def transfer(source: Host, target: Host, address: str, octets: int | None, *, port: int = 5001) -> Transfer:
    """Start a bulk TCP transfer to an address of the target: of so many octets, or until it is enough."""
    until = f"/run/enough.{port}"
    if octets is None:
        source.sh(f"rm -f {until}", check=True)
    amount = until if octets is None else octets
    receiver = target.start(f"exec {PYTHON} /run/bulk.py receive {address} {port}")
    sender = source.start(f"exec {PYTHON} /run/bulk.py send {address} {port} {amount}")
    return Transfer(sender, receiver, source, until)
