"""The new process: asks the old one for all that it has, and says when it is ready."""

import http.client
import json
import socket
from typing import Final

from protocols.snapshot.classes import VERSION
from relay import systemd
from relay.takeover import estate
from relay.takeover.channel import PROTOCOL, ChannelError, TakingEnd
from relay.takeover.estate import Estate, Last

#: Seconds that the old process may be silent.
_PATIENCE: Final = 30.0

_SWITCHING: Final = 101


class TakeoverError(Exception):
    """There is nothing to take over, or it is refused; the text says why, and what to do."""


class Predecessor:
    """The process that serves so far.

    ``lock`` and ``name`` are the descriptors of its locks, which are ours then too.
    """

    def __init__(self, channel: TakingEnd) -> None:
        self._channel = channel
        hello, (self.lock, self.name) = channel.expect("hello")
        systemd.move_in(hello.get("surroundings", {}))

    def estate(self) -> Estate:
        """Have it change nothing any more but forward, and hand over what it has.

        Raises:
            ChannelError: it does not.
        """
        self._channel.send("begin")
        return estate.received(self._channel)

    def replace(self) -> Last:
        """Say that we are ready. From now on it is us who serve, and there is no way back.

        Raises:
            ChannelError: the old process does not make way, and goes on serving.
        """
        self._channel.send("ready")
        record, _ = self._channel.expect("last")
        return estate.read_last(record)

    def close(self) -> None:
        """Have nothing more to do with it; before ``replace`` it goes on as if we had not been."""
        self._channel.close()


def meet(path: str, instance: str) -> Predecessor:
    """Ask the process at a control socket whether we may take over.

    Raises:
        TakeoverError: it is not there, or refuses.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        return _met(sock, path, instance)
    except BaseException:
        sock.close()
        raise


def _met(sock: socket.socket, path: str, instance: str) -> Predecessor:
    try:
        sock.settimeout(_PATIENCE)
        sock.connect(path)
        _ask(sock, instance)
        return Predecessor(TakingEnd(sock))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise TakeoverError(
            f"there is nothing to take over: nobody answers at {path}; start without --takeover"
        ) from error
    except (OSError, ValueError, IndexError, ChannelError) as error:
        raise TakeoverError(f"the process at {path} cannot be taken over from: {error}") from error


def _ask(sock: socket.socket, instance: str) -> None:
    asked = {"protocol": PROTOCOL, "snapshot": VERSION, "instance": instance, "place": systemd.place()}
    body = json.dumps(asked).encode()
    sock.sendall(
        b"POST /v1/takeover HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: vpnmasq-takeover\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    # One octet after the other: what follows the header has descriptors, and must not be read along with it.
    header = b""
    while not header.endswith(b"\r\n\r\n"):
        octet = sock.recv(1)
        if not octet:
            raise ChannelError("it has ended the conversation")
        header += octet
    status = int(header.split(b" ", 2)[1])
    if status == _SWITCHING:
        return
    why = _why(sock, header)
    if status == http.client.NOT_FOUND:
        why = "it is of a version that cannot hand over; stop it, then start this one without --takeover"
    raise TakeoverError(why)


def _why(sock: socket.socket, header: bytes) -> str:
    lines = [line.lower().split(b":") for line in header.splitlines()]
    length = sum(int(line[1]) for line in lines if line[0] == b"content-length")
    body = b""
    while len(body) < length and (more := sock.recv(4096)):
        body += more
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return "it has refused, and does not say why"
