"""Our nftables table: it keeps our packets out of conntrack, and marks ICMP errors that we need (nft(8)).

Conntrack knows GRE by the Call ID that we change: it would see two halves of different flows, call them
invalid, and let the router's own masquerading rewrite them. ESP it knows by addresses alone. IPsec's UDP
stays with it: both halves are flows of their own, and a stateful firewall lets the answers in.

ICMP errors about such packets quote our addresses; routing cannot see what they quote, so those from the
LAN are marked here and an ``ip rule`` brings the mark to us.

Routing does not see the ports of later fragments either, and IKE with certificates comes in fragments: so
they have to be put together before. The kernel does that in namespaces in which anything needs it, as
``tproxy`` does; that also gives answers from IPsec's ports to our sockets, whatever port they are for,
so that the kernel does not call them unreachable.

The table is written and removed as one transaction and no other table is touched. Without it the gateway
works, but shares conntrack with the router: a failure here is worth a warning, not an end.

The functions here run ``nft`` and block: call them with ``asyncio.to_thread``.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocols.addr import Network
from relay.kernel import KernelError
from relay.rules.interception import table_name
from relay.sockets.raw import PRIORITY

#: By number: nft takes their names from /etc/protocols, which a small system does not have.
_ICMP: Final = 1
_UDP: Final = 17
_GRE: Final = 47
_ESP: Final = 50

#: RFC 2637 §4.1: version 1 in the last three bits of the first two octets, then protocol type 0x880B.
#: One comparison of 32 bits behind ``ip protocol``: nft 1.0.6 aborts when it lists any behind
#: ``meta l4proto gre``, and lists separate fields as ports without their protocol, so that a ruleset
#: that was saved would match TCP when it is loaded again.
_PPTP_GRE: Final = f"ip protocol {_GRE} @th,0,32 & 0x7ffff == 0x1880b"

#: ICMP errors (RFC 792); the protocol of the quoted packet is octet 9 behind 8 octets of ICMP.
_ERRORS: Final = "icmp type { destination-unreachable, time-exceeded, parameter-problem }"
_ERRORS_ABOUT_GRE: Final = f"{_ERRORS} @th,136,8 {_GRE}"
_ERRORS_ABOUT_ESP: Final = f"{_ERRORS} @th,136,8 {_ESP}"
#: IPsec's ports, and where they are in a quoted packet whose IP header has no options.
_PORTS: Final = "{ 500, 4500 }"
_QUOTED_SOURCE_PORT: Final = 224
_QUOTED_DESTINATION_PORT: Final = 240
_ERRORS_ABOUT_UDP: Final = tuple(
    f"{_ERRORS} @th,136,8 {_UDP} @th,{at},16 {_PORTS}"
    for at in (_QUOTED_SOURCE_PORT, _QUOTED_DESTINATION_PORT)
)

#: Seconds that nft may take: a large ruleset of somebody else makes it slow.
_PATIENCE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A generic forward: a port of a server, or with port 0 a whole protocol."""

    protocol: int
    server: Network
    port: int

    @property
    def errors(self) -> str:
        """ICMP errors about what we send the server."""
        port = f" @th,{_QUOTED_DESTINATION_PORT},16 {self.port}" if self.port else ""
        return f"{_ERRORS} @th,136,8 {self.protocol}{port}"

    def answers(self, inside: str, port: int) -> str:
        """Give what it answers by UDP to our socket at a port, whatever address and port it is for."""
        return f"iifname {inside} ip saddr {self.server} udp sport {self.port} tproxy to :{port}"


@dataclass(frozen=True, slots=True)
class Table:
    """What our table says."""

    #: Name of this instance.
    instance: str
    lan_interfaces: tuple[str, ...]
    #: Empty while it is not known which it is.
    wan_interface: str
    #: What the ``ip rule`` looks for; see Interception.mark.
    mark: int
    #: Destinations that stay the kernel's, with connection tracking: the LAN itself.
    exempt: tuple[Network, ...] = ()
    #: Whether PPTP is served: the GRE of a program of this host stays conntrack's otherwise.
    pptp: bool = True
    #: Whether IPsec is served, and whose answers from its ports come to us: of these hosts, or of all.
    ipsec: bool = False
    answering: tuple[Network, ...] = ()
    #: What is forwarded, and the port that a socket of ours holds for what servers answer by UDP.
    forwarded: tuple[Forwarded, ...] = ()
    answer_port: int = 0

    @property
    def name(self) -> str:
        """Its name in ``nft list tables``."""
        return table_name(self.instance)


def install(table: Table) -> None:
    """Write the table, in place of an older one of this instance; in one transaction.

    Raises:
        KernelError: nft is missing, forbidden, or refuses.
    """
    _nft(script(table), "set up the nftables table")


def remove(instance: str) -> None:
    """Remove the table of an instance; none there is no error.

    Raises:
        KernelError: nft is missing, forbidden, or refuses.
    """
    name = table_name(instance)
    _nft(f"add table ip {name}\ndelete table ip {name}\n", "remove the nftables table")


