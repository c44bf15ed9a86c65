"""Policy routing that brings transit packets of the LAN to our sockets (ip-rule(8)).

    118: from all iif eth0 ipproto gre             lookup T     for each LAN interface and
    118: from all iif eth0 ipproto tcp dport 1723  lookup T     kind of traffic
    118: from all iif eth0 fwmark 0x76706e01       lookup T     ICMP errors (see nft.py)
    table T:  throw 10.0.0.0/8        LAN to LAN: on to the next rules, as if we were not there
              local default dev lo    the rest is for this host

Rules and routes are tagged "proto 118", and T follows from the instance's name: a daemon started after a
crash finds what its predecessor left, keeps what is right and removes what is not. Nothing without both
of these marks is ever touched.

The functions here block for some milliseconds: call them with ``asyncio.to_thread``.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from relay.kernel import KernelError
from relay.rules import netlink as nl
from relay.rules.interception import PROTOCOL, Interception, is_ours, table_number
from relay.rules.netlink import Attributes, Netlink

_TAGGED: Final = ("protocol", PROTOCOL)
_ROUTE_TAGGED: Final = ("proto", PROTOCOL)

#: Looks at the kernel until it must be as wanted; the second look is the proof of the first change.
_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Changes:
    """How many rules and routes were added and removed; false when none was."""

    added: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def install(wanted: Interception) -> Changes:
    """Make the kernel's rules what is wanted, changing only what differs; may be repeated at any time.

    New rules come before old ones go, so that in a reload no packet slips between.

    Raises:
        KernelError: the kernel refuses, the table is in use by somebody else, or another instance
            intercepts on one of the interfaces.
    """
    with nl.netlink("set up policy routing") as kernel:
        _refuse_others(kernel, wanted)
        return _reconcile(kernel, wanted.table, _rules(wanted), _routes(wanted))


def remove(instance: str) -> Changes:
    """Remove exactly what ``install`` made for the instance; nothing there is no error.

    Raises:
        KernelError: the kernel refuses.
    """
    with nl.netlink("remove policy routing") as kernel:
        return _reconcile(kernel, table_number(instance), frozenset(), frozenset())


def _rules(wanted: Interception) -> Set[Attributes]:
    if not wanted.traffic:
        return frozenset()
    table, priority = wanted.table, wanted.priority
    rules = {
        nl.rule(interface, table, priority, traffic=traffic)
        for interface in wanted.interfaces
        for traffic in wanted.traffic
    } | {nl.rule(interface, table, priority, mark=wanted.mark) for interface in wanted.interfaces}
    # The kernel takes a rule for one that it has if that has at least its attributes: it refuses a wider one
    # beside a narrower, which has nothing to add to it anyway.
    return {rule for rule in rules if not any(wider < rule for wider in rules)}


def _routes(wanted: Interception) -> Set[Attributes]:
    if not wanted.traffic:
        return frozenset()
    return {nl.throw(network, wanted.table) for network in wanted.exempt} | {nl.local_default(wanted.table)}


def _refuse_others(kernel: Netlink, wanted: Interception) -> None:
    """Raise when somebody else uses our table, or intercepts where we want to."""
    for attributes in kernel.rules():
        rule = dict(attributes)
        table, interface = int(rule.get("table", 0)), rule.get("iifname")
        if _TAGGED not in attributes:
            if table == wanted.table:
                raise _taken(wanted, "an `ip rule` that is not ours leads to it")
        elif table != wanted.table and is_ours(table) and interface in wanted.interfaces:
            raise KernelError(
                f"another instance (routing table {table}) already intercepts on {interface}",
                "stop it, or give each instance its own lan.interfaces; if it crashed, remove what it left: "
                f"`ip rule flush table {table}; ip route flush table {table}`",
            )
    if any(_ROUTE_TAGGED not in route for route in kernel.routes(wanted.table)):
        raise _taken(wanted, "it has routes that are not ours")


def _taken(wanted: Interception, why: str) -> KernelError:
    return KernelError(
        f"routing table {wanted.table} is taken: {why}",
        f'choose another `name` for this instance (now "{wanted.instance}"): the table follows from it',
    )


def _reconcile(kernel: Netlink, table: int, rules: Set[Attributes], routes: Set[Attributes]) -> Changes:
    """Make our rules and routes of a table what they should be.

    The kernel deletes the first rule that has *at least* the attributes named, and that may be a
    narrower one which is wanted; so this looks again until nothing differs.
    """
    added = removed = 0
    for _ in range(_ROUNDS):
        have_rules = {r for r in kernel.rules() if _TAGGED in r and ("table", table) in r}
        have_routes = {r for r in kernel.routes(table) if _ROUTE_TAGGED in r}
        if have_rules == rules and have_routes == routes:
            return Changes(added, removed)
        # What the default route must not swallow comes before it, and the rules come last; then backwards.
        for route in sorted(routes - have_routes, key=nl.is_throw, reverse=True):
            added += kernel.add_route(route)
        for rule in rules - have_rules:
            added += kernel.add_rule(rule)
        for rule in have_rules - rules:
            removed += kernel.delete_rule(rule)
        for route in sorted(have_routes - routes, key=nl.is_throw):
            removed += kernel.delete_route(route)
    raise KernelError(
        f"another program keeps changing our rules (routing table {table})",
        "let it keep foreign rules; for systemd-networkd: ManageForeignRoutingPolicyRules=no",
    )
