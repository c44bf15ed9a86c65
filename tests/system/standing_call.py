"""Both ends of one PPTP call, which stands whatever happens to the gateway between them.

    python -m tests.system.standing_call CLIENT PEER FILE

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

from protocols.pptp import messages
from protocols.pptp.messages import Message
from tests.netns import Namespace
from tests.system.control import Control, Tunnel, called, started
from tests.system.home import PATIENCE, Gre, raw

#: Addresses of the two, and the peer's as the client dials it.
CLIENT: Final = "10.0.1.2"
PEER: Final = "200.200.200.1"

#: Seconds between data packets of one direction, and between echoes and reports.
PACE: Final = 0.02
REPORT: Final = 0.5

#: A packet after which so many have been sent is lost.
LATE: Final = 100

_NUMBER: Final = slice(28, 32)


class End(Control):
    """One end: its control connection, its packets, and what it has got so far."""

    def __init__(self, sock: socket.socket, packets: Gre) -> None:
        super().__init__(sock)
        sock.settimeout(PATIENCE)
        self.packets = packets
        self.numbers: set[int] = set()
        self.echoes = 0

    def takes(self, message: Message) -> None:
        """Deal with echoes and their answers; all else somebody waits for."""
        if isinstance(message, messages.EchoRequest):
            self.says(messages.EchoReply(identifier=message.identifier, result=1))
        elif isinstance(message, messages.EchoReply):
            self.echoes += 1
        else:
            super().takes(message)


def call(client_space: Namespace, peer_space: Namespace) -> tuple[End, End, Tunnel]:
    """Set the call up; both ends, and what each knows of the other."""
    with peer_space.entered():
        listening = socket.create_server((PEER, 1723))
    with client_space.entered():
        dialled = socket.create_connection((PEER, 1723), PATIENCE)
    accepted, _ = listening.accept()
    client, peer = End(dialled, raw(client_space)), End(accepted, raw(peer_space))
    started(client, peer)
    return client, peer, called(client, peer)


def report(client: End, peer: End, sent: int) -> None:
    """Say how much has come."""
    came = {"outbound": len(peer.numbers), "inbound": len(client.numbers)}
    came["echoes"] = min(client.echoes, peer.echoes)
    came["lost"] = sum(len({*range(sent - LATE)} - one.numbers) for one in (client, peer))
    print(json.dumps(came), flush=True)


def exchange(client: End, peer: End, seconds: float) -> None:
    """Take what comes for so long."""
    end = time.monotonic() + seconds
    connections = {one.sock: one for one in (client, peer)}
    packets = {one.packets.sock: one for one in (client, peer)}
    while (left := end - time.monotonic()) > 0:
        for ready in select.select([*connections, *packets], [], [], left)[0]:
            if ready in packets:
                packets[ready].numbers.add(int.from_bytes(packets[ready].packets.receive()[_NUMBER]))
            elif not connections[ready].reads():
                raise ConnectionError("a control connection was closed")


def hang_up(client: End, peer: End, tunnel: Tunnel) -> None:
    """The client clears the call, and is told that it is over."""
    client.says(messages.CallClearRequest(call_id=tunnel.own_client_id))
    peer.hears(messages.CallClearRequest)
    peer.says(messages.CallDisconnectNotify(call_id=tunnel.own_server_id, result=4))
    client.hears(messages.CallDisconnectNotify)


def main(client_space: str, peer_space: str, stop: Path) -> None:
    """Be both ends until told to stop."""
    client, peer, tunnel = call(Namespace(client_space), Namespace(peer_space))
    sent, due = 0, 0.0
    while not stop.exists():
        client.packets.send(CLIENT, PEER, tunnel.server_id, seq=sent)
        peer.packets.send(PEER, peer.far_end, tunnel.client_id, seq=sent)
        sent += 1
        if time.monotonic() > due:
            due = time.monotonic() + REPORT
            for one in (client, peer):
                one.says(messages.EchoRequest(identifier=sent))
            report(client, peer, sent)
        exchange(client, peer, PACE)
    hang_up(client, peer, tunnel)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
