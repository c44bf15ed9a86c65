"""Ways out: which interface and next hop routing gives a destination, and how that is reached (rtnetlink(7)).

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
from relay.fastpath import abi
from relay.fastpath.filters import EGRESS, any_filter
from relay.fastpath.libbpf import libbpf

# linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/neighbour.h
_RTM_GETLINK: Final = 18
_RTM_GETROUTE: Final = 26
_RTM_GETNEIGH: Final = 30
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_RTN_UNICAST: Final = 1
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_METRICS: Final = 8
_RTAX_MTU: Final = 2
_IFLA_ADDRESS: Final = 1
_IFLA_MTU: Final = 4
_IFLA_QDISC: Final = 6
_IFLA_LINKINFO: Final = 18
_IFLA_INFO_KIND: Final = 1
_IFLA_LINK_NETNSID: Final = 37
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
#: NUD_REACHABLE, NUD_PERMANENT: the kernel itself would send there without a thought.
_SURE: Final = 0x02 | 0x80
#: RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE: what may change a way out …
ROUTES: Final = 0x1 | 0x8 | 0x40 | 0x80
#: … and RTMGRP_NEIGH, what may change how its next hop is reached.
NEIGHBOURS: Final = 0x4
_SOL_NETLINK: Final = 270
_NETLINK_NO_ENOBUFS: Final = 5

_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_LINK: Final = struct.Struct("=BxHiII")
#: struct ndmsg: family, interface, state.
_NEIGHBOUR: Final = struct.Struct("=BxxxiHxx")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INDEX: Final = struct.Struct("=I")
_ADDRESS: Final = struct.Struct("!I")
#: Both addresses of Ethernet.
_HEADER_SIZE: Final = 12

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
        #: By interface, whether a program stood at its egress when that mattered last.
        self._programmed: dict[int, bool] = {}

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
        self._programmed.clear()

    def _mtu(self, interface: int) -> int:
        mtu = self._mtus.get(interface)
        if mtu is None:
            answer = self._ask(_RTM_GETLINK, _LINK.pack(0, 0, interface, 0, 0))
            raw = None if answer is None else _attributes(answer, _LINK.size).get(_IFLA_MTU)
            mtu = self._mtus[interface] = 0 if raw is None else _INDEX.unpack(raw)[0]
        return mtu

    def means(self, way: Way) -> tuple[abi.Means, bytes]:
        """How a way's next hop is reached now, and the Ethernet addresses for that: target and source.

        By a header that is ready only while the kernel is sure of the neighbour; else a packet that needs it
        has it asked again. A way that several neighbours share has none.
        """
        none = abi.Means.NEIGHBOUR, b""
        if not way.gateway:
            return none
        question = _NEIGHBOUR.pack(socket.AF_INET, way.interface, 0)
        question += _ATTRIBUTE.pack(_ATTRIBUTE.size + _ADDRESS.size, _NDA_DST) + _ADDRESS.pack(way.gateway)
        answer = self._ask(_RTM_GETNEIGH, question)
        link = self._ask(_RTM_GETLINK, _LINK.pack(0, 0, way.interface, 0, 0))
        if answer is None or link is None or _LINK.unpack_from(link)[1] not in _ETHERNET:
            return none
        if not _NEIGHBOUR.unpack_from(answer)[2] & _SURE:
            return none
        target = _attributes(answer, _NEIGHBOUR.size).get(_NDA_LLADDR, b"")
        about = _attributes(link, _LINK.size)
        header = target + about.get(_IFLA_ADDRESS, b"")
        if len(header) != _HEADER_SIZE:
            return none
        return abi.Means.PEER if self._is_pair(about, way.interface) else abi.Means.HEADER, header

    def _is_pair(self, link: dict[int, bytes], interface: int) -> bool:
        """Whether packets may go on at a veth's other end: in another namespace, with nothing in between."""
        kind = _attributes(link.get(_IFLA_LINKINFO, b""), 0).get(_IFLA_INFO_KIND, b"")
        direct = kind.rstrip(b"\0") == b"veth" and _IFLA_LINK_NETNSID in link
        unshaped = link.get(_IFLA_QDISC, b"").rstrip(b"\0") == b"noqueue"
        if not direct or not unshaped or any_filter(interface, EGRESS):
            return False
        self._programmed[interface] = libbpf().has_egress_program(interface)
        return not self._programmed[interface]

    def reprogrammed(self) -> set[int]:
        """Interfaces at whose egress a program has come or gone since, of which the kernel gives no word."""
        asked = self._programmed.items()
        changed = {
            number: before for number, before in asked if libbpf().has_egress_program(number) != before
        }
        self._programmed |= {number: not before for number, before in changed.items()}
        return set(changed)

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


def subscription(groups: int) -> socket.socket:
    """A socket that is readable when the kernel has news of these groups.

    Raises:
        OSError: the kernel refuses.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        # A message that is lost is lost while others wait to be read: those tell enough.
        if not groups & NEIGHBOURS:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        sock.bind((0, groups))
    except BaseException:
        sock.close()
        raise
    return sock


def drained(sock: socket.socket) -> None:
    """Read all that a subscription has to say, which is not of interest."""
    with contextlib.suppress(BlockingIOError):
        while sock.recv(65536):
            pass


def heard_of(sock: socket.socket) -> set[tuple[int, int]] | None:
    """Interfaces and addresses of the neighbours a subscription has news of; None: any, for some was lost."""
    found: set[tuple[int, int]] = set()
    lost = False
    while True:
        try:
            message = sock.recv(65536)
        except BlockingIOError:
            return None if lost else found
        except OSError:  # ENOBUFS
            lost = True
            continue
        about = message[_HEADER.size :]
        address = _attributes(about, _NEIGHBOUR.size).get(_NDA_DST, b"") if about else b""
        if len(address) == _ADDRESS.size:
            found.add((_NEIGHBOUR.unpack_from(about)[1], _ADDRESS.unpack(address)[0]))


def _attributes(message: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
