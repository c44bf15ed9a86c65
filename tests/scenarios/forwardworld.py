"""Forwards of packets without a network: hosts send UDP or anything, and see who gets it, on any lane."""

import random
from dataclasses import dataclass
from typing import ClassVar

from protocols import ipv4
from protocols.actions import (
    Action,
    Drop,
    Offload,
    Send,
    SessionChanged,
    SessionClosed,
    SessionOpened,
    Side,
    Unload,
)
from protocols.addr import Ip4, Network
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.forward.session import ForwardSession
from protocols.gateway import Gateway
from protocols.policy import Forward, Policy
from protocols.udp import Datagram, Endpoint
from tests.scenarios.carrier import Carrier
from tests.scenarios.world import LAN, LAN_NETWORK, PEER, PEER_2, SERVER, WAN

ALLOWED = (Network(PEER, 0xFFFFFFFF), Network(PEER_2, 0xFFFFFFFF), Network.parse("10.0.0.0/24"))
OURS = Addresses(WAN, frozenset({WAN, LAN}))


def policy(*rules: Forward, **more: object) -> Policy:
    return Policy(lan_networks=(LAN_NETWORK,), forward=rules, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Got:
    """A packet that left, and whether it took the short lane."""

    source: Endpoint
    target: Endpoint
    payload: bytes
    fast: bool


class ForwardWorld:
    """A gateway on a clock that is a number."""

    #: Whether there is a kernel that carries flows; a packet that it carries has taken the short lane, too.
    in_kernel: ClassVar[bool] = False

    def __init__(self, rules: Policy) -> None:
        self.now = 1000.0
        self.kernel = Carrier(lambda: self.gateway._admission.policy.serves_pptp())
        read = self.kernel.read if self.in_kernel else None
        self.gateway = Gateway(rules, OURS, random=random.Random(1).randrange, carried=read)
        self.events: list[SessionOpened | SessionChanged | SessionClosed] = []

    def packet(self, side: Side, whole: bytes) -> tuple[bytes, bool] | Reason:
        """A packet arrives; what leaves and whether on the short lane, or why nothing does."""
        carried = self.kernel.take(side, whole, self.now)
        if carried is not None:
            self.gateway.counters_seen(self.kernel.counters())
            return carried, True
        buffer = bytearray(whole) + bytearray(64)
        entry = self.gateway.from_lan if side is Side.LAN else self.gateway.from_wan
        verdict = entry(buffer, len(whole), now=self.now)
        if isinstance(verdict, int):
            out = bytes(buffer[: len(whole)])
            assert int.from_bytes(out[16:20]) == verdict
            return out, True
        actions: list[Action] = [verdict] if isinstance(verdict, Drop) else verdict
        self.note(actions)
        drops = [action.reason for action in actions if isinstance(action, Drop)]
        sends = [action.packet for action in actions if isinstance(action, Send)]
        return (sends[0], False) if sends and not drops else drops[0]

    def note(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            self.kernel.perform(action)
        actions = [action for action in actions if not isinstance(action, Offload | Unload)]
        self.events += [a for a in actions if isinstance(a, SessionOpened | SessionChanged | SessionClosed)]
        return actions

    def udp(
        self, side: Side, source: Endpoint, target: Endpoint, payload: bytes = b"data", **ip: int
    ) -> Got | Reason:
        datagram = Datagram(source, target, payload).summed()
        whole = ipv4.build(src=source[0], dst=target[0], protocol=17, payload=datagram.to_bytes(), **ip)  # type: ignore[arg-type]
        got = self.packet(side, whole)
        if isinstance(got, Reason):
            return got
        header = ipv4.Header.from_bytes(got[0], verify=False)
        assert header.ttl == 63
        read = Datagram.from_packet(header, got[0])
        return Got(read.source, read.target, read.payload, got[1])

    def ip(
        self, side: Side, source: Ip4, target: Ip4, payload: bytes = b"data", *, protocol: int = 94, **ip: int
    ) -> Got | Reason:
        whole = ipv4.build(src=source, dst=target, protocol=protocol, payload=payload, **ip)  # type: ignore[arg-type]
        got = self.packet(side, whole)
        if isinstance(got, Reason):
            return got
        header = ipv4.Header.from_bytes(got[0], verify=False)
        assert (header.ttl, header.protocol) == (63, protocol)
        out = got[0][header.length : header.total_length]
        return Got((Ip4(header.src), 0), (Ip4(header.dst), 0), out, got[1])

    def wait(self, seconds: float) -> list[Action]:
        """Let time go by, waking when asked to; all that follows."""
        end, actions = self.now + seconds, []
        while (due := self.gateway.next_deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            actions += self.note(self.gateway.expire(now=self.now))
        self.now = end
        return actions

    @property
    def sessions(self) -> list[ForwardSession]:
        return [session for session in self.gateway.sessions() if isinstance(session, ForwardSession)]


__all__ = ["ALLOWED", "OURS", "SERVER", "ForwardWorld", "Got", "policy"]
