"""Ways out: which interface and next hop the kernel's routing gives a destination (rtnetlink(7)).

Asked when a flow is handed to the kernel and again when routes change, in a few microseconds and without a
thread: so not by pyroute2, which needs one with an event loop of its own. Answers are the kernel's own
structures.
"""

import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Final

from protocols.addr import Ip4

# linux/rtnetlink.h, linux/netlink.h, linux/if_link.h
_RTM_GETLINK: Final = 18
_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_RTN_UNICAST: Final = 1
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_METRICS: Final = 8
_RTAX_MTU: Final = 2
_IFLA_MTU: Final = 4
#: RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE: what may change a way out.
_GROUPS: Final = 0x1 | 0x40 | 0x80
_SOL_NETLINK: Final = 270
_NETLINK_NO_ENOBUFS: Final = 5

_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INDEX: Final = struct.Struct("=I")
_ADDRESS: Final = struct.Struct("!I")

#: linux/if_arp.h: link layers whose packets begin with an Ethernet header …
_ETHERNET: Final = frozenset({1, 772})
#: … or with the IP header: ppp, tun, raw IP.
_PLAIN: Final = frozenset({512, 519, 0xFFFE})


@dataclass(frozen=True, slots=True)
class Way:
    """How packets for a destination leave; ``gateway`` 0: the destination is a neighbour itself."""

    interface: int
    gateway: int
    mtu: int


#: There is none.
NO_WAY: Final = Way(0, 0, 0)


class Routes:
    """Questions to the routing table, on a socket of their own."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        # Answers are there when the question has been sent; this is for a kernel that gives none.
        self._socket.settimeout(1.0)
        self._number = 0
        self._mtus: dict[int, int] = {}

    def way(self, destination: Ip4) -> Way:
        """The way to a destination, by the routing of now; NO_WAY if there is none, or it ends here."""
        question = _ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        question += _ATTRIBUTE.pack(_ATTRIBUTE.size + _ADDRESS.size, _RTA_DST) + _ADDRESS.pack(destination)
        answer = self._ask(_RTM_GETROUTE, question)
        if answer is None or _ROUTE.unpack_from(answer)[7] != _RTN_UNICAST:
            return NO_WAY
        found = _attributes(answer, _ROUTE.size)
        if _RTA_OIF not in found:
            return NO_WAY
        (interface,) = _INDEX.unpack(found[_RTA_OIF])
        gateway = _ADDRESS.unpack(found[_RTA_GATEWAY])[0] if _RTA_GATEWAY in found else 0
        mtu = self._mtu(interface)
        lower = _attributes(found.get(_RTA_METRICS, b""), 0).get(_RTAX_MTU)
        if lower is not None:
            mtu = min(mtu, _INDEX.unpack(lower)[0])
        return Way(interface, gateway, mtu) if mtu else NO_WAY

    def forget(self) -> None:
        """Something has changed: ask anew what was remembered of interfaces."""
        self._mtus.clear()

    def _mtu(self, interface: int) -> int:
        mtu = self._mtus.get(interface)
        if mtu is None:
            answer = self._ask(_RTM_GETLINK, _LINK.pack(0, 0, interface, 0, 0))
            raw = None if answer is None else _attributes(answer, _LINK.size).get(_IFLA_MTU)
            mtu = self._mtus[interface] = 0 if raw is None else _INDEX.unpack(raw)[0]
        return mtu

    def has_ethernet(self, interface: int) -> bool | None:
        """Whether packets on an interface begin with an Ethernet header; None: with anything else but IP."""
        answer = self._ask(_RTM_GETLINK, _LINK.pack(0, 0, interface, 0, 0))
        kind = None if answer is None else _LINK.unpack_from(answer)[1]
        return True if kind in _ETHERNET else False if kind in _PLAIN else None

    def _ask(self, message: int, question: bytes) -> bytes | None:
        self._number += 1
        length = _HEADER.size + len(question)
        try:
            self._socket.send(_HEADER.pack(length, message, _NLM_F_REQUEST, self._number, 0) + question)
            while True:
                answer = self._socket.recv(65536)
                _, kind, _, number, _ = _HEADER.unpack_from(answer)
                if number == self._number:  # and not one that had timed out
                    return None if kind == _NLMSG_ERROR else answer[_HEADER.size :]
        except OSError:
            return None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def subscription() -> socket.socket:
    """A socket that is readable when routes, rules or links have changed; what it says is not of interest.

    Raises:
        OSError: the kernel refuses.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        # A message that is lost is lost while others wait to be read: those tell enough.
        sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        sock.bind((0, _GROUPS))
    except BaseException:
        sock.close()
        raise
    return sock


def drained(sock: socket.socket) -> None:
    """Read all that a subscription has to say."""
    with contextlib.suppress(BlockingIOError):
        while sock.recv(65536):
            pass


def _attributes(message: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