def listing(instance: str) -> str | None:
    """The table as the kernel has it, in nft's words; None when it is not there.

    Equal as long as nobody changes it: a firewall that is reloaded often flushes the tables of others too.

    Raises:
        KernelError: nft is missing or forbidden.
    """
    name = table_name(instance)
    if f"table ip {name}" not in _nft("list tables ip\n", "list the nftables tables").splitlines():
        return None
    return _nft(f"list table ip {name}\n", "list the nftables table")


def script(table: Table) -> str:
    """The transaction that ``install`` gives to nft."""
    wan = (table.wan_interface,) if table.wan_interface else ()
    everywhere = _set((*table.lan_interfaces, *wan))
    inside = _set(table.lan_interfaces)
    others = [f"iifname {inside} ip daddr {network}" for network in table.exempt]
    neighbours = "".join(f"        {other} fib daddr type != local accept\n" for other in others)
    unmarked = "".join(f"        {other} accept\n" for other in others)
    arriving = "".join(f"        iifname {everywhere} {what} notrack\n" for what in _untracked(table))
    marks = "".join(
        f"        iifname {inside} {what} meta mark set {table.mark:#x}\n" for what in _errors(table)
    )
    leaving = f"{{ {_ICMP}, {_GRE}, {_ESP} }}" if table.ipsec else f"{{ {_ICMP}, {_GRE} }}"
    # "add" first, so that "delete" is no error when there is none; then all of it anew.
    return f"""\
add table ip {table.name}
delete table ip {table.name}
table ip {table.name} {{
    chain arriving {{
        type filter hook prerouting priority raw; policy accept;
{neighbours}\
{arriving}\
    }}
    chain leaving {{
        type filter hook output priority raw; policy accept;
        meta priority {PRIORITY >> 16:x}:{PRIORITY & 0xFFFF:x} ip protocol {leaving} notrack
    }}
    chain errors {{
        type filter hook prerouting priority filter; policy accept;
{unmarked}\
{marks}\
    }}
{_answers(table, inside, neighbours)}\
}}
"""


def _untracked(table: Table) -> list[str]:
    """What conntrack is not to see when it arrives."""
    pptp = [_PPTP_GRE, _ERRORS_ABOUT_GRE] if table.pptp else []
    return [*pptp, *([f"ip protocol {_ESP}", _ERRORS_ABOUT_ESP] if table.ipsec else [])]


def _errors(table: Table) -> list[str]:
    """The ICMP errors from inside that are for us."""
    pptp = [_ERRORS_ABOUT_GRE] if table.pptp else []
    ipsec = [_ERRORS_ABOUT_ESP, *_ERRORS_ABOUT_UDP] if table.ipsec else []
    return [*pptp, *ipsec, *(forwarded.errors for forwarded in table.forwarded)]


def _answers(table: Table, inside: str, neighbours: str) -> str:
    """What also makes the kernel put fragments together, whatever it matches."""
    rules = [one.answers(inside, table.answer_port) for one in table.forwarded if one.protocol == _UDP]
    if table.ipsec:
        sources = "" if any(one.is_any for one in table.answering) else _sources(table.answering)
        rules.append(f"iifname {inside} {sources}udp sport {_PORTS} tproxy to :500")
    if not rules:
        return ""
    lines = "".join(f"        {rule}\n" for rule in dict.fromkeys(rules))
    return f"""\
    chain answers {{
        type filter hook prerouting priority filter; policy accept;
{neighbours}\
{lines}\
    }}
"""


def _sources(networks: Iterable[Network]) -> str:
    # Nobody answers: the rule must be there all the same, for the fragments.
    hosts = [str(network) for network in networks] or ["0.0.0.0"]
    return f"ip saddr {{ {', '.join(hosts)} }} "


def _set(interfaces: Iterable[str]) -> str:
    return "{ " + ", ".join(_quoted(name) for name in dict.fromkeys(interfaces)) + " }"


def _quoted(interface: str) -> str:
    """An interface name as nft reads it: a star at its end would mean any name that starts so."""
    if not set('"*\\').isdisjoint(interface):
        raise KernelError(f"nft cannot write the interface name {interface}", "rename the interface")
    return f'"{interface}"'


def _nft(commands: str, doing: str) -> str:
    try:
        done = subprocess.run(
            ("nft", "-f", "-"), input=commands, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except FileNotFoundError:
        raise KernelError(f"{doing}: nft is not installed", "install nftables (Debian: nftables)") from None
    except subprocess.TimeoutExpired:
        raise KernelError(f"{doing}: nft did not finish in {_PATIENCE:g} seconds") from None
    except OSError as error:
        raise KernelError(f"{doing}: nft does not start: {error.strerror}") from error
    if done.returncode:
        raise KernelError(f"{doing}: {_complaint(done.stderr)}", _remedy(done.stderr))
    return done.stdout


def _complaint(said: str) -> str:
    """The line of nft's error output that says what is wrong; the others quote our commands."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "rror: " in line or "not permitted" in line]
    return (errors or lines or ["nft failed without a word"])[0]


def _remedy(said: str) -> str:
    if "not permitted" in said or "Permission denied" in said:
        return "run as root or with CAP_NET_ADMIN"
    if "Operation not supported" in said or "No such file or directory" in said:
        return (
            "the kernel lacks a part of nftables: CONFIG_NF_TABLES_IPV4, CONFIG_NFT_CT, CONFIG_NFT_FIB_IPV4"
        )
    return ""
