"""The control API's server: listeners, levels, errors as JSON.

    async with ControlServer(daemon, ApiOptions(socket="/run/vpnmasq/control.sock")):
        ...

It runs on the daemon's loop, so everything here is short, bounded, and gives way to packets.
"""

import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web

from relay.control import schema
from relay.control.access import Access, ControlError, Level, caller_of
from relay.control.daemon import Daemon
from relay.control.listeners import UnixListener, is_loopback, parse_http
from relay.control.requests import BODY_LIMIT, BadRequestError
from relay.control.routes import Handler, Routes, answer
from relay.sockets.descriptors import Descriptors

__all__ = ["ApiOptions", "ControlError", "ControlServer"]

#: Seconds that requests in progress get when the daemon stops.
SHUTDOWN_TIMEOUT = 2.0

_log = structlog.get_logger("vpnmasq.control")


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """The ``[api]`` section of the configuration."""

    socket: str
    #: "ADDRESS:PORT", or "" for none.
    http: str = ""
    #: What requests over TCP show as "Authorization: Bearer TOKEN" to be admin.
    token: str = ""
    read_group: str = ""
    admin_group: str = ""


class ControlServer:
    """Serves the API until stopped. Every instance serves once."""

    def __init__(self, daemon: Daemon, options: ApiOptions, descriptors: Descriptors | None = None) -> None:
        self._daemon = daemon
        self._options = options
        self._descriptors = descriptors or Descriptors()
        self._sites: list[web.BaseSite] = []
        self._access = Access(options.read_group, options.admin_group, options.token)
        self._routes = Routes(daemon)
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            # A follower that leaves must not stay subscribed until the next event.
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )

    async def start(self) -> None:
        """Listen on the Unix socket and, if configured, the TCP address.

        Raises: as ``prepare``.
        """
        await self.prepare()
        await self.serve()

    async def prepare(self) -> None:
        """Do all that may fail, so that ``serve`` has only to listen.

        Raises:
            ControlError: a group does not exist, the socket is taken, or TCP would be open to others
                without a token. Nothing listens then.
        """
        self._access.check()
        http = parse_http(self._options.http) if self._options.http else None
        if http and not self._options.token and not is_loopback(http[0]):
            raise ControlError(
                f"api.http: {self._options.http} can be reached from outside, so it needs api.token"
            )
        await self._runner.setup()
        group = self._options.read_group or self._options.admin_group
        unix = UnixListener(self._runner, self._options.socket, group)
        try:
            unix.take(self._descriptors.have("control socket", unix.bind))
            self._sites.append(unix)
            if http:
                name = f"control at {self._options.http}"
                listening = self._descriptors.have(name, lambda: _bound(*http))
                self._sites.append(web.SockSite(self._runner, listening))
        except BaseException:
            await self._runner.cleanup()
            unix.remove()
            raise

    async def serve(self) -> None:
        """Listen; after ``prepare``."""
        for site in self._sites:
            await site.start()

    async def leave(self) -> None:
        """Stop, and let another process have the sockets."""
        for site in self._sites:
            if isinstance(site, UnixListener):
                site.give_up()
        await self.stop()

    async def stop(self) -> None:
        """Let followers go with a last line, stop listening, remove the socket."""
        self._routes.end_followers("the daemon stops")
        await self._runner.cleanup()

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Where the TCP address really is (``api.http`` may have named port 0); None without one."""
        for address in self._runner.addresses:
            if isinstance(address, tuple):
                return address[0], address[1]
        return None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_errors_as_json], client_max_size=BODY_LIMIT)
        for method, path, level, handler in self._routes.table():
            application.router.add_route(method, path, self._guarded(level, handler))
        return application

    def _guarded(self, needed: Level, handler: Handler) -> Handler:
        """Wrap a handler so that it serves only those who may ask."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._level(request) < needed:
                return answer(schema.error(self._refusal(request, needed)), status=403)
            if needed is Level.ADMIN and self._daemon.frozen():
                text = "another process is taking over: ask again in a moment"
                return answer(schema.error(text), status=503)
            return await handler(request)

        return guarded

    def _level(self, request: web.Request) -> Level:
        connection = _connection(request)
        if connection is None:
            return Level.NONE  # it left already
        if connection.family == socket.AF_UNIX:
            return self._access.level_of(caller_of(connection))
        loopback = is_loopback(connection.getsockname()[0])
        return self._access.level_of_bearer(request.headers.get("Authorization", ""), loopback=loopback)

    def _refusal(self, request: web.Request, needed: Level) -> str:
        connection = _connection(request)
        if connection is not None and connection.family != socket.AF_UNIX:
            level = needed.name.lower()
            return f'this needs the {level} level: send "Authorization: Bearer TOKEN" with api.token as TOKEN'
        return self._access.remedy(needed)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Bound here: uvloop would start threads to do it, and threads keep the capabilities we give up.
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ControlError(f"api.http: cannot listen at {host}:{port}: {error.strerror}") from error


def _connection(request: web.Request) -> socket.socket | None:
    """Return the socket a request came through, or None when the caller left already."""
    transport = request.transport
    connection: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
    return connection


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure with a vpnmasq.error/1 document."""
    try:
        return await handler(request)
    except BadRequestError as bad:
        return answer(schema.error(str(bad)), status=400)
    except web.HTTPRequestEntityTooLarge:
        return answer(schema.error(f"the body is longer than {BODY_LIMIT} octets"), status=413)
    except web.HTTPMethodNotAllowed as wrong:
        text = f"{request.path} takes {' or '.join(sorted(wrong.allowed_methods))}, not {request.method}"
        return answer(schema.error(text), status=405)
    except web.HTTPNotFound:
        return answer(schema.error(f"there is no {request.path} here; paths begin with /v1/"), status=404)
    except web.HTTPException as other:
        return answer(schema.error(other.reason), status=other.status)
    except ConnectionError:
        raise  # the reader left: nobody is there to be told
    except Exception:  # noqa: BLE001
        # A bug in an answer must not end the gateway: the packets do not care about it.
        _log.exception("request failed", method=request.method, path=request.path)
        return answer(schema.error("the daemon failed to answer; its log says why"), status=500)
