"""IPsec's UDP, sorted to where it is told apart: by cookies, or by ports.

What an inside host sends from port 500 keeps it, and is told apart by its cookies (protocols.ike). All
else is translated by address and port (protocols.natt): port 4500, IKE from other ports than 500, IKE to
peers before which the port is to be changed, and what a host sends to our own public address to reach an
exposed server (hairpin, RFC 4787 REQ-9), which then comes in again as if from outside.
"""

from collections.abc import Callable, Iterator
from typing import Any

from protocols import ipv4
from protocols.actions import Action, Drop, Side
from protocols.addr import Ip4, contains, show_ip
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.deadlines import earliest
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.ike import natt, rules
from protocols.ike import tracker as ike
from protocols.ike.conversations import Alive
from protocols.ike.header import forwardable
from protocols.ike.tracker import IkeTracker, Observe
from protocols.natt.disguise import Disguises
from protocols.natt.mapping import Talk
from protocols.natt.tracker import NattTracker
from protocols.offload import Offloads
from protocols.registry import SessionRegistry
from protocols.sessions import Session
from protocols.udp import Datagram

_SERVED = frozenset({ike.PORT, natt.PORT})


class IpsecUdp:
    """IKE and ESP in UDP: whole packets in, actions out.

    ``observe`` is told of every valid IKE message that is passed on. ``esp_alive`` says when the ESP of a
    host and a peer was last seen. Established ESP in UDP may take the short lane: ``natt.flows``.
    """

    def __init__(
        self,
        admission: Admission,
        registry: SessionRegistry,
        *,
        random: Random,
        observe: Observe,
        esp_alive: Alive,
        offloads: Offloads | None = None,
    ) -> None:
        self._admission = admission
        self._esp_alive = esp_alive
        self._disguises = Disguises(random, lambda: admission.policy.ipsec)
        self.natt = NattTracker(
            admission,
            registry,
            self._disguises,
            random=random,
            onward=self._onward,
            observe=observe,
            offloads=offloads,
        )
        self.ike = IkeTracker(
            admission,
            registry,
            self._disguises,
            onward=self._onward,
            observe=observe,
            companion=self._data_alive,
        )

    def alive(self, host: Ip4, peer: Ip4) -> float | None:
        """When the two last exchanged IKE or ESP in UDP: it keeps their ESP alive."""
        return _later(self.ike.alive(host, peer), self.natt.alive(host, peer))

    def _data_alive(self, host: Ip4, peer: Ip4) -> float | None:
        return _later(self._esp_alive(host, peer), self.natt.alive(host, peer))

    def tunnel(self, host: Ip4, peer: Ip4) -> list[Session]:
        """The sessions that together are one tunnel: IKE on 500 first, then what floated to 4500."""
        session = self.ike.session(host, peer)
        return [*([session] if session else []), *self.natt.sessions(host, peer)]

    # -- packets ---------------------------------------------------------------------------------------

    def from_lan(self, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action]:
        """Take a UDP packet that arrived on a LAN interface."""
        return self._taken(Side.LAN, header, packet, now)

    def from_wan(self, header: ipv4.Header, packet: bytes, *, now: float) -> list[Action]:
        """Take a UDP packet that arrived on the WAN interface."""
        return self._taken(Side.WAN, header, packet, now)

    def _taken(self, side: Side, header: ipv4.Header, packet: bytes, now: float) -> list[Action]:
        ends = f"{show_ip(header.src)} to {show_ip(header.dst)}"
        fault = self._admission.source_fault(side, header.src) or self._fault(side, header)
        if fault is not None:
            return [Drop(fault, ends)]
        try:
            datagram = Datagram.from_packet(header, packet)
            if side is Side.LAN:
                return self._outbound(header, datagram, now)
            return self._inbound(header, datagram, Ip4(header.src), now)
        except DecodeError as error:
            return [Drop(error.reason, f"{ends}: {error.detail}")]

    def _fault(self, side: Side, header: ipv4.Header) -> Reason | None:
        if self._admission.addresses.wan is None:
            return Reason.NO_ADDRESS
        if side is Side.WAN and header.dst != self._admission.addresses.wan:
            return Reason.NOT_SERVED
        return Reason.TTL_EXPIRED if header.ttl < 2 else None

    def _outbound(self, header: ipv4.Header, datagram: Datagram, now: float) -> list[Action]:
        (host, port), (addressed, to) = datagram.source, datagram.target
        if port not in _SERVED and to not in _SERVED:
            return [Drop(Reason.NOT_SERVED, str(datagram))]
        neighbour = None
        if addressed == self._admission.addresses.wan:
            if to in _SERVED:
                # A client of a neighbour: it comes in again under a port that tells it from others.
                return self.natt.outbound(header, datagram, None, now)
            neighbour = self.natt.owner(to)
            if neighbour is None:
                return [Drop(Reason.NO_RULE, str(datagram))]
        if port != ike.PORT or self._changes_port(host, addressed):
            return self.natt.outbound(header, datagram, neighbour, now)
        return self.ike.outbound(header, datagram, forwardable(datagram.payload), neighbour, now)

    def _changes_port(self, host: Ip4, addressed: Ip4) -> bool:
        if not contains(self._admission.policy.ipsec.change_port, addressed):
            return False
        # An exposed server answers from the port that it is called on.
        relation = rules.from_peer(self._admission, addressed)
        return relation is None or relation.host != host

    def _inbound(
        self, header: ipv4.Header, datagram: Datagram, peer: Ip4, now: float, sender: Talk | None = None
    ) -> list[Action]:
        if datagram.target[1] != ike.PORT:
            return self.natt.inbound(header, datagram, peer, now, sender)
        return self.ike.inbound(header, datagram, forwardable(datagram.payload), peer, now)

    def _onward(
        self, header: ipv4.Header, datagram: Datagram, now: float, sender: Talk | None = None
    ) -> list[Action]:
        """Send a datagram out, or in again if it is for us; ``sender``: the talk it is of, by ports."""
        wan = self._admission.addresses.wan
        if datagram.target[0] != wan:
            return [datagram.forwarded(header)]
        peer = self.natt.owner(datagram.source[1]) or wan
        return self._inbound(header, datagram, peer, now, sender)

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[Any, ...]]:
        """What is to survive a restart; something may happen between two of them."""
        for record in self.ike.records():
            yield "ike", *record
        yield from self.natt.records()
        for record in self._disguises.records():
            yield "disguises", *record

    def adopt(self, kind: str, *record: Any) -> None:
        """Take in a record of before a restart."""
        takers: dict[str, Callable[..., None]] = {
            "ike": self.ike.adopt,
            "ports": self.natt.adopt_ports,
            "former": self.natt.adopt_former,
            "mapping": self.natt.adopt,
            "hairpins": self.natt.adopt_hairpins,
            "disguises": self._disguises.adopt,
        }
        takers[kind](*record)

    # -- the operator, and time ------------------------------------------------------------------------

    def kill(self, session: Session, why: str, *, now: float) -> list[Action]:
        """End a session, if it is one of these."""
        return self.ike.kill(session, why, now=now) + self.natt.kill(session, why, now=now)

    def close_all(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        return self.ike.close_all(why, now=now) + self.natt.close_all(why, now=now)

    def reconsider(self, *, now: float) -> list[Action]:
        """End what the rules and addresses of now do not allow."""
        return self.ike.reconsider(now=now) + self.natt.reconsider(now=now)

    def awaited(self) -> Ip4 | None:
        """A peer whose first answer somebody waits for."""
        return self.ike.awaited() or self.natt.awaited()

    def resend(self, *, now: float) -> list[Action]:
        """Send first messages that nobody has answered again, from the public address of now."""
        return self.ike.resend(now=now) + self.natt.resend(now=now)

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest(part.next_deadline() for part in (self.ike, self.natt, self._disguises))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due."""
        self._disguises.expire(now=now)
        return self.ike.expire(now=now) + self.natt.expire(now=now)


def _later(one: float | None, other: float | None) -> float | None:
    return max((when for when in (one, other) if when is not None), default=None)
