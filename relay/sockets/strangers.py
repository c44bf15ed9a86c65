"""Packets of strangers, kept from raw sockets by the kernel: a program there knows whom we talk with.

A raw socket takes all packets of its protocol, and whoever sends enough of them fills its buffer, however
little each costs us. So the kernel looks up the sender first (fastpath/bpf/strangers.bpf.c), in tables that
we keep: peers that the core heeds, and networks that the rules name. Of everybody else's packets it lets
about a hundred a second through, for the core to judge and log as ever, and counts the others.
"""

import contextlib
import socket
import struct
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakSet

import structlog

from protocols.addr import Ip4, Network
from relay.fastpath import kernel
from relay.fastpath.libbpf import libbpf
from relay.kernel import KernelError

_log = structlog.get_logger("vpnmasq")

#: Where the build puts the object.
OBJECT: Final = kernel.OBJECT.with_name("strangers.bpf.o")

_SO_ATTACH_BPF: Final = 50
_SO_DETACH_FILTER: Final = 27

#: struct host: protocol, address.
_PROTOCOL: Final = struct.Struct("=I")
_ADDRESS: Final = struct.Struct("!I")
#: struct tally: packets kept out, when the last one went through.
_TALLY: Final = struct.Struct("=QQ")
_PRESENT: Final = b"\1"
#: Octets of the maps' keys and values: struct host, and struct network, which has a length before that.
_HOST_SIZE: Final = _PROTOCOL.size + _ADDRESS.size
_SHAPES: Final = {
    "heeded": (_HOST_SIZE, len(_PRESENT)),
    "named": (_PROTOCOL.size + _HOST_SIZE, len(_PRESENT)),
    "tallies": (_PROTOCOL.size, _TALLY.size),
}


class Strangers(Protocol):
    """What the core and the rules say of who is no stranger, and the sockets that go by it."""

    @property
    def reason(self) -> str:
        """Why nobody is kept out; empty when strangers are."""

    def heed(self, protocol: int, address: Ip4) -> None:
        """An address is no stranger's from now on."""

    def ignore(self, protocol: int, address: Ip4) -> None:
        """It is again."""

    def name(self, protocol: int, networks: Collection[Network]) -> None:
        """Nobody in these networks is a stranger; in place of those named before."""

    def guard(self, sock: socket.socket) -> None:
        """Keep strangers' packets from a raw socket; once more does no harm."""

    def welcome(self, sock: socket.socket) -> None:
        """Let everybody's packets into a socket that may be guarded."""

    def kept_out(self, protocol: int) -> int:
        """How many of their packets did not come through, since the start."""

    def close(self) -> None:
        """Leave the kernel as it was."""


class AllWelcome:
    """Implements Strangers: everybody's packets come through; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def heed(self, protocol: int, address: Ip4) -> None:
        """Nobody is kept out."""

    def ignore(self, protocol: int, address: Ip4) -> None:
        """Nobody is kept out."""

    def name(self, protocol: int, networks: Collection[Network]) -> None:
        """Nobody is kept out."""

    def guard(self, sock: socket.socket) -> None:
        """Nobody is kept out."""

    def welcome(self, sock: socket.socket) -> None:
        """Nobody is kept out."""

    def kept_out(self, protocol: int) -> int:  # noqa: ARG002
        """None."""
        return 0

    def close(self) -> None:
        """Nothing to leave."""


class KeptOut:
    """Implements Strangers in the kernel. ``most``: addresses there is room for.

    Raises:
        KernelError: no object, no libbpf, a kernel too old, no privilege, or the verifier's words.
    """

    def __init__(self, most: int, path: Path = OBJECT) -> None:
        if not path.exists():
            raise KernelError(
                "the program for the kernel was not built",
                "apt-get install clang libbpf-dev libbpf1, then install vpnmasq again",
            )
        self.reason = ""
        self._library = library = libbpf()
        with ExitStack() as stack:
            loaded = stack.enter_context(library.load(path, {"heeded": most}, _SHAPES))
            self._heeded, self._named, self._tallies = map(loaded.map_fd, _SHAPES)
            self._program = loaded.program_fd("strangers")
            self._open = stack.pop_all()
        self._networks: dict[int, set[Network]] = {}
        #: As long as anybody holds them: closed ones are none of our business.
        self._guarded: WeakSet[socket.socket] = WeakSet()

    def heed(self, protocol: int, address: Ip4) -> None:
        """As Strangers."""
        if self._library.update(self._heeded, _host(protocol, address), _PRESENT):
            self._give_up("more peers than there is room for")

    def ignore(self, protocol: int, address: Ip4) -> None:
        """As Strangers."""
        self._library.delete(self._heeded, _host(protocol, address))

    def name(self, protocol: int, networks: Collection[Network]) -> None:
        """As Strangers."""
        wanted, before = set(networks), self._networks.get(protocol, set())
        for gone in before - wanted:
            self._library.delete(self._named, _network(protocol, gone))
        for new in wanted - before:
            if self._library.update(self._named, _network(protocol, new), _PRESENT):
                self._give_up("the rules name more networks than there is room for")
        self._networks[protocol] = wanted

    def guard(self, sock: socket.socket) -> None:
        """As Strangers."""
        if self.reason:
            return
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, self._program)
        except OSError as error:
            self._give_up(f"a socket takes no filter: {error.strerror}")
        else:
            self._guarded.add(sock)

    def welcome(self, sock: socket.socket) -> None:
        """As Strangers."""
        if sock in self._guarded:
            self._guarded.discard(sock)
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def _give_up(self, why: str) -> None:
        """Let everybody in: who cannot be entered must not be taken for a stranger."""
        if not self.reason:
            _log.warning("strangers are no longer kept out", why=why)
        self.reason = why
        for sock in list(self._guarded):
            if sock.fileno() >= 0:
                self.welcome(sock)

    def kept_out(self, protocol: int) -> int:
        """As Strangers."""
        tally = self._library.lookup(self._tallies, _PROTOCOL.pack(protocol), _TALLY.size)
        return 0 if tally is None else int(_TALLY.unpack(tally)[0])

    def close(self) -> None:
        """As Strangers."""
        self._open.close()


def open_to_all(sock: socket.socket) -> None:
    """Let everybody's packets into a raw socket, whichever process guards it."""
    with contextlib.suppress(FileNotFoundError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def keep_out(most: int) -> Strangers:
    """Keep strangers out, if this machine allows it; as KeptOut."""
    try:
        return KeptOut(most)
    except KernelError as error:
        return AllWelcome(str(error))


def _host(protocol: int, address: Ip4) -> bytes:
    """struct host."""
    return _PROTOCOL.pack(protocol) + _ADDRESS.pack(address)


def _network(protocol: int, network: Network) -> bytes:
    """struct network; the protocol counts among the bits of its length."""
    bits = 8 * _PROTOCOL.size + network.mask.bit_count()
    return _PROTOCOL.pack(bits) + _host(protocol, Ip4(network.address))
