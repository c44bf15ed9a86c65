"""What all minutes of abuse have in common: what must not notice, what nobody should send, and the daemon.

Numbered packets go through what is established while others misbehave: all arrive where they belong, in
order, and nothing else of theirs does.
"""

import contextlib
import socket
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from protocols import ipv4
from protocols.addr import parse_ip
from protocols.icmp import IcmpError
from tests.system.home import Daemon, Gre, until

#: Seconds of abuse.
DURATION: Final = 60.0
#: Seconds between bursts: the machine has others to serve.
BREATH: Final = 0.02
#: Packets of each flow in a round.
BURST: Final = 5
#: Rounds after which the daemon is warm, and what it may grow by from then on, in kB.
WARM: Final = 100
GROWTH: Final = 16_384

#: Tells as what a packet that came to a socket, from an address and port, has arrived, and its number; None
#: when it is nobody's.
Read = Callable[[bytes, tuple[str, int]], tuple[Hashable, object] | None]


# -- what must not notice --------------------------------------------------------------------------------


@dataclass
class Flow:
    """One direction of something that is established."""

    #: Sends the packet of a number.
    send: Callable[[int], None]
    #: As what its packets arrive.
    arriving: Hashable
    sent: int = 0


@dataclass
class Traffic:
    """All flows, and everything that has come to their hosts."""

    flows: list[Flow] = field(default_factory=list)
    heard: dict[Hashable, list[object]] = field(default_factory=dict)
    _sockets: list[tuple[socket.socket, Read]] = field(default_factory=list)

    def listen(self, sock: socket.socket, read: Read) -> None:
        """Keep what comes to a socket."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._sockets.append((sock, read))

    def send(self, count: int = BURST) -> None:
        for flow in self.flows:
            for _ in range(count):
                flow.send(flow.sent)
                flow.sent += 1

    def arrived(self) -> bool:
        """Whether all that was sent has come; what comes is kept."""
        for sock, read in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    found = read(*sock.recvfrom(65536))
                    if found is not None:
                        self.heard.setdefault(found[0], []).append(found[1])
        return all(len(self.heard.get(flow.arriving, ())) >= flow.sent for flow in self.flows)

    def check(self) -> None:
        """Every packet arrived at its owner, in order, and none elsewhere."""
        assert self.heard == {flow.arriving: list(range(flow.sent)) for flow in self.flows}


# -- what nobody should send -----------------------------------------------------------------------------


class Forger:
    """Raw packets that nobody should send, of whatever protocol."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def build(self, source: str, target: str, protocol: int, payload: bytes) -> bytes:
        return ipv4.build(
            src=parse_ip(source),
            dst=parse_ip(target),
            protocol=protocol,
            payload=payload,
            ttl=self.random.choice((1, 2, 64, 255)),
        )

    def error(self, source: str, target: str, protocol: int) -> bytes:
        """An ICMP error about a packet of nobody's, or about none."""
        quote = self.random.randbytes(self.random.randrange(0, 80))
        if self.random.random() < 0.7:
            quoted = self.build(target, source, protocol, self.random.randbytes(30))
            quote = quoted[: self.random.randrange(20, len(quoted))]
        error = IcmpError(
            self.random.choice((3, 11, 12)),
            self.random.randrange(5),
            self.random.randrange(1 << 16),
            quote,
        )
        return self.build(source, target, 1, error.to_bytes())

    def optioned(self, source: str, target: str, protocol: int, payload: bytes) -> bytes:
        """IP options before what may be in order."""
        plain = bytearray(self.build(source, target, protocol, b"\x01\x01\x01\x00" + payload))
        plain[0] = 0x46
        return bytes(plain)

    def fragment(self, source: str, target: str, protocol: int) -> bytes:
        """A piece of something that will never be whole."""
        packet = bytearray(self.build(source, target, protocol, self.random.randbytes(64)))
        packet[4:6] = self.random.randbytes(2)
        packet[6:8] = (0x2000 | self.random.randrange(1, 100)).to_bytes(2)
        return bytes(packet)


def spray(raw: Gre, packet: bytes, target: str) -> None:
    # The sender's own kernel refuses some: too short, no route.
    with contextlib.suppress(OSError):
        raw.send_packet(packet, target)


# -- the daemon ------------------------------------------------------------------------------------------


class Watch:
    """A daemon that others abuse."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._files = self._open_files()
        self._warm = 0

    def round(self, number: int) -> None:
        """So many rounds are over."""
        if number == WARM:
            self._warm = self._memory()

    def check(self, *, lines: int, files: int = 0) -> None:
        """It lives, has not grown, and has logged less than so many lines, none of them about a bug.

        ``files``: how many more may be open than at the start.
        """
        assert self._daemon.process.poll() is None, self._daemon.log()
        assert self._warm, "there were too few rounds"
        until(lambda: self._open_files() <= self._files + files)
        assert self._memory() - self._warm < GROWTH
        log = self._daemon.log()
        for word in ("Traceback", "Exception in callback", '"level": "error"', "never retrieved"):
            assert word not in log
        assert len(log.splitlines()) < lines, "a flood is not logged line by line"

    def _memory(self) -> int:
        """Resident memory in kB."""
        for line in Path(f"/proc/{self._daemon.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def _open_files(self) -> int:
        return len(list(Path(f"/proc/{self._daemon.process.pid}/fd").iterdir()))
