"""What a firewall that drops by default must allow for us, as lines of nft.

Our packets pass the input and output hooks, never the forward hook: policy routing makes the LAN's
transit packets local. GRE, and ICMP errors about GRE, are exempt from connection tracking (our own
table sees to that), so "ct state established,related accept" does not cover them. The same holds for ESP;
IPsec's UDP is tracked, but a peer may speak first after a silence longer than conntrack's memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relay.config.crosscheck import overlap
from relay.config.models import Config, Expose, Forward, Masquerade

_ERRORS = "icmp type { destination-unreachable, time-exceeded, parameter-problem }"


@dataclass(frozen=True, slots=True)
class Advice:
    """Lines for the chains of somebody's own firewall; they are nft rules, without table and chain."""

    #: For the chain with "hook input".
    inward: tuple[str, ...]
    #: For the chain with "hook output", where that one drops by default.
    outward: tuple[str, ...]


def firewall_lines(config: Config, wan: str, lan: tuple[str, ...]) -> Advice:
    """Return the lines for the rules of a configuration.

    Args:
        config: the configuration.
        wan: the name of the WAN interface, "auto" resolved.
        lan: the names of the LAN interfaces, "auto" resolved.
    """
    outside, within = f'"{wan}"', _set(f'"{name}"' for name in lan)
    masquerade = [rule for rule in config.masquerade if "pptp" in rule.proto]
    expose = [rule for rule in config.expose if "pptp" in rule.proto and rule.allow]
    inward: list[str] = []
    outward: list[str] = []
    for rule in masquerade:
        inward += _masquerade_in(rule, outside, within)
        outward += _masquerade_out(rule, outside, within)
    for exposed in expose:
        inward += _expose_in(config, exposed, outside, within)
        outward += _expose_out(exposed, outside, within)
    ipsec = _ipsec_in(config, outside, within), _ipsec_out(config, outside, within)
    inward += ipsec[0]
    outward += ipsec[1]
    for forward in config.forward:
        if forward.allow:
            inward += _forward_in(config, forward, outside, within)
            outward += _forward_out(config, forward, outside, within)
    if inward:
        inward += [f"iifname {side} {_ERRORS} accept" for side in (outside, within)]
        outward += [f"oifname {side} {_ERRORS} accept" for side in (outside, within)]
    return Advice(tuple(dict.fromkeys(inward)), tuple(dict.fromkeys(outward)))


def _masquerade_in(rule: Masquerade, outside: str, within: str) -> Iterator[str]:
    note = f'comment "{rule.name}"'
    clients, servers = _from(rule.clients), _to(rule.servers if rule.listen is None else (rule.listen,))
    yield f"iifname {within} {clients}{servers}tcp dport 1723 accept {note}"
    yield f"iifname {within} {clients}{servers}ip protocol gre accept {note}"
    yield f"iifname {outside} {_from(rule.servers)}ip protocol gre accept {note}"


def _masquerade_out(rule: Masquerade, outside: str, within: str) -> Iterator[str]:
    note = f'comment "{rule.name}"'
    yield f"oifname {outside} {_to(rule.servers)}tcp dport 1723 accept {note}"
    yield f"oifname {outside} {_to(rule.servers)}ip protocol gre accept {note}"
    yield f"oifname {within} {_to(rule.clients)}tcp sport 1723 accept {note}"
    yield f"oifname {within} {_to(rule.clients)}ip protocol gre accept {note}"


def _expose_in(config: Config, rule: Expose, outside: str, within: str) -> Iterator[str]:
    note = f'comment "{rule.name}"'
    peers, server = _from(rule.allow), _from((rule.server,))
    yield f"iifname {outside} {peers}tcp dport 1723 accept {note}"
    yield f"iifname {outside} {peers}ip protocol gre accept {note}"
    yield f"iifname {within} {server}tcp sport 1723 ct state established accept {note}"
    yield f"iifname {within} {server}ip protocol gre accept {note}"
    # Hairpin: an inside host that may, dials our public address.
    shared = {both for peer in rule.allow for own in config.lan.networks if (both := overlap(peer, own))}
    if shared:
        neighbours = _from(sorted(shared))
        yield f"iifname {within} {neighbours}tcp dport 1723 accept {note}"
        yield f"iifname {within} {neighbours}ip protocol gre accept {note}"


def _expose_out(rule: Expose, outside: str, within: str) -> Iterator[str]:
    note = f'comment "{rule.name}"'
    yield f"oifname {outside} {_to(rule.allow)}tcp sport 1723 accept {note}"
    yield f"oifname {outside} {_to(rule.allow)}ip protocol gre accept {note}"
    yield f"oifname {within} {_to((rule.server,))}tcp dport 1723 accept {note}"
    yield f"oifname {within} {_to((rule.server,))}ip protocol gre accept {note}"


