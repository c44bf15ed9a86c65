"""What a name takes: a provider that changes it, and the zone's servers that are asked for it."""

from collections.abc import Callable
from functools import partial

from relay.config.models import Ddns
from relay.ddns.dyndns2 import Dyndns2
from relay.ddns.program import Program
from relay.ddns.provider import Provider
from relay.ddns.published import published
from relay.ddns.rfc2136 import Rfc2136
from relay.ddns.updater import Announce, Updater
from relay.ddns.url import Url

_PROVIDERS: dict[str, Callable[[Ddns], Provider]] = {
    "dyndns2": Dyndns2,
    "rfc2136": Rfc2136,
    "url": Url,
    "exec": Program,
}


def updater_of(entry: Ddns, announce: Announce, clock: Callable[[], float]) -> Updater:
    """The Updater of an entry."""
    look = partial(published, entry.host, entry.zone or "", entry.nameservers)
    return Updater(entry, _PROVIDERS[entry.provider](entry), look, announce, clock)
