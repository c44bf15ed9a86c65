"""Interfaces and IPv4 addresses of this host, asked and watched by pyroute2 (rtnetlink(7)).

The questions block for some milliseconds and need a thread without a running event loop: the daemon
asks them ``aside``. Only ``path_mtu``, which looks up one route and takes microseconds, may be asked
anywhere.

The watcher reads its subscription with ``add_reader``: pyroute2's IPRSocket is made for that, so it takes
no thread and works under uvloop. A message only tells *that* something changed, and then the questions are
asked again: so none is parsed. One is lost only while others wait to be read, and those make us look after
that. So the kernel need not tell us (NETLINK_NO_ENOBUFS), and must not: by an error on the socket, after
which uvloop never calls its reader again.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

import structlog
from pyroute2 import IPRSocket
from pyroute2.netlink import NETLINK_NO_ENOBUFS, NLM_F_DUMP_INTR, SOL_NETLINK
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_LINK

from protocols.addr import Ip4, parse_ip
from relay.aside import aside
from relay.kernel import KernelError, refused
from relay.rtnetlink import rtnetlink

_log = structlog.get_logger("vpnmasq.kernel")

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

#: Seconds without a change until a change is looked at: a link that comes up changes several times at once.
SETTLE: Final = 0.1
#: Seconds until it is looked at in any case, and until it is tried again when that failed.
_AT_LAST: Final = 1.0

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
    #: The primary IPv4 address.
    address: Ip4 | None = None
    mtu: int = 0

    @property
    def exists(self) -> bool:
        """Whether there is such an interface."""
        return self.index is not None


# -- asked ---------------------------------------------------------------------------------------------


def interface(name: str) -> Interface:
    """Look at an interface. Blocks.

    Raises:
        KernelError: the kernel does not answer.
    """
    return _look_at((name,))[name]


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
        # Of every table, whatever is asked for: get_default_routes of pyroute2 0.9 forgets its ``table``.
        found = _dump(lambda: ipr.get_default_routes(family=socket.AF_INET))
        usable = [dict(m["attrs"]) for m in found if m["type"] == _UNICAST]
        usable = [route for route in usable if route["RTA_TABLE"] == _MAIN]
        if usable:
            best = min(usable, key=lambda route: route.get("RTA_PRIORITY", 0))
            return socket.if_indextoname(_way_out(best))
    raise KernelError(
        'there is no default route, so wan.interface = "auto" means nothing',
        "name the interface in wan.interface, or start after the network is up",
    )


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


# -- watched -------------------------------------------------------------------------------------------


class Watcher:
    """Reports interfaces that have changed, on the running event loop. Use as an async context manager.

    ``report`` gets each changed interface as it is now; what changes and changes back within
    ``settle`` seconds is not reported. ``current`` has the last state of each.

    Raises:
        KernelError: the kernel gives no netlink socket, or does not answer.
    """

    def __init__(
        self, names: Iterable[str], report: Callable[[Interface], None], *, settle: float = SETTLE
    ) -> None:
        self.current = {name: Interface(name) for name in names}
        self._report = report
        self._settle = settle
        self._timer: asyncio.TimerHandle | None = None
        self._since: float | None = None
        self._due = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self._subscription = _subscribe()
            stack.callback(self._subscription.close)
            # Only now, subscribed, is nothing missed between the first look and the first message.
            self.current = await aside(_look_at, tuple(self.current))
            number = self._subscription.fileno()
            loop.add_reader(number, self._changed)
            stack.callback(loop.remove_reader, number)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._watching = tasks.create_task(self._watch())
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._watching.cancel()
        await self._open.aclose()  # not told of the body's error, which a TaskGroup would wrap

    def _changed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._subscription.recv(65536):
                pass
        now = self._loop.time()
        if self._since is None:
            self._since = now
        if self._timer is not None:
            self._timer.cancel()
        due = min(now + self._settle, self._since + max(self._settle, _AT_LAST))
        self._timer = self._loop.call_at(due, self._settled)

    def _settled(self) -> None:
        self._timer = self._since = None
        self._due.set()

    async def _watch(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                found = await aside(_look_at, tuple(self.current))
            except KernelError as problem:  # no file descriptors left, for example
                _log.warning("interfaces not looked at", error=str(problem))
                await asyncio.sleep(_AT_LAST)
                self._due.set()
                continue
            for name, now in found.items():
                if now != self.current[name]:
                    self.current[name] = now
                    self._report(now)


def _subscribe() -> Any:
    subscription = IPRSocket()
    try:
        subscription.socket.settimeout(0)  # this opens it; ``bind`` would hide why that fails
        subscription.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        subscription.bind(groups=RTMGRP_LINK | RTMGRP_IPV4_IFADDR)
    except (OSError, KeyError) as error:
        subscription.close()
        # KeyError: pyroute2 found all 180 addresses that it tries in use.
        code = error.errno if isinstance(error, OSError) else errno.EADDRINUSE
        raise refused("watch the interfaces", code) from error
    return subscription


# -- netlink -------------------------------------------------------------------------------------------


def _look_at(names: Iterable[str]) -> dict[str, Interface]:
    with rtnetlink("look at the interfaces") as ipr:
        return {name: _look(ipr, name) for name in names}


def _look(ipr: Any, name: str) -> Interface:
    try:
        (link,) = ipr.link("get", ifname=name)
        index, attributes = link["index"], dict(link["attrs"])
        found = _dump(lambda: ipr.addr("dump", family=socket.AF_INET, index=index))
    except NetlinkError as error:
        # No such interface any more, or (ERANGE) none can have this name.
        if error.code in (errno.ENODEV, errno.ERANGE):
            return Interface(name)
        raise
    return Interface(
        name,
        index=index,
        up=link["flags"] & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING,
        address=_local(found[0]) if found else None,
        mtu=attributes["IFLA_MTU"],
    )


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


def _way_out(route: dict[str, Any]) -> int:
    """The index of the interface of a route; of its first hop, if it has many."""
    return int(route["RTA_OIF"] if "RTA_OIF" in route else route["RTA_MULTIPATH"][0]["oif"])