def _ipsec_in(config: Config, outside: str, within: str) -> list[str]:
    lines: list[str] = []
    for rule in config.masquerade:
        if "ipsec" in rule.proto:
            target = rule.servers if rule.listen is None else (rule.listen,)
            lines += _ipsec(rule.name, f"iifname {within} {_from(rule.clients)}{_to(target)}")
            lines += _ipsec(rule.name, f"iifname {outside} {_from(rule.servers)}")
    for exposed in config.expose:
        if "ipsec" in exposed.proto and exposed.allow:
            lines += _ipsec(exposed.name, f"iifname {outside} {_from(exposed.allow)}")
            # The server's answers; and neighbours that dial our public address.
            lines += _ipsec(exposed.name, f"iifname {within} {_from((exposed.server,))}")
            shared = {overlap(peer, own) for peer in exposed.allow for own in config.lan.networks} - {None}
            if shared:
                lines += _ipsec(exposed.name, f"iifname {within} {_from(sorted(filter(None, shared)))}")
    return lines


def _ipsec_out(config: Config, outside: str, within: str) -> list[str]:
    lines: list[str] = []
    for rule in config.masquerade:
        if "ipsec" in rule.proto:
            lines += _ipsec(rule.name, f"oifname {outside} {_to(rule.servers)}")
            lines += _ipsec(rule.name, f"oifname {within} {_to(rule.clients)}")
    for exposed in config.expose:
        if "ipsec" in exposed.proto and exposed.allow:
            lines += _ipsec(exposed.name, f"oifname {outside} {_to(exposed.allow)}")
            lines += _ipsec(exposed.name, f"oifname {within} {_to((exposed.server,))}")
    return lines


def _ipsec(name: str, where: str) -> Iterator[str]:
    """IPsec in one place: either end may be the one whose port is known."""
    for what in ("udp dport { 500, 4500 }", "udp sport { 500, 4500 }", "ip protocol esp"):
        yield f'{where}{what} accept comment "{name}"'


def _forward_in(config: Config, rule: Forward, outside: str, within: str) -> Iterator[str]:
    note = f'comment "{rule.name}"'
    listens, _, answers = _forwarded(rule)
    yield f"iifname {outside} {_from(rule.allow)}{listens} accept {note}"
    yield f"iifname {within} {_from((rule.server.partition(':')[0],))}{answers} accept {note}"
    shared = {overlap(peer, own) for peer in rule.allow for own in config.lan.networks} - {None}
    if shared:
        yield f"iifname {within} {_from(sorted(filter(None, shared)))}{listens} accept {note}"


def _forward_out(config: Config, rule: Forward, outside: str, within: str) -> Iterator[str]:
    note = f'comment "{rule.name}"'
    listens, serves, _ = _forwarded(rule)
    back = listens.replace("dport", "sport")
    yield f"oifname {within} {_to((rule.server.partition(':')[0],))}{serves} accept {note}"
    yield f"oifname {outside} {_to(rule.allow)}{back} accept {note}"
    shared = {overlap(peer, own) for peer in rule.allow for own in config.lan.networks} - {None}
    if shared:
        yield f"oifname {within} {_to(sorted(filter(None, shared)))}{back} accept {note}"


def _forwarded(rule: Forward) -> tuple[str, str, str]:
    """What comes to us, what goes to the server, and what the server answers."""
    kind, _, number = rule.listen.partition("/")
    if kind == "ip":
        return (f"ip protocol {number}",) * 3
    served = rule.server.partition(":")[2] or number
    established = "ct state established " if kind == "tcp" else ""
    return f"{kind} dport {number}", f"{kind} dport {served}", f"{kind} sport {served} {established}".rstrip()


def _from(networks: Iterable[str]) -> str:
    return _match("ip saddr", networks)


def _to(networks: Iterable[str]) -> str:
    return _match("ip daddr", networks)


def _match(what: str, networks: Iterable[str]) -> str:
    wanted = _largest(networks)
    return "" if "any" in wanted else f"{what} {_set(wanted)} "


def _largest(networks: Iterable[str]) -> list[str]:
    """Leave out what lies inside another one: nft refuses sets whose intervals overlap."""
    distinct = list(dict.fromkeys(networks))
    return [one for one in distinct if not any(o != one and overlap(one, o) == one for o in distinct)]


def _set(members: Iterable[str]) -> str:
    listed = list(members)
    return listed[0] if len(listed) == 1 else "{ " + ", ".join(listed) + " }"
