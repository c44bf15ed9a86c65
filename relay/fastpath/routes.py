"""Ways out: which interface and next hop routing gives a destination, and how that is reached (rtnetlink(7)).

Asked when a flow is handed to the kernel and again when routes change, in a few microseconds and without a
thread: so not by pyroute2, which needs one with an event loop of its own. Answers are the kernel's own
structures.
"""

import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from protocols.addr import Ip4
from relay.fastpath import Prefix, abi
from relay.fastpath.filters import EGRESS, any_filter
from relay.fastpath.netdev import Netdev
from relay.fastpath.netlink import HEADER, INDEX, Questions, attribute, attributes
from relay.fastpath.syscall import has_egress_program

# linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/neighbour.h
_RTM_GETLINK: Final = 18
#: RTM_NEWROUTE, RTM_DELROUTE
_OF_ROUTES: Final = frozenset({24, 25})
_RTM_GETROUTE: Final = 26
_RTM_GETNEIGH: Final = 30
_RTN_UNICAST: Final = 1
#: RTN_LOCAL, RTN_BROADCAST
_OF_OURS: Final = frozenset({2, 3})
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

_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_LINK: Final = struct.Struct("=BxHiII")
#: struct ndmsg: family, interface, state.
_NEIGHBOUR: Final = struct.Struct("=BxxxiHxx")
_ADDRESS: Final = struct.Struct("!I")
#: Both addresses of Ethernet.
_HEADER_SIZE: Final = 12

#: linux/if_arp.h: link layers whose packets begin with an Ethernet header …
_ETHERNET: Final = frozenset({1, 772})
#: … or with the IP header: ppp, tun, raw IP.
_PLAIN: Final = frozenset({512, 519, 0xFFFE})


#: Queueing disciplines that the kernel gives interfaces itself and that hold nothing back on purpose.
_UNSHAPED: Final = frozenset({b"noqueue", b"mq", b"pfifo_fast", b"fq_codel", b"fq"})


class Way(NamedTuple):
    """How packets for a destination leave; ``gateway`` 0: the destination is a neighbour itself."""

    interface: int
    gateway: int
    mtu: int


#: There is none.
NO_WAY: Final = Way(0, 0, 0)


class Routes:
    """Questions to the routing table, on a socket of their own.

    ``netdev``: asked whether drivers take frames from drivers, if any is to hand them over.
    """

    def __init__(self, netdev: Netdev | None = None) -> None:
        self._netlink = Questions()
        self._netdev = netdev
        self._mtus: dict[int, int] = {}
        #: By interface, whether a program stood at its egress when that mattered last, and whether its driver
        #: took frames.
        self._unannounced: dict[int, tuple[bool, bool]] = {}

    def way(self, destination: Ip4) -> Way:
        """The way to a destination, by the routing of now; NO_WAY if there is none, or it ends here."""
        question = _ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        question += attribute(_RTA_DST, _ADDRESS.pack(destination))
        answer = self._netlink.ask(_RTM_GETROUTE, question)
        if answer is None or _ROUTE.unpack_from(answer)[7] != _RTN_UNICAST:
            return NO_WAY
        found = attributes(answer, _ROUTE.size)
        if _RTA_OIF not in found:
            return NO_WAY
        (interface,) = INDEX.unpack(found[_RTA_OIF])
        gateway = _ADDRESS.unpack(found[_RTA_GATEWAY])[0] if _RTA_GATEWAY in found else 0
        mtu = self._mtu(interface)
        lower = attributes(found.get(_RTA_METRICS, b""), 0).get(_RTAX_MTU)
        if lower is not None:
            mtu = min(mtu, INDEX.unpack(lower)[0])
        return Way(interface, gateway, mtu) if mtu else NO_WAY

    def forget(self) -> None:
        """Something has changed: ask anew what was remembered of interfaces."""
        self._mtus.clear()
        self._unannounced.clear()

    def _mtu(self, interface: int) -> int:
        mtu = self._mtus.get(interface)
        if mtu is None:
            answer = self._netlink.ask(_RTM_GETLINK, _LINK.pack(0, 0, interface, 0, 0))
            raw = None if answer is None else attributes(answer, _LINK.size).get(_IFLA_MTU)
            mtu = self._mtus[interface] = 0 if raw is None else INDEX.unpack(raw)[0]
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
        question += attribute(_NDA_DST, _ADDRESS.pack(way.gateway))
        answer = self._netlink.ask(_RTM_GETNEIGH, question)
        link = self._netlink.ask(_RTM_GETLINK, _LINK.pack(0, 0, way.interface, 0, 0))
        if answer is None or link is None or _LINK.unpack_from(link)[1] not in _ETHERNET:
            return none
        if not _NEIGHBOUR.unpack_from(answer)[2] & _SURE:
            return none
        target = attributes(answer, _NEIGHBOUR.size).get(_NDA_LLADDR, b"")
        about = attributes(link, _LINK.size)
        header = target + about.get(_IFLA_ADDRESS, b"")
        if len(header) != _HEADER_SIZE:
            return none
        return self._best(about, way.interface), header

    def _best(self, link: dict[int, bytes], interface: int) -> abi.Means:
        """What may be done with the header: what goes past a queue or a filter must find none."""
        pair, unshaped = _is_pair(link), _qdisc(link) in _UNSHAPED
        if not (pair or (unshaped and self._netdev is not None)) or any_filter(interface, EGRESS):
            return abi.Means.HEADER
        self._unannounced[interface] = programmed, takes_frames = self._look(interface)
        if programmed:
            return abi.Means.HEADER
        return abi.Means.PEER if pair else abi.Means.DRIVER if takes_frames else abi.Means.HEADER

    def _look(self, interface: int) -> tuple[bool, bool]:
        takes_frames = self._netdev is not None and self._netdev.takes_frames(interface)
        return has_egress_program(interface), takes_frames

    def reprogrammed(self) -> set[int]:
        """Interfaces where the kernel gives no word of what has changed: a program has come to the egress or
        gone, or the driver takes frames from others' or does so no longer.
        """
        before = self._unannounced
        self._unannounced = {number: self._look(number) for number in before}
        return {number for number, now in self._unannounced.items() if now != before[number]}

    def has_ethernet(self, interface: int) -> bool | None:
        """Whether packets on an interface begin with an Ethernet header; None: with anything else but IP."""
        answer = self._netlink.ask(_RTM_GETLINK, _LINK.pack(0, 0, interface, 0, 0))
        kind = None if answer is None else _LINK.unpack_from(answer)[1]
        return True if kind in _ETHERNET else False if kind in _PLAIN else None

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()


