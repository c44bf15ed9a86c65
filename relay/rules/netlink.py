"""Rules and routes as pyroute2 writes them: one form for what is wanted, listed, added and deleted.

(rtnetlink(7), linux/fib_rules.h; ``ip rule``'s words are in ip-rule(8).)
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkError

from protocols.addr import Network, show_ip
from relay.rtnetlink import rtnetlink
from relay.rules.interception import PROTOCOL, Traffic

#: A rule or a route. Frozen, so that what is wanted and what is there can be subtracted.
Attributes = frozenset[tuple[str, int | str]]

_AF_INET: Final = 2
_LOOPBACK: Final = 1  # lo's index in every network namespace
_WHOLE_MARK: Final = 0xFFFFFFFF

# linux/fib_rules.h
_TO_TABLE: Final = 1
_INVERTED: Final = 2

# linux/rtnetlink.h: types and scopes of routes
_LOCAL: Final = 2
_THROW: Final = 9
_SCOPE_UNIVERSE: Final = 0
_SCOPE_HOST: Final = 254

#: In every listed rule, and narrowing none; and what kernels newer than pyroute2 add to every one.
_SILENT: Final = frozenset({"FRA_SUPPRESS_PREFIXLEN", "FRA_PAD", "UNKNOWN"})


def rule(
    interface: str, table: int, priority: int, *, traffic: Traffic | None = None, mark: int | None = None
) -> Attributes:
    """A rule of ours: some traffic, or what has a mark, that came in on an interface looks up a table."""
    found: dict[str, int | str] = {
        "iifname": interface,
        "table": table,
        "priority": priority,
        "protocol": PROTOCOL,
        "action": _TO_TABLE,
    }
    if mark is not None:
        found |= {"fwmark": mark, "fwmask": _WHOLE_MARK}
    if traffic is not None:
        found["ip_proto"] = traffic.protocol
        if traffic.source is not None and not traffic.source.is_any:
            found |= {"src": show_ip(traffic.source.address), "src_len": traffic.source.mask.bit_count()}
        if traffic.destination is not None and not traffic.destination.is_any:
            to = traffic.destination
            found |= {"dst": show_ip(to.address), "dst_len": to.mask.bit_count()}
        if traffic.source_port is not None:
            found["sport_range"] = f"{traffic.source_port}:{traffic.source_port}"
        if traffic.destination_port is not None:
            found["dport_range"] = f"{traffic.destination_port}:{traffic.destination_port}"
    return frozenset(found.items())


def local_default(table: int) -> Attributes:
    """The route that makes everything in a table this host's: ``local default dev lo``."""
    return _route("0.0.0.0/0", table, _LOCAL, _SCOPE_HOST) | {("oif", _LOOPBACK)}


def throw(destination: Network, table: int) -> Attributes:
    """The route that sends a destination on to the rules behind the one that led to the table."""
    prefix = f"{show_ip(destination.address)}/{destination.mask.bit_count()}"
    return _route(prefix, table, _THROW, _SCOPE_UNIVERSE)


def is_throw(route: Attributes) -> bool:
    """Whether a route is one of ``throw``."""
    return ("type", _THROW) in route


class Netlink:
    """An open routing socket. Its methods block, and raise KernelError when the kernel refuses."""

    def __init__(self, ipr: Any) -> None:
        self._ipr = ipr

    def rules(self) -> list[Attributes]:
        """Every IPv4 rule, in order."""
        return [_listed_rule(message) for message in self._ipr.get_rules(family=_AF_INET)]

    def routes(self, table: int) -> list[Attributes]:
        """Every IPv4 route of a table."""
        try:
            return [_listed_route(m) for m in self._ipr.get_routes(family=_AF_INET, table=table)]
        except NetlinkError as error:
            if error.code == errno.ENOENT:  # no table of that number yet
                return []
            raise

    def add_rule(self, attributes: Attributes) -> int:
        """Add a rule; how many were added: none if there is one already."""
        return self._change(self._ipr.rule, "add", attributes, errno.EEXIST)

    def add_route(self, attributes: Attributes) -> int:
        """Add a route; how many were added: none if there is one already."""
        return self._change(self._ipr.route, "add", attributes, errno.EEXIST)

    def delete_rule(self, attributes: Attributes) -> int:
        """Delete a rule; how many were deleted: none if it is gone already."""
        return self._change(self._ipr.rule, "del", attributes, errno.ENOENT)

    def delete_route(self, attributes: Attributes) -> int:
        """Delete a route; how many were deleted: none if it is gone already."""
        return self._change(self._ipr.route, "del", attributes, errno.ESRCH)

    @staticmethod
    def _change(call: Any, command: str, attributes: Attributes, harmless: int) -> int:
        try:
            call(command, family=_AF_INET, **dict(attributes))
        except NetlinkError as error:
            if error.code == harmless:
                return 0
            raise
        return 1


@contextmanager
def netlink(doing: str) -> Iterator[Netlink]:
    """Open a routing socket for a while; what the kernel refuses meanwhile is raised as KernelError.

    To be used in a thread without an event loop.
    """
    with rtnetlink(doing) as ipr:
        yield Netlink(ipr)


def _route(prefix: str, table: int, kind: int, scope: int) -> Attributes:
    return frozenset(
        {("dst", prefix), ("table", table), ("type", kind), ("scope", scope), ("proto", PROTOCOL)}
    )


def _listed_rule(message: Any) -> Attributes:
    found: dict[str, int | str] = {
        name.removeprefix("FRA_").lower(): value for name, value in message["attrs"] if name not in _SILENT
    }
    found["action"] = message["action"]
    found |= {key: message[key] for key in ("src_len", "dst_len", "tos") if message[key]}
    if message["flags"] & _INVERTED:
        found["flags"] = _INVERTED
    return frozenset(found.items())


def _listed_route(message: Any) -> Attributes:
    attributes = dict(message["attrs"])
    prefix = f"{attributes.get('RTA_DST', '0.0.0.0')}/{message['dst_len']}"
    found = _route(prefix, attributes["RTA_TABLE"], message["type"], message["scope"])
    found = found - {("proto", PROTOCOL)} | {("proto", message["proto"])}
    optional = (("oif", "RTA_OIF"), ("priority", "RTA_PRIORITY"), ("gateway", "RTA_GATEWAY"))
    return found | {(key, attributes[name]) for key, name in optional if name in attributes}
