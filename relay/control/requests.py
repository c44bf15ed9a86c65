"""Reading what a request asks for.

A body is JSON of at most BODY_LIMIT octets, whatever its Content-Type says: curl without a header is fine.
"""

import json
from typing import Any

from aiohttp import web

#: Octets of a request's body.
BODY_LIMIT = 64 * 1024
#: Sessions that one request may name.
IDS_LIMIT = 1024
#: Characters of a session's ID.
ID_LIMIT = 64


class BadRequestError(Exception):
    """The request makes no sense; the text says why, and what would."""


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


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names[type(value)]