def _is_pair(link: dict[int, bytes]) -> bool:
    """Whether packets may go on at a veth's other end: in another namespace, with no queue in between."""
    kind = attributes(link.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
    direct = kind.rstrip(b"\0") == b"veth" and _IFLA_LINK_NETNSID in link
    return direct and _qdisc(link) == b"noqueue"


def _qdisc(link: dict[int, bytes]) -> bytes:
    return link.get(_IFLA_QDISC, b"").rstrip(b"\0")


def subscription(groups: int) -> socket.socket:
    """A socket that is readable when the kernel has news of these groups.

    Raises:
        OSError: the kernel refuses.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        sock.bind((0, groups))
    except BaseException:
        sock.close()
        raise
    return sock


def rerouted(sock: socket.socket) -> set[Prefix] | None:
    """Destinations whose routes a subscription has news of; None: of others, too, or some was lost."""
    found: set[Prefix] = set()
    others = False
    for message in _news(sock):
        if (destinations := _destinations(message)) is None:
            others = True
        else:
            found.add(destinations)
    return None if others else found


def _destinations(message: bytes) -> Prefix | None:
    """Where packets go whose route has changed; None: to others as well, or it is no news of a route.

    With an address of our own, the kernel takes away routes that use it as their source, and does not say so.
    """
    if len(message) < HEADER.size + _ROUTE.size or HEADER.unpack_from(message)[1] not in _OF_ROUTES:
        return None
    about = message[HEADER.size :]
    _, length, *_, kind, _ = _ROUTE.unpack_from(about)
    address = attributes(about, _ROUTE.size).get(_RTA_DST, bytes(_ADDRESS.size))
    if kind in _OF_OURS or len(address) != _ADDRESS.size:
        return None
    return length, _ADDRESS.unpack(address)[0] >> 32 - length


def heard_of(sock: socket.socket) -> set[tuple[int, int]] | None:
    """Interfaces and addresses of the neighbours a subscription has news of; None: any, for some was lost."""
    found: set[tuple[int, int]] = set()
    lost = False
    for message in _news(sock):
        about = message[HEADER.size :]
        address = attributes(about, _NEIGHBOUR.size).get(_NDA_DST, b"") if about else b""
        if len(address) == _ADDRESS.size:
            found.add((_NEIGHBOUR.unpack_from(about)[1], _ADDRESS.unpack(address)[0]))
        lost = lost or not message
    return None if lost else found


def _news(sock: socket.socket) -> Iterator[bytes]:
    """All messages that are there; an empty one where some were lost."""
    while True:
        try:
            yield sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS
            yield b""
