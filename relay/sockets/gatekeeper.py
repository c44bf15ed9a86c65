"""Default deny before the handshake: socket filters on a listener, and a look at what they turned away.

A listening socket answers every SYN, and refusing afterwards shows a stranger an open port. So the
listener gets a classic BPF filter (socket(7), SO_ATTACH_FILTER) made from the rules, which drops the others
unanswered, and a raw socket with the opposite filter brings those SYNs to the core, to be counted and, if so
configured, answered with RST. The rules stay the core's: what passes here is judged there again.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocols.addr import Network
from relay.sockets import bpf
from relay.sockets.raw import receiver

_SOURCE: Final = bpf.NETWORK_HEADER + 12
_DESTINATION: Final = bpf.NETWORK_HEADER + 16
_DESTINATION_PORT: Final = 2
_FLAGS: Final = 13
_SYN_ACK: Final = 0x12
_SYN: Final = 0x02

ANY: Final = Network(0, 0)


@dataclass(frozen=True, slots=True)
class Opening:
    """Who may dial whom: one pair of networks."""

    source: Network
    destination: Network


def admit(sock: socket.socket, openings: Sequence[Opening]) -> bool:
    """Let a listener hear only of these; replaces an earlier filter.

    False, and everybody is heard (and judged by the core alone), when the kernel does not take the filter:
    they are too many, or it wants CAP_NET_ADMIN (recent ones do for TCP, not for raw sockets).
    """
    return bpf.attach(sock, _only(openings))


def too_many(openings: Sequence[Opening]) -> bool:
    """Whether no kernel would take them."""
    return not bpf.fits(_only(openings))


def turned_away(interface: str, port: int, receive_buffer: int) -> socket.socket:
    """A raw socket for the SYNs to a port that arrive on an interface; ``watch`` says which.

    Of use only where ``admit`` is: else nobody is turned away.

    Raises:
        OSError: no such interface, or CAP_NET_RAW is missing.
    """
    sock = receiver(socket.IPPROTO_TCP, interface, receive_buffer)
    bpf.attach(sock, _syn_to(port, [(bpf.RETURN, 0, 0, 0)]))
    return sock


def watch(sock: socket.socket, port: int, openings: Sequence[Opening]) -> bool:
    """Bring what ``admit`` with the same openings turns away."""
    return bpf.attach(sock, _syn_to(port, [*_pairs(openings, verdict=0), (bpf.RETURN, 0, 0, bpf.ALL)]))


def _only(openings: Sequence[Opening]) -> list[bpf.Instruction]:
    return [*_pairs(openings, verdict=bpf.ALL), (bpf.RETURN, 0, 0, 0)]


def _pairs(openings: Sequence[Opening], *, verdict: int) -> list[bpf.Instruction]:
    program: list[bpf.Instruction] = []
    for opening in openings:
        tests = _test(_SOURCE, opening.source) + _test(_DESTINATION, opening.destination)
        # A failed test jumps over the rest of this pair, its return included.
        for at, (code, _, _, value) in enumerate(tests):
            jump = len(tests) - at if code == bpf.JUMP_EQUAL else 0
            program.append((code, 0, jump, value))
        program.append((bpf.RETURN, 0, 0, verdict))
    return program


def _test(field: int, network: Network) -> list[bpf.Instruction]:
    if network.is_any:
        return []
    return [
        (bpf.LD_WORD, 0, 0, field),
        (bpf.AND, 0, 0, network.mask),
        (bpf.JUMP_EQUAL, 0, 0, network.address),
    ]


def _syn_to(port: int, then: list[bpf.Instruction]) -> list[bpf.Instruction]:
    return [
        (bpf.LDX_IP_HEADER_LENGTH, 0, 0, 0),
        (bpf.LD_HALF_X, 0, 0, _DESTINATION_PORT),
        (bpf.JUMP_EQUAL, 1, 0, port),
        (bpf.RETURN, 0, 0, 0),
        (bpf.LD_BYTE_X, 0, 0, _FLAGS),
        (bpf.AND, 0, 0, _SYN_ACK),
        (bpf.JUMP_EQUAL, 1, 0, _SYN),
        (bpf.RETURN, 0, 0, 0),
        *then,
    ]
