"""The endpoints of a peer that a host talks to, and the short lane to each of them."""

from collections.abc import Callable

from protocols.actions import Action, Side
from protocols.natt.disguise import Disguises, forgotten
from protocols.natt.flows import Flow, FlowTable
from protocols.natt.mapping import Talk
from protocols.policy import Ipsec
from protocols.udp import Endpoint


class Endpoints:
    """Those of all talks. ``policy``: the policy of now, which says how many a talk may have."""

    def __init__(self, flows: FlowTable, disguises: Disguises, policy: Callable[[], Ipsec]) -> None:
        self._flows = flows
        self._disguises = disguises
        self._policy = policy

    def remember(self, talk: Talk, peer: Endpoint, *, now: float) -> list[Action]:
        """Keep an endpoint of the peer, at the cost of the oldest if there are too many."""
        talk.endpoints.setdefault(peer, ())
        if len(talk.endpoints) <= self._policy().most_endpoints:
            return []
        oldest = next(iter(talk.endpoints))
        self._forget(talk, oldest, now)
        # Who is seen as himself is only taken off the short lane.
        return [forgotten(talk.relation.host, oldest)] if talk.relation.hidden else []

    def publish(
        self, talk: Talk, *, public: Endpoint, seen: Endpoint, peer: Endpoint, now: float
    ) -> list[Action]:
        """Let data between the host and this endpoint of the peer take the short lane, once both spoke.

        That of a hairpin is of two talks: it is not laid here (Hairpins).

        ``public``: as whom the peer sees the host; ``seen``: as whom the host sees the peer.
        """
        if not talk.mutual or talk.hairpin or talk.endpoints.get(peer):
            return []
        host, session = talk.mapping.host, talk.session
        out, back = session.outbound, session.inbound
        flows = (
            Flow(side=Side.LAN, sender=host, addressed=seen, source=public, target=peer, traffic=out),
            Flow(side=Side.WAN, sender=peer, addressed=public, source=seen, target=host, traffic=back),
        )
        actions = self.remember(talk, peer, now=now)
        talk.endpoints[peer] = flows
        self._carry(talk, flows)
        return actions

    def resume(self, talk: Talk) -> None:
        """Go on with the short lanes of before a restart."""
        for flows in talk.endpoints.values():
            self._carry(talk, flows)

    def unpublish(self, talk: Talk, *, now: float) -> None:
        """Forget all endpoints of a talk."""
        for peer in list(talk.endpoints):
            self._forget(talk, peer, now)

    def _carry(self, talk: Talk, flows: tuple[Flow, ...]) -> None:
        for flow in flows:
            self._flows.add(flow)
            self._flows.offer(flow, talk.session)

    def _forget(self, talk: Talk, peer: Endpoint, now: float) -> None:
        for flow in talk.endpoints.pop(peer):
            self._flows.remove(flow)
        if talk.relation.hidden:
            self._disguises.forget(talk.mapping.host, peer, now=now)
