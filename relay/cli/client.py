"""Talking to the daemon: HTTP over its Unix socket, with the standard library alone.

Every failure is a Failure that says what to do and carries the exit status.
"""

import functools
import grp
import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import click

from relay.cli.everywhere import inherited, named_socket
from relay.cli.exits import Exit
from relay.cli.text import plain
from relay.options import DEFAULT_SOCKET

#: Seconds to wait for an answer.
DEFAULT_TIMEOUT = 5.0
#: Seconds that completing a word may hold up a keystroke.
COMPLETION_TIMEOUT = 0.5

#: Version of every schema these commands read.
_VERSION = "1"

Document = dict[str, Any]


class Failure(click.ClickException):
    """What ends a command without success: a text for people and an exit status."""

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = int(status)  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        """Write it to standard error."""
        click.echo(f"vpnmasq: {self.format_message()}", err=True, file=file)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix.settimeout(self.timeout)
            unix.connect(self._path)
        except BaseException:
            unix.close()
            raise
        self.sock = unix


class Client:
    """One daemon, asked one thing at a time."""

    def __init__(self, path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def ask(self, method: str, path: str, body: Document | None = None) -> tuple[int, str]:
        """Return status and text of an answer, whatever they are.

        Raises:
            Failure: no daemon, no permission, or no answer in time.
        """
        with closing(_UnixConnection(self._path, self._timeout)) as connection, self._explained():
            octets = None if body is None else json.dumps(body).encode()
            connection.request(method, path, octets, {"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def get(self, path: str) -> tuple[str, Document]:
        """Return a document, as text and decoded.

        Raises:
            Failure: there is none; says why.
        """
        status, text = self.ask("GET", path)
        return text, decode(status, text)

    def lines(self, path: str) -> Iterator[str]:
        """Yield the lines of a stream as they come, for as long as they come.

        Raises:
            Failure: it did not begin, or broke off.
        """
        with closing(_UnixConnection(self._path, self._timeout)) as connection, self._explained():
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != http.client.OK:
                decode(response.status, response.read().decode())
            # From here on silence is nothing bad.
            connection.sock.settimeout(None)
            while octets := response.readline():
                yield octets.decode()

    def _explained(self) -> "_Explained":
        return _Explained(self._path, self._timeout)


class _Explained:
    """Turns what the system says into what the person at the keyboard can do."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case TimeoutError():
                text = (
                    f"no answer within {self._timeout:g} s from {self._path}; the daemon is busy or stopped"
                )
                raise Failure(text, Exit.TIMED_OUT) from error
            case PermissionError():
                raise Failure(_permission(self._path), Exit.NO_PRIVILEGE) from error
            case FileNotFoundError() | ConnectionRefusedError() | NotADirectoryError():
                text = (
                    f"is vpnmasq running? Nobody answers at {self._path}. "
                    "Start it with: vpnmasq run; or name another socket with --socket"
                )
                raise Failure(text, Exit.NOT_REACHABLE) from error
            case http.client.IncompleteRead() | ConnectionError():
                raise Failure(
                    "the daemon ended the connection; is it stopping?", Exit.NOT_REACHABLE
                ) from error
            case http.client.HTTPException() | UnicodeDecodeError():
                text = f"what answers at {self._path} is not vpnmasq"
                raise Failure(text, Exit.NOT_REACHABLE) from error
            case OSError() if not isinstance(error, BrokenPipeError):
                text = f"cannot connect to {self._path}: {error.strerror or error}"
                raise Failure(text, Exit.NOT_REACHABLE) from error


def decode(status: int, text: str) -> Document:
    """Return the document of a good answer.

    Raises:
        Failure: the answer is a refusal, whose exit status follows from the HTTP status; or as ``parse``.
    """
    document = parse(text)
    if status != http.client.OK:
        _refused(status, document)
    return document


def parse(text: str) -> Document:
    """Return the document of any answer.

    Raises:
        Failure: it is none of vpnmasq's, or one of a schema that these commands do not know.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise Failure("the answer is not JSON: is it vpnmasq that listens there?") from error
    schema = document.get("schema", "") if isinstance(document, dict) else ""
    family, _, number = str(schema).rpartition("/")
    if not family.startswith("vpnmasq."):
        raise Failure("the answer is not a document of vpnmasq: what listens there?")
    if number != _VERSION:
        text = f"the daemon answers with {schema}, and this command knows version {_VERSION}"
        raise Failure(f"{plain(text)}: use the command that came with the daemon")
    known: Document = document
    return known


def _refused(status: int, document: Document) -> NoReturn:
    exits = {
        400: Exit.USAGE,
        403: Exit.NO_PRIVILEGE,
        404: Exit.NOTHING_MATCHED,
        422: Exit.BAD_CONFIGURATION,
    }
    lines = [str(document.get("error", f"the daemon refused (HTTP {status})")), *document.get("problems", [])]
    raise Failure("\n  ".join(lines), exits.get(status, Exit.FAILED))


def _permission(path: str) -> str:
    try:
        found = Path(path).stat()
        group = grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return f"no permission to connect to {path}; use sudo"
    if found.st_gid == 0 or found.st_gid in os.getgroups():
        return f"no permission to connect to {path}; use sudo, or set api.read_group to one of your groups"
    return f"no permission to connect to {path}; use sudo, or join group {group}"


def asks(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command with --timeout; it gets a Client as its first argument."""

    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        callback=inherited,
        help="How long to wait for an answer.",
    )
    @functools.wraps(function)
    def wrapped(*context: click.Context, timeout: float, **arguments: Any) -> None:
        function(*context, Client(named_socket() or DEFAULT_SOCKET, timeout), **arguments)

    return wrapped


as_json = click.option(
    "--json", "as_json", is_flag=True, callback=inherited, help="Print the document as the daemon sends it."
)
