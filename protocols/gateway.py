"""The gateway as a sans-IO machine: packets, stream events and time in; verdicts and actions out.

Data packets of a known flow take a short lane, one for each protocol: rewritten in the caller's buffer,
answered with where to send it. Everything else takes the long one and is answered with a list of actions, in
the order in which they are to be carried out. After any call but a data packet's, ``next_deadline()`` may
have moved.
"""

from collections.abc import Iterable, Iterator, Set

from protocols import hopeless, icmp, ipv4, quoted, tcp, udp
from protocols.actions import Action, Destination, Drop, Send, SessionOpened, Side
from protocols.addr import Ip4
from protocols.admission import Addresses, Admission
from protocols.allocator import Random
from protocols.collisions import Collisions
from protocols.continuity import Continuity
from protocols.deadlines import earliest
from protocols.drops import Reason
from protocols.errors import DecodeError
from protocols.events import ForwardEvent, StreamEvent
from protocols.forward.forwards import Forwards
from protocols.gre import codec as gre
from protocols.gre.flows import FlowTable, flow_key
from protocols.heeded import Heeded
from protocols.hopeless import Hopeless
from protocols.ipsec import Ipsec
from protocols.lanes import Forward, GreLane, Lane
from protocols.offload import Carried, Offloads, Read
from protocols.ownerrors import Errors
from protocols.policy import Policy, Refuse
from protocols.pptp.tracker import PptpTracker
from protocols.registry import SessionRegistry
from protocols.sessions import Session
from protocols.snapshot import Snapshot, snapshot
from protocols.snapshot.graph import Record

#: Where an IP header names the protocol (RFC 791 §3.1).
_PROTOCOL_AT = 9


_KILLED = "ended by the operator"


def _no_lane(_flows: dict[int, object], _buffer: bytearray, _length: int, _now: float) -> None:
    """The short lane of protocols that have none."""


