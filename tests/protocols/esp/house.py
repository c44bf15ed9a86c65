"""A tracker and the hosts around it, for stories: who sends what, and who gets it."""

import random
from collections import Counter
from typing import ClassVar

from protocols import ipv4
from protocols.actions import Action, Drop, Send, SessionClosed, Side
from protocols.addr import Ip4, Network, parse_ip
from protocols.admission import Addresses, Admission
from protocols.drops import Reason
from protocols.esp.codec import Esp
from protocols.esp.contacts import EspSession, PairState
from protocols.esp.flows import FlowTable, forward
from protocols.esp.tracker import EspTracker
from protocols.icmp import IcmpError
from protocols.ike.observation import IkeObserved
from protocols.offload import Offloads
from protocols.policy import Expose, Ipsec, Limits, Masquerade, Pairing, Policy, Source
from protocols.registry import SessionRegistry
from tests.scenarios.carrier import Carrier

WAN = parse_ip("200.200.200.200")
LAN = parse_ip("10.0.0.1")
ALICE = parse_ip("10.0.0.2")
BOB = parse_ip("10.0.0.3")
CAROL = parse_ip("10.0.0.4")
SERVER = parse_ip("10.0.0.9")
PEER = parse_ip("199.0.0.1")
PEER_2 = parse_ip("199.0.0.2")
STRANGER = parse_ip("199.0.0.66")

ANY = (Network.parse("any"),)
STAFF = Masquerade("staff", (Network.parse("10.0.0.0/24"),), ANY, pptp=False, ipsec=True)


def office(source: Source = Source.KEEP, *allow: str) -> Expose:
    """An exposed IPsec server."""
    networks = tuple(Network.parse(a) for a in allow) or ANY
    return Expose("office", SERVER, networks, pptp=False, ipsec=True, source=source)


def rules(*given: Masquerade | Expose, ipsec: Ipsec | None = None, limits: Limits | None = None) -> Policy:
    """A policy of these rules, of STAFF if there are none."""
    given = given or (STAFF,)
    return Policy(
        lan_networks=(Network.parse("10.0.0.0/8"),),
        masquerade=tuple(r for r in given if isinstance(r, Masquerade)),
        expose=tuple(r for r in given if isinstance(r, Expose)),
        limits=limits or Limits(),
        ipsec=ipsec or Ipsec(),
    )


