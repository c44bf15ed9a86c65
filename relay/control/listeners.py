"""The sockets that the control API listens on.

The Unix socket is bound, given its group and mode, and only then listened on, so that nobody gets in
through a moment of wrong permissions.
"""

import asyncio
import contextlib
import functools
import inspect
import ipaddress
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from relay.control.access import ControlError, group_number

#: sockaddr_un.sun_path with its final zero (unix(7)).
PATH_LIMIT = 107


class UnixListener(web.BaseSite):
    """Serves on a Unix socket of its own; ``stop`` removes it if it is still ours."""

    def __init__(self, runner: web.AppRunner, path: str, group: str) -> None:
        super().__init__(runner)
        self._path = Path(path)
        self._group = group
        self._inode: tuple[int, int] | None = None
        self._listening: socket.socket | None = None

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"unix:{self._path}"

    async def start(self) -> None:
        """Listen on the socket that was taken."""
        await super().start()
        server, listening = self._runner.server, self._listening
        assert server is not None
        assert listening is not None
        serve: Callable[..., Awaitable[asyncio.Server]] = asyncio.get_running_loop().create_unix_server
        if "cleanup_socket" in inspect.signature(serve).parameters:
            # Since Python 3.13 a loop removes the socket by itself, though it is another process's by then.
            serve = functools.partial(serve, cleanup_socket=False)
        self._server = await serve(server, sock=listening, backlog=64)
        self._listening = None  # it is the server's to close

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        await super().stop()
        self.remove()

    def remove(self) -> None:
        """Remove the socket from its place, if it is still ours."""
        if self._listening is not None:
            self._listening.close()
        with contextlib.suppress(OSError):
            if self._inode == _identity(self._path):
                self._path.unlink()

    def take(self, listening: socket.socket) -> None:
        """Listen on this one, which ``bind`` or another process has made."""
        self._listening = listening
        with contextlib.suppress(OSError):
            self._inode = _identity(self._path)

    def give_up(self) -> None:
        """The socket is another process's from now on."""
        self._inode = None

    def bind(self) -> socket.socket:
        """Bind a socket to our place.

        Raises:
            ControlError: it is taken by another daemon, or cannot be used; says what to do.
        """
        _make_way(self._path)
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            unix.bind(str(self._path))
            number = group_number(self._group) if self._group else None
            if number is not None:
                os.chown(self._path, -1, number)
            self._path.chmod(0o660)
        except OSError as error:
            unix.close()
            raise ControlError(f"api.socket: cannot listen at {self._path}: {error.strerror}") from error
        finally:
            os.umask(before)
        return unix


def parse_http(text: str) -> tuple[str, int]:
    """Read ``api.http``, "127.0.0.1:9470" or "[::1]:9470".

    Raises:
        ControlError: it is not an address and a port.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port) if colon and port.isascii() and port.isdigit() else -1
        if not 0 <= number <= 65535:
            raise ValueError(port)
    except ValueError as error:
        raise ControlError(
            f'api.http: {text!r} is not an address and a port, like "127.0.0.1:9470"'
        ) from error
    return host, number


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return ipaddress.ip_address(host).is_loopback


def _make_way(path: Path) -> None:
    """Create the directory, and remove the socket of a daemon that is gone."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise ControlError(
            f"api.socket: {path} is longer than the {PATH_LIMIT} octets a socket's path may have"
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ControlError(f"api.socket: cannot create {path.parent}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"api.socket: {path} exists and is not a socket; name another path, or remove it")
    if _answers(path):
        raise ControlError(f"api.socket: another daemon answers at {path}; stop it, or name another path")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Not waiting: a daemon that hangs still has its socket, and its queue of connections may be full.
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
