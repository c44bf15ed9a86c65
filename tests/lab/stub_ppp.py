"""Stands in for pppd where the kernel has no PPP: pptpd and pptp-linux run with real control channel and GRE.

It speaks HDLC-framed PPP (RFC 1662) on its terminal as pppd does, but knows only LCP Echo-Request and
Echo-Reply (RFC 1661 §5.8), with a name inside, so that a packet that came to the wrong place is noticed. A
script of its own: it runs inside the hosts, with the standard library only.

    stub_ppp.py server [pppd's arguments]   run by pptpctrl on a pseudo-terminal: answers
    stub_ppp.py client NAME SERVER          runs pptp on a pseudo-terminal: asks

The client says ``up`` once it got an answer. For every number N on its standard input it then wants N
answers, and says as JSON what it got: answers, requests sent, answers meant for others, and what the servers
said about themselves. It hangs up when its standard input ends. When the call has ended it says ``ended``.
"""

import contextlib
import itertools
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FLAG: Final = 0x7E
ESCAPE: Final = 0x7D
ADDRESS_CONTROL: Final = b"\xff\x03"
LCP: Final = 0xC021
ECHO_REQUEST: Final = 9
ECHO_REPLY: Final = 10
GOOD_FCS: Final = 0xF0B8

#: Seconds without an answer after which a request is sent again.
RESEND: Final = 0.5
#: Requests under way at a time.
BATCH: Final = 8
#: Seconds after which the client gives up.
PATIENCE: Final = 40.0


def fcs(data: bytes) -> int:
    """Return the frame check sequence, not yet complemented (RFC 1662 §C.2)."""
    value = 0xFFFF
    for octet in data:
        value ^= octet
        for _ in range(8):
            value = (value >> 1) ^ 0x8408 if value & 1 else value >> 1
    return value


def echo(code: int, identifier: int, text: bytes) -> bytes:
    """Return an LCP echo as a frame for the terminal."""
    frame = ADDRESS_CONTROL + struct.pack(">HBBHI", LCP, code, identifier, 8 + len(text), 0) + text
    frame += struct.pack("<H", fcs(frame) ^ 0xFFFF)
    out = bytearray([FLAG])
    for octet in frame:
        out += bytes((ESCAPE, octet ^ 0x20)) if octet in (FLAG, ESCAPE) or octet < 0x20 else bytes((octet,))
    return bytes(out) + bytes([FLAG])


class Decoder:
    """Bytes of a terminal in, LCP echoes out as (code, identifier, text)."""

    def __init__(self) -> None:
        self._frame, self._escaped = bytearray(), False

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take bytes and yield the echoes that are complete now."""
        for octet in data:
            if octet == FLAG:
                frame, self._frame, self._escaped = bytes(self._frame), bytearray(), False
                if len(frame) >= 4 and fcs(frame) == GOOD_FCS:
                    yield from self._echo(frame[:-2].removeprefix(ADDRESS_CONTROL))
            elif octet == ESCAPE:
                self._escaped = True
            else:
                self._frame.append(octet ^ 0x20 if self._escaped else octet)
                self._escaped = False

    @staticmethod
    def _echo(packet: bytes) -> Iterator[tuple[int, int, bytes]]:
        if len(packet) >= 10:
            protocol, code, identifier = struct.unpack_from(">HBB", packet)
            if protocol == LCP and code in (ECHO_REQUEST, ECHO_REPLY):
                yield code, identifier, packet[10:]


def read(terminal: int) -> bytes:
    """Read from a terminal; empty when the other side hung up."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def serve(arguments: list[str]) -> None:
    """Answer every echo with its own text, our process number and the client's address as pptpd knows it."""
    remote = dict(itertools.pairwise(arguments)).get("remotenumber", "?")
    name = f"{os.getpid()}@{remote}".encode()
    with contextlib.suppress(termios.error):
        tty.setraw(0)
    decoder, heard = Decoder(), False
    while True:
        if not select.select([0], [], [], None if heard else 0.3)[0]:
            # pptpctrl reads no GRE until pppd has said something
            os.write(1, echo(ECHO_REQUEST, 0, b"hello"))
            continue
        data = read(0)
        if not data:
            return
        heard = True
        for code, identifier, text in decoder.feed(data):
            if code == ECHO_REQUEST:
                os.write(1, echo(ECHO_REPLY, identifier, text + name))


