"""UDP for IPsec and forwards: raw sockets that see packets whole, and sockets that only hold ports.

Packets are read, translated and sent as whole IP packets. But a UDP port that nobody has open makes the
kernel answer "port unreachable", and lets other programs have it. So a socket holds each port, with a filter
that lets nothing in.
"""

import contextlib
import socket
from typing import Final

from protocols.udp import Endpoint
from relay.sockets import bpf

#: IKE (RFC 2408 §2.5.1), IPsec in UDP (RFC 3947 §8).
PORTS: Final = (500, 4500)

_IP_TRANSPARENT: Final = 19
_SOURCE: Final = bpf.NETWORK_HEADER + 12
_DESTINATION: Final = bpf.NETWORK_HEADER + 16
_SOURCE_PORT: Final = 0
_DESTINATION_PORT: Final = 2


def choose(sock: socket.socket, more: tuple[int, int] | None) -> bool:
    """Let a receiver see packets for IPsec's ports, and for the ports from ``more[0]`` to ``more[1]``.

    Without ``more``: for and from IPsec's ports, which is what inside hosts send. False, and it sees all UDP,
    when the kernel does not take the filter.
    """
    program: list[bpf.Instruction] = [(bpf.LDX_IP_HEADER_LENGTH, 0, 0, 0)]
    if more is None:
        program += [(bpf.LD_HALF_X, 0, 0, _SOURCE_PORT), *_is_ipsec()]
    program += [(bpf.LD_HALF_X, 0, 0, _DESTINATION_PORT), *_is_ipsec()]
    if more is not None:
        first, last = more
        program += [
            (bpf.JUMP_AT_LEAST, 0, 2, first),
            (bpf.JUMP_GREATER, 1, 0, last),
            (bpf.RETURN, 0, 0, bpf.ALL),
        ]
    return bpf.attach(sock, [*program, (bpf.RETURN, 0, 0, 0)])


def choose_forwarded(sock: socket.socket, public: Endpoint, server: Endpoint | None) -> bool:
    """Let a receiver see what is for a port of ours, and what a server sends from its.

    False, and it sees all UDP, when the kernel does not take the filter.
    """
    program: list[bpf.Instruction] = [(bpf.LDX_IP_HEADER_LENGTH, 0, 0, 0)]
    if server is not None:
        program += _is_at(_SOURCE, _SOURCE_PORT, server)
    program += _is_at(_DESTINATION, _DESTINATION_PORT, public)
    return bpf.attach(sock, [*program, (bpf.RETURN, 0, 0, 0)])


def hold(port: int, interface: str | None = None, address: str = "0.0.0.0") -> socket.socket:
    """Hold a UDP port, on one interface or on all, and let nothing in; port 0 is any that is free.

    Raises:
        OSError: somebody else has it (EADDRINUSE), or a capability is missing.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        bpf.attach(sock, [(bpf.RETURN, 0, 0, 0)])
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        with contextlib.suppress(PermissionError):  # so that our nftables table may bring answers here
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def _is_at(address_at: int, port_at: int, endpoint: Endpoint) -> list[bpf.Instruction]:
    """Accept what has an endpoint there; go on behind this otherwise."""
    address, port = endpoint
    return [
        (bpf.LD_WORD, 0, 0, address_at),
        (bpf.JUMP_EQUAL, 0, 3, address),
        (bpf.LD_HALF_X, 0, 0, port_at),
        (bpf.JUMP_EQUAL, 0, 1, port),
        (bpf.RETURN, 0, 0, bpf.ALL),
    ]


def _is_ipsec() -> list[bpf.Instruction]:
    """Accept when the half word just loaded is one of the ports; go on behind this otherwise."""
    ike, natt = PORTS
    return [(bpf.JUMP_EQUAL, 1, 0, ike), (bpf.JUMP_EQUAL, 0, 1, natt), (bpf.RETURN, 0, 0, bpf.ALL)]
