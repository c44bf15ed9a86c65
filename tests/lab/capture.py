"""What interfaces of a host carried, as tcpdump tells it."""

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tests.lab.machine import LabError, until
from tests.lab.namespace import Namespace

#: An ESP packet, raw or in UDP, on any interface: direction, source, destination, SPI and sequence number.
_ADDRESS: Final = r"(\d+(?:\.\d+){3})(?:\.\d+)?"
_ESP: Final = re.compile(
    rf"\s(In|Out)\s+IP {_ADDRESS} > {_ADDRESS}: (?:UDP-encap: )?ESP\(spi=(0x\w+),seq=(0x\w+)\)"
)
#: A data packet of a PPTP call likewise: direction, source, destination and sequence number (RFC 2637 §4.1).
_GRE: Final = re.compile(rf"\s(In|Out)\s+IP {_ADDRESS} > {_ADDRESS}: GREv1,.* seq (\d+)")

_SOURCE: Final = re.compile(r"\bIP (\d+(?:\.\d+){3})\S* >")


class Capture:
    """What is being captured."""

    def __init__(self, seen: IO[str]) -> None:
        self._seen = seen

    def lines(self) -> list[str]:
        """Return what was seen so far, a packet in a line."""
        self._seen.seek(0)
        return self._seen.read().splitlines()


@contextmanager
def capturing(host: Namespace, interface: str, what: str) -> Iterator[Capture]:
    """Capture what passes an interface of a host (or "any") and the filter meanwhile (pcap-filter(7)).

    Raises:
        LabError: there were too many packets to see them all.
    """
    # Headers only: the kernel's buffer has room for eight packets of any size, or for thousands of this.
    command = ("tcpdump", "-l", "-n", "-t", "-s", "160", "--immediate-mode", "-i", interface, what)
    with (
        tempfile.NamedTemporaryFile("w") as written,
        Path(written.name).open(encoding="ascii") as seen,
        subprocess.Popen(
            host.entering(*command), stdout=written, stderr=subprocess.PIPE, text=True
        ) as capture,
    ):
        assert capture.stderr is not None
        while "listening" not in capture.stderr.readline():
            assert capture.poll() is None
        try:
            yield Capture(seen)
        finally:
            capture.terminate()
            _, end = capture.communicate()
    if not re.search(r"^0 packets dropped by kernel", end, re.MULTILINE):
        raise LabError(f"tcpdump saw too much: {end}")


def sources(capture: Capture) -> set[str]:
    """Return the addresses that packets came from."""
    return {found[1] for line in capture.lines() if (found := _SOURCE.search(line))}


def lost_esp(capture: Capture, gateway: str) -> dict[str, int]:
    """Return how many ESP packets of each SPI did not cross a gateway, given what all its interfaces carried.

    To cross is to come in and go out, from a client with the address of the gateway and to a client with the
    client's own. An answer of which several got a copy has crossed when one and the same client got all of
    that SPI.
    """
    came: dict[tuple[bool, str], set[str]] = defaultdict(set)
    went: dict[tuple[bool, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in capture.lines():
        if found := _ESP.search(line):
            direction, source, target, spi, sequence = found.groups()
            if direction == "In":
                came[target == gateway, spi].add(sequence)
            else:
                went[source != gateway, spi][target].add(sequence)
    short = {}
    for (inbound, spi), sequences in came.items():
        missing = min((len(sequences - got) for got in went[inbound, spi].values()), default=len(sequences))
        if missing:
            short[f"{spi} {'to' if inbound else 'from'} a client"] = missing
    return short


def lost_gre(capture: Capture, gateway: str) -> dict[str, int]:
    """Return how many data packets of PPTP calls did not cross a gateway, by direction.

    Call IDs are other ones outside; what is counted is sequence numbers, over all calls.
    """
    came: dict[bool, Counter[str]] = defaultdict(Counter)
    went: dict[bool, Counter[str]] = defaultdict(Counter)
    for line in capture.lines():
        if found := _GRE.search(line):
            direction, source, target, sequence = found.groups()
            if direction == "In":
                came[target == gateway][sequence] += 1
            else:
                went[source != gateway][sequence] += 1
    short = {inbound: (came[inbound] - went[inbound]).total() for inbound in came}
    return {f"GRE {'to' if inbound else 'from'} clients": count for inbound, count in short.items() if count}


def all_crossed(capture: Capture, gateway: str) -> None:
    """Check that no data packet was lost in a gateway; the last ones may be on their way still.

    Raises:
        LabError: some were lost.
    """

    def lost() -> dict[str, int]:
        return lost_esp(capture, gateway) | lost_gre(capture, gateway)

    try:
        until(lambda: not lost(), "everything crossed", within=5)
    except LabError:
        raise LabError(f"lost in the gateway: {lost()}") from None
