"""The ways in which two hosts can stand to each other with the gateway between them."""

from dataclasses import dataclass

import pytest

from protocols.actions import Side
from protocols.addr import Ip4, Network, show_ip
from protocols.policy import Limits, Masquerade, Policy, PptpTimers, Source
from protocols.pptp import messages
from tests.scenarios.world import (
    CLIENT,
    LAN,
    PEER,
    STAFF,
    WAN,
    Line,
    World,
    expose,
    policy,
)

RELAY = Masquerade(
    "relay", (Network.parse("10.0.0.0/24"),), (Network.parse(show_ip(PEER)),), listen=LAN
)  # fmt: skip


@dataclass(frozen=True)
class Arrangement:
    """Who dials whom, and who of the two is hidden behind an address of ours."""

    name: str
    rules: Policy
    host: Ip4
    to: Ip4
    side: Side
    dialler_hidden: bool
    answerer_hidden: bool

    def world(self, limits: Limits | None = None, pptp: PptpTimers | None = None) -> World:
        """A fresh network."""
        rules = policy(*self.rules.masquerade, *self.rules.expose, limits=limits, pptp=pptp)
        return World(rules)

    def dial(self, world: World) -> Line:
        """The first leg."""
        return world.dial(self.host, self.to, side=self.side)

    def connect(self, world: World | None = None) -> tuple[Line, Line]:
        """Both legs, with the Start-Control exchange done: the dialler and the answerer."""
        world = world or self.world()
        dialler = self.dial(world)
        answerer = world.answer()
        world.start(dialler, answerer)
        return dialler, answerer


ROUTER = Arrangement("router", policy(STAFF), CLIENT, PEER, Side.LAN, True, False)
KEEP = Arrangement("keep", policy(expose()), PEER, WAN, Side.WAN, False, True)
GATEWAY = Arrangement("gateway", policy(expose(source=Source.GATEWAY)), PEER, WAN, Side.WAN, True, True)
RELAYED = Arrangement("relay", policy(RELAY), CLIENT, LAN, Side.LAN, True, True)
HAIRPIN = Arrangement("hairpin", policy(expose()), CLIENT, WAN, Side.LAN, True, True)

ALL = (ROUTER, KEEP, GATEWAY, RELAYED, HAIRPIN)

in_every_arrangement = pytest.mark.parametrize("arrangement", ALL, ids=lambda a: a.name)


@dataclass(frozen=True)
class Call:
    """A call that stands: both ends, the IDs they chose, and what each is shown for the other's."""

    pns: Line
    pac: Line
    pns_id: int
    pac_id: int
    #: The PNS's Call ID as the PAC knows it, and the PAC's as the PNS knows it.
    pns_shown: int
    pac_shown: int

    @property
    def world(self) -> World:
        """The network it is in."""
        return self.pns.world

    def flows(self) -> bool:
        """Whether data passes, both ways; it must be both or none."""
        there, back = self.pns.sends(self.pac_shown), self.pac.sends(self.pns_shown)
        assert isinstance(there, bytes) == isinstance(back, bytes)
        if isinstance(there, bytes):
            assert self.pac.got(there, self.pac_id)
            assert self.pns.got(back, self.pns_id)
        return isinstance(there, bytes)


def outgoing(pns: Line, pac: Line, *, pns_id: int = 1, pac_id: int = 100) -> Call:
    """An outgoing call (RFC 2637 §2.7, §2.8)."""
    shown = pns.world.call(pns, pac, pns_id=pns_id, pac_id=pac_id)
    return Call(pns, pac, pns_id, pac_id, *shown)


def incoming(pns: Line, pac: Line, *, pns_id: int = 1, pac_id: int = 100) -> Call:
    """An incoming call (RFC 2637 §2.9-2.11)."""
    pac.says(messages.IncomingCallRequest(call_id=pac_id))
    (request,) = pns.hears()
    assert isinstance(request, messages.IncomingCallRequest)
    pns.says(messages.IncomingCallReply(call_id=pns_id, peer_call_id=request.call_id))
    (reply,) = pac.hears()
    assert isinstance(reply, messages.IncomingCallReply)
    assert reply.peer_call_id == pac_id
    pac.says(messages.IncomingCallConnected(peer_call_id=reply.call_id))
    assert pns.hears() == [messages.IncomingCallConnected(peer_call_id=pns_id)]
    return Call(pns, pac, pns_id, pac_id, reply.call_id, request.call_id)
