"""A restart in the middle of every story: whatever the gateway is told next, a restored one does the same.

Before some of the calls of a test its gateway is written down, and a twin is made from that, by way of JSON
as on a disk. Then both are told the same, and must want the same and remember the same. The story goes on
with the first one, so that no test need know of it.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from functools import wraps
from operator import eq
from typing import Any
from unittest.mock import patch

from protocols.actions import Connect, Heed, SessionChanged, SessionClosed, SessionOpened, Splice, StreamWrite
from protocols.esp.flows import FlowTable as EspFlows
from protocols.esp.tracker import EspTracker
from protocols.gateway import Gateway
from protocols.ike.tracker import IkeTracker
from protocols.registry import SessionRegistry
from protocols.snapshot import Snapshot, snapshot, values
from protocols.snapshot.classes import SCHEMA
from protocols.udpflow import IpsecUdp

#: The calls of a test that are tried: the first few, and ever fewer (a restart costs a hundred calls).
TRIED = frozenset({1, 2, 3, *(round(1.7**n) for n in range(3, 18))})

ECHO_REQUEST = (5).to_bytes(2)
EXHAUSTED = 65535


def written(taken: Snapshot) -> Snapshot:
    """A snapshot that has been on a disk."""
    text = json.dumps([taken.version, taken.now, taken.schema, list(taken.records)])
    version, now, schema, records = json.loads(text)
    return Snapshot(version, now, schema, tuple(records))


def chance_of(registry: SessionRegistry) -> random.Random:
    """Numbers as they would be drawn from now on."""
    chance = random.Random()
    chance.setstate(registry._random.__self__.getstate())  # type: ignore[attr-defined]
    return chance


def limits_of(registry: SessionRegistry, twin: SessionRegistry) -> None:
    """What a restart does not keep, and tests with twins had better not notice."""
    twin.draining, twin._rate = registry.draining, copy(registry._rate)


def gateway_again(gateway: Gateway, now: float) -> Gateway:
    """A gateway that goes on from where another one is; its TCP connections are all there."""
    admission = gateway._admission
    twin = Gateway(
        admission.policy,
        admission.addresses,
        random=chance_of(gateway.registry).randrange,
        selective=gateway.heeded._listen,
    )
    streams = frozenset(gateway._pptp.streams() | gateway._forwards.streams())
    actions = twin.restore(written(gateway.snapshot(now=now)), streams=streams, now=now)
    assert all(isinstance(a, SessionOpened | Connect | Heed | Splice) for a in actions), actions
    twin._last_stream = gateway._last_stream
    ids = gateway._pptp.ids
    twin._pptp.ids.capacity = ids.capacity
    if ids._random is not gateway._random:  # a test's own
        twin._pptp.ids._random = ids._random
    if len(ids) >= EXHAUSTED:  # a test took them without calls
        for (receiver, seen), taken in ids._taken.items():
            for call_id in taken:
                twin._pptp.ids.reserve(receiver, seen, call_id)
    limits_of(gateway.registry, twin.registry)
    twin._errors._rate = copy(gateway._errors._rate)
    looks_at(gateway.udp.ike, twin.udp.ike)
    return twin


def udp_again(udp: IpsecUdp, now: float) -> IpsecUdp:
    """The same for IPsec's UDP alone."""
    registry = SessionRegistry(udp.natt._registry.limits, chance_of(udp.natt._registry).randrange)
    twin = IpsecUdp(
        udp._admission,
        registry,
        random=registry._random,
        observe=lambda _: None,
        esp_alive=udp._esp_alive,
    )
    for record in again(udp.records(), now):
        twin.adopt(*record)
    limits_of(udp.natt._registry, registry)
    looks_at(udp.ike, twin.ike)
    return twin


def looks_at(ike: IkeTracker, twin: IkeTracker) -> None:
    """Look at conversations when the first one does: too late for those whose data has ended since."""
    known, also = ike._conversations, twin._conversations
    for conversation in known:
        same = also.find(conversation.relation.host, conversation.relation.peer)
        assert same is not None
        also._deadlines.discard(same)
        also._deadlines.file(same, known._deadlines._filed[conversation])


def esp_again(esp: EspTracker, now: float) -> EspTracker:
    """The same for ESP alone."""
    known = esp.ledger._registry
    registry = SessionRegistry(known.limits, chance_of(known).randrange)
    alive = esp._lifetimes._alive
    twin = EspTracker(esp.admission, registry, EspFlows(), random=registry._random, alive=alive)
    for record in again(esp.survival.records(), now):
        twin.survival.adopt(*record)
    limits_of(known, registry)
    return twin


