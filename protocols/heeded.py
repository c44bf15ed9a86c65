"""Whose data packets from outside anybody here waits for.

Trackers say which outside addresses they know; what that comes to is said in actions once for each call of
the gateway. So the shell can keep everybody else's packets out before they cost anything. What a stranger may
well begin with (IKE, control connections of PPTP) never comes by these protocols.
"""

from collections.abc import Iterable

from protocols.actions import Heed, Ignore
from protocols.addr import Ip4


class Heeded:
    """Changes that have not been said yet. Without anybody to ``listen`` nothing is kept."""

    def __init__(self, *, listen: bool = False) -> None:
        self._listen = listen
        self._changed: dict[tuple[int, Ip4], bool] = {}

    def heed(self, protocol: int, address: Ip4) -> None:
        """Packets of an IP protocol from this address may be somebody's from now on."""
        if self._listen:
            self._changed[protocol, address] = True

    def ignore(self, protocol: int, address: Ip4) -> None:
        """They are nobody's any more."""
        if self._listen:
            self._changed[protocol, address] = False

    @property
    def pending(self) -> bool:
        """Whether ``take`` has something to say."""
        return bool(self._changed)

    def take(self) -> Iterable[Heed | Ignore]:
        """What has changed since this was asked last."""
        changed, self._changed = self._changed, {}
        return [(Heed if known else Ignore)(*which) for which, known in changed.items()]
