"""A network without a network, for IPsec over UDP: hosts send datagrams, and see who gets them.

world = UdpWorld(policy(STAFF))
got = world.lan(CLIENT, 500, PEER, 500, ike(A))
assert got == Got(WAN, 500, PEER, 500, ike(A))
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from protocols import ipv4
from protocols.actions import (
    Action,
    Drop,
    Send,
    SessionChanged,
    SessionClosed,
    SessionOpened,
    Side,
)
from protocols.addr import Ip4, Network, parse_ip, show_ip
from protocols.admission import Addresses, Admission
from protocols.drops import Reason
from protocols.ike.header import ENCRYPTION, INITIATOR, LENGTH, RESPONSE, IkeHeader
from protocols.ike.natt import NON_ESP_MARKER, EspInUdp
from protocols.ike.observation import IkeObserved
from protocols.natt.flows import forward, restore
from protocols.policy import Expose, Ipsec, Limits, Masquerade, Policy, Source
from protocols.registry import SessionRegistry
from protocols.sessions import Session
from protocols.udp import PROTOCOL, Datagram
from protocols.udpflow import IpsecUdp

WAN = parse_ip("200.200.200.200")
WAN_2 = parse_ip("200.200.200.201")
LAN = parse_ip("10.0.0.1")
OTHER_LAN = parse_ip("10.9.0.1")
CLIENT = parse_ip("10.0.0.2")
CLIENT_2 = parse_ip("10.0.0.3")
CLIENT_3 = parse_ip("10.0.0.4")
SERVER = parse_ip("10.0.0.9")
SERVER_2 = parse_ip("10.0.0.10")
PEER = parse_ip("199.0.0.1")
PEER_2 = parse_ip("199.0.0.2")
STRANGER = parse_ip("199.0.0.66")

ANY = Network.parse("any")
LAN_NETWORK = Network.parse("10.0.0.0/8")
STAFF = Masquerade("staff", (Network.parse("10.0.0.0/24"),), (ANY,), pptp=False, ipsec=True)

# Cookies: the first two are equal in their first 32 bits.
A = 0xAAAAAAAA_00000001
B = 0xAAAAAAAA_00000002
X = 0x1111111111111111
Y = 0x2222222222222222


def expose(server: Ip4 = SERVER, *allow: str, source: Source = Source.KEEP, name: str = "office") -> Expose:
    """An exposed IPsec server, allowed from ``allow`` (default: anywhere)."""
    networks = tuple(Network.parse(a) for a in allow or ("any",))
    return Expose(name, server, networks, pptp=False, ipsec=True, source=source)


def policy(*rules: Masquerade | Expose, ipsec: Ipsec | None = None, limits: Limits | None = None) -> Policy:
    """A policy of these rules on the HOWTO's LAN."""
    return Policy(
        lan_networks=(LAN_NETWORK,),
        masquerade=tuple(r for r in rules if isinstance(r, Masquerade)),
        expose=tuple(r for r in rules if isinstance(r, Expose)),
        limits=limits or Limits(),
        ipsec=ipsec or Ipsec(),
    )


def ike(
    initiator: int,
    responder: int = 0,
    *,
    exchange: int = 34,
    message_id: int = 0,
    answer: bool = False,
    version: int = 2,
    text: bytes = b"",
) -> bytes:
    """An IKE message."""
    header = IkeHeader(
        initiator,
        responder,
        exchange,
        message_id,
        LENGTH + len(text),
        version=version,
        flags=(RESPONSE if answer else INITIATOR) if version == 2 else ENCRYPTION,
    )
    return header.to_bytes() + text


def marked(message: bytes) -> bytes:
    """A message as it goes over port 4500."""
    return NON_ESP_MARKER + message


def esp(spi: int, text: bytes = b"secret") -> bytes:
    """ESP as it goes over port 4500."""
    return EspInUdp(spi, 1).to_bytes() + text