def again(records: Iterator[tuple[Any, ...]], now: float) -> list[tuple[Any, ...]]:
    """Records that have been on a disk."""
    taken = written(snapshot(tuple(SCHEMA.record(("part", *record)) for record in records), now=now))
    return [record for _, record in values(taken)]


def shown(result: Any) -> list[Any]:
    """What a call wants, without the identity of sessions."""
    if isinstance(result, list):
        return [part for action in result for part in shown(action)]
    if isinstance(result, SessionOpened | SessionChanged | SessionClosed):
        session = result.session
        seen = (session.id, session.state, session.call_ids, getattr(session, "candidates", None))
        return [(type(result).__name__, seen, getattr(result, "why", ""))]
    if isinstance(result, StreamWrite) and result.data[8:10] == ECHO_REQUEST:
        # What falls due at the same moment may be done in another order, and draws other numbers then.
        return [("Echo-Request", result.stream)]
    return [result]


def flows(*tables: Any) -> list[str]:
    """Whose packets would pass."""
    return [
        f"{number} {side} {key:x}"
        for number, table in enumerate(tables)
        for side in ("lan", "wan")
        for key in getattr(table, side)
    ]


def lines(records: Iterator[tuple[Any, ...]]) -> list[str]:
    """Records as they would be written."""
    return [json.dumps(SCHEMA.record(record)) for record in records]


def of_gateway(gateway: Gateway) -> list[str]:
    """All that a gateway would write down, and whose data would pass."""
    carried = SCHEMA.record(("carried", gateway.registry.carried_outbound, gateway.registry.carried_inbound))
    parts = of_udp(gateway.udp) + of_esp(gateway.esp) + lines(gateway._pptp.records())
    return sorted(
        [
            *parts,
            json.dumps(carried),
            *lines(gateway._forwards.records()),
            *flows(gateway._flows, gateway._forwards.flows),
        ]
    )


def of_udp(udp: IpsecUdp) -> list[str]:
    """The same for IPsec's UDP alone."""
    # What is forgotten at the same moment may be in another order.
    memory = [repr(item) for item in udp.ike._conversations._memory.all()]
    records = (record for record in udp.records() if record[1] != "silent")
    return sorted(lines(records) + memory + flows(udp.natt.flows))


def of_esp(esp: EspTracker) -> list[str]:
    """The same for ESP alone."""
    memory = [repr(item) for item in esp.ledger.memory.all()]
    records = (record for record in esp.survival.records() if record[0] != "memory")
    return sorted(lines(records) + memory + flows(esp._flows))


@dataclass(frozen=True)
class Twins:
    """What is tried, how it is restarted, and what it must know afterwards."""

    kind: type
    names: tuple[str, ...]
    again: Callable[[Any, float], Any]
    remembered: Callable[[Any], list[str]]


ALL = (
    Twins(
        Gateway,
        (
            "from_lan",
            "from_wan",
            "too_big",
            "stream_event",
            "forward_event",
            "kill",
            "reload",
            "address_changed",
            "restore",
            "expire",
        ),
        gateway_again,
        of_gateway,
    ),
    Twins(IpsecUdp, ("from_lan", "from_wan", "reconsider", "expire"), udp_again, of_udp),
    Twins(EspTracker, ("from_lan", "from_wan", "ike_seen", "reconsider", "expire"), esp_again, of_esp),
)


class Trials:
    """Calls that are compared with a twin's; of calls within calls only the outermost."""

    def __init__(self) -> None:
        self.within = False
        self.calls: Counter[str] = Counter()

    def tried(self, twins: Twins, name: str) -> Callable[..., Any]:
        """A method that is now and then."""
        plain = getattr(twins.kind, name)

        @wraps(plain)
        def told(thing: Any, *args: Any, now: float, **more: Any) -> Any:
            if self.within:
                return plain(thing, *args, now=now, **more)
            self.calls[name] += 1
            self.within = True
            try:
                if self.calls[name] not in TRIED:
                    return plain(thing, *args, now=now, **more)
                twin = twins.again(thing, now)
                copies = [bytearray(a) if isinstance(a, bytearray) else a for a in args]
                wanted = shown(plain(twin, *copies, now=now, **more))
                result = plain(thing, *args, now=now, **more)
                assert sorted(map(repr, wanted)) == sorted(map(repr, shown(result))), name
                if "Echo-Request" not in repr(wanted):
                    assert twins.remembered(twin) == twins.remembered(thing), name
                assert all(map(eq, copies, args))
                return result
            finally:
                self.within = False

        return told


@contextmanager
def everywhere() -> Iterator[None]:
    """Restart all gateways and trackers that are made meanwhile."""
    trials = Trials()
    with ExitStack() as patches:
        for twins in ALL:
            for name in twins.names:
                patches.enter_context(patch.object(twins.kind, name, trials.tried(twins, name)))
        yield
