"""The gateway under test, and what others do in its place.

A gateway sees packets and IKE headers and says which inside hosts get a packet. It is told nothing else.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from protocols import ipv4
from protocols.actions import Action, Drop, Send
from protocols.addr import Ip4, Network, parse_ip
from protocols.admission import Addresses, Admission
from protocols.esp import codec
from protocols.esp.codec import Esp
from protocols.esp.flows import FlowTable, forward
from protocols.esp.tracker import EspTracker
from protocols.ike.observation import IkeObserved
from protocols.policy import Expose, Ipsec, Limits, Masquerade, Pairing, Policy
from protocols.registry import SessionRegistry

WAN = parse_ip("200.200.200.200")
LAN = parse_ip("10.0.0.1")
PEER = parse_ip("199.0.0.1")
_HEADER = 20
_LAN_NETWORK = Network.parse("10.0.0.0/8")
_STAFF = Masquerade("staff", (_LAN_NETWORK,), (Network.parse("any"),), pptp=False, ipsec=True)


#: Which inside hosts get a packet, by its SPI and number.
Released = dict[tuple[int, int], list[Ip4]]


class Gateway(Protocol):
    """What the simulated network asks of a gateway."""

    def outbound(self, host: Ip4, peer: Ip4, spi: int, sequence: int, now: float) -> bool:
        """Whether an inside host's packet reaches the outside."""

    def inbound(self, peer: Ip4, spi: int, sequence: int, now: float) -> list[Ip4] | None:
        """Which inside hosts get a peer's packet; None if it is held for a moment."""

    def next_release(self) -> float | None:
        """When to ask for what is ``released``, at the latest."""

    def released(self, now: float) -> Released:
        """The packets that were held, and are not any more."""

    def ike(self, observed: IkeObserved, now: float) -> None:
        """An IKE message passes."""

    def owner(self, peer: Ip4, spi: int) -> Ip4 | None:
        """Whom the gateway holds to be the owner of an inbound SPI, once it is sure."""

    def begin(self, now: float) -> None:
        """It is started."""

    def restart(self, *, keeps: bool, now: float) -> None:
        """It is stopped and started, and may have kept what it knew."""


class Ours:
    """vpnmasq: the fast lane, then the tracker."""

    def __init__(
        self,
        pairing: Pairing,
        seed: int,
        *,
        expose: tuple[Expose, ...] = (),
        lifetime: float = 1800.0,
        memory: float = 86400.0,
    ) -> None:
        rules = Policy(
            lan_networks=(_LAN_NETWORK,),
            masquerade=(_STAFF,),
            expose=expose,
            limits=Limits(new_per_second=100_000, sessions_per_client=100_000),
            ipsec=Ipsec(pairing=pairing, lifetime=lifetime, memory=memory),
        )
        chance = random.Random(seed)
        self._random = chance.randrange
        self.admission = Admission(rules, Addresses(WAN, frozenset({WAN, LAN})))
        self.drops: Counter[str] = Counter()
        self._buffer = bytearray(100)
        self._released: Released = {}
        self._begin()

    def _begin(self) -> None:
        self.registry = SessionRegistry(self.admission.policy.limits, self._random)
        self.flows = FlowTable()
        self.tracker = EspTracker(self.admission, self.registry, self.flows, random=self._random)

    def begin(self, now: float) -> None:
        """Begin to look."""
        self.tracker.ledger.begin(now=now)

    def restart(self, *, keeps: bool, now: float) -> None:
        """Stop and start."""
        records = list(self.tracker.survival.records()) if keeps else []
        self._begin()
        for kind, *record in records:
            self.tracker.survival.adopt(kind, *record)
        if keeps:
            self.tracker.survival.away(now=now)
        self.begin(now)

    def outbound(self, host: Ip4, peer: Ip4, spi: int, sequence: int, now: float) -> bool:
        """Pass a packet to the outside."""
        packet = _packet(host, peer, spi, sequence)
        return bool(self._pass(packet, now, inbound=False))

    def inbound(self, peer: Ip4, spi: int, sequence: int, now: float) -> list[Ip4] | None:
        """Pass a packet to the inside."""
        got = self._pass(_packet(peer, WAN, spi, sequence), now, inbound=True)
        if got:
            return got
        known = self.tracker.ledger.peers.get(peer)
        inbound = None if known is None else known.inbound.get(spi)
        held = inbound is not None and inbound.trial is not None and inbound.trial.held
        return None if held else []

    def next_release(self) -> float | None:
        """When the tracker is next to be woken."""
        return self.tracker.next_deadline()

    def released(self, now: float) -> Released:
        """Wake it; what has left since the last time."""
        self._expire(now)
        released, self._released = self._released, {}
        return released

    def ike(self, observed: IkeObserved, now: float) -> None:
        """Show the tracker an IKE header."""
        self._expire(now)
        self.tracker.ike_seen(observed, now=now)

    def owner(self, peer: Ip4, spi: int) -> Ip4 | None:
        """Who gets the SPI by the fast lane."""
        known = self.tracker.ledger.peers.get(peer)
        inbound = None if known is None else known.inbound.get(spi)
        return inbound.owner.host if inbound is not None and inbound.owner is not None else None

    def _pass(self, packet: bytes, now: float, *, inbound: bool) -> list[Ip4]:
        self._expire(now)
        buffer, length = self._buffer, len(packet)
        buffer[:length] = packet
        flows = self.flows.wan if inbound else self.flows.lan
        destination = forward(flows, buffer, length, now)
        if destination is not None:
            return [destination]
        header = ipv4.validate(packet, verify=False)
        take = self.tracker.from_wan if inbound else self.tracker.from_lan
        actions: list[Action] = take(header, packet, now=now)
        self._perform(actions)
        return self._released.pop(codec.words_of(packet, header.length), [])

    def _expire(self, now: float) -> None:
        while (when := self.tracker.next_deadline()) is not None and when <= now:
            self._perform(self.tracker.expire(now=now))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Drop):
                self.drops[action.reason.value] += 1
            elif isinstance(action, Send):
                words = codec.words_of(action.packet, _HEADER)
                self._released.setdefault(words, []).append(Ip4(action.destination))


