"""The privileges that a configuration needs (capabilities(7)), and why."""

from relay.config.models import Config

#: ip(7): ports below need a privilege, unless net.ipv4.ip_unprivileged_port_start says otherwise.
_PRIVILEGED = 1024


def needed_capabilities(config: Config) -> dict[str, str]:
    """Return the names of the capabilities with the reason for each."""
    needed = {"CAP_NET_RAW": "GRE, ESP and IPsec's UDP by raw sockets"}
    router = [rule.name for rule in config.masquerade if rule.listen is None]
    router += [rule.name for rule in config.expose if rule.source == "keep"]
    if router:
        needed["CAP_NET_ADMIN"] = f"policy routing and foreign addresses, for {', '.join(router)}"
    if low := _low_ports(config):
        needed["CAP_NET_BIND_SERVICE"] = f"ports below {_PRIVILEGED}: {', '.join(low)}"
    return needed


def _low_ports(config: Config) -> list[str]:
    low = [rule.listen for rule in config.forward if not rule.listen.startswith("ip/")]
    low = [listen for listen in low if int(listen.partition("/")[2]) < _PRIVILEGED]
    protocols = [rule.proto for rule in config.masquerade] + [rule.proto for rule in config.expose]
    if any("ipsec" in proto for proto in protocols):
        low += ["udp/500", "udp/4500"]
    if config.api.http and int(config.api.http.partition(":")[2]) < _PRIVILEGED:
        low.append(f"tcp/{config.api.http.partition(':')[2]}")
    return low
