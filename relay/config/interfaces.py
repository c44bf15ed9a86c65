"""What "auto" means for the interfaces, given the addresses this host has now."""

from collections.abc import Iterable

from protocols.addr import Network, contains
from relay.config.models import Config


def lan_interfaces(config: Config, addresses: Iterable[tuple[str, int]], wan: str) -> tuple[str, ...]:
    """Return the LAN interfaces: those named, or for "auto" those that have an address in lan.networks.

    Args:
        config: the configuration.
        addresses: every (interface, IPv4 address) of this host.
        wan: the name of the WAN interface, which is never one of them; nor is the loopback interface.

    Returns:
        Names in the order they were found; none when "auto" finds nothing.
    """
    if config.lan.interfaces != ("auto",):
        return config.lan.interfaces
    networks = tuple(Network.parse(text) for text in config.lan.networks)
    found = (name for name, address in addresses if name not in (wan, "lo") and contains(networks, address))
    return tuple(dict.fromkeys(found))