class Impatient:
    """A gateway that holds nothing."""

    def next_release(self) -> float | None:
        """Never."""
        return None

    def released(self, now: float) -> Released:
        """Nothing."""
        return {}


@dataclass
class Netfilter(Impatient):
    """Linux without help: one flow of protocol 50 for each pair of public addresses, 600 s."""

    flows: dict[Ip4, tuple[Ip4, float]] = field(default_factory=dict)

    def outbound(self, host: Ip4, peer: Ip4, spi: int, sequence: int, now: float) -> bool:
        """The reply tuple of a second host is taken, so its packet is dropped."""
        holder, until = self.flows.get(peer, (host, now))
        if holder != host and until > now:
            return False
        self.flows[peer] = (host, now + 600)
        return True

    def inbound(self, peer: Ip4, spi: int, sequence: int, now: float) -> list[Ip4]:
        """Everything is the holder's."""
        holder, until = self.flows.get(peer, (None, 0.0))
        if holder is None or until <= now:
            return []
        self.flows[peer] = (holder, now + 600)
        return [holder]

    def ike(self, observed: IkeObserved, now: float) -> None:
        """Port 500 is translated apart from ESP."""

    def owner(self, peer: Ip4, spi: int) -> Ip4 | None:
        """It believes nothing about SPIs."""
        return None

    def begin(self, now: float) -> None:
        """Have nothing to do."""

    def restart(self, *, keeps: bool, now: float) -> None:
        """The kernel goes on."""


@dataclass
class FirstInFirstOut(Impatient):
    """A vendor's tracker: an unknown inbound SPI answers the oldest outbound one that waits."""

    waiting: dict[Ip4, list[tuple[Ip4, int, float]]] = field(default_factory=dict)
    known: set[tuple[Ip4, Ip4, int]] = field(default_factory=set)
    owners: dict[tuple[Ip4, int], Ip4] = field(default_factory=dict)

    def outbound(self, host: Ip4, peer: Ip4, spi: int, sequence: int, now: float) -> bool:
        """Wait for the answer, for a minute."""
        if (host, peer, spi) not in self.known:
            self.known.add((host, peer, spi))
            self.waiting.setdefault(peer, []).append((host, spi, now + 60))
        return True

    def inbound(self, peer: Ip4, spi: int, sequence: int, now: float) -> list[Ip4]:
        """Give it to the first."""
        if (peer, spi) not in self.owners:
            waiting = [w for w in self.waiting.get(peer, []) if w[2] > now]
            if not waiting:
                return []
            self.owners[peer, spi] = waiting[0][0]
            self.waiting[peer] = waiting[1:]
        return [self.owners[peer, spi]]

    def ike(self, observed: IkeObserved, now: float) -> None:
        """It does not look at IKE."""

    def owner(self, peer: Ip4, spi: int) -> Ip4 | None:
        """Whom it gives the SPI to."""
        return self.owners.get((peer, spi))

    def begin(self, now: float) -> None:
        """Have nothing to do."""

    def restart(self, *, keeps: bool, now: float) -> None:
        """It keeps nothing on a disk."""
        if not keeps:
            self.waiting, self.known, self.owners = {}, set(), {}


def _packet(source: Ip4, destination: Ip4, spi: int, sequence: int) -> bytes:
    payload = Esp(spi, sequence & 0xFFFFFFFF, bytes(8)).to_bytes()
    return ipv4.build(src=source, dst=destination, protocol=ipv4.ESP, payload=payload)


POLICIES = ("netfilter", "fifo", "refuse", "serialize", "fanout")


def gateway(name: str, seed: int, *, lifetime: float = 1800.0, memory: float = 86400.0) -> Gateway:
    """A gateway of this kind."""
    if name == "netfilter":
        return Netfilter()
    if name == "fifo":
        return FirstInFirstOut()
    return Ours(Pairing(name), seed, lifetime=lifetime, memory=memory)
