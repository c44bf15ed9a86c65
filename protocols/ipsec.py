"""IPsec: ESP by itself, and IKE and ESP in UDP, each of which must know what the other one sees."""

from functools import partial

from protocols import ipv4, udp
from protocols.actions import Action, Side
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.deadlines import earliest
from protocols.esp.departed import departed
from protocols.esp.flows import FlowTable
from protocols.esp.tracker import EspTracker
from protocols.heeded import Heeded
from protocols.ike.observation import IkeObserved
from protocols.lanes import EspLane, Lane, UdpLane
from protocols.offload import Offloads
from protocols.ownerrors import Errors
from protocols.registry import SessionRegistry
from protocols.sessions import Session
from protocols.udpflow import IpsecUdp


class Ipsec:
    """The trackers of both, and what is done with both."""

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        *,
        random: Random,
        errors: Errors,
        offloads: Offloads,
        heeded: Heeded,
    ) -> None:
        flows = FlowTable(offloads)
        self.esp = EspTracker(
            admission,
            registry,
            flows,
            random=random,
            answer=errors.answer,
            alive=lambda host, peer: self.udp.alive(host, peer),
            heeded=heeded,
        )
        self._observed: list[IkeObserved] = []
        self.udp = IpsecUdp(
            admission,
            registry,
            random=random,
            observe=self._observed.append,
            esp_alive=self.esp.alive,
            offloads=offloads,
        )
        #: The short lanes of data, by protocol.
        self.lanes: dict[int, Lane] = {
            ipv4.ESP: EspLane(flows, partial(departed, self.esp.ledger)),
            udp.PROTOCOL: UdpLane(self.udp.natt.flows),
        }

    def take(self, side: Side, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action]:
        """Act on a packet of ESP or UDP that no short lane has taken."""
        tracker = self.esp if header.protocol == ipv4.ESP else self.udp
        take = tracker.from_lan if side is Side.LAN else tracker.from_wan
        actions = take(header, packet, now=now)
        for observed in self._observed:
            actions += self.esp.ike_seen(observed, now=now)
        self._observed.clear()
        return actions

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session, if it is one of ours."""
        return [*self.esp.kill(session, why, now=now), *self.udp.kill(session, why, now=now)]

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules and addresses of now do not allow."""
        return [*self.esp.reconsider(now=now), *self.udp.reconsider(now=now)]

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        return [*self.esp.close_all(why, now=now), *self.udp.close_all(why, now=now)]

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest((self.esp.next_deadline(), self.udp.next_deadline()))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        return [*self.esp.expire(now=now), *self.udp.expire(now=now)]
