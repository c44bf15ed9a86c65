"""The public side: which interface and address it is now, and if there is none, why.

What the configuration names is looked for again at every change, so it may come late, go, come back as
another interface under the same name, or be renamed: with ``interface = "auto"`` the default route is
followed.

An address that is in use stays in use for as long as the interface has it, whatever others come and go.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from protocols.addr import Ip4, Network, contains, parse_ip, show_ip
from protocols.admission import Addresses
from relay import addresses
from relay.addresses import Interface, Scene
from relay.config.models import Config

#: RFC 1918 and RFC 6598: addresses behind somebody else's NAT.
_PRIVATE = tuple(Network.parse(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
_CARRIERS = (Network.parse("100.64.0.0/10"),)

#: How many interfaces are named to somebody who has named one that is not there.
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Uplink:
    """The WAN interface as it is, and the address in use."""

    interface: Interface
    address: Ip4 | None
    #: Every address of this host, and of all hosts of the networks it is in.
    own: frozenset[Ip4]
    broadcasts: frozenset[Ip4] = frozenset()

    @property
    def addresses(self) -> Addresses:
        """Our addresses, as the core wants them."""
        wan = self.address
        return Addresses(wan, self.own | {wan} if wan is not None else self.own, self.broadcasts)


#: Before there was any.
NOWHERE = Uplink(Interface(""), None, frozenset())


def eyes(settings: Config, lan: Sequence[str]) -> Callable[[], Scene]:
    """What to call to look at all that the public side depends on, and at the LAN interfaces. Blocks."""
    name, auto = settings.wan.interface, settings.wan.interface == "auto"
    return partial(addresses.look, tuple(lan) if auto else (name, *lan), follow_default=auto)


def whole(settings: Config) -> Callable[[Scene], bool]:
    """Whether there is nothing to wait for in a scene: the public side is there and has an address."""

    def there(scene: Scene) -> bool:
        interface = _interface(settings, scene)
        return interface.exists and bool(interface.addresses or settings.wan.address != "auto")

    return there


def found(settings: Config, scene: Scene, current: Ip4 | None) -> Uplink:
    """The public side in a scene; ``current`` is the address in use so far."""
    interface = _interface(settings, scene)
    if settings.wan.address != "auto":
        address: Ip4 | None = parse_ip(settings.wan.address)
    else:
        address = current if current in interface.addresses else interface.address
    return Uplink(interface, address, scene.own, scene.broadcasts)


def _interface(settings: Config, scene: Scene) -> Interface:
    name = scene.default if settings.wan.interface == "auto" else settings.wan.interface
    return Interface("") if name is None else scene.interfaces[name]


def remarks(settings: Config, uplink: Uplink) -> Iterator[str]:
    """What an operator should know of the public side, in whole sentences."""
    interface, address = uplink.interface, uplink.address
    if address is None:
        yield _missing(interface)
    elif address not in uplink.own:
        yield f"wan.address {show_ip(address)} is on no interface of this host: nothing comes in"
    elif not interface.up:
        yield f"{interface.name} is down or has no carrier"
    if address is None:
        return
    exposed = [*(rule.name for rule in settings.expose), *(rule.name for rule in settings.forward)]
    served = f"{', '.join(exposed) or 'an exposed server'} cannot be reached from the internet"
    text = show_ip(address)
    if contains(_CARRIERS, address):
        yield (
            f"the public address {text} is the provider's own (carrier-grade NAT, RFC 6598): {served}, and "
            "clients get through only as far as the provider's NAT lets GRE and ESP pass; "
            "ask the provider for a public address"
        )
    elif contains(_PRIVATE, address):
        yield (
            f"the public address {text} is private (RFC 1918), so another router is before us: {served}, "
            "unless that router forwards TCP 1723 and GRE, UDP 500 and 4500 and ESP to us"
        )


def useless(address: Ip4) -> str:
    """Why nobody outside could use an address; empty when it is a public one."""
    if contains(_CARRIERS, address):
        return f"{show_ip(address)} is the provider's own (carrier-grade NAT, RFC 6598)"
    return f"{show_ip(address)} is private (RFC 1918)" if contains(_PRIVATE, address) else ""


def _missing(interface: Interface) -> str:
    """Why there is no address, and what is waited for."""
    if not interface.name:
        return 'waiting for a default route: wan.interface is "auto"'
    if not interface.exists:
        others = addresses.names()[:_MOST_NAMED]
        there = f"there are {', '.join(others)}" if others else "there is none"
        return f"waiting for interface {interface.name}, which is not there; {there}"
    if not interface.up:
        return f"waiting for an address on {interface.name}, which is down or has no carrier"
    if interface.link_local:
        return f"waiting for an address on {interface.name}, which has a link-local one only: does DHCP work?"
    return f"waiting for an address on {interface.name}"
