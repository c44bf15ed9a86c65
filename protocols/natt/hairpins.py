"""The short lane between an inside host and a server that it reaches by our public address (RFC 4787 REQ-9).

What passes is of two talks: that of the client with us, and that of the server with the client. It is counted
in both, and the lane lasts as long as both of them do.

    client 10.0.0.2:4500 --to 200.200.200.200:4500--> us --from 200.200.200.200:61234--> server 10.0.0.9:4500
"""

from protocols.actions import Side
from protocols.addr import Ip4
from protocols.natt.flows import Flow, FlowTable
from protocols.natt.mapping import Talk
from protocols.natt.mappings import Mappings
from protocols.udp import Endpoint

#: A talk, to be found again: the port of the inside host, whether it is an exposed server's, and the peer.
Name = tuple[Endpoint, bool, Ip4]


class Hairpins:
    """All of them."""

    def __init__(self, flows: FlowTable, mappings: Mappings) -> None:
        self._flows = flows
        self._mappings = mappings
        #: By each of the two talks, the other one.
        self._lanes: dict[Talk, dict[Talk, tuple[Flow, Flow]]] = {}

    def publish(self, sender: Talk, receiver: Talk) -> None:
        """Let data between the hosts of two talks take the short lane, once each has heard of the other."""
        if not (sender.mutual and receiver.mutual) or receiver in self._lanes.get(sender, ()):
            return
        lane = _way(sender, receiver), _way(receiver, sender)
        self._lanes.setdefault(sender, {})[receiver] = lane
        self._lanes.setdefault(receiver, {})[sender] = lane
        for flow in lane:
            self._flows.add(flow)
            self._flows.offer(flow, sender.session, receiver.session)

    def unpublish(self, talk: Talk) -> None:
        """One of them has ended."""
        for other, lane in self._lanes.pop(talk, {}).items():
            del self._lanes[other][talk]
            if not self._lanes[other]:
                del self._lanes[other]
            for flow in lane:
                self._flows.remove(flow)

    # -- across a restart ------------------------------------------------------------------------------

    def pairs(self) -> list[tuple[Name, Name]]:
        """Whose lanes there are; each is of two mappings, which are written down one by one."""
        pairs = ((_name(one), _name(other)) for one, others in self._lanes.items() for other in others)
        return sorted(pair for pair in pairs if pair[0] < pair[1])

    def adopt(self, pairs: list[tuple[Name, Name]]) -> None:
        """Go on with those whose talks are still there."""
        for names in pairs:
            one, other = (self._find(*name) for name in names)
            if one is not None and other is not None:
                self.publish(one, other)

    def _find(self, host: Endpoint, fixed: bool, peer: Ip4) -> Talk | None:
        mapping = self._mappings.of(host, fixed=fixed)
        return mapping.talks.get(peer) if mapping else None


def _name(talk: Talk) -> Name:
    return talk.mapping.host, talk.mapping.fixed, talk.relation.peer


def _way(sender: Talk, receiver: Talk) -> Flow:
    """One direction: each sees the other under our address, and by the port that stands for it."""
    public = sender.session.gateway
    return Flow(
        side=Side.LAN,
        sender=sender.mapping.host,
        addressed=(public, receiver.mapping.public_port),
        source=(public, sender.mapping.public_port),
        target=receiver.mapping.host,
        traffic=receiver.session.inbound,
        also=sender.session.outbound,
        hairpin=True,
    )
