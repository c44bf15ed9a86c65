"""All generic forwards together, as the gateway sees them."""

from collections.abc import Iterator, Mapping, Set
from typing import Any

from protocols import ipv4
from protocols.actions import Action, Side
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.deadlines import earliest
from protocols.events import ForwardEvent
from protocols.forward.ip import IpForwards
from protocols.forward.tcp import TcpForwards
from protocols.forward.udp import UdpForwards
from protocols.gre import codec as gre
from protocols.lanes import GreLanes, IpLane, Lane
from protocols.natt.flows import FlowTable
from protocols.offload import Offloads
from protocols.policy import TCP, UDP
from protocols.registry import SessionRegistry
from protocols.sessions import Session


class Forwards:
    """TCP, UDP and whole protocols. ``udp_flows`` is the table of the short lane of UDP."""

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        udp_flows: FlowTable,
        *,
        random: Random,
        offloads: Offloads,
    ) -> None:
        self._admission = admission
        self._tcp = TcpForwards(admission, registry)
        self._udp = UdpForwards(admission, registry, udp_flows, random=random)
        self._ip = IpForwards(admission, registry, offloads)
        #: Flows of protocols that are forwarded whole.
        self.flows = self._ip.flows

    def lanes(self, own: Mapping[int, Lane]) -> dict[int, Lane]:
        """The short lanes of protocols that are forwarded whole; beside ``own`` where both are served."""
        lane, policy = IpLane(self._ip.flows), self._admission.policy
        return {
            rule.protocol: GreLanes(own[ipv4.GRE], lane)
            if rule.protocol == ipv4.GRE and policy.serves_pptp()
            else lane
            for rule in policy.forward
            if rule.protocol not in (TCP, UDP)
        }

    def stream_event(self, event: ForwardEvent, *, now: float) -> list[Action]:
        """Act on what happened to a connection."""
        return self._tcp.stream_event(event, now=now)

    def take(self, side: Side, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action] | None:
        """Take a packet that is not TCP; None if it is none of a forward."""
        if header.protocol == UDP:
            return self._udp.take(side, header, packet, now=now)
        # A rule for PPTP takes its kind of GRE, and a forward any other.
        shared = header.protocol == ipv4.GRE and self._admission.policy.serves_pptp()
        if shared and gre.is_pptp(packet, header.length):
            return None
        return self._ip.take(side, header, packet, now=now)

    def refused(self, rule: str) -> int:
        """How many sessions that the rule allows were refused because of a limit."""
        return sum(part.refused[rule] for part in (self._tcp, self._udp, self._ip))

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session, if it is one of ours."""
        return [
            *self._tcp.kill(session, why),
            *self._udp.kill(session, why, now=now),
            *self._ip.kill(session, why),
        ]

    def hang_up(self, why: str) -> list[Action]:
        """End all connections."""
        return self._tcp.close_all(why)

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        return [*self._tcp.close_all(why), *self._udp.close_all(why, now=now), *self._ip.close_all(why)]

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules and addresses of now do not allow."""
        parts = (self._tcp, self._udp, self._ip)
        return [action for part in parts for action in part.reconsider(now=now)]

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        for kind, part in (("tcp", self._tcp), ("udp", self._udp), ("ip", self._ip)):
            for record in part.records():
                yield kind, *record

    def streams(self) -> Set[int]:
        """All TCP connections that have a part in it."""
        return self._tcp.streams()

    def adopt(self, kind: str, *record: Any, streams: Set[int]) -> list[Action]:
        """Take in a record of before a restart; of TCP, if its connection is among the ``streams`` left."""
        if kind == "tcp":
            return self._tcp.adopt(*record, streams=streams)
        if kind == "udp":
            self._udp.adopt(*record)
        else:
            self._ip.adopt(*record)
        return []

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest(part.next_deadline() for part in (self._tcp, self._udp, self._ip))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        return [action for part in (self._tcp, self._udp, self._ip) for action in part.expire(now=now)]
