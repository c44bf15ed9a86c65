"""A network without a network: the sans-IO gateway between hosts that are lists, on a clock that is a number.

A story is written as it would be told: a client dials, the server answers, data passes, time goes by.

    world = World(policy)
    client = world.dial(CLIENT, PEER)          # TCP to 1723, as the client sees it
    server = world.answer(client)              # the connection that reaches the server
    client.says(StartRequest())
    assert server.hears() == [StartRequest()]
"""

import random
from dataclasses import dataclass, field
from typing import ClassVar

from protocols import ipv4
from protocols.actions import (
    Action,
    Connect,
    Drop,
    Heed,
    Ignore,
    Offload,
    Send,
    SessionChanged,
    SessionClosed,
    SessionOpened,
    Side,
    StreamClose,
    StreamWrite,
    Unload,
)
from protocols.addr import Ip4, Network, contains, parse_ip, show_ip
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.events import (
    StreamAccepted,
    StreamConnected,
    StreamData,
    StreamEnded,
    StreamEvent,
    StreamFailed,
    StreamLost,
    StreamStalled,
)
from protocols.gateway import Gateway
from protocols.gre.codec import EnhancedGre
from protocols.offload import Read
from protocols.policy import Expose, Limits, Masquerade, Policy, PptpTimers, Source
from protocols.pptp import messages
from protocols.pptp.messages import Message
from protocols.sessions import Session
from tests.scenarios.carrier import Carrier

GRE = 47

WAN = parse_ip("200.200.200.200")
LAN = parse_ip("10.0.0.1")
#: All hosts of the networks that the gateway is in.
BROADCASTS = frozenset({parse_ip("10.255.255.255"), parse_ip("200.200.200.255")})
CLIENT = parse_ip("10.0.0.2")
CLIENT_2 = parse_ip("10.0.0.3")
SERVER = parse_ip("10.0.0.9")
SERVER_2 = parse_ip("10.0.0.10")
PEER = parse_ip("199.0.0.1")
PEER_2 = parse_ip("199.0.0.2")
STRANGER = parse_ip("199.0.0.66")

LAN_NETWORK = Network.parse("10.0.0.0/8")
STAFF = Masquerade("staff", (Network.parse("10.0.0.0/24"),), (Network.parse("any"),))


def expose(server: Ip4 = SERVER, *allow: str, name: str = "office", source: Source = Source.KEEP) -> Expose:
    """An exposed server, allowed from ``allow`` (default: anywhere)."""
    return Expose(name, server, tuple(Network.parse(a) for a in allow or ("any",)), source=source)


def policy(
    *rules: Masquerade | Expose, limits: Limits | None = None, pptp: PptpTimers | None = None
) -> Policy:
    """A policy of these rules on the HOWTO's LAN."""
    return Policy(
        lan_networks=(LAN_NETWORK,),
        masquerade=tuple(r for r in rules if isinstance(r, Masquerade)),
        expose=tuple(r for r in rules if isinstance(r, Expose)),
        limits=limits or Limits(),
        pptp=pptp or PptpTimers(),
    )


@dataclass
class Line:
    """One end of a TCP connection with the gateway: a host's view."""

    world: "World"
    stream: int
    side: Side
    host: Ip4
    #: Whom the host believes to be talking to.
    correspondent: Ip4
    inbox: bytearray = field(default_factory=bytearray)
    #: None while it stands; "fin" or "rst" after the gateway closed it, "lost" after the host reset it.
    closed: str | None = None

    def says(self, *spoken: Message | bytes) -> list[Action]:
        """Send control messages, all in one segment."""
        data = b"".join(m if isinstance(m, bytes) else m.to_bytes() for m in spoken)
        return self.world.event(StreamData(self.stream, data))

    def hears(self) -> list[Message]:
        """What has arrived since the last time."""
        heard = []
        while self.inbox:
            length = int.from_bytes(self.inbox[:2])
            heard.append(messages.decode(bytes(self.inbox[:length])))
            del self.inbox[:length]
        return heard

    def receives(self) -> bytes:
        """The bytes that have arrived since the last time."""
        data = bytes(self.inbox)
        self.inbox.clear()
        return data

    def hangs_up(self) -> list[Action]:
        """Send FIN."""
        return self.world.event(StreamEnded(self.stream))

    def resets(self) -> list[Action]:
        """Send RST."""
        self.closed = "lost"
        return self.world.event(StreamLost(self.stream, "connection reset by peer"))

    def sends(self, call_id: int, payload: bytes = b"data", **gre: int) -> bytes | Reason:
        """Send data to the correspondent; the packet that leaves the gateway, or why none does."""
        return self.world.gre(self.side, self.host, self.correspondent, call_id, payload, **gre)

    def got(self, packet: bytes | Reason, call_id: int) -> bool:
        """Whether a packet that left the gateway is for this host, from its correspondent, with this ID."""
        return shown(packet) == (show_ip(self.correspondent), show_ip(self.host), call_id)

    def stalls(self) -> list[Action]:
        """Stop reading until the gateway's buffer is full."""
        return self.world.event(StreamStalled(self.stream))


