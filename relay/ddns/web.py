"""Updates by HTTP: one request, whose answer is short."""

from base64 import b64encode
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

import aiohttp

from relay.config.models import Ddns
from relay.ddns.provider import PATIENCE, UpdateError, password

#: Octets of an answer that are looked at.
_MOST: Final = 4096


async def fetch(entry: Ddns, url: str, parameters: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Get an address with the entry's account; status and text of the answer. No redirect is followed.

    Raises:
        UpdateError: there is no answer.
    """
    headers = {"User-Agent": f"vpnmasq/{version('vpnmasq')}"}
    if entry.username:  # RFC 7617 §2
        account = b64encode(f"{entry.username}:{password(entry)}".encode()).decode()
        headers["Authorization"] = f"Basic {account}"
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(url, params=parameters, allow_redirects=False) as answer,
        ):
            text = (await answer.content.read(_MOST)).decode(errors="replace")
            return answer.status, text.strip()
    except TimeoutError as error:
        raise UpdateError(f"no answer within {PATIENCE:g} s") from error
    except (aiohttp.ClientError, ValueError, OSError) as error:
        raise UpdateError(f"no answer: {error}") from error
