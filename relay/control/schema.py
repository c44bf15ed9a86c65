"""The JSON documents of the control API.

Every document names its schema. Within a schema number fields are only added: never renamed, removed, or
given another meaning or unit. Dates are UTC, ISO 8601 with a Z; spans are seconds.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from protocols.addr import show_ip
from protocols.esp.codec import show_spi
from protocols.esp.contacts import EspSession
from protocols.esp.told import Told
from protocols.forward.session import ForwardSession
from protocols.ike.association import IkeSession
from protocols.natt.mapping import NattSession
from protocols.sessions import Role, Session

if TYPE_CHECKING:
    from relay.control.daemon import Status

SESSIONS = "vpnmasq.sessions/1"
STATUS = "vpnmasq.status/1"
EVENTS = "vpnmasq.events/1"
HEALTH = "vpnmasq.health/1"
KILL = "vpnmasq.kill/1"
RELOAD = "vpnmasq.reload/1"
WAN = "vpnmasq.wan/1"
PAIRS = "vpnmasq.pairs/1"
ERROR = "vpnmasq.error/1"

#: Seconds the wall clock may drift from the loop's before dates follow it. Less would let the same
#: moment be printed as two different seconds.
DRIFT = 2.0

Document = dict[str, Any]


def _wall() -> float:
    return datetime.now(UTC).timestamp()


class Dates:
    """Turns the loop's clock into dates.

    The difference of the two clocks is remembered, so that a moment keeps its date from one answer to the
    next; it is measured anew when the wall clock was set.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float] = _wall) -> None:
        self.clock = clock
        self._wall = wall
        self._offset = wall() - clock()

    def show(self, at: float, *, digits: bool = False) -> str:
        """Write the date of a moment; with ``digits`` to the millisecond."""
        offset = self._wall() - self.clock()
        if abs(offset - self._offset) > DRIFT:
            self._offset = offset
        date = datetime.fromtimestamp(at + self._offset, UTC)
        text = date.isoformat(timespec="milliseconds" if digits else "seconds")
        return text.replace("+00:00", "Z")


def session(one: Session, dates: Dates) -> Document:
    """One session; who is exposed or forwarded to is ``server``, every other inside host is ``client``."""
    now = dates.clock()
    inside = "client" if one.role is Role.MASQUERADE else "server"
    document: Document = {
        "id": one.id,
        "protocol": one.protocol,
        "role": one.role.value,
        "rule": one.rule,
        "state": one.state.value,
        inside: show_ip(one.inside),
        "gateway": show_ip(one.gateway),
        "peer": show_ip(one.peer),
        "call_ids": dict(one.call_ids),
        "opened_at": dates.show(one.opened),
        "age_seconds": _span(one.opened, now),
        "idle_seconds": _span(one.idle_since(), now),
        "packets": {"outbound": one.outbound.packets, "inbound": one.inbound.packets},
        "octets": {"outbound": one.outbound.octets, "inbound": one.inbound.octets},
        "fastpath": one.offloaded > 0,
    }
    match one:
        case EspSession():
            document |= _pair(one)
        case IkeSession():
            document["cookies"] = [{"initiator": i, "responder": r} for i, r in one.cookies]
        case NattSession():
            document["ports"] = {inside: one.host_port, "gateway": one.public_port}
            document["keepalives"], document["ike_messages"] = one.keepalives, one.messages
        case ForwardSession():
            document["listen"] = one.listen
            if one.peer_port:
                document["ports"] = {"server": one.server_port, "peer": one.peer_port}
    return document


def _pair(one: EspSession) -> Document:
    """How much is known of the newest pair of SPIs; an SPI that is not known is absent."""
    spis = {"outbound": one.spi_outbound, "inbound": one.spi_inbound}
    return {
        "state": one.pairing.value,
        "spis": {direction: show_spi(spi) for direction, spi in spis.items() if spi},
        "candidates": [show_ip(host) for host in one.candidates],
        "confidence": one.confidence,
    }


def sessions(many: Iterable[Session], dates: Dates) -> Document:
    """Several sessions, in the order given."""
    return {"schema": SESSIONS, "sessions": [session(one, dates) for one in many]}


def status(now: "Status", dates: Dates) -> Document:
    """The daemon's state."""
    return {
        "schema": STATUS,
        "state": now.state,
        "instance": now.instance,
        "version": now.version,
        "started_at": dates.show(now.started_at),
        "uptime_seconds": _span(now.started_at, dates.clock()),
        "wan": {
            "interface": now.wan.interface,
            "address": now.wan.address,
            "since": dates.show(now.wan.since),
            "changes": now.wan.changes,
            "served_seconds": _rounded(now.wan.served),
            "first_packet_seconds": _rounded(now.wan.first_packet),
        },
        "rules": [dict(rule) for rule in now.rules],
        "sessions": dict(now.sessions),
        "fastpath": dict(now.fastpath),
        "strangers": dict(now.strangers),
        "ddns": [dict(name) for name in now.ddns],
        "traffic": {direction: dict(counted) for direction, counted in now.traffic.items()},
        "drops": {reason.value: count for reason, count in now.drops.items() if count},
        "sockets": [dict(one) for one in now.sockets],
        "attention": list(now.attention),
    }


def pairs(told: Iterable[Told], dates: Dates) -> Document:
    """Pairs of ESP as they were told; ``client`` is the inside host that owns the inbound SPI."""
    now = dates.clock()
    return {
        "schema": PAIRS,
        "pairs": [
            {
                "peer": show_ip(one.peer),
                "spi": show_spi(one.spi),
                "client": show_ip(one.host),
                "until": dates.show(one.until),
                "remaining_seconds": _span(now, one.until),
            }
            for one in told
        ],
    }


def event(name: str, dates: Dates, /, **fields: Any) -> Document:
    """One line of the event stream."""
    return {"schema": EVENTS, "event": name, "at": dates.show(dates.clock(), digits=True), **fields}


def health(state: str, *, ready: bool, reason: str) -> Document:
    """Whether the gateway serves, and if not, why."""
    return {"schema": HEALTH, "ready": ready, "state": state, "reason": reason}


def killed(done: Sequence[str], unknown: Sequence[str]) -> Document:
    """What became of a request to end sessions."""
    return {"schema": KILL, "killed": list(done), "unknown": list(unknown)}


def wan(served: bool, interface: str, address: str | None) -> Document:
    """What became of a hook's word: whether it was about the public link, and has been followed."""
    return {"schema": WAN, "served": served, "interface": interface, "address": address}


def reloaded(changed: Sequence[str]) -> Document:
    """The configuration keys a reload changed."""
    return {"schema": RELOAD, "changed": list(changed)}


def error(text: str, **fields: Any) -> Document:
    """Why a request was not served, for people."""
    return {"schema": ERROR, "error": text, **fields}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _span(since: float, now: float) -> float:
    """Seconds from one moment to another; a moment just ahead of the clock counts as now."""
    return round(max(0.0, now - since), 3)
