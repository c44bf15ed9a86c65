"""Names that are updated by fetching an address of the provider's."""

from urllib.parse import quote

from relay.config.models import Ddns
from relay.ddns.provider import NEVER, SOON, UpdateError
from relay.ddns.web import fetch


class Url:
    """Implements Provider."""

    def __init__(self, entry: Ddns) -> None:
        self._entry = entry

    async def update(self, address: str) -> None:
        """As Provider; every answer of 200 to 299 is good."""
        host = quote(self._entry.host, safe="")
        url = self._entry.url.replace("{host}", host).replace("{address}", address)
        status, text = await fetch(self._entry, url)
        if not 200 <= status < 300:
            again = NEVER if status in (401, 403, 404) else SOON
            raise UpdateError(f"answered with HTTP {status} and {text[:60]!r}", again)
