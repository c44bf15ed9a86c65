"""What a command says when its answer does not come from a vpnmasq that it knows."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from relay.cli.exits import Exit
from tests.relay.cli.program import BOUND, vpnmasq
from tests.relay.control.stand_in import place


@contextmanager
def answering(answer: bytes) -> Iterator[Path]:
    """A socket where one request is answered by something that may not be vpnmasq."""
    with place() as directory, closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(directory / "s"))
        other.listen()
        other.settimeout(BOUND)

        def serve() -> None:
            with closing(other.accept()[0]) as accepted:
                accepted.sendall(answer)
                accepted.shutdown(socket.SHUT_WR)
                while accepted.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield directory / "s"
        thread.join(BOUND)


def http(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


OTHERS = [
    pytest.param(b"220 mail.example ESMTP\r\n", Exit.NOT_REACHABLE, "is not vpnmasq", id="mail"),
    pytest.param(b"", Exit.NOT_REACHABLE, "ended the connection", id="nothing"),
    pytest.param(http("hello"), Exit.FAILED, "not JSON", id="text"),
    pytest.param(http("oops", "404 Not Found"), Exit.FAILED, "not JSON", id="refusal-in-text"),
    pytest.param(http("[]"), Exit.FAILED, "not a document of vpnmasq", id="list"),
    pytest.param(http("{}"), Exit.FAILED, "not a document of vpnmasq", id="object"),
    pytest.param(http('{"schema": 3}'), Exit.FAILED, "not a document of vpnmasq", id="number"),
    pytest.param(http('{"schema": "other.status/1"}'), Exit.FAILED, "not a document", id="other-family"),
    pytest.param(
        http('{"schema": "vpnmasq.status/2"}'), Exit.FAILED, "answers with vpnmasq.status/2", id="later"
    ),
]


@pytest.mark.parametrize("command", [["status"], ["sessions", "kill", "p1"], ["events"], ["health"]])
@pytest.mark.parametrize(("answer", "status", "text"), OTHERS)
def test_what_else_may_answer_is_named(command: list[str], answer: bytes, status: Exit, text: str) -> None:
    with answering(answer) as path:
        done = vpnmasq("--socket", path, *command)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