class House:
    """A tracker, its clock, and what has happened."""

    #: Whether there is a kernel that carries flows. What it counts is read when the tracker asks for it.
    in_kernel: ClassVar[bool] = False

    def __init__(self, policy: Policy | None = None, *, wan: Ip4 | None = WAN) -> None:
        self.now = 1000.0
        chance = random.Random(1)
        self.admission = Admission(policy or rules(), Addresses(wan, frozenset({LAN, WAN})))
        self.registry = SessionRegistry(self.admission.policy.limits, chance.randrange)
        self.kernel = Carrier()
        self.offloads = Offloads(self.kernel.read if self.in_kernel else None)
        self.flows = FlowTable(self.offloads)
        self.ike_alive: dict[tuple[Ip4, Ip4], float] = {}
        self.answers: list[IcmpError] = []
        self.tracker = EspTracker(
            self.admission,
            self.registry,
            self.flows,
            random=chance.randrange,
            answer=self._answer,
            alive=lambda host, peer: self.ike_alive.get((host, peer)),
        )
        # It has been there for long: whoever is here has been seen.
        self.tracker.ledger.begin(now=self.now - 1e6)
        self.sequences: Counter[tuple[Ip4, Ip4, int]] = Counter()
        self.drops: list[Drop] = []
        self.log: list[Action] = []
        self.closed: list[str] = []

    def _answer(self, error: IcmpError, about: bytes, now: float) -> list[Action]:
        self.answers.append(error)
        return []

    # -- packets ---------------------------------------------------------------------------------------

    def out(self, host: Ip4, spi: int, to: Ip4 = PEER, *, seq: int | None = None) -> bool | Reason:
        """A host's packet: True if it left for the right place, as ours, else why not."""
        packet = self.packet(host, to, spi, seq)
        sent = self.through(packet, inside=True)
        if not sent:
            return self.drops[-1].reason
        assert len(sent) == 1
        return True

    def back(self, spi: int, peer: Ip4 = PEER, *, seq: int | None = None) -> list[Ip4] | Reason:
        """A peer's packet: who gets it, the likeliest first, or why nobody does."""
        sent = self.through(self.packet(peer, WAN, spi, seq), inside=False)
        return [Ip4(ipv4.Header.from_bytes(p, verify=False).dst) for p in sent] or self.drops[-1].reason

    def packet(self, source: Ip4, destination: Ip4, spi: int, seq: int | None = None, ttl: int = 64) -> bytes:
        """An ESP packet; the next number of its SPI if none is given."""
        key = (source, destination, spi)
        self.sequences[key] = self.sequences[key] + 1 if seq is None else seq
        payload = Esp(spi, self.sequences[key], b"secret").to_bytes() if spi else bytes(16)
        return ipv4.build(src=source, dst=destination, protocol=ipv4.ESP, payload=payload, ttl=ttl)

    def through(self, packet: bytes, *, inside: bool) -> list[bytes]:
        """What leaves when a packet arrives on one side, by either lane."""
        carried = self.kernel.take(Side.LAN if inside else Side.WAN, packet, self.now)
        if carried is not None:
            self.log = []
            return [carried]
        buffer = bytearray(packet)
        flows = self.flows.lan if inside else self.flows.wan
        destination = forward(flows, buffer, len(packet), self.now)
        if destination is not None:
            self.log = []
            return [bytes(buffer)]
        take = self.tracker.from_lan if inside else self.tracker.from_wan
        return self.perform(take(ipv4.validate(packet), packet, now=self.now))

    def perform(self, actions: list[Action]) -> list[bytes]:
        """Carry out actions; the packets sent."""
        for move in self.offloads.take():
            self.kernel.perform(move)
        self.log = actions
        self.drops += [a for a in actions if isinstance(a, Drop)]
        self.closed += [a.why for a in actions if isinstance(a, SessionClosed)]
        return [a.packet for a in actions if isinstance(a, Send)]

    # -- IKE -------------------------------------------------------------------------------------------

    def ike(self, host: Ip4, exchange: int, peer: Ip4 = PEER, **more: int) -> None:
        """An IKE message, from the host unless ``outbound`` says otherwise."""
        version, number = more.get("version", 2), more.get("number", 0)
        outbound, response = bool(more.get("outbound", True)), bool(more.get("response", False))
        seen = IkeObserved(host, peer, outbound, version, exchange, number, outbound, response, 100, True)
        assert self.tracker.ike_seen(seen, now=self.now) == []

    def agree(self, host: Ip4, peer: Ip4 = PEER, *, trip: float = 0.02) -> None:
        """IKEv2 from the beginning to the first pair."""
        for exchange, number in ((34, 0), (35, 1)):
            self.ike(host, exchange, peer, number=number)
            self.now += trip
            self.ike(host, exchange, peer, number=number, outbound=False, response=True)

    def rekey(self, host: Ip4, *, number: int = 2, mine: bool = True) -> None:
        """A CREATE_CHILD_SA exchange, begun by the host or by the peer."""
        self.ike(host, 36, number=number, outbound=mine)
        self.now += 0.02
        self.ike(host, 36, number=number, outbound=not mine, response=True)
        self.now += 0.0 if mine else 0.02

    # -- time ------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time pass; the tracker is woken whenever it asked for it."""
        until = self.now + seconds
        while (when := self.tracker.next_deadline()) is not None and when <= until:
            self.now = max(self.now, when)
            self.perform(self.tracker.expire(now=self.now))
        self.now = until

    def converse(self, host: Ip4, out: int, back: int, times: int, *, pause: float = 1.3) -> None:
        """Questions and answers that look like those of one tunnel."""
        for turn in range(times):
            assert self.out(host, out) is True
            self.wait(0.05)
            got = self.back(back)
            assert isinstance(got, list)
            assert host in got
            self.wait(0.001)
            assert self.out(host, out) is True
            self.wait(pause + 0.17 * turn)

    # -- what is known ---------------------------------------------------------------------------------

    def session(self, host: Ip4, peer: Ip4 = PEER) -> EspSession | None:
        """The tunnel of these two."""
        for session in self.registry:
            if session.inside == host and session.peer == peer:
                assert isinstance(session, EspSession)
                return session
        return None

    def pairing(self, host: Ip4, peer: Ip4 = PEER) -> PairState:
        """How sure the tunnel of these two is."""
        session = self.session(host, peer)
        assert session is not None
        return session.pairing

    def fast(self, source: Ip4, destination: Ip4, spi: int) -> bool:
        """Whether such packets take the fast lane."""
        table = self.flows.wan if destination == WAN else self.flows.lan
        return (source << 32 | destination) << 32 | spi in table

    def use(self, pairing: Pairing) -> None:
        """Another policy of pairing from now on."""
        ipsec = Ipsec(pairing=pairing)
        policy = self.admission.policy
        self.admission.policy = rules(*policy.masquerade, *policy.expose, ipsec=ipsec)
