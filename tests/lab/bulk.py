"""A bulk TCP transfer inside a host, checked by digest. A script of its own, with the standard library only.

bulk.py receive ADDRESS PORT         takes one connection and prints: octets, SHA-256
bulk.py send ADDRESS PORT OCTETS     sends that many octets, never the same, and prints the same
"""

import hashlib
import random
import socket
import sys
import time
from typing import Final

#: Seconds without a single octet after which a transfer has failed.
STALLED: Final = 20.0


def receive(address: str, port: int) -> None:
    """Take one connection and tell what came."""
    digest, total = hashlib.sha256(), 0
    with socket.create_server((address, port)) as listener:
        listener.settimeout(STALLED)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(STALLED)
            while data := connection.recv(65536):
                digest.update(data)
                total += len(data)
    print(total, digest.hexdigest())


def send(address: str, port: int, octets: int) -> None:
    """Send octets and tell what they were."""
    digest, source = hashlib.sha256(), random.Random(octets)
    with connect(address, port) as connection:
        connection.settimeout(STALLED)
        for start in range(0, octets, 65536):
            data = source.randbytes(min(65536, octets - start))
            digest.update(data)
            connection.sendall(data)
    print(octets, digest.hexdigest())


def connect(address: str, port: int) -> socket.socket:
    """Connect, waiting for a receiver that has only just been started."""
    deadline = time.monotonic() + STALLED
    while True:
        try:
            return socket.create_connection((address, port), timeout=STALLED)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
