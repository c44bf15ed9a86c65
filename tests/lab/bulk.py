"""A bulk TCP transfer inside a host, checked by digest. A script of its own, with the standard library only.

bulk.py receive ADDRESS PORT         takes one connection and prints: octets, SHA-256, seconds it stood
bulk.py send ADDRESS PORT OCTETS     sends that many octets, never the same, and prints the same
bulk.py send ADDRESS PORT /FILE      sends until there is such a file
"""

import hashlib
import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Seconds without a single octet after which a transfer has failed.
STALLED: Final = 20.0


def receive(address: str, port: int) -> None:
    """Take one connection and tell what came."""
    digest, total = hashlib.sha256(), 0
    with socket.create_server((address, port)) as listener:
        listener.settimeout(STALLED)
        connection, _ = listener.accept()
        began = time.monotonic()
        with connection:
            connection.settimeout(STALLED)
            while data := connection.recv(65536):
                digest.update(data)
                total += len(data)
    print(total, digest.hexdigest(), time.monotonic() - began)


def send(address: str, port: int, amount: str) -> None:
    """Send octets and tell what they were."""
    digest, source, total = hashlib.sha256(), random.Random(amount), 0
    with connect(address, port) as connection:
        began = time.monotonic()
        connection.settimeout(STALLED)
        for size in portions(amount):
            data = source.randbytes(size)
            digest.update(data)
            connection.sendall(data)
            total += size
    print(total, digest.hexdigest(), time.monotonic() - began)


def portions(amount: str) -> Iterator[int]:
    """Tell how many octets to send at a time: so many together, or until a file is there."""
    if amount.startswith("/"):
        while not Path(amount).exists():
            yield 65536
    else:
        for start in range(0, int(amount), 65536):
            yield min(65536, int(amount) - start)


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
        send(sys.argv[2], int(sys.argv[3]), sys.argv[4])
