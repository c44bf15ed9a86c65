"""What no gateway that changes addresses can carry: counted, and explained once (HOWTO §2.4, §6.1).

Packets of strangers outside are only counted: whoever sends AH to everybody needs no explanation.
"""

from collections.abc import Callable

from protocols import ipv4
from protocols.actions import Drop, Side
from protocols.addr import Ip4, show_ip
from protocols.drops import HELP, Reason
from protocols.ipv4 import Header

#: Pairs of hosts that are remembered, and shown.
_MOST = 64
_MOST_SHOWN = 3

REASONS = {ipv4.AH: Reason.AH, ipv4.FWZ: Reason.FWZ}


class Hopeless:
    """AH, and FWZ encapsulation. ``known`` tells whether anybody inside has to do with a peer."""

    def __init__(self, known: Callable[[Ip4], bool]) -> None:
        self._known = known
        self._seen: dict[Reason, dict[tuple[Ip4, Ip4], None]] = {}

    def take(self, side: Side, header: Header) -> Drop:
        """Take a packet that cannot be carried."""
        reason = REASONS[header.protocol]
        source, target = Ip4(header.src), Ip4(header.dst)
        if side is Side.WAN and not self._known(source):
            return Drop(reason)
        pairs = self._seen.setdefault(reason, {})
        if len(pairs) < _MOST:
            pairs[source, target] = None
        return Drop(reason, f"{show_ip(source)} to {show_ip(target)}")

    def texts(self) -> list[str]:
        """What an operator should know, a text for each protocol."""
        return [f"{HELP[reason]}; seen from {_named(list(pairs))}" for reason, pairs in self._seen.items()]


def _named(pairs: list[tuple[Ip4, Ip4]]) -> str:
    shown = [f"{show_ip(source)} to {show_ip(target)}" for source, target in pairs[:_MOST_SHOWN]]
    more = len(pairs) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
