"""One end of an IKE_SA that has floated to UDP port 4500 (RFC 3948 §2.2), told what to say by hand.

A script of its own: it runs inside the hosts, with the standard library only.

    stub_natt.py server           answers, and says in its answer whom it answers
    stub_natt.py client SERVER    for every line on its standard input, asks until it is answered
"""

import socket
import struct
import sys
import time
from typing import Final

PORT: Final = 4500
MARKER: Final = bytes(4)
#: RFC 7296 §3.1: cookies, next payload, version, exchange type, flags, message ID, length.
HEADER: Final = struct.Struct(">QQBBBBII")
INFORMATIONAL: Final = 37
RESPONSE: Final = 0x20
INITIATOR: Final = 0x08

#: Seconds without an answer after which a request is sent again, and after which the client gives up.
RESEND: Final = 0.2
PATIENCE: Final = 20.0


def message(number: int, flags: int, text: bytes = b"") -> bytes:
    """Return an IKE message of the one SA there is."""
    length = HEADER.size + len(text)
    return MARKER + HEADER.pack(0xA1, 0xB2, 46, 0x20, INFORMATIONAL, flags, number, length) + text


def serve(sock: socket.socket) -> None:
    """Answer every request with the address it came from."""
    while True:
        request, source = sock.recvfrom(2048)
        *_, number, _ = HEADER.unpack_from(request, len(MARKER))
        sock.sendto(message(number, RESPONSE, source[0].encode()), source)


def ask(sock: socket.socket, server: str, number: int) -> str:
    """Return what the server answers; empty when it does not."""
    sock.settimeout(RESEND)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            sock.sendto(message(number, INITIATOR), (server, PORT))
            answer = sock.recv(2048)
        except OSError:  # no answer, or ICMP's word that there is no way
            time.sleep(RESEND)
            continue
        if HEADER.unpack_from(answer, len(MARKER))[6] == number:
            return answer[len(MARKER) + HEADER.size :].decode()
    return ""


def main() -> None:
    """Be what the command line says."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", PORT))
    if sys.argv[1] == "server":
        serve(sock)
    for number, _ in enumerate(sys.stdin, 1):
        print(ask(sock, sys.argv[2], number), flush=True)


if __name__ == "__main__":
    main()
