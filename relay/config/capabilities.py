"""The privileges that a configuration needs (capabilities(7)), and why; and what others are enough for."""

from dataclasses import dataclass
from pathlib import Path

from relay.config.models import Config

#: ip(7): where in the file system of a network namespace is said which ports need a privilege.
_FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_USUAL = 1024
#: IKE, the lowest port that a rule for IPsec takes.
_IKE = 500


@dataclass(frozen=True, slots=True)
class Way:
    """A way of working, and the capabilities it takes."""

    name: str
    meaning: str
    takes: tuple[str, ...]


def first_unprivileged_port() -> int:
    """Return the lowest port that anybody may use in this network namespace; runtimes make it 0 in theirs."""
    try:
        return int(_FIRST_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return _USUAL


def needed_capabilities(config: Config) -> dict[str, str]:
    """Return the names of the capabilities with the reason for each."""
    needed = {"CAP_NET_RAW": "GRE, ESP and IPsec's UDP by raw sockets"}
    router = [rule.name for rule in config.masquerade if rule.listen is None]
    router += [rule.name for rule in config.expose if rule.source == "keep"]
    router += [rule.name for rule in config.forward if rule.source == "keep"]
    if router:
        needed["CAP_NET_ADMIN"] = f"policy routing and foreign addresses, for {', '.join(router)}"
    if config.fastpath.mode == "require":
        for name in ("CAP_NET_ADMIN", "CAP_BPF"):
            needed.setdefault(name, 'the fast path (fastpath.mode = "require")')
    first = first_unprivileged_port()
    if low := _low_ports(config, first):
        needed["CAP_NET_BIND_SERVICE"] = f"ports below {first}: {', '.join(low)}"
    return needed


def ways() -> tuple[Way, ...]:
    """Return what there is to be allowed here, the most modest first."""
    low = ("CAP_NET_BIND_SERVICE",) if first_unprivileged_port() > _IKE else ()
    return (
        Way("relay style", 'masquerade with listen, expose with source = "gateway"', ("CAP_NET_RAW",)),
        Way(
            "router style",
            'masquerade without listen, expose with source = "keep"',
            ("CAP_NET_RAW", "CAP_NET_ADMIN"),
        ),
        Way("fast path", "flows that stand are carried by the kernel", ("CAP_NET_ADMIN", "CAP_BPF")),
        Way("IPsec", "its ports 500 and 4500, in either style", ("CAP_NET_RAW", *low)),
    )


def _low_ports(config: Config, first: int) -> list[str]:
    ports = [rule.listen for rule in config.forward if not rule.listen.startswith("ip/")]
    protocols = [rule.proto for rule in config.masquerade] + [rule.proto for rule in config.expose]
    if any("ipsec" in proto for proto in protocols):
        ports += ["udp/500", "udp/4500"]
    if config.api.http:
        ports.append(f"tcp/{config.api.http.partition(':')[2]}")
    return [port for port in ports if int(port.partition("/")[2]) < first]
