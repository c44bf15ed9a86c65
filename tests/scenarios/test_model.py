"""Random days of a busy gateway against a slow, obvious model of who owns which data flow.

Hosts dial, call, refuse, ignore, clear, hang up and lose their connections at random. The model knows only
what the hosts themselves have said and heard; from that follows which data must reach whom. Whatever it
does not know of must not pass.
"""

import random
from dataclasses import dataclass

import pytest

from protocols.actions import Side
from protocols.addr import Ip4
from protocols.drops import Reason
from protocols.pptp import messages
from protocols.pptp.messages import Message
from tests.scenarios.arrangements import RELAY
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    LAN,
    PEER,
    PEER_2,
    SERVER,
    STAFF,
    STRANGER,
    WAN,
    Line,
    World,
    assert_nothing_left,
    expose,
    policy,
)

#: Who may dial whom.
PAIRS = [
    (CLIENT, PEER, Side.LAN),
    (CLIENT_2, PEER, Side.LAN),
    (CLIENT, PEER_2, Side.LAN),
    (CLIENT_2, LAN, Side.LAN),
    (CLIENT_2, WAN, Side.LAN),
    (PEER, WAN, Side.WAN),
    (PEER_2, WAN, Side.WAN),
]


@dataclass(eq=False)
class Talk:
    """A call as its two ends know it."""

    pns: Line
    pac: Line
    pns_id: int = 0
    pac_id: int = 0
    #: The PNS's Call ID as the PAC knows it, the PAC's as the PNS knows it; 0 = not yet.
    pns_shown: int = 0
    pac_shown: int = 0