class Client:
    """One call to a server, and what was heard on it."""

    def __init__(self, name: str, server: str) -> None:
        self._name = name.encode()
        self._terminal, slave = pty.openpty()
        tty.setraw(slave)
        self._pptp = subprocess.Popen(
            ["pptp", server, "--nolaunchpppd", "--nohostroute"], stdin=slave, stdout=slave
        )
        os.close(slave)
        self._decoder = Decoder()
        self._asked = 0
        self._servers: set[str] = set()
        self._foreign = 0

    def exchange(self, count: int, resend: float = RESEND) -> dict[str, object]:
        """Ask until `count` answers are there, several at a time."""
        missing, sent = set(range(self._asked, self._asked + count)), 0
        self._asked += count
        batch: set[int] = set()
        next_send, deadline = 0.0, time.monotonic() + PATIENCE
        while missing and time.monotonic() < deadline and self._pptp.poll() is None:
            if not batch or time.monotonic() >= next_send:
                batch = set(sorted(missing)[:BATCH])
                for number in sorted(batch):
                    os.write(self._terminal, echo(ECHO_REQUEST, number & 0xFF, self._text(number)))
                sent += len(batch)
                next_send = time.monotonic() + resend
            if select.select([self._terminal], [], [], 0.02)[0]:
                answered = self._answers(read(self._terminal))
                missing -= answered
                batch -= answered
        answers = count - len(missing)
        return {"answers": answers, "sent": sent, "foreign": self._foreign, "servers": sorted(self._servers)}

    def tell_of_end(self) -> None:
        """Wait for the call's end, whoever ends it, and say so."""
        self._pptp.wait()
        print("ended", flush=True)

    def hang_up(self) -> None:
        """End the call as pptp learns that pppd has ended: its terminal is closed.

        No signal is sent: pptp leaves its handler by a jump (siglongjmp), and when the signal came while it
        held the C library's lock of syslog, it waits for that lock for good.
        """
        os.close(self._terminal)
        try:
            self._pptp.wait(10)
        except subprocess.TimeoutExpired:
            print(self._stuck(), file=sys.stderr, flush=True)
            raise

    def _stuck(self) -> str:
        """What pptp waits in, and what it has open still: its call manager's socket, for one."""
        process = Path(f"/proc/{self._pptp.pid}")
        open_files = []
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                open_files.append(f"{entry.name} is {entry.readlink()}")
        waits = [(process / name).read_text().strip() for name in ("wchan", "syscall", "stat")]
        return f"pptp does not end: {waits} {open_files}"

    def _text(self, number: int) -> bytes:
        return b"%s#%d#" % (self._name, number)

    def _answers(self, data: bytes) -> set[int]:
        numbers = set()
        for code, _, text in self._decoder.feed(data):
            if code != ECHO_REPLY:
                continue
            name, number, server = [*text.split(b"#"), b"", b""][:3]
            if name != self._name:
                self._foreign += 1
                continue
            numbers.add(int(number))
            self._servers.add(server.decode())
        return numbers


def call(name: str, server: str) -> None:
    """Be a client, told what to do on standard input."""
    client = Client(name, server)
    # the call takes a while to come up, and nothing before that is kept
    if client.exchange(1, resend=0.1)["answers"] != 1:
        print("no answer", flush=True)
        sys.exit(1)
    print("up", flush=True)
    watch = threading.Thread(target=client.tell_of_end, daemon=True)
    watch.start()
    for line in sys.stdin:
        print(json.dumps(client.exchange(int(line))), flush=True)
    client.hang_up()
    watch.join()


if __name__ == "__main__":
    if sys.argv[1] == "client":
        call(sys.argv[2], sys.argv[3])
    else:
        serve(sys.argv[2:])
