"""Both ends of one PPTP call, which stands whatever happens to the gateway between them.

    python -m tests.lab.standing_call CLIENT PEER FILE

CLIENT and PEER are the network namespaces of the two. Numbered data packets go both ways all the time, and
both ends ask for echoes on the control connection (RFC 2637 §2.5). Every half a second it says as JSON how
much has come, and what of two seconds ago and before has not; when there is FILE, it hangs up, and ends with
0 if that was confirmed.
"""

import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import Final

from protocols import ipv4
from protocols.addr import parse_ip
from protocols.gre.codec import EnhancedGre
from protocols.pptp import messages
from protocols.pptp.framing import Framer
from protocols.pptp.messages import Message
from tests.netns import Namespace

#: Addresses of the two, and the peer's as the client dials it.
CLIENT: Final = "10.0.1.2"
PEER: Final = "200.200.200.1"

#: Seconds between data packets of one direction, between echoes and reports, that an answer on the control
#: connection may take.
PACE: Final = 0.02
REPORT: Final = 0.5
PATIENCE: Final = 30.0

#: A packet after which so many have been sent is lost.
LATE: Final = 100

_GRE: Final = socket.IPPROTO_GRE
_NUMBER: Final = slice(28, 32)


class End:
    """One end: its control connection, its packets, and what it has got so far."""

    def __init__(self, namespace: str, address: str) -> None:
        self.address = address
        with Namespace(namespace).entered():
            self.control = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, _GRE)
            self._out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._framer = Framer()
        self._inbox: list[Message] = []
        self.numbers: set[int] = set()
        self.echoes = 0

    def say(self, message: Message) -> None:
        """Send a message."""
        self.control.sendall(message.to_bytes())

    def hear(self) -> Message:
        """The next message but echoes and their answers, which are dealt with."""
        deadline = time.monotonic() + PATIENCE
        while not self._inbox:
            if not select.select([self.control], [], [], deadline - time.monotonic())[0]:
                raise TimeoutError("nothing comes on the control connection")
            self.read()
        return self._inbox.pop(0)

    def read(self) -> None:
        """Read what there is on the control connection."""
        data = self.control.recv(4096)
        if not data:
            raise ConnectionError(f"the control connection of {self.address} was closed")
        for message in map(messages.decode, self._framer.feed(data)):
            if isinstance(message, messages.EchoRequest):
                self.say(messages.EchoReply(identifier=message.identifier, result=1))
            elif isinstance(message, messages.EchoReply):
                self.echoes += 1
            else:
                self._inbox.append(message)

    def send(self, to: str, call_id: int, number: int) -> None:
        """Send a data packet."""
        inner = EnhancedGre(call_id=call_id, seq=number, payload=b"data").to_bytes()
        packet = ipv4.build(src=parse_ip(self.address), dst=parse_ip(to), protocol=_GRE, payload=inner)
        self._out.sendto(packet, (to, 0))

    def receive(self) -> None:
        """Take a data packet."""
        self.numbers.add(int.from_bytes(self.raw.recv(2048)[_NUMBER]))


def call(client: End, peer: End, listening: socket.socket) -> tuple[str, int, int]:
    """Set the call up; whom the peer sees, and the Call IDs of data for the client and for the peer."""
    client.control.connect((PEER, 1723))
    peer.control.close()
    peer.control, (seen, _) = listening.accept()
    client.say(messages.StartRequest())
    peer.hear()
    peer.say(messages.StartReply(result=1))
    client.hear()
    client.say(messages.OutgoingCallRequest(call_id=1))
    request = peer.hear()
    assert isinstance(request, messages.OutgoingCallRequest)
    peer.say(messages.OutgoingCallReply(call_id=100, peer_call_id=request.call_id, result=1))
    reply = client.hear()
    assert isinstance(reply, messages.OutgoingCallReply)
    return seen, request.call_id, reply.call_id


def report(client: End, peer: End, sent: int) -> None:
    """Say how much has come."""
    came = {"outbound": len(peer.numbers), "inbound": len(client.numbers)}
    came["echoes"] = min(client.echoes, peer.echoes)
    came["lost"] = sum(len({*range(sent - LATE)} - one.numbers) for one in (client, peer))
    print(json.dumps(came), flush=True)


def exchange(client: End, peer: End, seconds: float) -> None:
    """Take what comes for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([client.control, peer.control, client.raw, peer.raw], [], [], left)
        for one in (client, peer):
            if one.control in ready:
                one.read()
            if one.raw in ready:
                one.receive()


def hang_up(client: End, peer: End) -> None:
    """The client clears the call, and is told that it is over."""
    client.say(messages.CallClearRequest(call_id=1))
    assert isinstance(peer.hear(), messages.CallClearRequest)
    peer.say(messages.CallDisconnectNotify(call_id=100, result=4))
    assert isinstance(client.hear(), messages.CallDisconnectNotify)


def main(client_space: str, peer_space: str, stop: Path) -> None:
    """Be both ends until told to stop."""
    with Namespace(peer_space).entered():
        listening = socket.create_server((PEER, 1723))
    client, peer = End(client_space, CLIENT), End(peer_space, PEER)
    seen, for_client, for_peer = call(client, peer, listening)
    sent, due = 0, 0.0
    while not stop.exists():
        client.send(PEER, for_peer, sent)
        peer.send(seen, for_client, sent)
        sent += 1
        if time.monotonic() > due:
            due = time.monotonic() + REPORT
            for one in (client, peer):
                one.say(messages.EchoRequest(identifier=sent))
            report(client, peer, sent)
        exchange(client, peer, PACE)
    hang_up(client, peer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
