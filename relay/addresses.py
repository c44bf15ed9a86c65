"""Interfaces and IPv4 addresses of this host, asked by pyroute2 (rtnetlink(7)).

The questions block for some milliseconds and need a thread without a running event loop: the daemon
asks them ``aside``. Only ``path_mtu`` and ``is_routed``, which look up one route and take microseconds, may
be asked anywhere.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError

from protocols.addr import Ip4, parse_ip
from relay.kernel import KernelError
from relay.rtnetlink import rtnetlink

# linux/if.h
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40

# linux/rtnetlink.h: RTN_UNICAST, RT_TABLE_MAIN
_UNICAST: Final = 1
_MAIN: Final = 254

# linux/in.h
_IP_MTU: Final = 14

#: What every IPv4 link must carry whole (RFC 791 §3.1): for destinations without a route.
LEAST_MTU: Final = 576

#: linux/rtnetlink.h: RT_SCOPE_UNIVERSE. Narrower ones are link-local addresses and the like.
_UNIVERSE: Final = 0

#: How often a list is asked for anew when it changed while the kernel told it.
_PATIENCE: Final = 10


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface as it is now. All fields are empty for one that does not exist."""

    name: str
    #: Another number under the same name is another interface: sockets bound to the old one are deaf.
    index: int | None = None
    #: Administratively up, and with a carrier.
    up: bool = False
    #: IPv4 addresses that may be used beyond the link, the primary one first; whether there are others.
    addresses: tuple[Ip4, ...] = ()
    link_local: bool = False
    #: The far end of a point-to-point link.
    remote: Ip4 | None = None
    mtu: int = 0

    @property
    def exists(self) -> bool:
        """Whether there is such an interface."""
        return self.index is not None

    @property
    def address(self) -> Ip4 | None:
        """The primary address."""
        return self.addresses[0] if self.addresses else None


@dataclass(frozen=True, slots=True)
class Scene:
    """What of this host matters to a gateway, at one moment."""

    #: By name; those that were asked for.
    interfaces: dict[str, Interface]
    #: Every IPv4 address of this host, and of all hosts of the networks it is in.
    own: frozenset[Ip4]
    broadcasts: frozenset[Ip4]
    #: The interface of the default route; None if there is none, or nobody asked.
    default: str | None = None


# -- asked ---------------------------------------------------------------------------------------------


def interface(name: str) -> Interface:
    """Look at an interface. Blocks.

    Raises:
        KernelError: the kernel does not answer.
    """
    return look((name,)).interfaces[name]


def look(names: Iterable[str], *, follow_default: bool = False) -> Scene:
    """Look at some interfaces, and with ``follow_default`` also at that of the default route. Blocks.

    Raises:
        KernelError: the kernel does not answer.
    """
    with rtnetlink("look at the interfaces") as ipr:
        default = _default_interface(ipr) if follow_default else None
        wanted = dict.fromkeys([*names, default] if default else names)
        found = _dump(lambda: ipr.addr("dump", family=socket.AF_INET))
        interfaces = {name: _look(ipr, name, found) for name in wanted}
    broadcasts = frozenset(address for message in found for address in _broadcasts(message))
    return Scene(interfaces, frozenset(map(_local, found)), broadcasts, default)


def names() -> list[str]:
    """The names of the interfaces that there are, for people."""
    return [name for _, name in socket.if_nameindex() if name != "lo"]


def all_addresses() -> tuple[tuple[str, Ip4], ...]:
    """Every IPv4 address of this host with its interface; per interface, the primary one first. Blocks.

    Raises:
        KernelError: the kernel does not answer.
    """
    with rtnetlink("list the addresses") as ipr:
        found = _dump(lambda: ipr.addr("dump", family=socket.AF_INET))
        names: dict[int, str] = {}
        for index in dict.fromkeys(message["index"] for message in found):
            with contextlib.suppress(OSError):  # gone meanwhile, and its addresses with it
                names[index] = socket.if_indextoname(index)
    return tuple((names[m["index"]], _local(m)) for m in found if m["index"] in names)


def addresses(name: str) -> tuple[Ip4, ...]:
    """The IPv4 addresses of an interface, the primary one first. Blocks.

    Raises:
        KernelError: the kernel does not answer.
    """
    return tuple(address for owner, address in all_addresses() if owner == name)


