"""Forwarded TCP connections: accepted, dialled on to a server, and joined by splice(2).

The bytes stay in the kernel; see ``joints``.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from protocols.actions import Examine, Side, Splice
from protocols.addr import parse_ip
from protocols.events import ForwardAccepted, ForwardAlive
from relay.sockets.joints import Joint, JointPart, Report, prepare
from relay.sockets.pipes import Pipes
from relay.sockets.tcp import Acceptor

#: Connections the kernel may hold for us between two wake-ups.
_BACKLOG: Final = 1024


class Splices:
    """All forwarded TCP connections, by the core's numbers. To be made on the running loop.

    ``report`` takes events to the core.
    """

    def __init__(self, *, number: Callable[[], int], report: Report) -> None:
        self._number = number
        self.report = report
        self.loop = asyncio.get_running_loop()
        self.pipes = Pipes()
        self._joints: dict[int, Joint] = {}
        #: Connections of which an end did not read lately.
        self.held_up: dict[Joint, None] = {}

    def __len__(self) -> int:
        return len(self._joints)

    # -- accepting -------------------------------------------------------------------------------------

    def listen(self, sock: socket.socket, side: Side) -> Acceptor:
        """What accepts connections on a bound socket; each is reported as ForwardAccepted."""
        prepare(sock)  # what is accepted inherits all of it but O_NONBLOCK

        def taken(accepted: socket.socket, remote: tuple[str, int]) -> None:
            local, port = accepted.getsockname()
            number = self._number()
            self._joints[number] = Joint(self, number, accepted)
            peer = parse_ip(remote[0])
            self.report(ForwardAccepted(number, side, parse_ip(local), port, peer, remote[1]))

        return Acceptor(sock, _BACKLOG, taken)

    # -- what the core asks for ------------------------------------------------------------------------

    def splice(self, action: Splice) -> None:
        """Dial the server for an accepted connection; ForwardConnected or ForwardFailed is the outcome.

        One that another process has joined is just gone on with.
        """
        joint = self._joints.get(action.stream)
        if joint is not None and joint.parts:
            joint.join(action, joint.parts)
        elif joint is not None:
            joint.dial(action)

    def examine(self, action: Examine) -> None:
        """Report ForwardAlive if both ends were heard of lately."""
        joint = self._joints.get(action.stream)
        if joint is not None and joint.alive(action.within):
            self.report(ForwardAlive(action.stream))

    def cut(self, number: int) -> None:
        """End a connection with RST to both ends; nothing is reported any more."""
        joint = self._joints.get(number)
        if joint is not None:
            joint.close(abort=True)

    def forget(self, joint: Joint) -> None:
        """A connection is gone."""
        self._joints.pop(joint.number, None)
        self.held_up.pop(joint, None)

    def look(self) -> None:
        """Notice ends that are gone though nobody reads from them; to be called now and then."""
        for joint in tuple(self.held_up):
            joint.look()

    # -- from process to process -----------------------------------------------------------------------

    def pause(self) -> None:
        """Carry nothing, and dial nobody, until ``resume``."""
        for joint in self._joints.values():
            joint.pause()

    def resume(self) -> None:
        """Go on after ``pause``."""
        for joint in tuple(self._joints.values()):
            joint.resume()

    def parts(self) -> Iterator[JointPart]:
        """What another process needs to go on with all connections, while they are paused."""
        for joint in self._joints.values():
            yield joint.part

    def adopt(self, parts: Iterable[JointPart]) -> None:
        """Have the connections of another process; each is carried on by ``splice``."""
        for part in parts:
            joint = Joint(self, part.number, *part.sockets, parts=part.halves)
            self._joints[part.number] = joint

    def cut_others(self) -> None:
        """Cut the connections of another process that the core does not go on with."""
        for joint in tuple(self._joints.values()):
            if not joint.wanted:
                joint.close(abort=True)

    def abort_all(self) -> None:
        """Cut everything that is left, and let the pipes go."""
        for number in tuple(self._joints):
            self.cut(number)
        self.pipes.close()
