"""What shall be brought to us, and the names our kernel objects go by."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocols.addr import Ip4, Network

#: Tags our rules and routes, in ``ip rule`` and ``ip route`` "proto 118": the v of vpnmasq. Not in
#: /etc/iproute2/rt_protos, and no routing daemon's.
PROTOCOL: Final = 118

#: Our routing tables are 0x76000000 … 0x76ffffff (1979711488 … 1996488703).
_TABLES: Final = 0x76000000

#: IANA protocol numbers.
TCP: Final = 6
UDP: Final = 17
GRE: Final = 47
ESP: Final = 50
AH: Final = 51
FWZ: Final = 94

#: RFC 2637 §3: the control connection's port.
_PPTP_PORT: Final = 1723
#: RFC 2408 §2.5.1, RFC 3947 §8: IKE, and IPsec in UDP.
_IPSEC_PORTS: Final = (500, 4500)


@dataclass(frozen=True, slots=True)
class Traffic:
    """One kind of packet to bring to us; fields that are None match everything."""

    protocol: int
    source: Network | None = None
    source_port: int | None = None
    destination_port: int | None = None
    destination: Network | None = None


@dataclass(frozen=True, slots=True)
class Interception:
    """Transit traffic of the LAN that becomes ours. Two that are equal need no change in the kernel."""

    #: Name of this instance; table number and table name follow from it.
    instance: str
    #: LAN interfaces.
    interfaces: tuple[str, ...]
    #: Destinations that stay the kernel's: the LAN itself.
    exempt: tuple[Network, ...]
    traffic: tuple[Traffic, ...]
    #: Packets that our nftables table gives this mark are brought to us too: ICMP errors about our traffic.
    mark: int = 0x76706E01
    #: Where in the list of rules ours stand.
    priority: int = 118

    @property
    def table(self) -> int:
        """Number of the routing table."""
        return table_number(self.instance)


def pptp_traffic(*, clients: bool, servers: Iterable[Ip4]) -> tuple[Traffic, ...]:
    """PPTP of the LAN's clients, and the answers of exposed servers that see their peers' own addresses."""
    hosts = [Network(server, 0xFFFFFFFF) for server in servers]
    answers = (Traffic(TCP, source=host, source_port=_PPTP_PORT) for host in hosts)
    if clients:  # whose GRE rule covers the servers too
        return (Traffic(GRE), Traffic(TCP, destination_port=_PPTP_PORT), *answers)
    return (*(Traffic(GRE, source=host) for host in hosts), *answers)


def ipsec_traffic(*, clients: bool, servers: Iterable[Ip4]) -> tuple[Traffic, ...]:
    """IPsec of the LAN's clients, and of exposed servers that see their peers' own addresses.

    With AH and FWZ encapsulation, which are taken only to be counted and explained: routed on, they would be
    spoilt by the change of addresses, and nobody would learn why.
    """
    sources = [None] if clients else [Network(server, 0xFFFFFFFF) for server in servers]
    return tuple(
        traffic
        for source in sources
        for traffic in (
            *(Traffic(protocol, source) for protocol in (ESP, AH, FWZ)),
            *(Traffic(UDP, source, destination_port=port) for port in _IPSEC_PORTS),
            *(Traffic(UDP, source, source_port=port) for port in _IPSEC_PORTS),
        )
    )


def table_number(instance: str) -> int:
    """The routing table of an instance: always the same, so that what a crash left is found again."""
    return _TABLES | zlib.crc32(instance.encode()) & 0xFFFFFF


def is_ours(table: int) -> bool:
    """Whether the number is one that instances of vpnmasq use."""
    return table & 0xFF000000 == _TABLES


def table_name(instance: str) -> str:
    """The name of an instance's nftables table.

    Characters that nft does not take are replaced, and then a number keeps different names different.
    """
    if instance == "vpnmasq":
        return instance
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in instance)[:64]
    suffix = "" if plain == instance else f"-{zlib.crc32(instance.encode()):08x}"
    return f"vpnmasq-{plain}{suffix}"
