"""The routes under /v1: one method each.

| route | level | answers |
|---|---|---|
| GET  /v1/status          | read  | vpnmasq.status/1 |
| GET  /v1/sessions        | read  | vpnmasq.sessions/1, written piece by piece |
| GET  /v1/sessions/{id}   | read  | vpnmasq.sessions/1 with the one session, or 404 |
| POST /v1/sessions/kill   | admin | vpnmasq.kill/1; 404 when none of the IDs is known |
| GET  /v1/pairs           | read  | vpnmasq.pairs/1: told pairs of ESP |
| POST /v1/pairs/add       | admin | vpnmasq.pairs/1 with the one pair; 409 when refused |
| POST /v1/pairs/delete    | admin | vpnmasq.pairs/1 with what is left; 404 when there is no such pair |
| GET  /v1/events          | read  | vpnmasq.events/1 lines until somebody ends it |
| POST /v1/wan/up          | admin | vpnmasq.wan/1: a hook says that a link is up |
| POST /v1/wan/down        | admin | vpnmasq.wan/1: and that it is down |
| POST /v1/reload          | admin | vpnmasq.reload/1; 422 with ``problems`` when the file is wrong |
| POST /v1/takeover        | admin | 101, and then relay.takeover.channel; 409 with the reason |
| GET  /v1/health          | read  | vpnmasq.health/1; 503 while not ready |
| GET  /v1/metrics         | read  | Prometheus text |
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from itertools import islice

from aiohttp import web

from protocols.addr import show_ip
from protocols.drops import HELP
from protocols.esp.codec import show_spi
from relay.control import schema
from relay.control.access import Level
from relay.control.daemon import Daemon, ReloadRefused
from relay.control.feed import Subscription, TooManyFollowersError
from relay.control.requests import PairKey, read_ids, read_json, read_link, read_pair, read_pair_key
from relay.metrics import CONTENT_TYPE, Exposition

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Sessions written before packets get their turn again: about a millisecond of work.
SESSIONS_AT_A_TIME = 32
#: Seconds a reader may take for what it was sent before it is disconnected.
WRITE_TIMEOUT = 20.0
JSON_LINES = "application/jsonl"


class Routes:
    """The handlers, and the followers they serve."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._dates = schema.Dates(daemon.clock)
        self._metrics = Exposition(daemon)
        self._followers: set[Subscription] = set()

    def table(self) -> list[tuple[str, str, Level, Handler]]:
        """Return method, path, needed level and handler of every route."""
        return [
            ("GET", "/v1/status", Level.READ, self.status),
            ("GET", "/v1/sessions", Level.READ, self.sessions),
            ("POST", "/v1/sessions/kill", Level.ADMIN, self.kill),
            ("GET", "/v1/sessions/{id}", Level.READ, self.session),
            ("GET", "/v1/pairs", Level.READ, self.pairs),
            ("POST", "/v1/pairs/add", Level.ADMIN, self.add_pair),
            ("POST", "/v1/pairs/delete", Level.ADMIN, self.delete_pair),
            ("GET", "/v1/events", Level.READ, self.events),
            ("POST", "/v1/wan/{event:up|down}", Level.ADMIN, self.wan),
            ("POST", "/v1/reload", Level.ADMIN, self.reload),
            ("POST", "/v1/takeover", Level.ADMIN, self.takeover),
            ("GET", "/v1/health", Level.READ, self.health),
            ("GET", "/v1/metrics", Level.READ, self.metrics),
        ]

    def end_followers(self, why: str) -> None:
        """Let every follower go, with a last line that says why."""
        for follower in tuple(self._followers):
            follower.end(why)

    async def status(self, _request: web.Request) -> web.StreamResponse:
        """State, WAN, rules, drops, sockets, attention."""
        return answer(schema.status(self._daemon.status(), self._dates))

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """Whether the gateway serves: 200 or 503."""
        ready = self._daemon.ready()
        reason = "" if ready else self._daemon.status().waiting
        document = schema.health(self._daemon.status().state, ready=ready, reason=reason)
        return answer(document, status=200 if ready else 503)

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        """The counters in Prometheus' text format."""
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def sessions(self, request: web.Request) -> web.StreamResponse:
        """Every session. Ten thousands take a while, so packets are served in between."""
        waiting = iter(list(self._daemon.sessions()))
        response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
        await response.prepare(request)
        text = f'{{"schema": {json.dumps(schema.SESSIONS)}, "sessions": ['
        while some := list(islice(waiting, SESSIONS_AT_A_TIME)):
            text += ",\n".join(json.dumps(schema.session(one, self._dates)) for one in some)
            await _write(request, response, text)
            await asyncio.sleep(0)
            text = ",\n"
        await _write(request, response, "]}\n" if text == ",\n" else f"{text}]}}\n")
        await response.write_eof()
        return response

    async def session(self, request: web.Request) -> web.StreamResponse:
        """One session by its ID."""
        wanted = request.match_info["id"]
        for one in self._daemon.sessions():
            if one.id == wanted:
                return answer(schema.sessions([one], self._dates))
        return answer(schema.error(f"there is no session {wanted!r}; it may have ended"), status=404)

    async def kill(self, request: web.Request) -> web.StreamResponse:
        """End sessions."""
        killed, unknown = self._daemon.kill(await read_ids(request))
        return answer(schema.killed(killed, unknown), status=200 if killed else 404)

    async def pairs(self, _request: web.Request) -> web.StreamResponse:
        """The pairs of ESP that we were told of."""
        return answer(schema.pairs(self._daemon.pairs(), self._dates))

    async def add_pair(self, request: web.Request) -> web.StreamResponse:
        """Be told whose an inbound SPI is."""
        pair = await read_pair(request)
        key = pair.key
        refusal = self._daemon.tell(key.peer, key.spi, pair.host, pair.lifetime)
        if refusal is not None:
            why = f"{refusal.value}: {HELP[refusal]}"
            text = f"{show_ip(pair.host)} cannot own {show_spi(key.spi)} of {show_ip(key.peer)}: {why}"
            return answer(schema.error(text, reason=refusal.value), status=409)
        told = [one for one in self._daemon.pairs() if PairKey(one.peer, one.spi) == key]
        return answer(schema.pairs(told, self._dates))

    async def delete_pair(self, request: web.Request) -> web.StreamResponse:
        """Believe a told pair no longer."""
        key = await read_pair_key(request)
        if not self._daemon.untell(key.peer, key.spi):
            text = f"nobody has told us whose {show_spi(key.spi)} of {show_ip(key.peer)} is"
            return answer(schema.error(text), status=404)
        return await self.pairs(request)

    async def wan(self, request: web.Request) -> web.StreamResponse:
        """A hook's word of a link; answered when it has been followed."""
        served = await self._daemon.link_changed(request.match_info["event"], await read_link(request))
        now = self._daemon.status().wan
        return answer(schema.wan(served, now.interface, now.address))

    async def reload(self, _request: web.Request) -> web.StreamResponse:
        """Read the configuration again."""
        try:
            changed = await self._daemon.reload()
        except ReloadRefused as refused:
            text = "the configuration is wrong; nothing was changed"
            return answer(schema.error(text, problems=refused.problems), status=422)
        return answer(schema.reloaded(changed))

    async def takeover(self, request: web.Request) -> web.StreamResponse:
        """Hand over to another process of ours, on this connection."""
        refusal = self._daemon.takeover_refusal(await read_json(request))
        transport = request.transport
        if transport is None or transport.get_extra_info("socket").family != socket.AF_UNIX:
            refusal = "descriptors only go over the Unix socket"
        if refusal or transport is None:
            return answer(schema.error(refusal), status=409)
        response = web.StreamResponse(
            status=101, headers={"Connection": "Upgrade", "Upgrade": "vpnmasq-takeover"}
        )
        await response.prepare(request)
        transport.pause_reading()
        while transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0)
        number = os.dup(transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=number) as connection:
            await self._daemon.hand_over(connection)
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Follow events until the follower leaves, is too slow, or the daemon stops."""
        try:
            subscription = self._daemon.subscribe()
        except TooManyFollowersError as full:
            return answer(schema.error(str(full)), status=503)
        with subscription:
            self._followers.add(subscription)
            try:
                return await self._follow(request, subscription)
            finally:
                self._followers.discard(subscription)

    async def _follow(self, request: web.Request, subscription: Subscription) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": JSON_LINES, "Cache-Control": "no-store"})
        await response.prepare(request)
        # The first line proves that the follower misses nothing from here on.
        state = self._daemon.status().state
        await _write(request, response, _line(schema.event("following", self._dates, state=state)))
        async for event in subscription:
            await _write(request, response, _line(event))
        if subscription.why:
            last = schema.event("cut-off", self._dates, why=subscription.why)
            await _write(request, response, _line(last))
        await response.write_eof()
        return response


def answer(document: schema.Document, status: int = 200) -> web.Response:
    """Return a document as a response, one line of JSON."""
    return web.Response(
        text=json.dumps(document) + "\n", status=status, content_type="application/json", charset="utf-8"
    )


def _line(event: schema.Document) -> str:
    return json.dumps(event) + "\n"


async def _write(request: web.Request, response: web.StreamResponse, text: str) -> None:
    """Write, and disconnect a reader that does not take it."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await response.write(text.encode())
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the reader does not read") from None
