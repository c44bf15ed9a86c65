"""What does not fit together, though every value by itself is right.

Each check yields (path, message, advice); a path has indices into the given Config. Keys and tables that are
wrong by themselves are in ``wrong`` and hold defaults: checks that compare something with them are left out.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from protocols.addr import Network, parse_ip
from relay.config.locator import KeyPath
from relay.config.models import RULE_KINDS, Config, Expose, Forward

Found = Iterator[tuple[KeyPath, str, str]]

#: What rules for VPNs carry of what a forward could listen on. GRE of another kind than PPTP's is left over
#: by clients; by an exposed server it is not, for who dials it is not known beforehand.
_CARRIED = {
    ("expose", "pptp"): ("tcp/1723", "ip/47"),
    ("masquerade", "pptp"): ("tcp/1723",),
    ("expose", "ipsec"): ("udp/500", "udp/4500", "ip/50"),
    ("masquerade", "ipsec"): ("udp/500", "udp/4500", "ip/50"),
}
_LOOPBACK = Network.parse("127.0.0.0/8")


def contradictions(config: Config, wrong: frozenset[KeyPath] = frozenset()) -> Found:
    """Yield everything that does not fit together."""
    for check, needed in _CHECKS:
        if not any(key in wrong or key[:1] in wrong for key in needed):
            yield from check(config)


def overlap(first: str, second: str) -> str | None:
    """Return the smaller of two networks if one holds the other, else None."""
    one, two = Network.parse(first), Network.parse(second)
    small, large, text = (one, two, first) if one.mask >= two.mask else (two, one, second)
    return text if small.address & large.mask == large.address else None


def inside(networks: tuple[str, ...], text: str) -> bool:
    """Whether the whole of a network or address lies in one of the networks."""
    small = Network.parse(text)
    parsed = [Network.parse(network) for network in networks]
    return any(small.mask & n.mask == n.mask and small.address in n for n in parsed)


def _interfaces(config: Config) -> Found:
    for index, name in enumerate(config.lan.interfaces):
        if name == config.wan.interface and name != "auto":
            advice = "one interface cannot be both sides; see: ip -brief address"
            yield ("lan", "interfaces", index), f"{name} is wan.interface as well", advice
        if name in config.lan.interfaces[:index]:
            yield ("lan", "interfaces", index), f"{name} is named twice", "name it once"
    if "auto" in config.lan.interfaces and len(config.lan.interfaces) > 1:
        yield ("lan", "interfaces"), '"auto" stands alone', 'write ["auto"], or the names without it'


def _wan_address(config: Config) -> Found:
    address = config.wan.address
    if address != "auto" and inside(config.lan.networks, address):
        advice = "make lan.networks smaller, so that the public address is outside of them"
        yield ("wan", "address"), f"{address} is inside lan.networks", advice


def _names(config: Config) -> Found:
    seen: dict[str, str] = {}
    for kind in RULE_KINDS:
        for index, rule in enumerate(getattr(config, kind)):
            here = f"{kind}[{index}]"
            if rule.name in seen:
                advice = "give each rule a name of its own"
                yield (kind, index, "name"), f'"{rule.name}" is the name of {seen[rule.name]} already', advice
            seen.setdefault(rule.name, here)


def _protocols(config: Config) -> Found:
    for kind in ("masquerade", "expose"):
        for index, rule in enumerate(getattr(config, kind)):
            if len(set(rule.proto)) != len(rule.proto):
                yield (kind, index, "proto"), "a protocol is named twice", "name it once"


def _clients(config: Config) -> Found:
    networks = config.lan.networks
    for index, rule in enumerate(config.masquerade):
        for position, client in enumerate(rule.clients):
            if client != "any" and not inside(networks, client):
                message = f"{client} is not inside lan.networks ({', '.join(networks)})"
                advice = "its packets would be dropped as spoofed: add it to lan.networks"
                yield ("masquerade", index, "clients", position), message, advice
        for position, server in enumerate(rule.servers):
            if server != "any" and inside(networks, server):
                message = f"{server} is inside lan.networks, so nothing masquerades towards it"
                yield ("masquerade", index, "servers", position), message, "name hosts outside"


def _listen(config: Config) -> Found:
    for index, rule in enumerate(config.masquerade):
        if rule.listen is None:
            continue
        if len(rule.servers) != 1 or Network.parse(rule.servers[0]).mask != 0xFFFFFFFF:
            advice = "with listen, servers is exactly one address: all who dial listen reach it"
            yield (
                ("masquerade", index, "servers"),
                f"listen = {rule.listen} leads to no single server",
                advice,
            )
    for (first, one), (second, two) in combinations(enumerate(config.masquerade), 2):
        if one.listen and one.listen == two.listen and set(one.proto) & set(two.proto):
            message = f'{two.listen} is the listen address of "{one.name}" (masquerade[{first}]) already'
            yield ("masquerade", second, "listen"), message, "each rule needs an address of its own"


def _listen_inside(config: Config) -> Found:
    for index, rule in enumerate(config.masquerade):
        if rule.listen is not None and not inside(config.lan.networks, rule.listen):
            advice = "listen is an address of this machine that clients dial, so inside lan.networks"
            yield ("masquerade", index, "listen"), f"{rule.listen} is outside lan.networks", advice


def _servers_inside(config: Config) -> Found:
    kinds: dict[str, Sequence[Expose | Forward]] = {"expose": config.expose, "forward": config.forward}
    for kind, rules in kinds.items():
        for index, rule in enumerate(rules):
            host = rule.server.partition(":")[0]
            if not inside(config.lan.networks, host):
                message = f"{host} is not inside lan.networks ({', '.join(config.lan.networks)})"
                yield (kind, index, "server"), message, "an exposed server is inside; add its network there"


def _ambiguous(config: Config) -> Found:
    for (first, one), (second, two) in combinations(enumerate(config.expose), 2):
        shared = [proto for proto in one.proto if proto in two.proto]
        both = next((o for a in one.allow for b in two.allow if (o := overlap(a, b))), None)
        if shared and both and not _same(one, two):
            who = "everybody" if both == "any" else both
            message = (
                f'{who} may reach {two.server} by "{two.name}" and {one.server} by "{one.name}" '
                f"(expose[{first}]): which one is meant for {shared[0]}?"
            )
            yield ("expose", second, "allow"), message, "make the two allow lists disjoint"


def _same(one: Expose, two: Expose) -> bool:
    return one.server == two.server and one.source == two.source


def _forwards(config: Config) -> Found:
    taken: dict[str, str] = {}
    for kind in ("expose", "masquerade"):
        for index, vpn in enumerate(getattr(config, kind)):
            for listen in (name for proto in vpn.proto for name in _CARRIED[kind, proto]):
                taken.setdefault(listen, f'{kind} rule "{vpn.name}" ({kind}[{index}])')
    for index, rule in enumerate(config.forward):
        if rule.listen in taken:
            message = f"{rule.listen} is taken by {taken[rule.listen]}"
            yield ("forward", index, "listen"), message, "one thing can listen there: leave one of them out"
        taken.setdefault(rule.listen, f'"{rule.name}" (forward[{index}])')
        if rule.listen.startswith("ip/") and rule.source == "gateway":
            message = f"{rule.listen} has no ports, so a server that sees our address cannot tell peers apart"
            yield ("forward", index, "source"), message, 'write source = "keep"'
        if rule.listen.startswith("ip/") and ":" in rule.server:
            advice = f'write server = "{rule.server.partition(":")[0]}"'
            yield ("forward", index, "server"), f"{rule.listen} has no ports", advice


def _ports(config: Config) -> Found:
    for index, rule in enumerate(config.forward):
        if rule.listen.startswith("udp/") and _is_given_out(config, int(rule.listen[4:])):
            message = f"{rule.listen} is one of ipsec.ports, which stand for ports of inside hosts"
            yield ("forward", index, "listen"), message, "leave it out of ipsec.ports"


def _is_given_out(config: Config, port: int) -> bool:
    first, last = config.ipsec.ports.split("-")
    protocols = [rule.proto for rule in config.masquerade] + [rule.proto for rule in config.expose]
    return any("ipsec" in proto for proto in protocols) and int(first) <= port <= int(last)


def _token(config: Config) -> Found:
    api = config.api
    if api.token is not None and api.token_file:
        yield ("api", "token_file"), "api.token is given as well", "keep one of them"
    if api.token is not None and not api.token.get_secret_value():
        yield ("api", "token"), "is empty", "write a token, such as the output of: openssl rand -hex 32"


def _open_api(config: Config) -> Found:
    api = config.api
    host = api.http.partition(":")[0]
    if host and parse_ip(host) not in _LOOPBACK and api.token is None and not api.token_file:
        message = f"{api.http} is not loopback, and there is no token"
        yield ("api", "http"), message, "set api.token_file, or listen on 127.0.0.1"


def _ddns(config: Config) -> Found:
    needed = {"url": "url", "exec": "command"}
    for index, entry in enumerate(config.ddns):
        if entry.password is not None and entry.password_file:
            yield ("ddns", index, "password_file"), "password is given as well", "keep one of them"
        key = needed.get(entry.provider)
        if key and not getattr(entry, key):
            yield ("ddns", index, key), "is missing", f'provider = "{entry.provider}" needs it'
        if ":" in entry.username and entry.provider in ("dyndns2", "url"):
            yield ("ddns", index, "username"), "has a colon, which HTTP cannot carry", "leave it out"
        if entry.url and not entry.url.startswith(("https://", "http://")):
            yield ("ddns", index, "url"), "is no address of the web", "write one that begins with https://"


_WAN, _LAN, _NETWORKS = ("wan", "interface"), ("lan", "interfaces"), ("lan", "networks")
_TOKENS = (("api", "token"), ("api", "token_file"))
#: Each check with the keys, not those of rules, that it compares with something.
_CHECKS: tuple[tuple[Callable[[Config], Found], tuple[KeyPath, ...]], ...] = (
    (_interfaces, (_WAN, _LAN)),
    (_wan_address, (("wan", "address"), _NETWORKS)),
    (_names, ()),
    (_protocols, ()),
    (_clients, (_NETWORKS,)),
    (_listen, ()),
    (_listen_inside, (_NETWORKS,)),
    (_servers_inside, (_NETWORKS,)),
    (_ambiguous, ()),
    (_forwards, ()),
    (_ports, (("ipsec", "ports"),)),
    (_token, _TOKENS),
    (_open_api, (("api", "http"), *_TOKENS)),
    (_ddns, ()),
)
