"""Who began what. IKEv2 says so in each message (RFC 7296 §3.1, flags I and R); of IKEv1 it is remembered."""

from typing import TypeVar

from protocols.addr import Ip4
from protocols.ike.header import INITIATOR, RESPONSE, IkeHeader
from protocols.ike.observation import IkeObserved

K = TypeVar("K")

#: IKE SAs, and exchanges in them, that are remembered for one host and peer: these run one after the other.
_MOST = 16


class Exchanges:
    """The IKE SAs and exchanges of a host and a peer: whether the inside host began them."""

    __slots__ = ("_associations", "_exchanges")

    def __init__(self) -> None:
        # Of IKEv1 alone: all others do without.
        self._associations: dict[int, bool] | None = None
        self._exchanges: dict[tuple[int, int], bool] | None = None

    def observe(self, host: Ip4, peer: Ip4, message: IkeHeader, *, outbound: bool) -> IkeObserved:
        """What a message tells."""
        if message.version == 1:
            if self._associations is None or self._exchanges is None:
                self._associations, self._exchanges = {}, {}
            by_host = _remember(self._associations, message.initiator_cookie, outbound)
            initiator = by_host == outbound
            # All of phase 1 has message ID 0 (RFC 2408 §3.1).
            exchange = (message.initiator_cookie, message.message_id)
            began = _remember(self._exchanges, exchange, outbound) if message.message_id else by_host
            response = began != outbound
        else:
            initiator = bool(message.flags & INITIATOR)
            response = bool(message.flags & RESPONSE)
        return IkeObserved(
            host=host,
            peer=peer,
            outbound=outbound,
            version=message.version,
            exchange=message.exchange,
            message_id=message.message_id,
            initiator=initiator,
            response=response,
            length=message.length,
            encrypted=message.encrypted,
        )


def _remember(began: dict[K, bool], key: K, outbound: bool) -> bool:
    """Who began what has this key: whoever speaks now, if nobody has."""
    by_host = began.pop(key, outbound)
    began[key] = by_host
    if len(began) > _MOST:
        del began[next(iter(began))]
    return by_host