def own_addresses() -> frozenset[Ip4]:
    """Every IPv4 address of this host, loopback included. Blocks.

    Raises:
        KernelError: the kernel does not answer.
    """
    with rtnetlink("list the addresses") as ipr:
        return frozenset(map(_local, _dump(lambda: ipr.addr("dump", family=socket.AF_INET))))


def default_interface() -> str:
    """The interface of the default route, for ``interface = "auto"``. Blocks.

    Raises:
        KernelError: there is no default route, or the kernel does not answer.
    """
    with rtnetlink("find the default route") as ipr:
        found = _default_interface(ipr)
    if found is None:
        raise KernelError(
            'there is no default route, so wan.interface = "auto" means nothing',
            "name the interface in wan.interface, or start after the network is up",
        )
    return found


def is_routed(destination: str) -> bool:
    """Whether there is a way to an address; as ``path_mtu``."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
        try:
            sock.connect((destination, 9))
        except OSError:
            return False
        return True


def path_mtu(destination: str) -> int:
    """The largest packet, in octets, that the way to an address takes, as far as the kernel knows.

    Sends nothing: connecting a UDP socket only looks up the route (ip(7), IP_MTU). By a socket and not by
    netlink, for the packet path asks.
    """
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
        try:
            sock.connect((destination, 9))
            return int(sock.getsockopt(socket.IPPROTO_IP, _IP_MTU))
        except OSError:
            return LEAST_MTU


# -- netlink -------------------------------------------------------------------------------------------


def _look(ipr: Any, name: str, addresses: Iterable[Any]) -> Interface:
    try:
        (link,) = ipr.link("get", ifname=name)
    except NetlinkError as error:
        # No such interface any more, or (ERANGE) none can have this name.
        if error.code in (errno.ENODEV, errno.ERANGE):
            return Interface(name)
        raise
    index, attributes = link["index"], dict(link["attrs"])
    here = [message for message in addresses if message["index"] == index]
    usable = [message for message in here if message["scope"] == _UNIVERSE]
    return Interface(
        name,
        index=index,
        up=link["flags"] & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING,
        addresses=tuple(map(_local, usable)),
        link_local=len(usable) < len(here),
        remote=_far_end(usable[0]) if usable else None,
        mtu=attributes["IFLA_MTU"],
    )


def _default_interface(ipr: Any) -> str | None:
    # Of every table, whatever is asked for: get_default_routes of pyroute2 0.9 forgets its ``table``.
    found = _dump(lambda: ipr.get_default_routes(family=socket.AF_INET))
    usable = [dict(m["attrs"]) for m in found if m["type"] == _UNICAST]
    usable = [route for route in usable if route["RTA_TABLE"] == _MAIN]
    if not usable:
        return None
    best = min(usable, key=lambda route: route.get("RTA_PRIORITY", 0))
    with contextlib.suppress(OSError):  # gone meanwhile, and its routes with it
        return socket.if_indextoname(_way_out(best))
    return None


def _dump(ask: Callable[[], Iterable[Any]]) -> list[Any]:
    """A whole list, asked for again if it changed while the kernel told it: pyroute2 0.9 does not look."""
    for _ in range(_PATIENCE):
        found = list(ask())
        if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in found):
            break
    return found


def _local(message: Any) -> Ip4:
    # On a point-to-point link IFA_ADDRESS is the other end's.
    return parse_ip(dict(message["attrs"])["IFA_LOCAL"])


def _broadcasts(message: Any) -> Iterator[Ip4]:
    """The last address of an address's network (RFC 919 §7), and another one if that was set."""
    attributes, length = dict(message["attrs"]), int(message["prefixlen"])
    if length < 31:  # RFC 3021: a link with two ends has none
        yield Ip4(parse_ip(attributes["IFA_ADDRESS"]) | 0xFFFFFFFF >> length)
    if "IFA_BROADCAST" in attributes:
        yield parse_ip(attributes["IFA_BROADCAST"])


def _far_end(message: Any) -> Ip4 | None:
    address = dict(message["attrs"]).get("IFA_ADDRESS")
    return None if address is None or parse_ip(address) == _local(message) else parse_ip(address)


def _way_out(route: dict[str, Any]) -> int:
    """The index of the interface of a route; of its first hop, if it has many."""
    return int(route["RTA_OIF"] if "RTA_OIF" in route else route["RTA_MULTIPATH"][0]["oif"])
