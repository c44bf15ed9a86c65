"""What each end of a call is shown of the other: Call IDs, and the ways that data takes.

An end gets the other's own Call ID where it sees the other's own address, and one from ``CallIds`` where
it sees ours. The data flow towards an end carries what was shown and is given back what is real.
"""

from protocols.actions import Side
from protocols.allocator import CallIds
from protocols.gre.flows import Flow, FlowTable
from protocols.pptp.call import Call, CallState, End
from protocols.registry import SessionRegistry


class Ends:
    """Owns the IDs shown and the data flows of all calls."""

    def __init__(self, registry: SessionRegistry, flows: FlowTable, ids: CallIds) -> None:
        self._registry = registry
        self._flows = flows
        self._ids = ids
        #: Whether no data may pass for now, of whatever call: there is no public address.
        self.parked = False

    def show(self, call: Call, end: End, own_id: int, *, now: float) -> bool:
        """Show an end's Call ID to the other, and open the way for data towards the end.

        False when there is no ID to show, or the end changes its own in haste.
        """
        to = call.other(end).leg
        if end.shown_id is not None:
            if end.own_id == own_id:
                return True
            self._give_back(call, end, rest=True, now=now)
            if self._registry.haste(now=now) is not None:
                return False
        end.own_id = own_id
        end.shown_id = own_id if to.shows(end.leg) else self._ids.take(to.remote, to.local)
        if end.shown_id is None:
            return False
        self._close(end)
        end.parked = self._flow(call, end, own_id, end.shown_id)
        if not self.parked:
            self._open(call, end)
        return True

    def establish(self, call: Call) -> None:
        """Both ends have agreed: data need not pass here any more."""
        for end in (call.pns, call.pac):
            if end.flow is not None:
                self._flows.offer(end.flow, call.session)

    def park(self, call: Call) -> None:
        """Let no data pass until ``resume``."""
        for end in (call.pns, call.pac):
            if end.flow is not None:
                self._flows.remove(end.flow)
                end.parked, end.flow = end.flow, None

    def resume(self, call: Call) -> None:
        """Let data pass again, if it was parked."""
        for end in (call.pns, call.pac):
            if end.parked is not None:
                self._open(call, end)

    def adopt(self, call: Call) -> None:
        """Go on with a call of before a restart."""
        for end in (call.pns, call.pac):
            to = call.other(end).leg
            if end.shown_id is not None and not to.shows(end.leg):
                self._ids.reserve(to.remote, to.local, end.shown_id)
            if end.flow is not None:
                self._flows.add(end.flow)
                if call.state is CallState.ESTABLISHED:
                    self._flows.offer(end.flow, call.session)

    def may_adopt(self, call: Call) -> bool:
        """Whether nobody else was shown its IDs."""
        return not any(
            end.shown_id is not None
            and not call.other(end).leg.shows(end.leg)
            and self._ids.taken(call.other(end).leg.remote, call.other(end).leg.local, end.shown_id)
            for end in (call.pns, call.pac)
        )

    def silence(self, call: Call) -> None:
        """Let no data pass any more; the IDs stay known."""
        for end in (call.pns, call.pac):
            self._close(end)

    def forget(self, call: Call, *, rest: bool, now: float) -> None:
        """Give the IDs back: they ``rest``, or are free at once."""
        for end in (call.pns, call.pac):
            self._give_back(call, end, rest=rest, now=now)

    def _give_back(self, call: Call, end: End, *, rest: bool, now: float) -> None:
        to, shown_id = call.other(end).leg, end.shown_id
        end.shown_id = None
        if shown_id is None or to.shows(end.leg):
            return
        if rest:
            self._ids.rest(to.remote, to.local, shown_id, now=now)
        else:
            self._ids.free(to.remote, to.local, shown_id)

    def _open(self, call: Call, end: End) -> None:
        assert end.parked is not None
        end.flow, end.parked = end.parked, None
        self._flows.add(end.flow)
        if call.state is CallState.ESTABLISHED:
            self._flows.offer(end.flow, call.session)

    def _close(self, end: End) -> None:
        end.parked = None
        if end.flow is not None:
            self._flows.remove(end.flow)
            end.flow = None

    def _flow(self, call: Call, end: End, own_id: int, shown_id: int) -> Flow:
        """Data towards an end, which goes on counting where the direction's last flow stopped."""
        session, sender, receiver = call.session, call.other(end).leg, end.leg
        # What comes from the inside host is outbound; between two inside hosts (hairpin) the server is it.
        outbound = sender.side is Side.LAN and sender.remote == session.inside
        before = session.outbound if outbound else session.inbound
        flow = Flow(
            packets=before.packets,
            octets=before.octets,
            last_seen=before.last_seen,
            source=receiver.local,
            target=receiver.remote,
            call_id=own_id,
            side=sender.side,
            sender=sender.remote,
            addressed=sender.local,
            shown_id=shown_id,
            out=receiver.side,
        )
        if outbound:
            session.outbound = flow
        else:
            session.inbound = flow
        return flow
