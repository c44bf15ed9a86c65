"""The sans-IO core alone, in this process: memory per call, and time per packet.

Sockets, streams and the event loop are left out, so that what the core keeps for a call is not hidden
behind what asyncio keeps for two connections.
"""

import gc
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocols.actions import Action, Connect, Side, StreamWrite
from protocols.addr import Ip4, Network, parse_ip, show_ip
from protocols.admission import Addresses
from protocols.events import StreamAccepted, StreamConnected, StreamData
from protocols.gateway import Gateway
from protocols.policy import Ipsec, Limits, Masquerade, Policy
from protocols.pptp.messages import (
    OutgoingCallReply,
    OutgoingCallRequest,
    StartReply,
    StartRequest,
    decode,
)
from tests.bench.packets import Flow, Wire
from tests.bench.topology import CLIENTS, GATEWAY_LAN, GATEWAY_WAN, IPSEC_PEERS, PEERS
from tests.bench.tunnels import Pair

#: Packets of one timing.
_PACKETS: Final = 20_000
_ROUNDS: Final = 5


@dataclass(slots=True)
class Core:
    """A gateway without a shell, and the outbound packets of its calls."""

    gateway: Gateway
    flows: list[Wire] = field(default_factory=list)

    def establish(self, index: int) -> None:
        """One client, one control connection, one call: what the shell and the peer would do."""
        client = Ip4(parse_ip(CLIENTS.split("/")[0]) + 1 + index)
        peer = parse_ip(PEERS[index % len(PEERS)])
        inside = self.gateway.new_stream()
        event = StreamAccepted(inside, Side.LAN, peer, client)
        (connect,) = (a for a in self.gateway.stream_event(event, now=0.0) if isinstance(a, Connect))
        outside = connect.stream
        self.gateway.stream_event(StreamConnected(outside, parse_ip(GATEWAY_WAN)), now=0.0)
        self._say(inside, StartRequest(host_name=b"client").to_bytes())
        self._say(outside, StartReply(host_name=b"server").to_bytes())
        asked = _written(self._say(inside, OutgoingCallRequest(call_id=1).to_bytes()), outside)
        request = decode(asked)
        assert isinstance(request, OutgoingCallRequest)
        reply = OutgoingCallReply(call_id=index // len(PEERS) + 1, peer_call_id=request.call_id)
        answered = decode(_written(self._say(outside, reply.to_bytes()), inside))
        assert isinstance(answered, OutgoingCallReply)
        self.flows.append(Flow(show_ip(client), show_ip(peer), answered.call_id))

    def _say(self, stream: int, data: bytes) -> list[Action]:
        return self.gateway.stream_event(StreamData(stream, data), now=0.0)


def core(calls: int) -> Core:
    """A core with so many calls."""
    policy = Policy(
        lan_networks=(Network.parse("10.0.0.0/8"),),
        masquerade=(Masquerade("bench", (Network.parse(CLIENTS),), tuple(Network.parse(p) for p in PEERS)),),
        limits=Limits(sessions=65536, sessions_per_client=1000, new_per_second=1_000_000),
    )
    ours = frozenset({parse_ip(GATEWAY_LAN), parse_ip(GATEWAY_WAN)})
    built = Core(Gateway(policy, Addresses(parse_ip(GATEWAY_WAN), ours), random=random.Random(1).randrange))
    for index in range(calls):
        built.establish(index)
    return built


def ipsec(pairs: Sequence[Pair], *, ike: bool = True) -> Core:
    """A core with these tunnels, or (not ``ike``) with their pairs of SPIs alone."""
    ours = frozenset({parse_ip(GATEWAY_LAN), parse_ip(GATEWAY_WAN)})
    policy = Policy(
        lan_networks=(Network.parse("10.0.0.0/8"),),
        masquerade=(
            Masquerade("bench", (Network.parse(CLIENTS),), (Network.parse(IPSEC_PEERS),), ipsec=True),
        ),
        limits=Limits(sessions=65536, sessions_per_client=1000, new_per_second=1_000_000),
        ipsec=Ipsec(spis_per_second=1e6),
    )
    built = Core(Gateway(policy, Addresses(parse_ip(GATEWAY_WAN), ours), random=random.Random(1).randrange))
    for pair in pairs:
        for wire, by_client in pair.stages(ike=ike):
            enter = built.gateway.from_lan if by_client else built.gateway.from_wan
            packet = bytearray(wire.packet(64))
            enter(packet, len(packet), now=0.0)
        built.flows.append(pair.outbound)
    return built


def octets_each(build: Callable[[int], Core], count: int) -> float:
    """What a core holds for each of ``count`` calls or tunnels, by tracemalloc."""
    build(1)  # imports and caches do not count
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = build(count)
        kept_flows, kept.flows = len(kept.flows), []
        assert kept_flows == count
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / count


def seconds_per_packet(cores: Sequence[Core]) -> list[float]:
    """Time of ``from_lan`` for each of the cores, packets spread over all their calls; taken in turns."""
    passes = [_pass(one) for one in cores]
    best = [float("inf")] * len(cores)
    for _ in range(_ROUNDS):
        for at, timed in enumerate(passes):
            best[at] = min(best[at], timed())
    return best


def _pass(one: Core) -> Callable[[], float]:
    wires = [flow.packet(64) for flow in one.flows]
    order = [wires[at % len(wires)] for at in range(_PACKETS)]
    buffer = bytearray(2048)

    def timed() -> float:
        enter = one.gateway.from_lan
        start = time.perf_counter()
        for wire in order:
            buffer[:64] = wire
            if enter(buffer, 64, now=1.0).__class__ is not int:
                raise RuntimeError("the core did not forward")
        return (time.perf_counter() - start) / _PACKETS

    return timed


def _written(actions: Sequence[Action], stream: int) -> bytes:
    return b"".join(a.data for a in actions if isinstance(a, StreamWrite) and a.stream == stream)
