"""What survives a restart: each tracker's part of a snapshot, and back to where it belongs."""

from collections.abc import Iterator, Set
from typing import Any, Final

from protocols.actions import Action, StreamClose
from protocols.esp.tracker import EspTracker
from protocols.forward.forwards import Forwards
from protocols.pptp.tracker import PptpTracker
from protocols.registry import SessionRegistry
from protocols.snapshot import Snapshot, values
from protocols.snapshot.classes import SCHEMA
from protocols.snapshot.graph import Record, SnapshotError
from protocols.udpflow import IpsecUdp

#: Seconds since a snapshot in which nothing of importance can have been missed.
_MISSED_NOTHING: Final = 0.5


class Continuity:
    """The parts of one gateway that have a past."""

    def __init__(
        self,
        registry: SessionRegistry,
        pptp: PptpTracker,
        esp: EspTracker,
        udp: IpsecUdp,
        forwards: Forwards,
    ) -> None:
        self._registry = registry
        self._pptp = pptp
        self._esp = esp
        self._udp = udp
        self._forwards = forwards

    def records(self) -> Iterator[Record]:
        """As Gateway.records."""
        registry = self._registry
        yield SCHEMA.record(("carried", registry.carried_outbound, registry.carried_inbound))
        for part, records in (
            ("pptp", self._pptp.records()),
            ("esp", self._esp.survival.records()),
            ("udp", self._udp.records()),
            ("forward", self._forwards.records()),
        ):
            for record in records:
                yield SCHEMA.record((part, *record))

    def streams(self) -> Set[int]:
        """All TCP connections that have a part in it."""
        return self._pptp.streams() | self._forwards.streams()

    def adopt(self, taken: Snapshot, streams: Set[int], *, in_step: bool, now: float) -> list[Action]:
        """Go on from a snapshot, with these ``streams``; of those, what nobody knows is closed.

        ``in_step``: as Gateway.restore.

        Raises:
            SnapshotError: it cannot be read; nothing here is of use any more.
        """
        actions: list[Action] = []
        try:
            for part, record in values(taken):
                actions += self._adopt(part, record, streams, now)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"a record is not what it says ({error!r})") from error
        if now - taken.now > _MISSED_NOTHING:
            self._esp.survival.away(now=now)
        if not in_step:
            actions += self._pptp.resynchronise(now=now)
        self._registry.in_order()
        known = self.streams() | {action.stream for action in actions if isinstance(action, StreamClose)}
        return [*actions, *(StreamClose(stream, abort=True) for stream in sorted(streams - known))]

    def _adopt(self, part: str, record: tuple[Any, ...], streams: Set[int], now: float) -> list[Action]:
        if part == "carried":
            self._registry.carried_outbound, self._registry.carried_inbound = record
        elif part == "pptp":
            return self._pptp.adopt(*record, streams=streams, now=now)
        elif part == "esp":
            self._esp.survival.adopt(*record)
        elif part == "forward":
            return self._forwards.adopt(*record, streams=streams)
        else:
            self._udp.adopt(*record)
        return []
