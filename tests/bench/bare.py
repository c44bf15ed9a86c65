"""The least a user-space gateway in Python can cost: raw sockets under uvloop, and no thought.

It receives into one buffer and sends the buffer to a fixed host, nothing rewritten. What vpnmasq costs on
top of this is its core. Run in the gateway's namespace: ``python -m tests.bench.bare LAN_HOST WAN_HOST``.
"""

import asyncio
import socket
import sys

import uvloop

from relay.sockets import raw

BATCH = 64
RECEIVE_BUFFER = 4 << 20


def shovel(source: socket.socket, sink: socket.socket, destination: str, buffer: bytearray) -> None:
    """Move up to BATCH packets, then let the loop have its turn."""
    view = memoryview(buffer)
    to = (destination, 0)
    receive = source.recv_into
    send = sink.sendto
    try:
        for _ in range(BATCH):
            length = receive(buffer)
            send(view[:length], to)
    except BlockingIOError:
        return


async def main(lan_host: str, wan_host: str) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    buffer = bytearray(65536)
    sink = raw.sender(RECEIVE_BUFFER)
    for interface, destination in (("eth0", wan_host), ("eth1", lan_host)):
        source = raw.receiver(socket.IPPROTO_GRE, interface, RECEIVE_BUFFER)
        loop.add_reader(source, shovel, source, sink, destination, buffer)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