class Gateway:
    """One gateway: its policy, its addresses, its sessions.

    ``random`` is as ``random.randrange``; Call IDs and session ids come from it. ``carried`` asks a kernel
    that carries flows for us about one of them; without it none is ever handed over. ``selective``: the shell
    wants to hear whose data packets are of use (Heed, Ignore).
    """

    def __init__(
        self,
        policy: Policy,
        addresses: Addresses,
        *,
        random: Random,
        carried: Read | None = None,
        selective: bool = False,
    ) -> None:
        self.drops: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self._random = random
        self._admission = Admission(policy, addresses)
        self.registry = SessionRegistry(policy.limits, random)
        self._kept_out = policy.kept_out()
        self.offloads = Offloads(carried, lambda rule: rule in self._kept_out)
        self.heeded = Heeded(listen=selective)
        self._flows = FlowTable(self.offloads, self.heeded)
        self._last_stream = 0
        self._pptp = PptpTracker(
            self._admission, self.registry, self._flows, random=random, new_stream=self.new_stream
        )
        self._errors = Errors(self._admission, policy.limits.icmp_per_second)
        self._ipsec = Ipsec(
            self._admission,
            self.registry,
            random=random,
            errors=self._errors,
            offloads=self.offloads,
            heeded=self.heeded,
        )
        self.esp, self.udp = self._ipsec.esp, self._ipsec.udp
        self.hopeless = Hopeless(lambda peer: peer in self.esp.ledger.peers)
        self.collisions = Collisions()
        self._forwards = Forwards(
            self._admission, self.registry, self.udp.natt.flows, random=random, offloads=self.offloads
        )
        self._continuity = Continuity(self.registry, self._pptp, self.esp, self.udp, self._forwards)
        self._own_lanes: dict[int, Lane] = {ipv4.GRE: GreLane(self._flows), **self._ipsec.lanes}
        self._lay_lanes()
        self._fault_drops = {reason: Drop(reason) for reason in Reason}

    def _lay_lanes(self) -> None:
        """Give each protocol the short lane that the rules ask for."""
        self._lanes = {**self._own_lanes, **self._forwards.lanes(self._own_lanes)}
        self._lan = [_short(self._lanes.get(number), Side.LAN) for number in range(256)]
        self._wan = [_short(self._lanes.get(number), Side.WAN) for number in range(256)]

    # -- packets ---------------------------------------------------------------------------------------

    def from_lan(self, buffer: bytearray, length: int, *, now: float) -> Destination | Drop | list[Action]:
        """Take the packet in ``buffer[:length]`` that arrived on a LAN interface.

        A Destination means: the buffer was rewritten in place, send it there. The buffer has room for an IP
        header, however short the packet is.
        """
        forward, flows = self._lan[buffer[_PROTOCOL_AT]]
        return forward(flows, buffer, length, now) or self._unusual(Side.LAN, buffer, length, now)

    def from_wan(self, buffer: bytearray, length: int, *, now: float) -> Destination | Drop | list[Action]:
        """Take the packet in ``buffer[:length]`` that arrived on the WAN interface; as ``from_lan``."""
        forward, flows = self._wan[buffer[_PROTOCOL_AT]]
        return forward(flows, buffer, length, now) or self._unusual(Side.WAN, buffer, length, now)

    def carry(self, side: Side, buffer: bytearray, length: int, *, now: float) -> Destination | None:
        """As ``from_lan`` or ``from_wan`` for an ordinary packet of a known flow; None and nothing otherwise.

        It changes nothing but counters: another gateway may go on from a snapshot meanwhile.
        """
        forward, flows = (self._lan if side is Side.LAN else self._wan)[buffer[_PROTOCOL_AT]]
        return forward(flows, buffer, length, now)

    def too_big(self, buffer: bytearray, length: int, *, mtu: int, now: float) -> list[Action]:
        """A packet that is ready to leave does not fit the next link, which takes ``mtu`` octets.

        With Don't Fragment set its sender is told so (RFC 1191 §4); otherwise it goes in fragments
        (RFC 791 §3.2). So does IKE in any case: its messages do not become shorter by knowing the MTU, and
        reached us in fragments themselves.
        """
        packet = bytes(buffer[:length])
        header = ipv4.Header.from_bytes(packet, verify=False)
        lane = self._lanes.get(header.protocol)
        original = lane.restored(packet, header.length) if lane and header.dont_fragment else None
        if original is not None:
            answer = self._errors.answer(icmp.fragmentation_needed(mtu, original), original, now)
            return self._count([Drop(Reason.TOO_BIG), *answer])
        if header.dont_fragment and header.protocol != udp.PROTOCOL:
            return [self._drop(Reason.TOO_BIG)]
        pieces = ipv4.fragment_anyway(packet, mtu, self._random)
        return [Send(piece, Ip4(header.dst)) for piece in pieces]

    def _unusual(self, side: Side, buffer: bytearray, length: int, now: float) -> Drop | list[Action]:
        packet = bytes(buffer[:length])
        try:
            header = ipv4.validate(packet, verify=False)
        except DecodeError as error:
            return self._drop(error.reason)
        forwarded = self._forwards.take(side, header, packet, now=now)
        if forwarded is not None:
            return self._taken(side, packet, forwarded, now)
        if header.protocol == ipv4.GRE:
            return self._gre(side, header, packet, now)
        if header.protocol == ipv4.ESP or header.protocol == udp.PROTOCOL:
            return self._taken(side, packet, self._ipsec.take(side, header, packet, now=now), now)
        if header.protocol == ipv4.ICMP:
            return self._count(self._icmp_error(side, header, packet))
        if header.protocol == ipv4.TCP:
            return self._turned_away(side, header, packet)
        if header.protocol in hopeless.REASONS:
            return self._count([self.hopeless.take(side, header)])
        return self._drop(Reason.NOT_SERVED)

    def _gre(self, side: Side, header: ipv4.Header, packet: bytes, now: float) -> Drop | list[Action]:
        fault = self._admission.source_fault(side, header.src)
        if fault is not None:
            return self._drop(fault)
        refusal = gre.refusal(packet, header.length, header.total_length)
        if refusal is not None:
            return self._drop(refusal)
        call_id = gre.call_id_of(packet, header.length)
        flows = self._flows.lan if side is Side.LAN else self._flows.wan
        if flow_key(header.src, header.dst, call_id) not in flows:
            return self._drop(self._unknown(header, call_id))
        if header.ttl < 2:
            return self._count(self._errors.expired(packet, now))
        # Nothing above applies, and yet the short lane refused it: there is more than the header says.
        return self._drop(Reason.BAD_HEADER)

    def _taken(self, side: Side, packet: bytes, actions: list[Action], now: float) -> list[Action]:
        """Count what a tracker has made of a packet; inside hosts are told when its time ran out here."""
        if side is Side.LAN and Drop(Reason.TTL_EXPIRED) in actions[:1]:
            actions = self._errors.expired(packet, now)
        return self._count(actions)

    def _turned_away(self, side: Side, header: ipv4.Header, packet: bytes) -> Drop | list[Action]:
        """A SYN that the rules do not let in and the shell has not answered."""
        fault = self._admission.source_fault(side, header.src)
        drop = self._drop(fault or Reason.NO_RULE)
        # A false source must not be answered: the answer would go to somebody who has not asked.
        if fault is not None or self._admission.policy.refuse is Refuse.SILENT or not tcp.is_syn(packet):
            return drop
        return [drop, Send(tcp.reset_for(packet), Ip4(header.src))]

    def _unknown(self, header: ipv4.Header, call_id: int) -> Reason:
        if self._admission.addresses.wan is None:
            return Reason.NO_ADDRESS
        if self._pptp.ids.taken(Ip4(header.src), Ip4(header.dst), call_id):
            return Reason.CALL_ENDED
        return Reason.UNKNOWN_CALL if self._flows.sends(header.src) else Reason.STRANGER

    def _icmp_error(self, side: Side, header: ipv4.Header, packet: bytes) -> list[Action]:
        fault = self._admission.source_fault(side, header.src)
        # Routers may well have addresses of other networks (RFC 1812 §4.3.2.4 leaves them the choice): only
        # the LAN's own, if they come from outside, our own and impossible ones are refused.
        if fault is not None and (side is Side.WAN or fault is not Reason.SPOOFED):
            return [Drop(fault)]
        return quoted.translate(self._lanes, side, packet)

    # -- streams ---------------------------------------------------------------------------------------

    def new_stream(self) -> int:
        """A number for a stream that the shell has accepted."""
        self._last_stream += 1
        return self._last_stream

    def stream_event(self, event: StreamEvent, *, now: float) -> list[Action]:
        """Act on what happened to a TCP stream."""
        return self._count(self._pptp.stream_event(event, now=now))

    def forward_event(self, event: ForwardEvent, *, now: float) -> list[Action]:
        """Act on what happened to a forwarded TCP connection."""
        return self._count(self._forwards.stream_event(event, now=now))

    # -- the operator ----------------------------------------------------------------------------------

    def kill(self, session_ids: Iterable[str], *, now: float) -> list[Action]:
        """End sessions. Unknown ids are passed over: the caller asks the registry first."""
        actions: list[Action] = []
        for session_id in session_ids:
            session = self.registry.get(session_id)
            if session is not None:
                for tracker in (self._pptp, self._ipsec, self._forwards):
                    actions += tracker.kill(session, _KILLED, now=now)
        return self._count(actions)

    def reload(self, policy: Policy, *, now: float) -> list[Action]:
        """Live by another policy; sessions it still allows go on untouched."""
        self._admission.policy = policy
        self.registry.relimit(policy.limits)
        self._pptp.relimit()
        self._lay_lanes()
        self._errors.relimit(policy.limits.icmp_per_second)
        self._kept_out = policy.kept_out()
        self.offloads.reconsider()
        return self._reconsider(now)

    def address_changed(self, addresses: Addresses, *, now: float) -> list[Action]:
        """Use these addresses from now on.

        Sessions bound to a lost one end, and their ends are told, as far as ``Policy.on_change`` says so.
        """
        self._admission.addresses = addresses
        return self._reconsider(now)

    def awaited(self) -> Ip4 | None:
        """A peer that something is to be sent to again; None when ``resend`` has nothing to do."""
        return self._pptp.awaited() or self.udp.awaited()

    def resend(self, *, now: float) -> list[Action]:
        """Send from the public address of now what nobody has answered yet (ip_dynaddr's rule).

        To be called after ``address_changed``, as soon as there is a way to ``awaited``.
        """
        return self._count([*self._pptp.redial(now=now), *self.udp.resend(now=now)])

    def _reconsider(self, now: float) -> list[Action]:
        pptp = self._pptp.reconsider(now=now)
        forwards = self._forwards.reconsider(now=now)
        return self._count([*pptp, *self._ipsec.reconsider(now=now), *forwards])

    def drain(self) -> None:
        """Take no new sessions."""
        self.registry.draining = True

    def hang_up(self, why: str, *, now: float) -> list[Action]:
        """End all sessions that live by a TCP connection."""
        return [*self._pptp.hang_up(why, now=now), *self._forwards.hang_up(why)]

    def close(self, why: str, *, now: float) -> list[Action]:
        """End all sessions."""
        actions = [*self.hang_up(why, now=now), *self._ipsec.close_all(why, now=now)]
        return self._count([*actions, *self._forwards.close_all(why, now=now)])

    def refused(self, rule: str) -> int:
        """How many connections that the rule allows were refused because of a limit."""
        return self._pptp.refused[rule] + self._forwards.refused(rule)

    def sessions(self) -> Iterable[Session]:
        """All sessions."""
        return iter(self.registry)

    def look(self, *, now: float) -> list[str]:
        """Look for what is likely wrong between clients; new texts for the operator."""
        return self.collisions.look(self.registry, now=now)

    # -- across a restart ------------------------------------------------------------------------------

    def records(self) -> Iterator[Record]:
        """What is to survive a restart, as plain data; anything may be done between two of them."""
        return self._continuity.records()

    def snapshot(self, *, now: float) -> Snapshot:
        """All of it at once."""
        return snapshot(tuple(self.records()), now=now)

    def restore(
        self, taken: Snapshot, *, streams: Set[int] = frozenset(), in_step: bool = True, now: float
    ) -> list[Action]:
        """Go on from a snapshot; ``self`` is new, and of no use if this raises.

        ``streams``: which TCP connections are still there. ``in_step``: whether the snapshot knows all that
        has been read from them; if not, what was under way is lost. The rules and addresses of now are
        applied; ``resend`` is to be called as after a change of address.

        Raises:
            SnapshotError: it cannot be read.
        """
        actions = self._continuity.adopt(taken, streams, in_step=in_step, now=now)
        known = self._continuity.streams()
        self._last_stream = max(streams | known, default=0)
        opened: list[Action] = [SessionOpened(session) for session in self.registry]
        return [*opened, *self._count(actions), *self._reconsider(now)]

    # -- the kernel ------------------------------------------------------------------------------------

    def settled(self, actions: list[Action]) -> list[Action]:
        """Actions that a part of us has returned, with what the shell is to know besides."""
        return self._count(actions)

    def offload_refused(self, flow: int) -> None:
        """The kernel has no room for a flow that an Offload was about: its packets stay ours."""
        self.offloads.refused(flow)

    def counters_seen(self, changes: Iterable[tuple[int, Carried]]) -> None:
        """Count what the kernel has carried of flows since they were handed over."""
        self.offloads.seen(changes)

    # -- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``expire`` is next to be called."""
        return earliest(part.next_deadline() for part in (self._pptp, self._ipsec, self._forwards))

    def expire(self, *, now: float) -> list[Action]:
        """Do what is due; calling it early or twice does no harm."""
        pptp, ipsec = self._pptp.expire(now=now), self._ipsec.expire(now=now)
        return self._count([*pptp, *ipsec, *self._forwards.expire(now=now)])

    # -- counting --------------------------------------------------------------------------------------

    def _drop(self, reason: Reason) -> Drop:
        self.drops[reason] += 1
        return self._fault_drops[reason]

    def _count(self, actions: list[Action]) -> list[Action]:
        """What is about to be returned, with what the shell is to know besides; drops are counted."""
        for action in actions:
            if isinstance(action, Drop):
                self.drops[action.reason] += 1
        if self.heeded.pending:
            actions = [*self.heeded.take(), *actions]
        return [*actions, *self.offloads.take()] if self.offloads.pending else actions


#: Of protocols that have no short lane.
_NO_LANE: tuple[Forward, dict[int, object]] = (_no_lane, {})


def _short(lane: Lane | None, side: Side) -> tuple[Forward, dict[int, object]]:
    """A lane's way for packets that arrive on a side, and its flows."""
    if lane is None:
        return _NO_LANE
    return lane.forward, lane.lan if side is Side.LAN else lane.wan