class Hosts:
    """All hosts, and what they know."""

    def __init__(self, seed: int) -> None:
        self.world = World(policy(RELAY, STAFF, expose(SERVER)), seed=seed)
        self.chance = random.Random(seed)
        self.talks: list[Talk] = []
        self.dialling: dict[int, Line] = {}
        self.other: dict[int, Line] = {}
        self.up: set[int] = set()
        self.last_id: dict[Ip4, int] = {}
        self.ids_seen = {1, 2, 3}

    # -- what hosts do ---------------------------------------------------------------------------------

    def act(self) -> None:
        """One host does one thing."""
        deeds = [self.dial, self.reach, self.begin, self.finish, self.leave, self.idle, self.kill]
        self.chance.choices(deeds, weights=[2, 4, 5, 2, 1, 2, 1])[0]()
        while any(line.inbox for line in self.world.lines.values()):
            for line in list(self.world.lines.values()):
                for message in line.hears():
                    self.heard(line, message)
        self.talks = [t for t in self.talks if t.pns.closed is None and t.pac.closed is None]

    def dial(self) -> None:
        host, to, side = self.chance.choice(PAIRS)
        line = self.world.dial(host, to, side=side)
        line.says(messages.StartRequest())
        self.dialling[self.world.dialled[-1].stream] = line

    def reach(self) -> None:
        """Somebody whom the gateway dials accepts, or now and then refuses."""
        if not self.world.dialled:
            return
        self.chance.shuffle(self.world.dialled)
        dialler = self.dialling[self.world.dialled[-1].stream]
        if self.chance.random() < 0.1:
            self.world.refuse()
            return
        answerer = self.world.answer()
        self.other[dialler.stream], self.other[answerer.stream] = answerer, dialler

    def begin(self) -> None:
        """One end of a connection that is up begins a call, in either role."""
        lines = [line for line in self.world.lines.values() if line.closed is None and line.stream in self.up]
        if not lines:
            return
        line = self.chance.choice(lines)
        own = self.new_id(line)
        if self.chance.random() < 0.6:
            self.talks.append(Talk(line, self.other[line.stream], pns_id=own))
            line.says(messages.OutgoingCallRequest(call_id=own))
        else:
            self.talks.append(Talk(self.other[line.stream], line, pac_id=own))
            line.says(messages.IncomingCallRequest(call_id=own))

    def finish(self) -> None:
        """One end of a call ends it, if it knows how."""
        if not self.talks:
            return
        talk = self.chance.choice(self.talks)
        if talk.pns_id and self.chance.random() < 0.5:
            self.forget(talk)
            talk.pns.says(messages.CallClearRequest(call_id=talk.pns_id))
        elif talk.pac_id:
            self.forget(talk)
            talk.pac.says(messages.CallDisconnectNotify(call_id=talk.pac_id))

    def leave(self) -> None:
        """One end of a connection ends it, more or less politely."""
        lines = [line for line in self.world.lines.values() if line.closed is None]
        if not lines or self.chance.random() < 0.7:
            return
        line = self.chance.choice(lines)
        how = self.chance.choice(["stop", "fin", "rst", "junk", "deaf"])
        if how == "stop":
            self.stopped(line)
            line.says(messages.StopRequest())
        elif how == "junk":
            line.says(b"\0\x10\0\x01 junk")
        else:
            {"fin": line.hangs_up, "rst": line.resets, "deaf": line.stalls}[how]()

    def idle(self) -> None:
        """Time passes."""
        self.world.wait(self.chance.choice([0.5, 5.0, 20.0, 45.0]))

    def kill(self) -> None:
        """The operator ends a session, seldom."""
        sessions = self.world.sessions()
        if sessions and self.chance.random() < 0.3:
            world = self.world
            world.perform(world.gateway.kill([self.chance.choice(sessions).id], now=world.now))

    # -- what hosts hear -------------------------------------------------------------------------------

    def heard(self, line: Line, message: Message) -> None:
        """What a host makes of a message."""
        if line.closed is not None:
            return
        match message:
            case messages.EchoRequest():
                line.says(messages.EchoReply(identifier=message.identifier))
            case messages.StartRequest():
                line.says(messages.StartReply())
                self.up.add(line.stream)
            case messages.StartReply():
                self.up.add(line.stream)
            case messages.StopRequest():
                self.stopped(line)
                line.says(messages.StopReply())
            case messages.StopReply():
                line.hangs_up()
            case _:
                self.heard_of_call(line, message)

    def heard_of_call(self, line: Line, message: Message) -> None:
        """What a host makes of a message about a call."""
        match message:
            case messages.OutgoingCallRequest():
                talk = next(t for t in self.talks if t.pac is line and t.pns_id and not t.pns_shown)
                talk.pns_shown = message.call_id
                self.answer_outgoing(talk)
            case messages.OutgoingCallReply():
                for talk in [t for t in self.talks if t.pns is line and t.pns_id == message.peer_call_id]:
                    talk.pac_shown = message.call_id
                    self.agreed(talk, message.result)
            case messages.IncomingCallRequest():
                talk = next(t for t in self.talks if t.pns is line and t.pac_id and not t.pac_shown)
                talk.pac_shown = message.call_id
                self.answer_incoming(talk)
            case messages.IncomingCallReply():
                # A call that was given up may be answered to one who has already heard of its end.
                for talk in [t for t in self.talks if t.pac is line and t.pac_id == message.peer_call_id]:
                    talk.pns_shown = message.call_id
                    if self.agreed(talk, message.result):
                        line.says(messages.IncomingCallConnected(peer_call_id=message.call_id))
            case messages.CallClearRequest():
                cleared = [t for t in self.talks if t.pac is line and t.pns_shown == message.call_id]
                for talk in cleared:
                    self.forget(talk)
                line.says(messages.CallDisconnectNotify(call_id=cleared[0].pac_id if cleared else 0))
            case messages.CallDisconnectNotify():
                for talk in [t for t in self.talks if t.pns is line and t.pac_shown == message.call_id != 0]:
                    self.forget(talk)

    def answer_outgoing(self, talk: Talk) -> None:
        mood = self.chance.random()
        reply = messages.OutgoingCallReply(peer_call_id=talk.pns_shown, result=4)
        if mood < 0.7:
            talk.pac_id = self.new_id(talk.pac)
            reply = messages.OutgoingCallReply(call_id=talk.pac_id, peer_call_id=talk.pns_shown)
        if mood < 0.85:
            talk.pac.says(reply)

    def answer_incoming(self, talk: Talk) -> None:
        mood = self.chance.random()
        reply = messages.IncomingCallReply(peer_call_id=talk.pac_shown, result=3)
        if mood < 0.7:
            talk.pns_id = self.new_id(talk.pns)
            reply = messages.IncomingCallReply(call_id=talk.pns_id, peer_call_id=talk.pac_shown)
        if mood < 0.85:
            talk.pns.says(reply)

    def new_id(self, line: Line) -> int:
        """A Call ID that the host has not used before: all begin with 1."""
        self.last_id[line.host] = self.last_id.get(line.host, 0) + 1
        return self.last_id[line.host]

    def agreed(self, talk: Talk, result: int) -> bool:
        if result != 1:
            self.forget(talk)
        return result == 1

    def forget(self, talk: Talk) -> None:
        if talk in self.talks:
            self.talks.remove(talk)

    def stopped(self, line: Line) -> None:
        """The connection is being closed: no calls, and none to begin."""
        self.talks = [t for t in self.talks if line not in (t.pns, t.pac)]
        self.up.discard(line.stream)
        if line.stream in self.other:
            self.up.discard(self.other[line.stream].stream)

    # -- the judge -------------------------------------------------------------------------------------

    def owner(self, side: Side, src: Ip4, dst: Ip4, call_id: int) -> tuple[Line, int] | None:
        """Who must get data with these addresses and this Call ID."""
        for talk in self.talks:
            for sender, receiver, shown, real in (
                (talk.pns, talk.pac, talk.pac_shown, talk.pac_id),
                (talk.pac, talk.pns, talk.pns_shown, talk.pns_id),
            ):
                ours = (sender.side, sender.host, sender.correspondent) == (side, src, dst)
                if ours and shown == call_id != 0:
                    return receiver, real
        return None

    def judge(self) -> None:
        """Data of every call, and data that nobody should send."""
        self.ids_seen |= {i for t in self.talks for i in (t.pns_id, t.pac_id, t.pns_shown, t.pac_shown)}
        known = [(t.pns, t.pac_shown) for t in self.talks] + [(t.pac, t.pns_shown) for t in self.talks]
        probes = [(line.side, line.host, line.correspondent, i) for line, i in known]
        for _ in range(15):
            call_id = self.chance.choice(sorted(self.ids_seen))
            line = self.chance.choice(list(self.world.lines.values()))
            probes.append((line.side, line.host, line.correspondent, call_id))
            probes.append((Side.WAN, STRANGER, WAN, call_id))
        for probe in probes:
            out, owner = self.world.gre(*probe), self.owner(*probe)
            if owner is None:
                assert isinstance(out, Reason), probe
            else:
                assert owner[0].got(out, owner[1]), probe


@pytest.mark.parametrize("seed", range(20))
def test_no_data_ever_reaches_the_wrong_host(seed: int) -> None:
    hosts = Hosts(seed)
    hosts.dial()
    hosts.reach()
    carried = 0
    for _ in range(80):
        hosts.act()
        hosts.judge()
        carried = max(carried, len(hosts.world.gateway._flows))
    assert carried > 0
    world = hosts.world
    for line in list(world.lines.values()):
        if line.closed is None:
            line.hangs_up()
    assert_nothing_left(world)
