"""What the servers of a name's own zone answer: theirs is the word that counts, resolvers may be behind."""

import ipaddress
from collections.abc import Sequence
from typing import Final

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from relay.ddns.provider import PATIENCE, UpdateError

_PORT: Final = 53
#: Seconds that one server may take.
_EACH: Final = 5.0
#: Servers of a zone that are asked.
_MOST_SERVERS: Final = 8

#: What dnspython raises when there is no answer, or none that makes sense.
DNS_FAILURES: Final = (dns.exception.DNSException, OSError, EOFError, ValueError)

Server = tuple[str, int]


async def published(host: str, zone: str, nameservers: Sequence[str]) -> frozenset[str]:
    """All addresses that the servers of the zone have for a name; with none of them, it does not exist.

    ``zone`` may be empty: it is found by asking. ``nameservers`` are asked in the place of the zone's.

    Raises:
        UpdateError: one of the servers does not answer, or is not the zone's.
    """
    servers = [await _server(text) for text in nameservers] or await _servers_of(zone or await zone_of(host))
    found: set[str] = set()
    for server in servers[:_MOST_SERVERS]:
        found |= await _ask(server, host)
    return frozenset(found)


async def zone_of(host: str) -> str:
    """The zone that a name is in.

    Raises:
        UpdateError: that cannot be found out.
    """
    try:
        return str(await dns.asyncresolver.zone_for_name(absolute(host), resolver=_resolver()))
    except DNS_FAILURES as error:
        raise UpdateError(f"the zone of {host} was not found: {_told(error)}") from error


async def primary(zone: str, given: str | None) -> Server:
    """The server that takes updates of a zone: the given one, or the one that its SOA names.

    Raises:
        UpdateError: it was not found.
    """
    if given:
        return await _server(given)
    answer = await _look_up(zone, "SOA", f"the primary server of {zone}")
    return await _server(str(answer[0].mname).rstrip("."))


def absolute(name: str) -> dns.name.Name:
    """A name as DNS has it; no search list is applied."""
    return dns.name.from_text(f"{name.rstrip('.')}.")


def no_answer(where: str, error: Exception) -> UpdateError:
    """What is said of a server that answers nothing, or nothing that makes sense."""
    return UpdateError(f"no answer from {where}: {_told(error)}")


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _servers_of(zone: str) -> list[Server]:
    answer = await _look_up(zone, "NS", f"the servers of {zone}")
    return [await _server(str(record.target).rstrip(".")) for record in answer]


async def _server(text: str) -> Server:
    """A server from "HOST" or "HOST:PORT"."""
    name, _, port = text.partition(":")
    number = int(port) if port else _PORT
    try:
        return str(ipaddress.IPv4Address(name)), number
    except ValueError:
        answer = await _look_up(name, "A", f"the address of {name}")
        return str(answer[0].address), number


async def _look_up(name: str, kind: str, what: str) -> dns.resolver.Answer:
    try:
        return await _resolver().resolve(absolute(name), kind)
    except DNS_FAILURES as error:
        raise UpdateError(f"{what} was not found: {_told(error)}") from error


def _resolver() -> dns.asyncresolver.Resolver:
    """By resolv.conf as it is now: what dials writes the provider's servers there."""
    resolver = dns.asyncresolver.Resolver()
    resolver.lifetime = PATIENCE
    return resolver


async def _ask(server: Server, host: str) -> set[str]:
    where, port = server
    try:
        query = dns.message.make_query(absolute(host), "A")
        query.flags &= ~dns.flags.RD  # its own word, not that of others
        answer, _ = await dns.asyncquery.udp_with_fallback(query, where, port=port, timeout=_EACH)
    except DNS_FAILURES as error:
        raise no_answer(where, error) from error
    code = answer.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise UpdateError(f"{where} says {dns.rcode.to_text(code)} about {host}")
    if not answer.flags & dns.flags.AA:
        raise UpdateError(f"{where} is not a server of the zone of {host}")
    return {record.address for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A for record in rrset}
