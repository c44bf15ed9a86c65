"""What a gateway can tell about IPsec from one IKE message, for whoever pairs ESP with its clients.

Everything here is in the clear header (RFC 2408 §3.1, RFC 7296 §3.1) or is known from where the message
went; nothing comes from the payload.
"""

from dataclasses import dataclass

from protocols.addr import Ip4


@dataclass(frozen=True, slots=True)
class IkeObserved:
    """One valid IKE message between an inside host and a peer, on port 500 or 4500."""

    #: The inside host: a client, or an exposed server.
    host: Ip4
    peer: Ip4
    #: Whether the inside host sent it.
    outbound: bool
    #: 1 or 2.
    version: int
    #: RFC 2408 §3.1, RFC 2409 §5 (32: Quick Mode), RFC 7296 §3.1 (35: IKE_AUTH, 36: CREATE_CHILD_SA).
    exchange: int
    #: 0 throughout phase 1 of IKEv1; counts each side's requests in IKEv2.
    message_id: int
    #: Whether its sender is the one who began the IKE SA.
    initiator: bool
    #: Whether it answers a request; in IKEv1, whether the other side began this exchange.
    response: bool
    #: Octets of the IKE message.
    length: int
    encrypted: bool
