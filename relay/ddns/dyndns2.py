"""The update protocol of dyn.com, which most providers speak: one GET, answered by a word."""

from typing import Final

from relay.config.models import Ddns
from relay.ddns.provider import LATER, NEVER, SOON, UpdateError
from relay.ddns.web import fetch

#: Where the protocol comes from.
DEFAULT_SERVER: Final = "members.dyndns.org"

_DONE: Final = frozenset({"good", "nochg"})
#: What an answer means, and when to ask again: whoever repeats what was refused is locked out.
_REFUSALS: Final = {
    "badauth": ("user name or password are wrong", NEVER),
    "!donator": ("the account does not include this", NEVER),
    "notfqdn": ("the host is no full domain name", NEVER),
    "nohost": ("the account has no such host", NEVER),
    "numhost": ("too many hosts at once", NEVER),
    "abuse": ("the host is blocked for too many updates", NEVER),
    "badagent": ("the provider refuses this program", NEVER),
    "badsys": ("the provider refuses the request", NEVER),
    "dnserr": ("the provider's DNS is out of order", LATER),
    "911": ("the provider is out of order", LATER),
}


class Dyndns2:
    """Implements Provider."""

    def __init__(self, entry: Ddns) -> None:
        self._entry = entry
        self._url = entry.url or f"https://{entry.server or DEFAULT_SERVER}/nic/update"

    async def update(self, address: str) -> None:
        """As Provider."""
        parameters = {"hostname": self._entry.host, "myip": address}
        status, text = await fetch(self._entry, self._url, parameters)
        word = text.split(maxsplit=1)[0] if text else ""
        if word in _DONE and status < 300:
            return
        if word in _REFUSALS:
            what, again = _REFUSALS[word]
            raise UpdateError(f"{word}: {what}", again)
        again = NEVER if status in (401, 403) else SOON
        raise UpdateError(f"answered with HTTP {status} and {text[:60]!r}", again)