class World:
    """A gateway, its clock, and what has happened."""

    #: Whether there is a kernel that carries flows.
    in_kernel: ClassVar[bool] = False

    def __init__(self, rules: Policy, *, seed: int = 1) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.kernel = Carrier(lambda: self.gateway._admission.policy.serves_pptp())
        self.gateway = Gateway(
            rules,
            Addresses(WAN, frozenset({WAN, LAN}), BROADCASTS),
            random=self.random.randrange,
            carried=self.read,
            selective=True,
        )
        #: (protocol, address): whose data packets the gateway wants to see, of those that come from outside.
        self.heeded: set[tuple[int, Ip4]] = set()
        self.lines: dict[int, Line] = {}
        self.dialled: list[Connect] = []
        self.sent: list[bytes] = []
        self.drops: list[Drop] = []
        self.log: list[str] = []
        self.closed: list[SessionClosed] = []

    @property
    def read(self) -> Read | None:
        """Asks the kernel what it has carried of a flow; None if there is none."""
        return self.kernel.read if self.in_kernel else None

    # -- streams ---------------------------------------------------------------------------------------

    def event(self, event: StreamEvent) -> list[Action]:
        """Tell the gateway, and carry out what it wants."""
        return self.perform(self.gateway.stream_event(event, now=self.now))

    def dial(self, host: Ip4, to: Ip4, *, side: Side = Side.LAN) -> Line:
        """A host opens a TCP connection to port 1723 of an address."""
        line = Line(self, self.gateway.new_stream(), side, host, to)
        self.lines[line.stream] = line
        self.event(StreamAccepted(line.stream, side, to, host))
        return line

    def answer(self, local: Ip4 = LAN) -> Line:
        """The host that the gateway dialled last accepts. ``local``: ours, where the kernel chooses it."""
        connect = self.dialled.pop()
        line = Line(self, connect.stream, connect.side, connect.destination, connect.source or local)
        self.lines[line.stream] = line
        self.event(StreamConnected(line.stream, connect.source or local))
        return line

    def refuse(self) -> list[Action]:
        """The host that the gateway dialled last refuses."""
        return self.event(StreamFailed(self.dialled.pop().stream, "connection refused"))

    # -- packets ---------------------------------------------------------------------------------------

    def gre(
        self,
        side: Side,
        src: Ip4,
        dst: Ip4,
        call_id: int,
        payload: bytes = b"data",
        *,
        ttl: int = 64,
        **gre: int,
    ) -> bytes | Reason:
        """Send GRE; the packet that leaves the gateway, or why none does."""
        inner = EnhancedGre(
            call_id=call_id, payload=payload, seq=gre.get("seq", 0), ack=gre.get("ack")
        ).to_bytes()
        return self.packet(side, ipv4.build(src=src, dst=dst, protocol=GRE, payload=inner, ttl=ttl))

    def packet(self, side: Side, packet: bytes) -> bytes | Reason:
        """Send a whole packet; the packet that leaves the gateway, or why none does."""
        carried = self.kernel.take(side, packet, self.now)
        if carried is not None:
            self.look()
            return carried
        left = self._take(side, packet)
        assert not isinstance(left, bytes) or side is Side.LAN or self._comes_through(packet)
        return left

    def _comes_through(self, packet: bytes) -> bool:
        """Whether a packet from outside gets past a shell that keeps strangers out."""
        header = ipv4.Header.from_bytes(packet, verify=False)
        policy, source = self.gateway._admission.policy, Ip4(header.src)
        named = (rule.allow for rule in policy.expose if rule.ipsec and header.protocol == ipv4.ESP)
        return (
            header.protocol not in (ipv4.ESP, ipv4.GRE)
            or (header.protocol, source) in self.heeded
            or header.protocol in {forward.protocol for forward in policy.forward}
            or any(contains(networks, source) for networks in named)
        )

    def _take(self, side: Side, packet: bytes) -> bytes | Reason:
        buffer = bytearray(65536)
        buffer[: len(packet)] = packet
        entry = self.gateway.from_lan if side is Side.LAN else self.gateway.from_wan
        verdict = entry(buffer, len(packet), now=self.now)
        if isinstance(verdict, int):
            out = bytes(buffer[: len(packet)])
            assert verdict == int.from_bytes(out[16:20])
            return out
        if isinstance(verdict, Drop):
            return verdict.reason
        sent = len(self.sent)
        self.perform(verdict)
        if len(self.sent) > sent:
            return self.sent[-1]
        return self.drops[-1].reason

    def look(self) -> None:
        """Tell the gateway what the kernel has counted."""
        self.gateway.counters_seen(self.kernel.counters())

    # -- time ------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass, waking the gateway whenever it asked for it."""
        until = self.now + seconds
        actions: list[Action] = []
        while (deadline := self.gateway.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            actions += self.perform(self.gateway.expire(now=self.now))
        self.now = until
        return actions

    def move(self, wan: Ip4 | None, *, way: bool = True) -> list[Action]:
        """Another public address, and (``way``) a route to the internet."""
        addresses = Addresses(wan, frozenset({LAN} if wan is None else {LAN, wan}), BROADCASTS)
        actions = self.perform(self.gateway.address_changed(addresses, now=self.now))
        return actions + (self.perform(self.gateway.resend(now=self.now)) if way else [])

    # -- what the gateway wants ------------------------------------------------------------------------

    def perform(self, actions: list[Action]) -> list[Action]:
        """Carry out actions; what of them anybody but the kernel can notice."""
        for action in actions:
            match action:
                case StreamWrite():
                    line = self.lines[action.stream]
                    assert line.closed is None, "written to after it was closed"
                    line.inbox += action.data
                case StreamClose():
                    if action.stream in self.lines:
                        self.lines[action.stream].closed = "rst" if action.abort else "fin"
                    self.dialled = [c for c in self.dialled if c.stream != action.stream]
                case Connect():
                    self.dialled.append(action)
                case Send():
                    self.sent.append(action.packet)
                case Drop():
                    self.drops.append(action)
                case Offload() | Unload() | Heed() | Ignore():
                    self._for_the_kernel(action)
                case SessionOpened():
                    self.log.append(f"opened {action.session.id}")
                case SessionChanged():
                    self.log.append(f"{action.session.id} {action.session.state.value}")
                case SessionClosed():
                    self.log.append(f"closed {action.session.id}: {action.why}")
                    self.closed.append(action)
        return [action for action in actions if not isinstance(action, Offload | Unload | Heed | Ignore)]

    def _for_the_kernel(self, action: Offload | Unload | Heed | Ignore) -> None:
        match action:
            case Offload() | Unload():
                self.kernel.perform(action)
            case Heed():
                self.heeded.add((action.protocol, action.address))
            case Ignore():
                self.heeded.discard((action.protocol, action.address))

    def sessions(self) -> list[Session]:
        """The registry."""
        return list(self.gateway.sessions())

    # -- whole conversations ---------------------------------------------------------------------------

    def start(self, client: Line, server: Line) -> None:
        """The Start-Control-Connection exchange (RFC 2637 §3.1.2)."""
        client.says(messages.StartRequest())
        assert server.hears() == [messages.StartRequest()]
        server.says(messages.StartReply(result=1))
        assert client.hears() == [messages.StartReply(result=1)]

    def call(self, client: Line, server: Line, *, pns_id: int, pac_id: int) -> tuple[int, int]:
        """An outgoing call; the (PNS's Call ID as the PAC hears it, PAC's as the PNS hears it)."""
        client.says(messages.OutgoingCallRequest(call_id=pns_id))
        (request,) = server.hears()
        assert isinstance(request, messages.OutgoingCallRequest)
        server.says(messages.OutgoingCallReply(call_id=pac_id, peer_call_id=request.call_id, result=1))
        (reply,) = client.hears()
        assert isinstance(reply, messages.OutgoingCallReply)
        assert reply.peer_call_id == pns_id
        return request.call_id, reply.call_id

    def tunnel(
        self, host: Ip4, to: Ip4, *, side: Side = Side.LAN, pns_id: int = 1, pac_id: int = 100
    ) -> tuple[Line, Line, int, int]:
        """A client dials, starts and calls: (its line, the server's, PNS's ID shown, PAC's ID shown)."""
        client = self.dial(host, to, side=side)
        server = self.answer()
        self.start(client, server)
        return client, server, *self.call(client, server, pns_id=pns_id, pac_id=pac_id)


def assert_nothing_left(world: World) -> None:
    """All is over: no flow, session, stream, deadline or open line is left, and no ID once it has rested."""
    gateway, tracker = world.gateway, world.gateway._pptp
    assert len(gateway._flows) == 0
    assert not gateway._flows._departed
    assert not gateway._flows._senders
    assert ipv4.GRE not in {protocol for protocol, _ in world.heeded}
    assert world.sessions() == []
    assert len(world.kernel) == 0
    assert not gateway.registry._hosts
    assert not gateway.registry._initiators
    assert not tracker.streams()
    assert len(tracker._connections._deadlines) == 0
    assert [line for line in world.lines.values() if line.closed is None] == []
    assert world.dialled == []
    world.wait(tracker.ids.ghost)
    assert len(tracker.ids) == 0
    assert not tracker.ids._taken
    assert gateway.next_deadline() is None


def shown(packet: bytes | Reason) -> tuple[str, str, int]:
    """(source, destination, Call ID) of a GRE packet, for comparing."""
    assert isinstance(packet, bytes), packet
    header = ipv4.Header.from_bytes(packet, verify=False)
    return show_ip(header.src), show_ip(header.dst), EnhancedGre.from_bytes(packet[header.length :]).call_id
