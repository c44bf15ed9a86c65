"""Reading what a request asks for.

A body is JSON of at most BODY_LIMIT octets, whatever its Content-Type says: curl without a header is fine.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from aiohttp import web

from protocols.addr import Ip4, parse_ip
from relay.config import values
from relay.config.problems import InputError
from relay.control.daemon import Link

#: Octets of a request's body.
BODY_LIMIT = 64 * 1024
#: Sessions that one request may name.
IDS_LIMIT = 1024
#: Characters of an argument of pppd's.
WORD_LIMIT = 256
#: Characters of a session's ID.
ID_LIMIT = 64
#: How long a told pair is believed when nobody says: what an SA lives that says nothing (RFC 2407 §4.5).
PAIR_LIFETIME: Final = 28800.0
_SPI = re.compile(r"0[xX][0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9}")


class BadRequestError(Exception):
    """The request makes no sense; the text says why, and what would."""


@dataclass(frozen=True, slots=True)
class PairKey:
    """An inbound SPI of a peer."""

    peer: Ip4
    spi: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Whose an inbound SPI is, for so many seconds."""

    key: PairKey
    host: Ip4
    lifetime: float


async def read_json(request: web.Request) -> dict[str, Any]:
    """Return the body, a JSON object.

    Raises:
        BadRequestError: it is not one.
        web.HTTPRequestEntityTooLarge: longer than BODY_LIMIT.
    """
    octets = await request.read()
    if not octets:
        raise BadRequestError("the request has no body; a JSON object is expected")
    try:
        body = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError(f"the body is a JSON {_kind(body)}; an object is expected")
    return body


async def read_ids(request: web.Request) -> list[str]:
    """Return the session IDs of ``{"ids": [...]}``, each once, in their order.

    Raises:
        BadRequestError: the body is anything else.
        web.HTTPRequestEntityTooLarge: longer than BODY_LIMIT.
    """
    body = await read_json(request)
    unknown = sorted(body.keys() - {"ids"})
    if unknown:
        raise BadRequestError(f'unknown key {unknown[0]!r}; expected is {{"ids": ["p7f3"]}}')
    ids = body.get("ids")
    if not isinstance(ids, list) or not ids:
        raise BadRequestError('"ids" is a list of at least one session ID, like {"ids": ["p7f3"]}')
    if len(ids) > IDS_LIMIT:
        raise BadRequestError(f'"ids" holds {len(ids)} IDs; at most {IDS_LIMIT} are taken at a time')
    for one in ids:
        if not isinstance(one, str) or not 0 < len(one) <= ID_LIMIT:
            raise BadRequestError(f'"ids" holds {json.dumps(one)[:80]}, which is not a session ID')
    return list(dict.fromkeys(ids))


async def read_pair(request: web.Request) -> Pair:
    """Return the pair of ``{"peer": "199.0.0.1", "spi": "0xc0de0002", "client": "10.0.0.3"}``.

    A "lifetime" may be said, in seconds or like "8h".

    Raises:
        BadRequestError: the body is anything else.
        web.HTTPRequestEntityTooLarge: longer than BODY_LIMIT.
    """
    body = await read_json(request)
    key = _pair_key(body, {"client", "lifetime"})
    lifetime = body.get("lifetime", PAIR_LIFETIME)
    return Pair(key, _host(body, "client"), _read("lifetime", values.duration, lifetime))


async def read_pair_key(request: web.Request) -> PairKey:
    """Return the inbound SPI of ``{"peer": "199.0.0.1", "spi": "0xc0de0002"}``.

    Raises:
        BadRequestError: the body is anything else.
        web.HTTPRequestEntityTooLarge: longer than BODY_LIMIT.
    """
    return _pair_key(await read_json(request), set())


async def read_link(request: web.Request) -> Link:
    """Return the link of ``{"interface": "ppp0", "local": "200.200.200.200"}``; further keys are Link's.

    Raises:
        BadRequestError: the body is anything else.
        web.HTTPRequestEntityTooLarge: longer than BODY_LIMIT.
    """
    body = await read_json(request)
    known = [field.name for field in fields(Link)]
    for key, value in body.items():
        if key not in known:
            raise BadRequestError(f"unknown key {key!r}; known are {', '.join(known)}")
        if not isinstance(value, str) or len(value) > WORD_LIMIT or not value.isprintable():
            raise BadRequestError(
                f"{key}: {values.show(value)} is not a printable text of {WORD_LIMIT} or less"
            )
    interface = _read("interface", values.interface, body.get("interface"))
    ends = {key: _read(key, values.host_address, body[key]) for key in ("local", "remote") if body.get(key)}
    return Link(**{**body, **ends, "interface": interface})


def _pair_key(body: dict[str, Any], more: set[str]) -> PairKey:
    known = {"peer", "spi"} | more
    unknown = sorted(body.keys() - known)
    if unknown:
        raise BadRequestError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return PairKey(_host(body, "peer"), _spi(body.get("spi")))


def _host(body: dict[str, Any], key: str) -> Ip4:
    return parse_ip(_read(key, values.host_address, body.get(key)))


def _spi(value: object) -> int:
    number = int(value, 0) if isinstance(value, str) and _SPI.fullmatch(value) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1 << 32:
        text = f'spi: {values.show(value)} is not an SPI: write it as tcpdump does, for example "0xc0de0002"'
        raise BadRequestError(text)
    return number


def _read(key: str, reader: Callable[[object], Any], value: object) -> Any:
    if value is None:
        raise BadRequestError(f"{key!r} is missing")
    try:
        return reader(value)
    except InputError as error:
        raise BadRequestError(f"{key}: {error.message}: {error.advice}") from error


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names[type(value)]