@dataclass(frozen=True)
class Got:
    """A datagram that somebody got."""

    src: Ip4
    src_port: int
    dst: Ip4
    dst_port: int
    payload: bytes

    def __repr__(self) -> str:
        ends = f"{show_ip(self.src)}:{self.src_port} -> {show_ip(self.dst)}:{self.dst_port}"
        return f"<{ends} {self.payload.hex()}>"


class UdpWorld:
    """The two trackers of IPsec's UDP, their clock, and what has happened."""

    def __init__(self, rules: Policy, *, wan: Ip4 | None = WAN, seed: int = 1) -> None:
        self.now = 1000.0
        self.addresses = Addresses(wan, frozenset({LAN, OTHER_LAN} | ({wan} if wan else set())))
        self.admission = Admission(rules, self.addresses)
        self.random = random.Random(seed)
        self.registry = SessionRegistry(rules.limits, self.random.randrange)
        self.observed: list[IkeObserved] = []
        self.esp: dict[tuple[Ip4, Ip4], float] = {}
        self.udp = IpsecUdp(
            self.admission,
            self.registry,
            random=self.random.randrange,
            observe=self.observed.append,
            esp_alive=lambda host, peer: self.esp.get((host, peer)),
        )
        self.log: list[str] = []
        self.drops: list[Drop] = []
        self.got: list[Got] = []
        self._fast = False

    def fast(self) -> bool:
        """Whether the last datagram took the short lane."""
        return self._fast

    def lan(
        self, src: Ip4, sport: int, dst: Ip4, dport: int, payload: bytes, **how: int
    ) -> Got | Reason | None:
        """Send from inside: what somebody gets of it, why nobody does, or None while it is held back."""
        return self.send(Side.LAN, Datagram((src, sport), (dst, dport), payload), **how)

    def wan(self, src: Ip4, sport: int, dport: int, payload: bytes, **how: int) -> Got | Reason | None:
        """Send from outside to our public address."""
        wan = self.admission.addresses.wan or WAN
        return self.send(Side.WAN, Datagram((src, sport), (wan, dport), payload), **how)

    def send(self, side: Side, datagram: Datagram, *, ttl: int = 64, summed: int = 1) -> Got | Reason | None:
        """Send a datagram, with or without a checksum."""
        whole = datagram.summed() if summed else datagram
        packet = ipv4.build(
            src=whole.source[0], dst=whole.target[0], protocol=PROTOCOL, payload=whole.to_bytes(), ttl=ttl
        )
        buffer = bytearray(packet)
        flows = self.udp.natt.flows
        flow_table = flows.lan if side is Side.LAN else flows.wan
        destination = forward(flow_table, buffer, len(buffer), self.now)
        self._fast = destination is not None
        if destination is not None:
            flow = flows.departed(int.from_bytes(buffer[12:24]))
            assert flow is not None
            assert restore(flow, bytes(buffer)) == packet
            return self.arrive(bytes(buffer), destination, summed)
        header = ipv4.Header.from_bytes(packet)
        take = self.udp.from_lan if side is Side.LAN else self.udp.from_wan
        sent, dropped = len(self.got), len(self.drops)
        self.perform(take(header, packet, now=self.now), summed)
        if len(self.got) > sent:
            assert len(self.got) == sent + 1 or self.got[sent] != self.got[sent + 1]
            return self.got[sent]
        return self.drops[-1].reason if len(self.drops) > dropped else None

    def arrive(self, packet: bytes, destination: Ip4, summed: int) -> Got:
        """Somebody gets a packet, with a checksum that is right if it was there, and zero if not."""
        header = ipv4.Header.from_bytes(packet, verify=False)
        assert header.dst == destination
        datagram = Datagram.from_packet(header, packet)
        assert datagram.checksum == (datagram.summed().checksum if summed else 0)
        got = Got(*datagram.source, *datagram.target, datagram.payload)
        self.got.append(got)
        return got

    def perform(self, actions: Iterable[Action], summed: int = 1) -> None:
        """Carry out actions."""
        for action in actions:
            match action:
                case Send():
                    self.arrive(action.packet, action.destination, summed)
                case Drop():
                    self.drops.append(action)
                case SessionOpened():
                    self.log.append(f"opened {action.session.protocol} {show_ip(action.session.inside)}")
                case SessionChanged():
                    self.log.append(f"{action.session.state.value} {show_ip(action.session.inside)}")
                case SessionClosed():
                    self.log.append(f"closed {show_ip(action.session.inside)}: {action.why}")
                case _:
                    raise AssertionError(action)

    def wait(self, seconds: float) -> None:
        """Let time pass, waking the trackers whenever they asked for it."""
        until = self.now + seconds
        while (deadline := self.udp.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.perform(self.udp.expire(now=self.now))
            after = self.udp.next_deadline()
            assert after is None or after > self.now, "it asked to be woken for nothing"
        self.now = until

    def reload(self, rules: Policy) -> None:
        """Another policy."""
        self.admission.policy = rules
        self.registry.relimit(rules.limits)
        self.perform(self.udp.reconsider(now=self.now))

    def move(self, wan: Ip4 | None) -> None:
        """Another public address."""
        own = frozenset({LAN, OTHER_LAN} | ({wan} if wan else set()))
        self.admission.addresses = replace(self.addresses, wan=wan, own=own)
        self.perform(self.udp.reconsider(now=self.now))

    def resend(self) -> list[Got]:
        """There is a way to the internet; who gets what once more."""
        sent = len(self.got)
        self.perform(self.udp.resend(now=self.now))
        return self.got[sent:]

    def sessions(self) -> list[Session]:
        """The registry."""
        return list(self.registry)

    def talk(self, client: Ip4, peer: Ip4, mine: int, theirs: int) -> None:
        """The first two messages of an IKE SA that a client begins."""
        assert self.lan(client, 500, peer, 500, ike(mine)) == Got(WAN, 500, peer, 500, ike(mine))
        back = ike(mine, theirs, answer=True)
        assert self.wan(peer, 500, 500, back) == Got(peer, 500, client, 500, back)

    def float(self, client: Ip4, peer: Ip4, mine: int, theirs: int) -> int:
        """A client goes on over 4500, and both send data; the port it is shown under."""
        auth = marked(ike(mine, theirs, exchange=35, message_id=1))
        out = self.lan(client, 4500, peer, 4500, auth)
        assert isinstance(out, Got)
        assert (out.src, out.dst, out.dst_port, out.payload) == (WAN, peer, 4500, auth)
        answer = marked(ike(mine, theirs, exchange=35, message_id=1, answer=True))
        assert self.wan(peer, 4500, out.src_port, answer) == Got(peer, 4500, client, 4500, answer)
        return out.src_port


def staffed(**changes: object) -> UdpWorld:
    """A world whose clients may go anywhere, with these settings of IPsec."""
    return UdpWorld(policy(STAFF, ipsec=replace(Ipsec(), **changes)))  # type: ignore[arg-type]


def assert_nothing_left(world: UdpWorld) -> None:
    """All is over, and nothing is remembered once the ports have rested."""
    udp, ipsec = world.udp, world.admission.policy.ipsec
    assert world.sessions() == []
    assert not world.registry._hosts
    assert not udp.ike._conversations._hosts
    assert not udp.ike._cookies._claims
    assert not udp.ike._cookies._known
    assert udp.ike._holds._count == 0
    assert not udp.natt._talks
    assert len(udp.natt._mappings) == 0
    assert not udp.natt._mappings._by_port
    assert len(udp.natt.flows) == 0
    assert not udp.natt.flows._departed
    assert len(udp._disguises) == 0
    world.wait(ipsec.port_rest + ipsec.hold)
    assert len(udp.natt._mappings.ports) == 0
    assert not udp._disguises._ports
    assert udp.next_deadline() is None


def out(got: Got | Reason | None) -> int:
    """The port of ours that a datagram left from."""
    assert isinstance(got, Got), got
    assert got.src == WAN
    return got.src_port
