"""Raw IP sockets: how data packets and ICMP errors come in and go out (raw(7)).

A receiver is bound to one interface, so that the interface a packet arrived on is known without asking.
The kernel has reassembled what it delivers here. The one sender takes whole packets with any source
address.
"""

import contextlib
import errno
import socket
import struct
from typing import Final

#: Sets our packets apart for our own netfilter rules. Unlike a mark it has no part in routing; its low bits
#: are those of best effort, so that no queueing discipline treats it specially.
PRIORITY: Final = 0x76706E00

_SO_BINDTODEVICE: Final = 25
_SO_RCVBUFFORCE: Final = 33
_SO_SNDBUFFORCE: Final = 32
_SO_MEMINFO: Final = 55
_SK_MEMINFO_RCVBUF: Final = 1
_SK_MEMINFO_DROPS: Final = 8
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_PROBE: Final = 3
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1

#: The ICMP errors that matter to a forwarder: unreachable, time exceeded, parameter problem.
_ICMP_ERRORS: Final = (3, 11, 12)

#: What recv and send on a raw socket may say without it being a fault of ours: nothing there, the queue is
#: full, the link or route is down, a firewall forbids it.
TRANSIENT: Final = frozenset(
    {
        errno.EAGAIN,
        errno.ENOBUFS,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.EPERM,
        errno.EACCES,
        errno.ECONNREFUSED,
        errno.EINVAL,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOMEM,
    }
)


def receiver(protocol: int, interface: str, receive_buffer: int) -> socket.socket:
    """A socket for packets of an IP protocol that arrive on an interface for this host.

    Raises:
        OSError: no such interface, or CAP_NET_RAW is missing.
    """
    sock = _raw(protocol, interface)
    _grow(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer)
    return sock


def icmp_receiver(interface: str, receive_buffer: int) -> socket.socket:
    """The same for ICMP errors alone."""
    sock = receiver(socket.IPPROTO_ICMP, interface, receive_buffer)
    unwanted = 0xFFFFFFFF
    for icmp_type in _ICMP_ERRORS:
        unwanted &= ~(1 << icmp_type)
    sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", unwanted))
    return sock


def sender(send_buffer: int) -> socket.socket:
    """A socket that sends whole packets; it receives none.

    Raises:
        OSError: CAP_NET_RAW is missing.
    """
    sock = _raw(socket.IPPROTO_RAW, None)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 0)
    # A router's packets are bound by the next link alone: what this host has learned of a path's MTU is not
    # for them (anybody can make it up), and would have the kernel send errors about them to ourselves.
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
    with contextlib.suppress(PermissionError):  # before Linux 5.17 this took CAP_NET_ADMIN
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
    _grow(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, send_buffer)
    return sock


def losses(sock: socket.socket) -> tuple[int, int]:
    """(packets the kernel dropped because the socket's buffer was full, size of that buffer in octets)."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    words = struct.unpack(f"={len(info) // 4}I", info)
    return words[_SK_MEMINFO_DROPS], words[_SK_MEMINFO_RCVBUF]


def _raw(protocol: int, interface: str | None) -> socket.socket:
    sock = socket.socket(
        socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
    )
    try:
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode() + b"\0")
    except OSError:
        sock.close()
        raise
    return sock


def _grow(sock: socket.socket, force: int, ask: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:  # without CAP_NET_ADMIN the system's limit holds (net.core.rmem_max)
        sock.setsockopt(socket.SOL_SOCKET, ask, size)
